"""Tables spread over eight virtual devices, in a process of their own."""

import re

import jax
import numpy as np
import pytest
from devices import on_eight_devices

import shapjax as sj

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
import shapjax as sj
jax.config.update("jax_enable_x64", True)
assert len(jax.devices()) == 8
rng = np.random.default_rng(0)
auto = (jax.sharding.AxisType.Auto,) * 2
meshes = [jax.make_mesh((8,), ("a",)), jax.make_mesh((2, 2), ("a", "b"), axis_types=auto)]


def near(a, b):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-13)


for mesh in meshes:
    for shape in ((8,), (3, 1 << 6)):
        v = rng.normal(size=shape)
        spread = sj.sharded.moebius(v, mesh)
        near(spread, sj.moebius(v))
        assert spread.sharding.shard_shape(shape)[-1] == shape[-1] // mesh.size
        near(sj.sharded.zeta(spread, mesh), v)
        near(sj.sharded.shapley_value(v, mesh), sj.shapley_value(v))
    for index, order in (("FSII", 3), ("SGV", 2)):
        v = rng.normal(size=1 << 7)
        ours = sj.sharded.interactions(v, mesh, index, order)
        for a, b in zip(ours.coefficients, sj.interactions(v, index, order).coefficients):
            near(a, b)

# A gradient over an Explicit mesh needs jax.set_mesh, so the other one.
mesh = meshes[1]
table, ct = rng.normal(size=64), rng.normal(size=64)
gradient = jax.grad(lambda v: (sj.sharded.moebius(v, mesh) * sj.sharded.shard(ct, mesh)).sum())
near(gradient(table), jax.grad(lambda v: (sj.moebius(v) * ct).sum())(table))

mesh = meshes[0]
table = sj.sharded.shard(rng.normal(size=1 << 13), mesh)
for name, function in (
    ("moebius", lambda v: sj.sharded.moebius(v, mesh)),
    ("interactions", lambda v: sj.sharded.interactions(v, mesh)),
):
    print(name)
    print(jax.jit(function).lower(table).compile().as_text())
"""


@pytest.fixture(scope="module")
def compiled():
    """HLO of both programs by name; the checks of the script itself have passed."""
    moebius, interactions = (
        on_eight_devices(SCRIPT).removeprefix("moebius\n").split("\ninteractions\n")
    )
    return {"moebius": moebius, "interactions": interactions}


def communication(hlo):
    """Kinds of collective operations and the number of entries of their results."""
    found = re.findall(r"= (\(?.*?\)?) (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", hlo)
    shapes = [(kind, re.findall(r"f64\[([\d,]*)\]", result)) for result, kind in found]
    return [
        (kind, max(int(np.prod([int(d) for d in s.split(",") if d])) for s in sizes))
        for kind, sizes in shapes
    ]


def test_a_transform_exchanges_one_shard_per_player_across_shards(compiled):
    assert communication(compiled["moebius"]) == [("collective-permute", 1 << 10)] * 3


def test_an_index_adds_up_numbers_of_its_own_size(compiled):
    exchanged = communication(compiled["interactions"])
    assert exchanged
    for kind, entries in exchanged:
        assert kind == "all-reduce"
        assert entries <= 45, "at most the pairs of the ten low players"


def test_meshes_that_do_not_fit_are_refused():
    mesh = jax.make_mesh((1,), ("a",))
    assert sj.sharded.moebius(np.ones(4, np.float32), mesh).shape == (4,)
    with pytest.raises(sj.ShapjaxError, match="order is 4"):
        sj.sharded.interactions(np.ones(32, np.float32), mesh, order=4)
    with pytest.raises(sj.ShapjaxError, match="shape"):
        sj.sharded.moebius(np.ones(3, np.float32), mesh)
