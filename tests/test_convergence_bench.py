"""The benchmark of estimators: its games, its compiled sweeps, and results that survive."""

import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import shapjax as sj
from shapjax.coalitions.enumerate import all_masks
from shapjax.estimators import Answer, register
from shapjax.estimators.registry import _registered
from shapjax.games.masked import masked_game
from shapjax.games.pooled import cosine_game, gram_matrices

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import compiled  # noqa: E402
import convergence  # noqa: E402
import games  # noqa: E402
import peers_shapiq  # noqa: E402
import summary  # noqa: E402
from results import Results  # noqa: E402

TINY = ("--families", "random-integers", "--methods", "permutation", "svarm-iq")


@pytest.fixture(autouse=True)
def clean_registry():
    before = dict(_registered)
    yield
    _registered.clear()
    _registered.update(before)


def parts(members):
    return itertools.chain.from_iterable(
        itertools.combinations(members, size) for size in range(len(members) + 1)
    )


# Games


def test_a_family_gives_one_game_for_each_seed():
    both = games.INTEGERS.tables([3, 5])
    assert both.shape == (2, 2**8)
    assert both.dtype == np.float64
    np.testing.assert_array_equal(both[1], games.INTEGERS.tables([5])[0])
    assert np.any(both[0] != both[1])
    for family in (games.INTEGERS, games.RELU, games.BOOLEAN, games.TANH):
        assert max(family.budgets) < 2**family.n


def test_random_integers_are_integers_from_0_to_10():
    worth = games.INTEGERS.tables(range(20))
    assert set(np.unique(worth)) == set(range(11))


def test_networks_have_no_constant_and_are_not_linear():
    worth = games.RELU.tables([0])[0]
    assert worth[0] == 0
    assert abs(worth[0b11] - worth[0b01] - worth[0b10]) > 1e-6


def test_boolean_polynomials_sum_coefficients_of_subsets():
    worth = games.BOOLEAN.tables([0])[0]
    members = (1, 4, 7, 13)
    # Inclusion and exclusion by definition, over all parts of a coalition.
    found = [
        sum(
            (-1) ** (len(part) - len(inner)) * worth[sum(1 << i for i in inner)]
            for inner in parts(part)
        )
        for part in parts(members)
    ]
    assert all(0 <= coefficient <= 10 for coefficient in found)
    assert np.std(found) > 1
    assert worth[-1] == pytest.approx(5 * 2**15, rel=0.02)


def test_bands_of_locations_play_as_one(x64):
    rng = np.random.default_rng(0)
    rows = [jnp.asarray(rng.random((1 + count, 4))) for count in (6, 4)]
    whole = gram_matrices(*rows)
    masks = rng.random((9, 5)) < 0.5
    expanded = np.concatenate(
        [np.repeat(masks[:, :3], 2, axis=1), np.repeat(masks[:, 3:], 2, axis=1)], axis=1
    )
    found = cosine_game(games.grouped(whole, 3, 2))(jnp.asarray(masks))
    np.testing.assert_allclose(found, cosine_game(whole)(jnp.asarray(expanded)), rtol=1e-12)


def test_sides_alone_give_the_table_of_the_pair():
    pair = games.superpixel_pair(0)
    ranks = np.random.default_rng(0).integers(2**15, size=24)
    masks = np.asarray(all_masks(15))[ranks]
    expected = masked_game(*pair)(jnp.asarray(masks))
    np.testing.assert_allclose(games.tower_table(*pair)[ranks], expected, atol=2e-6)


def test_tables_of_pictures_are_kept(tmp_path):
    made = []

    def tables(seeds):
        made.extend(seeds)
        return np.stack([np.full(4, float(seed)) for seed in seeds])

    family = games._cached(games.Family("f", "f", 2, tables, "id"), tmp_path / "new")
    family.tables([1, 2])
    np.testing.assert_array_equal(family.tables([2, 3, 1])[:, 0], [2, 3, 1])
    assert made == [1, 2, 3]


# Compiled sweeps


