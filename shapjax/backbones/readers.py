"""Weight files as flat dictionaries of arrays; whatever is wrong with one ends in WeightsError."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from shapjax.backbones.archive import MAX_FILE_BYTES, read_archive
from shapjax.backbones.torch_files import read_torch
from shapjax.core.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable

_WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher")
_MAX_WRAPPERS = 4
_PARALLEL_PREFIX = "module."

_SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_weights(weights: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by name, from a file or from a dictionary already in memory.

    A state dict inside a checkpoint (under ``"state_dict"``, ``"model_state_dict"``, ``"model"``
    or ``"teacher"``) is taken out, and the ``"module."`` that torch's data parallelism puts before
    every name is taken off.

    Args:
        weights: path of an ``.npz``, ``.safetensors``, ``.pth`` or ``.pt`` file, or a mapping to
            NumPy, JAX or torch arrays.

    Returns:
        Real numeric or boolean arrays in their stored type; those from files may be read-only.

    Raises:
        WeightsError: no such file, another kind of file, a damaged or hostile one, or entries
            that are not real numeric arrays. Nothing that a file contains is ever run.
    """
    if isinstance(weights, Mapping):
        return _flat_arrays(weights)
    if not isinstance(weights, str | os.PathLike):
        raise WeightsError(
            f"got weights of type {type(weights).__name__}, expected the path of a weight file "
            "or a dictionary of arrays."
        )
    path = Path(weights)
    reader = _reader(path)
    try:
        return _flat_arrays(reader(path))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    # The parsers of zip, npy, pickle and safetensors raise whatever damaged bytes lead them to.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise WeightsError(
            f"{path}: damaged or no {path.suffix} file of weights ({reason}); download or save "
            "it again."
        ) from error


def _reader(path: Path) -> Callable[[Path], Any]:
    """The function for a file's suffix, after what can be said without opening the file."""
    known = ", ".join(_READERS)
    try:
        is_file, size = path.is_file(), path.stat().st_size
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"cannot open {str(path)[:200]!r}, expected the path of a weight file ({known})."
        ) from error
    if not is_file:
        raise WeightsError(f"{path} is no regular file, expected a weight file ({known}).")
    if path.suffix.lower() not in _READERS:
        raise WeightsError(
            f"{path} ends in {path.suffix!r}, expected one of {known}; convert or rename it."
        )
    if not 0 < size <= MAX_FILE_BYTES:
        raise WeightsError(
            f"{path} has {size} bytes, expected 1 to {MAX_FILE_BYTES}; give the weights of a "
            "single network."
        )
    return _READERS[path.suffix.lower()]


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    return {
        name.removesuffix(".npy"): _parse_npy(name, data)
        for name, data in read_archive(path).items()
    }


def _parse_npy(name: str, data: bytes) -> np.ndarray:
    """One array of an npz archive; ``numpy.load`` allocates what a header says, unchecked."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in _NPY_HEADERS:
        raise WeightsError(
            f"{name!r} is in version {version} of the npy format, expected 1.0 or 2.0; save it "
            "again with numpy.savez."
        )
    shape, fortran_order, dtype = _NPY_HEADERS[version](stream)
    _check_dtype(name, dtype)
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize != len(data) - stream.tell():
        raise WeightsError(
            f"{name!r} declares shape {shape}, which its {len(data)} bytes do not hold exactly; "
            "download the file again."
        )
    if count == 0:
        return np.empty(shape, dtype)
    numbers = np.frombuffer(data, dtype, offset=stream.tell())
    return numbers.reshape(shape, order="F" if fortran_order else "C")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors

    arrays = {}
    for name, entry in safetensors.deserialize(path.read_bytes()):
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            raise WeightsError(
                f"{name!r} is of type {entry['dtype']}, expected one of "
                f"{', '.join(_SAFETENSORS_DTYPES)}; convert the weights to float32."
            )
        dtype = np.dtype(_SAFETENSORS_DTYPES[entry["dtype"]])
        arrays[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
    return arrays


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".pth": read_torch,
    ".pt": read_torch,
    ".bin": read_torch,
    # MoCo's authors end their names in ".pth.tar"; it is no tar archive.
    ".tar": read_torch,
}


def _flat_arrays(tree: Any) -> dict[str, np.ndarray]:
    entries = _unwrap(tree)
    arrays = {name: _as_array(name, value) for name, value in entries.items()}
    if arrays and all(name.startswith(_PARALLEL_PREFIX) for name in arrays):
        return {name.removeprefix(_PARALLEL_PREFIX): array for name, array in arrays.items()}
    return arrays


def _unwrap(tree: Any) -> Mapping[str, Any]:
    """The innermost state dict; the limit is for dictionaries that contain themselves."""
    for _ in range(_MAX_WRAPPERS):
        if not isinstance(tree, Mapping):
            break
        inner = next((tree[key] for key in _WRAPPERS if isinstance(tree.get(key), Mapping)), None)
        if inner is None:
            break
        tree = inner
    if not isinstance(tree, Mapping) or not tree or not all(isinstance(key, str) for key in tree):
        raise WeightsError(
            f"got a {type(tree).__name__} without named arrays, expected a state dict; save "
            "model.state_dict()."
        )
    return tree


def _as_array(name: str, value: Any) -> np.ndarray:
    if not hasattr(value, "__array__") and not hasattr(value, "numpy"):
        raise WeightsError(
            f"entry {name[:80]!r} is of type {type(value).__name__}, expected an array; give the "
            "state dict alone, without optimiser or settings."
        )
    try:
        array = _convert(value)
    except WeightsError as error:
        raise WeightsError(f"entry {name[:80]!r}: {error}") from error
    # Whatever the foreign library that made the value raises.
    except Exception as error:
        raise WeightsError(
            f"entry {name[:80]!r} of type {type(value).__name__} cannot become a NumPy array "
            f"({type(error).__name__}); convert it first."
        ) from error
    _check_dtype(name, array.dtype)
    return array


def _convert(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        # A torch tensor: its gradient, its device and bfloat16 each keep NumPy from taking it.
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    return np.asarray(value if hasattr(value, "__array__") else value.numpy())


def _check_dtype(name: str, dtype: np.dtype) -> None:
    # Checked before any buffer is interpreted: an object array is pointers, or pickled code.
    if dtype.kind not in "biuf" and dtype != ml_dtypes.bfloat16:
        raise WeightsError(
            f"entry {name[:80]!r} holds values of type {dtype}, expected real numbers; save plain "
            "float32 arrays."
        )
