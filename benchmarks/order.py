"""Why methods stand in another order here than in the papers, as far as it can be measured.

    python benchmarks/order.py --root DIR [--backbone NAME] [--weights PATH] [--pairs CSV]
        [--count 20] [--json]

``DIR`` holds Pascal VOC or a part of it; of ``CSV``, by default the pairs of the README's tables,
the first ``--count`` are taken. Printed are means over pairs with standard errors:

* first-order faithfulness of integrated gradients on pixels, of the same averaged over
  superpixels, of pixels and of 7x7 blocks in random order, and of Gram SAM: how much of it is
  the scatter of the censored pixels;
* what SAM misses at first order, and v(empty), the similarity of the query with the blurred
  picture: what it would miss without a background, since its coefficients then sum to v(N);
* the length of the embedding of a blurred picture, over that of the picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tables import print_records
from tqdm import tqdm

import shapjax as sj
from shapjax.backbones.record import Backbone
from shapjax.core.checks import whole_number
from shapjax.evaluate import metrics
from shapjax.evaluate.datasets import open_dataset
from shapjax.evaluate.pairs import PAIRS, read_pairs
from shapjax.evaluate.run import Judge, Loaded, pair_reader
from shapjax.evaluate.tables import mean_and_error
from shapjax.games.backgrounds import background
from shapjax.games.match import embeddings_of
from shapjax.games.players import superpixels

KEPT = Path(__file__).parents[1] / "docs" / "evaluation" / "maps" / PAIRS
BLOCK = 7
IG_EVALUATIONS, GRAM_EVALUATIONS = 50, 5000


def averaged(heat: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A map [S, S] with every pixel at the mean of its part."""
    sums = np.bincount(labels.ravel(), heat.ravel())
    return (sums / np.bincount(labels.ravel()))[labels]


def measured(model: Backbone, loaded: Loaded, seed: int) -> dict[str, float]:
    """Every number of one pair."""
    picture, query = (model.resize(one, fit="stretch") for one in (loaded.retrieved, loaded.query))
    blur = background("blur", picture, model)
    embedded = np.asarray(
        embeddings_of(model, jnp.asarray(np.stack([query, picture, blur]), jnp.float32)), float
    )
    lengths = np.linalg.norm(embedded, axis=1)
    unit = embedded / lengths[:, None]

    def similarity(pictures: np.ndarray) -> np.ndarray:
        found = np.asarray(embeddings_of(model, jnp.asarray(pictures, jnp.float32)), float)
        return found @ unit[0] / np.linalg.norm(found, axis=1)

    def explained(method: str, budget: int | None) -> sj.Explanation:
        return sj.explain(
            model, loaded.query, loaded.retrieved, method=method, order=1, budget=budget
        )

    def faithfulness(heat: np.ndarray) -> float:
        return metrics.faithfulness(similarity, picture, heat, blur)

    judge = Judge(model, loaded)
    gradients = explained("ig", IG_EVALUATIONS)
    heat = gradients.heat_map("retrieved")
    size = len(picture)
    random = np.random.default_rng(seed)
    blocks = random.random((-(-size // BLOCK),) * 2).repeat(BLOCK, 0).repeat(BLOCK, 1)
    sam = explained("sam", None)
    return {
        "ig": judge.first_order(gradients)["faithfulness"],
        "ig over superpixels": faithfulness(averaged(heat, superpixels(picture))),
        "random pixels": faithfulness(random.random((size, size))),
        f"random {BLOCK}x{BLOCK} blocks": faithfulness(blocks[:size, :size]),
        "gram-sam": judge.first_order(explained("gram-sam", GRAM_EVALUATIONS))["faithfulness"],
        "inefficiency of sam": sam.inefficiency,
        "v(empty)": float(unit[2] @ unit[0]),
        "length of the blurred": float(lengths[2] / lengths[1]),
    }


def summary(numbers: list[dict[str, float]]) -> list[dict[str, Any]]:
    """A record for each number: its mean over pairs with the standard error."""
    return [
        {
            "what": name,
            "mean": round(mean, 3),
            "standard error": None if error is None else round(error, 3),
            "pairs": len(numbers),
        }
        for name in numbers[0]
        for mean, error in [mean_and_error([one[name] for one in numbers])]
    ]


def main() -> None:
    """Measure the pairs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, metavar="DIR")
    parser.add_argument("--backbone", default="shapjax_tiny", choices=sj.backbones.names())
    parser.add_argument("--weights", metavar="PATH")
    parser.add_argument("--pairs", type=Path, default=KEPT, metavar="CSV")
    parser.add_argument("--count", type=int, default=20, metavar="N")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    model = sj.backbones.load(options.backbone, weights=options.weights)
    dataset = open_dataset("voc", options.root)
    load = pair_reader(dataset, model.preprocessing.size)
    count = whole_number(options.count, "count", low=1)
    pairs = read_pairs(options.pairs, dataset)[:count]
    numbers = [measured(model, load(pair), seed) for seed, pair in enumerate(tqdm(pairs))]
    print_records(summary(numbers), as_json=options.json)


if __name__ == "__main__":
    main()
