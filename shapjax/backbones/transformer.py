"""What every transformer here is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from shapjax.backbones.filling import torch_name
from shapjax.backbones.layers import gelu
from shapjax.backbones.network import Network, Stage
from shapjax.backbones.shares import on_cpu_by_shares

TOKENS_AT_ONCE = 1280
"""Tokens that run together on a CPU of few cores, so that what is computed of them stays near the
core: four pictures of 257 rather than 32 take two thirds of the time and a tenth of the memory."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """The size of a transformer and the choices in which published ones differ.

    Attributes:
        width: channels of a token.
        depth: number of blocks.
        heads: attention heads; they divide the width.
        epsilon: of the layer normalisations.
        activation: ``"gelu"`` (exact, by erf) or ``"quick_gelu"``, x sigmoid(1.702 x).
        norm: ``"before"`` each half of a block, or ``"after"`` the sum with its input.
        layer_scale: whether each half's output is scaled by channel before the sum.
        causal: whether a token attends only to itself and those before it.
    """

    width: int
    depth: int
    heads: int
    epsilon: float
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    norm: Literal["before", "after"] = "before"
    layer_scale: bool = False
    causal: bool = False


class Attention(nnx.Module):
    """Multi-head self-attention."""

    def __init__(self, shape: Shape, *, rngs: nnx.Rngs):
        self.shape = shape
        width = shape.width
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: jax.Array, kept: jax.Array | None) -> jax.Array:
        """Maps [B, T, C] to the same shape; nobody attends to a token that is not kept.

        Args:
            x: tokens, float32 [B, T, C].
            kept: Boolean [B, T]; None: all.
        """
        batch, length, width = x.shape
        heads = batch, length, self.shape.heads, width // self.shape.heads
        query, key, value = (
            project(x).reshape(heads).swapaxes(1, 2)
            for project in (self.query, self.key, self.value)
        )
        attended = None if kept is None else kept[:, None, None, :]
        if self.shape.causal:
            before = jnp.tri(length, dtype=bool)
            attended = before if attended is None else attended & before
        mixed = attend(query, key, value, attended)
        return self.out(mixed.swapaxes(1, 2).reshape(x.shape))


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, attended: jax.Array | None
) -> jax.Array:
    """Averages of ``value`` by the softmax of scaled products of ``query`` and ``key``.

    The sums that the softmax divides by are divided out of the averages, which are smaller than
    the weights. With heads before tokens every product is one of contiguous matrices; on CPU this
    takes half the time of ``jax.nn.dot_product_attention``.

    Args:
        query: [B, H, T, D], as ``key`` and ``value``.
        attended: Boolean, broadcast to [B, H, T, T], whom a token attends to; None: to all.

    Returns:
        [B, H, T, D]; the plain average for a token that attends to none.
    """
    float32 = jnp.float32
    scaled = query * query.shape[-1] ** -0.5
    scores = jnp.einsum("bhtd,bhsd->bhts", scaled, key, preferred_element_type=float32)
    if attended is not None:
        scores = jnp.where(attended, scores, jnp.finfo(float32).min)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = jnp.einsum(
        "bhts,bhsd->bhtd", weights.astype(value.dtype), value, preferred_element_type=float32
    )
    return (mixed / weights.sum(axis=-1, keepdims=True)).astype(value.dtype)


class Block(nnx.Module):
    """Attention, then a network of two layers on every token, each added to its input.

    Source: Vaswani et al. 2017 (norm after), Dosovitskiy et al. 2021 (norm before), Touvron et
    al. 2021 (scale by channel). Dropout and stochastic depth do nothing in evaluation.
    """

    def __init__(self, shape: Shape, *, rngs: nnx.Rngs):
        self.shape = shape
        self.norm1 = layer_norm(shape, rngs)
        self.attention = Attention(shape, rngs=rngs)
        self.norm2 = layer_norm(shape, rngs)
        self.widen = nnx.Linear(shape.width, 4 * shape.width, rngs=rngs)
        self.narrow = nnx.Linear(4 * shape.width, shape.width, rngs=rngs)
        if shape.layer_scale:
            self.gain1 = nnx.Param(jnp.ones(shape.width))
            self.gain2 = nnx.Param(jnp.ones(shape.width))

    def __call__(self, x: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """Maps [B, T, C] to the same shape; see ``Attention`` for ``kept``."""
        if self.shape.norm == "after":
            x = self.norm1(x + self.attention(x, kept))
            return self.norm2(x + self._by_token(x))
        mixed, by_token = self.attention(self.norm1(x), kept), self._by_token
        if not self.shape.layer_scale:
            x = x + mixed
            return x + by_token(self.norm2(x))
        x = x + mixed * self.gain1[...]
        return x + by_token(self.norm2(x)) * self.gain2[...]

    def _by_token(self, x: jax.Array) -> jax.Array:
        x = self.widen(x)
        if self.shape.activation == "quick_gelu":
            return self.narrow(x * jax.nn.sigmoid(1.702 * x))
        return self.narrow(gelu(x))


class Transformer(Network):
    """A tower of blocks. A subclass makes tokens of its input and pools what becomes of them.

    Tokens that are not kept change nothing for the others, and the rest of a block works on every
    token by itself: leaving them out of ``encode`` altogether gives the same for those that stay.
    """

    def __init__(self, shape: Shape, *, rngs: nnx.Rngs):
        self.blocks = nnx.List([Block(shape, rngs=rngs) for _ in range(shape.depth)])

    def tokens(self, x: jax.Array) -> jax.Array:
        """What the first block sees, positions included, float32 [B, T, C]."""
        raise NotImplementedError

    def kept(self, x: jax.Array) -> jax.Array | None:
        """Which tokens are there and no padding, Boolean [B, T]; None: all."""
        return None

    def last(self, tokens: jax.Array) -> jax.Array:
        """What is done to every token after the last block, [B, T, C] to the same shape."""
        return tokens

    def pool(self, features: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """The embedding, float32 [B, D], of the last tokens [B, T, C]; see ``encode``."""
        raise NotImplementedError

    def encode(self, tokens: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """Last tokens from first ones.

        Args:
            tokens: float32 [B, T, C], from ``tokens``: all, or some in their order.
            kept: Boolean [B, T], tokens that are there; None: all. The others change nothing.

        Returns:
            float32 [B, T, C].
        """
        return on_cpu_by_shares(self._encode, TOKENS_AT_ONCE // tokens.shape[1], tokens, kept)

    def _encode(self, tokens: jax.Array, kept: jax.Array | None) -> jax.Array:
        for block in self.blocks:
            tokens = block(tokens, kept)
        return self.last(tokens)

    def stages(self, kept: jax.Array | None = None) -> list[Stage]:
        """``tokens``, ``blocks.0`` and so on, then ``last``; each float32 [B, T, C]."""
        return [
            ("tokens", self.tokens),
            *(
                (f"blocks.{place}", lambda x, block=block: block(x, kept))
                for place, block in enumerate(self.blocks)
            ),
            ("last", self.last),
        ]

    def stages_for(self, x: jax.Array) -> list[Stage]:
        """The stages for these tokens: who attends to whom depends on which are kept."""
        return self.stages(self.kept(x))

    def features(self, x: jax.Array) -> jax.Array:
        """The last tokens, float32 [B, T, C]."""
        return self.encode(self.tokens(x), self.kept(x))

    def embed(self, x: jax.Array) -> jax.Array:
        """One vector for each input, float32 [B, D]."""
        return self.pool(self.features(x), self.kept(x))

    def head(self, features: jax.Array) -> jax.Array:
        """The embedding, where the publisher's network does nothing else."""
        return self.pool(features)


