"""Published weights: downloaded from a server of our own, checked, converted once, kept."""

import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save as save_safetensors
from seeded import seeded_state_dict
from test_text import WORDS
from test_transformers import make_shallow

from shapjax.backbones import bert, cache, download, load, registry
from shapjax.backbones.download import fetch
from shapjax.backbones.tokeniser import read_vocabulary
from shapjax.core.errors import WeightsError

CONTENT = np.random.default_rng(0).bytes(100_000)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves one file at any path that ends in ``.safetensors``, with the mistakes asked for.

    Others are in ``files``, by their paths.
    """

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.files = {}
        self.requests = []
        self.stop_after = None  # Bytes after which an answer breaks off, each time.
        self.ranges = True
        self.delay = 0.0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/weights-01234567.safetensors"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append((self.path, wanted))
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", server.url)
            self.end_headers()
            return
        if not self.path.endswith(".safetensors") and self.path not in server.files:
            self.send_error(404)
            return
        content, start = server.files.get(self.path, server.content), 0
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if server.delay:
            threading.Event().wait(server.delay)
        stop = None if server.stop_after is None else start + server.stop_after
        self.wfile.write(content[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def server():
    running = Server(CONTENT)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def only_file(folder):
    (path,) = folder.iterdir()
    return path


# Fetching.


@pytest.mark.parametrize("digest", [SHA256, SHA256[:15], "md5:" + hashlib.md5(CONTENT).hexdigest()])
def test_success(tmp_path, server, digest):
    target = tmp_path / "w.bin"
    fetch(server.url, digest, target)
    assert target.read_bytes() == CONTENT
    assert only_file(tmp_path) == target
    # What is there is checked and not asked for again.
    fetch(server.url, digest, target)
    assert len(server.requests) == 1


def test_a_wrong_hash_keeps_nothing(tmp_path, server):
    with pytest.raises(WeightsError, match=rf"came with {SHA256}, expected sha256:0000"):
        fetch(server.url, "sha256:0000", tmp_path / "w.bin")
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_already_there_is_left_alone(tmp_path, server):
    target = tmp_path / "w.bin"
    target.write_bytes(b"mine")
    with pytest.raises(WeightsError, match=r"w\.bin has sha256:.* delete it, or put"):
        fetch(server.url, SHA256, target)
    assert target.read_bytes() == b"mine"


def test_not_found_says_where_the_file_belongs(tmp_path, server):
    url = server.url.replace(".safetensors", ".gone")
    with pytest.raises(WeightsError, match=rf"answered 404 .*put the file at {tmp_path}/w\.bin"):
        fetch(url, SHA256, tmp_path / "w.bin")
    assert not list(tmp_path.iterdir())
    assert len(server.requests) == 1


def test_offline_says_where_the_file_belongs(tmp_path):
    with pytest.raises(WeightsError, match=rf"cannot reach http.*put it at {tmp_path}/w\.bin"):
        # Port 9 (discard) of this machine: nobody listens.
        fetch("http://127.0.0.1:9/w.bin", SHA256, tmp_path / "w.bin")


def test_a_truncated_body_is_completed_by_ranges(tmp_path, server):
    server.stop_after = 40_000
    fetch(server.url, SHA256, tmp_path / "w.bin")
    assert only_file(tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=40000-", "bytes=80000-"]


def test_a_body_that_is_always_truncated_gives_up_and_goes_on_later(tmp_path, server):
    server.stop_after = 30_000
    with pytest.raises(WeightsError, match=r"broke off 3 times \(90000 of 100000 bytes\)"):
        fetch(server.url, SHA256, tmp_path / "w.bin")
    assert only_file(tmp_path).name == "w.bin.part"
    server.stop_after = None
    fetch(server.url, SHA256, tmp_path / "w.bin")
    assert server.requests[-1][1] == "bytes=90000-"
    assert only_file(tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(tmp_path, server):
    server.ranges = False
    (tmp_path / "w.bin.part").write_bytes(CONTENT[:500])
    fetch(server.url, SHA256, tmp_path / "w.bin")
    assert only_file(tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [b"old" * 100, b"long" * 50_000], ids=["short", "too long"])
def test_a_part_of_another_file_is_thrown_away(tmp_path, server, stale):
    (tmp_path / "w.bin.part").write_bytes(stale)
    fetch(server.url, SHA256, tmp_path / "w.bin")
    assert only_file(tmp_path).read_bytes() == CONTENT


def test_a_redirect_is_followed(tmp_path, server):
    url = server.url.replace("/weights", "/moved/weights")
    fetch(url, SHA256, tmp_path / "w.bin")
    assert only_file(tmp_path).read_bytes() == CONTENT


def test_a_transfer_that_was_killed_is_resumed(tmp_path, server):
    server.stop_after = 60_000
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from shapjax.backbones import download\n"
        "def copy(answer, stream, start, total):\n"
        "    stream.write(answer.read(50_000)); stream.flush(); os._exit(9)\n"
        "download._copy = copy\n"
        "download.fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3]))\n"
    )
    target = tmp_path / "w.bin"
    command = [sys.executable, "-c", code, server.url, SHA256, str(target)]
    assert subprocess.run(command, check=False, timeout=120).returncode == 9
    assert not target.exists()
    server.stop_after = None
    fetch(server.url, SHA256, target)
    assert server.requests[-1][1] == "bytes=50000-"
    assert only_file(tmp_path).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written(tmp_path, server):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError, match="set SHAPJAX_CACHE"):
        fetch(server.url, SHA256, tmp_path / "file" / "w.bin")


def test_a_server_that_hangs_up_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up():
            for _ in range(3):
                listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/w.bin"
        with pytest.raises(WeightsError, match="broke off 3 times"):
            fetch(url, SHA256, tmp_path / "w.bin")
        thread.join()
    assert not list(tmp_path.iterdir())


# The cache.


@pytest.fixture
def published(monkeypatch, tmp_path, server):
    """SqueezeNet's published weights are those of our server, and the cache is empty."""
    server.content = save_safetensors(seeded_state_dict("squeezenet1_1"))
    digest = "sha256:" + hashlib.sha256(server.content).hexdigest()[:8]
    row = registry.Row("squeezenet", {"ours": registry.Published(server.url, digest)})
    monkeypatch.setitem(registry.ROWS, "squeezenet1_1", row)
    monkeypatch.setenv("SHAPJAX_CACHE", str(tmp_path))
    return tmp_path / "squeezenet1_1"


