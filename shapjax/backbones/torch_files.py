"""State dicts out of torch's files, read without torch and without running what they contain.

Source: torch/serialization.py and torch/_utils.py of PyTorch 2 (both file formats that
``torch.save`` has written since 2016: the zip archive, and the pickles followed by raw bytes).
"""

from __future__ import annotations

import dataclasses
import io
import math
import struct
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from shapjax.backbones.archive import read_archive
from shapjax.backbones.torch_pickle import interpret, set_item
from shapjax.core.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_RANK = 32

_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

_TYPES = ("float64", "float32", "float16", "bfloat16")
_TYPES += ("int64", "int32", "int16", "int8", "uint8", "bool")


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A run of ``numel`` values of one type, whose bytes ``read`` finds by ``key``."""

    dtype: np.dtype
    key: str
    numel: int
    read: Callable[[str], bytes | memoryview]

    def values(self) -> np.ndarray:
        data = self.read(self.key)
        if len(data) != self.numel * self.dtype.itemsize:
            raise WeightsError(
                f"storage {self.key[:40]!r} has {len(data)} bytes, expected "
                f"{self.numel} x {self.dtype.itemsize}; download the file again."
            )
        return np.frombuffer(data, self.dtype) if len(data) else np.empty(0, self.dtype)


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A strided window on a storage (offset and strides in elements), an array when asked for.

    It is checked when it is made and reads its storage only when converted, since in the legacy
    format the bytes follow after the pickle that describes the tensors.
    """

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.size, *self.stride)
        well_formed = (
            len(self.size) == len(self.stride) <= _MAX_RANK
            and all(isinstance(number, int) for number in numbers)
            and min(numbers) >= 0
        )
        # A tensor larger than its storage repeats values by stride 0: a way to ask for terabytes.
        if not well_formed or not self._inside() or math.prod(self.size) > self.storage.numel:
            raise WeightsError(
                f"a tensor of {len(self.size)} dimensions reaches outside its storage of "
                f"{self.storage.numel} values; download the file again."
            )

    def _inside(self) -> bool:
        steps = zip(self.size, self.stride, strict=True)
        last = self.offset + sum((size - 1) * stride for size, stride in steps)
        return 0 in self.size or last < self.storage.numel

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if 0 in self.size:
            return np.empty(self.size, self.storage.dtype)
        # The stride of an axis of length one is never used, so it may be anything in the file.
        width = self.storage.dtype.itemsize
        strides = [
            width * stride if size > 1 else width
            for size, stride in zip(self.size, self.stride, strict=True)
        ]
        values = self.storage.values()[self.offset :]
        return np.lib.stride_tricks.as_strided(values, self.size, strides, writeable=False)


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote to a file: normally a dictionary of tensors, perhaps nested.

    Args:
        path: a ``.pth`` or ``.pt`` file in the zip or the legacy format.

    Returns:
        Plain containers; tensors are objects that ``np.asarray`` turns into arrays.

    Raises:
        WeightsError: the file contains anything but tensors, text, numbers and containers, or
            its sizes do not add up.
        Exception: of any kind, where the file is damaged.
    """
    with path.open("rb") as stream:
        is_zip = stream.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    return _read_zip(read_archive(path)) if is_zip else _read_legacy(path.read_bytes())


def _read_zip(entries: Mapping[str, bytes]) -> Any:
    if any(name.endswith("/constants.pkl") for name in entries):
        raise WeightsError(
            "it is a program of TorchScript, expected a state dict; save "
            "torch.jit.load(path).state_dict()."
        )
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise WeightsError(
            f"the archive has {len(roots)} entries named data.pkl, expected the one that "
            "torch.save writes; save model.state_dict() again."
        )
    (root,) = roots
    if entries.get(f"{root}byteorder", b"little") != b"little":
        raise WeightsError(
            "it was saved on a big-endian machine, expected little-endian; save it again."
        )

    def read(key: str) -> bytes:
        return entries.get(f"{root}data/{key}", b"")

    return interpret(io.BytesIO(entries[f"{root}data.pkl"]), _NAMES, _storage_fetcher(read, {}))


def _read_legacy(content: bytes) -> Any:
    stream, data = io.BytesIO(content), memoryview(content)
    magic, _, system = (_interpret_plain(stream) for _ in range(3))
    if magic != _LEGACY_MAGIC or not isinstance(system, dict) or not system.get("little_endian"):
        raise WeightsError(
            "it is no file that torch.save wrote on a little-endian machine, expected a state "
            "dict; save model.state_dict() again."
        )
    blobs: dict[str, memoryview] = {}
    storages: dict[str, _Storage] = {}
    tree = interpret(stream, _NAMES, _storage_fetcher(lambda key: blobs.get(key, b""), storages))
    keys = _interpret_plain(stream)
    position = stream.tell()
    for key in keys:
        (numel,) = struct.unpack_from("<q", data, position)
        position += 8
        # The width of an element is on record only in the pickle that came before.
        end = position + numel * storages[key].dtype.itemsize
        if not position <= end <= len(data):
            raise WeightsError(
                f"storage {key[:40]!r} declares {numel} values, more than the file holds; "
                "download the file again."
            )
        blobs[key] = data[position:end]
        position = end
    return tree


def _interpret_plain(stream: io.BytesIO) -> Any:
    def refuse(_: Any) -> Any:
        raise WeightsError(
            "tensor data come before the state dict, expected torch's order; save it again."
        )

    return interpret(stream, {}, refuse)


def _storage_fetcher(
    read: Callable[[str], bytes | memoryview], seen: dict[str, _Storage]
) -> Callable[[Any], _Storage]:
    """Turns torch's persistent identifiers into storages and notes them in ``seen``."""

    def fetch(identifier: Any) -> _Storage:
        # ("storage", type, key, device, numel), in the legacy format with a view that is None.
        kind, dtype, key, _, numel, *view = identifier
        well_formed = (
            kind == "storage"
            and isinstance(dtype, np.dtype)
            and isinstance(key, str)
            and isinstance(numel, int)
            and numel >= 0
            and view in ([], [None])
        )
        if not well_formed:
            raise WeightsError(
                "a tensor's storage is described in a way torch does not write; save "
                "model.state_dict() again."
            )
        return seen.setdefault(key, _Storage(dtype, key, numel, read))

    return fetch


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    """``torch._utils._rebuild_tensor_v2`` less gradients and hooks, which weights do not need."""
    if not isinstance(storage, _Storage) or not isinstance(size, tuple):
        raise TypeError("a tensor without storage or size")
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    """``torch._utils._rebuild_parameter``: the tensor itself."""
    return data


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    """``collections.OrderedDict`` as a dictionary; Python 2 wrote it with its items inline."""
    result: dict[Any, Any] = {}
    for key, value in pairs:
        set_item(result, key, value)
    return result


def _defaultdict(*_: Any) -> dict[Any, Any]:
    """``collections.defaultdict`` as a dictionary, which its items follow."""
    return {}


def _nothing(*_: Any) -> None:
    """Stands for an object that is no weight."""


_NAMES: dict[str, Any] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    # What training scripts save beside a state dict: their settings, which are left out. None of
    # these becomes what it names: calls give None, and what stands for None cannot be called.
    "argparse Namespace": _nothing,
    "torch device": _nothing,
    **{f"torch {name}": None for name in _TYPES},
    "collections defaultdict": _defaultdict,
    **{f"__builtin__ {name}": None for name in ("dict", "float", "int", "list")},
    # A NumPy scalar: its type, its bytes as text, and what puts them together.
    "numpy dtype": _nothing,
    "_codecs encode": _nothing,
    "numpy.core.multiarray scalar": _nothing,
    "numpy._core.multiarray scalar": _nothing,
    **{f"torch {name}": np.dtype(dtype) for name, dtype in _STORAGES.items()},
}
