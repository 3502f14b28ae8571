"""Files from their publishers: resumed where a transfer broke off, checked, put in place whole."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from shapjax.backbones.archive import MAX_FILE_BYTES
from shapjax.core.errors import WeightsError

_ATTEMPTS = 3
_TIMEOUT = 30.0
_CHUNK = 1 << 20


def fetch(url: str, digest: str, target: Path) -> None:
    """Has the file of a URL at ``target``, downloading what is not there yet, and checks it.

    What arrives is kept beside the target under ``.part``, so that the next call goes on where
    one was interrupted; the target itself only ever exists whole and checked.

    Args:
        url: the publisher's address.
        digest: ``"sha256:"`` or ``"md5:"`` and the first hexadecimal digits.
        target: where the file belongs; a file that is already there is only checked.

    Raises:
        WeightsError: the publisher cannot be reached, has no such file, the transfer broke off
            again and again, the digest is another, or the folder cannot be written.
    """
    with _told_where(url, target):
        if target.exists():
            found = _digest(target, digest)
            if not found.startswith(digest):
                raise WeightsError(
                    f"{target} has {found}, expected {digest}; delete it, or put the publisher's "
                    f"file there ({url})."
                )
            return
        part = target.with_name(f"{target.name}.part")
        resumed = part.exists()
        _download(url, part)
        found = _digest(part, digest)
        if resumed and not found.startswith(digest):
            # What was there may have been of an older version of the file.
            part.unlink()
            _download(url, part)
            found = _digest(part, digest)
        if not found.startswith(digest):
            part.unlink()
            raise WeightsError(
                f"{url} came with {found}, expected {digest}, and was thrown away; try again, or "
                "give weights=PATH of a file you trust."
            )
        os.replace(part, target)


@contextlib.contextmanager
def _told_where(url: str, target: Path) -> Iterator[None]:
    """Turns what the network and the file system raise into what to do about it."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise WeightsError(
            f"{url} answered {error.code} {error.reason}; put the file at {target}, or give "
            "weights=PATH."
        ) from None
    except urllib.error.URLError as error:
        raise WeightsError(
            f"cannot reach {url} ({error.reason}); download it elsewhere and put it at {target}, "
            "or give weights=PATH."
        ) from None
    except OSError as error:
        raise WeightsError(
            f"cannot write {target} ({error.strerror or error}); set SHAPJAX_CACHE to a writable "
            "folder."
        ) from None


def _download(url: str, part: Path) -> None:
    """Completes ``part``, in a few attempts."""
    problem = ""
    for _ in range(_ATTEMPTS):
        try:
            _transfer(url, part)
            return
        except urllib.error.HTTPError as error:
            # 416: there is nothing after what we have, so it is not a beginning of the file.
            if error.code != 416 or not part.exists():
                raise
            part.unlink()
            problem = "its size changed"
        except _Broken as error:
            problem = str(error)
    raise WeightsError(
        f"the transfer of {url} broke off {_ATTEMPTS} times ({problem}); call again to go on "
        "where it stopped."
    )


class _Broken(Exception):
    """A transfer that ended before the file did."""


def _transfer(url: str, part: Path) -> None:
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "shapjax"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
        raise _Broken(type(error).__name__) from error
    with answer:
        resumes = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if not resumes:
            start = 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        if total is not None and total > MAX_FILE_BYTES:
            raise WeightsError(
                f"{url} has {total} bytes, expected at most {MAX_FILE_BYTES}; give weights=PATH."
            )
        with part.open("ab" if resumes else "wb") as stream:
            _copy(answer, stream, start, total)


def _copy(answer, stream, start: int, total: int | None) -> None:
    from tqdm import tqdm

    done = start
    settings = {"unit": "B", "unit_scale": True, "initial": start, "total": total}
    # Without a terminal there is no bar.
    with tqdm(desc=Path(stream.name).stem, disable=None, **settings) as bar:
        while True:
            try:
                block = answer.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _Broken(f"{type(error).__name__} after {done} bytes") from error
            if not block:
                break
            stream.write(block)
            done += len(block)
            bar.update(len(block))
            if done > MAX_FILE_BYTES:
                raise WeightsError(f"{stream.name} grows beyond {MAX_FILE_BYTES} bytes; delete it.")
    if total is not None and done < total:
        raise _Broken(f"{done} of {total} bytes")


def _digest(path: Path, like: str) -> str:
    """The digest of a file by the algorithm that ``like`` names."""
    algorithm = like.partition(":")[0]
    with path.open("rb") as stream:
        return f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"
