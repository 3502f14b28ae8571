"""DINOv2 ViT-S/14 and ViT-B/14, with weights as their authors or transformers lay them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from shapjax.backbones.filling import Layout
from shapjax.backbones.record import IMAGENET
from shapjax.backbones.transformer import Shape, fused_name, renaming, split_fused
from shapjax.backbones.vit import VisionTransformer

PREPROCESSING = dataclasses.replace(IMAGENET, resampling="bicubic")
"""The authors' make_classification_eval_transform; preprocessor_config.json of the hub."""

SHAPES = {
    "dinov2_vits14": Shape(width=384, depth=12, heads=6, epsilon=1e-6, layer_scale=True),
    "dinov2_vitb14": Shape(width=768, depth=12, heads=12, epsilon=1e-6, layer_scale=True),
}

GRID = 37
"""Patches along a side of the 518-pixel pictures that the positions were trained for."""

AUTHORS_OFFSET = 0.1

_CUBIC = -0.75  # The parameter of the cubic kernel in torch.nn.functional.interpolate.


class Dinov2(VisionTransformer):
    """DINOv2's vision transformer: positions are interpolated to the picture's own grid.

    Source: Oquab et al. 2023 (arXiv 2304.07193), facebookresearch/dinov2.

    Args:
        shape: size of the tower.
        offset: added to the side of the new grid in the step between samples: 0.1 in the
            authors' code, 0 in transformers, whose embeddings differ accordingly.
        grid: patches along each side for which there are positions.
    """

    def __init__(self, shape: Shape, offset: float, grid: int = GRID, *, rngs: nnx.Rngs):
        super().__init__(shape, patch=14, grid=grid, classes=None, rngs=rngs)
        self.offset = offset
        # It stood for hidden patches in training; here it only has to find its place.
        self.mask_token = nnx.Param(jnp.zeros((1, shape.width)))

    def positions_of(self, rows: int, columns: int) -> jax.Array:
        """Positions of a grid of patches, float32 [1, 1 + rows*columns, C], bicubic."""
        positions = self.positions[...]
        if rows == columns == self.grid:
            return positions
        old = positions[0, 1:].reshape(self.grid, self.grid, -1)
        by_row, by_column = (cubic(self.grid, new, self.offset) for new in (rows, columns))
        new = jnp.einsum("rh,hwc,sw->rsc", by_row, old, by_column, precision="highest")
        return jnp.concatenate([positions[:, :1], new.reshape(1, rows * columns, -1)], axis=1)


def cubic(old: int, new: int, offset: float = 0.0) -> np.ndarray:
    """Weights of cubic interpolation between cell centres, float32 [new, old], edges repeated.

    Args:
        old: samples there are.
        new: samples wanted.
        offset: added to ``new`` in the step ``old / new``.
    """
    centres = (np.arange(new) + 0.5) * old / (new + offset) - 0.5
    first = np.floor(centres).astype(int)
    weights = np.zeros((new, old))
    for place in (first - 1, first, first + 1, first + 2):
        x = np.abs(centres - place)
        near = (_CUBIC + 2) * x**3 - (_CUBIC + 3) * x**2 + 1
        far = _CUBIC * (x**3 - 5 * x**2 + 8 * x - 4)
        inside = np.arange(new), np.clip(place, 0, old - 1)
        np.add.at(weights, inside, np.where(x <= 1, near, far))
    return weights.astype(np.float32)


_AUTHORS = renaming(
    {
        "class_token": "cls_token",
        "patches": "patch_embed.proj",
        "positions": "pos_embed",
        "attention": "attn",
        "out": "proj",
        "gain1": "ls1.gamma",
        "gain2": "ls2.gamma",
        "widen": "mlp.fc1",
        "narrow": "mlp.fc2",
    }
)
_TRANSFORMERS = renaming(
    {
        "class_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "patches": "embeddings.patch_embeddings.projection",
        "positions": "embeddings.position_embeddings",
        "blocks": "encoder.layer",
        "query": "attention.query",
        "key": "attention.key",
        "value": "attention.value",
        "out": "output.dense",
        "gain1": "layer_scale1.lambda1",
        "gain2": "layer_scale2.lambda1",
        "norm": "layernorm",
        "widen": "mlp.fc1",
        "narrow": "mlp.fc2",
    }
)


def layout(name: str, names: Collection[str]) -> Layout:
    """How the authors' state dict, or the hub's, becomes one of these networks.

    Each brings the interpolation of positions that its own code has.
    """
    authors = any(key.startswith("blocks.") for key in names)
    offset = AUTHORS_OFFSET if authors else 0.0
    return Layout(
        lambda: Dinov2(SHAPES[name], offset, rngs=nnx.Rngs(0)),
        PREPROCESSING,
        _AUTHORS if authors else _TRANSFORMERS,
        arrange=_arrange,
        arranged_from=fused_name("qkv.") if authors else str,
    )


def _arrange(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    def on_hub(name: str) -> str:
        # Modules of transformers 5 have other names than the files that they write.
        name = name.removeprefix("dinov2.").replace("attention.o_proj", "attention.output.dense")
        for part in ("query", "key", "value"):
            name = name.replace(f"attention.{part[0]}_proj", f"attention.attention.{part}")
        return name

    return split_fused({on_hub(name): array for name, array in arrays.items()}, "qkv.")
