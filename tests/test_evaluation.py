"""The command ``shapjax evaluate``: from a folder of pictures to the tables, whatever ends it."""

import csv
import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_set_folders import coco_folder, cub_folder, plain_folder, sop_folder, voc_folder
from devices import on_eight_devices
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from toy_network import Toy, toy

import shapjax as sj
from shapjax.backbones.record import Backbone
from shapjax.backbones.shapjax_tiny import EMBEDDED
from shapjax.backbones.tokeniser import TextPreprocessing
from shapjax.cli import main
from shapjax.evaluate.datasets import open_dataset
from shapjax.evaluate.mining import mine_pairs
from shapjax.evaluate.pairs import Pair, pairs_of_shard, read_pairs, write_pairs
from shapjax.evaluate.plan import read_plan, require_one_table
from shapjax.evaluate.resume import settings_of
from shapjax.evaluate.rows import key_of
from shapjax.evaluate.run import Judge, Settings, pair_reader, plan_of, run, upsampled
from shapjax.evaluate.store import read
from shapjax.evaluate.tables import summarise
from shapjax.explainers import batch
from shapjax.explainers.explain import METHODS
from shapjax.games.backgrounds import background

FAST = ("gradcam", "sam")


@pytest.fixture(scope="module")
def model():
    return sj.backbones.load("shapjax_tiny")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return voc_folder(tmp_path_factory.mktemp("voc"), void=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache, monkeypatch):
    monkeypatch.setenv("SHAPJAX_CACHE", str(cache))


@pytest.fixture(scope="module", autouse=True)
def _x64():
    """Everything in the command's precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def _chunks_of_two():
    """So that few pairs are some chunks, and all of one shape."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shapjax.evaluate.run.TOGETHER", 2)
        yield


@pytest.fixture(scope="module")
def dataset(root):
    return open_dataset("voc", root)


@pytest.fixture(scope="module")
def pairs(dataset, model, cache):
    os.environ["SHAPJAX_CACHE"] = str(cache)
    return mine_pairs(dataset, model).pairs


@pytest.fixture(scope="module")
def rows(dataset, pairs, model, tmp_path_factory):
    """All pairs by methods without samples, and by one with."""
    settings = Settings((*FAST, "gram-sam"), budget=200)
    return run(dataset, pairs, {"shapjax_tiny": model}, settings, tmp_path_factory.mktemp("run"))


def numbers(rows):
    """Rows without what a clock says."""
    return {key_of(row): {k: v for k, v in row.items() if k not in ("seconds", "warm")}
            for row in rows}  # fmt: skip


def close(rows, others):
    """Whether rows agree, floating-point numbers to rounding."""
    rows, others = numbers(rows), numbers(others)
    assert rows.keys() == others.keys()
    for key, row in rows.items():
        for name, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(others[key][name], abs=1e-5), (key, name)
            else:
                assert value == others[key][name]


NUMBERS = {
    1: ("faithfulness", "faithfulness_v1", "deletion", "insertion", "pointing"),
    2: ("faithfulness", "distance_v1", "mean_iou", "iou"),
}
NUMBERS = {order: (*names, "inefficiency", "similarity") for order, names in NUMBERS.items()}
"""What is measured of an explanation of each order."""


def test_every_pair_has_every_number(rows, pairs):
    assert len(rows) == len(pairs) * 5
    for row in rows:
        assert row["error"] is None
        assert row["seconds"] > 0
        for name in NUMBERS[row["order"]]:
            assert np.isfinite(row[name]), (row, name)
        if row["method"] == "gram-sam":
            assert row["inefficiency"] < 1e-3
    # All pairs of the first chunk waited for its program, which is warm for the next.
    for place, pair in enumerate(pairs):
        assert {row["warm"] for row in rows if row["pair"] == pair.id} == {place >= 2}


