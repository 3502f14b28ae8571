"""Explain every pair by every method and measure the explanations, row by row, durably.

Rows do not depend on the order, the number or the sharding of pairs, nor on the devices of a
process: the random numbers of a pair come from the seed and the pair's own name (``pair_key``).

Methods on feature maps take a chunk of pairs at a time, one compiled program for all devices of
this process; the others run the network on masked pictures, on each device one pair after another.
The seconds of a row are those of its explanation alone: of a chunk of maps, the time from reading
its pictures to its last result, divided by its pairs. Nothing is measured or judged meanwhile.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from shapjax.backbones.record import Backbone
from shapjax.core.checks import one_of, whole_number
from shapjax.core.errors import NotFiniteError, ShapjaxError
from shapjax.core.memory import memory_of_devices
from shapjax.core.stream import stream
from shapjax.evaluate import metrics
from shapjax.evaluate.datasets.record import ClassMask, DataSet
from shapjax.evaluate.pairs import (
    PAIRS,
    Pair,
    digest_of_pairs,
    pairs_of_shard,
    write_pairs,
)
from shapjax.evaluate.rows import Key, Row
from shapjax.evaluate.store import Store, read
from shapjax.explainers.batch import TOGETHER, Failure, explain_stream
from shapjax.explainers.explain import METHODS
from shapjax.explainers.explanation import Explanation, Side
from shapjax.explainers.transport import region_shares
from shapjax.games.backgrounds import background, feature_cells
from shapjax.games.folder import digest_of
from shapjax.games.images import load_image
from shapjax.games.match import embeddings_of, not_finite

if TYPE_CHECKING:
    from PIL import Image

STEPS = 10
"""Points of the insertion and deletion curves, less one."""

CELLS = ("features", "grid")
"""Players that are cells of the feature map."""

Task = tuple[str, int]
"""A method and an order."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is computed for each pair.

    Attributes:
        methods: names of ``shapjax.explainers.explain.METHODS``.
        orders: 1, 2 or both; a method is asked for the orders that it has.
        seed: of the random numbers.
        budget: the most evaluations of methods on feature maps; by default the paper's.
        superpixel_budget: the most evaluations of methods that run the network on every
            coalition; by default the paper's.
    """

    methods: tuple[str, ...]
    orders: tuple[int, ...] = (1, 2)
    seed: int = 0
    budget: int | None = None
    superpixel_budget: int | None = None

    def __post_init__(self) -> None:
        for name in self.methods:
            one_of(name, tuple(METHODS), "method")
        for order in self.orders:
            whole_number(order, "order", low=1, high=2)
        for name in ("budget", "superpixel_budget"):
            if getattr(self, name) is not None:
                whole_number(getattr(self, name), name, low=1)
        if not self.tasks:
            raise ShapjaxError(
                f"methods {', '.join(self.methods)} have nothing of order "
                f"{' or '.join(map(str, self.orders))}; ask for the other order."
            )

    @property
    def tasks(self) -> list[Task]:
        """Every method with every order that it has and that is asked for."""
        return [
            (method, order)
            for method in dict.fromkeys(self.methods)
            for order in sorted(set(self.orders))
            if METHODS[method].players[order - 1]
        ]

    @staticmethod
    def on_maps(method: str, order: int) -> bool:
        """Whether a method plays on a feature map, so that the network runs but once."""
        return METHODS[method].players[order - 1][0] == "features"

    def budget_of(self, method: str, order: int) -> int | None:
        """Evaluations that a method may use; None for a closed form."""
        record = METHODS[method]
        if record.budgets is None:
            return None
        most = self.budget if self.on_maps(method, order) else self.superpixel_budget
        usual = record.budgets[order - 1]
        return usual if most is None else min(usual, most)


class Loaded(NamedTuple):
    """The files of a pair.

    Attributes:
        pair: which.
        query: the training picture.
        retrieved: the validation picture.
        masks: where the class is in each, at the size of the network's input; None: no masks.
    """

    pair: Pair
    query: Image.Image
    retrieved: Image.Image
    masks: tuple[ClassMask, ClassMask] | None


def plan_of(
    dataset: DataSet,
    pairs: Sequence[Pair],
    backbones: Mapping[str, Backbone],
    settings: Settings,
    *,
    weights: Mapping[str, str] | None = None,
    mined: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the rows of a run depend on, and what else it tells (``plan.TOLD``), as JSON."""
    from shapjax import __version__

    return {
        "dataset": dataset.name,
        "root": str(dataset.root.resolve()),
        "pairs": digest_of_pairs(pairs),
        "seed": settings.seed,
        "weights": dict(weights or {}),
        "mined": None if mined is None else dict(mined),
        "backbones": {name: digest_of(model) for name, model in backbones.items()},
        "methods": [[*task, settings.budget_of(*task)] for task in settings.tasks],
        "precision": jnp.result_type(float).name,
        "versions": {"shapjax": __version__, "jax": jax.__version__},
    }


