"""The plan of a run: what its rows depend on, as its folder keeps it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shapjax.core.errors import ShapjaxError
from shapjax.core.files import printable

MANIFEST = "manifest.json"

TOLD = ("root", "weights", "mined")
"""What a plan tells, but rows do not depend on: where the files lie whose content they do, and how
the pairs were found that the run has."""


def read_plan(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The plan of a run.

    Raises:
        ShapjaxError: there is none, or it is damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        plan = json.loads(path.read_bytes())
        if not isinstance(plan, dict):
            raise ValueError
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "damaged JSON"
        raise ShapjaxError(
            f"{path} cannot be read as the plan of a run ({reason}); choose another folder."
        ) from None
    return plan


def require_same(old: dict[str, Any], new: dict[str, Any], place: Path) -> None:
    """See to it that a run goes on by the plan that it began with.

    Raises:
        ShapjaxError: anything that rows depend on differs.
    """
    for name in dict.fromkeys([*old, *new]):
        if name not in TOLD and old.get(name) != new.get(name):
            raise ShapjaxError(
                f"{place} holds a run with {printable(name):.200} {_shown(old.get(name))}, but now "
                f"it is {_shown(new.get(name))}; choose another folder, or ask for the same."
            )


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        return "something else"
    return text if len(text) <= 300 else f"{text[:300]}..."


def tells_all(plan: dict[str, Any]) -> bool:
    """Whether a plan says everything that its run can be asked for again by."""
    kinds = {"dataset": str, "root": str, "seed": int, "backbones": dict, "methods": list}
    if not all(isinstance(plan.get(name), kind) for name, kind in kinds.items()):
        return False
    weights = plan.get("weights", {})
    return (
        len(plan["backbones"]) > 0
        and isinstance(weights, dict)
        and all(isinstance(path, str) for path in weights.values())
        and _is_mined(plan.get("mined"))
        and all(map(_is_task, plan["methods"]))
    )


def _is_mined(found: Any) -> bool:
    """Whether this says by what pairs are found, or that they were listed."""
    if found is None:
        return True
    return (
        isinstance(found, dict)
        and (found.get("pairs") is None or isinstance(found["pairs"], int))
        and isinstance(found.get("by"), str)
        and isinstance(found.get("weights"), str)
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


def require_one_table(plans: Sequence[tuple[str | os.PathLike[str], dict[str, Any]]]) -> None:
    """See to it that rows of several runs may be shown, and averaged, together.

    All must be on one data set; two that explain one network must have its weights, the seed, the
    precision, and the budget of a method in common. Their pairs and versions may differ.

    Args:
        plans: the folder and the plan of each run.

    Raises:
        ShapjaxError: they have not, or a plan is not whole.
    """
    for at, (folder, plan) in enumerate(plans):
        if not tells_all(plan):
            raise ShapjaxError(
                f"{Path(folder) / MANIFEST} does not tell all settings of its run; name another."
            )
        for before, other in plans[:at]:
            for name, new, old in _common(plan, other):
                if new != old:
                    raise ShapjaxError(
                        f"{folder} holds a run with {printable(name):.200} {_shown(new)}, but "
                        f"{before} one with {_shown(old)}; show them in tables of their own."
                    )


def _common(plan: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What two runs must have in common to be shown together: its name, and what each has."""
    yield "dataset", plan["dataset"], other["dataset"]
    shared = plan["backbones"].keys() & other["backbones"].keys()
    for network in sorted(shared):
        yield f"weights of {network}", plan["backbones"][network], other["backbones"][network]
    if shared:
        for name in ("seed", "precision"):
            yield name, plan.get(name), other.get(name)
        budgets = [
            {(method, order): budget for method, order, budget in one["methods"]}
            for one in (plan, other)
        ]
        for task in sorted(budgets[0].keys() & budgets[1].keys()):
            yield f"budget of {task[0]} (order {task[1]})", *(own[task] for own in budgets)
