"""Lower limits of the error: ``benchmarks/limit.py`` against sampling and dense algebra."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

import shapjax as sj

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import limit


@pytest.fixture
def six_players(monkeypatch):
    monkeypatch.setattr(limit, "PLAYERS", 6)


def masks_of(n):
    return (np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(float)


def test_wide_networks_have_the_covariance():
    """Covariances of 4,000 random networks: within five of their standard errors."""
    rng, width, draws = np.random.default_rng(0), 60, 4000
    x = masks_of(4)[[1, 3, 7, 10, 15]]
    values = np.empty((draws, len(x)))
    for draw in range(draws):
        hidden = x
        for _ in range(2):
            hidden = np.maximum(hidden @ rng.normal(size=(hidden.shape[1], width)), 0)
            hidden /= np.sqrt(width / 2)
        values[draw] = hidden @ rng.normal(size=width)
    products = values[:, :, None] * values[:, None, :]
    errors = products.std(axis=0) / draws**0.5
    assert (np.abs(products.mean(axis=0) - limit.covariance(x, x)) < 5 * errors).all()


@pytest.mark.parametrize("order", [1, 2])
def test_what_is_left_is_the_trace_of_the_posterior_covariance(six_players, x64, order):
    """The index as a matrix, made of the exact index of each unit table."""
    every = masks_of(6)
    index = sj.interactions(np.eye(64), "STII" if order == 2 else "SV", order).of_size(order)
    read = np.array(index, float).T
    read -= read.mean(axis=0)
    prior = limit.covariance(every, every)
    rows = np.random.default_rng(1).choice(64, 15, replace=False)
    seen = prior[np.ix_(rows, rows)]
    seen = seen + 1e-9 * np.trace(seen) / 15 * np.eye(15)
    posterior = prior - prior[:, rows] @ np.linalg.solve(seen, prior[rows])
    expected = np.trace(read @ posterior @ read.T) / np.trace(read @ prior @ read.T)
    found = limit.Limit(order)
    assert found.of_rows(rows) == pytest.approx(expected, rel=1e-6)
    assert 0.05 < expected < 1
    assert found.of_rows(np.arange(64)) == pytest.approx(0, abs=1e-6)


def test_a_known_kernel_is_no_worse_than_a_constant_and_exact_at_the_end(six_players, x64):
    smooth = np.tanh(masks_of(6) @ np.linspace(-0.5, 1, 6))
    options = argparse.Namespace(order=2, known=40)
    errors = [limit.with_known_kernel(smooth, budget, 0, options) for budget in (25, 64)]
    assert errors[0] < 0.5
    assert errors[1] < 1e-4


def test_the_command_prints_limits(six_players, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["limit.py", "--budgets", "20", "40", "--seeds", "2"])
    limit.main()
    lines = capsys.readouterr().out.strip().splitlines()
    errors = [float(line.split("|")[2]) for line in lines[2:]]
    assert 0 < errors[1] < errors[0] < 1
