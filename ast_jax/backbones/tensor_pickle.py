"""An interpreter for the pickles in a PyTorch `.pth` file that cannot run any code.

The usual way to open a pickle runs the code that it names. This interpreter knows only
the instructions that a dictionary of tensors needs. It calls no function and imports no
name: tensors become `Tensor`, a view of a `Storage` that is not read yet.
"""

import math
import pickletools
import re
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

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
    """A global that a pickle names; it is never imported."""

    name: str


class Storage(NamedTuple):
    """A flat array of the file, not yet read."""

    key: str
    type: str
    count: int

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.count * (2 if self.type == "bfloat16" else _itemsize(self.type))


class Tensor(NamedTuple):
    """A dense view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _itemsize(type_name: str) -> int:
    return np.dtype(type_name).itemsize


def run_pickle(pickle: BytesIO) -> object:
    """Returns the value of the next pickle; checks all instructions before the first.

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
    """A pickle's stack and memo; a method for each instruction."""

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
            raise TypeError("items are added to something else than a list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise TypeError("entries are added to something else than a dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str) or key in target:
                raise ValueError("a name that is not text, or a name twice")
            target[key] = value

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def build(self, _: Any) -> None:
        """Drops an OrderedDict's attributes, the versions of modules."""
        attributes = self.stack.pop()
        if not isinstance(self.stack[-1], dict) or not isinstance(attributes, dict):
            raise TypeError("attributes of something else than a dictionary")

    def persistent(self, _: Any) -> None:
        """Pushes a storage."""
        word, kind, key, place, count, *rest = self.stack.pop()
        known = isinstance(kind, _Name) and kind.name in _TYPES
        if word != "storage" or not known or rest not in ([], [None]):
            raise ValueError("a storage of an unknown kind")
        if not isinstance(key, str) or not _DEVICE.fullmatch(place):
            raise ValueError("a storage without name or device")
        self.stack.append(Storage(key, _TYPES[kind.name], _check_size(count)))

    def call(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of something else than a function")
        self.stack.append(_CALLS[name.name](*arguments))


def _check_size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise ValueError("a size that is not a number of elements")
    return value


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """A tensor without gaps; its numbers are in the storage in any order."""
    if not isinstance(storage, Storage) or len(rest) != 2 or type(rest[0]) is not bool:
        raise TypeError("a tensor without storage")
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise TypeError("a tensor without shape")
    shape, strides = tuple(map(_check_size, shape)), tuple(map(_check_size, strides))
    if len(shape) > 8 or _check_size(offset) + math.prod(shape) > storage.count:
        raise ValueError("a tensor larger than its storage")
    dense = 1
    for stride, side in sorted(zip(strides, shape, strict=True)):
        if side > 1 and math.prod(shape) and stride != dense:
            raise ValueError("a tensor that is a view with gaps")
        dense *= side if side > 1 else 1
    return Tensor(storage, offset, shape, strides)


def _parameter(tensor: Any, *rest: Any) -> Tensor:
    if not isinstance(tensor, Tensor) or len(rest) != 2:
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