def same(first, second):
    leaves = zip(jax.tree.leaves(first.state), jax.tree.leaves(second.state), strict=True)
    return all(jnp.array_equal(a, b) for a, b in leaves) and first.graphdef == second.graphdef


def test_published_weights_are_downloaded_and_converted_once(published, server, monkeypatch):
    given = load("squeezenet1_1", seeded_state_dict("squeezenet1_1"))
    first = load("squeezenet1_1")
    assert same(first, given)
    monkeypatch.setattr(download, "fetch", None)
    monkeypatch.setattr(cache, "fetch", None)
    for again in (load("squeezenet1_1"), load("squeezenet1_1", "ours")):
        assert same(again, given)
        assert again.preprocessing == given.preprocessing
    assert len(server.requests) == 1
    (converted,) = published.glob("weights-01234567-*.safetensors")
    import safetensors

    with safetensors.safe_open(converted, "numpy") as stream:
        record = stream.metadata()
    assert record["url"] == server.url
    assert record["sha256"] == hashlib.sha256(server.content).hexdigest()
    assert record["checked"] == "sha256:" + record["sha256"][:8]
    assert "features.0.weight" in json.loads(record["names"])


@pytest.mark.parametrize(
    ("name", "module"),
    [("minilm_l6", "bert"), pytest.param("clip_vit_b_32", "clip", marks=pytest.mark.slow)],
)
def test_weights_for_texts_come_with_their_vocabulary(name, module, monkeypatch, tmp_path, server):
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    make_shallow(monkeypatch.setattr)
    monkeypatch.setattr(bert, "EMBEDDED", None)
    monkeypatch.setenv("SHAPJAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    words = read_vocabulary(tmp_path)
    arrays = {key: np.asarray(value) for key, value in seeded_state_dict(name).items()}
    server.content, server.files = save_safetensors(arrays), {"/tokenizer.json": words.encode()}

    def sha256(content):
        return "sha256:" + hashlib.sha256(content).hexdigest()

    vocabulary = server.url.rpartition("/")[0] + "/tokenizer.json", sha256(words.encode())
    published = registry.Published(server.url, sha256(server.content), vocabulary=vocabulary)
    monkeypatch.setitem(registry.ROWS, name, registry.Row(module, {"ours": published}))
    for _ in range(2):
        found = load(name)
        assert same(found, load(name, arrays))
        texts = found.preprocessing.text if module == "clip" else found.preprocessing
        assert texts.vocabulary == words
    assert [path for path, _ in server.requests] == [
        "/weights-01234567.safetensors",
        "/tokenizer.json",
    ]
    # A vocabulary that was changed is not read.
    (tmp_path / "cache" / name / "tokenizer.json").write_text(words + " ")
    with pytest.raises(WeightsError, match="delete it, or put the publisher's file there"):
        load(name)


def test_damaged_or_outdated_conversions_are_made_again(published, server):
    given = load("squeezenet1_1")
    (converted,) = published.glob("weights-01234567-*.safetensors")
    converted.write_bytes(converted.read_bytes()[:-7])
    assert same(load("squeezenet1_1"), given)
    converted.rename(converted.with_name("weights-01234567-00000000.safetensors"))
    assert same(load("squeezenet1_1"), given)
    assert list(published.glob("weights-01234567-*.safetensors")) == [converted]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "changed", ["vit", "torch_files", "torch_pickle", "archive", "readers", "folding", "squeezenet"]
)
def test_a_change_of_any_code_that_makes_the_arrays_outdates_them(changed, monkeypatch, tmp_path):
    before = cache._code()
    shutil.copytree(cache.SOURCES, tmp_path / "b")
    monkeypatch.setattr(cache, "SOURCES", tmp_path / "b")
    file = tmp_path / "b" / f"{changed}.py"
    assert cache._code() == before
    file.write_bytes(file.read_bytes() + b"\n")
    assert cache._code() != before