def keys_of(
    pairs: Sequence[Pair], backbones: Mapping[str, Backbone], settings: Settings
) -> set[Key]:
    """The keys of all rows of a run, whatever its shards."""
    return {
        (pair.id, name, *task) for pair in pairs for name in backbones for task in settings.tasks
    }


def run(
    dataset: DataSet,
    pairs: Sequence[Pair],
    backbones: Mapping[str, Backbone],
    settings: Settings,
    out: str | os.PathLike[str],
    *,
    shard: int = 0,
    shards: int = 1,
    again_failed: bool = False,
    weights: Mapping[str, str] | None = None,
    mined: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], Any] | None = None,
) -> list[Row]:
    """Explain and measure every pair; go on where an earlier run was ended.

    Args:
        dataset: of the pairs.
        pairs: from ``mine_pairs``, ``read_pairs`` or ``whole_pairs``.
        backbones: networks by the name that rows carry.
        settings: methods, orders and budgets.
        out: folder of the rows (see ``shapjax.evaluate.store``) and of ``pairs.csv``, which
            shard 0 writes.
        shard: which share of the pairs this process computes (``pairs_of_shard``).
        shards: how many processes there are.
        again_failed: pairs that could not be explained or measured are tried again.
        weights: where those of the networks lie that were given any, for the manifest to tell.
        mined: what the pairs were found by, likewise.
        progress: called with (what, done, total): rows of this shard by methods on
            ``"feature maps"`` and then, since these take another time each, of those on
            ``"masked pictures"``.

    Returns:
        Of shard 0 the rows of all shards that there are, of another one its own. Where a pair
        could not be explained or measured its row has the reason as ``error``, and no numbers.

    Raises:
        ShapjaxError: the folder holds another run or cannot be written, a pair is listed twice,
            or second order is asked of a data set without masks.
    """
    names = [pair.id for pair in pairs]
    if len(set(names)) < len(names):
        raise ShapjaxError("some pairs are listed twice, expected each once; mend the list.")
    if 2 in settings.orders and not dataset.has_masks:
        raise ShapjaxError(
            f"{dataset.root} has no masks, so what order 2 finds cannot be measured; ask for "
            "order 1."
        )
    own = pairs_of_shard(pairs, shard, shards)
    plan = plan_of(dataset, pairs, backbones, settings, weights=weights, mined=mined)
    with Store.open(out, plan, shard=shard, shards=shards, again_failed=again_failed) as store:
        if shard == 0:
            write_pairs(Path(out) / PAIRS, pairs)
        # Methods on feature maps take seconds a pair, the others minutes: theirs come last.
        for on_maps, what in ((True, "feature maps"), (False, "masked pictures")):
            tasks = [task for task in settings.tasks if settings.on_maps(*task) is on_maps]
            keys = {(pair.id, name, *task) for pair in own for name in backbones for task in tasks}
            tell = _telling(progress, what, len(keys & store.done()), len(keys))
            for name, model in backbones.items():
                _run_backbone(dataset, own, name, model, tasks, settings, store, tell)
        store.finish()
        return read(out) if shard == 0 else store.rows()


def _telling(
    progress: Callable[[str, int, int], Any] | None, what: str, done: int, total: int
) -> Callable[[], None]:
    """What is called after each row, and tells what was done before at once."""
    numbers = count(done)

    def tell() -> None:
        if progress is not None and total:
            progress(what, next(numbers), total)

    tell()
    return tell


def _devices() -> Mesh | None:
    """All devices of this process, to share chunks of pairs; None: there is but one."""
    found = jax.local_devices()
    return Mesh(np.array(found), ("pairs",)) if len(found) > 1 else None


