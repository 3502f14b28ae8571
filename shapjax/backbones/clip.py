"""CLIP ViT-B/32 and ViT-B/16: a tower for pictures and one for texts, of one embedding space."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from shapjax.backbones.filling import Layout
from shapjax.backbones.record import Preprocessing
from shapjax.backbones.tokeniser import TextPreprocessing
from shapjax.backbones.transformer import (
    Shape,
    Transformer,
    fused_name,
    is_counter,
    layer_norm,
    renaming,
    split_fused,
)
from shapjax.backbones.vit import VisionTransformer
from shapjax.core.errors import ShapjaxError

PATCHES = {"clip_vit_b_32": 32, "clip_vit_b_16": 16}
DIMENSIONS = 512
VOCABULARY = 49408
CONTEXT = 77
END = 49407
"""Token that ends a text, and on the hub also pads it."""


@dataclasses.dataclass(frozen=True)
class PairPreprocessing(Preprocessing):
    """What is done to pictures and, by ``text``, to texts."""

    text: TextPreprocessing = dataclasses.field(kw_only=True)

    def beside(self, folder: Path) -> PairPreprocessing:
        """The same with the vocabulary that lies in a folder."""
        return dataclasses.replace(self, text=self.text.beside(folder))


PREPROCESSING = PairPreprocessing(
    size=224,
    resize=224,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    resampling="bicubic",
    text=TextPreprocessing(length=CONTEXT, padding=END, mask=None),
)
"""``_transform`` of openai/CLIP; preprocessor_config.json of the hub."""

PICTURES = Shape(width=768, depth=12, heads=12, epsilon=1e-5, activation="quick_gelu")
TEXTS = Shape(width=512, depth=12, heads=8, epsilon=1e-5, activation="quick_gelu", causal=True)


class ClipText(Transformer):
    """CLIP's text tower: the embedding is the projection of the token that ends the text."""

    def __init__(self, *, rngs: nnx.Rngs):
        super().__init__(TEXTS, rngs=rngs)
        self.words = nnx.Embed(VOCABULARY, TEXTS.width, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((CONTEXT, TEXTS.width)))
        self.norm = layer_norm(TEXTS, rngs)
        self.projection = nnx.Linear(TEXTS.width, DIMENSIONS, use_bias=False, rngs=rngs)

    def tokens(self, x: jax.Array) -> jax.Array:
        """Vectors of the tokens, positions added, float32 [B, T, 512].

        Args:
            x: numbers of tokens, int32 [B, T].

        Raises:
            ShapjaxError: there are more than 77.
        """
        if x.shape[1] > CONTEXT:
            raise ShapjaxError(f"the text has {x.shape[1]} tokens, expected at most {CONTEXT}.")
        return self.words(x) + self.positions[: x.shape[1]]

    def kept(self, x: jax.Array) -> jax.Array:
        """The tokens up to the first one that ends the text, Boolean [B, T]."""
        return jnp.arange(x.shape[1]) <= jnp.argmax(x == END, axis=1, keepdims=True)

    def last(self, tokens: jax.Array) -> jax.Array:
        """The layer normalisation that follows the last block."""
        return self.norm(tokens)

    def pool(self, features: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """The last token that is kept, projected, float32 [B, 512]."""
        if kept is None:
            return self.projection(features[:, -1])
        end = kept.shape[1] - 1 - jnp.argmax(kept[:, ::-1], axis=1)
        return self.projection(features[jnp.arange(len(features)), end])

    def head(self, features: jax.Array) -> jax.Array:
        """Refused: where a text ends, which the embedding is taken from, is not in the features.

        Raises:
            ShapjaxError: always.
        """
        raise ShapjaxError(
            "got the features of texts, which do not tell where each text ends, expected the "
            "numbers of their tokens; call embed with those."
        )


class Clip(VisionTransformer):
    """CLIP's picture tower, and ``text``, the other one.

    The embedding is the class token, normalised and projected. ``logit_scale`` multiplies
    cosines before the softmax over candidates.

    Source: Radford et al. 2021 (arXiv 2103.00020), openai/CLIP.
    """

    def __init__(self, patch: int, *, rngs: nnx.Rngs):
        super().__init__(
            PICTURES, patch, PREPROCESSING.size // patch, classes=None, biased=False, rngs=rngs
        )
        # The files have them without leading axes of one.
        self.class_token = nnx.Param(jnp.zeros(PICTURES.width))
        self.positions = nnx.Param(jnp.zeros((1 + self.grid**2, PICTURES.width)))
        self.norm_first = layer_norm(PICTURES, rngs)
        self.projection = nnx.Linear(PICTURES.width, DIMENSIONS, use_bias=False, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.zeros(()))
        self.text = ClipText(rngs=rngs)

    def tokens(self, x: jax.Array) -> jax.Array:
        """The class token and the patches with their positions, normalised, [B, 1 + h*w, 768]."""
        return self.norm_first(super().tokens(x))

    def last(self, tokens: jax.Array) -> jax.Array:
        """Nothing: only the class token is normalised, and that in ``pool``."""
        return tokens

    def pool(self, features: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """The class token, normalised and projected, float32 [B, 512]."""
        return self.projection(self.norm(features[:, 0]))


_AUTHORS = {
    "blocks": "transformer.resblocks",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attention": "attn",
    "out": "out_proj",
    "widen": "mlp.c_fc",
    "narrow": "mlp.c_proj",
    "class_token": "class_embedding",
    "positions": "positional_embedding",
    "patches": "conv1",
    "norm_first": "ln_pre",
    "words": "token_embedding",
}
_AUTHORS_PICTURES = renaming({**_AUTHORS, "norm": "ln_post"}, {"projection.kernel": "proj"})
_AUTHORS_TEXTS = renaming(
    {**_AUTHORS, "norm": "ln_final"}, {"projection.kernel": "text_projection"}
)
_TRANSFORMERS = {
    "blocks": "encoder.layers",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attention": "self_attn",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "out": "out_proj",
    "widen": "mlp.fc1",
    "narrow": "mlp.fc2",
    "class_token": "embeddings.class_embedding",
    "positions": "embeddings.position_embedding.weight",
    "patches": "embeddings.patch_embedding",
    "norm_first": "pre_layrnorm",
    "words": "embeddings.token_embedding",
}
_HUB_PICTURES = renaming({**_TRANSFORMERS, "norm": "post_layernorm"})
_HUB_TEXTS = renaming({**_TRANSFORMERS, "norm": "final_layer_norm"})


def layout(name: str, names: Collection[str]) -> Layout:
    """How the authors' state dict, or the hub's, becomes one of these networks."""
    authors = any(key.startswith("visual.") for key in names)
    return Layout(
        lambda: Clip(PATCHES[name], rngs=nnx.Rngs(0)),
        PREPROCESSING,
        _name_by_authors if authors else _name_on_hub,
        arrange=_from_authors if authors else _from_hub,
        arranged_from=fused_name("in_proj_") if authors else str,
    )


def _name_by_authors(path: str) -> str:
    tower, _, rest = path.partition("text.")
    if path == "logit_scale":
        return path
    return f"visual.{_AUTHORS_PICTURES(tower)}" if tower else _AUTHORS_TEXTS(rest)


def _name_on_hub(path: str) -> str:
    tower, _, rest = path.partition("text.")
    if path == "logit_scale":
        return path
    if path.endswith("projection.kernel"):
        return f"{'visual' if tower else 'text'}_projection.weight"
    return f"vision_model.{_HUB_PICTURES(tower)}" if tower else f"text_model.{_HUB_TEXTS(rest)}"


def _from_authors(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    # Their projections are applied from the right, unlike torch's layers.
    return {
        key: array.T if key in ("visual.proj", "text_projection") else array
        for key, array in split_fused(arrays, "in_proj_").items()
        # The archives state these numbers beside the weights.
        if key not in ("input_resolution", "context_length", "vocab_size")
    }


def _from_hub(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: array for key, array in arrays.items() if not is_counter(key, array)}
