"""What every network of the package gives: its stages by name, features, embedding and head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
from flax import nnx

from shapjax.backbones.layers import Margins, steps_of
from shapjax.backbones.shares import on_cpu_by_shares

Stage = tuple[str, Callable[[jax.Array], jax.Array]]
"""A name, the publisher's where there is one, and what maps the output of the stage before."""


class Opening(NamedTuple):
    """The first stage of a network that begins with a convolution of the picture.

    Attributes:
        convolution: the convolution.
        rest: what the stage does with its output.
    """

    convolution: nnx.Conv
    rest: Callable[[jax.Array], jax.Array]

    def __call__(self, x: jax.Array) -> jax.Array:
        """The output of the stage from its input."""
        return self.rest(self.convolution(x))

    def steps(self, shape: Sequence[int]) -> tuple[tuple[int, int], Margins]:
        """Strides and margins of the convolution over pictures of height and width ``shape``."""
        return steps_of(self.convolution, shape)


class Network(nnx.Module):
    """A network as a chain of named stages up to its features, and a head on top of them.

    A subclass gives ``stages`` and ``head``, and ``pool`` where it is not the global average; its
    first stage is an ``Opening`` where it is one.

    Attributes:
        at_once: pictures that run through the stages together on CPU, see ``on_cpu_by_shares``.
    """

    at_once: ClassVar[int] = 8

    def stages(self) -> Sequence[Stage]:
        """The stages in order; the output of the last one is the features."""
        raise NotImplementedError

    def stages_for(self, x: jax.Array) -> Sequence[Stage]:
        """The stages as they are for this input, where they depend on it."""
        return self.stages()

    def head(self, features: jax.Array) -> jax.Array:
        """What the publisher's network gives in the end, from ``features``."""
        raise NotImplementedError

    def features(self, x: jax.Array) -> jax.Array:
        """The map or tokens that players live on: the output of the last stage."""
        return self._in_shares([stage for _, stage in self.stages()], x)

    def _in_shares(self, steps: Sequence[Callable[[Any], Any]], x: jax.Array) -> jax.Array:
        def run(x: jax.Array) -> jax.Array:
            for step in steps:
                x = step(x)
            return x

        return on_cpu_by_shares(run, self.at_once, x)

    def maps(self, x: jax.Array) -> OrderedDict[str, jax.Array]:
        """The output of every stage by its name, in order; the last one is ``features``."""
        # Of a plain dictionary ``jax.jit`` sorts the names.
        outputs: OrderedDict[str, jax.Array] = OrderedDict()
        for name, stage in self.stages_for(x):
            outputs[name] = x = stage(x)
        return outputs

    def pool(self, features: jax.Array) -> jax.Array:
        """The embedding from ``features``: here the average of a map over its locations."""
        return features.mean(axis=(1, 2))

    def embed(self, x: jax.Array) -> jax.Array:
        """One vector a picture, [B, C]."""
        return self.pool(self.features(x))

    def opening(self) -> Opening | None:
        """The first stage, if it begins with a convolution of the picture.

        None as well where ``embed`` is the subclass's own, which ``embed_opened`` cannot follow.
        """
        first = self.stages()[0][1]
        own = type(self).embed is not Network.embed
        return first if isinstance(first, Opening) and not own else None

    def embed_opened(
        self, opened: Callable[[jax.Array], jax.Array], inputs: jax.Array
    ) -> jax.Array:
        """One vector an input, [B, C], where the convolution of the ``opening`` is known otherwise.

        Args:
            opened: maps inputs [B, ...] to what the convolution would give, [B, h, w, C].
            inputs: whatever ``opened`` takes.
        """
        opening, *later = (stage for _, stage in self.stages())
        return self.pool(self._in_shares([opened, opening.rest, *later], inputs))
