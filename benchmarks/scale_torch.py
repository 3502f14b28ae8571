"""Kernel SAM and Kernel SHAP on one GPU, here and in PyTorch, for ``benchmarks/scale.py --torch``.

Both sides draw coalitions by the kernel's law of sizes, take their worths in batches and solve the
regression with its constraints eliminated. PyTorch solves the dense normal equations in float32,
which is the usual way; this package never forms them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import shapjax as sj
from shapjax.core.errors import ShapjaxError
from shapjax.estimators.sampling import constrained_masks, size_law
from shapjax.explainers.batch import explained_maps
from shapjax.games.feature_pairs import FeaturePair

KERNEL_SAM, KERNEL_SHAP = 40_000, 20_000
SIDE, CHANNELS = 7, 2048
PAIRS = 8
BATCH = 250


def why_not() -> str | None:
    """Why the comparison does not run on this machine; None if it does."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed: pip install 'shapjax[peers]'"
    if jax.default_backend() != "gpu" or not torch.cuda.is_available():
        return (
            f"JAX computes on {jax.default_backend()} and PyTorch sees "
            f"{torch.cuda.device_count()} GPUs; both need the same one"
        )
    return None


def compare(weights: str | None) -> list[dict[str, Any]]:
    """Records of both, or one that says why there are none."""
    reason = why_not()
    if reason is not None:
        return [{"comparison with PyTorch": f"does not run: {reason}"}]
    records = [
        _record("kernel-sam", KERNEL_SAM, _ours_sam(), PAIRS),
        _record("kernel-sam, PyTorch", KERNEL_SAM, _theirs_sam("cuda", KERNEL_SAM), PAIRS),
    ]
    try:
        ours, theirs = _ours_shap(weights), _theirs_shap("cuda")
    except (ShapjaxError, ImportError) as error:
        return [*records, {"method": f"kernel-shap does not run: {error}"}]
    records.append(_record("kernel-shap, ResNet50", KERNEL_SHAP, ours, 1))
    records.append(_record("kernel-shap, ResNet50, PyTorch", KERNEL_SHAP, theirs, 1))
    return records


def _record(name: str, budget: int, run: Callable[[], Any], pairs: int) -> dict[str, Any]:
    """Times of a second run, without compilation."""
    run()
    begun = time.perf_counter()
    run()
    seconds = time.perf_counter() - begun
    return {
        "method": name,
        "coalitions": budget,
        "device": jax.devices()[0].device_kind,
        "pairs a second": float(f"{pairs / seconds:.3g}"),
        "s a pair": float(f"{seconds / pairs:.3g}"),
    }


def maps() -> FeaturePair:
    """Random maps of ResNet50's size, [PAIRS, 7, 7, 2048], backgrounds at a third of them."""
    noise = np.random.default_rng(0).normal(size=(2, PAIRS, SIDE, SIDE, CHANNELS))
    x, y = np.maximum(noise, 0).astype(np.float32)
    return FeaturePair(x, y, x[:, None] / 3, y[:, None] / 3)


def _ours_sam() -> Callable[[], Any]:
    pairs, keys = jax.device_put(maps()), jax.random.split(jax.random.key(0), PAIRS)
    return lambda: jax.block_until_ready(
        explained_maps(pairs, keys, method="kernel-sam", order=2, budget=KERNEL_SAM)
    )


def draw_torch(n: int, rows: int, device: str) -> Any:
    """Coalitions of at least two players by the kernel's law of sizes, Boolean [rows, n]."""
    import torch

    law = torch.as_tensor(size_law(n, 2), dtype=torch.float32, device=device)
    sizes = torch.multinomial(law, rows, replacement=True)
    places = torch.rand(rows, n, device=device).argsort(dim=1).argsort(dim=1)
    return places < sizes[:, None]


