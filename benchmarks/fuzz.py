"""Fuzz what reads strangers' files: pictures, label maps, masks, weights, saved explanations.

    python benchmarks/fuzz.py [--readers image npz ...] [--inputs 100000] [--seed 0]
        [--keep FOLDER] [--json]
    python benchmarks/fuzz.py --engine atheris [--grown FOLDER] [...]
    python benchmarks/fuzz.py --quick

Every input is a file of ``tests/corpus`` after one to six mutations: bits and bytes changed,
numbers replaced by those at the edges of their type, pieces cut out, doubled, inserted or taken
from another file. In half of the inputs the checksums of PNG chunks and zip entries are made good
again, so that what lies behind them is reached. Input i of a seed is always the same.

The engine ``atheris`` (``pip install atheris==3.0.0``) starts there too, and goes on from inputs
that reached new code, which ``--grown`` keeps; see ``fuzz_coverage.py``. It ends at a reader's
first fault. ``edges`` are the branches that it has reached, in code in Python.

A reader may give a result or raise ``ShapjaxError``. Anything else is counted: ``errors`` are
other exceptions or a gigabyte more of memory, ``crashes`` ended the process, ``hangs`` took over 5
seconds of the processor, ``growth`` is the most memory that the process has grown by, MiB. The
first input of each kind that did one of these is written to ``--keep``, by default
``shapjax-fuzz/``. The process that reads is another one, which is replaced when it dies.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import io
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tables import print_records

from shapjax.core.errors import ShapjaxError

CORPUS = Path(__file__).parents[1] / "tests" / "corpus"

HANG = 5.0
"""Seconds of the processor that reading one small file may take."""

BLOW_UP = 1 << 30
"""Bytes that reading one small file may add to what the process has taken before: a picture of
100 megapixels is read, of whatever size its file is."""

START = 600.0
"""Seconds after which a process that reads must have read what the corpus holds."""

STUCK = 600.0
"""Seconds without a word from the process that reads, after which it is ended."""

KEPT = Path("shapjax-fuzz")
"""Where inputs that went wrong are written, so that none is lost to a run that nobody watched."""

MISSING = "The engine atheris is not installed; pip install atheris==3.0.0."

Read = Callable[[Path], Any]


def _image(path: Path) -> Any:
    from shapjax.games.images import load_image

    return load_image(path)


def _labels(path: Path) -> Any:
    import numpy as np

    from shapjax.games.players import label_map

    return label_map(path, np.zeros((32, 32, 3), np.float32), (2, 2))


def _masks(path: Path) -> Any:
    from shapjax.evaluate.datasets.record import read_png

    return read_png(path)


def _weights(path: Path) -> Any:
    from shapjax.backbones.readers import read_weights

    return read_weights(path)


def _explanation(path: Path) -> Any:
    from shapjax.explainers.explanation import Explanation

    return Explanation.load(path)


READERS: dict[str, tuple[Read, tuple[str, ...]]] = {
    "image": (
        _image,
        (
            *("png", "jpg", "webp", "tif", "gif", "bmp", "ppm", "ico", "tga", "jp2", "avif"),
            "mpo",
        ),
    ),
    "labels": (_labels, ("png",)),
    "masks": (_masks, ("bits.png", "grey.png", "grey16.png", "palette.png")),
    "npz": (_weights, ("npz",)),
    "safetensors": (_weights, ("safetensors",)),
    "pth": (_weights, ("pth", "pt")),
    "explanation": (_explanation, ("explanation",)),
}
"""Each reader and how the names of the files in the corpus that it reads end."""


def _faults(path: Path, place: int | None = None) -> Any:
    """Do what the place of the input says; with what the corpus holds, nothing."""
    if (path.suffix, path.read_bytes()) in corpus("faults"):
        return
    if place is None:
        place = int((path.parent / "index").read_text())
    if place == 1:
        raise ShapjaxError("refused")
    if place == 2:
        bytearray(b"x") * (1 << 28)
    if place == 3:
        raise KeyError(place)
    if place == 4:
        os.abort()
    while place == 5:
        time.sleep(1)
    while place == 6:
        pass


SELF_TEST: dict[str, tuple[Read, tuple[str, ...]]] = {"faults": (_faults, ("ppm",))}
SELF_TEST |= {
    f"fault-{place}": (functools.partial(_faults, place=place), ("ppm",)) for place in range(2, 7)
}
"""Readers with every fault, or one, by which tests find out whether faults are counted; not for
users."""

EDGES = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF)
EDGES += (0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF)


def corpus(reader: str) -> list[tuple[str, bytes]]:
    """Endings and contents of the files that a reader's inputs are made of."""
    endings = (READERS | SELF_TEST)[reader][1]
    files = [file for file in sorted(CORPUS.iterdir()) if file.name.endswith(endings)]
    return [(file.suffix, file.read_bytes()) for file in files]