def _run_backbone(
    dataset: DataSet,
    pairs: list[Pair],
    name: str,
    model: Backbone,
    tasks: list[Task],
    settings: Settings,
    store: Store,
    tell: Callable[[], None],
) -> None:
    """Rows of one network by methods that are all on feature maps, or none of them."""

    def missing(pair: Pair) -> list[Task]:
        return [task for task in tasks if (pair.id, name, *task) not in store.done()]

    wanted = [pair for pair in pairs if missing(pair)]
    if not wanted:
        return
    mesh = _devices()
    # One program's pairs at a time; of methods on masked pictures one pair fills a device.
    width = (TOGETHER if settings.on_maps(*tasks[0]) else 1) * (1 if mesh is None else mesh.size)
    compiled: set[tuple[Any, ...]] = set()
    read_pair = pair_reader(dataset, model.preprocessing.size)
    for chunk in _chunks(stream(read_pair, wanted, ahead=max(2, width)), width):
        judges: dict[str, Judge] = {}
        for task in tasks:
            some = [both for both in chunk if task in missing(both[0])]
            rows = _rows(model, some, task, settings, mesh, judges, compiled)
            for (pair, _), row in zip(some, rows, strict=True):
                method, order = task
                of = {"pair": pair.id, "backbone": name, "method": method, "order": order}
                store.append({**of, **row})
                tell()


def _rows(
    model: Backbone,
    chunk: list[tuple[Pair, Loaded | ShapjaxError]],
    task: Task,
    settings: Settings,
    mesh: Mesh | None,
    judges: dict[str, Judge],
    compiled: set[tuple[Any, ...]],
) -> Iterator[Row]:
    """What each pair of a chunk gets by one method, judged when it is asked for.

    ``judges`` of the chunk's pairs and what was ``compiled`` are kept for the next methods and
    chunks.
    """
    good = [loaded for _, loaded in chunk if isinstance(loaded, Loaded)]
    found = iter(_explanations(model, good, task, settings, mesh))
    before = compiled.copy()  # pairs of one chunk wait for one compilation
    for _, loaded in chunk:
        if isinstance(loaded, ShapjaxError):
            yield {"error": str(loaded)}
            continue
        explained = next(found)
        row = _judged(model, loaded, explained, judges)
        if isinstance(explained, Explanation):
            shape = (*task, explained.n_query, explained.n_retrieved, len(good))
            compiled.add(shape)
            row["warm"] = shape in before
        yield row


def _chunks(items: Iterable[T], width: int) -> Iterator[list[T]]:
    left = iter(items)
    while chunk := list(islice(left, width)):
        yield chunk


def _explanations(
    model: Backbone, pairs: list[Loaded], task: Task, settings: Settings, mesh: Mesh | None
) -> list[Explanation | ShapjaxError]:
    """The explanation of each pair, or why there is none."""
    method, order = task
    try:
        # A whole chunk and no more: the next one would run while this one is judged, and nobody
        # could tell how long it took.
        with memory_of_devices():
            found = list(
                explain_stream(
                    model,
                    [(pair.query, pair.retrieved) for pair in pairs],
                    ids=[pair.pair.id for pair in pairs],
                    key=settings.seed,
                    mesh=mesh,
                    method=method,
                    order=order,
                    budget=settings.budget_of(*task),
                )
            )
    except ShapjaxError as error:  # of what was asked, and so of all pairs
        return [error] * len(pairs)
    return [ShapjaxError(one.reason) if isinstance(one, Failure) else one for one in found]


def _judged(
    model: Backbone,
    loaded: Loaded,
    explained: Explanation | ShapjaxError,
    judges: dict[str, Judge],
) -> Row:
    """What a row says of an explanation, or why it says nothing; ``judges`` are kept by pair."""
    try:
        if isinstance(explained, ShapjaxError):
            raise explained
        name = loaded.pair.id
        with memory_of_devices():
            judge = judges[name] = judges.get(name) or Judge(model, loaded)
            return {**_measured(judge, explained), "error": None}
    except ShapjaxError as error:
        return {"error": str(error)}


def pair_reader(dataset: DataSet, size: int) -> Callable[[Pair], Loaded]:
    """What opens the files of a pair, the masks brought to ``size`` pixels a side."""
    validation = {item.name: item for item in dataset.validation}
    training = {item.name: item for item in dataset.training}

    def read_pair(pair: Pair) -> Loaded:
        items = training[pair.training], validation[pair.validation]
        masks = [dataset.class_mask(item, pair.category, size) for item in items]
        pictures = [load_image(item.image) for item in items]
        both = None if masks[0] is None or masks[1] is None else (masks[0], masks[1])
        return Loaded(pair, pictures[0], pictures[1], both)

    return read_pair


def _measured(judge: Judge, explanation: Explanation) -> Row:
    first = explanation.order == 1
    numbers = judge.first_order(explanation) if first else judge.second_order(explanation)
    numbers |= {
        "inefficiency": metrics.inefficiency(explanation),
        "similarity": explanation.similarity,
        "seconds": explanation.seconds,
    }
    row: Row = {name: _number(value) for name, value in numbers.items()}
    row["evaluations"] = explanation.evaluations
    return row


def _number(value: float) -> float | None:
    """A number as JSON has them: NaN is nothing."""
    return None if np.isnan(value) else float(value)


