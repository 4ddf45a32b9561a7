"""One array a part on disk: found by its content, and never trusted unchecked.

The folder of a kind of features holds a file for every part: what NumPy reads as
`.npy`, and behind it the SHA-256 of its names and content. A file grows under
another name, so that it is there and right, or is not there. A picture that is added
costs one file; splits, categories and runs share them.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import logging
from filelock import FileLock, Timeout
from jaxtyping import Shaped

from ast_jax.errors import UserError
from ast_jax.features.prefetch import WORKERS
from ast_jax.files import UNFINISHED, whole, write_errors

FORMAT_VERSION = 2  # to be raised when the same sources come to give other arrays
REMEDY = (
    "see to the disk's room and permissions, or choose another folder with"
    " dataset.data_dir"
)
_SECONDS_UNFINISHED = 24 * 3600.0  # after these nobody writes such a file any more
_FEW = 4  # files that are read faster without threads


@dataclasses.dataclass(frozen=True)
class Kind:
    """What one part's array is, and all that it depends on beside the part.

    Attributes:
      name: a word for people, the start of the folder's name.
      content: the part's content that it is computed from: "image" or "z".
      shape: of one part's array.
      dtype: NumPy's name of the element type.
      sources: fingerprints and settings; a change of any is another folder.
    """

    name: str
    content: str
    shape: tuple[int, ...]
    dtype: str
    sources: dict[str, str | int | float]

    @property
    def folder(self) -> str:
        """The folder's name: the kind's, and a digest of all of the above."""
        fields = {"format": FORMAT_VERSION, **dataclasses.asdict(self)}
        description = json.dumps(fields, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(description.encode()).hexdigest()[:32]}"

    @property
    def header(self) -> bytes:
        """The bytes of a file before the array's own."""
        fields = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(self.dtype)),
            "fortran_order": False,
            "shape": self.shape,
        }
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, fields)
        return buffer.getvalue()

    @property
    def nbytes(self) -> int:
        """Size of one part's array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Store:
    """The arrays of one kind; a part is named by the digest of its content."""

    def __init__(self, directory: Path, kind: Kind):
        """Names the kind's folder below `directory`; nothing is read or made yet."""
        self.kind, self.folder = kind, directory / kind.folder
        self._header = kind.header

    def path(self, part: str) -> Path:
        """Where a part's array lies."""
        return self.folder / f"{part}.npy"

    def write(self, part: str, array: Shaped[np.ndarray, "..."]) -> None:
        """Writes a part's array whole.

        Raises:
          UserError: the folder cannot be written to, or its disk is too small.
        """
        kind = self.kind
        if array.shape != kind.shape or array.dtype != np.dtype(kind.dtype):
            raise ValueError(
                f"{kind.name} features are {kind.dtype} {kind.shape}. Got"
                f" {array.dtype} {array.shape}."
            )
        path = self.path(part)
        content = self._header + np.ascontiguousarray(array).tobytes()
        with whole(path, REMEDY) as file:
            file.write(content)
            file.write(_digest(path, content))

    def read(self, part: str) -> Shaped[np.ndarray, "..."] | None:
        """A part's array, read-only; None if it is missing or not what was written."""
        kind, path, start = self.kind, self.path(part), len(self._header)
        try:
            content = path.read_bytes()
        except OSError:  # unreadable sectors, too
            return None
        end = start + kind.nbytes
        checked = memoryview(content)[:end]
        if content[end:] != _digest(path, checked):
            return None
        if checked[:start] != self._header:
            return None
        return np.frombuffer(checked[start:], kind.dtype).reshape(kind.shape)

    def missing(self, parts: Sequence[str]) -> list[int]:
        """The places in `parts` whose array is missing or damaged, each part's once.

        Every byte of the others is read and checked. Damage is told.
        """
        try:
            there = {path.name for path in self.folder.iterdir()}
        except OSError:
            there = set()
        first = {part: place for place, part in reversed([*enumerate(parts)])}
        found = [part for part in first if self.path(part).name in there]
        with ThreadPoolExecutor(WORKERS) as pool:
            intact = pool.map(lambda part: self.read(part) is not None, found)
            damaged = [
                part for part, fine in zip(found, intact, strict=True) if not fine
            ]
        for part in damaged:
            logging.warning("%s: damaged; computed again", self.path(part))
        lacking = first.keys() - (set(found) - set(damaged))
        return sorted(first[part] for part in lacking)

    def require_room(self, parts: int) -> None:
        """Better now than after hours: are there so many bytes free?

        Raises:
          UserError: there are not.
        """
        directory, needed = self.folder, parts * self.kind.nbytes
        with write_errors(directory, REMEDY):
            directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
        if needed > free:
            raise UserError(
                f"{directory}: {self.kind.name} features need {needed / 1e9:.2f} GB and"
                f" {free / 1e9:.2f} GB are free; {REMEDY}"
            )

    @contextlib.contextmanager
    def locked(self, parts: Sequence[str]) -> Iterator[None]:
        """Holds a lock on computing these parts; says so if it has to wait.

        Raises:
          UserError: the folder cannot be written to.
        """
        name = hashlib.sha256("".join(parts).encode()).hexdigest()[:32]
        lock = FileLock(self.folder / f".{name}.lock")
        with write_errors(self.folder, REMEDY):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                logging.info(
                    "%s: waiting for the process that computes it", self.folder
                )
                lock.acquire()
        try:
            self._remove_unfinished()
            yield
        finally:
            lock.release()

    def _remove_unfinished(self) -> None:
        """Removes the files that killed processes left."""
        oldest = time.time() - _SECONDS_UNFINISHED
        for path in self.folder.glob(f".*{UNFINISHED}"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def _digest(path: Path, content: bytes | memoryview) -> bytes:
    """Of the kind's and the part's name too: files that changed places are noticed."""
    digest = hashlib.sha256(f"{path.parent.name}/{path.name}".encode())
    digest.update(content)
    return digest.digest()


@dataclasses.dataclass(frozen=True)
class StoredRows:
    """Arrays of n parts in a store, read when rows are asked for, as from an array.

    Attributes:
      store: where they lie.
      parts: the digest of each part's content.
      channels: a choice from the last axis, or one channel without the axis.
    """

    store: Store
    parts: tuple[str, ...]
    channels: slice | int = dataclasses.field(default_factory=lambda: slice(None))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all rows."""
        *sizes, channels = self.store.kind.shape
        chosen = np.empty(channels, bool)[self.channels].shape
        return (len(self.parts), *sizes, *chosen)

    @property
    def dtype(self) -> np.dtype:
        """As stored."""
        return np.dtype(self.store.kind.dtype)

    def __len__(self) -> int:
        """Returns n."""
        return len(self.parts)

    def __getitem__(self, rows: slice | np.ndarray | list) -> Shaped[np.ndarray, "..."]:
        """A copy of the rows that a slice or an array of indices names.

        Raises:
          UserError: a file was damaged or removed since it was checked.
        """
        places = np.arange(len(self))[rows]
        taken = np.empty((places.size, *self.shape[1:]), self.dtype)

        def fill(at: int) -> None:
            part = self.parts[places[at]]
            array = self.store.read(part)
            if array is None:
                raise UserError(
                    f"{self.store.path(part)}: damaged or removed since the start; run"
                    " the same command again"
                )
            taken[at] = array[..., self.channels]

        if places.size <= _FEW:
            for at in range(places.size):
                fill(at)
        else:
            with ThreadPoolExecutor(WORKERS) as pool:
                for _ in pool.map(fill, range(places.size)):
                    pass
        return taken

    def __array__(self, dtype=None, copy=None) -> Shaped[np.ndarray, "..."]:
        """All rows."""
        del copy
        return self[:] if dtype is None else self[:].astype(dtype)
