"""Writes `.pth` files as PyTorch does, without PyTorch, in both of its formats.

`dumped` also writes instructions that PyTorch does not, for files to be refused.
"""

import functools
import io
import struct
import zipfile
from typing import NamedTuple

import numpy as np

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
SYSTEM = {"protocol_version": 1001, "little_endian": True}


class Name(NamedTuple):
    """A global, "module name"."""

    name: str


class Call(NamedTuple):
    """A function's name and its arguments."""

    name: str
    arguments: tuple


class Persistent(NamedTuple):
    """A reference to data outside the pickle."""

    identity: tuple


class Raw(NamedTuple):
    """Instructions as they are."""

    instructions: bytes


def dumped(value, *, old: bool = False) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + code(value, old=old) + b"."


def code(value, *, old: bool = False) -> bytes:
    """The instructions of a value; the `old` format has one more field of a storage."""
    inner = functools.partial(code, old=old)
    match value:
        case Raw(instructions):
            return instructions
        case Name(name):
            return b"c" + name.replace(" ", "\n").encode() + b"\n"
        case Call(name, arguments):
            return inner(Name(name)) + inner(arguments) + b"R"
        case Persistent(identity):
            return inner(identity + (None,) * old) + b"Q"
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int() if 0 <= value < 256:
            return b"K" + bytes([value])
        case int() if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        case int():
            return b"\x8a\x08" + struct.pack("<q", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(inner, value)) + b"t"
        case list():
            return b"](" + b"".join(map(inner, value)) + b"e"
        case dict():
            items = (item for pair in value.items() for item in pair)
            return b"}(" + b"".join(map(inner, items)) + b"u"
    raise TypeError(value)


def tensor(key: str, array: np.ndarray, **changes) -> Call:
    """The instructions for a tensor; `changes` replace storage, count, offset, …"""
    strides = tuple(s // array.itemsize for s in array.strides)
    told = {
        "storage": f"torch {STORAGES[array.dtype.name]}",
        "count": array.size,
        "offset": 0,
        "shape": array.shape,
        "strides": strides,
    } | changes
    identity = ("storage", Name(told["storage"]), key, "cpu", told["count"])
    rest = (told["offset"], told["shape"], told["strides"], False)
    hooks = Call("collections OrderedDict", ())
    return Call("torch._utils _rebuild_tensor_v2", (Persistent(identity), *rest, hooks))


def pickled(arrays: dict[str, np.ndarray]) -> dict[str, Call]:
    """The tensors of a state dict, each with its own storage."""
    return {
        name: tensor(str(number), array)
        for number, (name, array) in enumerate(arrays.items())
    }


def older(value, storages: dict[str, np.ndarray]) -> bytes:
    """The format before PyTorch 1.6: a row of pickles, then the storages."""
    pickles = (dumped(SYSTEM), dumped(value, old=True), dumped(list(storages)))
    numbers = (struct.pack("<q", a.size) + a.tobytes() for a in storages.values())
    return START + b"".join((*pickles, *numbers))


def archive(value, storages: dict[str, np.ndarray], **extra: bytes) -> bytes:
    """The format since PyTorch 1.6; `extra` adds files or replaces them."""
    files = {"data.pkl": dumped(value), "byteorder": b"little", "version": b"3\n"}
    files |= {f"data/{key}": a.tobytes() for key, a in storages.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in (files | extra).items():
            file.writestr(f"weights/{name}", content)
    return buffer.getvalue()


def state_dict_file(arrays: dict[str, np.ndarray], write=archive) -> bytes:
    """A state dict as `torch.save` writes it."""
    storages = {str(number): array for number, array in enumerate(arrays.values())}
    return write(pickled(arrays), storages)
