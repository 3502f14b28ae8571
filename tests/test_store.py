"""Rows on the disk: nothing is lost, nothing is counted twice."""

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shapjax as sj
from shapjax.evaluate.plan import MANIFEST, read_plan
from shapjax.evaluate.rows import columns, key_of, rows_of_columns
from shapjax.evaluate.store import Store, read

PLAN = {"dataset": "voc", "seed": 0, "methods": [["sam", 1, None]]}


def row(pair, value=0.5, **more):
    known = {"pair": pair, "backbone": "net", "method": "sam", "order": 1, "error": None}
    return {**known, "x": value, **more}


def test_rows_come_back_and_are_known(tmp_path):
    with Store.open(tmp_path / "run", PLAN) as store:
        assert store.done() == set()
        store.append(row("b"))
        store.append(row("a", None, error="NaN"))
    assert [r["pair"] for r in read(tmp_path / "run")] == ["a", "b"]
    assert read_plan(tmp_path / "run") == PLAN
    with Store.open(tmp_path / "run", PLAN) as store:
        assert store.done() == {("a", "net", "sam", 1), ("b", "net", "sam", 1)}


def test_a_torn_last_line_is_dropped(tmp_path):
    with Store.open(tmp_path, PLAN) as store:
        store.append(row("a"))
    path = tmp_path / "rows-00000-of-00001.jsonl"
    whole = path.read_bytes()
    for torn in (b'{"pair": "b", "backb', b"{", b'{"pair": "b"}'):
        path.write_bytes(whole + torn)
        assert len(read(tmp_path)) == 1
        with Store.open(tmp_path, PLAN) as store:
            assert len(store.done()) == 1
        assert path.read_bytes() == whole
    with Store.open(tmp_path, PLAN) as store:
        store.append(row("b"))
    assert [r["pair"] for r in read(tmp_path)] == ["a", "b"]


def test_another_plan_is_refused(tmp_path):
    Store.open(tmp_path, PLAN).close()
    with pytest.raises(sj.ShapjaxError, match="a run with seed 0, but now it is 1"):
        Store.open(tmp_path, {**PLAN, "seed": 1})
    with pytest.raises(sj.ShapjaxError, match="a run with more null"):
        Store.open(tmp_path, {**PLAN, "more": 1})
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(sj.ShapjaxError, match="damaged JSON"):
        Store.open(tmp_path, PLAN)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(sj.ShapjaxError, match="rows but no manifest"):
        Store.open(tmp_path, PLAN)


@pytest.mark.parametrize("links", [True, False])
def test_of_two_plans_at_once_the_first_holds(tmp_path, monkeypatch, links):
    """Another process writes its manifest when this one has seen that there is none."""
    exists, other = Path.exists, {**PLAN, "seed": 1}

    def link(*_):
        raise OSError(errno.EPERM, "no hard links here")

    def between(path):
        found = exists(path)
        if path.name == MANIFEST and not found:
            monkeypatch.setattr(Path, "exists", exists)
            Store.open(tmp_path, other, shard=1, shards=2).close()
        return found

    if not links:
        monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(Path, "exists", between)
    with pytest.raises(sj.ShapjaxError, match="a run with seed 1, but now it is 0"):
        Store.open(tmp_path, PLAN, shards=2)
    assert read_plan(tmp_path) == other
    assert {path.name for path in tmp_path.iterdir()} == {
        MANIFEST,
        "rows-00001-of-00002.jsonl",
    }