LAYOUTS = {
    "coco of objects": ("coco", functools.partial(coco_folder, stuff=False)),
    "coco of stuff": ("coco", functools.partial(coco_folder, stuff=True)),
    "cub": ("cub", cub_folder),
    "folder": ("folder", plain_folder),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_of_every_layout_with_masks_have_every_number(layout, tmp_path):
    name, made = LAYOUTS[layout]
    dataset = open_dataset(name, made(tmp_path / "data"))
    pairs = mine_pairs(dataset, toy()).pairs
    assert {pair.validation for pair in pairs} == {item.name for item in dataset.validation}
    found = run(dataset, pairs, {"toy": toy()}, Settings(("sam",)), tmp_path / "run")
    assert len(found) == 2 * len(pairs)
    for row in found:
        assert row["error"] is None
        for measure in NUMBERS[row["order"]]:
            assert np.isfinite(row[measure]), (row, measure)
    cells = [cell for cell in summarise(found, name) if cell.metric == "faithfulness"]
    assert [(cell.order, cell.count) for cell in cells if cell.network == "toy"] == [
        (1, len(pairs)),
        (2, len(pairs)),
    ]


def test_numbers_are_those_of_the_metrics(dataset, pairs, model, rows):
    """One row again, from the explanation and by hand."""
    pair = pairs[0]
    items = {item.name: item for item in dataset.items}
    query, retrieved = items[pair.training], items[pair.validation]
    why = sj.explain(model, query.image, retrieved.image, method="sam", order=2)
    row = next(r for r in rows if (r["pair"], r["method"], r["order"]) == (pair.id, "sam", 2))
    size = model.preprocessing.size
    mask = dataset.class_mask(query, pair.category, size)[0]
    true, void = dataset.class_mask(retrieved, pair.category, size)
    labels = why.query_players
    shares = np.bincount(labels.ravel(), mask.ravel()) / np.bincount(labels.ravel())
    side = int(len(why.cross[0]) ** 0.5)
    arriving = upsampled((shares @ why.cross).reshape(side, side), size)
    kept = np.zeros(size * size, bool)
    kept[np.argsort(-arriving.ravel(), kind="stable")[: true.sum()]] = True
    kept = kept.reshape(size, size)
    scores = [
        (a & b & ~void).sum() / ((a | b) & ~void).sum() for a, b in ((kept, true), (~kept, ~true))
    ]
    assert row["mean_iou"] == pytest.approx(np.mean(scores), abs=1e-3)
    assert row["inefficiency"] == pytest.approx(why.inefficiency, rel=1e-3)

    heat = sj.explain(model, query.image, retrieved.image, method="sam", order=1)
    judge = Judge(model, pair_reader(dataset, size)(pair))
    found = judge.first_order(heat)
    x, y = (model.resize(sj.load_image(i.image), fit="stretch") for i in (query, retrieved))
    from scipy.ndimage import uniform_filter

    window = max(3, 2 * round((25 * size / 224 - 1) / 2) + 1)
    blur = uniform_filter(y, size=(window, window, 1), mode="reflect")
    values = upsampled(np.asarray(heat.heat("retrieved"), float).reshape(side, side), size)
    hidden = np.zeros(size * size, bool)
    hidden[np.argsort(-values.ravel(), kind="stable")[: round(0.3 * size * size)]] = True
    censored = np.where(hidden.reshape(size, size, 1), blur, y)

    def cosine(a, b):
        u, v = np.asarray(model.embed(model.normalise(jnp.asarray(np.stack([a, b])))), float)
        return u @ v / np.linalg.norm(u) / np.linalg.norm(v)

    assert found["faithfulness"] == pytest.approx(cosine(x, y) - cosine(x, censored), abs=1e-5)


def test_cells_are_interpolated_between_their_centres():
    # Two cells over four pixels have their centres at 0.5 and 2.5.
    np.testing.assert_allclose(upsampled(np.array([[0.0, 1.0]] * 2), 4), [[0, 0.25, 0.75, 1]] * 4)
    # Of an odd number of pixels a cell, the middle one is at the cell's centre.
    cells = np.random.default_rng(0).normal(size=(3, 5))
    np.testing.assert_allclose(upsampled(cells, 15)[2::5, 1::3], cells)
    np.testing.assert_allclose(upsampled(np.full((3, 3), 2.0), 10), 2.0)


def test_rows_depend_neither_on_order_nor_on_sharding(dataset, pairs, model, rows, tmp_path):
    settings = Settings((*FAST, "gram-sam"), budget=200)
    for shard in (1, 0):
        turned = pairs[::-1]
        found = run(
            dataset, turned, {"shapjax_tiny": model}, settings, tmp_path, shard=shard, shards=2
        )
    assert {path.suffix for path in tmp_path.glob("rows-*-of-00002.*")} == {".jsonl", ".npz"}
    close(found, rows)
    # The list in another order has the same shards: nothing is left to do.
    told = []
    models = {"shapjax_tiny": model}
    run(
        dataset, pairs[1:] + pairs[:1], models, settings, tmp_path, shard=1, shards=2,
        progress=lambda *numbers: told.append(numbers),
    )  # fmt: skip
    assert told == [("feature maps", 10, 10)]
    # A shard whose disk is lost is computed again, the whole of it and nothing else.
    for path in tmp_path.glob("rows-00001-of-00002.*"):
        path.unlink()
    told = []
    run(
        dataset, turned, {"shapjax_tiny": model}, settings, tmp_path, shard=1, shards=2,
        progress=lambda *numbers: told.append(numbers),
    )  # fmt: skip
    assert told == [("feature maps", done, 10) for done in range(11)]
    close(read(tmp_path), rows)


@given(st.permutations([Pair(f"v{n:02}", "t", "c", 0.5) for n in range(11)]), st.integers(1, 12))
def test_shards_are_balanced_and_do_not_depend_on_the_order(pairs, shards):
    parts = [pairs_of_shard(pairs, shard, shards) for shard in range(shards)]
    assert sorted(pair for part in parts for pair in part) == sorted(pairs)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for shard, part in enumerate(parts):
        assert sorted(part) == sorted(pairs)[shard::shards]
        assert part == sorted(part, key=pairs.index)


def test_the_same_pictures_elsewhere_go_on_with_the_run(dataset, pairs, root, tmp_path):
    asked = {"toy": toy()}, Settings(("sam",), (1,))
    found = run(dataset, pairs, *asked, tmp_path / "run")
    moved = tmp_path / "mounted"
    moved.symlink_to(shutil.copytree(root, tmp_path / "copy"))
    elsewhere = open_dataset("voc", moved)
    told = []
    again = run(elsewhere, pairs, *asked, tmp_path / "run", progress=lambda *a: told.append(a))
    assert again == found
    assert told == [("feature maps", len(pairs), len(pairs))]
    assert read_plan(tmp_path / "run")["root"] == str(dataset.root.resolve())
    with pytest.raises(sj.ShapjaxError, match="holds a run with pairs"):
        run(elsewhere, pairs[1:], *asked, tmp_path / "run")


def test_nothing_is_computed_twice(dataset, pairs, model, rows, tmp_path, monkeypatch):
    """Although the clock goes back all the while, and the rows are of 1970."""
    clock = count(time.time(), -3600)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    settings = Settings(FAST, orders=(1,))
    models = {"shapjax_tiny": model}

    def stop(what, done, total):
        assert (what, total) == ("feature maps", 8)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(dataset, pairs, models, settings, tmp_path, progress=stop)
    assert len(read(tmp_path)) == 5
    os.utime(tmp_path / "rows-00000-of-00001.jsonl", (0, 0))
    seen = []
    explain_stream = sj.explain_stream

    def counted(model, pictures, **named):
        seen.extend((named["method"], pair_id) for pair_id in named["ids"])
        return explain_stream(model, pictures, **named)

    monkeypatch.setattr("shapjax.evaluate.run.explain_stream", counted)
    found = run(dataset, pairs, models, settings, tmp_path)
    left = [("gradcam", pairs[3].id), ("sam", pairs[2].id), ("sam", pairs[3].id)]
    assert sorted(seen) == sorted(left)
    wanted = [row for row in rows if row["method"] in FAST and row["order"] == 1]
    close(found, wanted)
    with pytest.raises(sj.ShapjaxError, match="holds a run with seed 0, but now it is 1"):
        run(dataset, pairs, models, Settings(FAST, orders=(1,), seed=1), tmp_path)


def test_warm_is_what_no_longer_compiles(dataset, pairs, tmp_path, monkeypatch):
    """Another number of pairs in a chunk, or of superpixels, is another program."""
    grids = iter([(2, 2), (2, 2), (1, 2), (2, 2), (1, 2)])

    def explain(*pictures, **named):
        return sj.explain(*pictures, **{**named, "players": next(grids)})

    monkeypatch.setattr("shapjax.explainers.batch.explain", explain)
    more = [*pairs, pairs[0]._replace(training=pairs[1].training)]
    settings = Settings(("sam", "two-tower"), orders=(1,), superpixel_budget=20)
    told = []
    found = run(
        dataset, more, {"toy": toy()}, settings, tmp_path, progress=lambda *a: told.append(a)
    )
    # Fast rows and slow ones are counted apart, and so is the time that is left.
    kinds = ("feature maps", "masked pictures")
    assert told == [(kind, done, 5) for kind in kinds for done in range(6)]
    warm = {(row["method"], row["pair"]): row["warm"] for row in found}
    assert [warm["sam", pair.id] for pair in more] == [False, False, True, True, False]
    assert [warm["two-tower", pair.id] for pair in more] == [False, True, False, True, True]


ON_DEVICES = """
import sys
from pathlib import Path
import jax, numpy as np
from PIL import Image
import shapjax as sj
from data_set_folders import voc_folder
from shapjax.evaluate import run as module
from shapjax.evaluate.datasets import open_dataset
from shapjax.evaluate.pairs import Pair
from shapjax.evaluate.run import Settings, run
from toy_network import toy

assert jax.device_count() == 8
jax.config.update("jax_enable_x64", True)
folder = Path(sys.argv[1])
root = voc_folder(folder / "voc", training=(1,) * 6, validation=(1,) * 3)
Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(root / "JPEGImages" / "t2.jpg")
pairs = [Pair(f"v{v}", f"t{t}", "aeroplane", 1.0) for v in range(3) for t in range(6)]
settings = Settings(("gram-sam",), budget=200)
data = open_dataset("voc", root)
module.TOGETHER = 1  # on each device: three chunks, the last of two pairs
many = run(data, pairs, {"toy": toy()}, settings, folder / "many")
module._devices, module.TOGETHER = lambda: None, 8
one = run(data, pairs, {"toy": toy()}, settings, folder / "one")
assert len(one) == len(many) == 18 * 2
for a, b in zip(many, one):
    assert a.keys() == b.keys()
    if "|t2|" in a["pair"]:
        assert a["error"] == b["error"] and "the query picture" in a["error"], a["error"]
        assert "layer 'root'" in a["error"]
        continue
    assert a["error"] is None, a
    for name in a.keys() - {"seconds", "warm"}:
        same = a[name] == b[name]
        assert same or abs(a[name] - b[name]) < 1e-5, (name, a[name], b[name])
print("fine")
"""


def test_eight_devices_give_the_rows_of_one(tmp_path):
    assert on_eight_devices(ON_DEVICES, str(tmp_path)).strip() == "fine"


def test_nan_of_a_network_names_pair_and_layer_and_spares_the_others(
    dataset, pairs, model, tmp_path
):
    bad = pairs[1].validation
    item = next(item for item in dataset.validation if item.name == bad)
    picture = model.resize(sj.load_image(item.image), fit="stretch")
    broken = nan_for(model, picture)
    settings = Settings(("sam",), orders=(1,))
    found = run(dataset, pairs[:3], {"shapjax_tiny": broken}, settings, tmp_path)
    failed = [row for row in found if row["error"] is not None]
    assert {row["pair"] for row in failed} == {pairs[1].id}
    first = next(iter(model.maps(model.normalise(jnp.asarray(picture)[None]))))
    for row in failed:
        assert f"for the retrieved picture, first in layer '{first}'" in row["error"]
        assert "faithfulness" not in row
    cells = summarise(found, "voc")
    assert {c.count for c in cells if c.metric == "faithfulness" and c.mean is not None} == {2}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_fails_on_the_blur_alone_is_told_with_its_layer(
    dataset, pairs, tmp_path, value
):
    """The blur is a background for the method, and for the judge the last censored picture."""
    pair, model = pairs[0], toy()
    loaded = pair_reader(dataset, 16)(pair)
    blur = background("blur", model.resize(loaded.retrieved, fit="stretch"), model)
    broken = nan_for(model, blur, value)
    found = run(dataset, pairs[:2], {"toy": broken}, Settings(("sam",), orders=(1,)), tmp_path)
    (error,) = [row["error"] for row in found if row["pair"] == pair.id]
    assert "for the blur background of the retrieved picture, first in layer 'pool'" in error
    assert [row["pair"] for row in found if row["error"] is None] == [pairs[1].id]
    why = sj.explain(model, loaded.query, loaded.retrieved, method="sam", order=1)
    with pytest.raises(sj.NotFiniteError, match="for a censored picture, first in layer 'pool'"):
        Judge(broken, loaded).first_order(why)


class Picky(Toy):
    """NaN in its root where the first cell shows one picture and the last one does not."""

    def __init__(self, picture):
        super().__init__()
        self.first, self.last = (nnx.Param(jnp.asarray(part.mean(axis=(0, 1)))) for part in
                                 (picture[:4, :4], picture[-4:, -4:]))  # fmt: skip

    def _root(self, x):
        shown, hidden = (
            jnp.abs(cell - own[...]).max(axis=-1) for cell, own in
            ((x[:, 0, 0], self.first), (x[:, -1, -1], self.last))
        )  # fmt: skip
        bad = (shown < 1e-5) & (hidden > 1e-3)
        return jnp.where(bad[:, None, None, None], jnp.nan, super()._root(x))


@pytest.mark.parametrize("method", ["kernel-shap", "two-tower", "partition-shap", "fixlip"])
def test_a_network_that_fails_on_a_masked_picture_alone_is_told_with_its_layer(
    dataset, pairs, tmp_path, method
):
    """Neither for the whole pictures nor for their blur or mean colour."""
    sound = toy()
    loaded = pair_reader(dataset, 16)(pairs[0])
    picture = np.asarray(sound.preprocess(loaded.retrieved, fit="stretch"))
    broken = Backbone(f"picky, {method}", sound.preprocessing, *nnx.split(Picky(picture)))
    order = 2 if method == "fixlip" else 1
    settings = Settings((method,), (order,), superpixel_budget=260)
    (row,) = run(dataset, pairs[:1], {"picky": broken}, settings, tmp_path)
    told = r"the retrieved picture of which only players \[\d.* are shown, first in layer 'root'"
    assert re.search(told, row["error"])
    given = {"method": method, "order": order, "budget": 260}
    with pytest.raises(sj.NotFiniteError, match=told):
        sj.explain(broken, loaded.query, loaded.retrieved, progress=lambda *_: None, **given)


def nan_for(model, picture, value=jnp.nan):
    """The network, but NaN for one picture."""

    class Poisoned(type(model)):
        def normalise(self, rgb):
            x = super().normalise(rgb)
            same = jnp.abs(jnp.asarray(rgb, jnp.float32) - picture).max(axis=(-3, -2, -1)) < 1e-6
            return jnp.where(same[..., None, None, None], value, x)

    jax.tree_util.register_dataclass(Poisoned, ["state"], ["name", "preprocessing", "graphdef"])
    # Compiled programs are kept by structure, and jaxlib (0.10) finds those of two dataclasses of
    # one content equal where their hashes happen to meet.
    name = f"{model.name}, {value} for {zlib.crc32(picture.tobytes())}"
    return Poisoned(name, model.preprocessing, model.graphdef, model.state)


def test_a_picture_that_breaks_meanwhile_is_a_failed_row(dataset, pairs, model, tmp_path, root):
    path = root / "JPEGImages" / f"{pairs[0].validation}.jpg"
    whole = path.read_bytes()
    path.write_bytes(b"broken")
    asked = dataset, pairs, {"shapjax_tiny": model}, Settings(("sam",), (1,)), tmp_path
    try:
        found = run(*asked)
    finally:
        path.write_bytes(whole)
    assert ["is not a picture" in (row["error"] or "") for row in found].count(True) == 1
    assert len(found) == len(pairs)
    # It stays so when the file is mended, until it is asked for again: it and no other.
    told = []
    assert run(*asked) == found
    again = run(*asked, again_failed=True, progress=lambda *numbers: told.append(numbers))
    assert told == [("feature maps", done, len(pairs)) for done in (len(pairs) - 1, len(pairs))]
    assert {row["error"] for row in again} == {None}


def out_of_memory(*_, **__):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")


def refused(*_, **__):
    raise sj.MemoryRefused("the pair needs 1 TiB; lower the budget.")


@pytest.mark.parametrize("fail", [out_of_memory, refused])
@pytest.mark.parametrize(
    ("module", "name", "method"),
    [
        (batch, "explain", "ig"),
        (sj.evaluate.run, "explain_stream", "sam"),
        (sj.evaluate.run, "Judge", "sam"),
    ],
)
def test_a_pair_that_no_memory_holds_is_a_failed_row(
    dataset, pairs, tmp_path, monkeypatch, fail, module, name, method
):
    whole, calls = getattr(module, name), count()

    def first_fails(*given, **named):
        return (fail if next(calls) == 0 else whole)(*given, **named)

    monkeypatch.setattr(module, name, first_fails)
    settings = Settings((method,), (1,))
    found = run(dataset, pairs, {"toy": toy()}, settings, tmp_path)
    failed = {row["pair"]: row["error"] for row in found if row["error"] is not None}
    # Pairs of one chunk are in memory together.
    assert set(failed) == {pair.id for pair in pairs[: 2 if name == "explain_stream" else 1]}
    assert all(re.search("memory ran out; lower|needs 1 TiB", why) for why in failed.values())


def test_other_errors_of_a_device_end_the_run(dataset, pairs, tmp_path, monkeypatch):
    def lost(*_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: device lost")

    monkeypatch.setattr("shapjax.evaluate.run.explain_stream", lost)
    with pytest.raises(jax.errors.JaxRuntimeError, match="device lost"):
        run(dataset, pairs, {"toy": toy()}, Settings(("sam",), (1,)), tmp_path)
    assert read(tmp_path) == []


def test_a_class_that_a_neighbour_hardly_shows(dataset, pairs, model, tmp_path):
    """An object that vanishes at the network's size: no number rather than a wrong one."""
    pair = pairs[0]._replace(category="boat")
    found = run(dataset, [pair], {"shapjax_tiny": model}, Settings(("sam",)), tmp_path)
    first, second = sorted(found, key=lambda row: row["order"])
    assert first["pointing"] is None
    assert first["faithfulness"] is not None
    assert second["mean_iou"] is second["faithfulness"] is None
    assert second["inefficiency"] is not None


def test_settings():
    settings = Settings(("lime", "gram-sam", "sam", "vesm"), (2, 1), budget=100)
    assert settings.tasks[:3] == [("lime", 1), ("lime", 2), ("gram-sam", 1)]
    assert ("vesm", 2) not in settings.tasks
    assert settings.budget_of("lime", 2) == 20_000
    assert settings.budget_of("gram-sam", 2) == 100
    assert settings.budget_of("sam", 1) is None
    small = Settings(("lime", "kernel-sam"), superpixel_budget=70)
    assert (small.budget_of("lime", 1), small.budget_of("kernel-sam", 2)) == (70, 40_000)
    with pytest.raises(sj.ShapjaxError, match="nothing of order 2"):
        Settings(("vesm",), (2,))
    with pytest.raises(sj.ShapjaxError, match="expected one of sbsm"):
        Settings(("shap",))


def arguments(root, out, *more):
    return ["evaluate", "--dataset", "voc", "--root", str(root), "--out", str(out), *more]


def test_the_command_writes_tables_and_goes_on(root, tmp_path, capsys):
    given = arguments(root, tmp_path / "out", "--methods", *FAST, "--pairs", "3", "--orders", "1")
    assert main(given) == 0
    shown = capsys.readouterr()
    assert "| *DN121, published* |" in shown.out
    assert "6 rows; written" in shown.out
    assert re.search(r"explaining by feature maps:.*6/6 \[\d\d:\d\d<\d\d:\d\d", shown.err)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "manifest.json", "pairs.csv", "rows-00000-of-00001.jsonl", "rows-00000-of-00001.npz",
        "tables.csv", "tables.md", "tables.tex",
    }  # fmt: skip
    with (tmp_path / "out" / "tables.csv").open() as lines:
        table = list(csv.DictReader(lines))
    rows = read(tmp_path / "out")
    values = [row["faithfulness"] for row in rows if row["method"] == "sam"]
    cell = next(r for r in table if (r["metric"], r["method"]) == ("faithfulness", "sam"))
    assert float(cell["mean"]) == pytest.approx(np.mean(values))
    assert float(cell["standard_error"]) == pytest.approx(np.std(values, ddof=1) / 3**0.5)
    before = (tmp_path / "out" / "rows-00000-of-00001.jsonl").read_bytes()
    assert main([*given, "--quiet"]) == 0
    assert (tmp_path / "out" / "rows-00000-of-00001.jsonl").read_bytes() == before
    # The pairs can be used again, by another run.
    pairs = str(tmp_path / "out" / "pairs.csv")
    again = arguments(root, tmp_path / "b", "--methods", *FAST, "--pairs", pairs, "--orders", "1")
    assert main([*again, "--quiet"]) == 0
    close(read(tmp_path / "b"), rows)
    # Tables show the rows of other runs too, each once, if one table can hold both.
    other = arguments(root, tmp_path / "c", "--methods", "vesm", "--pairs", pairs, "--orders", "1")
    assert main([*other, "--quiet"]) == 0
    beside = ["--quiet", "--with", str(tmp_path / "b"), str(tmp_path / "c")]
    assert main([*given, *beside]) == 0
    with (tmp_path / "out" / "tables.csv").open() as lines:
        ours = [cell for cell in csv.DictReader(lines) if cell["count"] != "0"]
    assert {(cell["method"], cell["count"]) for cell in ours} == {
        (method, "3") for method in (*FAST, "vesm")
    }
    kept = next(
        cell for cell in ours if (cell["metric"], cell["method"]) == ("faithfulness", "sam")
    )
    assert kept == cell
    capsys.readouterr()
    assert main([*given, "--quiet", "--with", str(root)]) == 2
    assert "cannot be read as the plan of a run" in one_sentence(capsys)
    seeded = arguments(root, tmp_path / "d", "--methods", *FAST, "--pairs", pairs, "--seed", "7")
    assert main([*seeded, "--quiet", "--with", str(tmp_path / "b")]) == 2
    assert "seed 0, but" in one_sentence(capsys)
    assert not (tmp_path / "d").exists()  # told before anything is explained


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "coco"}, 'dataset "coco", but a one with "voc"'),
        ({"backbones": {"x": "2"}}, 'weights of x "2", but a one with "1"'),
        ({"seed": 1}, "seed 1, but a one with 0"),
        ({"precision": "float32"}, 'precision "float32"'),
        ({"methods": [["lime", 1, 50]]}, r"budget of lime \(order 1\) 50, but a one with 100"),
        ({"methods": 3}, "b/manifest.json does not tell all settings"),
    ],
)
def test_runs_of_other_settings_are_not_averaged(change, message):
    plan = {
        "dataset": "voc",
        "root": "",
        "seed": 0,
        "backbones": {"x": "1"},
        "methods": [["lime", 1, 100]],
        "precision": "float64",
    }
    require_one_table([("a", plan), ("b", {**plan, "pairs": "others", "root": "elsewhere"})])
    require_one_table([("a", plan), ("b", {**plan, "methods": [["lime", 2, 50]]})])
    # Networks that only one of them explains have a line of their own.
    require_one_table([("a", plan), ("b", {**plan, "backbones": {"y": "3"}, "seed": 1})])
    with pytest.raises(sj.ShapjaxError, match=message):
        require_one_table([("a", plan), ("b", {**plan, **change})])


