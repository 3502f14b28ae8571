"""Going on with a run from what its folder holds: the plan and the pairs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from shapjax.core.errors import ShapjaxError
from shapjax.evaluate.mining import PAIRS
from shapjax.evaluate.run import Settings
from shapjax.evaluate.store import MANIFEST, read_plan


def resumed(options: argparse.Namespace) -> argparse.Namespace:
    """Options of ``shapjax evaluate --resume DIR``, with the settings of the run in that folder.

    Raises:
        ShapjaxError: settings are given as well, or the folder does not hold all of a run's.
    """
    folder = Path(options.resume)
    if options.given:
        raise ShapjaxError(
            f"got {', '.join(dict.fromkeys(options.given))} beside --resume, which takes all "
            "settings from the run; leave one or the other out."
        )
    plan = read_plan(folder)
    pairs = folder / PAIRS
    if not pairs.exists():
        raise ShapjaxError(
            f"{pairs} is not there, so nobody knows what to explain; copy it from the folder of "
            "process 0, or give the whole command."
        )
    if not _tells_all(plan):
        raise ShapjaxError(
            f"{folder / MANIFEST} does not tell all settings of its run; give the whole command."
        )
    weights = plan.get("weights", {})
    settings = settings_of(plan)
    found = {
        "dataset": plan["dataset"],
        "root": plan["root"],
        "backbones": list(plan["backbones"]),
        "weights": [weights.get(name, "-") for name in plan["backbones"]],
        "methods": list(settings.methods),
        "orders": list(settings.orders),
        "seed": settings.seed,
        "budget": settings.budget,
        "superpixel_budget": settings.superpixel_budget,
        "pairs": str(pairs),
        "out": str(folder),
    }
    return argparse.Namespace(**{**vars(options), **found})


def settings_of(plan: dict[str, Any]) -> Settings:
    """The settings that have the methods, orders and budgets of a plan.

    Raises:
        ShapjaxError: a method is none of ours, or an order or a budget is out of bounds.
    """
    tasks = plan["methods"]
    methods = tuple(dict.fromkeys(method for method, _, _ in tasks))
    orders = tuple(sorted({order for _, order, _ in tasks}))
    Settings(methods, orders)  # only of known methods can be asked what they play on

    def most(on_maps: bool) -> int | None:
        """The largest that one has: each has the smaller of the run's and its own."""
        budgets = [budget for *task, budget in tasks if Settings.on_maps(*task) is on_maps]
        return max((budget for budget in budgets if budget is not None), default=None)

    return Settings(methods, orders, plan["seed"], most(True), most(False))


def _tells_all(plan: dict[str, Any]) -> bool:
    kinds = {"dataset": str, "root": str, "seed": int, "backbones": dict, "methods": list}
    if not all(isinstance(plan.get(name), kind) for name, kind in kinds.items()):
        return False
    weights = plan.get("weights", {})
    return (
        len(plan["backbones"]) > 0
        and isinstance(weights, dict)
        and all(isinstance(path, str) for path in weights.values())
        and all(map(_is_task, plan["methods"]))
    )


def _is_task(found: Any) -> bool:
    """Whether this is a method, an order and a budget or None."""
    return (
        isinstance(found, list)
        and len(found) == 3
        and isinstance(found[0], str)
        and isinstance(found[1], int)
        and (found[2] is None or isinstance(found[2], int))
    )