def solve_torch(free: Any, values: Any, n: int) -> Any:
    """Pair terms of the order-2 regression, constraints eliminated, [n (n - 1) / 2].

    Args:
        free: Boolean [rows, n].
        values: worths of no player, of each alone, of all, and of the rows, [n + 2 + rows].
        n: players.
    """
    import torch

    known, worth = values[: n + 2], values[n + 2 :]
    singles = known[1 : n + 1] - known[0]
    x = free.to(values.dtype)
    i, j = torch.triu_indices(n, n, 1, device=values.device)
    total = known[n + 1] - known[0] - singles.sum()
    design = x[:, i] * x[:, j]
    target = worth - known[0] - x @ singles
    # The last pair is what the sum leaves for it.
    last = design[:, -1:]
    left = design[:, :-1] - last
    gram = left.T @ left
    gram.diagonal().add_(1e-6 * gram.diagonal().mean())
    found = torch.cholesky_solve(
        (left.T @ (target - total * last[:, 0]))[:, None], torch.linalg.cholesky(gram)
    )[:, 0]
    return torch.cat([found, (total - found.sum())[None]])


def _theirs_sam(device: str, budget: int) -> Callable[[], Any]:
    import torch

    pairs = maps()
    given = [torch.as_tensor(np.asarray(part), device=device) for part in pairs]
    n = 2 * SIDE**2
    constrained = torch.as_tensor(constrained_masks(n, 2), device=device)

    def rows(x: Any, blank: Any) -> Any:
        x, blank = x.reshape(-1, CHANNELS), blank.reshape(-1, CHANNELS)
        return torch.cat([blank.mean(0, keepdim=True), (x - blank) / len(x)])

    def one(x: Any, y: Any, a: Any, b: Any) -> Any:
        query, retrieved = rows(x, a[0]), rows(y, b[0])
        free = draw_torch(n, budget - len(constrained), device)
        masks = torch.cat([constrained, free]).float()
        ones = torch.ones(len(masks), 1, device=device)
        zq = torch.cat([ones, masks[:, : n // 2]], 1)
        zr = torch.cat([ones, masks[:, n // 2 :]], 1)
        dots = ((zq @ (query @ retrieved.T)) * zr).sum(1)
        norms = [((z @ (r @ r.T)) * z).sum(1) for z, r in ((zq, query), (zr, retrieved))]
        return solve_torch(free, dots * torch.rsqrt(norms[0] * norms[1]), n)

    def run() -> Any:
        found = torch.stack([one(*parts) for parts in zip(*given, strict=True)])
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    return run


def _pictures() -> tuple[np.ndarray, np.ndarray]:
    from skimage import data

    left, right, _ = data.stereo_motorcycle()
    return left[::2, ::2], right[::2, ::2]


def _ours_shap(weights: str | None) -> Callable[[], Any]:
    model = sj.backbones.load("resnet50", weights=weights)
    query, retrieved = _pictures()
    return lambda: sj.explain(
        model, query, retrieved, method="kernel-shap", players="7x7", budget=KERNEL_SHAP
    )


def _theirs_shap(device: str) -> Callable[[], Any]:
    import torch
    import torchvision

    network = torchvision.models.resnet50(weights=None).to(device).eval()
    network.fc = torch.nn.Identity()
    network = network.to(memory_format=torch.channels_last)
    n = 2 * SIDE**2
    pictures = [
        torch.nn.functional.interpolate(
            torch.as_tensor(picture / 255, dtype=torch.float32).permute(2, 0, 1)[None],
            size=(224, 224),
            mode="bilinear",
        )[0].to(device)
        for picture in _pictures()
    ]
    blanks = [torch.nn.functional.avg_pool2d(x[None], 25, 1, 12)[0] for x in pictures]
    constrained = torch.as_tensor(constrained_masks(n, 2), device=device)

    def embed(masks: Any, side: int) -> Any:
        shown = masks.reshape(-1, 1, SIDE, SIDE).repeat_interleave(32, 2).repeat_interleave(32, 3)
        found = network(torch.where(shown, pictures[side], blanks[side]))
        return torch.nn.functional.normalize(found, dim=1)

    @torch.no_grad()
    def run() -> Any:
        free = draw_torch(n, KERNEL_SHAP - len(constrained), device)
        masks = torch.cat([constrained, free])
        worths = [
            (embed(part[:, : n // 2], 0) * embed(part[:, n // 2 :], 1)).sum(1)
            for part in masks.split(BATCH)
        ]
        found = solve_torch(free, torch.cat(worths), n)
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    return run