def test_two_processes_do_not_write_one_shard(tmp_path):
    with (
        Store.open(tmp_path, PLAN),
        pytest.raises(sj.ShapjaxError, match="written by another process"),
    ):
        Store.open(tmp_path, PLAN)
    Store.open(tmp_path, PLAN).close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_with_a_warning(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.warns(UserWarning, match=r"cannot be locked \(.*\), so see to it") as told:
        store = Store.open(tmp_path, PLAN)
    assert len(told) == 1
    with store:
        store.append(row("a"))
    assert len(read(tmp_path)) == 1


def test_what_cannot_be_opened_is_not_left_locked(tmp_path, monkeypatch):
    with Store.open(tmp_path, PLAN) as store:
        store.finish()

    def refused(_):
        raise sj.MemoryRefused("the table needs 1 TiB; give another file.")

    with monkeypatch.context() as patch:
        patch.setattr("shapjax.evaluate.store.load_npz", refused)
        with pytest.raises(sj.MemoryRefused):
            Store.open(tmp_path, PLAN)
    Store.open(tmp_path, PLAN).close()


def test_shards_are_merged_and_their_number_may_change(tmp_path):
    for shard, pair in enumerate("ab"):
        with Store.open(tmp_path, PLAN, shard=shard, shards=2) as store:
            store.append(row(pair))
    with Store.open(tmp_path, PLAN, shard=1, shards=2) as store:
        assert store.done() == {("b", "net", "sam", 1)}  # the other shard is not its business
        assert store.rows() == [row("b")]
    with Store.open(tmp_path, PLAN) as store:
        assert len(store.done()) == 2
        store.append(row("c"))
        store.append(row("a", 9.0))  # a row that two shards have counts once
    assert [r["pair"] for r in read(tmp_path)] == ["a", "b", "c"]
    with pytest.raises(sj.ShapjaxError, match="between 0 and 1"):
        Store.open(tmp_path, PLAN, shard=2, shards=2)


def test_a_finished_shard_is_also_there_by_column(tmp_path):
    rows = [row("a", error=None, warm=True), row("b", None, error="NaN", count=3)]
    with Store.open(tmp_path, PLAN) as store:
        for one in rows:
            store.append(one)
        path = store.finish()
    with np.load(path, allow_pickle=False) as table:
        np.testing.assert_array_equal(table["pair"], ["a", "b"])
        np.testing.assert_array_equal(table["x"], [0.5, np.nan])
    lines = read(tmp_path)
    path.with_suffix(".jsonl").unlink()
    for one, other in zip(read(tmp_path), lines, strict=True):
        assert one["pair"] == other["pair"]
        assert one["x"] == other.get("x")
        assert one["error"] == other.get("error")


def test_a_failed_row_gives_way_to_a_later_one(tmp_path):
    with Store.open(tmp_path, PLAN) as store:
        store.append(row("a", None, error="no file"))
        store.append(row("b"))
    with Store.open(tmp_path, PLAN) as store:
        assert len(store.done()) == 2
    for found in (row("a", None, error="broken"), row("a", 2.0)):
        with Store.open(tmp_path, PLAN, again_failed=True) as store:
            assert store.done() == {key_of(row("b"))}
            store.append(found)
            assert len(store.done()) == 2
            path = store.finish()
        assert read(tmp_path) == [found, row("b")]
    with Store.open(tmp_path, PLAN, again_failed=True) as store:
        assert len(store.done()) == 2
    path.with_suffix(".jsonl").unlink()
    assert read(tmp_path) == [row("a", 2.0), row("b")]
    # Another shard's failure does not hide what succeeded.
    with Store.open(tmp_path, PLAN, shard=1, shards=2) as store:
        store.append(row("a", None, error="no file"))
    assert read(tmp_path) == [row("a", 2.0), row("b")]


@pytest.mark.parametrize("kept", [None, 0, 1, 1.5])
def test_rows_that_only_the_columns_have_are_lines_again(tmp_path, kept):
    """The lines are lost, or a process was killed while it wrote them again."""
    with Store.open(tmp_path, PLAN) as store:
        for pair in "abc":
            store.append(row(pair))
        path = store.finish().with_suffix(".jsonl")
    whole = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(whole[: int(kept * whole.index(b"\n") + (kept == 1))])
    with Store.open(tmp_path, PLAN) as store:
        assert path.read_bytes() == whole
        assert {pair for pair, *_ in store.done()} == set("abc")
        store.append(row("d"))
        store.finish()
    path.unlink()
    assert [r["pair"] for r in read(tmp_path)] == ["a", "b", "c", "d"]


def test_columns_and_back():
    rows = [row("a", count=1, warm=True), row("b", None, error="NaN", count=2, warm=False)]
    assert rows_of_columns(columns(rows)) == (rows, [])
    assert rows_of_columns(columns([])) == ([], [])


GOOD = json.dumps(row("a")).encode()

NO_ROWS = {
    "not JSON": b"{not json}",
    "no text": b"\xff\xfe\x00",
    "a list as pair": GOOD.replace(b'"a"', b'["a"]'),
    "no pair": GOOD.replace(b'"a"', b'""'),
    "a number as pair": GOOD.replace(b'"a"', b"7"),
    "a text as order": GOOD.replace(b"1", b'"1"'),
    "a truth value as order": GOOD.replace(b"1", b"true"),
    "a text as metric": GOOD.replace(b"0.5", b'"much"'),
    "a list as metric": GOOD.replace(b"0.5", b"[0.5]"),
    "a number as error": GOOD.replace(b"null", b"0"),
    "no error": json.dumps({k: v for k, v in row("a").items() if k != "error"}).encode(),
    "overflow": GOOD.replace(b"0.5", b"1e999"),
    "a number no column holds": GOOD.replace(b"0.5", b"9" * 400),
    "a number Python does not read": GOOD.replace(b"0.5", b"9" * 5000),
    "NaN": GOOD.replace(b"0.5", b"NaN"),
    "half a surrogate pair": GOOD.replace(b'"a"', b'"\\ud800"'),
    "deep nesting": b"[" * 200_000,
    "a deep row": GOOD.replace(b"0.5", b"[" * 5000 + b"]" * 5000),
}


@pytest.mark.parametrize("what", NO_ROWS)
def test_a_damaged_line_in_the_middle_is_told_and_computed_again(tmp_path, what):
    path = tmp_path / "rows-00000-of-00001.jsonl"
    with Store.open(tmp_path, PLAN) as store:
        store.append(row("b"))
        path.write_bytes(NO_ROWS[what] + b"\n" + path.read_bytes())
    with pytest.warns(UserWarning, match=r"has damaged lines \(1\), which do not count"):
        assert read(tmp_path) == [row("b")]
    with pytest.warns(UserWarning, match="damaged"):
        store = Store.open(tmp_path, PLAN)
    with warnings.catch_warnings(action="ignore"), store:
        assert store.done() == {key_of(row("b"))}
        store.append(row("a"))
        assert store.rows() == [row("b"), row("a")]
        store.finish()
    path.unlink()
    assert read(tmp_path) == [row("a"), row("b")]


def without(name):
    return lambda table: {key: column for key, column in table.items() if key != name}


NO_TABLES = {
    "no method": without("method"),
    "no error": without("error"),
    "unequal lengths": lambda table: {**table, "x": np.zeros(5)},
    "0-d": lambda table: {**table, "x": np.float64(1)},
    "2-d": lambda table: {**table, "x": np.zeros((2, 3))},
    "infinity": lambda table: {**table, "x": np.full(2, np.inf)},
    "complex": lambda table: {**table, "x": np.zeros(2, complex)},
    "numbers as pairs": lambda table: {**table, "pair": np.arange(2)},
    "fractions as orders": lambda table: {**table, "order": np.ones(2)},
    "no characters": lambda table: {**table, "pair": np.full(4, 2**31, np.uint32).view("U2")},
}


@pytest.mark.parametrize("what", NO_TABLES)
def test_damaged_columns_are_told_and_computed_again(tmp_path, what):
    with Store.open(tmp_path, PLAN) as store:
        store.append(row("a"))
        store.append(row("b"))
        path = store.finish()
    with np.load(path) as table:
        np.savez(path, **NO_TABLES[what](dict(table)))
    path.with_suffix(".jsonl").unlink()
    with pytest.warns(UserWarning, match="damaged lines"):
        assert read(tmp_path) == []
    with pytest.warns(UserWarning, match="damaged"):
        store = Store.open(tmp_path, PLAN)
    with warnings.catch_warnings(action="ignore"), store:
        assert store.done() == set()
        store.append(row("a"))
        store.finish()
    assert read(tmp_path) == [row("a")]


def test_what_is_no_row_is_not_written(tmp_path):
    with Store.open(tmp_path, PLAN) as store:
        for bad in (row(1), row("a", np.nan), row("a", "much"), {"pair": "a"}):
            with pytest.raises(sj.ShapjaxError, match="is no row, expected"):
                store.append(bad)
        assert store.rows() == []


MANIFESTS = (b"[]", b"3", b"null", b"", b"\xff", b"[" * 200_000, b'{"a":' * 200_000)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_what_is_written_is_on_the_disk_under_its_name(tmp_path, monkeypatch):
    """A power cut loses what was not synced: contents of files, and names in folders."""
    done, fsync = [], os.fsync

    def told(name, call):
        def wrapped(*given, **named):
            done.append((name, *(Path(one).name for one in given if not isinstance(one, int))))
            return call(*given, **named)

        return wrapped

    def synced(file):
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{file}")).name))
        fsync(file)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", told("link", os.link))
    monkeypatch.setattr(os, "replace", told("replace", os.replace))
    with Store.open(tmp_path / "run", PLAN) as store:
        part = done[1][1]
        assert done == [
            ("sync", tmp_path.name),
            ("sync", part),
            ("link", part, MANIFEST),
            ("sync", "run"),
            ("sync", "run"),  # the name of the rows' file
        ]
        done.clear()
        store.append(row("a"))
        assert done == [("sync", "rows-00000-of-00001.jsonl")]
        done.clear()
        path = store.finish()
    part = done[0][1]
    assert done == [("sync", part), ("replace", part, path.name), ("sync", "run")]


@pytest.mark.parametrize(
    ("number", "fails"), [(errno.EINVAL, False), (errno.EBADF, False), (errno.EIO, True)]
)
def test_folders_are_synced_where_that_can_be_done(tmp_path, monkeypatch, number, fails):
    fsync = os.fsync

    def refused(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(file)

    monkeypatch.setattr(os, "fsync", refused)
    if fails:
        with pytest.raises(sj.ShapjaxError, match="Input/output error"):
            Store.open(tmp_path, PLAN)
        return
    with Store.open(tmp_path, PLAN) as store:
        store.append(row("a"))
        store.finish()
    assert read(tmp_path) == [row("a")]


@pytest.mark.parametrize("content", MANIFESTS, ids=lambda content: repr(content[:5]))
def test_a_damaged_manifest_is_refused(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    for use in (read_plan, lambda folder: Store.open(folder, PLAN)):
        with pytest.raises(sj.ShapjaxError, match="cannot be read as the plan") as no:
            use(tmp_path)
        assert len(str(no.value).splitlines()) == 1


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
JSON = st.recursive(
    SCALARS, lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(), some, max_size=3)
)
ROWS = st.fixed_dictionaries(
    {}, optional={name: JSON | st.just(value) for name, value in row("a").items()}
)
LINES = st.lists(
    st.one_of(
        st.binary(max_size=9), (JSON | ROWS).map(lambda value: json.dumps(value).encode()),
        st.just(GOOD),
    ), max_size=4,
).map(b"\n".join)  # fmt: skip
PLANS = st.one_of(
    st.binary(max_size=9),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from([*PLAN, "more"]), JSON).map(
        lambda some: json.dumps({**PLAN, **some}).encode()
    ),
)


@pytest.mark.filterwarnings("ignore:.*damaged lines")
@settings(max_examples=150, deadline=None)
@given(lines=LINES, columns=LINES, plan=PLANS | st.just(json.dumps(PLAN).encode()))
def test_whatever_stands_in_the_files_gives_rows_or_one_sentence(lines, columns, plan):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / MANIFEST).write_bytes(plan)
        (folder / "rows-00000-of-00002.jsonl").write_bytes(lines)
        (folder / "rows-00001-of-00002.npz").write_bytes(columns)
        for found in read(folder):
            assert {type(value) for value in key_of(found)} == {str, int}
            assert found["error"] is None or isinstance(found["error"], str)
            assert all(v is None or np.isfinite(v) for v in [found.get("x"), found["order"]])
        try:
            store = Store.open(folder, PLAN, shards=2)
        except sj.ShapjaxError:
            return
        with store:
            before = store.done().copy()
            if key_of(row("new")) not in before:
                store.append(row("new"))
            store.finish()
        assert {key_of(found) for found in read(folder)} == before | {key_of(row("new"))}


