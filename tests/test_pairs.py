"""Games of two towers of any kind, against the definition coalition by coalition."""

import http.server
import json
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import shapjax as sj
from shapjax.coalitions.enumerate import all_masks
from shapjax.core.errors import ShapjaxError, ValueFunctionError
from shapjax.estimators.two_tower import estimate_two_tower

rng = np.random.default_rng(0)
WEIGHTS = rng.normal(size=(3, 5)).astype(np.float32)
QUERY = rng.normal(size=(4, 3)).astype(np.float32)
ITEM = rng.normal(size=(3, 3)).astype(np.float32)
BLANK = rng.normal(size=3).astype(np.float32)


def network(batch):
    """A small network for arrays [B, T, 3], in NumPy."""
    return np.tanh(np.asarray(batch).mean(axis=1) @ WEIGHTS)


@jax.jit
def in_jax(batch):
    return jnp.tanh(batch.mean(axis=1) @ WEIGHTS)


class InFlax(nnx.Module):
    def __init__(self):
        self.weights = nnx.Param(jnp.asarray(WEIGHTS))

    def __call__(self, batch):
        return jnp.tanh(batch.mean(axis=1) @ self.weights[...])


class InLinen(linen.Module):
    @linen.compact
    def __call__(self, batch):
        weights = self.param("weights", lambda key: jnp.asarray(WEIGHTS))
        return jnp.tanh(batch.mean(axis=1) @ weights)


def in_linen():
    module = InLinen()
    return module.bind(module.init(jax.random.key(0), jnp.ones((1, 4, 3))))


class Session:
    """What shapjax uses of an ONNX runtime session; strict about dtype and a fixed batch."""

    def __init__(self, tower=network, dtype=np.float32, batch=None, outputs=("y",)):
        self.tower, self.dtype, self.batch, self.outputs = tower, np.dtype(dtype), batch, outputs

    def get_inputs(self):
        kind = {"float32": "float"}.get(self.dtype.name, self.dtype.name)
        return [SimpleNamespace(name="x", type=f"tensor({kind})", shape=[self.batch, None, 3])]

    def get_outputs(self):
        return [SimpleNamespace(name=name) for name in self.outputs]

    def run(self, outputs, feed):
        assert outputs is None
        assert feed["x"].dtype == self.dtype
        assert len(feed["x"]) == (self.batch or len(feed["x"]))
        return [self.tower(feed["x"])]


def in_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class InTorch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.Parameter(torch.from_numpy(WEIGHTS))

        def forward(self, batch):
            return torch.tanh(batch.mean(dim=1) @ self.weights)

    return InTorch().eval()