class Judge:
    """Measures explanations of one pair by one network.

    Args:
        model: the network.
        loaded: the pair.
    """

    def __init__(self, model: Backbone, loaded: Loaded) -> None:
        self._model = model
        self._masks = loaded.masks
        query, retrieved = (
            model.resize(image, fit="stretch") for image in (loaded.query, loaded.retrieved)
        )
        self._pictures = query, retrieved
        self._blurs = background("blur", query, model), background("blur", retrieved, model)
        self._means = background("mean", query, model), background("mean", retrieved, model)
        self._query = self._unit(self._pictures[0][None], "the query picture")[0]

    def _unit(self, pictures: np.ndarray, place: str = "a censored picture") -> np.ndarray:
        found = np.asarray(embeddings_of(self._model, jnp.asarray(pictures, jnp.float32)))
        found = found.astype(np.float64)
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        bad = np.flatnonzero(~np.isfinite(norms))
        if len(bad):
            raise not_finite(self._model, np.asarray(pictures[bad[0]], np.float32), place)
        return found / np.maximum(norms, np.finfo(np.float64).tiny)

    def _with_query(self, pictures: np.ndarray) -> np.ndarray:
        return self._unit(pictures) @ self._query

    def _between(self, queries: np.ndarray, retrieved: np.ndarray) -> np.ndarray:
        both = self._unit(np.concatenate([queries, retrieved]))
        return (both[: len(queries)] * both[len(queries) :]).sum(axis=1)

    def first_order(self, explanation: Explanation) -> dict[str, float]:
        """Metrics of a heat map over the retrieved picture."""
        heat = self._map(explanation, explanation.heat("retrieved"), "retrieved")
        picture, blur, mean = self._pictures[1], self._blurs[1], self._means[1]
        similarity = self._with_query
        found = {
            "faithfulness": metrics.faithfulness(similarity, picture, heat, blur),
            "faithfulness_v1": metrics.faithfulness(
                similarity, picture, heat, mean, share=metrics.SHARE_V1
            ),
            "deletion": metrics.deletion(similarity, picture, heat, blur, steps=STEPS).area,
            "insertion": metrics.insertion(similarity, picture, heat, blur, steps=STEPS).area,
        }
        if self._masks is not None:
            found["pointing"] = metrics.pointing_game(heat, *self._masks[1])
        return found

    def second_order(self, explanation: Explanation) -> dict[str, float]:
        """Metrics of what the object in the query is projected to in the retrieved picture."""
        if self._masks is None:
            raise ShapjaxError(
                "a picture of this pair has no mask, so what order 2 finds cannot be measured; ask "
                "for order 1."
            )
        mask, (true, void) = self._masks[0].shown, self._masks[1]
        if not mask.any():
            nothing = float("nan")
            return dict.fromkeys(("faithfulness", "distance_v1", "mean_iou", "iou"), nothing)
        arriving = region_shares(explanation, "query", mask=mask) @ explanation.cross
        projected = self._map(explanation, arriving, "retrieved")
        found = metrics.top_pixels(projected, int(true.sum()))
        faithful = [
            metrics.second_order_faithfulness(self._between, self._pictures, blanks, mask, found)
            for blanks in (self._blurs, self._means)
        ]
        return {
            "faithfulness": faithful[0],
            "distance_v1": 1 - faithful[1],
            "mean_iou": metrics.mean_iou(found, true, void),
            "iou": metrics.iou(found, true, void),
        }

    def _map(self, explanation: Explanation, values: np.ndarray, side: Side) -> np.ndarray:
        """Values of the players of a picture at each pixel.

        Cells of a feature map are interpolated bilinearly, as class activation maps are (Zhou et
        al. 2016); other players have the value of their part everywhere.
        """
        values = np.asarray(values, np.float64)
        if not np.isfinite(values).all():
            raise NotFiniteError(f"{explanation.method} gives NaN or infinity for this pair.")
        labels = explanation.players(side)
        kind = METHODS[explanation.method].players[explanation.order - 1][0]
        if kind not in CELLS:
            return values[labels]
        return upsampled(values.reshape(feature_cells(self._model)), len(labels))


def upsampled(cells: np.ndarray, size: int) -> np.ndarray:
    """A map of cells [h, w] over a picture, bilinear between their centres, [size, size]."""
    height, width = cells.shape
    rows, columns = (_weights(count, size) for count in (height, width))
    return rows @ cells @ columns.T


def _weights(count: int, size: int) -> np.ndarray:
    """What each of ``count`` cells gives to each of ``size`` pixels, [size, count]."""
    at = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(count)))
