"""Games of two towers: the similarity of two items, each with parts hidden, by any models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from shapjax.core.checks import one_of, whole_number
from shapjax.core.errors import ShapjaxError, ValueFunctionError
from shapjax.core.worths import traces
from shapjax.games.foreign import as_function, is_model
from shapjax.games.parts import Parts
from shapjax.games.pooled import inverse_root

Embed = Callable[[Any], Any]
"""Boolean masks [B, n] to embeddings [B, C]."""

Link = Callable[[Any], Any]

MEASURES = ("cosine", "dot")

LIMIT = 1 - 1e-6
"""Where ``"atanh"`` cuts cosines off, so that equal items have a finite worth (about 7.25)."""


class PairGame(NamedTuple):
    """Worth of coalitions of parts of two items; the query's players come first.

    Attributes:
        value_fn: Boolean [B, n] to [B]: a ``Partial`` where both towers are JAX functions, else
            a Python function that runs each tower once for every distinct mask of a call.
        embed_query: masks [B, nq] to embeddings [B, C], of norm one for cosine: without a link
            the worth is their dot product, which ``estimate_two_tower`` makes use of.
        embed_retrieved: masks [B, nr] to embeddings [B, C], likewise.
        n_query: players on the query.
        n_retrieved: players on the retrieved item.
        link: what is applied to the similarity; None: nothing.
    """

    value_fn: Callable[[Any], Any]
    embed_query: Embed
    embed_retrieved: Embed
    n_query: int
    n_retrieved: int
    link: Link | None

    @property
    def n_players(self) -> int:
        """Players on both items."""
        return self.n_query + self.n_retrieved


def similarity(
    embed_query: Parts | Embed | Any,
    embed_retrieved: Parts | Embed | Any,
    *,
    n_query: int | None = None,
    n_retrieved: int | None = None,
    measure: Literal["cosine", "dot"] = "cosine",
    link: Literal["atanh"] | Link | None = None,
) -> PairGame:
    r"""The game :math:`v(S) = g(d(a(S_q), b(S_r)))` of two towers a and b of any kind.

    Each side is an item in parts (``shapjax.parts``), a model from Boolean masks [B, n] to
    embeddings [B, C] (any that ``shapjax.games.foreign.as_function`` knows: a function in JAX or
    NumPy, one that asks a server, a module, a session), or one embedding [C], of an item that has
    no players: then the game is of first order. The two may be different models, such as a text's
    and a picture's, as long as C is the same. A function is called once, with the empty mask, to
    see what it gives.

    Args:
        embed_query: the query's side.
        embed_retrieved: the retrieved item's side.
        n_query: players of the query where it is a model of masks.
        n_retrieved: players of the retrieved item where it is a model of masks.
        measure: d: ``"cosine"``, 0 where an embedding vanishes, or ``"dot"``.
        link: g, a function of an array: ``"atanh"`` (cosines beyond 1 - 1e-6 are cut off there),
            a function of your own, or None for none.

    Raises:
        ShapjaxError: an argument is not one of its choices, the number of players is missing, or
            the embeddings differ in length.
        ValueFunctionError: a side gives no embeddings, or fails; the game's functions raise it
            too, from the side's own error.

    Source: Hamilton et al. 2022, eqs. 2 and 6; the link of the 2021 version, section 4.
    """
    one_of(measure, MEASURES, "measure")
    if link is not None and not callable(link):
        link = {"atanh": _atanh}[one_of(link, ("atanh",), "link")]
    query = _Side.of(embed_query, n_query, "query")
    retrieved = _Side.of(embed_retrieved, n_retrieved, "retrieved")
    if query.length != retrieved.length:
        raise ShapjaxError(
            f"the query's embeddings have {query.length} numbers and the retrieved item's "
            f"{retrieved.length}, expected the same; use one embedding space for both."
        )
    if not query.n_players + retrieved.n_players:
        raise ShapjaxError("neither side has players; give parts or a function for one of them.")
    traced = isinstance(query.embed, Partial) and isinstance(retrieved.embed, Partial)
    sides = [side.normalised() if measure == "cosine" else side for side in (query, retrieved)]
    build = _traced if traced else _on_host
    value_fn = build(sides[0], sides[1], link)
    embeds = [side.on_host() for side in sides]
    return PairGame(value_fn, embeds[0], embeds[1], query.n_players, retrieved.n_players, link)


class _Side(NamedTuple):
    """One tower: how many players, and how long its embeddings are."""

    embed: Embed
    n_players: int
    length: int

    @staticmethod
    def of(given: Any, n_players: int | None, name: str) -> _Side:
        if isinstance(given, Parts):
            if n_players not in (None, given.n_players):
                raise ShapjaxError(
                    f"n_{name} is {n_players}, but the item has {given.n_players} parts; leave it "
                    "out."
                )
            embed, n = given.embed, given.n_players
        elif is_model(given):
            if n_players is None:
                raise ShapjaxError(
                    f"the {name} side is a function of masks, but n_{name} is missing; say how "
                    "many players it has."
                )
            embed = as_function(given)
            n = whole_number(n_players, f"n_{name}", low=1)
        else:
            vector = jnp.asarray(given) if isinstance(given, jax.Array) else np.asarray(given)
            if vector.ndim != 1 or vector.dtype.kind not in "fiu":
                raise ShapjaxError(
                    f"the {name} side is a {type(given).__name__}, expected parts, a function of "
                    "masks, or one embedding [C]."
                )
            return _Side(Partial(_fixed, vector), 0, len(vector))
        run = functools.partial(_run, embed) if isinstance(embed, Partial) else embed
        tried = _tried(run, np.zeros((1, n), bool), name)
        length = _checked(tried, 1, name).shape[1]
        if not isinstance(embed, Partial):
            traced = isinstance(tried, jax.Array) and traces(embed, n)
            embed = Partial(embed) if traced else _watched(embed, name)
        return _Side(embed, n, length)

    def normalised(self) -> _Side:
        """The same with embeddings of Euclidean norm one, or zero where they vanish."""
        if isinstance(self.embed, Partial):
            return self._replace(embed=Partial(_unit_embed, self.embed))
        embed = self.embed
        return self._replace(embed=lambda masks: _unit(np.asarray(embed(masks))))

    def on_host(self) -> Embed:
        """The embedding as a function of NumPy masks."""
        embed = self.embed
        return (lambda masks: _run(embed, masks)) if isinstance(embed, Partial) else embed


def _run(embed: Partial, masks: Any) -> jax.Array:
    """A compiled tower, which sees few shapes: rows are filled up to a power of two."""
    masks = np.asarray(masks)
    spare = (1 << (len(masks) - 1).bit_length()) - len(masks)
    filled = np.concatenate([masks, np.repeat(masks[:1], spare, axis=0)])
    return _compiled(embed, filled)[: len(masks)]


@jax.jit
def _compiled(embed: Partial, masks: jax.Array) -> jax.Array:
    return embed(masks)


def _fixed(vector: Any, masks: Any) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(vector), (len(masks), len(vector)))


def _unit_embed(embed: Partial, masks: Any) -> jax.Array:
    vectors = embed(masks)
    return vectors * inverse_root((vectors * vectors).sum(axis=1, keepdims=True))


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def _atanh(cosine: Any) -> Any:
    xp = np if isinstance(cosine, np.ndarray) else jnp
    return xp.arctanh(xp.clip(cosine, -LIMIT, LIMIT))


def _traced(query: _Side, retrieved: _Side, link: Link | None) -> Partial:
    # A carrier of the query's number of players that is part of the compiled program's key.
    players = jnp.zeros(query.n_players, bool)
    game = Partial(_dot, players, query.embed, retrieved.embed)
    return game if link is None else Partial(_linked, Partial(link), game)


def _dot(players: jax.Array, query: Partial, retrieved: Partial, masks: jax.Array) -> jax.Array:
    n_query = len(players)
    return (query(masks[:, :n_query]) * retrieved(masks[:, n_query:])).sum(axis=1)


def _linked(link: Partial, game: Partial, masks: jax.Array) -> jax.Array:
    return link(game(masks))


def _on_host(query: _Side, retrieved: _Side, link: Link | None) -> Callable[[Any], np.ndarray]:
    embeds = query.on_host(), retrieved.on_host()

    def worth(masks: Any) -> np.ndarray:
        masks = np.asarray(masks)
        parts = (masks[:, : query.n_players], masks[:, query.n_players :])
        a, b = (_by_distinct(embed, part) for embed, part in zip(embeds, parts, strict=True))
        values = (a * b).sum(axis=1)
        return values if link is None else np.asarray(link(values))

    return worth


def _by_distinct(embed: Embed, masks: np.ndarray) -> np.ndarray:
    """Embeddings of all masks, each distinct one computed once."""
    _, first, place = np.unique(
        np.packbits(masks, axis=1), axis=0, return_index=True, return_inverse=True
    )
    return np.asarray(embed(masks[first]))[place.ravel()]


def _watched(embed: Embed, name: str) -> Callable[[Any], np.ndarray]:
    """A tower that JAX cannot see into, every answer of which is checked."""

    def run(masks: Any) -> np.ndarray:
        masks = np.asarray(masks)
        return _checked(_tried(embed, masks, name), len(masks), name)

    return run


def _tried(embed: Embed, masks: np.ndarray, name: str) -> Any:
    """What a tower gives; its own errors say which tower failed."""
    try:
        return embed(masks)
    except (ShapjaxError, MemoryError):
        raise
    except Exception as error:  # a stranger's function may fail in any way
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ValueFunctionError(
            f"the {name} side failed for {len(masks)} masks ({reason}); its function must answer "
            "for every mask."
        ) from error


def _checked(vectors: Any, rows: int, name: str) -> np.ndarray:
    """Embeddings [rows, C], no narrower than float32, in which norms do not overflow."""
    found = np.asarray(vectors)
    if found.ndim != 2 or len(found) != rows or found.dtype.kind not in "fiu":
        raise ValueFunctionError(
            f"the {name} side gave shape {found.shape} and dtype {found.dtype} for {rows} masks, "
            f"expected real numbers of shape ({rows}, C)."
        )
    return found.astype(np.promote_types(found.dtype, np.float32), copy=False)
