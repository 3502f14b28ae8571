"""Running value functions of every make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shapjax as sj

masks = np.random.default_rng(0).random((23, 5)) < 0.5
weights = np.array([0.1, 0.2, 0.3, 0.4, 0.5])


def test_python_functions_keep_float64_and_see_every_row_once():
    seen = []

    def value(rows):
        seen.append(rows.copy())
        return np.tanh(np.asarray(rows) @ weights)

    values = sj.worths(value, masks, chunk_size=10)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, np.tanh(masks @ weights), rtol=1e-14)
    np.testing.assert_array_equal(np.concatenate(seen), masks)


def test_numpy_operators_are_not_taken_for_jax():
    values = sj.worths(lambda rows: rows @ weights, masks)
    assert isinstance(values, np.ndarray)
    np.testing.assert_allclose(values, masks @ weights, rtol=1e-14)


def test_lists_and_whole_numbers_will_do():
    values = sj.worths(lambda rows: [int(row.sum()) for row in rows], masks)
    np.testing.assert_array_equal(values, masks.sum(1))


def test_jax_results_from_an_untraceable_function_will_do():
    values = sj.worths(lambda rows: jnp.asarray(np.asarray(rows).sum(1)), masks)
    np.testing.assert_array_equal(values, masks.sum(1))


def test_functions_that_need_jax_arrays_are_traced():
    values = sj.worths(lambda rows: rows.at[:, 0].set(True).sum(1), masks)
    np.testing.assert_array_equal(values, masks[:, 1:].sum(1) + 1)


@pytest.mark.parametrize("chunk_size", [1, 7, 23, 100])
def test_jax_functions_are_traced_once_per_shape(chunk_size):
    shapes = []

    def value(rows):
        if isinstance(rows, jax.core.Tracer):
            shapes.append(rows.shape)
        return jnp.tanh(rows @ jnp.asarray(weights, jnp.float32))

    values = sj.worths(value, masks, chunk_size=chunk_size, traceable=True)
    assert isinstance(values, jax.Array)
    np.testing.assert_allclose(values, np.tanh(masks @ weights), rtol=1e-5)
    assert shapes == [(min(chunk_size, 23), 5)]


def test_games_that_differ_in_data_share_one_trace():
    traces = []

    def value(data, rows):
        traces.append(rows.shape)
        return rows @ data

    for scale in (1.0, 2.0, 3.0):
        data = scale * jnp.asarray(weights, jnp.float32)
        values = sj.worths(jax.tree_util.Partial(value, data), masks)
        np.testing.assert_allclose(values, scale * (masks @ weights), rtol=1e-5)
    assert len(traces) == 1


def test_float64_data_of_a_traced_game_is_not_rounded():
    game = jax.tree_util.Partial(lambda data, rows: rows @ data, weights)
    with pytest.raises(sj.DtypeError, match="data is float64"):
        sj.worths(game, masks)
    with jax.enable_x64(True):
        np.testing.assert_allclose(sj.worths(game, masks), masks @ weights, rtol=1e-14)


def test_what_a_function_closes_over_may_change():
    scale = [jnp.float32(1)]

    class Model:
        lower = "bounds are not a compiler"

        def __call__(self, rows):
            return rows @ jnp.asarray(weights, jnp.float32) * scale[0]

    model = Model()
    first = sj.worths(model, masks)
    scale[0] = jnp.float32(3)
    np.testing.assert_allclose(sj.worths(model, masks), 3 * first, rtol=1e-6)


def test_a_failure_is_not_tried_again():
    calls = []

    def flaky(rows):
        calls.append(type(rows))
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        sj.worths(flaky, masks)
    assert calls == [np.ndarray]


@pytest.mark.parametrize("bad", [masks[:0], masks.astype(float), masks[0]])
def test_masks_are_checked(bad):
    with pytest.raises(sj.ShapjaxError, match="expected Boolean"):
        sj.worths(lambda rows: rows.sum(1), bad)


def test_progress_reaches_the_end():
    calls = []
    sj.worths(
        lambda rows: np.zeros(len(rows)),
        masks,
        chunk_size=10,
        progress=lambda *args: calls.append(args),
    )
    assert calls == [(10, 23), (20, 23), (23, 23)] or calls[-1] == (23, 23)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda rows: np.full(len(rows), np.nan), "NaN or infinity for 23 of 23"),
        (lambda rows: np.where(rows[:, 0], np.inf, 0.0), "first has players"),
        (lambda rows: np.zeros((len(rows), 1)), "returned shape"),
        (lambda rows: 0.0, "returned shape"),
        (lambda rows: np.zeros(len(rows)) * 1j, "expected real"),
        (lambda rows: np.array(["x"] * len(rows)), "expected real"),
        (lambda rows: (0.0 for _ in rows), "returned a generator"),
        (lambda rows: None, "returned a NoneType"),
        (lambda rows: np.ma.masked_greater(rows.sum(1) * 1.0, 1), "masked"),
        (jax.jit(lambda rows: (rows.sum(1),)), "returned a tuple"),
        (jax.jit(lambda rows: rows.sum(1) * 1j), "expected real"),
        (jax.tree_util.Partial(lambda rows: np.asarray(rows).sum(1)), "cannot trace"),
        (lambda rows: jnp.full(len(rows), jnp.nan), "NaN"),
        (lambda rows: jnp.zeros((len(rows), 2)), "returned shape"),
    ],
)
def test_misbehaviour_is_named(value, message):
    with pytest.raises(sj.ValueFunctionError, match=message):
        sj.worths(value, masks)


@pytest.mark.parametrize("known", [True, False])
def test_a_function_may_know_why_a_coalition_has_no_worth(known):
    class Game:
        def __call__(self, rows):
            return np.where(rows.sum(1) > 1, np.nan, 0.0)

        def not_finite(self, mask):
            assert mask.tolist() == masks[masks.sum(1) > 1][0].tolist()
            return sj.NotFiniteError("the network is broken") if known else None

    kind, told = (sj.NotFiniteError, "broken") if known else (sj.ValueFunctionError, "first has")
    with pytest.raises(kind, match=told):
        sj.worths(Game(), masks)


def test_the_function_s_own_errors_pass_through():
    def value(rows):
        raise RuntimeError("remote model is down")

    with pytest.raises(RuntimeError, match="remote model is down"):
        sj.worths(value, masks)
