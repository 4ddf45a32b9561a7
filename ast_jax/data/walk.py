"""Walks a user's folder: visible files, and files that cannot be used."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from ast_jax.errors import UserError


def path_text(path: str | os.PathLike) -> str:
    """A path as text that can always be printed."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def one_form(name: str) -> str:
    """A name in Unicode form NFC, so that equal names compare equal."""
    return unicodedata.normalize("NFC", name)


def find_existing(path: Path) -> Path:
    """The path, or an existing path with the same name in another Unicode form."""
    if os.path.lexists(path):
        return path
    forms = (unicodedata.normalize(form, str(path)) for form in ("NFC", "NFD"))
    found = next((form for form in forms if os.path.lexists(form)), None)
    if found is None and os.path.isdir(path.parent):  # forms may differ along the path
        same = (p for p in entries(path.parent) if one_form(p.name) == path.name)
        return next(same, path)
    return path if found is None else Path(found)


def entries(folder: Path) -> list[Path]:
    """The visible entries, sorted; [] if there is no such folder.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        found = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        name, reason = path_text(folder), error.strerror
        raise UserError(f"{name}: cannot be read ({reason})") from error
    # macOS writes a hidden ._000.png beside 000.png.
    return [path for path in found if not path.name.startswith(".")]


def subfolders(folder: Path) -> list[Path]:
    """The visible subfolders, sorted; [] if there is no such folder."""
    return [path for path in entries(folder) if path.is_dir()]


def files_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yields every visible file, in subfolders too; follows links."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder above itself
        return
    for path in entries(folder):
        if path.is_dir():
            yield from files_below(path, above | {real})
        else:
            yield path


def unusable_reason(path: Path) -> str:
    """The reason why a file cannot be used, in a line; "" if it can."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return f"{path_text(path)}: its name is not UTF-8; rename it"
    if is_file(path):
        return ""
    if os.path.islink(path):
        return f"{path}: a link to {path_text(os.readlink(path))}, which is not there"
    return f"{path}: no file"


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for an impossible name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
