"""Files that are written whole or not at all, and unique names.

A file is written under another name and renamed when it is complete, so that a reader
never finds half a file, also after a crash or on a full disk.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import unicodedata
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from ast_jax.errors import UserError

UNFINISHED = ".unfinished"  # the suffix of a file that is being written
_REMEDY = "see to the disk's room and permissions, and run the same command again"
_NAME_BYTES = 255  # the longest name of common file systems
_PATH_BYTES = 1024  # leaves room for a folder before and a suffix after the path
_NUMBER_BYTES = 12  # room for "-2" and the like after a name
_REMEMBERED = 100_000  # after so many names every name gets a number


def expand_home(path: str | PurePath) -> Path:
    """The path with the home folder in place of `~`.

    A shell does not replace a `~` after `=`. A file may have the name `~x` if there is
    no user x.

    Raises:
      UserError: there is no home folder, as in some containers.
    """
    path = Path(path)
    home = os.path.expanduser("~")
    if path.parts[:1] != ("~",):
        return Path(os.path.expanduser(path))
    if home == "~":
        raise UserError(
            f"{path}: this user has no home folder; write the whole path, or set the "
            "variable HOME."
        )
    return Path(home, *path.parts[1:])


@contextlib.contextmanager
def write_errors(path: Path, remedy: str = _REMEDY) -> Iterator[None]:
    """Turns an OSError in the block into a UserError, which names `path`.

    A BrokenPipeError passes, because the reader has closed the pipe.

    Raises:
      UserError: the system refused to write.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); {remedy}.") from error


@contextlib.contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Converts an OSError inside to a UserError, which does not mention damage.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: the system cannot read `path` now, which may be temporary.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable_error(path, error.strerror or str(error)) from error


def unreadable_error(path: Path, reason: str) -> UserError:
    """The error for what may be intact, because the failure may be temporary."""
    return UserError(
        f"{path}: cannot be read now ({reason}); it is left as it is. Run the same "
        "command again, and see to the disk, its permissions and memory if that does "
        "not help."
    )


def read_text(path: Path) -> str:
    """Reads a text in UTF-8; raises what `read_errors` raises."""
    with read_errors(path):
        return path.read_text("utf-8")


@contextlib.contextmanager
def open_whole(path: Path, remedy: str = _REMEDY) -> Iterator[BinaryIO]:
    """Opens a new file that replaces `path` if the block ends without an error.

    Makes missing folders. Several threads and processes may write the same path; the
    last one wins.

    Args:
      path: the file's final name, which may exist.
      remedy: the end of the error's line.

    Raises:
      UserError: the file cannot be written.
    """
    # A new name, because `path`'s may be as long as the system allows.
    temporary = path.with_name(f".{uuid.uuid4().hex}{UNFINISHED}")
    with write_errors(path, remedy):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                yield file
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file; raises a UserError if it cannot be written."""
    with open_whole(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8 as `write_bytes` writes bytes."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, tree: Any) -> None:
    """Writes a tree as JSON, as `write_text` writes a text."""
    write_text(path, json.dumps(tree, indent=2) + "\n")


def check_writable(path: Path) -> None:
    """Raises the UserError of `open_whole` if a file at `path` cannot be written."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = path.with_name(f".{uuid.uuid4().hex}{UNFINISHED}")
        trial.touch(exist_ok=False)
        trial.unlink()


def plain_name(name: str) -> str:
    """The name without characters that are special in a shell, a page or a path."""
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"


class UniqueNames:
    """Gives every file a new name that is unique on any file system.

    Names that differ only in case or in Unicode form count as equal. A name with its
    suffix has at most 255 bytes. To bound the memory, each name after the first 100,000
    gets a number, which grows.
    """

    def __init__(self, *suffixes: str):
        """Prepares for files that end in one of `suffixes`, such as ".png"."""
        self._suffixes = tuple(suffix.lower() for suffix in suffixes)
        longest = max((len(suffix) for suffix in suffixes), default=0)
        self._limit = _NAME_BYTES - longest - _NUMBER_BYTES
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}  # the next one to try
        self._next = 2

    def __call__(self, name: str | PurePath) -> Path:
        """Returns a relative path without suffix: `name` itself if it is free."""
        wanted = self._fit(Path(name))
        key, remembers = _key(wanted), len(self._taken) < _REMEMBERED
        first = self._numbers.get(key, 1) if remembers else self._next
        for number in itertools.count(first):
            numbered = f"{wanted.name}-{number}" if number > 1 else wanted.name
            found = wanted.with_name(numbered)
            if _key(found) not in self._taken:
                break
        # A number is used once, so that it makes a name unique.
        self._next = max(self._next, number) + 1
        if remembers:
            self._taken.add(_key(found))
            self._numbers[key] = number + 1
        return found

    def _fit(self, path: Path) -> Path:
        """Shortens every part of a path to the limit of file systems."""
        parts = [part for part in path.parts if part not in (path.anchor, "..")]
        *folders, name = parts or ["part"]
        folders = [self._folder(folder) for folder in folders]
        fitting = Path(*folders, _cut(name, self._limit))
        if len(str(fitting).encode()) > _PATH_BYTES:
            digest = hashlib.sha256(str(fitting).encode()).hexdigest()[:16]
            return Path(digest, fitting.name)
        return fitting

    def _folder(self, name: str) -> str:
        """The name of a folder; it differs from all names of files beside it."""
        cut = _cut(name, self._limit)
        return f"{cut}_" if cut.lower().endswith(self._suffixes) else cut


def _cut(name: str, limit: int) -> str:
    """Cuts a name to `limit` bytes of UTF-8; bytes that are not text become "?"."""
    content = name.encode("utf-8", "replace")
    return content[:limit].decode("utf-8", "ignore")


def _key(path: Path) -> str:
    """A key that is equal for names that are equal on some file system."""
    return unicodedata.normalize("NFKD", str(path)).upper().casefold()
