"""What every network of the package gives: its stages by name, features, embedding and head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import jax
from flax import nnx

Stage = tuple[str, Callable[[jax.Array], jax.Array]]
"""A name, the publisher's where there is one, and what maps the output of the stage before."""


class Network(nnx.Module):
    """A network as a chain of named stages up to its features, and a head on top of them.

    A subclass gives ``stages`` and ``head``, and ``embed`` where it is not the global average.
    """

    def stages(self) -> Sequence[Stage]:
        """The stages in order; the output of the last one is the features."""
        raise NotImplementedError

    def head(self, features: jax.Array) -> jax.Array:
        """What the publisher's network gives in the end, from ``features``."""
        raise NotImplementedError

    def features(self, x: jax.Array) -> jax.Array:
        """The map or tokens that players live on: the output of the last stage."""
        for _, stage in self.stages():
            x = stage(x)
        return x

    def maps(self, x: jax.Array) -> dict[str, jax.Array]:
        """The output of every stage by its name, in order; the last one is ``features``."""
        outputs: OrderedDict[str, jax.Array] = OrderedDict()
        for name, stage in self.stages():
            outputs[name] = x = stage(x)
        return outputs

    def embed(self, x: jax.Array) -> jax.Array:
        """One vector a picture, [B, C]: here the average of the feature map over its locations."""
        return self.features(x).mean(axis=(1, 2))


def share(batch: int, most: int) -> int:
    """The largest number of inputs, up to ``most`` but at least one, that divides the batch."""
    return next(count for count in range(max(1, min(most, batch)), 0, -1) if batch % count == 0)
