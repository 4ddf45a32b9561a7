"""Arrays on disk that are computed once, never trusted unchecked, and resumed.

An entry is a folder with `array.npy` and `blocks.txt`: one line naming what the array
was computed from, then one a block of rows, `<last row + 1> <BLAKE2b of its bytes>`. It
grows under another name, block by block, and is renamed when complete.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import logging
from filelock import FileLock, Timeout
from jaxtyping import Shaped

from ast_jax.errors import UserError

FORMAT_VERSION = 1  # to be raised when the same sources come to give other arrays
WORKERS = min(8, os.cpu_count() or 1)  # threads that read, hash or decode
_ARRAY, _BLOCKS = "array.npy", "blocks.txt"
# Computes consecutive blocks of rows from the given row on.
ComputeFrom = Callable[[int], Iterator[Shaped[np.ndarray, "rows ..."]]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a cached array is, and all that its content depends on.

    Attributes:
      kind: a word for people, the start of the folder's name.
      shape: of the array; the first axis is the rows that are computed block by block.
      dtype: NumPy's name of the element type.
      sources: fingerprints and settings; a change of any is another entry.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    sources: dict[str, str | int]

    def share(self, rows: range) -> "Entry":
        """Some of the rows, as an entry of their own."""
        sources = {**self.sources, "rows": f"{rows.start}:{rows.stop}"}
        shape = (len(rows), *self.shape[1:])
        return dataclasses.replace(self, shape=shape, sources=sources)

    @property
    def description(self) -> str:
        """All of the above and the format's version in one line of JSON."""
        fields = {"format": FORMAT_VERSION, **dataclasses.asdict(self)}
        return json.dumps(fields, sort_keys=True)

    @property
    def name(self) -> str:
        """The folder's name: the kind and a digest of the description."""
        digest = hashlib.sha256(self.description.encode()).hexdigest()
        return f"{self.kind}-{digest[:32]}"

    @property
    def header(self) -> bytes:
        """The bytes of `array.npy` before the first row."""
        fields = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(self.dtype)),
            "fortran_order": False,
            "shape": self.shape,
        }
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, fields)
        return buffer.getvalue()

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    def offset(self, row: int) -> int:
        """Where a row starts in `array.npy`, in bytes."""
        return len(self.header) + row * self.row_bytes


@dataclasses.dataclass(frozen=True)
class _Block:
    """Rows start … stop − 1 and the digest of their bytes."""

    start: int
    stop: int
    digest: str


def fetch(
    directory: Path, entry: Entry, compute_from: ComputeFrom
) -> Shaped[np.ndarray, "..."]:
    """The entry's array, memory-mapped and read-only; computed if it is not there yet.

    Every byte is checked against its digest first. From the first damaged or missing
    block on the rows are computed again, with a warning if there was damage. Several
    processes may ask for the same entry: one computes, the others wait.

    Args:
      directory: where entries lie; made if need be.
      entry: what to open or compute. It has at least one row.
      compute_from: yields the rows from the given one on, in blocks of any size;
        nothing if the given one is past the last.

    Raises:
      UserError: `directory` cannot be written to, or its disk is too small. What was
        begun is deleted then. After any other end, a kill included, the next call goes
        on from the last complete block.
    """
    folder = directory / entry.name
    array = _opened(folder, entry)  # needs no lock and so no right to write
    if array is None:
        with _locked(directory, entry):
            array = _opened(folder, entry)
            if array is None:
                _compute(folder, entry, compute_from)
                array = _opened(folder, entry)
    if array is None:
        raise UserError(
            f"{folder}: what was just written reads back differently; check this disk,"
            " or choose another folder with dataset.data_dir"
        )
    return array


def holds(directory: Path, entry: Entry) -> bool:
    """Whether the entry is there, complete and unharmed."""
    return _opened(directory / entry.name, entry) is not None


def discard(directory: Path, entry: Entry) -> None:
    """Removes the entry if it is there."""
    shutil.rmtree(directory / entry.name, ignore_errors=True)
    (directory / f"{entry.name}.lock").unlink(missing_ok=True)


def _opened(folder: Path, entry: Entry) -> np.memmap | None:
    """The array if it is complete and unharmed."""
    path, rows = folder / _ARRAY, entry.shape[0]
    blocks = _intact_blocks(folder, entry)
    if not blocks or blocks[-1].stop != rows:
        return None
    try:
        if path.stat().st_size != entry.offset(rows):
            return None
        return np.memmap(path, np.dtype(entry.dtype), "r", entry.offset(0), entry.shape)
    except FileNotFoundError:  # another process found it damaged
        return None


def _intact_blocks(folder: Path, entry: Entry) -> list[_Block]:
    """The leading blocks of rows that equal their digests."""
    try:
        content = (folder / _BLOCKS).read_bytes()
        # What follows the last line's end was cut short.
        description, *lines, _ = content.split(b"\n")
        descriptor = os.open(folder / _ARRAY, os.O_RDONLY)
    except (OSError, ValueError):
        return []
    blocks = _parsed(lines, entry.shape[0])
    try:
        header = os.pread(descriptor, len(entry.header), 0)
        if description != entry.description.encode() or header != entry.header:
            return []
        with ThreadPoolExecutor(WORKERS) as pool:
            check = functools.partial(_is_intact, descriptor, entry)
            verdicts = [*pool.map(check, blocks), False]
    except OSError:  # unreadable sectors
        return []
    finally:
        os.close(descriptor)
    return blocks[: verdicts.index(False)]


