"""Weight files: what is read, what is refused, and that refusing costs nothing."""

import io
import math
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict, defaultdict
from typing import NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as save_safetensors

from shapjax.backbones.readers import read_weights
from shapjax.core.errors import WeightsError

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "conv.bias": np.array([-1.5, 2.5], np.float32),
}
TORCH_TYPES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


# torch's two file formats, written instruction by instruction so that no torch is needed.


class Name(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: Name
    arguments: tuple


class Persistent(NamedTuple):
    identifier: tuple


def emit(value) -> bytes:
    """The pickle instructions that push a value."""
    match value:
        case Name():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            return emit(value.function) + emit(value.arguments) + b"R"
        case Persistent():
            return emit(value.identifier) + b"Q"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            digits = pickle.encode_long(value)
            return b"\x8a" + bytes([len(digits)]) + digits
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(emit, value)) + b"t"
        case list():
            return b"](" + b"".join(map(emit, value)) + b"e"
        case OrderedDict():
            return emit(Call(Name("collections", "OrderedDict"), ())) + emit_items(value)
        case dict():
            return b"}" + emit_items(value)
    raise TypeError(type(value))


def emit_items(items) -> bytes:
    return b"(" + b"".join(emit(part) for item in items.items() for part in item) + b"u"


def pickled(value) -> bytes:
    return b"\x80\x02" + emit(value) + b"."


def storage(key, numel, dtype="float32", legacy=False):
    kind = Name("torch", TORCH_TYPES[dtype])
    return Persistent(("storage", kind, key, "cpu", numel, *([None] if legacy else [])))


def tensor(key, array, legacy=False, **changes):
    """A tensor that has a storage of its own, with some of torch's arguments changed."""
    layout = {
        "storage": storage(key, array.size, array.dtype.name, legacy),
        "offset": 0,
        "size": array.shape,
        "stride": tuple(step // array.itemsize for step in array.strides),
    } | changes
    arguments = (*layout.values(), False, OrderedDict())
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)


def state_dict(arrays, legacy=False):
    return OrderedDict(
        (name, tensor(str(key), array, legacy)) for key, (name, array) in enumerate(arrays.items())
    )


def blobs(arrays):
    return {str(key): array.tobytes() for key, array in enumerate(arrays.values())}


def zip_bytes(entries, **settings) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **settings) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def zip_format(tree, data=None, **extra) -> bytes:
    entries = {"archive/data.pkl": pickled(tree), "archive/byteorder": b"little"}
    entries |= {f"archive/data/{key}": value for key, value in (data or {}).items()}
    return zip_bytes(entries | {"archive/version": b"3\n"} | extra)


