"""Many pairs at once: each gets what it gets alone, whatever goes wrong with the others."""

import re

import jax
import numpy as np
import pytest
from devices import on_eight_devices
from toy_network import bright, toy

import shapjax as sj
from shapjax.explainers.batch import Failure, PairsError, pair_key
from shapjax.explainers.features import FEATURE_METHODS
from shapjax.explainers.methods import METHODS

BUDGETS = {
    "gram-sam": 120,
    "ig-sam": 60,
    "kernel-sam": 300,
    "kernel-shap": 90,
    "integrated-jacobians": 5,
    "ig": 3,
    "partition-shap": 20,
    "sbsm": 20,
    "lime": 60,
    "fixlip": 60,
    "two-tower": 40,
}
QUICK = {("gram-sam", 2), ("kernel-sam", 2), ("sam", 1), ("vesm", 1)}
QUICK |= {("gradcam", 1), ("integrated-jacobians", 2), ("two-tower", 2), ("ig", 1)}
CASES = [
    pytest.param(method, order, players, marks=[])
    if (method, order) in QUICK and players != "superpixels" * (method == "kernel-sam")
    else pytest.param(method, order, players, marks=pytest.mark.slow)
    for method, record in METHODS.items()
    for order in (1, 2)
    for players in record.players[order - 1]
]


@pytest.fixture(scope="module")
def network():
    return toy()


@pytest.fixture(scope="module")
def pairs():
    return list(zip(bright(5, 0), bright(5, 1), strict=True))


def settings(method, order, players):
    found = {"method": method, "order": order, "errors": True}
    if players == "superpixels":
        found["players"] = "2x2"  # fewer programs than regions of every picture's own
    elif players == "features":
        found["players"] = players
    if method in BUDGETS:
        found["budget"] = BUDGETS[method]
    return found


def assert_same(found, expected, tolerance=1e-5):
    for part, other in zip(
        found.interactions.coefficients, expected.interactions.coefficients, strict=True
    ):
        np.testing.assert_allclose(part, other, atol=tolerance)
    errors = found.interactions.standard_errors, expected.interactions.standard_errors
    assert (errors[0] is None) == (errors[1] is None)
    for part, other in zip(*(parts or () for parts in errors), strict=True):
        np.testing.assert_allclose(part, other, rtol=0.02, atol=tolerance)
    for name in ("similarity", "v_grand", "v_empty"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5)
    assert found.evaluations == expected.evaluations
    for name in ("query_players", "retrieved_players", "query_picture", "retrieved_picture"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize(("method", "order", "players"), CASES)
def test_every_method_gives_a_pair_what_explain_gives_it(network, pairs, method, order, players):
    options = settings(method, order, players)
    queries, retrieved = zip(*pairs[:2], strict=True)
    many = sj.explain_pairs(network, queries, retrieved, key=5, ids=["a", "b"], **options)
    alone = sj.explain(network, *pairs[1], key=pair_key(5, "b"), **options)
    assert_same(many[1], alone)
    assert many[1].method == method


def test_pairs_are_one_program_for_every_method_on_feature_maps():
    on_maps = {name for name, record in METHODS.items() if "features" in sum(record.players, ())}
    assert set(FEATURE_METHODS) == on_maps


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"method": "sam"}, (1, 2, 3)),
        ({"method": "gram-sam", "order": 1, "budget": 90}, (2,)),
        pytest.param({"method": "kernel-sam", "budget": 300}, (1, 2), marks=pytest.mark.slow),
    ],
)
def test_neither_chunks_nor_order_nor_company_change_a_pair(network, pairs, options, sizes):
    ids = [f"pair {place}" for place in range(5)]
    whole = list(sj.explain_stream(network, pairs, ids=ids, key=3, **options))
    for size in sizes:
        settings = {"key": 3, "chunk_size": size, **options}
        same = sj.explain_stream(network, pairs, ids=ids, **settings)
        turned = list(sj.explain_stream(network, pairs[::-1], ids=ids[::-1], **settings))[::-1]
        for a, b, c in zip(same, turned, whole, strict=True):
            assert_same(a, c, 1e-6)
            assert_same(b, c, 1e-6)