def test_a_file_put_into_the_cache_by_hand(published, server):
    published.mkdir()
    (published / "weights-01234567.safetensors").write_bytes(server.content)
    load("squeezenet1_1")
    assert not server.requests


def test_published_weights_that_do_not_fit_are_refused(published, server, monkeypatch):
    server.content = save_safetensors({"features.0.weight": np.ones((64, 3, 3, 3), np.float32)})
    digest = "sha256:" + hashlib.sha256(server.content).hexdigest()
    row = registry.Row("squeezenet", {"ours": registry.Published(server.url, digest)})
    monkeypatch.setitem(registry.ROWS, "squeezenet1_1", row)
    with pytest.raises(WeightsError, match="51 of the arrays do not fit"):
        load("squeezenet1_1")
    assert not list(published.glob("*-????????-????????.safetensors"))


def test_two_processes_at_once_download_once(published, server):
    server.delay = 0.5
    code = (
        "import os, sys\n"
        "from shapjax.backbones import load, registry\n"
        "row = registry.Row('squeezenet', {'ours': registry.Published(*sys.argv[1:3])})\n"
        "registry.ROWS['squeezenet1_1'] = row\n"
        "print(float(load('squeezenet1_1').state['conv1']['bias'][...].sum()))\n"
    )
    digest = registry.ROWS["squeezenet1_1"].published["ours"].digest
    command = [sys.executable, "-c", code, server.url, digest]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert len(server.requests) == 1


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("SHAPJAX_CACHE", str(tmp_path))
    assert cache.cache_folder() == tmp_path
    monkeypatch.delenv("SHAPJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.cache_folder() == tmp_path / "x" / "shapjax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path("~/.cache/shapjax").expanduser()


def test_a_cache_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SHAPJAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cannot make .* set SHAPJAX_CACHE"):
        load("resnet18")
