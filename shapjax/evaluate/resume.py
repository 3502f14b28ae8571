"""Going on with a run from what its folder holds: the plan, and the pairs or how they are found."""

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
        "out": str(folder),
        **_pairs(folder, plan),
    }
    return argparse.Namespace(**{**vars(options), **found})


def _pairs(folder: Path, plan: dict[str, Any]) -> dict[str, str]:
    """Options that give the pairs of a run: its list, or where that is lost what it came from."""
    pairs, mined = folder / PAIRS, plan.get("mined")
    if pairs.exists():
        return {"pairs": str(pairs)}
    if mined is None:
        raise ShapjaxError(
            f"{pairs} is not there, so nobody knows what to explain; copy it from the folder of "
            "process 0, or give the whole command."
        )
    count, name, weights = (mined[key] for key in ("pairs", "by", "weights"))
    explained = weights == plan.get("weights", {}).get(name, "")
    return {
        "pairs": "all" if count is None else str(count),
        "paired_by": name if explained else f"{name}={weights}",
    }


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