@pytest.fixture
def listed(tmp_path):
    """A folder of its own with a list of four pairs, of which two go to each of two processes."""
    root = voc_folder(tmp_path / "voc")
    pairs = [Pair(f"v{at}", f"t{at}", ("aeroplane", "bicycle")[at % 2], 0.5) for at in range(4)]
    write_pairs(tmp_path / "given.csv", pairs)
    return root, tmp_path / "given.csv", pairs


def test_broken_files_of_a_list_are_fatal_or_skipped_before_a_run_begins(listed, tmp_path, capsys):
    root, table, pairs = listed
    given = ["--methods", "sam", "--orders", "1", "--quiet", "--pairs", str(table)]
    for name in ("t1", "t2"):
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(b"junk")
    assert main(arguments(root, tmp_path / "a", *given)) == 2
    assert "2 file(s) of the data set are missing or broken" in one_sentence(capsys)
    assert not (tmp_path / "a").exists()
    skipping = [*given, "--broken", "skip"]
    assert main(arguments(root, tmp_path / "b", *skipping)) == 0
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in told] == [
        ["shapjax", f" skipped {root / 'JPEGImages' / name}.jpg"] for name in ("t1", "t2")
    ]
    assert {row["pair"] for row in read(tmp_path / "b")} == {pairs[0].id, pairs[3].id}
    for name in ("v0", "v3"):
        (root / "JPEGImages" / f"{name}.jpg").unlink()
    assert main(arguments(root, tmp_path / "c", *skipping)) == 2
    assert "no pair of" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["resume", "list", "skip", "mined"])
