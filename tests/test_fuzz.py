"""Readers of strangers' files: any bytes give a result or one sentence, soon and in little memory.

``benchmarks/fuzz.py`` reads 100,000 inputs of each reader; here are the first few of another seed.
"""

import sys
import time
from pathlib import Path

import pytest

import shapjax as sj

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
