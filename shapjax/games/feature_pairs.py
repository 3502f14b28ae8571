"""A pair of feature maps and what may replace their locations: all that feature methods need."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from shapjax.games.match import count_backgrounds
from shapjax.games.pooled import Grams, cosine_game, gram_matrices, pooled_rows, unmasked_row


class FeaturePair(NamedTuple):
    """Feature maps of two pictures with their backgrounds; a pytree, so that pairs make a batch.

    Attributes:
        query: feature map, float [h, w, C].
        retrieved: likewise, float [h', w', C].
        query_blanks: backgrounds of the query's locations, float [K, h, w, C]; None where the
            query does not play.
        retrieved_blanks: likewise, float [K', h', w', C]; K = K', or one of them is 1.
    """

    query: jax.Array
    retrieved: jax.Array
    query_blanks: jax.Array | None
    retrieved_blanks: jax.Array | None

    @property
    def side(self) -> int:
        """The picture that plays at first order: 0 the query, 1 the retrieved one."""
        return 0 if self.query_blanks is not None else 1

    def rows(self) -> tuple[jax.Array, jax.Array]:
        """Rows of both pooled features under each background, [K, 1 + n, C] each, n perhaps 0."""
        query, retrieved = (
            unmasked_row(x)[None]
            if blanks is None
            else jax.vmap(pooled_rows, (None, 0))(x, jnp.asarray(blanks, x.dtype))
            for x, blanks in (
                (self.query, self.query_blanks),
                (self.retrieved, self.retrieved_blanks),
            )
        )
        count = count_backgrounds([len(query), len(retrieved)])
        return (
            jnp.broadcast_to(query, (count, *query.shape[1:])),
            jnp.broadcast_to(retrieved, (count, *retrieved.shape[1:])),
        )

    def grams(self) -> Grams:
        """Gram matrices of the pair, with a leading axis where there are several backgrounds."""
        query, retrieved = self.rows()
        if len(query) == 1:
            return gram_matrices(query[0], retrieved[0])
        return jax.vmap(gram_matrices)(query, retrieved)

    def similarity(self) -> jax.Array:
        """Cosine of the whole pictures' pooled features, []."""
        whole = gram_matrices(unmasked_row(self.query), unmasked_row(self.retrieved))
        return cosine_game(whole)(jnp.ones((1, 0), bool))[0]