def in_onnxruntime(batch=None):
    """A real session of the network for arrays [B, T, 3], perhaps of a fixed batch."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["sums"]),
        helper.make_node("Tanh", ["sums"], ["y"]),
    ]
    constants = {"axes": np.array([1]), "weights": WEIGHTS}
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("x", kind, [batch, None, 3])],
        [helper.make_tensor_value_info("y", kind, [batch, 5])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def definition(masks, measure="cosine", link=lambda x: x):
    """Mask, embed and compare one coalition after another."""
    worths = []
    for mask in masks:
        a = network(np.where(mask[:4, None], QUERY, BLANK)[None])[0]
        b = network(np.where(mask[4:, None], ITEM, 0)[None])[0]
        scale = np.linalg.norm(a) * np.linalg.norm(b) if measure == "cosine" else 1
        worths.append(link(a @ b / (scale or 1)))
    return np.array(worths)


MODELS = {
    "numpy": lambda: network,
    "jax": lambda: in_jax,
    "flax": InFlax,
    "linen": in_linen,
    "onnx": Session,
    "torch": in_torch,
    "onnxruntime": in_onnxruntime,
}


def game_of(query_model, item_model, **settings):
    query = sj.parts(query_model, QUERY, background=BLANK)
    return sj.similarity(query, sj.parts(item_model, ITEM), **settings)


def peers(kinds):
    """Kinds of models for ``parametrize``; those that need another package are marked."""
    others = ("torch", "onnxruntime")
    return [pytest.param(k, marks=pytest.mark.peers if k in others else ()) for k in kinds]


@pytest.mark.parametrize("kind", peers(MODELS))
def test_any_model_gives_the_game_of_the_definition(kind):
    game = game_of(MODELS[kind](), MODELS[kind]())
    masks = np.asarray(all_masks(7))
    expected = definition(masks)
    np.testing.assert_allclose(sj.worths(game.value_fn, masks), expected, atol=2e-6)
    assert isinstance(game.value_fn, jax.tree_util.Partial) == (kind in ("jax", "flax", "linen"))


@pytest.mark.parametrize("kind", peers(("onnx", "torch", "onnxruntime")))
def test_float64_items_meet_models_of_float32(kind):
    model = MODELS[kind]()
    query = sj.parts(model, QUERY.astype(np.float64), background=BLANK)
    game = sj.similarity(query, sj.parts(model, ITEM.astype(np.float64)))
    masks = np.asarray(all_masks(7))
    np.testing.assert_allclose(game.value_fn(masks), definition(masks), atol=2e-6)


@pytest.mark.parametrize("kind", peers(("onnx", "onnxruntime")))
@pytest.mark.parametrize("batch", [1, 3])
def test_sessions_of_a_fixed_batch(kind, batch):
    model = Session(batch=batch) if kind == "onnx" else in_onnxruntime(batch)
    masks = np.asarray(all_masks(7))
    np.testing.assert_allclose(game_of(model, model).value_fn(masks), definition(masks), atol=2e-6)


@pytest.mark.peers
@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_torch_modules_in_half_precision(half):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = in_torch().to(getattr(torch, half))
    game, masks = game_of(model, model), np.asarray(all_masks(7))
    found = game.value_fn(masks)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, definition(masks), atol=0.05)


def test_what_gives_several_results_is_refused():
    with pytest.raises(ShapjaxError, match=r"has 2 outputs \(y, z\), expected one"):
        sj.parts(Session(outputs=("y", "z")), QUERY)


@pytest.mark.peers
@pytest.mark.parametrize("wrapped", [tuple, lambda found: {"embedding": found[0]}])
def test_torch_modules_that_give_no_tensor_are_refused(wrapped):
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Several(torch.nn.Module):
        def forward(self, batch):
            return wrapped((batch.mean(dim=1), batch))

    with pytest.raises(ValueFunctionError, match=r"gave a (tuple|dict), expected a tensor"):
        game_of(Several().eval(), network)


def item_of_masks(masks):
    return network(np.where(masks[:, :, None], ITEM, 0))


def torch_of_masks():
    torch, model = pytest.importorskip("torch", reason="torch is not installed"), in_torch()

    class OfMasks(torch.nn.Module):
        def forward(self, masks):
            return model(torch.where(masks[:, :, None], torch.from_numpy(ITEM), 0))

    return OfMasks().eval()


def onnxruntime_of_masks():
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["masks"], ["shown"], to=numbers),
        helper.make_node("MatMul", ["shown", "weights"], ["sums"]),
        helper.make_node("Tanh", ["sums"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("masks", onnx.TensorProto.BOOL, [None, 3])],
        [helper.make_tensor_value_info("y", numbers, [None, 5])],
        # The mean over three entries.
        [onnx.numpy_helper.from_array(ITEM @ WEIGHTS / 3, "weights")],
    )
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


OF_MASKS = {
    "onnx": lambda: Session(item_of_masks, bool),
    "torch": torch_of_masks,
    "onnxruntime": onnxruntime_of_masks,
}


@pytest.mark.parametrize("kind", peers(OF_MASKS))
def test_a_side_may_be_a_model_of_masks(kind):
    query = sj.parts(network, QUERY, background=BLANK)
    game = sj.similarity(query, OF_MASKS[kind](), n_retrieved=3)
    masks = np.asarray(all_masks(7))
    np.testing.assert_allclose(game.value_fn(masks), definition(masks), atol=2e-6)


def test_a_linen_module_needs_its_weights():
    with pytest.raises(ShapjaxError, match=r"give module\.bind"):
        game_of(InLinen(), network)


def test_two_towers_of_different_kinds():
    masks = np.asarray(all_masks(7))
    game = game_of(InFlax(), network)
    np.testing.assert_allclose(game.value_fn(masks), definition(masks), atol=2e-6)
    game = sj.similarity(
        sj.parts(network, QUERY, background=BLANK),
        lambda m: in_jax(jnp.where(m[:, :, None], ITEM, 0)),
        n_retrieved=3,
    )
    np.testing.assert_allclose(game.value_fn(masks), definition(masks), atol=2e-6)


@pytest.mark.parametrize("model", [network, in_jax])
@pytest.mark.parametrize("measure", ["cosine", "dot"])
@pytest.mark.parametrize("link", [None, "atanh", np.square])
def test_measures_and_links(model, measure, link):
    if model is in_jax and link is np.square:
        link = jnp.square
    masks = np.asarray(all_masks(7))
    if measure == "dot" and link == "atanh":
        link = None
    apply = {None: lambda x: x, "atanh": np.arctanh}.get(link, np.square)
    game = game_of(model, model, measure=measure, link=link)
    np.testing.assert_allclose(
        sj.worths(game.value_fn, masks),
        definition(masks, measure, apply),
        rtol=1e-4,  # atanh is steep near one
        atol=1e-5,
    )


def test_equal_items_have_a_finite_atanh():
    for model in (network, in_jax):
        side = sj.parts(model, QUERY)
        game = sj.similarity(side, side, link="atanh")
        worth = sj.worths(game.value_fn, np.ones((1, 8), bool))
        np.testing.assert_allclose(worth, np.arctanh(1 - 1e-6), rtol=0.02)


def test_a_masked_pair_through_the_estimators():
    game = game_of(in_jax, in_jax)
    exact = sj.interactions(definition(np.asarray(all_masks(7))), index="STII", order=2)
    guess = sj.estimate(game.value_fn, game.n_players, budget=128, key=0)
    np.testing.assert_allclose(guess.pairs, exact.pairs, atol=1e-5)
    towers = estimate_two_tower(
        game.embed_query, game.embed_retrieved, 4, 3, budget=24, key=jax.random.key(0)
    )
    assert towers.exact
    np.testing.assert_allclose(towers.cross, np.asarray(exact.pairs)[:4, 4:], atol=1e-5)


def test_one_side_without_players_is_first_order():
    b = network(ITEM[None])[0]
    for model, vector in ((network, b), (in_jax, jnp.asarray(b))):
        game = sj.similarity(sj.parts(model, QUERY, background=BLANK), vector)
        masks = np.asarray(all_masks(4))
        shown = np.concatenate([masks, np.ones((16, 3), bool)], axis=1)
        assert game.n_players == 4
        np.testing.assert_allclose(sj.worths(game.value_fn, masks), definition(shown), atol=2e-6)


def test_parts_may_share_places_and_some_are_never_hidden():
    players = np.array([0, -1, 1, 0])
    side = sj.parts(network, QUERY, players=players, background=BLANK)
    shown = np.array([[False, True, True, False], [True, True, False, True]])
    masks = np.array([[False, True], [True, False]])
    expected = network(np.where(shown[..., None], QUERY, BLANK))
    np.testing.assert_allclose(side(masks), expected, atol=1e-6)
    assert side.n_players == 2


def test_recommendation_of_users_and_items():
    """A user's history and an item's tags by numbers, looked up in tables of two towers."""
    tables = [rng.normal(size=(10, 4)).astype(np.float32) for _ in range(2)]

    def tower(table):
        # Number 0 is no entry: it counts in no average.
        return lambda ids: (
            jnp.asarray(table)[ids].sum(axis=1, where=(ids > 0)[..., None])
            / jnp.maximum((ids > 0).sum(axis=1), 1)[:, None]
        )

    history, tags = np.array([3, 7, 1]), np.array([5, 2])
    game = sj.similarity(
        sj.parts(tower(tables[0]), history), sj.parts(tower(tables[1]), tags), measure="dot"
    )
    mask = np.array([[True, False, True, True, False]])
    expected = tables[0][[3, 1]].mean(axis=0) @ tables[1][5]
    np.testing.assert_allclose(sj.worths(game.value_fn, mask), expected, rtol=1e-5)


def test_the_recommendation_of_the_readme():
    """The block as it stands there, against dividends of all 32 coalitions of its game."""
    readme = Path(__file__).parents[1] / "README.md"
    if not readme.exists():
        pytest.skip("needs the README of the repository")
    blocks = re.findall(r"^```python\n(.*?)^```", readme.read_text("utf-8"), re.M | re.S)
    (block,) = [text for text in blocks if "sj.explain_parts" in text]
    names = {"np": np, "sj": sj}
    exec(block, names)
    game = sj.similarity(names["user"], names["item"])
    stii = np.asarray(sj.interactions(game.value_fn, index="STII", order=2, n_players=5).pairs)
    assert names["why"].cross.shape == (3, 2)
    np.testing.assert_allclose(names["why"].cross, stii[:3, 3:], atol=1e-6)
    a, b = (names["tables"][side][ids].sum(axis=0) for side, ids in ((0, [3, 41, 7]), (1, [12, 5])))
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert names["why"].similarity == pytest.approx(cosine)


class Endpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        batch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.encoded += len(batch)
        body = json.dumps(network(np.array(batch, np.float32)).tolist()).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_server_meets_every_distinct_mask_once():
    with http.server.HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        server.encoded = 0
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def ask(batch):
            url = f"http://127.0.0.1:{server.server_port}"
            body = json.dumps(np.asarray(batch).tolist()).encode()
            with urllib.request.urlopen(url, body, timeout=20) as answer:
                return np.array(json.load(answer))

        try:
            game = game_of(ask, network)
            masks = np.asarray(all_masks(7))
            values = sj.worths(game.value_fn, masks, traceable=False)
        finally:
            server.shutdown()
            thread.join()
        np.testing.assert_allclose(values, definition(masks), atol=2e-6)
        # One to see what it gives, then the 16 masks of the query.
        assert server.encoded == 1 + 16


def test_a_server_that_is_away_is_named():
    def ask(batch):
        if len(batch) > 1:
            raise urllib.error.URLError("connection refused")
        return network(batch)

    game = game_of(network, ask)
    masks = np.asarray(all_masks(7))
    said = r"the retrieved side failed for 8 masks \(URLError: .*connection refused"
    for run in (game.value_fn, lambda masks: game.embed_retrieved(masks[::16, 4:])):
        with pytest.raises(ValueFunctionError, match=said) as caught:
            run(masks)
        assert isinstance(caught.value.__cause__, urllib.error.URLError)


def test_bad_sides_are_refused():
    side = sj.parts(network, QUERY)
    with pytest.raises(ShapjaxError, match="n_retrieved is missing"):
        sj.similarity(side, network)
    with pytest.raises(ShapjaxError, match=r"5 numbers and the retrieved item's 4"):
        sj.similarity(side, np.ones(4))
    with pytest.raises(ShapjaxError, match="neither side"):
        sj.similarity(np.ones(4), np.ones(4))
    with pytest.raises(ShapjaxError, match="one of cosine, dot"):
        sj.similarity(side, side, measure="l2")
    with pytest.raises(ShapjaxError, match="one of atanh"):
        sj.similarity(side, side, link="log")
    with pytest.raises(ShapjaxError, match="4 parts"):
        sj.similarity(side, side, n_query=3)
    with pytest.raises(ShapjaxError, match="expected parts"):
        sj.similarity(side, np.ones((2, 5)))
    with pytest.raises(ValueFunctionError, match=r"gave shape \(1,\)"):
        sj.similarity(side, lambda masks: masks.sum(axis=1), n_retrieved=2)


def test_bad_items_are_refused():
    with pytest.raises(ShapjaxError, match="a str, expected a backbone"):
        sj.parts("model", QUERY)
    with pytest.raises(ShapjaxError, match="expected an array of numbers"):
        sj.parts(network, "a text")
    with pytest.raises(ShapjaxError, match="broadcasts to the item"):
        sj.parts(network, QUERY, background=np.ones(7))
    for players in ([0, 2, 1, 3.0], [0, 2, 2, 0], [0, 1]):
        with pytest.raises(ShapjaxError, match="players have shape"):
            sj.parts(network, QUERY, players=players)
    with pytest.raises(ShapjaxError, match="call its eval"):
        sj.parts(in_torch().train(), QUERY)
