"""Arrays that lie in files, so that what is not in use takes no memory."""

import errno
import mmap
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32, Shaped

from ast_jax.errors import UserError

_BLOCK = 1 << 20  # bytes written at once


def scratch(directory: Path, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """An array of zeros to write to, in a file without a name: it goes with the array,
    or with the process, however that ends.

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
    """Takes the disk's blocks now, while a full disk is an error: written through a
    mapping, it is a fatal signal.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    # macOS has no such call, and some network file systems refuse it.
    zeros = bytes(min(size, _BLOCK))
    for first in range(0, size, _BLOCK):
        file.write(zeros[: size - first])
    file.flush()


def release(array: Shaped[np.ndarray, "..."]) -> None:
    """Takes a mapped array's pages out of this process; other arrays stay as they are.

    The content stays in the file, and in the system's cache while there is room.
    """
    pages = getattr(array, "_mmap", None)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        pages.madvise(mmap.MADV_DONTNEED)
