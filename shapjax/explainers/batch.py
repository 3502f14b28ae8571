"""Many matches at once: one compiled program for all pairs, on as many devices as there are."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from shapjax.backbones.record import Backbone
from shapjax.backbones.shares import cores
from shapjax.backbones.tokeniser import TextPreprocessing
from shapjax.core.checks import one_of, whole_number
from shapjax.core.errors import ImageError, NotFiniteError, ShapjaxError
from shapjax.core.interactions import Interactions
from shapjax.core.memory import memory_of_devices, require_memory
from shapjax.estimators.estimate import as_key
from shapjax.explainers.explain import (
    as_bytes,
    explain,
    settled,
)
from shapjax.explainers.explanation import Explanation
from shapjax.explainers.features import FEATURE_METHODS, bytes_of, explain_features
from shapjax.explainers.spread import spread
from shapjax.games.backgrounds import (
    NAMES,
    background,
    feature_backgrounds,
    feature_cells,
    features_of,
    kinds_of,
)
from shapjax.games.feature_pairs import FeaturePair
from shapjax.games.images import load_image
from shapjax.games.match import SIDES, Picture, background_not_finite, by_side, not_finite
from shapjax.games.players import label_map

TOGETHER = 8
"""Pairs that a device explains at a time."""

HELD = 1 << 28
"""Bytes that pairs explained side by side may take; those that need more follow one another."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A pair that could not be explained, and why.

    Attributes:
        id: of the pair.
        query: name of its query's file, or what kind of thing it is.
        retrieved: likewise.
        reason: one sentence.
    """

    id: str | int
    query: str
    retrieved: str
    reason: str

    def __str__(self) -> str:
        return f"pair {self.id!r} ({self.query} and {self.retrieved}): {self.reason}"


class PairsError(ShapjaxError):
    """Some pairs could not be explained.

    Attributes:
        found: what ``on_error="skip"`` would have returned: an explanation or a ``Failure`` for
            each pair.
        failures: the latter alone.
    """

    def __init__(self, found: list[Explanation | Failure]) -> None:
        self.found = found
        self.failures = [one for one in found if isinstance(one, Failure)]
        shown = " ".join(map(str, self.failures[:10]))
        more = len(self.failures) - 10
        super().__init__(
            f"{len(self.failures)} of {len(found)} pairs cannot be explained; "
            f'on_error="skip" keeps the others. {shown}' + (f" And {more} more." * (more > 0))
        )


def explain_pairs(
    model: Backbone,
    queries: Iterable[Picture],
    retrieved: Iterable[Picture],
    *,
    on_error: Literal["raise", "skip"] = "raise",
    **settings: Any,
) -> list[Any]:
    """Why each query matches its retrieved picture: ``explain_stream`` as a list.

    Args:
        model: a backbone.
        queries: P pictures.
        retrieved: P pictures, one for each query.
        on_error: what becomes of pairs that cannot be explained, because a picture cannot be
            read or the network gives NaN for it: ``"raise"``, one error for all of them, after
            the others are explained; ``"skip"``, a ``Failure`` in the place of each.
        settings: of ``explain_stream``.

    Returns:
        P explanations; ``seconds`` of each is its share of the whole.

    Raises:
        PairsError: of ``on_error="raise"``; it carries the explanations of the others.
        ShapjaxError: as ``explain``, no pairs, or not equally many of both.
    """
    one_of(on_error, ("raise", "skip"), "on_error")
    queries, retrieved = list(queries), list(retrieved)
    if len(queries) != len(retrieved) or not queries:
        raise ShapjaxError(
            f"there are {len(queries)} queries and {len(retrieved)} retrieved pictures, expected "
            "equally many, and at least one."
        )
    found = list(explain_stream(model, zip(queries, retrieved, strict=True), **settings))
    if on_error == "raise" and any(isinstance(one, Failure) for one in found):
        raise PairsError(found)
    return found


def explain_stream(
    model: Backbone,
    pairs: Iterable[tuple[Picture, Picture]],
    *,
    method: str | None = None,
    order: int = 2,
    side: Literal["query", "retrieved"] | None = None,
    players: Any = None,
    background: Any = None,
    budget: int | None = None,
    bilinear: bool = False,
    errors: bool = False,
    key: jax.Array | int = 0,
    ids: Iterable[str | int] | None = None,
    mesh: Mesh | None = None,
    chunk_size: int = TOGETHER,
) -> Iterator[Explanation | Failure]:
    """Explanations of any number of pairs, in their order, with a few pairs in memory at a time.

    Where locations of feature maps play (gram-sam, sam, ig-sam, kernel-sam, kernel-shap,
    integrated-jacobians, gradcam, vesm), a chunk of pairs is one compiled program, from pictures
    to interactions, and chunks have one shape; the next chunk's pictures are read meanwhile. The
    other methods run the network on masked pictures, whose number fills a device for one pair
    alone: there pairs follow one another on each device, in programs that all of them share.

    What a pair gets depends on its id and the key, not on the pairs, chunks or devices that it is
    explained with (floating-point rounding aside).

    Args:
        model: a backbone.
        pairs: query and retrieved picture of each; may be a generator, which is read as needed.
        method: as in ``explain``.
        order: likewise.
        side: likewise.
        players: likewise.
        background: likewise; pictures and folders that serve all pairs are read once.
        budget: for each pair, likewise.
        bilinear: likewise.
        errors: likewise.
        key: PRNG key or seed, which each pair's id is folded into (``pair_key``).
        ids: a name for each pair, by default its place.
        mesh: devices that share the pairs of a chunk equally, along all axes; of methods on
            masked pictures and of texts, each device has a pair of its own at a time.
        chunk_size: pairs of feature maps that one device explains at a time.

    Yields:
        An Explanation, or a ``Failure`` where a picture cannot be read, the network gives NaN or
        infinity or the budget is too small for the parts of the pictures, which harms no other
        pair.

    Raises:
        ShapjaxError: as ``explain``, at once; or there are fewer ids than pairs.
        MemoryRefused: a single pair of feature maps does not fit.
    """
    if not isinstance(model, Backbone):
        raise ShapjaxError(
            f"model is a {type(model).__name__}, expected a backbone from shapjax.backbones.load."
        )
    chunk_size = whole_number(chunk_size, "chunk_size", low=1)
    key = as_key(key)
    order = whole_number(order, "order", low=1, high=2)
    named = ((pair_id, *pair) for pair_id, pair in _with_ids(pairs, ids))
    if isinstance(model.preprocessing, TextPreprocessing):
        settings = {"method": method, "order": order, "side": side, "players": players}
        settings |= {"background": background, "budget": budget, "bilinear": bilinear}
        return _one_by_one(model, named, key, settings, mesh)
    plan = settled(method, order, side, players, background, budget, bilinear=bilinear)
    method, players, masked = plan.method, plan.players, plan.masked
    blank = tuple(_read_once(one) for one in by_side(plan.background, "background"))
    on_features = isinstance(players, str) and players == "features" and method in FEATURE_METHODS
    if not on_features:
        settings = {
            "method": method,
            "order": order,
            "side": side,
            "players": players,
            "background": dict(zip(SIDES, blank, strict=True)),
            "budget": plan.budget,
            "bilinear": bilinear,
            "errors": errors,
        }
        return _one_by_one(model, named, key, settings, mesh)
    plays = (masked in ("query", "both"), masked in ("retrieved", "both"))
    mesh = None if mesh is None else _automatic(mesh)
    work = _Plan(method, order, plan.budget, errors, key, mesh, chunk_size)
    return _in_chunks(
        model, named, work, [_blanks(model, b, p) for b, p in zip(blank, plays, strict=True)]
    )


def pair_key(key: jax.Array | int, pair_id: str | int) -> jax.Array:
    """The PRNG key of a pair, from that of all pairs and the pair's id alone.

    Args:
        key: PRNG key or seed.
        pair_id: text or number; 7 and "7" are the same.
    """
    return pair_keys(key, [pair_id])[0]


def pair_keys(key: jax.Array | int, ids: Sequence[str | int]) -> jax.Array:
    """``pair_key`` of each id, [P]."""
    digests = [hashlib.sha256(str(pair_id).encode()).digest()[:8] for pair_id in ids]
    words = np.frombuffer(b"".join(digests), "<u4").astype(np.uint32).reshape(-1, 2)
    return _folded(as_key(key), words)


@jax.jit
def _folded(key: jax.Array, words: jax.Array) -> jax.Array:
    def fold(pair: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(key, pair[0]), pair[1])

    return jax.vmap(fold)(words)


_Named = tuple["str | int", Any, Any]
"""Id, query and retrieved picture of a pair."""


class _Plan(NamedTuple):
    """What is done with every pair."""

    method: str
    order: int
    budget: int
    errors: bool
    key: jax.Array
    mesh: Mesh | None
    chunk_size: int


class _Blanks(NamedTuple):
    """The backgrounds of one side, in their order.

    Attributes:
        kinds: ``"blur"``, ``"mean"`` or ``"black"`` where a picture has a background of its own,
            None where all pictures have the same.
        fixed: feature maps of the latter, one each, float [h, w, C].
    """

    kinds: tuple[str | None, ...]
    fixed: tuple[jax.Array, ...]

    @property
    def own(self) -> list[str]:
        """The kinds that each picture has for itself."""
        return [kind for kind in self.kinds if kind is not None]


def _with_ids(pairs: Iterable[Any], ids: Iterable[str | int] | None) -> Iterator[tuple[Any, Any]]:
    given = iter(count() if ids is None else ids)
    for place, pair in enumerate(pairs):
        pair_id = next(given, None)
        if pair_id is None:
            raise ShapjaxError(f"there are {place} ids, but more pairs; give each pair an id.")
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ShapjaxError(
                f"pair {pair_id!r} is a {type(pair).__name__}, expected a query and a retrieved "
                "picture."
            )
        yield pair_id, pair


def _read_once(kind: Any) -> Any:
    """A background, its pictures read; a folder and a name stay as they are."""

    def one(single: Any) -> Any:
        named = isinstance(single, str) and single in (*NAMES, "zero")
        if named or (isinstance(single, str | os.PathLike) and os.path.isdir(single)):
            return single
        return load_image(single)

    return [one(single) for single in kinds_of(kind)]


def _blanks(model: Backbone, kinds: Any, playing: bool) -> _Blanks | None:
    if not playing:
        return None
    size = model.preprocessing.size
    nothing = np.zeros((size, size, 3), np.float32)
    names: list[str | None] = []
    fixed = []
    for kind in kinds:
        own = isinstance(kind, str) and kind in NAMES
        names.append(kind if own else None)
        if not own:
            found = feature_backgrounds(kind, nothing, model)[0]
            if not np.isfinite(found).all():
                raise NotFiniteError(
                    f"{model.name} gives NaN or infinity for the background; check its weights."
                )
            fixed.append(jnp.asarray(found))
    return _Blanks(tuple(names), tuple(fixed))


def _one_by_one(
    model: Backbone,
    pairs: Iterator[_Named],
    key: jax.Array,
    settings: dict[str, Any],
    mesh: Mesh | None,
) -> Iterator[Explanation | Failure]:
    devices = jax.local_devices()[:1] if mesh is None else list(mesh.devices.flat)
    models = [model] if mesh is None else [jax.device_put(model, device) for device in devices]

    def one(place: int, pair: _Named) -> Explanation | Failure:
        pair_id, query, retrieved = pair
        try:
            own = pair_key(key, pair_id)
            with memory_of_devices():
                found = explain(models[place], query, retrieved, key=own, **settings)
        except ShapjaxError as error:
            return _failure(pair, str(error))
        return _checked(found, pair)

    return spread(one, pairs, devices)


def _failure(pair: _Named, reason: str) -> Failure:
    def name(picture: Any) -> str:
        path = isinstance(picture, str | os.PathLike)
        return str(picture) if path else f"a {type(picture).__name__}"

    return Failure(pair[0], name(pair[1]), name(pair[2]), reason)


def _checked(found: Explanation, pair: _Named) -> Explanation | Failure:
    if all(np.isfinite(part).all() for part in found.interactions.coefficients):
        return found
    return _failure(
        pair, f"{found.method} gives NaN or infinity with {found.backbone}; check its weights."
    )


class _Chunk(NamedTuple):
    """A chunk of pairs on its way: its inputs on the host, its results perhaps not yet there."""

    pairs: list[_Named]
    pictures: np.ndarray
    unreadable: dict[int, str]
    results: Any


def _in_chunks(
    model: Backbone, pairs: Iterator[_Named], plan: _Plan, blanks: list[_Blanks | None]
) -> Iterator[Explanation | Failure]:
    begun = time.perf_counter()
    devices = 1 if plan.mesh is None else plan.mesh.size
    first = list(islice(pairs, devices * plan.chunk_size))
    # Few pairs are one small chunk; of many, all chunks have the same shape.
    each = max(1, min(plan.chunk_size, -(-len(first) // devices)))
    cells = feature_cells(model)
    n = sum(side is not None for side in blanks) * cells[0] * cells[1]
    need = bytes_of(plan.method, n, plan.budget)
    require_memory(need * devices, f"{plan.method} on {n} players", "lower the budget")
    together = max(1, min(each, HELD // need))
    if plan.mesh is not None:
        model = jax.device_put(model, NamedSharding(plan.mesh, PartitionSpec()))
    labels = label_map(
        "features", np.zeros((model.preprocessing.size,) * 2 + (3,), np.float32), cells
    )
    waiting: _Chunk | None = None
    with ThreadPoolExecutor(cores()) as readers:
        while first:
            chunk = _launch(model, first, plan, blanks, each * devices, together, readers)
            if waiting is not None:
                yield from _collect(model, waiting, plan, blanks, labels, begun)
                begun = time.perf_counter()
            waiting = chunk
            first = list(islice(pairs, each * devices))
        if waiting is not None:
            yield from _collect(model, waiting, plan, blanks, labels, begun)


def _launch(
    model: Backbone,
    pairs: list[_Named],
    plan: _Plan,
    blanks: list[_Blanks | None],
    width: int,
    together: int,
    readers: ThreadPoolExecutor,
) -> _Chunk:
    """Read the pictures of a chunk and start its program, without waiting for it."""
    size = model.preprocessing.size
    pictures = np.zeros((width, 2, size, size, 3), np.float32)
    unreadable: dict[int, str] = {}
    own = [
        None if one is None else np.zeros((width, len(one.own), size, size, 3), np.float32)
        for one in blanks
    ]

    def fill(place: int) -> None:
        try:
            for side, one in enumerate(pairs[place][1:]):
                rgb = pictures[place, side] = model.resize(load_image(one), fit="stretch")
                into, shown = own[side], blanks[side]
                if into is not None and shown is not None:
                    for slot, kind in enumerate(shown.own):
                        into[place, slot] = background(kind, rgb, model)
        except ImageError as error:
            unreadable[place] = str(error)

    # Decoding, resizing and blurring let go of the interpreter.
    for _ in readers.map(fill, range(len(pairs))):
        pass
    ids = [pair[0] for pair in pairs]
    keys = pair_keys(plan.key, ids + ids[:1] * (width - len(ids)))
    place = None
    if plan.mesh is not None:  # each device is sent its own pairs
        place = NamedSharding(plan.mesh, PartitionSpec(plan.mesh.axis_names))
    results = explained_pictures(
        model,
        jax.device_put(pictures, place),
        jax.device_put(own, place),
        [() if one is None else one.fixed for one in blanks],
        jax.device_put(keys, place),
        kinds=tuple(None if one is None else one.kinds for one in blanks),
        method=plan.method,
        order=plan.order,
        budget=plan.budget,
        errors=plan.errors,
        together=together,
        mesh=plan.mesh,
    )
    return _Chunk(pairs, pictures, unreadable, results)


def _collect(
    model: Backbone,
    chunk: _Chunk,
    plan: _Plan,
    blanks: list[_Blanks | None],
    labels: np.ndarray,
    begun: float,
) -> Iterator[Explanation | Failure]:
    found, similarity, finite = jax.tree.map(np.asarray, chunk.results)
    seconds = (time.perf_counter() - begun) / len(chunk.pairs)
    for place, pair in enumerate(chunk.pairs):
        if place in chunk.unreadable:
            yield _failure(pair, chunk.unreadable[place])
            continue
        if not finite[place].all():
            yield _failure(pair, _layer(model, chunk.pictures[place], blanks, finite[place]))
            continue
        own = jax.tree.map(lambda leaf, place=place: leaf[place], found)
        if np.isnan(np.concatenate(own.standard_errors or [[0.0]])).any():  # undetermined
            own = dataclasses.replace(own, standard_errors=None)
        explanation = Explanation(
            method=plan.method,
            backbone=model.name,
            interactions=own,
            query_players=None if blanks[0] is None else labels,
            retrieved_players=None if blanks[1] is None else labels,
            similarity=float(similarity[place]),
            v_grand=float(own.stats["v_grand"]),
            v_empty=float(own.stats["v_empty"]),
            evaluations=int(own.stats["evaluations"]),
            seconds=seconds,
            query_picture=as_bytes(chunk.pictures[place, 0]),
            retrieved_picture=as_bytes(chunk.pictures[place, 1]),
        )
        yield _checked(explanation, pair)


def _layer(
    model: Backbone, pictures: np.ndarray, blanks: list[_Blanks | None], finite: np.ndarray
) -> str:
    """Which picture or background of a pair the network fails on, and in which layer."""
    for side, name in enumerate(SIDES):
        if not finite[side]:
            return str(not_finite(model, pictures[side], f"the {name} picture"))
    side = 0 if not finite[2] else 1
    # Those that are no names are checked before any pair.
    named = (blanks[side] or _Blanks((), ())).own
    return str(background_not_finite(model, named, pictures[side], SIDES[side]))


@functools.partial(
    jax.jit, static_argnames=("kinds", "method", "order", "budget", "errors", "together", "mesh")
)
def explained_pictures(
    model: Backbone,
    pictures: jax.Array,
    blanks: list[jax.Array | None],
    fixed: list[tuple[jax.Array, ...]],
    keys: jax.Array,
    *,
    kinds: tuple[tuple[str | None, ...] | None, ...],
    method: str,
    order: int,
    budget: int,
    errors: bool,
    together: int,
    mesh: Mesh | None,
) -> tuple[Interactions, jax.Array, jax.Array]:
    """Interactions of P pairs of pictures, their similarities [P], and what is finite [P, 4].

    ``blanks`` are the pairs' own backgrounds [P, k, S, S, 3] of either side, ``fixed`` the feature
    maps of backgrounds that all pairs share, ``kinds`` their order.
    """

    def local(
        model: Backbone,
        pictures: jax.Array,
        blanks: list[jax.Array | None],
        fixed: list[tuple[jax.Array, ...]],
        keys: jax.Array,
    ) -> tuple[Interactions, jax.Array, jax.Array]:
        def maps_of(rgb: jax.Array) -> jax.Array:
            flat = features_of(model, rgb.reshape(-1, *rgb.shape[-3:]))
            return flat.reshape(*rgb.shape[:-3], *flat.shape[1:])

        whole = maps_of(pictures)
        behind = []
        for own, shared, names in zip(blanks, fixed, kinds, strict=True):
            if own is None or names is None:
                behind.append(None)
                continue
            mine = maps_of(own) if own.shape[1] else None
            stack, used, taken = [], 0, 0
            for name in names:
                if name is None:
                    stack.append(jnp.broadcast_to(shared[used], whole[:, 0].shape))
                    used += 1
                else:
                    assert mine is not None
                    stack.append(mine[:, taken])
                    taken += 1
            behind.append(jnp.stack(stack, axis=1))
        pairs = FeaturePair(whole[:, 0], whole[:, 1], *behind)
        return _explained(pairs, keys, method, order, budget, errors, together)

    return _spread(local, mesh)(model, pictures, blanks, fixed, keys)


@functools.partial(
    jax.jit, static_argnames=("method", "order", "budget", "errors", "together", "mesh")
)
def explained_maps(
    pairs: FeaturePair,
    keys: jax.Array,
    *,
    method: str,
    order: int,
    budget: int,
    errors: bool = False,
    together: int = TOGETHER,
    mesh: Mesh | None = None,
) -> tuple[Interactions, jax.Array, jax.Array]:
    """The same from feature maps that are there already, each with a leading axis of P pairs.

    Args:
        pairs: the maps; P is a multiple of the number of devices.
        keys: a PRNG key for each pair, [P].
        method: one of ``shapjax.explainers.features.FEATURE_METHODS``.
        order: 1 or 2.
        budget: for each pair.
        errors: whether regressions of second order find standard errors too.
        together: pairs that are explained side by side on a device.
        mesh: devices that share the pairs equally.

    Returns:
        Interactions with a leading axis P; similarities [P]; and whether the query's map, the
        retrieved one's and the backgrounds of either are finite, Boolean [P, 4]. A pair that is
        not has the interactions of empty maps.
    """

    def local(_: None, pairs: FeaturePair, *rest: Any) -> tuple[Interactions, jax.Array, jax.Array]:
        return _explained(pairs, rest[-1], method, order, budget, errors, together)

    return _spread(local, mesh)(None, pairs, [None, None], [(), ()], keys)


def _spread(local: Any, mesh: Mesh | None) -> Any:
    """A function of (shared, batched, batched, shared, batched), each device on its own pairs."""
    if mesh is None:
        return local
    shared, batched = PartitionSpec(), PartitionSpec(mesh.axis_names)
    return jax.shard_map(
        local,
        mesh=_automatic(mesh),
        in_specs=(shared, batched, batched, shared, batched),
        out_specs=batched,
        check_vma=False,  # carries of scans begin alike on all devices and end differently
    )


def _automatic(mesh: Mesh) -> Mesh:
    """The same devices, with axes along which arrays need not be placed by hand."""
    return Mesh(mesh.devices, mesh.axis_names)


def _explained(
    pairs: FeaturePair,
    keys: jax.Array,
    method: str,
    order: int,
    budget: int,
    errors: bool,
    together: int,
) -> tuple[Interactions, jax.Array, jax.Array]:
    # As in a single explanation: Gram matrices in the widest precision that JAX is set to.
    pairs = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), pairs)

    def good(part: jax.Array | None) -> jax.Array:
        if part is None:
            return jnp.ones(len(keys), bool)
        return jnp.isfinite(part).all(axis=tuple(range(1, part.ndim)))

    finite = jnp.stack([good(part) for part in pairs], axis=1)

    def one(given: tuple[FeaturePair, jax.Array, jax.Array]) -> tuple[Interactions, jax.Array]:
        pair, key, usable = given
        # NaN would keep an iterative solver, and with it the pairs beside, to its last step.
        pair = jax.tree.map(lambda leaf: jnp.where(usable, leaf, 0), pair)
        found = explain_features(
            pair, method=method, order=order, budget=budget, key=key, errors=errors
        )
        return jax.tree.map(jnp.asarray, found), pair.similarity()

    found, similarity = jax.lax.map(one, (pairs, keys, finite.all(axis=1)), batch_size=together)
    return found, similarity, finite
