"""Arrays in files, which take memory only while they are used."""

import errno
import mmap
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32, Shaped

from ast_jax.errors import UserError

_BLOCK = 1 << 20  # bytes of one write


def scratch(directory: Path, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """An array of zeros to write to, in a file without a name.

    The file disappears with the array or with the process, even if that is killed.

    Raises:
      UserError: the disk has no room for it.
    """
    size = 4 * int(np.prod(shape))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            _reserve(file, size)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise UserError(
            f"{directory}: no room for {size / 1e9:.2f} GB of the teacher's outputs "
            f"({error.strerror}); free some, or choose another --workdir."
        ) from error


def _reserve(file: BinaryIO, size: int) -> None:
    """Reserves the disk's blocks now, where a full disk is an error.

    A write through a mapping to a full disk would be a fatal signal.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
    # macOS has no such call, and some network file systems refuse it.
    zeros = bytes(min(size, _BLOCK))
    for first in range(0, size, _BLOCK):
        file.write(zeros[: size - first])
    file.flush()


def release(array: Shaped[np.ndarray, "..."]) -> None:
    """Frees a mapped array's pages in this process; ignores other arrays.

    The content stays in the file, and in the system's cache while there is room.
    """
    pages = getattr(array, "_mmap", None)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        pages.madvise(mmap.MADV_DONTNEED)
