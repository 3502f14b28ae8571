"""Reading zip archives nobody vouches for: what one may unfold to is bounded before it is read."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from shapjax.core.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES = 2 * 1024**3
"""Largest weight file that is read at all; VGG-16, among the largest backbones, has 0.5 GiB."""

# Trained weights hardly compress, freshly initialised ones (zeros) compress without limit: small
# archives get a flat allowance, larger ones must justify what they unfold to by their own size.
_ALLOWANCE_BYTES = 64 * 1024**2
_MAX_EXPANSION = 16
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1


def read_archive(path: Path) -> dict[str, bytes]:
    """Contents of every entry of a zip archive by entry name.

    Args:
        path: a regular file of at most ``MAX_FILE_BYTES``.

    Raises:
        WeightsError: the archive would unfold to more than its size justifies, or an entry is
            encrypted, compressed by an unusual method or shorter than it declares.
        zipfile.BadZipFile: not a zip archive, or a checksum fails.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        declared = sum(entry.file_size for entry in entries)
        limit = min(MAX_FILE_BYTES, _ALLOWANCE_BYTES + _MAX_EXPANSION * path.stat().st_size)
        if declared > limit:
            raise WeightsError(
                f"the archive unfolds to {declared} bytes, expected at most {limit} from a file "
                "of its size; save the weights again, uncompressed."
            )
        return {entry.filename: _read_entry(archive, entry) for entry in entries}


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.compress_type not in _METHODS or entry.flag_bits & _ENCRYPTED:
        raise WeightsError(
            f"archive entry {entry.filename!r} is encrypted or compressed by an unusual method, "
            "expected stored or deflated; save the weights again."
        )
    with archive.open(entry) as stream:
        # A size makes zipfile decompress that much and no more, whatever the stream holds.
        data = stream.read(entry.file_size)
    if len(data) != entry.file_size:
        raise WeightsError(
            f"archive entry {entry.filename!r} has {len(data)} bytes, expected "
            f"{entry.file_size}; download the file again."
        )
    return data