def make_input(files: Sequence[tuple[str, bytes]], seed: int, index: int) -> tuple[str, bytes]:
    """Ending and content of an input; a function of the seed and the index alone."""
    chance = random.Random(f"{seed}:{index}")
    ending, content = chance.choice(files)
    return ending, changed(content, chance.choice(files)[1], chance)


def changed(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """A content after mutations, half of the time with checksums as they should be.

    Raises:
        Exception: it begins like a zip archive and cannot be read as one.
    """
    mended = chance.random() < 0.5
    if mended and content[:4] == b"PK\x03\x04":
        return _in_zip(content, other, chance)
    content = mutated(content, other, chance)
    return _mended_png(content) if mended and content[:8] == b"\x89PNG\r\n\x1a\n" else content


def mutated(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """A content after one to six mutations, with pieces of another."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        kind = chance.randrange(8)
        place = chance.randrange(len(data) + 1)
        # Headers decide more than what follows them.
        if chance.random() < 0.5:
            place = min(place, chance.randrange(64))
        length = chance.choice((1, 2, 4, 8, 16, chance.randrange(1, 256)))
        if kind == 0 and place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 1 and place < len(data):
            data[place] = chance.randrange(256)
        elif kind in (2, 3):
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(EDGES) & ((1 << 8 * width) - 1)
            data[place : place + width] = number.to_bytes(width, chance.choice(("little", "big")))
        elif kind == 4:
            del data[place : place + length]
        elif kind == 5:
            data[place:place] = data[place : place + length] * chance.choice((1, 2, 50))
        elif kind == 6:
            data[place:place] = chance.randbytes(length)
        else:
            start = chance.randrange(len(other) + 1)
            data[place : place + length] = other[start : start + length]
    if chance.random() < 0.1:
        del data[chance.randrange(len(data) + 1) :]
    return bytes(data)


def _in_zip(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """A valid archive in which the content of an entry, or its name, is not what it was."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    warnings.simplefilter("ignore", UserWarning)  # two entries of one name are meant
    chosen = chance.randrange(len(entries))
    name, data = entries[chosen]
    if chance.random() < 0.1:
        name = chance.choice(("", "/", "..", name * 2, entries[0][0], name[:-1]))
    else:
        data = mutated(data, other, chance)
    entries[chosen] = (name, data)
    buffer = io.BytesIO()
    kind = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name or "_"), data)
    return buffer.getvalue()


