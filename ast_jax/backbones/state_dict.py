"""The tensors of a PyTorch `.pth` file as arrays, without PyTorch and without pickle.

Reads both formats: today's zip archive, and the row of pickles before PyTorch 1.6. The
interpreter of `tensor_pickle` reads the pickles and cannot run any code.
"""

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ast_jax.backbones.tensor_pickle import Storage, Tensor, run_pickle
from ast_jax.errors import UserError

StateDict = dict[str, np.ndarray]

# The older format starts with two pickles of one number each.
_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."


def read_state_dict(path: Path) -> StateDict:
    """Returns the tensors of a `.pth` file by name; bfloat16 becomes float32.

    Raises:
      UserError: the file is damaged, or not a dictionary of tensors.
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
        raise _state_dict_error(path, f"damaged: {error}") from error
    # zipfile raises a RuntimeError if an archive is encrypted or of a later version.
    except (ValueError, TypeError, RuntimeError) as error:
        raise _state_dict_error(path, str(error)) from error


def _state_dict_error(path: Path, reason: str) -> UserError:
    line = " ".join(reason.split())[:400]
    return UserError(f"{path}: not a state dict of PyTorch tensors ({line})")


def _read_zip(file: io.BufferedReader) -> StateDict:
    """Reads today's format: `NAME/data.pkl`, and a file of bytes for each storage."""
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
    tensors = _tensors(run_pickle(io.BytesIO(archive.read(pickles[0]))))
    storages = _storages(tensors)
    arrays = {}
    for key, storage in storages.items():
        name = f"{folder}data/{key}"
        if name not in entries or entries[name].file_size != storage.size:
            raise ValueError(f"no file of {storage.size} bytes data/{key!r}")
        arrays[key] = _array(storage, archive.read(name))
    return {name: _view(arrays, tensor) for name, tensor in tensors.items()}


def _read_row(content: io.BytesIO) -> StateDict:
    """Reads the older format after its start.

    It has a pickle about the writing machine, one of the tensors, one of the storages'
    keys, then each storage: the count of its numbers, and their bytes.
    """
    system = run_pickle(content)
    if not isinstance(system, Mapping) or system.get("little_endian") is not True:
        raise ValueError("its numbers are not little-endian")
    tensors = _tensors(run_pickle(content))
    storages = _storages(tensors)
    keys = run_pickle(content)
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


def _tensors(value: object) -> dict[str, Tensor]:
    if not isinstance(value, dict):
        raise ValueError("not a dictionary of tensors")
    for name, tensor in value.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"not a dictionary of tensors: {name!r} is another object")
    return value


def _storages(tensors: Mapping[str, Tensor]) -> dict[str, Storage]:
    """The storages by key; tensors that share one must agree about it."""
    storages: dict[str, Storage] = {}
    for name, (storage, *_) in tensors.items():
        if storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"{name!r} disagrees about storage {storage.key!r}")
    return storages


def _array(storage: Storage, content: bytes) -> np.ndarray:
    if storage.type != "bfloat16":
        return np.frombuffer(content, storage.type)
    # The upper half of a float32.
    return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")


def _view(arrays: Mapping[str, np.ndarray], tensor: Tensor) -> np.ndarray:
    array = arrays[tensor.storage.key][tensor.offset :]
    strides = [stride * array.itemsize for stride in tensor.strides]
    return np.ndarray(tensor.shape, array.dtype, array, strides=strides)