def legacy_format(tree, data=(), itemsizes=(), system=None) -> bytes:
    system = system or {"protocol_version": 1001, "little_endian": True}
    parts = [pickled(0x1950A86A20F9469CFC6C), pickled(1001), pickled(system), pickled(tree)]
    parts.append(pickled(list(data)))
    for (_, blob), itemsize in zip(dict(data).items(), itemsizes, strict=True):
        parts += [struct.pack("<q", len(blob) // itemsize), blob]
    return b"".join(parts)


def torch_bytes(arrays, form) -> bytes:
    if form == "zip":
        return zip_format(state_dict(arrays), blobs(arrays))
    itemsizes = [array.itemsize for array in arrays.values()]
    return legacy_format(state_dict(arrays, legacy=True), blobs(arrays), itemsizes)


def npz_bytes(arrays, save=np.savez) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def valid_files():
    return {
        "a.npz": npz_bytes(ARRAYS),
        "b.npz": npz_bytes(ARRAYS, np.savez_compressed),
        "c.safetensors": save_safetensors(ARRAYS),
        "d.pth": torch_bytes(ARRAYS, "zip"),
        "e.pt": torch_bytes(ARRAYS, "legacy"),
    }


def write(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    return path


def assert_same(result, expected):
    assert set(result) == set(expected)
    for name, array in expected.items():
        assert result[name].dtype == array.dtype
        np.testing.assert_array_equal(result[name], array)


@pytest.mark.parametrize("name", valid_files())
def test_every_format_gives_the_arrays(tmp_path, name):
    path = write(tmp_path, name, valid_files()[name])
    assert_same(read_weights(path), ARRAYS)
    assert_same(read_weights(str(path)), ARRAYS)


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("dtype", TORCH_TYPES)
def test_every_torch_type(tmp_path, form, dtype):
    width = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    arrays = {"x": np.array([[0, 1, 1], [1, 0, 1]]).astype(width)}
    assert_same(read_weights(write(tmp_path, "x.pth", torch_bytes(arrays, form))), arrays)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, np.bool_])
def test_other_types_of_npz_and_safetensors(tmp_path, dtype):
    arrays = {"x": np.array([[0, 1], [1, 1]]).astype(dtype), "empty": np.empty((0, 3), dtype)}
    assert_same(read_weights(write(tmp_path, "x.npz", npz_bytes(arrays))), arrays)
    assert_same(read_weights(write(tmp_path, "x.safetensors", save_safetensors(arrays))), arrays)


def test_npz_in_fortran_order_and_big_endian(tmp_path):
    array = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    result = read_weights(write(tmp_path, "x.npz", npz_bytes({"x": array})))["x"]
    np.testing.assert_array_equal(result, array)


def test_strided_windows_on_a_shared_storage(tmp_path):
    flat = np.arange(12, dtype=np.float32)
    tree = {
        "transposed": tensor("0", flat, size=(4, 3), stride=(1, 4)),
        "window": tensor("0", flat, offset=5, size=(2, 2), stride=(4, 1)),
        "unused stride": tensor("0", flat, size=(1, 3), stride=(10**15, 1)),
        "scalar": tensor("0", flat, offset=11, size=(), stride=()),
        "empty": tensor("0", flat, size=(0, 7), stride=(7, 1)),
    }
    result = read_weights(write(tmp_path, "x.pth", zip_format(tree, {"0": flat.tobytes()})))
    expected = {
        "transposed": flat.reshape(3, 4).T,
        "window": np.array([[5, 6], [9, 10]], np.float32),
        "unused stride": flat[None, :3],
        "scalar": flat[11],
        "empty": np.empty((0, 7), np.float32),
    }
    assert_same(result, expected)


def test_parameters_and_the_versions_of_a_state_dict(tmp_path):
    value = ARRAYS["conv.bias"]
    parameter = Call(
        Name("torch._utils", "_rebuild_parameter"), (tensor("0", value), True, OrderedDict())
    )
    # torch hangs "_metadata" on its state dicts: the BUILD instruction (b) with that state.
    versions = emit({"_metadata": OrderedDict(version=1)}) + b"b"
    tree = b"\x80\x02" + emit(OrderedDict(bias=parameter)) + versions + b"."
    data = zip_bytes({"m/data.pkl": tree, "m/data/0": value.tobytes()})
    assert_same(read_weights(write(tmp_path, "x.pth", data)), {"bias": value})


def test_settings_beside_a_state_dict_are_left_out(tmp_path):
    value = ARRAYS["conv.bias"]
    settings = emit(Name("argparse", "Namespace")) + b")\x81" + emit({"lr": "fast"}) + b"b"
    device = emit(Call(Name("torch", "device"), ("cuda", 0)))
    state = emit(OrderedDict(bias=tensor("0", value)))
    items = emit("state_dict") + state + emit("opt") + settings + emit("aux") + device
    tree = b"\x80\x02}(" + items + b"u."
    data = zip_bytes({"m/data.pkl": tree, "m/data/0": value.tobytes()})
    assert_same(read_weights(write(tmp_path, "x.pth.tar", data)), {"bias": value})
    alone = zip_bytes({"m/data.pkl": b"\x80\x02}(" + emit("opt") + settings + b"u."})
    with pytest.raises(WeightsError, match="'opt' is of type NoneType"):
        read_weights(write(tmp_path, "y.pth", alone))


SCALAR = Call(
    Name("numpy._core.multiarray", "scalar"),
    (
        Call(Name("numpy", "dtype"), ("f4", False, True)),
        Call(Name("_codecs", "encode"), ("\0\0\x80?", "latin1")),
    ),
)
SIDE_ENTRIES = {
    "NumPy scalar": SCALAR,
    "older NumPy's": Call(Name("numpy.core.multiarray", "scalar"), SCALAR.arguments),
    "defaultdict": Call(Name("collections", "defaultdict"), (Name("__builtin__", "list"),)),
    "torch.dtype": Name("torch", "bfloat16"),
}


@pytest.mark.parametrize("entry", SIDE_ENTRIES.values(), ids=SIDE_ENTRIES)
def test_side_entries_of_checkpoints_are_skipped(tmp_path, entry):
    tree = {"best": {"of all": entry}, "model_state_dict": state_dict(ARRAYS), "last": entry}
    assert_same(read_weights(write(tmp_path, "x.pth", zip_format(tree, blobs(ARRAYS)))), ARRAYS)
    # They stand for nothing, so they are no weights either.
    alone = zip_format({**state_dict(ARRAYS), "best": entry}, blobs(ARRAYS))
    with pytest.raises(WeightsError, match=r"'best' is of type (NoneType|dict)"):
        read_weights(write(tmp_path, "y.pth", alone))


@pytest.mark.peers
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_side_entries_that_torch_itself_saves(tmp_path, form):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path / "x.pth"
    tree = {
        "teacher": {"w": torch.ones(2)},
        "loss": np.float64(0.5),
        "steps": defaultdict(list, {"a": [1, 2]}),
        "precision": torch.float16,
    }
    torch.save(tree, path, _use_new_zipfile_serialization=form == "zip")
    assert_same(read_weights(path), {"w": np.ones(2, np.float32)})


def test_protocol_4_and_python_2_dictionaries(tmp_path):
    def short(text):
        return b"\x8c" + bytes([len(text)]) + text.encode()

    items = b"](]" + b"(" + short("x") + emit(tensor("0", ARRAYS["conv.bias"])) + b"ee"
    ordered = short("collections") + short("OrderedDict") + b"\x93"
    data = zip_bytes(
        {
            "m/data.pkl": b"\x80\x04" + ordered + items + b"\x85R\x94.",
            "m/data/0": ARRAYS["conv.bias"].tobytes(),
        }
    )
    assert_same(read_weights(write(tmp_path, "x.pth", data)), {"x": ARRAYS["conv.bias"]})


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "teacher"])
def test_checkpoints_are_unwrapped(tmp_path, wrapper):
    prefixed = {f"module.{name}": array for name, array in ARRAYS.items()}
    tree = {"epoch": 3, wrapper: state_dict(prefixed)}
    assert_same(read_weights(write(tmp_path, "x.pth", zip_format(tree, blobs(prefixed)))), ARRAYS)
    assert_same(read_weights({wrapper: {"state_dict": prefixed}, "epoch": 3}), ARRAYS)
    one_more = {**prefixed, "x": ARRAYS["conv.bias"]}
    assert_same(read_weights(one_more), one_more)


