"""The tensors of a PyTorch `.pth` file as arrays, without PyTorch and without pickle.

A `.pth` file holds pickles, and whoever opens a pickle in the usual way runs what it
says. Here a small interpreter runs the instructions that a dictionary of tensors
consists of, and it has no others: it calls no function and imports no name. Both
formats are read: the zip archive of today, and the row of pickles before PyTorch 1.6.
"""

import io
import math
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ast_jax.errors import UserError

StateDict = dict[str, np.ndarray]

# The older format begins with two pickles that hold a number each.
_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
_MOST_INSTRUCTIONS = 200_000  # of one pickle; EfficientNet-Lite2 has 14,000

_TYPES = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch BFloat16Storage": "bfloat16",  # NumPy has none: it becomes float32
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "<i1",
    "torch ByteStorage": "<u1",
    "torch BoolStorage": "|b1",
}
_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|hpu)(:\d+)?")
_NAMES = {*_TYPES, _DICT, _TENSOR, _PARAMETER}


class _Name(NamedTuple):
    """A global that a pickle names; it stays a name."""

    name: str


class _Storage(NamedTuple):
    """A flat array of the file, not yet read."""

    key: str
    type: str
    count: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * (2 if self.type == "bfloat16" else _itemsize(self.type))


class _Tensor(NamedTuple):
    """A dense view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: Path) -> StateDict:
    """Returns the tensors of a `.pth` file by name; bfloat16 becomes float32.

    Raises:
      UserError: the file is damaged, or holds anything but a dictionary of tensors.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_START))
            if start.startswith(b"PK"):
                return _read_zip(file)
            if start != _START:
                raise ValueError("neither a zip archive nor PyTorch's older format")
            return _read_row(io.BytesIO(file.read()))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (LookupError, struct.error, zipfile.BadZipFile, EOFError) as error:
        raise _not_a_state_dict(path, f"damaged: {error}") from error
    # RuntimeError is zipfile's, where an archive is encrypted or needs a later version.
    except (ValueError, TypeError, RuntimeError) as error:
        raise _not_a_state_dict(path, str(error)) from error


def _not_a_state_dict(path: Path, reason: str) -> UserError:
    line = " ".join(reason.split())[:400]
    return UserError(f"{path}: not a state dict of PyTorch tensors ({line})")


def _read_zip(file: io.BufferedReader) -> StateDict:
    """Today's format: `NAME/data.pkl`, and a file of bytes for each storage."""
    length = file.seek(0, io.SEEK_END)
    archive = zipfile.ZipFile(file)
    entries = {entry.filename: entry for entry in archive.infolist()}
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise ValueError("the archive is compressed, which PyTorch's never is")
    if sum(entry.file_size for entry in archive.infolist()) > length:
        raise ValueError("the archive claims more bytes than the file has")
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{len(pickles)} files data.pkl in the archive instead of one")
    folder = pickles[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in entries and archive.read(order) != b"little":
        raise ValueError("its numbers are big-endian")
    tensors = _tensors(_run(io.BytesIO(archive.read(pickles[0]))))
    storages = _storages(tensors)
    arrays = {}
    for key, storage in storages.items():
        name = f"{folder}data/{key}"
        if name not in entries or entries[name].file_size != storage.size:
            raise ValueError(f"no file of {storage.size} bytes data/{key!r}")
        arrays[key] = _array(storage, archive.read(name))
    return {name: _view(arrays, tensor) for name, tensor in tensors.items()}


def _read_row(content: io.BytesIO) -> StateDict:
    """The older format after its start.

    A pickle on the machine that wrote it, one of the tensors, one of the storages'
    keys, then each storage: the count of its numbers, and their bytes.
    """
    system = _run(content)
    if not isinstance(system, Mapping) or system.get("little_endian") is not True:
        raise ValueError("its numbers are not little-endian")
    tensors = _tensors(_run(content))
    storages = _storages(tensors)
    keys = _run(content)
    listed = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not listed or sorted(keys) != sorted(storages):
        raise ValueError("the list of storages is not that of the tensors")
    size = sum(8 + storage.size for storage in storages.values())
    there = len(content.getbuffer()) - content.tell()
    if there != size:
        raise ValueError(f"{there} bytes of numbers instead of {size}")
    arrays = {}
    for key in keys:
        storage = storages[key]
        (count,) = struct.unpack("<q", content.read(8))
        if count != storage.count:
            raise ValueError(f"a storage has {count} numbers, not {storage.count}")
        arrays[key] = _array(storage, content.read(storage.size))
    return {name: _view(arrays, tensor) for name, tensor in tensors.items()}


def _tensors(value: object) -> dict[str, _Tensor]:
    if not isinstance(value, dict):
        raise ValueError("no dictionary of tensors")
    for name, tensor in value.items():
        if not isinstance(tensor, _Tensor):
            raise ValueError(f"no dictionary of tensors: {name!r} is none")
    return value


def _storages(tensors: Mapping[str, _Tensor]) -> dict[str, _Storage]:
    """The storages by key; tensors may share one, but not disagree about it."""
    storages: dict[str, _Storage] = {}
    for name, (storage, *_) in tensors.items():
        if storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"{name!r} disagrees about storage {storage.key!r}")
    return storages