def test_a_file_that_breaks_meanwhile_does_not_end_a_run(way, listed, tmp_path, capsys):
    """Whichever way it goes on: the pair fails, and comes again once its file is mended."""
    root, table, _ = listed
    out = tmp_path / "out"
    given = arguments(root, out, "--methods", "sam", "--orders", "1", "--quiet")
    given += ["--pairs", "2" if way == "mined" else str(table)]
    given += ["--broken", "skip"] * (way == "skip")
    assert main(given) == 0
    before = read(out)
    path = out / "rows-00000-of-00001.jsonl"
    kept, lost = path.read_bytes().splitlines(keepends=True)[:2]
    path.write_bytes(kept)
    path.with_suffix(".npz").unlink()
    name = json.loads(lost)["pair"].split("|")[1]
    picture = root / "JPEGImages" / f"{name}.jpg"
    whole = picture.read_bytes()
    picture.write_bytes(b"junk")
    again = ["evaluate", "--resume", str(out), "--quiet"] if way == "resume" else given
    capsys.readouterr()
    assert main(again) == 0
    assert f"{name}.jpg" in capsys.readouterr().err
    failed = {row["pair"] for row in read(out) if row["error"] is not None}
    assert json.loads(lost)["pair"] in failed
    assert json.loads(kept)["pair"] not in failed
    picture.write_bytes(whole)
    assert main([*again, "--again-failed"]) == 0
    close(read(out), before)
    if way == "mined":  # asked for otherwise it is not this run
        assert main([*given, "--pairs", "3"]) == 2
        assert "holds a run with pairs" in one_sentence(capsys)


