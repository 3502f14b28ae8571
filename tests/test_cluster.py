"""Runs on many hosts: real processes that meet on loopback, are killed and start again."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cluster_process
import jax
import pytest
from data_set_folders import voc_folder

import shapjax as sj
from shapjax.cli import main
from shapjax.evaluate.cluster import (
    Place,
    join,
    seen_by_others,
    wait_for_pairs,
    wait_for_rows,
)
from shapjax.evaluate.rows import key_of
from shapjax.evaluate.store import Store, read

SCRIPT = Path(cluster_process.__file__)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(*arguments, program=(SCRIPT,), **variables):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **variables}
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-2000:]
    return out


def test_a_process_that_is_killed_is_made_up_for(tmp_path):
    count = 2
    address = f"127.0.0.1:{free_port()}"
    processes = [start(tmp_path, 0.05, address, count, place) for place in range(count)]
    victim = processes[-1]
    for _ in range(2):
        assert victim.stdout.readline().startswith("row")
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    share = 24 // count
    # The others are not taken along, and process 0 does not wait for ever.
    outs = [finish(process) for process in processes[:-1]]
    left = int(outs[0].split("missing ")[1])
    assert 0 < left <= share - 2
    assert f"computed {share}, missing" in outs[0]
    # Alone, without the others: what is left of its shard and nothing else.
    again = finish(start(tmp_path, 0, "-", count, count - 1))
    assert f"computed {left}, missing 0" in again
    assert again.count("row") == left
    found = {key_of(row): row["number"] for row in read(tmp_path)}
    alone = {
        key_of(row): row["number"] for row in map(cluster_process.row_of, cluster_process.PAIRS)
    }
    assert found == alone


def test_looking_for_rows_takes_a_tenth_of_the_time_at_most(tmp_path, monkeypatch):
    """Of a folder of millions of rows one look may take a minute."""
    now, pauses = [0.0], []

    def look(folder):
        now[0] += 6.0
        return []

    def pause(seconds):
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("shapjax.evaluate.cluster.read", look)
    monkeypatch.setattr("shapjax.evaluate.cluster.time.monotonic", lambda: now[0])
    monkeypatch.setattr("shapjax.evaluate.cluster.time.sleep", pause)
    key = ("pair", "b", "m", 1)
    assert wait_for_rows(tmp_path, [key], patience=200) == ([], {key})
    assert pauses == [60.0] * 4
    pauses.clear()
    assert wait_for_rows(tmp_path, [key], patience=20) == ([], {key})
    assert pauses == [20]  # but patience is not stretched


def rows_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(("count", "lost"), [pytest.param(2, 1, marks=pytest.mark.slow), (4, 0)])
def test_the_command_on_hosts_of_which_one_is_lost(count, lost, tmp_path, monkeypatch):
    """Killed, even the one that all others called and that writes the tables, and begun again."""
    root = voc_folder(tmp_path / "voc", validation=(1, 2) * 6)
    out, share = tmp_path / "run", 2 * 12 // count
    given = ["evaluate", "--dataset", "voc", "--root", root, "--methods", "sam", "--out", out]
    given += ["--patience", 60, "--processes", count, "--process"]
    together = ["--coordinator", f"127.0.0.1:{free_port()}"]
    command = {"program": ("-m", "shapjax.cli"), "SHAPJAX_CACHE": str(tmp_path / "cache")}
    processes = [start(*given, place, *together, **command) for place in range(count)]
    victim = processes.pop(lost)
    path = out / f"rows-{lost:05}-of-{count:05}.jsonl"
    limit = time.monotonic() + 120
    while not rows_in(path):
        assert time.monotonic() < limit
        assert victim.poll() is None, victim.stderr.read()
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    err = victim.communicate()[1]
    assert ("pairing" in err) is (lost == 0)  # process 0 alone looks for the pairs
    assert 0 < rows_in(path) < share
    kept = path.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    # Started again by itself from the run's folder, while the others go on.
    again = ["evaluate", "--resume", out, "--processes", count, "--process", lost]
    processes.insert(lost, start(*again, **command))
    first, *_ = map(finish, processes)
    assert "| sam |" in first
    assert path.read_bytes().startswith(kept)
    lines = [json.loads(line) for one in sorted(out.glob("*.jsonl")) for line in one.open()]
    assert len({key_of(row) for row in lines}) == len(lines) == 24
    assert {row["error"] for row in lines} == {None}
    assert {path.suffix for path in out.glob("tables.*")} == {".md", ".csv", ".tex"}
    # One process alone finds the same pairs and numbers.
    monkeypatch.setenv("SHAPJAX_CACHE", command["SHAPJAX_CACHE"])
    alone = tmp_path / "alone"
    assert main([*map(str, given[: given.index("--out")]), "--out", str(alone), "--quiet"]) == 0
    assert (alone / "pairs.csv").read_bytes() == (out / "pairs.csv").read_bytes()
    for one, other in zip(read(alone), read(out), strict=True):
        for row in (one, other):
            del row["seconds"], row["warm"]
        assert other == pytest.approx(one, abs=1e-5)


def test_ctrl_c_keeps_every_row(tmp_path):
    process = start(tmp_path, 0.05, "-")
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    assert len(read(tmp_path)) == 3 + out.count("row")


def test_without_a_cluster_there_is_one_process():
    assert join() == Place(0, 1)
    assert join(None, 4, 2) == Place(2, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 2, None), "one of processes and process"),
        ((None, 2, 2), "process is 2"),
        ((None, 0, 0), "processes"),
        (("nowhere", 2, 0), "HOST:PORT"),
        (("host:99999", 2, 0), "HOST:PORT"),
        (("host:²", 2, 0), "HOST:PORT"),
    ],
)
def test_places_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(sj.ShapjaxError, match=message):
        join(*arguments)


def test_auto_needs_a_cluster():
    code = (
        "from shapjax.evaluate.cluster import join\n"
        "import shapjax as sj\n"
        "try: join('auto', patience=2)\n"
        "except sj.ShapjaxError as error: print(error)\n"
    )
    names = ("SLURM", "OMPI", "KUBERNETES", "TPU", "JAX_COORDINATOR", "PMI", "MPI")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    result = subprocess.run(
        [sys.executable, "-c", code], env={**kept, "JAX_PLATFORMS": "cpu"}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert "the processes cannot be brought together" in result.stdout, result.stderr


def test_auto_leaves_the_environment_to_jax(monkeypatch):
    """Of Kubernetes and TPU pods, which JAX itself knows: nothing is given that would hide them."""
    calls = []

    def initialize(*given, **named):
        calls.append((*given, named))

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    monkeypatch.setattr(jax, "process_count", lambda: 8)
    assert join("auto", patience=7) == Place(3, 8)
    assert calls == [(None, None, None, {"initialization_timeout": 7}), "shutdown"]


def test_auto_finds_its_place_in_slurm():
    base = 65536 - 4096  # where JAX puts the port of a job, by its number
    for port in range(base, 65536):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            break
    slurm = {"SLURM_JOB_ID": str(4096 + port - base), "SLURM_STEP_NODELIST": "127.0.0.1"}
    code = "from shapjax.evaluate.cluster import join; print(*join('auto', patience=60))"
    processes = [
        start(program=("-c", code), **slurm, SLURM_NTASKS="2", SLURM_PROCID=at, SLURM_LOCALID=at)
        for at in "01"
    ]
    assert [finish(process).split() for process in processes] == [["0", "2"], ["1", "2"]]


def test_the_list_of_pairs_is_waited_for_while_it_gets_on(tmp_path, monkeypatch):
    path = tmp_path / "run" / "pairs.csv"
    with pytest.raises(sj.ShapjaxError, match="has not come from process 0 within 0"):
        wait_for_pairs(path, patience=0)
    now, seen = [100.0], []
    tell = seen_by_others(path.parent, lambda *numbers: seen.append(numbers))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def sleep(seconds):
        now[0] += 6
        if now[0] < 130:
            tell(round(now[0]), 200)
        elif now[0] >= 140:
            path.write_text("there")

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(sj.ShapjaxError, match="within 9"):
        wait_for_pairs(path, patience=9)
    assert now[0] == 136
    assert len(seen) == 4
    wait_for_pairs(path, patience=9)


def test_waiting_counts_from_the_last_row_and_not_by_the_clock(tmp_path, monkeypatch):
    rows = [cluster_process.row_of(pair) for pair in cluster_process.PAIRS[:2]]
    with Store.open(tmp_path, {}) as store:
        store.append(rows[0])
    monkeypatch.setattr(time, "time", lambda: pytest.fail("a clock that can be set"))
    seen = []
    found, missing = wait_for_rows(
        tmp_path, map(key_of, rows), patience=0.1, progress=lambda *done: seen.append(done)
    )
    assert [row["pair"] for row in found] == ["pair 0"]
    assert missing == {key_of(rows[1])}
    assert seen[0] == (1, 2)


def test_a_disk_that_is_really_full_loses_no_row_and_goes_on_later(tmp_path):
    import resource

    rows = [cluster_process.row_of(pair) for pair in cluster_process.PAIRS[:6]]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = 0
    with Store.open(tmp_path, {}) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
        refused = ""
        try:
            for row in rows:
                store.append(row)
                written += 1
        except sj.ShapjaxError as error:
            refused = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "all finished rows are kept" in refused
        assert 0 < written < 6
        assert read(tmp_path) == rows[:written]
        for row in rows[written:]:
            store.append(row)
    assert read(tmp_path) == rows
