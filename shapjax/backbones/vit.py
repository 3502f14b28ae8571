"""Vision transformers, and ViT-B/16 with weights as torchvision lays them out."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from shapjax.backbones.filling import Layout
from shapjax.backbones.record import IMAGENET
from shapjax.backbones.transformer import (
    Shape,
    Transformer,
    fused_name,
    layer_norm,
    renaming,
    split_fused,
)
from shapjax.core.errors import ShapjaxError

BASE = Shape(width=768, depth=12, heads=12, epsilon=1e-6)


class VisionTransformer(Transformer):
    """A class token and the patches of a picture, row by row, through pre-norm blocks.

    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929).

    Args:
        shape: size of the tower.
        patch: side of a patch, pixels.
        grid: patches along each side for which there are positions.
        classes: how many scores the head gives; None: it gives the class token.
        biased: whether the projection of patches has a bias.
    """

    def __init__(
        self,
        shape: Shape,
        patch: int = 16,
        grid: int = 14,
        classes: int | None = 1000,
        biased: bool = True,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(shape, rngs=rngs)
        self.grid, self.classes = grid, classes
        width = shape.width
        self.patches = nnx.Conv(
            3, width, (patch, patch), patch, padding="VALID", use_bias=biased, rngs=rngs
        )
        self.class_token = nnx.Param(jnp.zeros((1, 1, width)))
        self.positions = nnx.Param(jnp.zeros((1, 1 + grid * grid, width)))
        self.norm = layer_norm(shape, rngs)
        if classes is not None:
            self.scores = nnx.Linear(width, classes, rngs=rngs)

    def tokens(self, x: jax.Array) -> jax.Array:
        """The class token, then the patches row by row, positions added.

        Args:
            x: normalised input, float32 [B, H, W, 3].

        Returns:
            float32 [B, 1 + h*w, C].

        Raises:
            ShapjaxError: there are no positions for a picture of this size.
        """
        patches = self.patches(x)
        flat = patches.reshape(len(x), -1, patches.shape[-1])
        width = flat.shape[-1]
        first = jnp.broadcast_to(self.class_token[...].reshape(1, 1, width), (len(x), 1, width))
        positions = self.positions_of(patches.shape[1], patches.shape[2])
        return jnp.concatenate([first, flat], axis=1) + positions

    def positions_of(self, rows: int, columns: int) -> jax.Array:
        """Positions of a grid of patches, float32 [1, 1 + rows*columns, C].

        Raises:
            ShapjaxError: the weights hold positions for another grid.
        """
        if (rows, columns) != (self.grid, self.grid):
            raise ShapjaxError(
                f"the picture has {rows} x {columns} patches, expected {self.grid} x {self.grid}; "
                "bring it to the network's input size."
            )
        return self.positions[...].reshape(1, 1 + rows * columns, -1)

    def last(self, tokens: jax.Array) -> jax.Array:
        """The layer normalisation that follows the last block."""
        return self.norm(tokens)

    def pool(self, features: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """The class token, float32 [B, C]."""
        return features[:, 0]

    def head(self, features: jax.Array) -> jax.Array:
        """Class scores before the softmax, [B, classes], or the class token, from [B, T, C]."""
        return self.pool(features) if self.classes is None else self.scores(features[:, 0])


_PARTS = renaming(
    {
        "patches": "conv_proj",
        "positions": "encoder.pos_embedding",
        "blocks": "encoder.layers.encoder_layer_",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "norm": "encoder.ln",
        "attention": "self_attention",
        "out": "out_proj",
        "widen": "mlp.0",
        "narrow": "mlp.3",
        "scores": "heads.head",
    }
)


def layout(name: str, names: Collection[str]) -> Layout:
    """How torchvision's state dict becomes ViT-B/16, with the old or the new names of its MLPs."""
    is_split = any(".query." in key for key in names)
    return Layout(
        lambda: VisionTransformer(BASE, rngs=nnx.Rngs(0)),
        IMAGENET,
        _name_in_file,
        arrange=_arrange,
        arranged_from=str if is_split else fused_name("in_proj_"),
    )


def _name_in_file(path: str) -> str:
    return _PARTS(path).replace("encoder_layer_.", "encoder_layer_")


def _arrange(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    def now(name: str) -> str:
        return name.replace("mlp.linear_1", "mlp.0").replace("mlp.linear_2", "mlp.3")

    return split_fused({now(name): array for name, array in arrays.items()}, "in_proj_")