@pytest.mark.parametrize(
    ("method", "order"),
    [
        ("kernel-direct", 2),
        ("kernel-weighting", 1),
        ("permutation-by-sets", 1),
        ("permutation-by-sets", 2),
        ("kernel-border", 2),
        ("kernel-shap", 1),
        ("leverage-shap", 1),
    ],
)
def test_a_sweep_is_the_loop(x64, method, order):
    register("permutation-by-sets", compiled.permutation_by_sets)
    seeds, budget = [4, 9], 150
    tables = games.INTEGERS.tables(seeds)
    found = compiled.sweep(
        jnp.asarray(seeds), jnp.asarray(tables), method=method, order=order, budget=budget
    )
    for place, seed in enumerate(seeds):
        alone = sj.estimate(
            convergence.lookup(tables[place]),
            8,
            "SV" if order == 1 else "STII",
            order,
            budget,
            method,
            key=seed,
            traceable=False,
        )
        for a, b in zip(found, alone.coefficients, strict=True):
            np.testing.assert_allclose(a[place], b, atol=1e-9)


def test_one_set_at_a_time_is_unbiased_and_pays_for_every_corner(x64):
    table = games.INTEGERS.tables([0])[0]
    exact = np.asarray(sj.interactions(table).of_size(2))
    seeds = jnp.arange(4000)
    tables = jnp.broadcast_to(jnp.asarray(table), (4000, 256))
    found = compiled.sweep(seeds, tables, method="permutation-by-sets", order=2, budget=130)[2]
    error = found.std(axis=0) / math.sqrt(4000)
    assert np.abs((found.mean(axis=0) - exact) / error).max() < 5
    register("permutation-by-sets", compiled.permutation_by_sets)
    game = convergence.lookup(table)
    alone = sj.estimate(game, 8, budget=240, method="permutation-by-sets", key=0)
    assert alone.stats["evaluations"] == 10 + 2 * 4 * 28
    with pytest.raises(sj.ShapjaxError, match="at least as many"):
        sj.estimate(game, 8, budget=121, method="permutation-by-sets", key=0)


# What the rows say


def test_price_is_interpolated_on_logarithmic_axes():
    # The error falls as the square of the evaluations: 0.01 lies at ten times 0.1's.
    found = summary.price([100, 1000], [1.0, 1e-2], 0.1)
    assert found.low == found.high == pytest.approx(math.sqrt(100 * 1000))
    assert summary.price([100, 1000], [1.0, 0.5], 0.1) == (1000, math.inf)
    assert summary.price([100, 1000], [0.05, 0.01], 0.1) == (0, 100)
    assert summary.price([100, 1000], [1.0, 0.0], 0.1).high < 1000


@pytest.mark.parametrize(
    ("own", "said"), [((100, 100), "8"), ((0, 100), "> 8"), ((16000, math.inf), "< 0.05")]
)
def test_ratio_says_where_an_end_is_open(own, said):
    assert summary.ratio(800, summary.Price(*own)) == said


def test_prices_are_read_at_the_baselines_own_errors():
    def record(method, evaluations, error):
        return {"family": "f", "method": method, "evaluations": evaluations, "error": error}

    # Error 1/m for the baseline; the other needs a quarter of its evaluations.
    records = [record("permutation", m, 1 / m) for m in (100, 200, 400, 800, 1600, 3200, 6400)]
    records += [record("quick", m, 0.25 / m) for m in (10, 100, 1000, 10000)]
    first, second = summary.marks(records, "f")
    assert (first["evaluations"], second["evaluations"]) == (400, 3200)
    table = summary.price_table(records, ["f"], summary.methods_of(records))
    assert table[0] == {"method": "permutation", "f": "400 (0.0025) / 3,200 (0.00031)"}
    assert table[1] == {"method": "quick", "f": "4 / 4"}


def test_medians_and_quantiles():
    row = {"family": "f", "identity": "x", "method": "m", "index": "STII", "order": 2}
    row |= {"budget": 10, "evaluations": 9, "variance": 2.0, "precision": 0.5}
    rows = [row | {"seed": seed, "mse": float(seed)} for seed in range(11)]
    stale = [row | {"identity": "old", "seed": 0, "mse": 1e9}]
    (record,) = summary.summarise([*stale, *rows])
    assert (record["mse"], record["mse_low"], record["mse_high"]) == (5, 1, 9)
    assert record["error"] == 2.5
    assert record["seeds"] == 11
    assert "seconds" not in record


