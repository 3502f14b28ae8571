"""Published weights by way of the cache: downloaded, checked and converted once."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from shapjax.backbones import readers
from shapjax.backbones.download import fetch
from shapjax.backbones.filling import fill_layout
from shapjax.backbones.folding import fold
from shapjax.backbones.record import Backbone
from shapjax.backbones.registry import Published
from shapjax.backbones.tokeniser import VOCABULARY
from shapjax.core.errors import ShapjaxError, WeightsError
from shapjax.core.files import write_whole

SOURCES = Path(__file__).parent
"""Where the code lies that decides what the arrays are."""


def cache_folder() -> Path:
    """``$SHAPJAX_CACHE``, else ``shapjax`` under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    chosen = os.environ.get("SHAPJAX_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "shapjax"


def made_folder(name: str, kind: type[ShapjaxError] = ShapjaxError, otherwise: str = "") -> Path:
    """A folder of the cache, made where it is not there yet.

    Args:
        name: of the folder.
        kind: what is raised.
        otherwise: what else would help, after "set SHAPJAX_CACHE".

    Raises:
        ShapjaxError: it cannot be made.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise kind(
            f"cannot make {folder} ({error.strerror or error}); set SHAPJAX_CACHE to a writable "
            f"folder{otherwise}."
        ) from None
    return folder


def published_backbone(name: str, module: ModuleType, published: Published) -> Backbone:
    """The backbone with its publisher's weights.

    In the cache there are the publisher's files, as they came, and the arrays of the network, under
    a name that changes when the code that converted them does; earlier ones then go. Processes
    that ask at once wait for one another.

    Args:
        name: registry name.
        module: with the network's ``layout``.
        published: which weights.

    Raises:
        WeightsError: see ``fetch``; or the file does not fit the network.
    """
    folder = made_folder(name, WeightsError, ", or give weights=PATH")
    converted = folder / f"{Path(published.file).stem}-{_code()}.safetensors"
    backbone = _read(name, module, converted)
    if backbone is None:
        with _alone(folder):
            backbone = _read(name, module, converted) or _convert(
                name, module, published, converted
            )
    preprocessing = published.preprocessing or backbone.preprocessing
    if published.vocabulary is not None:
        with _alone(folder):
            fetch(*published.vocabulary, folder / VOCABULARY)
        preprocessing = preprocessing.beside(folder)
    return dataclasses.replace(backbone, preprocessing=preprocessing)


def _convert(name: str, module: ModuleType, published: Published, converted: Path) -> Backbone:
    source = converted.parent / published.file
    fetch(published.url, published.digest, source)
    arrays = readers.read_weights(source)
    backbone = fill_layout(name, module.layout(name, arrays), arrays)
    with source.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    record = {
        "url": published.url,
        "sha256": sha256,
        "checked": published.digest,
        "names": json.dumps(list(arrays)),
    }
    leaves = {
        ".".join(map(str, path)): np.asarray(leaf[...], order="C")
        for path, leaf in nnx.to_flat_state(backbone.state)
    }
    write_whole(converted, safetensors.numpy.save(leaves, record))
    for older in converted.parent.glob(f"{source.stem}-{'[0-9a-f]' * 8}.safetensors"):
        if older != converted:
            # Whoever is reading it keeps it, or (on Windows) it stays; who finds it gone converts.
            with contextlib.suppress(OSError):
                older.unlink()
    return backbone


def _read(name: str, module: ModuleType, converted: Path) -> Backbone | None:
    """The backbone of converted arrays, or None where there are none that can be used."""
    if not converted.exists():
        return None
    try:
        with safetensors.safe_open(converted, "numpy") as stream:
            file_names = json.loads(stream.metadata()["names"])
        arrays = readers.read_weights(converted)
        layout = module.layout(name, file_names)
        plain = layout._replace(
            factory=lambda: fold(layout.factory()),
            name_in_file=str,
            axes={},
            ignored=(),
            arrange=dict,
        )
        return fill_layout(name, plain, arrays)
    # A cache is there to save time: whatever is wrong with it, the file is converted again.
    except Exception:
        return None


def _code() -> str:
    """Eight digits that change with the code that lays out, reads, converts or folds weights.

    That is any file beside this one: to convert once too often costs seconds.
    """
    text = b"".join(source.read_bytes() for source in sorted(SOURCES.glob("*.py")))
    return hashlib.sha256(text).hexdigest()[:8]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder of the cache; another process that wants it waits."""
    try:
        import fcntl
    except ImportError:
        # Without file locks the digest still keeps a mixture of two downloads out.
        yield
        return
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