def test_arrays_in_memory():
    class Tensor:
        def __init__(self, array):
            self.array = array

        def numpy(self):
            return self.array

    given = {"a": jnp.ones(2, jnp.bfloat16), "b": Tensor(np.ones(3)), "c": np.float32(1)}
    result = read_weights(given)
    assert {name: array.shape for name, array in result.items()} == {"a": (2,), "b": (3,), "c": ()}
    assert result["a"].dtype == ml_dtypes.bfloat16


@pytest.mark.peers
def test_torch_tensors_in_memory():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    result = read_weights({"a": parameter, "b": parameter.to(torch.bfloat16)})
    assert_same(result, {"a": np.ones((2, 3), np.float32), "b": np.ones((2, 3), np.float32)})
    with pytest.raises(WeightsError, match="cannot become a NumPy array"):
        read_weights({"a": torch.empty(2, device="meta")})


@pytest.mark.peers
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_what_torch_itself_saves(tmp_path, form):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "view": base[1:, ::2].T,
        "base": base,
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "bfloat16": torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
        "flag": torch.tensor(True),
    }
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    tensors |= network.state_dict()
    path = tmp_path / "x.pth"
    torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=form == "zip")
    expected = {
        name: value.detach().float().numpy().astype(ml_dtypes.bfloat16)
        if value.dtype == torch.bfloat16
        else value.detach().numpy()
        for name, value in tensors.items()
    }
    assert_same(read_weights(path), expected)