def test_a_full_disk_ends_in_one_sentence_and_loses_no_row(tmp_path):
    """A limit on the size of files stands for the full disk: writes come back short."""
    with Store.open(tmp_path, PLAN) as store:
        store.append(row("a"))
        size = (tmp_path / "rows-00000-of-00001.jsonl").stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
        try:
            with pytest.raises(sj.ShapjaxError, match="all finished rows are kept"):
                store.append(row("b"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
        assert [r["pair"] for r in read(tmp_path)] == ["a"]
        store.append(row("b"))  # there is room again
    assert [r["pair"] for r in read(tmp_path)] == ["a", "b"]


FILL = """
import sys
from pathlib import Path
import shapjax as sj
from shapjax.evaluate.store import Store, read

folder = Path(sys.argv[1])
filler = folder / "filler"
filler.write_bytes(bytes(100_000))
row = {"backbone": "n", "method": "m", "order": 1, "error": None}
refused, written = None, 0
with Store.open(folder / "run", {}) as store:
    for number in range(10_000):
        try:
            store.append({**row, "pair": f"{number:0200}"})
        except sj.ShapjaxError as error:
            refused = str(error)
            break
        written += 1
    print(refused)
    assert len(read(folder / "run")) == written > 100, written
    try:
        store.finish()
    except sj.ShapjaxError as error:
        print(error)
    filler.unlink()
    for number in range(written, written + 100):
        store.append({**row, "pair": f"{number:0200}"})
    store.finish()
assert len(read(folder / "run")) == written + 100
"""


def test_a_file_system_that_is_full_keeps_its_rows(tmp_path):
    """A small one of memory, in a name space of its own, which needs no root."""
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=200k tmpfs '{tmp_path}'"
    try:
        allowed = subprocess.run([*alone, mount], capture_output=True).returncode == 0
    except OSError:
        allowed = False
    if not allowed:
        pytest.skip("needs name spaces of users")
    fill = [*alone, f'{mount} && "$0" -c "$1" "$2"', sys.executable, FILL, str(tmp_path)]
    result = subprocess.run(fill, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    first, *_ = result.stdout.splitlines()
    assert "No space left on device" in first
    assert "all finished rows are kept" in first


def test_a_folder_that_becomes_read_only_keeps_its_rows(tmp_path, monkeypatch):
    """As a file system that its kernel takes away after an error: nothing can be cut off either."""

    def refused(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    with Store.open(tmp_path, PLAN) as store:
        store.append(row("a"))
        with monkeypatch.context() as patch:
            for name in ("pwrite", "ftruncate", "fsync"):
                patch.setattr(os, name, refused)
            with pytest.raises(sj.ShapjaxError, match=r"Read-only file system.*kept") as no:
                store.append(row("b"))
        assert len(str(no.value).splitlines()) == 1
        assert [r["pair"] for r in read(tmp_path)] == ["a"]
        store.append(row("b"))
    assert [r["pair"] for r in read(tmp_path)] == ["a", "b"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(sj.ShapjaxError, match="cannot write"):
        Store.open(tmp_path / "run", PLAN)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(sj.ShapjaxError, match="cannot write"):
        Store.open(tmp_path / "run", PLAN)


def test_a_killed_process_loses_nothing(tmp_path):
    """Rows whose append has returned are there after kill -9, every one and whole."""
    code = (
        "import sys\n"
        "from shapjax.evaluate.store import Store\n"
        f"store = Store.open({str(tmp_path)!r}, {PLAN!r})\n"
        "for number in range(10**6):\n"
        "    row = {'pair': f'{number:07}', 'backbone': 'n', 'method': 'm', 'order': 1}\n"
        "    store.append({**row, 'error': None})\n"
        "    print(number, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        seen = [int(child.stdout.readline()) for _ in range(50)]
        child.kill()
        seen += [int(line) for line in child.stdout.read().split()]
    with Store.open(tmp_path, PLAN) as store:
        numbers = sorted(int(pair) for pair, *_ in store.done())
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= len(seen)
    lines = (tmp_path / "rows-00000-of-00001.jsonl").read_text().splitlines()
    assert [json.loads(line)["pair"] for line in lines] == [f"{n:07}" for n in numbers]
