"""Going on with a run from what its folder holds: the plan and the pairs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from shapjax.core.errors import ShapjaxError
from shapjax.evaluate.pairs import PAIRS
from shapjax.evaluate.plan import MANIFEST, read_plan, tells_all
from shapjax.evaluate.run import Settings


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
    if not tells_all(plan):
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
