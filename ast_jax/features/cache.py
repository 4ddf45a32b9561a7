"""The feature cache: one array per part on disk, named by the part's content.

The folder of a kind of features holds one file for every part: an `.npy` file, followed
by the SHA-256 of its name and content, which every read checks. A file is written under
another name and then renamed, so that no file is half written. A new picture costs one
file. Splits, categories and runs share the files.
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
from ast_jax.files import UNFINISHED, open_whole, read_errors, write_errors

FORMAT_VERSION = 2  # raise it when the same sources give other arrays
REMEDY = (
    "see to the disk's room and permissions, or choose another folder with"
    " dataset.data_dir"
)
_SECONDS_UNFINISHED = 24 * 3600.0  # an unfinished file that is older is abandoned
_FEW = 4  # at most so many files are read faster without threads


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of array: its type, and all its sources except the part.

    Attributes:
      name: the start of the folder's name.
      content: the part's content that is the source: "image" or "z".
      shape: of one part's array.
      dtype: NumPy's name of the element type.
      sources: fingerprints and settings; each combination has its own folder.
    """

    name: str
    content: str
    shape: tuple[int, ...]
    dtype: str
    sources: dict[str, str | int | float]

    @property
    def folder(self) -> str:
        """The folder's name: the kind's name and a digest of all attributes."""
        fields = {"format": FORMAT_VERSION, **dataclasses.asdict(self)}
        description = json.dumps(fields, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(description.encode()).hexdigest()[:32]}"

    @property
    def header(self) -> bytes:
        """The bytes of a file before those of the array."""
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
    """The arrays of one kind; a part's name is the digest of its content."""

    def __init__(self, directory: Path, kind: Kind):
        """Sets the kind's folder below `directory`; reads and writes nothing yet."""
        self.kind, self.folder = kind, directory / kind.folder
        self._header = kind.header

    def path(self, part: str) -> Path:
        """The file of a part's array."""
        return self.folder / f"{part}.npy"

    def write(self, part: str, array: Shaped[np.ndarray, "..."]) -> None:
        """Writes a part's array.

        Raises:
          UserError: the folder cannot be written, or its disk is full.
        """
        kind = self.kind
        if array.shape != kind.shape or array.dtype != np.dtype(kind.dtype):
            raise ValueError(
                f"{kind.name} features are {kind.dtype} {kind.shape}. Got"
                f" {array.dtype} {array.shape}."
            )
        path = self.path(part)
        content = self._header + np.ascontiguousarray(array).tobytes()
        with open_whole(path, REMEDY) as file:
            file.write(content)
            file.write(_digest(path, content))

    def read(self, part: str) -> Shaped[np.ndarray, "..."] | None:
        """Reads a part's array, read-only; None if the file is missing or damaged.

        Raises:
          UserError: the system cannot read the file now, which may be temporary.
        """
        kind, path, start = self.kind, self.path(part), len(self._header)
        try:
            with read_errors(path):
                content = path.read_bytes()
        except FileNotFoundError:
            return None
        end = start + kind.nbytes
        checked = memoryview(content)[:end]
        if content[end:] != _digest(path, checked):
            return None
        if checked[:start] != self._header:
            return None
        return np.frombuffer(checked[start:], kind.dtype).reshape(kind.shape)

    def find_missing(self, parts: Sequence[str]) -> list[int]:
        """The indices of parts whose array is missing or damaged; equal parts once.

        Reads and checks every byte of the other arrays. Warns about damage.
        """
        try:
            there = {path.name for path in self.folder.iterdir()}
        except OSError:
            there = set()
        first = {part: place for place, part in reversed([*enumerate(parts)])}
        found = [part for part in first if self.path(part).name in there]
        with ThreadPoolExecutor(WORKERS) as pool:
            reasons = [*pool.map(self._fault, found)]
        damaged = [part for part, fault in zip(found, reasons, strict=True) if fault]
        for fault in filter(None, reasons):
            logging.warning("%s; computed again", fault)
        lacking = first.keys() - (set(found) - set(damaged))
        return sorted(first[part] for part in lacking)

    def _fault(self, part: str) -> str:
        """Says what is wrong with a part's existing file; "" if nothing is."""
        try:
            return "" if self.read(part) is not None else f"{self.path(part)}: damaged"
        except UserError as error:  # a new file replaces it, in other sectors
            return f"{self.path(part)}: cannot be read ({error.__cause__})"

    def require_room(self, parts: int) -> None:
        """Checks the free space on the disk before hours of work.

        Raises:
          UserError: the arrays of so many parts need more.
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
    def lock(self, parts: Sequence[str]) -> Iterator[None]:
        """Holds a lock on computing these parts; logs a line if it has to wait.

        Raises:
          UserError: the folder cannot be written.
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
        """Removes the unfinished files of killed processes."""
        oldest = time.time() - _SECONDS_UNFINISHED
        for path in self.folder.glob(f".*{UNFINISHED}"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def _digest(path: Path, content: bytes | memoryview) -> bytes:
    """The digest of content and of both names, so that exchanged files are noticed."""
    digest = hashlib.sha256(f"{path.parent.name}/{path.name}".encode())
    digest.update(content)
    return digest.digest()


@dataclasses.dataclass(frozen=True)
class StoredRows:
    """Arrays of n parts in a store; an index reads rows, as of an array.

    Attributes:
      store: the arrays.
      parts: the digest of each part's content.
      channels: a slice of the last axis, or one channel without the axis.
    """

    store: Store
    parts: tuple[str, ...]
    channels: slice | int = dataclasses.field(default_factory=lambda: slice(None))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all rows."""
        *sizes, channels = self.store.kind.shape
        chosen = np.empty(channels, bool)[self.channels].shape
        return (len(self.parts), *sizes, *chosen)

    @property
    def dtype(self) -> np.dtype:
        """The element type in the store."""
        return np.dtype(self.store.kind.dtype)

    def __len__(self) -> int:
        """Returns n."""
        return len(self.parts)

    def __getitem__(self, rows: slice | np.ndarray | list) -> Shaped[np.ndarray, "..."]:
        """Returns a copy of some rows, by a slice or an array of indices.

        Raises:
          UserError: a file was damaged or removed after it was checked.
        """
        places = np.arange(len(self))[rows]
        copy = np.empty((places.size, *self.shape[1:]), self.dtype)

        def fill(at: int) -> None:
            part = self.parts[places[at]]
            array = self.store.read(part)
            if array is None:
                raise UserError(
                    f"{self.store.path(part)}: damaged or removed since the start; run"
                    " the same command again"
                )
            copy[at] = array[..., self.channels]

        if places.size <= _FEW:
            for at in range(places.size):
                fill(at)
        else:
            with ThreadPoolExecutor(WORKERS) as pool:
                for _ in pool.map(fill, range(places.size)):
                    pass
        return copy

    def __array__(self, dtype=None, copy=None) -> Shaped[np.ndarray, "..."]:
        """Returns all rows."""
        del copy
        return self[:] if dtype is None else self[:].astype(dtype)
