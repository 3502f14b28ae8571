"""What every network of the package gives: its stages by name, features, embedding and head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
from flax import nnx

from shapjax.backbones.shares import on_cpu_by_shares

Stage = tuple[str, Callable[[jax.Array], jax.Array]]
"""A name, the publisher's where there is one, and what maps the output of the stage before."""


class Network(nnx.Module):
    """A network as a chain of named stages up to its features, and a head on top of them.

    A subclass gives ``stages`` and ``head``, and ``embed`` where it is not the global average.

    Attributes:
        at_once: pictures that run through the stages together on CPU, see ``on_cpu_by_shares``.
    """

    at_once: ClassVar[int] = 8

    def stages(self) -> Sequence[Stage]:
        """The stages in order; the output of the last one is the features."""
        raise NotImplementedError

    def head(self, features: jax.Array) -> jax.Array:
        """What the publisher's network gives in the end, from ``features``."""
        raise NotImplementedError

    def features(self, x: jax.Array) -> jax.Array:
        """The map or tokens that players live on: the output of the last stage."""
        return on_cpu_by_shares(self._features, self.at_once, x)

    def _features(self, x: jax.Array) -> jax.Array:
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