def test_tables_give_times_in_milliseconds():
    record = {"family": "f", "method": "m", "budget": 8, "evaluations": 8, "error": 0.25}
    record |= {"precision": 0.5, "seconds": 1.5, "cpu_seconds": 0.002, "sweep_seconds": 0.0005}
    (row,) = summary.detail_table([record], ["f"], {"f": 8}, "f")
    assert row == {"method": "m", "f, 8": "0.25 / 50%", "ms": "1,500 / 2"}
    assert summary.sweep_table([record], "f") == [{"method": "m", "8": "1,500 / 0.5"}]


def test_score_by_hand():
    found = convergence.score(np.array([3.0, 0, -5, 0, 0, 1]), np.array([3.0, 0, -4, 2, 0, 0]))
    assert found["mse"] == pytest.approx((1 + 4 + 1) / 6)
    assert found["precision"] == 1.0  # the strongest two of six


# Results that survive


def line(seed):
    return {"family": "f", "method": "m", "index": "SV", "order": 1, "budget": 2, "seed": seed}


def test_a_torn_line_is_dropped_and_later_rows_count(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    results = Results(path)
    results.append([line(0), line(1)])
    results.append([line(1) | {"mse": 3}])
    results.close()
    with path.open("ab") as file:
        file.write(b'{"family": "f", "met')
    again = Results(path)
    assert again.rows(seed=1) == [line(1) | {"mse": 3}]
    again.append([line(2)])
    again.drop(lambda row: row["seed"] == 0)
    again.append([line(3)])
    again.close()
    assert [row["seed"] for row in Results(path).rows()] == [1, 2, 3]
    assert path.read_bytes().count(b"\n") == 3


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("not json\n")
    with pytest.raises(sj.ShapjaxError, match="does not hold results"):
        Results(path)
    assert path.read_text() == "not json\n"


def test_a_killed_run_goes_on(tmp_path, capsys, monkeypatch):
    path = tmp_path / "results.jsonl"
    arguments = [*TINY, "--seeds", "60", "--out", str(tmp_path)]
    command = [sys.executable, str(BENCHMARKS / "convergence.py"), *arguments]
    path_of_package = str(BENCHMARKS.parent)
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path_of_package},
        stderr=subprocess.PIPE,
    ) as child:
        deadline = time.monotonic() + 100
        while not (path.exists() and path.stat().st_size):
            assert child.poll() is None, child.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        child.kill()
    kept = path.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    assert 1 <= kept.count(b"\n") < 720, "it was to be stopped in the middle"
    monkeypatch.setattr(convergence.convergence_figures, "draw", lambda *_: [])
    assert convergence.main(arguments) == 0
    whole = path.read_bytes()
    assert whole.startswith(kept)
    rows = [json.loads(x) for x in whole.splitlines()]
    assert len(rows) == 2 * 6 * 60
    assert len({(row["method"], row["budget"], row["seed"]) for row in rows}) == len(rows)
    assert "| permutation |" in capsys.readouterr().out


