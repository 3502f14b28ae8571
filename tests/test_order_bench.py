"""The benchmark that looks for why methods stand in the order in which they do."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_network import toy

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import order

from shapjax.evaluate.pairs import Pair
from shapjax.evaluate.run import Loaded


def test_a_map_is_averaged_over_parts():
    labels = np.array([[0, 0], [1, 0]])
    found = order.averaged(np.array([[1.0, 2.0], [5.0, 6.0]]), labels)
    np.testing.assert_allclose(found, [[3, 3], [5, 3]])


def test_means_are_over_pairs():
    first, second = order.summary([{"a": 1.0, "b": 0.0}, {"a": 2.0, "b": 0.0}])
    assert first == {"what": "a", "mean": 1.5, "standard error": 0.5, "pairs": 2}
    assert second["standard error"] == 0
    assert order.summary([{"a": 1.0}])[0]["standard error"] is None


def test_numbers_of_a_pair(x64):
    """A picture with itself, of one colour: its blur is itself, so nothing is lost nor missing."""
    plain = Image.new("RGB", (16, 16), (120, 200, 90))
    pair = Pair("a", "b", "c", 1.0)
    found = order.measured(toy(), Loaded(pair, plain, plain, None), 0)
    assert found["v(empty)"] == pytest.approx(1, abs=1e-6)
    assert found["length of the blurred"] == pytest.approx(1, abs=1e-6)
    drops = [value for name, value in found.items() if "length" not in name and "v(" not in name]
    assert len(drops) == 6
    np.testing.assert_allclose(drops, 0, atol=1e-5)
    # Noise is not: a blurred picture is not the picture, and something is lost.
    noise = np.random.default_rng(0).integers(50, 256, (2, 16, 16, 3), np.uint8)
    query, retrieved = map(Image.fromarray, noise)
    found = order.measured(toy(), Loaded(pair, query, retrieved, None), 0)
    assert all(map(np.isfinite, found.values()))
    assert found["v(empty)"] < 1 - 1e-5
    assert max(map(abs, found.values())) > 1e-3