def test_each_process_opens_the_files_of_its_own_pairs(listed, tmp_path, capsys):
    root, table, pairs = listed
    own = [pairs_of_shard(pairs, process, 2) for process in range(2)]
    picture = root / "JPEGImages" / f"{own[1][0].training}.jpg"
    assert all(pair.training != own[1][0].training for pair in own[0])
    whole = picture.read_bytes()
    picture.write_bytes(b"junk")
    given = ["--methods", "sam", "--orders", "1", "--quiet", "--pairs", str(table)]
    given += ["--processes", "2", "--patience", "0"]

    def process(number, out, *more):
        code = main(arguments(root, tmp_path / out, *given, "--process", number, *more))
        return code, capsys.readouterr().err

    # Of the first process all files are whole, so it goes ahead.
    assert process("0", "a")[1].endswith("this one again.\n")
    assert {row["pair"] for row in read(tmp_path / "a")} == {pair.id for pair in own[0]}
    for _ in range(2):
        code, err = process("1", "a")
        assert (code, "1 file(s) of the data set are missing or broken" in err) == (2, True)
    assert not (tmp_path / "a" / "rows-00001-of-00002.jsonl").exists()
    picture.write_bytes(whole)
    assert process("1", "a") == (0, "")
    assert {row["pair"] for row in read(tmp_path / "a")} == {pair.id for pair in pairs}
    # Which ones are skipped process 0 says.
    picture.write_bytes(b"junk")
    assert "skipped" in process("0", "b", "--broken", "skip")[1]
    picture.write_bytes(whole)
    assert process("1", "b", "--broken", "skip") == (0, "")
    assert {row["pair"] for row in read(tmp_path / "b")} == {
        pair.id for pair in pairs if pair != own[1][0]
    }


