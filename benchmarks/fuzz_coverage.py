"""The engine ``atheris`` of ``fuzz.py``: libFuzzer makes more of inputs that reach new code.

One process for each reader, which libFuzzer ends at the first fault. Half of the inputs are made
by the mutations of the engine ``own``, out of a file of the corpus or of what the search has found
so far; the others by ``atheris.Mutate`` out of the latter. What counts as new is code in Python, of
this library and of the decoders that are written in Python; branches within C, such as those of
zlib, JPEG or safetensors, are not seen.
"""

from __future__ import annotations

import importlib
import inspect
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import fuzz

STUCK = 300
"""Looks, one a second, that find a process no further, after which it is ended. It is ended sooner
by ``fuzz.HANG`` seconds of the processor; libFuzzer's own limit is by the clock on the wall, and
would blame the input when somebody has stopped the whole run for a while."""

MEMORY = Path("/dev/shm")
"""Where inputs are written if there is such a folder: many a disk takes longer than a reader."""

WATCHED = (
    "shapjax.backbones.archive",
    "shapjax.backbones.readers",
    "shapjax.backbones.torch_files",
    "shapjax.backbones.torch_pickle",
    "shapjax.core.interactions",
    "shapjax.evaluate.datasets.record",
    "shapjax.explainers.explanation",
    "shapjax.games.images",
    "shapjax.games.players",
    "numpy.lib._format_impl",
    "numpy.lib._npyio_impl",
    "pickletools",
    "zipfile",
    "PIL",
)
"""Modules and packages whose branches count; jax would be slow, and reads no files."""

HUNG = (-signal.SIGPROF, -signal.SIGKILL)
"""How a process ends over an input that takes too much of the processor, or does nothing."""


def fuzz_guided(
    reader: str, inputs: int, seed: int, keep: Path, grown: Path | None = None
) -> dict[str, Any]:
    """One record like that of ``fuzz.fuzz``, with the branches that were reached, ``edges``.

    Args:
        reader: a name in ``fuzz.READERS``.
        inputs: most inputs; fewer where one goes wrong.
        seed: of libFuzzer and of the mutations.
        keep: folder for an input that goes wrong.
        grown: folder in which a folder of that reader keeps the inputs that reached new code, and
            from which it takes those of earlier runs; None leaves nothing.
    """
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        found = folder / "found" if grown is None else grown / reader
        found.mkdir(parents=True, exist_ok=True)
        (folder / "corpus").mkdir()
        (folder / "wrong").mkdir()
        for index, (ending, content) in enumerate(fuzz.corpus(reader)):
            (folder / "corpus" / f"{index}{ending}").write_bytes(content)
        command = [sys.executable, "-W", "ignore", __file__, reader, str(fuzz.BLOW_UP), name]
        command += [f"-runs={inputs}", f"-seed={seed + 1}"]  # zero would be a seed by chance
        # Never: libFuzzer as atheris has it takes a limit of zero at its word.
        command += ["-timeout=1000000", "-rss_limit_mb=0", "-len_control=0"]
        command += [f"-artifact_prefix={name}/wrong/", str(found), f"{name}/corpus"]
        with (folder / "log").open("wb") as log:
            code = _ended(subprocess.Popen(command, stdout=log, stderr=log), folder / "state")
        said = (folder / "log").read_text(errors="replace")
        if not (folder / "state").exists():
            raise SystemExit(
                f"the process that reads {reader} files did not start:\n{said[-2000:]}"
            )
        state = json.loads((folder / "state").read_text())
        wrong = state.pop("wrong")
        counts = {"errors": 0, "crashes": 0, "hangs": 0}
        if code != 0:
            if wrong is None:  # what ended the process left no time to count its input
                state["inputs"] += 1
                lines = said.splitlines() or [""]
                wrong = "hang" if code in HUNG else f"ended with {code}: {lines[-1]}"
                counts["hangs" if code in HUNG else "crashes"] = 1
            else:
                counts["hangs" if wrong.startswith("hang") else "errors"] = 1
            read = fuzz.place_of(folder, fuzz.corpus(reader)[0][0])
            # What libFuzzer says it was, unless it was ended itself.
            last = next((folder / "wrong").iterdir(), read)
            keep.mkdir(parents=True, exist_ok=True)
            kept = keep / f"{reader}-atheris-{seed}-{state['inputs']}{read.suffix}"
            shutil.copyfile(last, kept)
            print(f"{reader}, {kept}: {wrong}", file=sys.stderr)
    edges = re.findall(r"\bcov: (\d+)", said)
    return {
        "reader": reader,
        **{name: state[name] for name in ("inputs", "read", "refused")},
        **counts,
        "slowest s": round(state["slowest"], 2),
        "growth": state["growth"],
        "a second": round(state["inputs"] / (time.perf_counter() - begun)),
        "edges": int(edges[-1]) if edges else 0,
    }