def _mended_png(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums that they should have."""
    data, place = bytearray(content), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(data)


class Tally:
    """What became of the inputs of a reader, one of which may add ``blow_up`` bytes of memory."""

    def __init__(self, blow_up: int = BLOW_UP) -> None:
        self.inputs = self.read = self.refused = 0
        self.errors: list[str] = []
        self.slowest = 0.0
        self._blow_up, self._before = blow_up, _peak()
        self._peak = self._before

    def add(self, read: Read, path: Path) -> str | None:
        """Read one file; says what is wrong with how that went, if anything is."""
        self.inputs += 1
        begun, wrong = time.process_time(), None
        try:
            read(path)
            self.read += 1
        except ShapjaxError:
            self.refused += 1
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            wrong = f"{type(error).__name__} in {Path(where.filename).name}: {error}"[:200]
            self.errors.append(wrong)
        seconds = time.process_time() - begun
        self.slowest = max(self.slowest, seconds)
        before, self._peak = self._peak, _peak()
        if wrong is None and seconds > HANG:
            return f"hang of {seconds:.1f} s"
        if wrong is None and self._peak > before + self._blow_up:
            return f"memory grew by {(self._peak - before) >> 20} MiB"
        return wrong

    def counts(self) -> dict[str, Any]:
        """How many inputs were read and refused, the slowest, and the growth of memory in MiB."""
        counts = {name: getattr(self, name) for name in ("inputs", "read", "refused", "slowest")}
        return {**counts, "growth": (self._peak - self._before) >> 20}


def _peak() -> int:
    """The most memory that this process has taken, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def place_of(folder: Path, ending: str) -> Path:
    """Where an input lies while it is read."""
    return folder / f"input{ending.replace('.explanation', '.npz')}"


def opened(reader: str, folder: Path) -> tuple[Read, list[tuple[str, bytes]]]:
    """A reader and its corpus, which it has read; for a process that does nothing else."""
    read, files = (READERS | SELF_TEST)[reader][0], corpus(reader)
    for ending, content in files:
        path = place_of(folder, ending)
        path.write_bytes(content)
        read(path)  # what the corpus holds can be read, and what reading imports is there
    # A blow-up ends in an error instead of taking the machine along, and a crash leaves no core.
    resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return read, files


def run_here(reader: str, first: int, last: int, seed: int, folder: Path) -> Tally:
    """Read the inputs ``first`` to ``last`` in this process, each left in ``folder`` till read."""
    read, files, tally = READERS[reader][0], corpus(reader), Tally()
    for index in range(first, last):
        ending, content = make_input(files, seed, index)
        path = place_of(folder, ending)
        path.write_bytes(content)
        tally.add(read, path)
    return tally


def _work(reader: str, first: int, last: int, seed: int, blow_up: int, folder: Path) -> None:
    """Like ``run_here``, with a line of JSON at the start, for what went wrong and every 100."""
    read, files = opened(reader, folder)
    tally = Tally(blow_up)

    def tell(wrong: str | None, index: int) -> None:
        print(json.dumps({"wrong": wrong, "index": index, **tally.counts()}), flush=True)

    tell(None, first)
    for index in range(first, last):
        ending, content = make_input(files, seed, index)
        path = place_of(folder, ending)
        path.write_bytes(content)
        (folder / "index").write_text(str(index))
        wrong = tally.add(read, path)
        if wrong is not None or (index + 1) % 100 == 0 or index + 1 == last:
            tell(wrong, index)


def fuzz(reader: str, inputs: int, seed: int, keep: Path) -> dict[str, Any]:
    """One record: what became of all inputs of a reader, read in processes of their own."""
    total = {"reader": reader, "inputs": 0, "read": 0, "refused": 0}
    counts = {"errors": 0, "crashes": 0, "hangs": 0}
    slowest, growth, first, begun = 0.0, 0, 0, time.perf_counter()
    examples: dict[str, int] = {}
    signal.signal(signal.SIGALRM, _timed_out)
    with tempfile.TemporaryDirectory() as name:
        index = Path(name) / "index"
        while first < inputs:
            index.unlink(missing_ok=True)  # that of a process before this one says nothing
            command = [sys.executable, __file__, "--work", reader, str(first), str(inputs)]
            command += [str(seed), str(BLOW_UP), name]
            # Decoders write what they think of a file to standard error.
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            assert process.stdout is not None
            part: dict[str, Any] = {"inputs": 0, "read": 0, "refused": 0}
            limit = START
            while True:
                signal.alarm(int(limit))
                try:
                    line = process.stdout.readline()
                except TimeoutError:
                    process.kill()
                    line = ""
                finally:
                    signal.alarm(0)
                if not line:
                    break
                part, limit = json.loads(line), STUCK
                slowest, growth = max(slowest, part["slowest"]), max(growth, part["growth"])
                if part["wrong"] is not None:
                    counts["hangs" if part["wrong"].startswith("hang") else "errors"] += 1
                    if part["wrong"] not in examples:
                        examples[part["wrong"]] = part["index"]
                        _keep(keep, reader, seed, part["index"])
            code = process.wait()
            done = first + part["inputs"]
            if code != 0:
                if not index.exists():
                    raise SystemExit(f"the process that reads {reader} files did not start")
                done = int(index.read_text()) + 1
                counts["hangs" if code == -signal.SIGKILL else "crashes"] += 1
                examples[f"ended with {code}"] = done - 1
                _keep(keep, reader, seed, done - 1)
            # A process that died takes with it what it had counted since its last line.
            for what in ("read", "refused"):
                total[what] += part[what]
            total["inputs"] += done - first
            first = done
    seconds = time.perf_counter() - begun
    for wrong, index in examples.items():
        print(f"{reader}, input {index}: {wrong}", file=sys.stderr)
    rest = {"slowest s": round(slowest, 2), "growth": growth, "a second": round(inputs / seconds)}
    return {**total, **counts, **rest}


def _keep(folder: Path, reader: str, seed: int, index: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ending, content = make_input(corpus(reader), seed, index)
    (folder / f"{reader}-{seed}-{index}{ending}").write_bytes(content)


def _timed_out(*_: Any) -> None:
    raise TimeoutError


def main() -> None:
    """Print a table, or JSON; exit with 1 where anything went wrong."""
    if sys.argv[1:2] == ["--work"]:
        reader, *numbers, folder = sys.argv[2:]
        _work(reader, *map(int, numbers), Path(folder))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readers", nargs="+", choices=list(READERS), default=list(READERS))
    parser.add_argument("--inputs", type=int, default=100_000, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", default=KEPT, help=f"of what went wrong ({KEPT})"
    )
    parser.add_argument("--engine", choices=("own", "atheris"), default="own")
    parser.add_argument(
        "--grown", type=Path, metavar="FOLDER", help="of what reached new code, by atheris (none)"
    )
    parser.add_argument("--quick", action="store_true", help="500 inputs of each reader")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    inputs = 500 if options.quick else options.inputs
    run = fuzz
    if options.engine == "atheris":
        if importlib.util.find_spec("atheris") is None:
            parser.exit(2, f"{MISSING}\n")
        from fuzz_coverage import fuzz_guided

        run = functools.partial(fuzz_guided, grown=options.grown)
    records = [run(reader, inputs, options.seed, options.keep) for reader in options.readers]
    print_records(records, as_json=options.json)
    sys.exit(any(record[name] for record in records for name in ("errors", "crashes", "hangs")))


if __name__ == "__main__":
    main()