def test_an_interrupted_run_ends_quietly(tmp_path, capsys, monkeypatch):
    arguments = [*TINY, "--seeds", "2", "--out", str(tmp_path)]
    score, scored = convergence.score, []

    def interrupted(found, exact):
        if len(scored) == 5:
            raise KeyboardInterrupt
        scored.append(found)
        return score(found, exact)

    with monkeypatch.context() as patch:
        patch.setattr(convergence, "score", interrupted)
        assert convergence.main(arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err
    path = tmp_path / "results.jsonl"
    kept = path.read_bytes()
    assert kept.count(b"\n") == 5
    monkeypatch.setattr(convergence.convergence_figures, "draw", lambda *_: [])
    assert convergence.main(arguments) == 0
    assert path.read_bytes().startswith(kept)
    assert path.read_bytes().count(b"\n") == 2 * 6 * 2


# The command


def test_the_command_prints_draws_and_remembers(tmp_path, capsys, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{convergence.MARKS[0]}\nold\n{convergence.MARKS[1]}\nafter\n")
    monkeypatch.setattr(convergence, "README", readme)
    monkeypatch.setattr(convergence, "FIGURES", tmp_path / "figures")
    arguments = ["--families", "random-integers", "--seeds", "2", "--out", str(tmp_path)]
    arguments += ["--methods", "permutation", "svarm-iq", "permutation-by-sets"]
    assert convergence.main([*arguments, "--readme", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {record["method"] for record in records} == set(arguments[-3:])
    assert all(record["error"] > 0 for record in records)
    # One permutation of eight players is 37 evaluations, so 40 hold one and 60 no second.
    found = [r["evaluations"] for r in records if r["method"] == "permutation"]
    assert found[0] <= 37
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| permutation-by-sets |" in text
    assert "old" not in text
    assert (tmp_path / "figures" / "convergence_paper.png").stat().st_size > 10_000
    before = (tmp_path / "results.jsonl").read_bytes()
    assert convergence.main(arguments) == 0
    assert (tmp_path / "results.jsonl").read_bytes() == before
    assert (
        convergence.main([*arguments[:5], str(tmp_path), "--methods", "svarm-iq", "--again"]) == 0
    )
    after = (tmp_path / "results.jsonl").read_bytes()
    assert after != before
    assert after.count(b"\n") == before.count(b"\n")


def test_every_registered_estimator_of_the_index_is_measured(x64):
    @register("constant")
    def constant(problem, oracle):
        problem.require_index("constant", "SV")
        oracle(np.zeros((1, problem.n), bool))
        return Answer((np.zeros(1), np.zeros(problem.n)), None, {})

    found, refused = convergence.estimators("SV", 1)
    assert "constant" in found
    assert "kernel-shap" in found
    assert "faithful-regression" in refused
    found, refused = convergence.estimators("STII", 2)
    assert "constant" not in found
    assert "estimates only SV" in refused["constant"]


def test_a_budget_that_is_refused_is_not_tried_again(tmp_path, x64):
    options = convergence.options_of(["--out", str(tmp_path), "--seeds", "2"])
    options.order = 2
    results = Results(tmp_path / "results.jsonl")
    bench = convergence.Bench(results, options)
    task = convergence.Task(games.INTEGERS._replace(budgets=(20,)), "permutation", 20)
    over = []
    bench.run(task, over.append)
    assert sum(over) == 2
    assert [row["refused"][:12] for row in results.rows()] == ["budget is 20"] * 2
    assert bench.missing(task) == []
    assert summary.summarise(results.rows()) == []


def test_patience_ends_and_is_remembered(tmp_path, x64):
    options = convergence.options_of(["--out", str(tmp_path), "--seeds", "9", "--patience", "0"])
    options.order = 2
    results = Results(tmp_path / "results.jsonl")
    bench = convergence.Bench(results, options)
    for budget, seeds in ((40, 5), (60, 0), (90, 0)):
        task = convergence.Task(games.INTEGERS, "permutation", budget)
        over = []
        bench.run(task, over.append)
        assert sum(over) == 9
        assert len(results.rows(budget=budget)) == seeds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--families", "chess"), "chess is no family here"),
        (("--methods", "guess"), "guess is no method of STII"),
        (("--methods", "kernel-shap"), "estimates only SV"),
        (("--seeds", "0"), "--seeds is 0"),
        (("--index", "XYZ"), "XYZ"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, message):
    assert convergence.main([*arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.peers
@pytest.mark.parametrize(("index", "order"), [("STII", 2), ("k-SII", 2), ("SV", 1)])
def test_peers_estimate_the_same_index(x64, index, order):
    pytest.importorskip("shapiq")
    table = games.INTEGERS.tables([0])[0]
    exact = np.asarray(sj.interactions(table, index, order).of_size(order))
    found = peers_shapiq.peers(index, order)
    assert len(found) >= 4
    for name, peer in found.items():
        asked = []

        def game(masks, asked=asked):
            asked.append(len(masks))
            return convergence.lookup(table)(masks)

        # Beyond 2**8 all but the permutations are exact; those go on, as 1/m.
        error = ((peer(game, 8, 20_000, 0) - exact) ** 2).mean() / exact.var()
        assert error < (0.5 if "permutation" in name else 1e-9), name
        assert sum(asked) <= 20_000, name