def test_several_backgrounds_of_either_kind(network, pairs, tmp_path):
    from PIL import Image

    Image.fromarray(pairs[3][0]).save(tmp_path / "behind.png")
    for background in (
        ["blur", "zero", tmp_path / "behind.png"],
        {"query": "zero", "retrieved": ["mean", tmp_path]},
    ):
        options = {"method": "sam", "background": background}
        (found,) = sj.explain_pairs(network, *zip(pairs[0], strict=True), **options)
        assert_same(found, sj.explain(network, *pairs[0], **options))


def test_a_stream_reads_its_pairs_as_they_are_needed(network):
    taken = []

    def endless():
        place = 0
        while True:
            taken.append(place)
            yield tuple(bright(2, place))
            place += 1

    stream = sj.explain_stream(network, endless(), method="sam", chunk_size=2)
    for done in range(1, 8):
        assert isinstance(next(stream), sj.Explanation)
        assert len(taken) <= done + 2 * 2


def spoilt(pairs):
    """Pair 1 has a dark retrieved picture, pair 3 a query that does not exist."""
    dark = pairs[1][1].copy()
    dark[:4, :4] = 0
    return [pairs[0], (pairs[1][0], dark), pairs[2], ("nowhere.png", pairs[3][1]), pairs[4]]


@pytest.mark.parametrize(
    "options",
    [
        {"method": "kernel-sam", "budget": 300},
        {"method": "two-tower", "players": "2x2", "budget": 40},
    ],
)
def test_what_is_wrong_with_a_pair_harms_no_other(network, pairs, options):
    queries, retrieved = zip(*spoilt(pairs), strict=True)
    ids = list("abcde")
    found = sj.explain_pairs(network, queries, retrieved, ids=ids, on_error="skip", **options)
    good = sj.explain_pairs(network, *zip(*pairs, strict=True), ids=ids, **options)
    for place in (0, 2, 4):
        assert_same(found[place], good[place], 1e-6)
    assert found[1] == Failure(
        "b",
        "a ndarray",
        "a ndarray",
        "toy gives NaN or infinity for the retrieved picture, first in layer 'root'; check its "
        "weights.",
    )
    assert found[3].query == "nowhere.png"
    assert "does not exist" in found[3].reason
    with pytest.raises(PairsError, match=r"2 of 5 pairs.*'b'.*layer 'root'.*'d'.*exist") as caught:
        sj.explain_pairs(network, queries, retrieved, ids=ids, **options)
    assert [one.id for one in caught.value.failures] == ["b", "d"]
    assert_same(caught.value.found[4], good[4], 1e-6)


def test_a_background_that_the_network_cannot_bear_is_named(network, pairs):
    spotted = pairs[0][1].copy()
    options = {"method": "sam", "background": "black"}
    (found,) = sj.explain_pairs(
        network, pairs[0][:1], [spotted], on_error="skip", ids=["x"], **options
    )
    told = "black background of the query picture, first in layer 'root'"
    assert re.search(told, found.reason)
    with pytest.raises(sj.NotFiniteError, match=told):
        sj.explain(network, pairs[0][0], spotted, order=2, **options)
    # A picture in the place of a name, in front of one that the network can bear.
    given = {"method": "sam", "background": [np.zeros((16, 16, 3), np.uint8), "blur"]}
    with pytest.raises(
        sj.NotFiniteError, match=r"given background of the retrieved picture, .*'root'"
    ):
        sj.explain(network, pairs[0][0], spotted, order=1, **given)


def test_explain_names_the_layer_too(network, pairs):
    query, dark = spoilt(pairs)[1]
    with pytest.raises(sj.NotFiniteError, match="retrieved picture, first in layer 'root'"):
        sj.explain(network, query, dark, budget=120)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nothing"}, "method"),
        ({"method": "sam", "budget": 3}, "closed form"),
        ({"method": "gradcam"}, "only order 1"),
        ({"order": 1, "side": "left"}, "side"),
        ({"background": "nowhere.png"}, "does not exist"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"method": "vesm", "order": 1, "background": "blur"}, "no background"),
    ],
)
def test_settings_that_are_wrong_are_refused_before_any_pair_is_read(network, options, message):
    with pytest.raises(sj.ShapjaxError, match=message):
        sj.explain_stream(network, iter(()), **options)