def test_a_network_of_texts_explains_no_pictures(root, tmp_path, capsys, monkeypatch):
    texts = dataclasses.replace(toy(), preprocessing=TextPreprocessing(length=8, padding=0))
    monkeypatch.setattr("shapjax.backbones.load", lambda *_, **__: texts)
    for more in ([], ["--paired-by", "minilm_l6"]):
        assert main(arguments(root, tmp_path, "--backbones", "minilm_l6", *more)) == 2
        assert "minilm_l6 reads texts" in one_sentence(capsys)


def test_pairs_are_found_by_a_network_that_is_not_explained(root, tmp_path):
    """As in the papers, whose pairs are MoCo v2's for all networks."""
    noise = np.random.default_rng(0)
    with np.load(EMBEDDED) as weights:
        other = {name: noise.normal(size=array.shape) for name, array in weights.items()}
    np.savez(tmp_path / "other.npz", **{k: v.astype(np.float32) for k, v in other.items()})
    given = arguments(root, tmp_path / "out", "--methods", "sam", "--orders", "1", "--quiet")
    assert main([*given, "--paired-by", f"shapjax_tiny={tmp_path / 'other.npz'}"]) == 0
    model = sj.backbones.load("shapjax_tiny", weights=tmp_path / "other.npz")
    dataset = open_dataset("voc", root)
    expected = mine_pairs(dataset, model).pairs
    assert read_pairs(tmp_path / "out" / "pairs.csv", dataset) == expected
    assert expected != mine_pairs(dataset, sj.backbones.load("shapjax_tiny")).pairs


