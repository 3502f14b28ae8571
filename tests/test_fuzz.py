"""Readers of strangers' files: any bytes give a result or one sentence, soon and in little memory.

``benchmarks/fuzz.py`` reads 100,000 inputs of each reader; here are the first few of another seed.
"""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shapjax as sj
from shapjax.evaluate.datasets.record import read_png
from shapjax.games.images import load_image

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import fuzz

REFUSED = [
    pytest.param(reader, path, id=f"{reader}-{path.name}")
    for path in sorted((fuzz.CORPUS / "refused").iterdir())
    for reader, (_, endings) in fuzz.READERS.items()
    if path.suffix[1:] in {ending.rpartition(".")[2] for ending in endings}
]


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_what_the_corpus_holds_is_read(reader, tmp_path):
    for ending, content in fuzz.corpus(reader):
        path = tmp_path / f"x{ending}"
        path.write_bytes(content)
        fuzz.READERS[reader][0](path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", fuzz.READERS)
def test_mutated_files_are_read_or_refused(reader, tmp_path):
    tally = fuzz.run_here(reader, 0, 90, seed=1, folder=tmp_path)
    assert tally.errors == []
    assert tally.read + tally.refused == 90
    assert tally.refused > 20
    assert tally.slowest < fuzz.HANG


@pytest.mark.parametrize(("reader", "path"), REFUSED)
def test_what_once_took_minutes_or_gigabytes_or_crashed_is_refused_at_once(reader, path):
    begun = time.process_time()
    with pytest.raises(sj.ShapjaxError):
        fuzz.READERS[reader][0](path)
    assert time.process_time() - begun < 2


def test_an_input_is_a_function_of_its_seed_and_place():
    files = fuzz.corpus("image")
    assert fuzz.make_input(files, 0, 7) == fuzz.make_input(files, 0, 7)
    assert len({fuzz.make_input(files, 0, place)[1] for place in range(50)}) > 45


def test_what_goes_wrong_is_counted(tmp_path):
    tally = fuzz.Tally()
    (tmp_path / "x").write_bytes(b"")

    def broken(path):
        raise KeyError(str(path.name))

    assert "KeyError in test_fuzz.py: 'x'" in tally.add(broken, tmp_path / "x")
    assert tally.errors


def test_what_takes_too_long_is_a_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "HANG", -1.0)
    assert "hang of" in fuzz.Tally().add(lambda path: None, tmp_path / "x")


def test_crashes_hangs_and_growth_are_counted_and_their_inputs_kept(tmp_path):
    """A reader with every fault, two processes of which are lost."""
    # In a process of its own: one that is started by a large one seems as large as that.
    lines = "import fuzz, json, pathlib, sys; fuzz.STUCK, fuzz.BLOW_UP = 2, 1 << 27"
    lines += "; print(json.dumps(fuzz.fuzz('faults', 6, 0, pathlib.Path(sys.argv[1]))))"
    done = subprocess.run(
        [sys.executable, "-c", lines, str(tmp_path / "kept")],
        cwd=Path(fuzz.__file__).parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["growth"] >= 200
    del found["slowest s"], found["growth"], found["a second"]
    assert found == {
        "reader": "faults",
        "inputs": 6,
        "read": 2,
        "refused": 1,
        "errors": 2,
        "crashes": 1,
        "hangs": 1,
    }
    for wrong in ("input 2: memory grew by", "input 3: KeyError", "input 4: ended with -6"):
        assert wrong in done.stderr
    assert "input 5: ended with -9" in done.stderr
    kept = {path.stem: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    files = fuzz.corpus("faults")
    assert kept == {f"faults-0-{i}": fuzz.make_input(files, 0, i)[1] for i in (2, 3, 4, 5)}


def test_the_engine_atheris_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "atheris", None)
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--engine", "atheris"])
    with pytest.raises(SystemExit) as ended:
        fuzz.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"{fuzz.MISSING}\n"


needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed"
)


def run_atheris(folder, lines, *arguments):
    """Output and error of lines of Python; a large process would start a large one."""
    setup = "import fuzz, fuzz_coverage, json, pathlib, sys; folder = pathlib.Path(sys.argv[1])"
    return subprocess.run(
        [sys.executable, "-c", f"{setup}\n{lines}", str(folder), *arguments],
        cwd=Path(fuzz.__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
    )


@needs_atheris
def test_atheris_reads_so_many_inputs_and_keeps_what_reached_new_code(tmp_path):
    folders = ["--keep", str(tmp_path / "kept"), "--grown", str(tmp_path / "grown")]
    lines = "sys.argv[1:] = sys.argv[2:]; fuzz.main()"
    what = ["--engine", "atheris", "--readers", "npz", "--inputs", "400", "--json"]
    done = run_atheris(tmp_path, lines, *what, *folders)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["inputs"] == found["read"] + found["refused"] == 400
    assert found["errors"] == found["crashes"] == found["hangs"] == 0
    assert found["read"] > 10
    assert found["refused"] > 100
    assert found["edges"] > 100
    assert len(list((tmp_path / "grown" / "npz").iterdir())) > 10
    assert not (tmp_path / "kept").exists()


@needs_atheris
@pytest.mark.parametrize(
    ("reader", "kind", "wrong"),
    [
        ("fault-2", "errors", "memory grew by"),
        ("fault-3", "errors", "KeyError"),
        ("fault-4", "crashes", "ended with 77"),
        ("fault-5", "hangs", "hang"),
        ("fault-6", "hangs", "hang"),
    ],
)
def test_atheris_finds_a_fault_counts_it_and_keeps_its_input(reader, kind, wrong, tmp_path):
    lines = f"fuzz.BLOW_UP, fuzz_coverage.STUCK, reader = 1 << 27, 8, {reader!r}"
    lines += "; print(json.dumps(fuzz_coverage.fuzz_guided(reader, 50, 0, folder)))"
    done = run_atheris(tmp_path, lines)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: found[name] for name in ("errors", "crashes", "hangs")} == {
        "errors": 0,
        "crashes": 0,
        "hangs": 0,
        kind: 1,
    }
    assert wrong in done.stderr
    (kept,) = tmp_path.iterdir()
    assert kept.name == f"{reader}-atheris-0-{found['inputs']}.ppm"


ANY_BYTES = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def damaged(draw, reader):
    """Ending and content of a file of the corpus with pieces replaced, and perhaps cut off."""
    ending, content = draw(st.sampled_from(fuzz.corpus(reader)))
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=8))
    cut = data[: draw(st.none() | st.integers(0, len(data)))]
    # Else nearly every damaged PNG would be refused for its checksums.
    mended = ending == ".png" and draw(st.booleans())
    return ending, fuzz._mended_png(cut) if mended else bytes(cut)


@pytest.mark.filterwarnings("ignore")
@ANY_BYTES
@given(file=damaged("image"))
def test_any_bytes_are_a_picture_or_refused(tmp_path, file):
    path = tmp_path / f"x{file[0]}"
    path.write_bytes(file[1])
    try:
        pixels = np.asarray(load_image(path))
    except sj.ImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)
    assert pixels.size


@pytest.mark.filterwarnings("ignore")
@ANY_BYTES
@given(file=damaged("masks"))
def test_any_bytes_are_a_mask_or_refused(tmp_path, file):
    path = tmp_path / "x.png"
    path.write_bytes(file[1])
    try:
        entries = read_png(path)
    except sj.ImageError:
        return
    assert entries.dtype == np.int32
    assert entries.ndim == 2
    assert entries.size
