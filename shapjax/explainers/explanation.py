"""What an explanation is: interactions of a similarity game, and where its players are."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, Literal

import numpy as np

from shapjax.core.errors import ShapjaxError
from shapjax.core.interactions import Interactions, load_npz, save_npz

Side = Literal["query", "retrieved"]


def as_bytes(picture: np.ndarray) -> np.ndarray:
    """A picture in [0, 1] as an explanation carries it, uint8 of the same shape."""
    return np.round(255 * picture).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why two pictures match, according to one method.

    Players are numbered query first, then retrieved; at first order only one side has players.

    Attributes:
        method: name of the method.
        backbone: name of the network.
        interactions: coefficients on the players, in units of similarity.
        query_players: int32 [H, W], the query player that owns each input pixel; None where the
            query is not masked (first order on the retrieved picture).
        retrieved_players: int32 [H', W'], likewise for the retrieved picture.
        similarity: similarity of the two whole pictures.
        v_grand: worth v(N) of the game that was explained.
        v_empty: worth v(empty), both backgrounds.
        evaluations: coalitions that were evaluated (Gram SAM: around which all derivatives were
            taken).
        seconds: wall time, compilation included.
        query_names: what each query player shows, where it is a text's word or token.
        retrieved_names: likewise for the retrieved item.
        query_picture: the query at the network's input size, RGB, uint8 [S, S, 3]; None of a
            text.
        retrieved_picture: likewise the retrieved picture.
    """

    method: str
    backbone: str
    interactions: Interactions
    query_players: np.ndarray | None
    retrieved_players: np.ndarray | None
    similarity: float
    v_grand: float
    v_empty: float
    evaluations: int
    seconds: float
    query_names: tuple[str, ...] | None = None
    retrieved_names: tuple[str, ...] | None = None
    query_picture: np.ndarray | None = dataclasses.field(default=None, repr=False)
    retrieved_picture: np.ndarray | None = dataclasses.field(default=None, repr=False)

    @property
    def order(self) -> int:
        """1: a heat map over one picture; 2: a matrix of query parts x retrieved parts."""
        return self.interactions.order

    @property
    def n_query(self) -> int:
        """Number of players on the query."""
        return 0 if self.query_players is None else int(self.query_players.max()) + 1

    @property
    def n_retrieved(self) -> int:
        """Number of players on the retrieved picture."""
        return 0 if self.retrieved_players is None else int(self.retrieved_players.max()) + 1

    @property
    def cross(self) -> np.ndarray:
        """Second order: coefficient of each query part with each retrieved part, [nq, nr].

        Raises:
            ShapjaxError: the explanation is of first order.
        """
        if self.order < 2:
            raise ShapjaxError("a first-order explanation has no pairs; explain with order=2.")
        return np.asarray(self.interactions.pairs)[: self.n_query, self.n_query :]

    @property
    def cross_errors(self) -> np.ndarray | None:
        """Standard errors of ``cross``, [nq, nr]; None where they are not known.

        Raises:
            ShapjaxError: the explanation is of first order.
        """
        shape = self.cross.shape
        errors = self.interactions.standard_errors
        if errors is None:
            return None
        rows, columns = np.triu_indices(sum(shape), 1)
        return np.asarray(errors[2])[(rows < shape[0]) & (columns >= shape[0])].reshape(shape)

    @property
    def credit(self) -> np.ndarray:
        """Credit of every player alone, [n]: coefficients with pairs shared half and half.

        At second order this sharing turns the Shapley-Taylor index into the Shapley value.
        """
        singles = np.asarray(self.interactions.singles)
        if self.order < 2:
            return singles
        return singles + 0.5 * np.asarray(self.interactions.pairs).sum(axis=-1)

    def heat(self, side: Side) -> np.ndarray:
        """Credit of the players of one picture, [nq] or [nr].

        Raises:
            ShapjaxError: that picture has no players in this explanation.
        """
        self.players(side)
        return self.credit[: self.n_query] if side == "query" else self.credit[self.n_query :]

    def players(self, side: Side) -> np.ndarray:
        """The label map of one picture.

        Raises:
            ShapjaxError: that picture has no players in this explanation.
        """
        labels = self.query_players if side == "query" else self.retrieved_players
        if labels is None:
            raise ShapjaxError(
                f"the {side} picture has no players in this explanation; "
                f'explain with side="{side}" or order=2.'
            )
        return labels

    def heat_map(self, side: Side) -> np.ndarray:
        """Credit of the player under each input pixel, float [H, W], units of similarity."""
        return self.heat(side)[self.players(side)]

    @property
    def inefficiency(self) -> float:
        """How far all coefficients of size >= 1 are from summing to v(N) - v(empty)."""
        total = sum(float(np.sum(c)) for c in self.interactions.coefficients[1:])
        return abs(total - (self.v_grand - self.v_empty))

    def to_json(self) -> str:
        """All numbers, the label maps and the names as one JSON object.

        ``coefficients`` is a list for each size of coalitions, in lexicographic order;
        ``credit`` and ``cross`` are the attributes of that name; ``standard_errors`` is like
        ``coefficients``, where they are known.
        """
        from shapjax.explainers.exports import to_json

        return to_json(self)

    def to_shapiq(self) -> Any:
        """The interactions as a ``shapiq.InteractionValues``; see ``Interactions.to_shapiq``."""
        return self.interactions.to_shapiq()

    def to_shap(self, side: Side = "retrieved") -> Any:
        """The credit in one picture as a ``shap.Explanation``, which ``shap.image_plot`` draws.

        Of pictures values are [1, S, S, 3], each part's credit spread over its pixels and
        channels, and data is the picture; of texts values are [n], and data the words.

        Raises:
            ShapjaxError: shap is not installed, or that picture has no players.
        """
        from shapjax.explainers.exports import to_shap

        return to_shap(self, side)

    def _repr_html_(self) -> str:
        """What a notebook shows: credit over both items, and the numbers."""
        from shapjax.explainers.exports import to_html

        return to_html(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to ``path`` as an npz archive (no pickle)."""
        arrays = {f"interactions/{k}": a for k, a in self.interactions.to_arrays().items()}
        for name in _ARRAYS:
            array = getattr(self, name)
            if array is not None:
                arrays[name] = array
        header = {name: getattr(self, name) for name in _SCALARS}
        header |= {name: getattr(self, name) for name in ("query_names", "retrieved_names")}
        save_npz(path, {**arrays, "explanation": np.array(json.dumps(header))})

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Explanation:
        """Read what ``save`` wrote.

        Raises:
            ShapjaxError: the file cannot be read or is not an explanation.
        """
        arrays = load_npz(path)
        prefix = "interactions/"
        own = {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
        try:
            header = json.loads(str(arrays["explanation"]))
            scalars = {name: kind(header[name]) for name, kind in _SCALARS.items()}
            names = {
                side: None if given is None else tuple(map(str, given))
                for side in ("query_names", "retrieved_names")
                for given in [header.get(side)]
            }
            for name in _ARRAYS:
                _require_layout(name, arrays.get(name))
        # A header may be any JSON: numbers without bound, lists without bottom.
        except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
            raise ShapjaxError(
                f"{path} is an npz archive but not an explanation; give one written by shapjax."
            ) from None
        return Explanation(
            **names,
            interactions=Interactions.from_arrays(own, str(path)),
            **{name: arrays.get(name) for name in _ARRAYS},
            **scalars,
        )


def _require_layout(name: str, array: np.ndarray | None) -> None:
    """Refuse what is no label map, or no picture, with a ValueError."""
    if array is None:
        return
    if name.endswith("_players"):
        fits = array.dtype.kind in "iu" and array.ndim == 2 and array.size and array.min() >= 0
    else:
        fits = array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3
    if not fits:
        raise ValueError(name)


_ARRAYS = ("query_players", "retrieved_players", "query_picture", "retrieved_picture")

_SCALARS = {
    "method": str,
    "backbone": str,
    "similarity": float,
    "v_grand": float,
    "v_empty": float,
    "evaluations": int,
    "seconds": float,
}
