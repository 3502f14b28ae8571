"""Redraw figures 2, 3, 4, 5, 8, 9 and 10 of Hamilton et al. 2022 from this code.

    python -m benchmarks.figures [--out DIR] [--pictures FOLDER] [--backbone NAME --weights PATH]
        [--budget N] [--pairs N] [--seeds N] [--only NUMBER ...] [--quick]

2 and 9: first-order methods, Integrated Gradients on pixels among them, on one pair and on several.
3: why a result rather than the second best. 4: regions of a query carried over to its result by
SAM. 8: a similarity that ignores the left half of the picture. 5 and 10: convergence of the
Shapley-Taylor estimators on random ReLU networks and random Boolean functions; their estimates are
kept in DIR and not made twice.

Queries are spread evenly over the folder, results are the nearest of its pictures by the network.
Without ``--pictures`` they are the photographs of Pascal VOC in ``$SHAPJAX_DATA``, and where there
are none drawn scenes, each in several views. Methods that run the network on masked pictures take
``--budget`` evaluations (the paper's are 5,000). ``--quick`` draws all from few evaluations.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import compiled
import convergence
import convergence_figures
import explainers
import games
import jax
import numpy as np
import summary
from PIL import Image
from results import Results

import shapjax as sj
from shapjax.backbones.record import Backbone
from shapjax.evaluate.published import METHODS_OF_PAPER
from shapjax.games.folder import embed_folder
from shapjax.report.layouts import save_counterfactual, save_methods, save_regions
from shapjax.training.scenes import scene_pair

METHODS = ("ig", *METHODS_OF_PAPER)
"""Those of figure 2: the columns of the paper's tables, and Integrated Gradients on pixels."""

ON_PICTURES = METHODS_OF_PAPER[:4]
"""Those that run the network on every coalition."""

OUT = Path("shapjax-out") / "figures"

CONVERGENCE = {5: games.RELU, 10: games.BOOLEAN}
FIGURES = (2, 3, 4, 5, 8, 9, 10)


class Triple(NamedTuple):
    """A query, its result and the second best.

    Attributes:
        query: the picture searched with.
        found: the nearest of the others.
        other: the one after that.
    """

    query: Image.Image
    found: Image.Image
    other: Image.Image


def triples(model: Backbone, folder: Path, count: int) -> list[Triple]:
    """Queries spread over the pictures of a folder, and what is nearest to each.

    Raises:
        ShapjaxError: the folder has fewer than three pictures.
    """
    there = embed_folder(model, folder)
    if len(there.files) < 3:
        raise sj.ShapjaxError(f"{folder} has {len(there.files)} pictures, expected at least 3.")
    # Evenly over the folder, both ends left out.
    chosen = np.linspace(0, len(there.files) - 1, count + 2).astype(int)[1:-1]
    found = []
    for place in chosen:
        similarities = there.vectors @ there.vectors[place]
        similarities[place] = -np.inf
        best = np.argsort(-similarities, kind="stable")[:2]
        paths = [there.files[n] for n in (place, *best)]
        found.append(Triple(*map(sj.load_image, paths)))
    return found