def _array(storage: _Storage, content: bytes) -> np.ndarray:
    if storage.type != "bfloat16":
        return np.frombuffer(content, storage.type)
    # The upper half of a float32.
    return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")


def _view(arrays: Mapping[str, np.ndarray], tensor: _Tensor) -> np.ndarray:
    array = arrays[tensor.storage.key][tensor.offset :]
    strides = [stride * array.itemsize for stride in tensor.strides]
    return np.ndarray(tensor.shape, array.dtype, array, strides=strides)


def _itemsize(type_name: str) -> int:
    return np.dtype(type_name).itemsize


def _run(pickle: io.BytesIO) -> object:
    """The value of the next pickle; every instruction is known before the first runs.

    Raises:
      ValueError, LookupError, TypeError: it is damaged or has other instructions.
    """
    program: list[tuple[str, Any]] = []
    for instruction, argument, _ in pickletools.genops(pickle):
        if instruction.name not in _INSTRUCTIONS:
            raise ValueError(f"instruction {instruction.name}, which no tensor needs")
        if instruction.name == "GLOBAL" and argument not in _NAMES:
            raise ValueError(
                f"it asks for {argument!r}: a whole pickled module, which could run"
                " any code when opened; if you trust it, torch.save(torch.load(FILE,"
                " weights_only=False).state_dict(), NEW) makes a state dict"
            )
        program.append((instruction.name, argument))
        if len(program) > _MOST_INSTRUCTIONS:
            raise ValueError(f"more than {_MOST_INSTRUCTIONS} instructions")
    machine = _Machine()
    for name, argument in program:
        _INSTRUCTIONS[name](machine, argument)
    return machine.result()


class _Machine:
    """A pickle's stack, its memo, and the effect of each instruction on them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def result(self) -> object:
        if self.outer or len(self.stack) != 1:
            raise ValueError("the pickle does not end with one value")
        return self.stack[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.outer.pop()
        return values

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def pack(self, count: int) -> None:
        values = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError("items are added to what is no list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise TypeError("entries are added to what is no dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str) or key in target:
                raise ValueError("a name that is no text, or stands twice")
            target[key] = value

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def build(self, _: Any) -> None:
        """An OrderedDict's attributes (the versions of modules), which go."""
        attributes = self.stack.pop()
        if not isinstance(self.stack[-1], dict) or not isinstance(attributes, dict):
            raise TypeError("attributes of what is no dictionary")

    def persistent(self, _: Any) -> None:
        """A storage."""
        what, kind, key, place, count, *rest = self.stack.pop()
        known = isinstance(kind, _Name) and kind.name in _TYPES
        if what != "storage" or not known or rest not in ([], [None]):
            raise ValueError("a storage of an unknown kind")
        if not isinstance(key, str) or not _DEVICE.fullmatch(place):
            raise ValueError("a storage without name or device")
        self.stack.append(_Storage(key, _TYPES[kind.name], _whole(count)))

    def call(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of what is no function")
        self.stack.append(_CALLS[name.name](*arguments))


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise ValueError("a size that is no number of elements")
    return value


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
    """A tensor, whose numbers lie in its storage one beside the other in some order."""
    if not isinstance(storage, _Storage) or len(rest) != 2 or type(rest[0]) is not bool:
        raise TypeError("a tensor without storage")
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise TypeError("a tensor without shape")
    shape, strides = tuple(map(_whole, shape)), tuple(map(_whole, strides))
    if len(shape) > 8 or _whole(offset) + math.prod(shape) > storage.count:
        raise ValueError("a tensor larger than its storage")
    dense = 1
    for stride, side in sorted(zip(strides, shape, strict=True)):
        if side > 1 and math.prod(shape) and stride != dense:
            raise ValueError("a tensor that is a view with gaps")
        dense *= side if side > 1 else 1
    return _Tensor(storage, offset, shape, strides)


def _parameter(tensor: Any, *rest: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor) or len(rest) != 2:
        raise TypeError("a parameter without tensor")
    return tensor


_CALLS: dict[str, Callable[..., Any]] = {
    _DICT: lambda: {},
    _TENSOR: _tensor,
    _PARAMETER: _parameter,
}

_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, version: None,
    "STOP": lambda machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
        _Machine.push,
    ),
    "GLOBAL": lambda machine, name: machine.push(_Name(name)),
    "MARK": _Machine.mark,
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.pack(1),
    "TUPLE2": lambda machine, _: machine.pack(2),
    "TUPLE3": lambda machine, _: machine.pack(3),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_mark()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "BINPERSID": _Machine.persistent,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
