"""Every index that shapiq has too, against its ExactComputer, which evaluates other formulas.

Where the two differ, by convention and not by mistake (read in shapiq 1.4.1):

- the empty coalition: both hold v(empty) for ``Moebius``, ``SV``, ``CHII``, ``STII``, ``k-SII`` and
  ``FSII``, both the mean of the definition for ``BII``, ``FBII`` and ``SII``; but at order 1 shapiq
  relabels ``SII`` as the Shapley value and puts v(empty). It puts v(empty) for ``Co-Moebius``
  (ours: the sum of all dividends, v(N)), ``kADD-SHAP`` (ours: the empty interaction of the fitted
  game) and every generalised value (ours: 0, what an empty coalition contributes), and the mean of
  all worths for ``BV`` (ours: v(empty), as for ``SV``);
- ``FSII`` and ``kADD-SHAP`` weigh the empty and the grand coalition by 1e8 in shapiq, while ours
  meet them exactly: equal to a few 1e-10 here;
- ``Moebius`` always returns every order there.

Signs and the order of players are the same.
"""

import itertools
import warnings

import jax
import numpy as np
import pytest

import shapjax as sj

shapiq = pytest.importorskip("shapiq", reason="shapiq is not installed (the peers extra has it)")

pytestmark = pytest.mark.peers

N = 5
VALUES = np.random.default_rng(5).standard_normal(1 << N)
OTHER_EMPTY = ("Co-Moebius", "BV", "kADD-SHAP", "SGV", "BGV", "CHGV", "IGV", "EGV", "JointSV")
BY_WEIGHT = ("FSII", "kADD-SHAP")


@pytest.fixture(scope="module")
def theirs():
    return shapiq.ExactComputer(lambda masks: VALUES[masks @ (1 << np.arange(N))], N)


@pytest.mark.parametrize("order", range(1, N + 1))
@pytest.mark.parametrize("name", sj.index_names())
def test_index_equals_shapiq(theirs, name, order):
    if order > 1 and name in ("SV", "BV"):
        pytest.skip(f"{name} has order 1 only")
    with jax.enable_x64(True), jax.disable_jit():
        ours = sj.interactions(VALUES, name, order)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapiq warns that CHII has no empty coalition
        found = theirs(name, order)
    table = dict(zip(found.interaction_lookup, found.values, strict=True))
    tolerance = 1e-8 if name in BY_WEIGHT else 1e-12
    skips_empty = name in OTHER_EMPTY or (name, order) == ("SII", 1)
    for size in range(int(skips_empty), order + 1):
        want = [table.get(coalition, 0.0) for coalition in itertools.combinations(range(N), size)]
        np.testing.assert_allclose(ours.of_size(size), want, rtol=0, atol=tolerance)


def test_there_is_no_index_of_shapiq_that_we_lack():
    """Its egalitarian least core (ELC) is a linear program, not an index by sizes: see below."""
    assert set(shapiq.ExactComputer.valid_indices) - {"ELC"} <= set(sj.index_names())


def test_no_coalition_objects_more_than_in_shapiq_s_least_core():
    """Its ELC minimises |x| + e at once, so it may trade a larger excess for a smaller norm.

    The egalitarian least core has the least excess first: never more than theirs.
    """
    values = VALUES - VALUES[0]
    computer = shapiq.ExactComputer(lambda masks: values[masks @ (1 << np.arange(N))], N)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = computer("ELC", 1)
    theirs = np.array([found.values[found.interaction_lookup[(i,)]] for i in range(N)])
    np.testing.assert_allclose(theirs.sum(), values[-1], atol=1e-6)
    ours = sj.least_core(values)
    np.testing.assert_allclose(sj.in_core(values, ours.payoff).excess, ours.excess, atol=1e-8)
    assert ours.excess <= sj.in_core(values, theirs).excess + 1e-6