def write_scenes(folder: Path, count: int = 6) -> None:
    """Drawn scenes in two views each."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for place in range(count):
        for view, pixels in zip("ab", scene_pair(rng)[:2], strict=True):
            Image.fromarray(pixels).save(folder / f"{place}{view}.png")


def draw_methods(
    model: Backbone, pairs: Sequence[Triple], budgets: tuple[int, int], path: Path
) -> None:
    """Figures 2 and 9: a row for each pair, a panel for each method.

    Args:
        model: the network.
        pairs: what to explain.
        budgets: evaluations on masked pictures, and on feature maps.
        path: where to write.
    """
    rows = []
    for triple in pairs:
        found = []
        for method in METHODS:
            options: dict = {"method": method, "order": 1}
            if method in (*ON_PICTURES, "ig-sam", "kernel-sam"):
                options["budget"] = budgets[0 if method in ON_PICTURES else 1]
            found.append(sj.explain(model, triple.query, triple.found, **options))
            print(f"{path.name}: {method}, {found[-1].seconds:.1f} s", file=sys.stderr)
        rows.append((triple.query, triple.found, found))
    save_methods(rows, path)


def draw_convergence(numbers: Sequence[int], seeds: int, budgets: int, out: Path) -> None:
    """Figures 5 and 10.

    Args:
        numbers: which.
        seeds: games of each.
        budgets: how many numbers of evaluations, from the smallest on.
        out: folder of the figures, and of the estimates.
    """
    sj.estimators.register("permutation-by-sets", compiled.permutation_by_sets, overwrite=True)
    methods = list(convergence_figures.PAPER_METHODS)
    results = Results(out / "convergence.jsonl")
    asked = argparse.Namespace(
        index="STII", order=2, methods=methods, seeds=seeds, patience=40, again=False
    )
    bench = convergence.Bench(results, asked)
    families = {
        number: CONVERGENCE[number]._replace(budgets=CONVERGENCE[number].budgets[:budgets])
        for number in numbers
    }
    with jax.enable_x64(True):
        convergence.run(bench, convergence.tasks(list(families.values()), methods, 2))
    results.close()
    records = summary.summarise(results.rows(index="STII", order=2))
    for number, family in families.items():
        convergence_figures.draw_paper(records, family, out / f"figure_{number}.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    at_hand = games.photographs()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"{OUT}")
    parser.add_argument(
        "--pictures",
        type=Path,
        default=at_hand if at_hand.is_dir() else None,
        metavar="FOLDER",
        help="by default those of $SHAPJAX_DATA, else drawn scenes",
    )
    parser.add_argument("--backbone", default="shapjax_tiny", choices=sj.backbones.names())
    parser.add_argument("--weights", metavar="PATH")
    parser.add_argument("--budget", type=int, metavar="N", help="on masked pictures (5,000)")
    parser.add_argument("--pairs", type=int, metavar="N", help="of figure 9 (4)")
    parser.add_argument("--seeds", type=int, metavar="N", help="of figures 5 and 10 (20)")
    parser.add_argument("--only", type=int, nargs="+", choices=FIGURES, default=FIGURES)
    parser.add_argument("--quick", action="store_true", help="few evaluations, pairs and seeds")
    options = parser.parse_args(arguments)
    quick = options.quick
    options.pairs = options.pairs or (1 if quick else 4)
    options.seeds = options.seeds or (2 if quick else 20)
    masked = options.budget or (300 if quick else 5_000)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        draw(options, masked)
    except sj.ShapjaxError as error:
        print(f"figures.py: {error}", file=sys.stderr)
        return 2
    return 0


def draw(options: argparse.Namespace, masked: int) -> None:
    """All figures asked for."""
    quick, out, only = options.quick, options.out, set(options.only)

    def path(number: int) -> Path:
        return out / f"figure_{number}.png"

    if only - CONVERGENCE.keys():
        model = sj.backbones.load(options.backbone, weights=options.weights)
        folder = options.pictures or out / "scenes"
        if options.pictures is None:
            write_scenes(folder)
        pairs = triples(model, folder, 1 + options.pairs)
        first = pairs[0]
        budgets = masked, 500 if quick else 5_000
        if 2 in only:
            draw_methods(model, pairs[:1], budgets, path(2))
        if 3 in only:
            found = sj.explain(model, first.query, first.found, order=1, rather_than=first.other)
            save_counterfactual(found, first.query, first.found, first.other, path(3))
        if 4 in only:
            found = sj.explain(model, first.query, first.found, method="sam")
            save_regions(found, first.query, first.found, path(4))
        if 8 in only:
            kernel = (500,) if quick else explainers.KERNEL_BUDGETS
            with jax.enable_x64(True):
                explainers.dummy(model, (first.query, first.found), "blur", path(8), kernel)
        if 9 in only:
            draw_methods(model, pairs[1:], budgets, path(9))
    if only & CONVERGENCE.keys():
        numbers = sorted(only & CONVERGENCE.keys())
        draw_convergence(numbers, options.seeds, 2 if quick else 7, out)
    for number in sorted(only):
        print(f"drawn: {path(number)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
