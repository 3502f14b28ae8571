"""A folder is embedded once and searched; the command explains what it finds."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from toy_network import toy

import shapjax as sj
from shapjax.cli import main
from shapjax.games import folder as folders
from shapjax.games.folder import embed_folder


@pytest.fixture(scope="module")
def tiny():
    return sj.backbones.load("shapjax_tiny")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SHAPJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def library(tmp_path):
    """Five pictures in two folders, the query among them, and three files that are not."""
    rng = np.random.default_rng(0)
    root = tmp_path / "library"
    (root / "more").mkdir(parents=True)
    base = rng.integers(0, 255, (6, 8, 3), np.uint8)
    for place, name in enumerate(["query.png", "a.png", "b.jpg", "more/c.png", "more/d<&>.png"]):
        mixed = base * (1 - place / 5) + rng.integers(0, 255, base.shape) * place / 5
        Image.fromarray(mixed.astype(np.uint8)).resize((64, 48)).save(root / name)
    (root / "bad.png").write_text("not a picture")
    (root / "cut.jpg").write_bytes((root / "b.jpg").read_bytes()[:300])
    (root / "notes.txt").write_text("no picture either")
    return root


def counted(monkeypatch):
    """Names of the pictures that are read from here on."""
    read = []
    own = folders.load_image
    monkeypatch.setattr(folders, "load_image", lambda path: read.append(str(path)) or own(path))
    return read


def test_search_finds_the_nearest(tiny, library):
    found = sj.search(tiny, library / "query.png", library, top=3)
    assert found.searched == 5
    assert {path.name for path in found.unreadable} == {"bad.png", "cut.jpg"}
    assert len(found.hits) == 3
    similarities = {
        path: sj.similarity_game(tiny, library / "query.png", path, players="1x1").similarity
        for path in embed_folder(tiny, library).files
    }
    del similarities[library / "query.png"]  # the query itself is not found
    expected = sorted(similarities, key=similarities.get, reverse=True)
    assert [hit.path for hit in found.hits] == expected[:3]
    for hit in found.hits:
        assert hit.similarity == pytest.approx(similarities[hit.path], abs=1e-5)
    array = np.asarray(Image.open(library / "query.png"))
    assert sj.search(tiny, array, library, top=9).hits[0].path == library / "query.png"


def test_a_picture_that_the_network_cannot_bear_is_told_with_its_layer(tmp_path):
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / "bright.png")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "dark.png")
    found = embed_folder(toy(), tmp_path)
    assert found.files == (tmp_path / "bright.png",)
    told = "toy gives NaN or infinity for dark.png, first in layer 'root'; check its weights."
    assert found.unreadable == {tmp_path / "dark.png": told}


def test_a_folder_is_embedded_once(tiny, library, monkeypatch):
    first = embed_folder(tiny, library)
    read = counted(monkeypatch)
    again = embed_folder(tiny, library)
    assert not read
    np.testing.assert_array_equal(again.vectors, first.vectors)
    assert again.unreadable == first.unreadable
    # What is new or changed is read, what is gone is forgotten.
    shutil.copy(library / "a.png", library / "new.png")
    Image.new("RGB", (30, 30), "red").save(library / "b.jpg")
    (library / "more" / "c.png").unlink()
    later = embed_folder(tiny, library)
    assert sorted(name.rpartition("/")[2] for name in read) == ["b.jpg", "new.png"]
    assert len(later.files) == 5
    place = {path.name: i for i, path in enumerate(later.files)}
    np.testing.assert_allclose(
        later.vectors[place["new.png"]], later.vectors[place["a.png"]], atol=1e-6
    )
    # A damaged store is made anew.
    (store,) = (library.parent / "cache" / "folders").iterdir()
    store.write_bytes(b"nonsense")
    np.testing.assert_allclose(embed_folder(tiny, library).vectors, later.vectors, atol=1e-6)


def test_an_interrupted_run_goes_on(tiny, library, monkeypatch):
    monkeypatch.setattr(folders, "BATCH", 2)
    monkeypatch.setattr(folders, "CHECKPOINT", 2)

    def stop(done, total):
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_folder(tiny, library, progress=stop)
    read = counted(monkeypatch)
    calls = []
    embed_folder(tiny, library, progress=lambda *args: calls.append(args))
    assert 0 < len(read) <= 3
    assert calls[-1] == (7, 7)


def test_all_writings_together_are_a_small_multiple_of_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "BATCH", 1)
    monkeypatch.setattr(folders, "CHECKPOINT", 2)
    (tmp_path / "many").mkdir()
    for place in range(40):
        colour = (200, 100, 60 + place)
        Image.new("RGB", (16, 16), colour).save(tmp_path / "many" / f"{place:02}.png")
    written, own = [], folders._write
    monkeypatch.setattr(
        folders, "_write", lambda store, known: written.append(len(known)) or own(store, known)
    )
    embed_folder(toy(), tmp_path / "many")
    assert sum(written) <= 5 * 40
    assert len(written) <= 12
    assert written[-1] == 40
    # An interruption costs no more than a fifth of the work, or two pictures and a batch.
    for before, after in zip([0, *written], written, strict=False):
        assert after - before <= max(2, 0.2 * after + 1)
    written.clear()
    embed_folder(toy(), tmp_path / "many")
    assert not written


def test_bad_folders(tiny, library, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("x")
    for folder, message in (
        (tmp_path / "none", "not a folder"),
        (tmp_path / "empty", "holds no pictures"),
        (tmp_path / "broken", "can be read"),
    ):
        with pytest.raises(sj.ShapjaxError, match=message):
            sj.search(tiny, library / "a.png", folder)
    with pytest.raises(sj.ShapjaxError, match="top"):
        sj.search(tiny, library / "a.png", library, top=0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SHAPJAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(sj.ShapjaxError, match="SHAPJAX_CACHE"):
        sj.search(tiny, library / "a.png", library)


def test_the_command_writes_a_gallery(library, tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    out = tmp_path / "out"
    arguments = [str(library / "query.png"), str(library), "--budget", "300", "--out", str(out)]
    assert main(["search", *arguments, "--top", "3", "--open"]) == 0
    shown = capsys.readouterr()
    assert "skipped" in shown.err
    assert "bad.png" in shown.err
    assert opened == [(out / "gallery.html").resolve().as_uri()]
    summary = json.loads((out / "search.json").read_text())
    assert (summary["pictures"], len(summary["unreadable"])) == (5, 2)
    assert len(summary["hits"]) == 3
    for rank, hit in enumerate(summary["hits"], start=1):
        found = sj.Explanation.load(out / "pairs" / f"{rank:04}.npz")
        assert found.method == "gram-sam"
        assert found.inefficiency == pytest.approx(hit["inefficiency"])
        assert (out / "pairs" / f"{rank:04}.html").exists()
    # A smaller search afterwards leaves nothing of this one.
    assert main(["search", *arguments, "--top", "1", "--method", "sam", "--quiet"][:-1]) == 2
    arguments = [*arguments[:2], "--method", "gradcam", "--out", str(out), "--quiet"]
    assert main(["search", *arguments, "--top", "1"]) == 0
    assert {path.name for path in (out / "pairs").iterdir()} == {"0001.npz", "0001.html"}


def test_the_gallery_opens_where_someone_looks(library, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    arguments = ["search", str(library / "query.png"), str(library), "--top", "1", "--quiet"]
    arguments += ["--method", "gradcam", "--out", str(tmp_path / "out")]
    for terminal, display, option, expected in (
        (True, ":0", [], 1),
        (True, "", [], 0),
        (False, ":0", [], 0),
        (True, ":0", ["--no-open"], 0),
        (False, "", ["--open"], 1),
    ):
        opened.clear()
        monkeypatch.setattr("sys.platform", "linux")
        monkeypatch.setattr("sys.stdout.isatty", lambda terminal=terminal: terminal)
        monkeypatch.setenv("DISPLAY", display)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        assert main([*arguments, *option]) == 0
        assert len(opened) == expected, (terminal, display, option)


def test_bad_searches_end_with_one_sentence(library, tmp_path, capsys):
    query = str(library / "query.png")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(query, alone)
    for arguments, mention in (
        ([query, str(tmp_path / "none")], "not a folder"),
        ([str(tmp_path / "none.png"), str(library)], "does not exist"),
        ([query, str(library), "--top", "0"], "top"),
        ([str(alone / "query.png"), str(alone)], "no picture but the query"),
        ([query, str(library), "--out", ""], "--out is empty"),
    ):
        out = [] if "--out" in arguments else ["--out", str(tmp_path / "o")]
        assert main(["search", *arguments, *out]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("shapjax: error: ")
        assert mention in last