def _is_intact(descriptor: int, entry: Entry, block: _Block) -> bool:
    # Read rather than mapped, so that checking does not fill the memory.
    size = (block.stop - block.start) * entry.row_bytes
    content = os.pread(descriptor, size, entry.offset(block.start))
    return _digest(content) == block.digest


def _parsed(lines: list[bytes], rows: int) -> list[_Block]:
    """The blocks that the lines name, up to the first line that makes no sense."""
    blocks = []
    start = 0
    for line in lines:
        try:
            stop, digest = line.decode("ascii").split(" ")
            block = _Block(start, int(stop), digest)
        except ValueError:
            break
        if not start < block.stop <= rows:
            break
        blocks.append(block)
        start = block.stop
    return blocks


def _compute(folder: Path, entry: Entry, compute_from: ComputeFrom) -> None:
    """Completes the entry under another name, then gives it its own."""
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        with _write_errors(folder.parent):
            if folder.exists():
                logging.warning("%s: damaged or incomplete; computed again", folder)
                # Not patched: another process may still map the intact file.
                shutil.rmtree(folder)
            partial.mkdir(exist_ok=True)
        _grow(partial, entry, compute_from)
        with _write_errors(folder.parent):
            os.replace(partial, folder)
    except UserError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _grow(partial: Path, entry: Entry, compute_from: ComputeFrom) -> None:
    """Appends the rows that `partial` still lacks, a block at a time."""
    blocks = _intact_blocks(partial, entry)
    done = blocks[-1].stop if blocks else 0
    _require_room(partial.parent, entry, entry.shape[0] - done)
    if done:
        logging.info("%s: goes on at %d of %d", partial, done, entry.shape[0])
    with _write_errors(partial.parent):
        _cut_back(partial, entry, blocks)
    with (
        # Unbuffered, so that a block's line never precedes its rows; and not mapped,
        # so that a full disk is an error and not a signal.
        open(partial / _ARRAY, "ab", buffering=0) as array,
        open(partial / _BLOCKS, "ab", buffering=0) as journal,
    ):
        for rows in compute_from(done):
            with _write_errors(partial.parent):
                done = _append(array, journal, entry, done, rows)
    if done != entry.shape[0]:
        raise ValueError(f"Computed {done} rows for an entry of {entry.shape[0]}.")


def _require_room(directory: Path, entry: Entry, rows: int) -> None:
    """Better now than after hours: are there so many bytes free?"""
    needed = rows * entry.row_bytes
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise UserError(
            f"{directory}: {entry.kind} features need {needed / 1e9:.2f} GB and"
            f" {free / 1e9:.2f} GB are free; free some, or choose another folder with"
            " dataset.data_dir"
        )


def _cut_back(partial: Path, entry: Entry, blocks: list[_Block]) -> None:
    """Leaves exactly these blocks in the files, to be appended to."""
    if blocks:
        os.truncate(partial / _ARRAY, entry.offset(blocks[-1].stop))
    else:
        (partial / _ARRAY).write_bytes(entry.header)
    lines = [entry.description, *(f"{block.stop} {block.digest}" for block in blocks)]
    (partial / _BLOCKS).write_text("\n".join(lines) + "\n")


def _append(
    array: io.FileIO,
    journal: io.FileIO,
    entry: Entry,
    start: int,
    rows: Shaped[np.ndarray, "rows ..."],
) -> int:
    """Writes a block of rows, then its line; returns the row after it."""
    if rows.shape[1:] != entry.shape[1:] or rows.dtype != np.dtype(entry.dtype):
        raise ValueError(
            f"An entry of {entry.dtype} {entry.shape} cannot hold rows of"
            f" {rows.dtype} {rows.shape}."
        )
    content = np.ascontiguousarray(rows).tobytes()
    block = _Block(start, start + len(rows), _digest(content))
    _write_all(array, content)
    _write_all(journal, f"{block.stop} {block.digest}\n".encode())
    return block.stop


def _write_all(file: io.FileIO, content: bytes) -> None:
    """An unbuffered write may be short: the rest follows, or the error shows."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@contextlib.contextmanager
def _locked(directory: Path, entry: Entry) -> Iterator[None]:
    """Holds the entry's lock; says so if it has to wait for another process."""
    lock = FileLock(directory / f"{entry.name}.lock")
    with _write_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            logging.info("%s: waiting for the process that computes it", lock.lock_file)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _write_errors(directory: Path) -> Iterator[None]:
    """Turns a refused write into the user's error."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{directory}: features cannot be written there ({error.strerror}); see to"
            " its room and its permissions, or choose another folder with"
            " dataset.data_dir"
        ) from error
