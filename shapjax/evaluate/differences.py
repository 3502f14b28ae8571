"""Methods against one of them, pair by pair.

Pairs differ in how much there is to find, so that the standard errors of two means hide what a
difference within pairs shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shapjax.core.errors import ShapjaxError
from shapjax.evaluate.rows import Row
from shapjax.evaluate.tables import METRICS, counted, in_order, mean_and_error


class Difference(NamedTuple):
    """How far a method is above another on the pairs that both explained.

    Attributes:
        network: the backbone.
        method: name.
        mean: of what the method has more than the other, over pairs.
        standard_error: of the mean; None of a single pair.
        count: pairs.
    """

    network: str
    method: str
    mean: float
    standard_error: float | None
    count: int


def differences(
    rows: Sequence[Row], against: str, metric: str = "faithfulness", order: int = 1
) -> list[Difference]:
    """What every method has more of a metric than one of them, by network.

    Args:
        rows: from ``run`` or ``store.read``, each key once.
        against: the method that the others are held against.
        metric: a column of the rows, with ``order`` a key of ``METRICS``.
        order: of the explanations.

    Raises:
        ShapjaxError: there is no such metric, or no row of that method has it.
    """
    if (metric, order) not in METRICS:
        raise ShapjaxError(
            f"no metric is named {metric!r} at order {order}, expected one of "
            f"{', '.join(f'{name} ({own})' for name, own in METRICS)}."
        )
    alike: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["order"] == order:
            alike.setdefault((row["backbone"], row["method"]), []).append(row)
    groups = {
        key: {row["pair"]: row[metric] for row in some}
        for key, group in alike.items()
        if (some := counted(group, metric))
    }
    networks = [network for network, method in groups if method == against]
    if not networks:
        raise ShapjaxError(
            f"no row of {against} has {metric} of order {order}; hold the others against one of "
            f"{', '.join(in_order({method for _, method in groups})) or 'other rows'}."
        )
    found: list[Difference] = []
    for network in networks:
        theirs = groups[network, against]
        for method in in_order({own for place, own in groups if place == network} - {against}):
            ours = groups[network, method]
            more = [ours[pair] - theirs[pair] for pair in ours if pair in theirs]
            if more:
                found.append(Difference(network, method, *mean_and_error(more), len(more)))
    return found
