"""Arrays that lie in files, so that what is not in use takes no memory."""

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped

from ast_jax.errors import UserError


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
            # A full disk is an error here, and a fatal signal where pages are written.
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise UserError(
            f"{directory}: no room for {size / 1e9:.2f} GB of the teacher's outputs "
            f"({error.strerror}); free some, or choose another --workdir."
        ) from error


def release(array: Shaped[np.ndarray, "..."]) -> None:
    """Takes a mapped array's pages out of this process; other arrays stay as they are.

    The content stays in the file, and in the system's cache while there is room.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)
