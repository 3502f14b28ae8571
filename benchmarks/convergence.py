"""How estimators converge: error, precision of the strongest and wall time against evaluations.

    python benchmarks/convergence.py [--quick] [--readme] [--json]
        [--families NAME ...] [--methods NAME ...] [--again]
        [--index NAME] [--order K] [--seeds N] [--patience SECONDS] [--out DIR]
        [--squeezenet WEIGHTS --pictures FOLDER]

Every seed is a game of its own and a PRNG key of its own. Error is the mean squared error of the
coefficients of the largest size over the variance of the exact ones, so that a constant answer
has 1 or more; precision is the share of the strongest 10 (by magnitude, a third of all where there
are fewer than 30) that are among the strongest 10 of the estimate. Methods are all of
``shapjax.estimators.method_names`` that estimate the index, the paper's baseline
``permutation-by-sets``, and shapiq's where that is installed.

Finished estimates go to DIR/results.jsonl, each on the disk before the next is begun. The same
command goes on where it was interrupted, however hard; ``--again`` makes what it covers anew.
Tables and figures are of all that the file holds, so that one method can be re-run alone.

Wall time leaves compilation out: every shape is run once before it is timed. The estimators of
the paper's figures and the other kernel regressions know beforehand what they will ask, so all
seeds of a budget are one compiled program under ``vmap`` (``compiled.py``); the first seed is also
estimated by ``shapjax.estimate``, which is timed and must agree. What the others do next depends on
what they have seen, or on how many coalitions of a size were drawn; they loop over the seeds, as
long as ``--patience`` (seconds of CPU time) allows: beyond it, and never before five seeds, a
budget has fewer seeds than asked for, and a budget of which five seeds would take longer is left
out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import compiled
import convergence_figures
import games
import jax
import jax.numpy as jnp
import numpy as np
import peers_shapiq
import summary
from results import Results, Row
from tables import markdown
from tqdm import tqdm

import shapjax as sj
from shapjax.core.errors import ShapjaxError
from shapjax.core.files import write_whole

TOP = 10
LEAST_SEEDS = 5
AGREEMENT = 1e-6
"""Largest difference of a sweep from the same estimate alone, in deviations of the exact values."""

README = Path(__file__).parents[1] / "README.md"
FIGURES = Path(__file__).parent / "figures"
MARKS = ("<!-- convergence.py writes from here -->", "<!-- to here -->")
VALUE_MARKS = ("<!-- convergence.py --index SV writes from here -->", "<!-- values to here -->")

Game = Callable[[np.ndarray], np.ndarray]
Estimate = Callable[[Game, int, int, int], np.ndarray]
"""(value function, players, budget, seed) to the top coefficients."""


class Task(NamedTuple):
    """One family, method and budget: what runs together."""

    family: games.Family
    method: str
    budget: int


class _Asked(Exception):
    """Raised by a game that only wants to know whether it would be asked."""


def estimators(index: str, order: int) -> tuple[dict[str, Estimate], dict[str, str]]:
    """Every method that estimates the index, by name, and why the others do not.

    An estimator refuses what it cannot do before it asks for anything, so nothing is computed.
    """

    def ask(masks: np.ndarray) -> np.ndarray:
        raise _Asked

    found, refused = {}, {}
    for name in sj.estimators.method_names():

        def estimate(game: Game, n: int, budget: int, seed: int, name: str = name) -> np.ndarray:
            answer = sj.estimate(game, n, index, order, budget, name, key=seed, traceable=False)
            return np.asarray(answer.of_size(order))

        try:
            estimate(ask, 6, 64, 0)
        except _Asked:
            found[name] = estimate
        except (ShapjaxError, ImportError) as error:
            refused[name] = str(error)
    return found | peers_shapiq.peers(index, order), refused


def lookup(table: np.ndarray) -> Game:
    """The value function of a table, float64 [2**n]."""
    bits = 1 << np.arange(len(table).bit_length() - 1)
    return lambda masks: table[masks @ bits]


class Bench:
    """Runs tasks and keeps what they find."""

    def __init__(self, results: Results, options: argparse.Namespace) -> None:
        """Results go to ``results``; ``options`` are those of the command line."""
        self._results, self._options = results, options
        self._index, self._order = options.index, options.order
        self._estimators, self.refused = estimators(self._index, self._order)
        self._warm: set[tuple[str, int, int]] = set()
        self._games: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def methods(self) -> list[str]:
        """Names asked for, or all.

        Raises:
            ShapjaxError: one of them does not estimate the index, or is unknown.
        """
        asked = self._options.methods
        for name in asked or ():
            if name not in self._estimators:
                reason = self.refused.get(name, f"expected {', '.join(self._estimators)}.")
                raise ShapjaxError(f"{name} is no method of {self._index} here: {reason}")
        return list(asked or self._estimators)

    def missing(self, task: Task) -> list[int]:
        """Seeds of a task that are still to be estimated."""
        done = {row["seed"] for row in self._rows(task)}
        return [seed for seed in range(self._options.seeds) if seed not in done]

    def _rows(self, task: Task) -> list[Row]:
        rows = self._results.rows(
            family=task.family.name,
            method=task.method,
            index=self._index,
            order=self._order,
            budget=task.budget,
        )
        return [row for row in rows if row["identity"] == task.family.identity]

    def run(self, task: Task, advance: Callable[[int], Any]) -> None:
        """Estimate what is missing of a task; ``advance`` hears of every seed that is over."""
        seeds = self.missing(task)
        planned = task.method in compiled.PLANNED and self._index in ("STII", "SV")
        if not seeds:
            return
        try:
            if planned:
                self._sweep(task, seeds, advance)
            else:
                self._loop(task, seeds, advance)
        except ShapjaxError as error:
            # A budget below what the method starts with: final, so it is remembered.
            rest = self.missing(task)
            self._results.append(self._row(task, seed) | {"refused": str(error)} for seed in rest)
            advance(len(rest))

    def _sweep(self, task: Task, seeds: list[int], advance: Callable[[int], Any]) -> None:
        """All seeds by one compiled program; the first one also alone, timed and compared."""
        tables, exact = self._of(task.family)
        first = seeds[0]
        self._warm_up(task, first)
        alone, evaluations, taken = self._alone(task, first)
        arguments = (jnp.asarray(seeds, jnp.uint32), jnp.asarray(tables[seeds]))
        static = {"method": task.method, "order": self._order, "budget": task.budget}
        jax.block_until_ready(compiled.sweep(*arguments, **static))
        begun = time.perf_counter()
        found = jax.block_until_ready(compiled.sweep(*arguments, **static))[self._order]
        share = (time.perf_counter() - begun) / len(seeds)
        found = np.asarray(found)
        difference = np.abs(found[0] - alone).max() / exact[first].std()
        if not difference < AGREEMENT:
            raise RuntimeError(f"{task.method}: a sweep differs by {difference:.1e} from estimate")
        rows = []
        for seed, top in zip(seeds, found, strict=True):
            row = self._row(task, seed) | score(top, exact[seed]) | {"evaluations": evaluations}
            rows.append(row | {"sweep_seconds": share})
        rows[0] |= taken
        self._results.append(rows)
        advance(len(rows))

    def _loop(self, task: Task, seeds: list[int], advance: Callable[[int], Any]) -> None:
        _, exact = self._of(task.family)
        patience = self._options.patience
        if self._slow(task):
            advance(len(seeds))
            return
        self._warm_up(task, seeds[0])
        for place, seed in enumerate(seeds):
            spent = self._spent(task)
            if len(spent) >= LEAST_SEEDS and sum(spent) > patience:
                advance(len(seeds) - place)
                return
            top, evaluations, taken = self._alone(task, seed)
            row = self._row(task, seed) | score(top, exact[seed]) | {"evaluations": evaluations}
            self._results.append([row | taken])
            advance(1)

    def _spent(self, task: Task) -> list[float]:
        """CPU seconds of the estimates made one by one; a busy machine does not inflate them."""
        return [row["cpu_seconds"] for row in self._rows(task) if "cpu_seconds" in row]

    def _slow(self, task: Task) -> bool:
        """Whether the budget before shows that the least number of seeds would take too long."""
        smaller = [budget for budget in task.family.budgets if budget < task.budget]
        for budget in reversed(smaller):
            spent = self._spent(task._replace(budget=budget))
            if spent:
                expected = np.median(spent) * task.budget / budget
                return LEAST_SEEDS * expected > self._options.patience
        # Nothing smaller was estimated: either all was refused, or left out for its time.
        return any(not self._rows(task._replace(budget=budget)) for budget in smaller)

    def _warm_up(self, task: Task, seed: int) -> None:
        shape = (task.method, task.family.n, task.budget)
        if shape not in self._warm:
            self._alone(task, seed)
            self._warm.add(shape)

    def _alone(self, task: Task, seed: int) -> tuple[np.ndarray, int, dict[str, float]]:
        """One estimate: top coefficients, evaluations, and the time it took."""
        tables, _ = self._of(task.family)
        worth, asked = lookup(tables[seed]), 0

        def counted(masks: np.ndarray) -> np.ndarray:
            nonlocal asked
            asked += len(masks)
            return worth(masks)

        begun, cpu = time.perf_counter(), time.process_time()
        top = self._estimators[task.method](counted, task.family.n, task.budget, seed)
        taken = {
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - cpu,
        }
        return np.asarray(top, np.float64), asked, taken

    def _of(self, family: games.Family) -> tuple[np.ndarray, np.ndarray]:
        """Value tables and exact top coefficients of all seeds of a family."""
        if family.name not in self._games:
            tables = family.tables(range(self._options.seeds))
            exact = sj.interactions(jnp.asarray(tables), self._index, self._order)
            self._games = {family.name: (tables, np.asarray(exact.of_size(self._order)))}
        return self._games[family.name]

    def _row(self, task: Task, seed: int) -> Row:
        return {
            "family": task.family.name,
            "identity": task.family.identity,
            "method": task.method,
            "index": self._index,
            "order": self._order,
            "budget": task.budget,
            "seed": seed,
        }


def score(found: np.ndarray, exact: np.ndarray) -> Row:
    """Mean squared error, variance of the exact values and precision of the strongest."""
    count = min(TOP, -(-len(exact) // 3))
    strongest = [set(np.argsort(-np.abs(x), kind="stable")[:count]) for x in (found, exact)]
    return {
        "mse": float(((found - exact) ** 2).mean()),
        "variance": float(exact.var()),
        "precision": len(strongest[0] & strongest[1]) / count,
    }


def tasks(families: Sequence[games.Family], methods: Sequence[str], order: int) -> list[Task]:
    """What is to be run; budgets increase, so that slow methods are known before they get dear."""
    return [
        Task(family, method, budget)
        for family in families
        if family.n >= order
        for method in methods
        for budget in family.budgets
    ]


def run(bench: Bench, todo: Sequence[Task]) -> None:
    """Run all tasks, with a bar that knows how many estimates are left and how long they take."""
    missing = [(task, len(bench.missing(task))) for task in todo]
    with tqdm(total=sum(count for _, count in missing), unit=" estimates", disable=None) as bar:
        for task, count in missing:
            if count:
                bar.set_postfix_str(f"{task.family.name}, {task.method}, {task.budget}")
                bench.run(task, bar.update)


def report(
    records: list[Row], families: dict[str, games.Family], *, index_alone: bool = False
) -> str:
    """The tables, in Markdown; ``index_alone`` keeps to how the default compares."""
    present = {record["family"] for record in records}
    shown = [name for name in families if name in present]
    if not shown:
        return "nothing was estimated"
    at = {}
    for name in shown:
        budgets = sorted({r["budget"] for r in records if r["family"] == name})
        at[name] = budgets[len(budgets) // 2]
    methods = summary.methods_of(records)
    price = summary.price_table(records, shown, methods)
    detail = summary.detail_table(records, shown, at, shown[0])
    seeds = sorted({record["seeds"] for record in records})
    count = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    parts, default = [], summary.default_table(records, shown)
    if default:
        parts += [
            f"Mean error of `{summary.DEFAULT}`, and the least of the others with how many times "
            f"that is (MSE over the variance of the exact values; {count} games):",
            markdown(default),
        ]
    if index_alone:
        return "\n\n".join(parts)
    parts += [
        f"How many times fewer evaluations than `{summary.BASELINE}` a method needs for the same "
        "error (MSE over the variance of the exact values). The first row says how many "
        f"`{summary.BASELINE}` needs for which error. Medians over {count} games:",
        markdown(price),
    ]
    paper = [name for name in convergence_figures.PAPER if name in shown]
    theirs = [name for name in convergence_figures.PAPER_METHODS if name in methods]
    if paper and theirs[:1] == list(convergence_figures.PAPER_METHODS[:1]):
        parts += [
            f"The same against the papers' own baseline `{theirs[0]}`, which they put at 10 times "
            "the evaluations of the kernels:",
            markdown(summary.price_table(records, paper, theirs, theirs[0])),
        ]
    parts += [
        f"Error / precision of the strongest {TOP} at one budget, and ms of one estimate on "
        f"{shown[0]} there, wall / CPU:",
        markdown(detail),
    ]
    swept = summary.sweep_table(records, shown[0])
    if swept:
        parts += [
            f"All seeds as one program under `vmap`, on {shown[0]}: ms of an estimate alone / in "
            "the sweep, by budget:",
            markdown(swept),
        ]
    return "\n\n".join(parts)


def write_readme(text: str, marks: tuple[str, str] = MARKS) -> None:
    """Replace what stands between the marks in the README.

    Raises:
        ShapjaxError: the marks are not there.
    """
    content = README.read_text("utf-8")
    begin, end = (content.find(mark) for mark in marks)
    if not 0 <= begin < end:
        raise ShapjaxError(f"{README} lacks the lines {marks[0]} and {marks[1]}; put them in.")
    changed = content[: begin + len(marks[0])] + f"\n\n{text}\n\n" + content[end:]
    write_whole(README, changed.encode())


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small families and few budgets")
    parser.add_argument("--families", nargs="+", metavar="NAME", help="by default all")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="by default all")
    parser.add_argument("--again", action="store_true", help="make anew what this run covers")
    parser.add_argument("--index", default="STII", metavar="NAME")
    parser.add_argument("--order", type=int, metavar="K", help="by default 2, or 1 for values")
    parser.add_argument("--seeds", type=int, metavar="N", help="games of each family (20)")
    parser.add_argument(
        "--patience", type=float, default=40, metavar="SECONDS", help="CPU, for a method and budget"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="results, tables of games, figures")
    parser.add_argument("--squeezenet", type=Path, metavar="WEIGHTS")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print the medians and quantiles")
    parser.add_argument("--readme", action="store_true", help="write README and its figures")
    options = parser.parse_args(arguments)
    if options.out is None:
        options.out = Path("shapjax-out") / (
            "convergence-quick" if options.quick else "convergence"
        )
    if options.seeds is None:
        options.seeds = 2 if options.quick else 20
    if options.seeds < 1:
        raise ShapjaxError(f"--seeds is {options.seeds}, expected at least 1.")
    return options


def chosen(options: argparse.Namespace) -> dict[str, games.Family]:
    """The families asked for.

    Raises:
        ShapjaxError: one of them is unknown or cannot be made here.
    """
    known, missing = games.families(options.out / "games", options.squeezenet, options.pictures)
    if options.quick:
        known = {
            "relu-networks": games.RELU._replace(budgets=(500,)),
            "random-integers": games.INTEGERS._replace(budgets=(130,)),
        }
    for name in options.families or ():
        if name not in known:
            reason = missing.get(name, f"expected {', '.join(known)}")
            raise ShapjaxError(f"{name} is no family here: {reason}.")
    for name, reason in missing.items():
        if not (options.families or options.quick):
            print(f"left out, {name}: {reason}", file=sys.stderr)
    return {name: known[name] for name in options.families or known}


def bench(options: argparse.Namespace) -> None:
    """Run, draw and print what the command line asks for.

    Raises:
        ShapjaxError: an option is out of range, or a file cannot be used.
    """
    one_player = sj.interactions(jnp.zeros(16), options.index).order == 1
    options.order = options.order or (1 if one_player else 2)
    families = chosen(options)
    results = Results(options.out / "results.jsonl")
    try:
        made = Bench(results, options)
        todo = tasks(list(families.values()), made.methods(), options.order)
        for name, reason in made.refused.items():
            if not options.methods:
                print(f"left out, {name}: {reason}", file=sys.stderr)
        if options.again:
            covered = {(task.family.name, task.method) for task in todo}
            results.drop(
                lambda row: (
                    (row["family"], row["method"]) in covered
                    and (row["index"], row["order"]) == (options.index, options.order)
                )
            )
        run(made, todo)
    finally:
        results.close()
    records = summary.summarise(results.rows(index=options.index, order=options.order))
    main = (options.index, options.order) == ("STII", 2)
    text = report(records, families, index_alone=not main)
    folder = FIGURES if options.readme else options.out
    if main:
        for path in convergence_figures.draw(records, families, folder):
            print(f"drawn: {path}", file=sys.stderr)
    print(json.dumps(records, indent=2) if options.json else text)
    if options.readme:
        write_readme(text, MARKS if main else VALUE_MARKS)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    sj.estimators.register("permutation-by-sets", compiled.permutation_by_sets, overwrite=True)
    try:
        options = options_of(arguments)
        with jax.enable_x64(True):
            bench(options)
    except ShapjaxError as error:
        print(f"convergence.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