def test_a_run_is_resumed_from_its_folder_alone(root, tmp_path, capsys, monkeypatch):
    """From another folder, with weights of its own, after a process was killed."""
    weights, out = tmp_path / "mine.npz", tmp_path / "out"
    shutil.copy(EMBEDDED, weights)
    monkeypatch.chdir(tmp_path)
    given = arguments(root, "out", "--weights", "mine.npz", "--methods", *FAST, "--orders", "1")
    given += ["--seed", "3", "--pairs", "3", "--quiet", "--processes", "2", "--patience", "0"]
    # The first one tells whoever started it that the other's rows are not there.
    assert main([*given, "--process", "0"]) == 2
    assert re.search(r"error: [24] rows have not come", one_sentence(capsys))
    assert main([*given, "--process", "1"]) == 0
    whole, plan = read(out), read_plan(out)
    path = out / "rows-00001-of-00002.jsonl"
    kept, *lost = path.read_bytes().splitlines(keepends=True)
    path.with_suffix(".npz").unlink()
    path.write_bytes(kept)
    seen = []
    explain_stream = sj.explain_stream

    def counted(model, pictures, **named):
        seen.extend((named["method"], pair_id) for pair_id in named["ids"])
        return explain_stream(model, pictures, **named)

    monkeypatch.chdir(root)
    monkeypatch.setattr("shapjax.evaluate.run.explain_stream", counted)
    again = ["evaluate", "--resume", str(out), "--processes", "2", "--process", "1", "--quiet"]
    assert main(again) == 0
    assert sorted(seen) == sorted((row["method"], row["pair"]) for row in map(json.loads, lost))
    assert len(seen) == 1
    assert path.read_bytes().startswith(kept)
    close(read(out), whole)
    assert read_plan(out) == plan
    capsys.readouterr()
    for more in (["--seed", "3"], ["--pairs", "3", "--seed", "0"], ["--out", str(out)]):
        assert main([*again, *more]) == 2
        assert f"got {', '.join(more[::2])} beside --resume" in one_sentence(capsys)
    # Where the list is lost as well, the manifest says how it was made; the first process does.
    listed = (out / "pairs.csv").read_bytes()
    for name in ("pairs.csv", "rows-00000-of-00002.jsonl", "rows-00000-of-00002.npz"):
        (out / name).unlink()
    assert main([*again, "--patience", "0"]) == 2
    assert "pairs.csv has not come from process 0" in one_sentence(capsys)
    assert main([*again[:-3], "--process", "0", "--quiet"]) == 0
    assert (out / "pairs.csv").read_bytes() == listed
    close(read(out), whole)
    manifest = (out / "manifest.json").read_text()
    (out / "pairs.csv").rename(out / "gone.csv")
    (out / "manifest.json").write_text(json.dumps({**plan, "mined": None}))
    assert main(again) == 2
    assert "pairs.csv is not there" in one_sentence(capsys)
    (out / "manifest.json").write_text(manifest)
    (out / "gone.csv").rename(out / "pairs.csv")
    weights.unlink()
    assert main(again) == 2
    assert "mine.npz" in one_sentence(capsys)