def _ended(process: subprocess.Popen[bytes], state: Path) -> int:
    """How a process ended, by itself or since it no longer wrote new counts."""
    before, quiet = None, 0
    while True:
        try:
            return process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            now = state.stat().st_mtime_ns if state.exists() else None
            quiet = quiet + 1 if now is not None and now == before else 0
            before = now
            if quiet >= STUCK:
                process.kill()


def _work(reader: str, blow_up: int, folder: Path, flags: list[str]) -> None:
    """Let libFuzzer read inputs in this process, which it ends; the counts are in ``state``."""
    atheris = importlib.import_module("atheris")
    read, files = fuzz.opened(reader, folder)
    path = fuzz.place_of(folder, files[0][0])
    for name, module in list(sys.modules.items()):
        if name in WATCHED or name.split(".")[0] in WATCHED:
            _watch(module, atheris.instrument_func)
    tally = fuzz.Tally(blow_up)

    def tell(wrong: str | None) -> None:
        (folder / "state").write_text(json.dumps({"wrong": wrong, **tally.counts()}))

    def test_one(content: bytes) -> None:
        path.write_bytes(content)
        # At the end of it, the system ends the process.
        signal.setitimer(signal.ITIMER_PROF, fuzz.HANG)
        wrong = tally.add(read, path)
        signal.setitimer(signal.ITIMER_PROF, 0)
        tell(wrong)
        if wrong is not None:
            raise RuntimeError(wrong)  # by which libFuzzer ends

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        # Looked up anew: Fuzz puts the function that works in the place of one that does not.
        return _mutate(content, most, seed, files) or atheris.Mutate(content, most)

    tell(None)
    atheris.Setup([sys.argv[0], *flags], test_one, custom_mutator=mutate)
    atheris.Fuzz()


def _mutate(content: bytes, most: int, seed: int, files: list[tuple[str, bytes]]) -> bytes | None:
    """An input of at most ``most`` bytes, a function of the arguments; half of the time none."""
    chance = random.Random(seed)
    if not content or chance.random() < 0.5:
        return None
    if chance.random() < 0.5:  # most of what reaches new code is damaged beyond reading
        content = chance.choice(files)[1]
    donor = chance.choice(files)[1]
    try:
        made = fuzz.changed(content, donor, chance)
    except Exception:  # an archive that earlier mutations have damaged
        made = fuzz.mutated(content, donor, chance)
    return made if len(made) <= most else None


def _watch(module: ModuleType, instrument: Any) -> None:
    """Instrument what a module defines, in place, so that who has imported it sees it too."""
    for value in list(vars(module).values()):
        inside = list(vars(value).values()) if inspect.isclass(value) else []
        for part in (value, *inside):
            part = part.fget if isinstance(part, property) else getattr(part, "__func__", part)
            function = inspect.unwrap(part) if callable(part) else part
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                instrument(function)


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