def layer_norm(shape: Shape, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A layer normalisation over channels whose variance is not a difference of large numbers."""
    return nnx.LayerNorm(shape.width, epsilon=shape.epsilon, use_fast_variance=False, rngs=rngs)


_FUSED = ("query", "key", "value")


def split_fused(arrays: Mapping[str, np.ndarray], fused: str) -> dict[str, np.ndarray]:
    """Separate query, key and value in place of arrays that hold all three, one below the other.

    Args:
        arrays: weights by their names in the file.
        fused: what the name of a joint projection ends in before ``weight`` or ``bias``, such as
            ``"in_proj_"`` or ``"qkv."``; it becomes ``"query."``, ``"key."`` and ``"value."``.

    Returns:
        The other arrays as they came, views of those.
    """
    split = {}
    for name, array in arrays.items():
        kind = "weight" if name.endswith("weight") else "bias"
        stem = name.removesuffix(f"{fused}{kind}")
        if stem == name:
            split[name] = array
            continue
        # Rows that are no multiple of three make parts of a wrong shape, which is then told.
        thirds = np.array_split(np.atleast_1d(array), 3)
        for part, rows in zip(_FUSED, thirds, strict=True):
            split[f"{stem}{part}.{kind}"] = rows
    return split


def fused_name(fused: str) -> Callable[[str], str]:
    """The name of the joint projection that ``split_fused`` took a part from, by the part's."""

    def arranged_from(name: str) -> str:
        module, _, kind = name.rpartition(".")
        stem, _, part = module.rpartition(".")
        return f"{stem}.{fused}{kind}" if part in _FUSED else name

    return arranged_from


def renaming(
    parts: Mapping[str, str], whole: Mapping[str, str] | None = None
) -> Callable[[str], str]:
    """The file's name of a variable from its dotted path.

    Args:
        parts: what a part of the path between dots is called in the file, after torch's names
            for the variables of a layer.
        whole: names of whole paths, which are looked up first.
    """

    def name_in_file(path: str) -> str:
        if whole is not None and path in whole:
            return whole[path]
        return ".".join(parts.get(part, part) for part in torch_name(path).split("."))

    return name_in_file


def is_counter(name: str, array: np.ndarray) -> bool:
    """Whether this is ``position_ids``: 0, 1, 2, ..., a buffer that old files store as well."""
    return name.endswith("position_ids") and np.array_equal(np.ravel(array), np.arange(array.size))
