"""Explanation methods against the packages that are known for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.explainers.gradients import integrated_gradients
from shapjax.explainers.partition_shap import Rectangle, partition_shap
from shapjax.explainers.transport import sinkhorn

pytestmark = pytest.mark.peers


def linkage(height, width):
    """The hierarchy of halved rectangles as a linkage matrix: both children, distance, size."""
    rows = []

    def add(part):
        if part.pixels == 1:
            return part.top * width + part.left
        a, b = map(add, part.halves())
        rows.append([a, b, 1.0, part.pixels])
        return height * width + len(rows) - 1

    add(Rectangle(0, height, 0, width))
    return np.array(rows)


@pytest.mark.parametrize("budget", [10, 30, 90, 10_000])
def test_partition_shap_is_that_of_the_shap_package(budget):
    """On the same hierarchy, at full budget and while it is divided only in part."""
    shap = pytest.importorskip("shap")
    height, width = 4, 6
    n = height * width
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(n, 8)), rng.normal(size=8)

    def game(masks):
        return np.tanh(np.asarray(masks, float) @ first / 3) @ second

    masker = shap.maskers.Partition(np.zeros((1, n)), clustering=linkage(height, width))
    explainer = shap.explainers.PartitionExplainer(game, masker)
    theirs = explainer(np.ones((1, n)), max_evals=budget, batch_size=4, silent=True).values[0]
    ours, _ = partition_shap(game, height, width, budget=budget, chunk_size=4)
    np.testing.assert_allclose(ours.ravel(), theirs, atol=1e-10)


def test_integrated_gradients_are_captum_s(x64):
    """A convolution, a nonlinearity, pooling and a cosine, written in both."""
    torch = pytest.importorskip("torch")
    captum = pytest.importorskip("captum.attr")
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(5, 3, 3, 3)) / 3
    other = rng.random(5)
    picture, background = rng.random((2, 3, 9, 8))

    def in_torch(x):
        maps = torch.nn.functional.softplus(torch.nn.functional.conv2d(x, torch.tensor(kernel)))
        pooled = maps.mean(dim=(2, 3))
        return torch.nn.functional.cosine_similarity(pooled, torch.tensor(other)[None])

    def in_jax(x):
        maps = jax.nn.softplus(jax.lax.conv(x[None], jnp.asarray(kernel), (1, 1), "VALID"))
        pooled = maps.mean(axis=(2, 3))[0]
        return pooled @ other / jnp.linalg.norm(pooled) / np.linalg.norm(other)

    theirs = captum.IntegratedGradients(in_torch).attribute(
        torch.tensor(picture)[None],
        baselines=torch.tensor(background)[None],
        n_steps=20,
        method="gausslegendre",
    )
    ours = integrated_gradients(in_jax, jnp.asarray(picture), jnp.asarray(background), 20)
    np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-12)


def test_the_transport_plan_is_ott_s(x64):
    """Sinkhorn's scaling against ott-jax, with the same entropy and sums."""
    geometry = pytest.importorskip("ott.geometry.geometry")
    linear = pytest.importorskip("ott.problems.linear.linear_problem")
    solver = pytest.importorskip("ott.solvers.linear.sinkhorn")
    rng = np.random.default_rng(2)
    credit, rows, columns = rng.normal(size=(5, 7)), rng.random(5), rng.random(7)
    rows, columns = rows / rows.sum(), columns / columns.sum()
    ours = sinkhorn(np.exp(credit / 0.3), rows, columns)
    problem = linear.LinearProblem(geometry.Geometry(-credit, epsilon=0.3), rows, columns)
    theirs = solver.Sinkhorn(threshold=1e-10, max_iterations=20_000)(problem).matrix
    np.testing.assert_allclose(ours, theirs, atol=1e-8)
