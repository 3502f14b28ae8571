"""Similarity of masked pictures: the network runs on every coalition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from shapjax.backbones.record import Backbone
from shapjax.core.errors import NotFiniteError
from shapjax.core.worths import members_of
from shapjax.games.match import SIDES, not_finite
from shapjax.games.pooled import inverse_root
from shapjax.games.stem import Stem, stem_of

NETWORK_CHUNK = 64
"""Masked pictures per call of a network: enough to fill the machine, small enough to hold."""

ROWS, PLAYERS = 16, 64
"""Masks are padded to multiples of these, so that pictures cut otherwise share programs."""


class MaskedPicture(NamedTuple):
    """One picture of a game: parts outside the coalition come from the background.

    Attributes:
        picture: normalised network input, float32 [S, S, 3].
        backgrounds: likewise, float32 [K, S, S, 3]; worths are averaged over them.
        labels: player that owns each pixel, int32 [S, S].
        stem: the first convolution, for every coalition, of this picture, these labels and the
            network's weights; None: it runs on each.
    """

    picture: jax.Array
    backgrounds: jax.Array
    labels: jax.Array
    stem: Stem | None = None

    @staticmethod
    def of(
        backbone: Backbone, picture: np.ndarray, backgrounds: np.ndarray, labels: np.ndarray
    ) -> MaskedPicture:
        """From pictures in RGB, with the stem where the network has one and it pays.

        Args:
            backbone: the network.
            picture: float32 [S, S, 3] in [0, 1].
            backgrounds: likewise, [K, S, S, 3].
            labels: player that owns each pixel, int [S, S].
        """
        shown, blanks = (backbone.normalise(jnp.asarray(rgb)) for rgb in (picture, backgrounds))
        # Measured on CPU only; elsewhere the network runs on masked pictures.
        opening = backbone.network.opening() if jax.default_backend() == "cpu" else None
        stem = None if opening is None else stem_of(opening, shown, blanks, labels)
        return MaskedPicture(shown, blanks, jnp.asarray(labels), stem)

    def relabelled(self, labels: jax.Array) -> MaskedPicture:
        """The same picture cut otherwise; the network runs on every coalition."""
        return self._replace(labels=labels, stem=None)

    def over(self, place: jax.Array) -> MaskedPicture:
        """The same over one of the backgrounds."""
        stem = self.stem
        if stem is not None:
            stem = stem._replace(blank=stem.blank[place][None], changes=stem.changes[place][None])
        return self._replace(backgrounds=self.backgrounds[place][None], stem=stem)

    @property
    def n_players(self) -> int:
        """Parts of the picture."""
        return int(np.max(self.labels)) + 1


class PaddedGame:
    """A function of the masks of one or two sides, which runs in programs of few shapes.

    The network is compiled for a padded number of coalitions and of players, not anew for every
    picture that is cut into more or fewer parts (nor for how many of them meet at a point, up to
    6; see ``Stem``).

    Attributes:
        sides: what the game is played on.
        chunk_size: coalitions per call of the network.
    """

    compiled = True

    def __init__(
        self,
        function: Callable[..., jax.Array],
        backbone: Backbone,
        sides: tuple[MaskedPicture | jax.Array, ...],
        names: tuple[str, ...],
        chunk_size: int = NETWORK_CHUNK,
    ) -> None:
        """A game of a network.

        Args:
            function: (network, sides, masks of each side) to values.
            backbone: the network.
            sides: see the attributes.
            names: what each side is to the reader of a message.
            chunk_size: see the attributes.
        """
        self._function = Partial(function, backbone)
        self._backbone = backbone
        self._names = names
        self.sides = sides
        self.chunk_size = chunk_size
        self._counts = [s.n_players if isinstance(s, MaskedPicture) else 0 for s in sides]

    def __call__(self, masks: Any) -> jax.Array:
        """Values [B, ...] of Boolean masks [B, n] over the players of all sides, in order."""
        step = self.chunk_size
        parts = [
            self._some(masks[start : start + step]) for start in range(0, max(1, len(masks)), step)
        ]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

    def not_finite(self, mask: np.ndarray) -> NotFiniteError | None:
        """Why the value of a coalition is NaN or infinite: which masked picture, which layer.

        Args:
            mask: Boolean [n], over the players of all sides.

        Returns:
            The error; None where the network is finite for the pictures of the coalition.
        """
        start = 0
        for side, count, name in zip(self.sides, self._counts, self._names, strict=True):
            own = np.asarray(mask)[start : start + count]
            start += count
            if not isinstance(side, MaskedPicture):
                continue
            for blank in side.backgrounds:
                x = jnp.where(own[np.asarray(side.labels)][..., None], side.picture, blank)
                if not np.isfinite(np.asarray(self._backbone.embed(x[None]))).all():
                    place = f"{name} of which only players {members_of(own)} are shown"
                    return not_finite(self._backbone, x, place, normalised=True)
        return None

    def _some(self, masks: Any) -> jax.Array:
        # NumPy masks are padded where they are: nothing is compiled for it.
        pad = np.pad if isinstance(masks, np.ndarray) else jnp.pad
        rows, start, sides = len(masks), 0, []
        for count in self._counts:
            own = masks[:, start : start + count]
            sides.append(pad(own, ((0, -rows % ROWS), (0, -count % PLAYERS))))
            start += count
        found = _run(self._function, self.sides, tuple(sides))
        return found if len(found) == rows else found[:rows]


@jax.jit
def _run(function: Partial, sides: tuple[Any, ...], masks: tuple[jax.Array, ...]) -> jax.Array:
    return function(sides, masks)


def masked_game(
    backbone: Backbone, query: MaskedPicture | jax.Array, retrieved: MaskedPicture | jax.Array
) -> PaddedGame:
    """Value function: cosine of the embeddings of the masked pictures, mean over backgrounds.

    A side without players is given by its embedding [C], which is then computed once. Masks,
    not pictures, are what a coalition adds to the device's memory traffic. Two masked sides
    have equally many backgrounds, taken in pairs.
    """
    names = tuple(f"the {name} picture" for name in SIDES)
    return PaddedGame(_masked_cosine, backbone, (query, retrieved), names)


def tower(
    backbone: Backbone,
    side: MaskedPicture,
    chunk_size: int = NETWORK_CHUNK,
    name: str = "the picture",
) -> PaddedGame:
    """One side of the game: masks [B, n] to vectors [B, K C] whose dot products are worths.

    The unit embeddings under each background side by side, over the root of their number K.
    ``name`` is what the picture is to the reader of a message.
    """
    return PaddedGame(_tower, backbone, (side,), (name,), chunk_size)


def _masked_cosine(backbone: Backbone, sides: tuple[Any, ...], masks: tuple[Any, ...]) -> jax.Array:
    a, b = (_unit(backbone, side, own) for side, own in zip(sides, masks, strict=True))
    return (a * b).sum(axis=2).mean(axis=0)


def _tower(backbone: Backbone, sides: tuple[Any], masks: tuple[Any]) -> jax.Array:
    vectors = _unit(backbone, sides[0], masks[0])
    return vectors.swapaxes(0, 1).reshape(len(masks[0]), -1) / len(vectors) ** 0.5


def _unit(backbone: Backbone, side: MaskedPicture | jax.Array, masks: jax.Array) -> jax.Array:
    """Embeddings of norm one (or zero), [K, B, C]; [1, 1, C] for a side without players."""
    if isinstance(side, MaskedPicture):
        vectors = jax.lax.map(
            lambda place: embed_masked(backbone, side.over(place), masks),
            jnp.arange(len(side.backgrounds)),
        )
    else:
        vectors = side[None, None]
    return vectors * inverse_root((vectors * vectors).sum(axis=-1, keepdims=True))


def embed_masked(backbone: Backbone, side: MaskedPicture, masks: jax.Array) -> jax.Array:
    """Embeddings [B, C] of a picture less the parts that each mask [B, n or more] leaves out.

    Its first background stands in for them.
    """
    if side.stem is not None:
        return backbone.network.embed_opened(side.stem.opened, masks)
    shown = masks[:, side.labels][..., None]
    return backbone.embed(jnp.where(shown, side.picture, side.backgrounds[0]))