def test_pairs_that_are_none_are_refused(network, pairs):
    with pytest.raises(sj.ShapjaxError, match="equally many"):
        sj.explain_pairs(network, [pairs[0][0]], [])
    with pytest.raises(sj.ShapjaxError, match="2 ids, but more pairs"):
        list(sj.explain_stream(network, pairs, ids=["a", "b"], method="sam"))
    with pytest.raises(sj.ShapjaxError, match="expected a query and a retrieved"):
        list(sj.explain_stream(network, [1], method="sam"))
    with pytest.raises(sj.ShapjaxError, match="on_error"):
        sj.explain_pairs(network, [1], [2], on_error="ignore")
    with pytest.raises(sj.ShapjaxError, match="at least"):
        sj.explain_pairs(network, *zip(pairs[0], strict=True), budget=3)


def test_keys_of_pairs_come_from_their_ids_alone():
    keys = [pair_key(0, name) for name in (0, 1, "x", "y")]
    data = {tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}
    assert len(data) == 4
    assert pair_key(0, "7") == pair_key(jax.random.key(0), 7)
    assert pair_key(1, "7") != pair_key(0, "7")


SCRIPT = r"""
import re
import jax, numpy as np
import shapjax as sj
from toy_network import toy, bright

assert len(jax.devices()) == 8
network = toy()
queries, retrieved = bright(11, 0), bright(11, 1)
retrieved[4] = 0  # a pair that fails on its device, beside others
meshes = [
    jax.make_mesh((8,), ("a",)),
    jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2),
]
for options, chosen, sizes in (
    ({"method": "gram-sam", "order": 1, "budget": 90}, meshes[1:], (1,)),
    ({"method": "gram-sam", "order": 2, "budget": 90}, meshes[:1], (1,)),
    ({"method": "sam"}, meshes, (1, 3)),
):
    alone = sj.explain_pairs(network, queries, retrieved, on_error="skip", **options)
    for mesh in chosen:
        for size in sizes:
            many = sj.explain_pairs(
                network, queries, retrieved, on_error="skip", mesh=mesh, chunk_size=size, **options
            )
            for a, b in zip(many, alone, strict=True):
                if isinstance(b, sj.Failure):
                    assert a == b and "'root'" in a.reason
                    continue
                for x, y in zip(a.interactions.coefficients, b.interactions.coefficients):
                    np.testing.assert_allclose(x, y, atol=2e-6)
# Methods on masked pictures: each device has a pair of its own.
options = {"method": "kernel-shap", "order": 1, "players": "3x3", "budget": 60}
few = queries[:5], retrieved[:5]
two = jax.make_mesh((2,), ("a",))
alone = sj.explain_pairs(network, *few, on_error="skip", **options)
many = sj.explain_pairs(network, *few, on_error="skip", mesh=two, **options)
for a, b in zip(many[:4], alone[:4], strict=True):
    np.testing.assert_allclose(a.interactions.singles, b.interactions.singles, atol=2e-6)
assert isinstance(many[4], sj.Failure) and many[4] == alone[4]
from shapjax.explainers.spread import spread
run = lambda place, item: (item, jax.numpy.ones(1).device)
places = list(spread(run, range(40), jax.devices()))
assert [item for item, _ in places] == list(range(40))
assert {device for _, device in places} <= set(jax.devices())
assert len({device for _, device in places}) > 1
from shapjax.explainers.batch import explained_maps
from shapjax.games.feature_pairs import FeaturePair
x = np.ones((16, 3, 3, 4), np.float32)
keys = jax.random.split(jax.random.key(0), 16)
for method, order, blanks in (("vesm", 1, None), ("gram-sam", 2, x[:, None])):
    pairs = FeaturePair(x, x, blanks, x[:, None])
    text = explained_maps.lower(
        pairs, keys, method=method, order=order, budget=90, mesh=meshes[0]
    ).compile().as_text()
    assert "num_partitions=8" in text, method
    found = re.findall(r"all-\w+|collective-\w+|reduce-scatter", text)
    assert not found, (method, found)
print("fine")
"""


def test_eight_devices_give_what_one_gives_and_do_not_talk():
    assert on_eight_devices(SCRIPT).strip() == "fine"