def one_sentence(capsys):
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    return error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": 3}, "does not tell all settings"),
        ({"methods": [["sam", [1], None]]}, "does not tell all settings"),
        ({"methods": [["sam", 1, "x"]]}, "does not tell all settings"),
        ({"methods": [["shap", 1, None]]}, "expected one of sbsm"),
        ({"methods": [["sam", 7, None]]}, "order is 7"),
        ({"methods": []}, "have nothing of order"),
        ({"root": None}, "does not tell all settings"),
        ({"root": "nowhere"}, "nowhere is not a folder"),
        ({"dataset": "imagenet"}, "dataset is 'imagenet'"),
        ({"weights": [1]}, "does not tell all settings"),
        ({"weights": {"shapjax_tiny": 1}}, "does not tell all settings"),
        ({"backbones": {"strange": ""}}, "strange"),
        ({"backbones": {}}, "does not tell all settings"),
        ({"seed": "0"}, "does not tell all settings"),
        ({"mined": {"pairs": 3, "by": 1, "weights": ""}}, "does not tell all settings"),
        ({"mined": ["all"]}, "does not tell all settings"),
    ],
)
def test_a_manifest_that_tells_too_little_is_not_resumed(root, tmp_path, capsys, change, message):
    plan = {
        "dataset": "voc",
        "root": str(root),
        "seed": 0,
        "backbones": {"shapjax_tiny": ""},
        "methods": [["sam", 1, None]],
    }
    (tmp_path / "manifest.json").write_text(json.dumps({**plan, **change}))
    (tmp_path / "pairs.csv").write_text("validation,training,category,similarity\n")
    assert main(["evaluate", "--resume", str(tmp_path)]) == 2
    assert message in one_sentence(capsys)


@pytest.mark.parametrize("budgets", [(None, None), (1, 1), (700, 90), (10**6, 10**6)])
@pytest.mark.parametrize("orders", [(1,), (2,), (2, 1)])
def test_settings_come_back_from_a_plan(dataset, budgets, orders):
    before = Settings(tuple(METHODS), orders, 5, *budgets)
    plan = json.loads(json.dumps(plan_of(dataset, [], {}, before)))
    after = settings_of(plan)
    assert plan_of(dataset, [], {}, after) == plan_of(dataset, [], {}, before)


@pytest.mark.parametrize("missing", ["--dataset", "--root"])
def test_without_a_run_the_data_set_is_named(root, tmp_path, capsys, missing):
    words = arguments(root, tmp_path)
    at = words.index(missing)
    assert main(words[:at] + words[at + 2 :]) == 2
    assert "--dataset or --root is missing" in one_sentence(capsys)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "shap"], "method is 'shap', expected one of"),
        (["--pairs", "0"], "pairs is 0"),
        (["--pairs", "²"], "cannot be read as a table of pairs"),
        (["--pairs", "9" * 5000], "cannot be read as a table of pairs"),
        (["--pairs", "nowhere.csv"], "cannot be read as a table of pairs"),
        (["--weights", "a", "b"], "1 backbones and 2 weights"),
        (["--paired-by", "vgg9"], "paired-by is 'vgg9'"),
        (["--paired-by", "shapjax_tiny=nowhere.npz"], "nowhere.npz"),
        (["--paired-by", "shapjax_tiny", "--pairs", "some.csv"], "leave one of the two out"),
        (["--methods", "vesm", "--orders", "2"], "nothing of order 2"),
        (["--budget", "0"], "budget is 0"),
    ],
)
def test_bad_input_ends_in_one_sentence(root, tmp_path, capsys, more, message):
    assert main(arguments(root, tmp_path, *more)) == 2
    assert message in one_sentence(capsys)


def test_products_have_no_second_order(tmp_path, capsys):
    root = sop_folder(tmp_path / "sop")
    given = ["evaluate", "--dataset", "sop", "--root", str(root), "--out", str(tmp_path / "out")]
    assert main([*given, "--methods", "sam", "--quiet"]) == 2
    assert "ask for order 1" in capsys.readouterr().err
    assert main([*given, "--methods", "sam", "--orders", "1", "--quiet"]) == 0
    assert all("pointing" not in row for row in read(tmp_path / "out"))


def test_a_run_that_is_ended_goes_on_with_nothing_lost_or_twice(root, tmp_path):
    """Ended by Ctrl-C, then by kill -9, then left to finish: each time it goes on."""
    given = arguments(root, tmp_path / "out", "--methods", "sam", "--quiet")
    path = tmp_path / "out" / "rows-00000-of-00001.jsonl"
    kept = b""
    for rows, sign in ((1, signal.SIGINT), (4, signal.SIGKILL)):
        with subprocess.Popen(
            [sys.executable, "-m", "shapjax.cli", *given],
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stderr is not None
            limit = time.monotonic() + 200
            while not (path.exists() and path.read_bytes().count(b"\n") >= rows):
                assert time.monotonic() < limit
                assert child.poll() is None, child.stderr.read()
                time.sleep(0.002)
            child.send_signal(sign)
            soon = path.read_bytes().count(b"\n")
            error = child.stderr.read()
        if sign is signal.SIGINT:
            assert child.returncode == 130, error
            assert "interrupted" in error
            assert path.read_bytes().count(b"\n") <= soon + 1  # the row that was being written
        content = path.read_bytes()
        assert content.startswith(kept)
        kept = content[: content.rfind(b"\n") + 1]
        assert rows <= kept.count(b"\n") <= 8
    assert main(given) == 0
    after = path.read_bytes()
    assert after.startswith(kept)
    keys = [key_of(json.loads(line)) for line in after.splitlines()]
    assert len(keys) == len(set(keys)) == 8