# Everything below must be refused.


class Evil:
    def __reduce__(self):
        return os.system, ("touch HACKED",)


def npy(header, body=b"") -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def npy_header(shape, descr="'<f4'"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def one_tensor(**changes):
    array = ARRAYS["conv.bias"]
    return zip_format({"x": tensor("0", array, **changes)}, {"0": array.tobytes()})


def patched_size(data, name, size):
    """The zip archive with the uncompressed size of an entry overwritten in both its headers."""
    start, central = data.index(name), data.rindex(name)
    patched = bytearray(data)
    patched[start - 8 : start - 4] = struct.pack("<I", size)
    patched[central - 22 : central - 18] = struct.pack("<I", size)
    return bytes(patched)


MIB = 1024**2
BOMB = zip_bytes({"x.npy": bytes(500 * MIB)}, compression=zipfile.ZIP_DEFLATED)
PICKLED_NPZ = npz_bytes({"x": np.array([Evil(), None], object)})
EVAL = Call(Name("builtins", "eval"), ("print('HACKED')",))

HOSTILE = {
    "empty npz": (".npz", b"", "0 bytes"),
    "empty pth": (".pth", b"", "0 bytes"),
    "text as npz": (".npz", b"hello", "damaged or no .npz file"),
    "text as pth": (".pth", b"hello", "no well-formed pickle"),
    "text as safetensors": (".safetensors", b"hello, this is text", "damaged"),
    "page as pth": (".pth", b"<!DOCTYPE html><html>404</html>", "no well-formed pickle"),
    "unknown suffix": (".h5", b"x", "ends in '.h5', expected one of .npz"),
    "truncated npz": (".npz", npz_bytes(ARRAYS)[:-30], "damaged"),
    "truncated safetensors": (".safetensors", save_safetensors(ARRAYS)[:-5], "damaged"),
    "truncated zip": (".pth", torch_bytes(ARRAYS, "zip")[:-30], "damaged"),
    "truncated legacy": (".pth", torch_bytes(ARRAYS, "legacy")[:-5], "more than the file holds"),
    "empty archive": (".npz", zip_bytes({}), "without named arrays"),
    "zip without pickle": (".pth", zip_bytes({"a": b"b"}), "0 entries named data.pkl"),
    "object array": (".npz", PICKLED_NPZ, "type object"),
    "text array": (".npz", npz_bytes({"x": np.array(["a"])}), "real numbers"),
    "complex array": (".npz", npz_bytes({"x": np.ones(2, complex)}), "type complex128"),
    "pickle in npz": (".npz", zip_bytes({"x.npy": pickle.dumps(Evil())}), "damaged"),
    "shape to be computed": (".npz", zip_bytes({"x.npy": npy(npy_header("(10**9,)"))}), "damaged"),
    "too large a shape": (
        ".npz",
        zip_bytes({"x.npy": npy(npy_header("(1000000000000, 3)"), bytes(8))}),
        "do not hold",
    ),
    "negative shape": (
        ".npz",
        zip_bytes({"x.npy": npy(npy_header("(-1, -2)"), bytes(8))}),
        "do not hold",
    ),
    "npy version 3": (".npz", zip_bytes({"x.npy": b"\x93NUMPY\x03\x00" + bytes(9)}), "version"),
    "zip bomb": (".npz", BOMB, f"unfolds to {500 * MIB} bytes"),
    "zip bomb as pth": (".pth", BOMB, "unfolds to"),
    "zip bomb that lies": (".npz", patched_size(BOMB, b"x.npy", 1000), "damaged|bytes"),
    "size beyond the data": (
        ".npz",
        patched_size(npz_bytes({"x": ARRAYS["conv.bias"]}), b"x.npy", 10**6),
        "damaged|bytes",
    ),
    "unusual compression": (
        ".npz",
        zip_bytes({"x.npy": bytes(99)}, compression=zipfile.ZIP_LZMA),
        "unusual method",
    ),
    "os.system": (".pth", zip_bytes({"m/data.pkl": pickle.dumps(Evil(), 2)}), "names 'posix.sys"),
    "os.system, protocol 5": (
        ".pth",
        zip_bytes({"m/data.pkl": pickle.dumps({"x": Evil()})}),
        "names 'posix.system'",
    ),
    "plain pickle": (".pt", pickle.dumps(Evil()), "names 'posix.system'"),
    "eval": (".pth", zip_format({"x": EVAL}), "names 'builtins.eval'"),
    "eval in legacy": (".pth", legacy_format({"x": EVAL}), "names 'builtins.eval'"),
    "whole model": (
        ".pth",
        zip_format(Call(Name("torchvision.models.squeezenet", "SqueezeNet"), ())),
        "names 'torchvision.models.squeezenet.SqueezeNet'.*state_dict",
    ),
    "torch.load by name": (".pth", zip_format(Call(Name("torch", "load"), ())), "'torch.load'"),
    "call of a type that is skipped": (
        ".pth",
        zip_format({"x": Call(Name("torch", "float32"), ()), "state_dict": {}}),
        "well-formed",
    ),
    "call of a builtin that is skipped": (
        ".pth",
        zip_format({"x": Call(Name("__builtin__", "list"), ("HACKED",)), "state_dict": {}}),
        "well-formed",
    ),
    "TorchScript": (
        ".pt",
        zip_bytes({"m/data.pkl": b"c__torch__\nM\n.", "m/constants.pkl": b"\x80\x02)."}),
        r"program of TorchScript.*torch\.jit\.load\(path\)\.state_dict\(\)",
    ),
    "call of a type": (".pth", zip_format(Call(Name("torch", "FloatStorage"), ())), "well-formed"),
    "memo of gigabytes": (
        ".pth",
        zip_bytes({"m/data.pkl": b"\x80\x02Nr\xff\xff\xff\x7f."}),
        "without named arrays",
    ),
    "bytearray of terabytes": (
        ".pth",
        zip_bytes({"m/data.pkl": b"\x80\x05\x96" + struct.pack("<Q", 1 << 42) + b"."}),
        "well-formed",
    ),
    "keys that hash for ever": (
        ".pth",
        zip_bytes({"m/data.pkl": b"\x80\x02}N" + b"q\x00h\x00\x86" * 60 + b"Ns."}),
        "well-formed",
    ),
    "contains itself": (
        ".pth",
        zip_bytes({"m/data.pkl": b"\x80\x02}q\x00" + emit("model") + b"h\x00s."}),
        "of type dict",
    ),
    "millions of instructions": (
        ".pth",
        zip_bytes({"m/data.pkl": b"\x80\x02" + b"N" * 1_100_000 + b"."}),
        "number 1000000",
    ),
    "negative size": (".pth", one_tensor(size=(-2,)), "outside its storage"),
    "negative offset": (".pth", one_tensor(offset=-1), "outside its storage"),
    "negative stride": (".pth", one_tensor(offset=1, stride=(-1,)), "outside its storage"),
    "huge size": (".pth", one_tensor(size=(1 << 50,)), "outside its storage"),
    "huge stride": (".pth", one_tensor(stride=(1 << 62,)), "outside its storage"),
    "huge offset": (".pth", one_tensor(offset=1 << 70), "outside its storage"),
    "repeated for ever": (".pth", one_tensor(size=(1 << 40,), stride=(0,)), "outside its storage"),
    "many axes": (".pth", one_tensor(size=(1,) * 100, stride=(1,) * 100), "outside its storage"),
    "fractional size": (".pth", one_tensor(size=("2",)), "outside its storage"),
    "storage longer than its bytes": (
        ".pth",
        one_tensor(storage=storage("0", 1 << 40), size=(1 << 40,)),
        "has 8 bytes, expected",
    ),
    "storage without bytes": (".pth", one_tensor(storage=storage("7", 2)), "has 0 bytes, expected"),
    "negative storage": (".pth", one_tensor(storage=storage("0", -1)), "storage is described"),
    "no storage": (".pth", one_tensor(storage=3), "well-formed"),
    "view in legacy": (
        ".pth",
        legacy_format(
            {
                "x": Persistent(
                    ("storage", Name("torch", "FloatStorage"), "0", "cpu", 2, ("1", 0, 2))
                )
            }
        ),
        "storage is described",
    ),
    "legacy storage beyond the file": (
        ".pth",
        legacy_format(state_dict(ARRAYS, True), blobs(ARRAYS), [4, 4])[: -(8 + 8)]
        + struct.pack("<q", 1 << 60),
        "more than the file holds",
    ),
    "negative legacy storage": (
        ".pth",
        legacy_format(state_dict(ARRAYS, True), blobs(ARRAYS), [4, 4])[: -(8 + 8)]
        + struct.pack("<q", -(1 << 60)),
        "more than the file holds",
    ),
    "wrong magic": (".pth", pickled(7) + pickled(1001) + pickled({}), "no file that torch.save"),
    "big-endian legacy": (".pth", legacy_format({}, system={"little_endian": False}), "endian"),
    "big-endian zip": (".pth", zip_format({}, **{"archive/byteorder": b"big"}), "big-endian"),
    "settings among tensors": (".pth", zip_format({"lr": "fast"}), "'lr' is of type str"),
    "list": (".pth", zip_format([1, 2]), "got a list"),
    "no names": (".pth", zip_format({1: 2}), "without named arrays"),
}


@pytest.mark.parametrize(("suffix", "data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused(tmp_path, monkeypatch, capfd, suffix, data, message):
    path = write(tmp_path, f"weights{suffix}", data)
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=message) as caught:
            read_weights(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * MIB
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert list(tmp_path.iterdir()) == [path]
    assert "HACKED" not in capfd.readouterr().out


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot open .*missing\.npz"):
        read_weights(tmp_path / "missing.npz")
    with pytest.raises(WeightsError, match="no regular file"):
        read_weights(tmp_path)
    with pytest.raises(WeightsError, match="no regular file"):
        read_weights("/dev/zero")
    with pytest.raises(WeightsError, match="cannot open"):
        read_weights("a\0b.npz")
    with pytest.raises(WeightsError, match="of type int, expected the path"):
        read_weights(3)


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "x.pth"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(WeightsError, match="expected 1 to"):
        read_weights(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "without named arrays"),
        ({"a": 3}, "'a' is of type int"),
        ({"a": None}, "'a' is of type NoneType"),
        ({"a": np.array([Evil()], object)}, "type object"),
        ({3: np.ones(2)}, "without named arrays"),
    ],
)
def test_dictionaries_that_are_no_state_dicts(entries, message):
    with pytest.raises(WeightsError, match=message):
        read_weights(entries)


FILES = tuple(valid_files().items())


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    file=st.sampled_from(FILES),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damaged_files_end_in_weights_error(tmp_path, file, changes, kept):
    name, content = file
    data = bytearray(content)
    for place, byte in changes:
        data[math.floor(place * len(data))] = byte
    path = write(tmp_path, name, bytes(data[: math.ceil(kept * len(data))]))
    try:
        result = read_weights(path)
    except WeightsError:
        return
    assert all(isinstance(array, np.ndarray) for array in result.values())
