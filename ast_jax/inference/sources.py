"""Finds the files to score, images and point clouds, at a path of the user.

An image and its point cloud have the same stem. The clouds are in a folder of their
own, or in `xyz/` beside `rgb/`, as in MVTec 3D-AD.
"""

import dataclasses
import functools
import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from ast_jax.data.decode import DEPTH_SUFFIXES, IMAGE_SUFFIXES
from ast_jax.errors import UserError
from ast_jax.files import UniqueNames
from ast_jax.mode import Mode

WRITTEN = (".png", ".tiff")  # suffixes of the files that a prediction writes of a part


@dataclasses.dataclass(frozen=True)
class Source:
    """The files of one part.

    Attributes:
      path: the part's name in the rows; the user's path.
      name: a relative path without suffix, unique to the part, for its heat map.
      image: its image; None if it has none.
      xyz: its point cloud, which may be missing; None if the user named none.
      problem: the reason why the path cannot be a file, or None.
    """

    path: str
    name: Path
    image: Path | None
    xyz: Path | None
    problem: str | None = None


def list_sources(
    path: Path, xyz: Path | None, mode: str, leave_out: Collection[Path] = ()
) -> list[Source]:
    """Lists the part of a file, or the parts in a folder and below it, sorted by path.

    Follows links to folders, as training does. Of folders `rgb`, `xyz`, `gt` side by
    side it enters only the one that `mode` needs, so that no point cloud and no ground
    truth counts as an image.

    Args:
      path: of images; in mode `3d` without `xyz`, of point clouds.
      xyz: the file's point cloud, or the folder with the clouds of the folder's images,
        in the same subfolders; None to look for `xyz/` beside `rgb/`.
      mode: rgb, 3d or rgb3d.
      leave_out: folders that are not entered.

    Raises:
      UserError: a path does not exist, nothing is found, a folder cannot be read, or
        the place of the point clouds is not known.
    """
    for argument in (path, xyz):
        if argument is not None and not argument.exists():
            raise UserError(f"{argument}: no such file or folder")
    if xyz is not None and path.is_dir() != xyz.is_dir():
        raise UserError(f"--xyz={xyz}: give a folder for a folder, a file for a file")
    clouds = not Mode(mode).has_colour and xyz is None
    suffixes = DEPTH_SUFFIXES if clouds else IMAGE_SUFFIXES
    if path.is_dir():
        left_out = frozenset(_identity(one) for one in leave_out if one.is_dir())
        files = sorted(
            _list_below(path, "xyz" if clouds else "rgb", suffixes, left_out)
        )
        names = [file.relative_to(path) for file in files]
    else:
        files, names = [path], [Path(path.name)]
    if not files:
        raise UserError(f"{path}: holds no {', '.join(sorted(suffixes))} file")
    found, unique = [], UniqueNames(*WRITTEN)
    for file, name in zip(files, names, strict=True):
        folder = xyz / name.parent if xyz is not None and xyz.is_dir() else xyz
        found.append(_source(str(file), file, unique(_stem(name)), folder, mode))
    if Mode(mode).has_depth and all(source.xyz is None for source in found):
        raise UserError(
            f"{path}: where are the point clouds? Give --xyz, or put images and clouds "
            "into folders rgb and xyz"
        )
    return found


def stream_sources(
    lines: Iterable[str], xyz: Path | None, mode: str
) -> Iterator[Source]:
    """Yields a part for each line with a path; skips empty lines.

    Args:
      lines: paths, each with or without its line's end.
      xyz: the folder with a point cloud of the same stem for every image; None to look
        for `xyz/` beside `rgb/`.
      mode: rgb, 3d or rgb3d.
    """
    unique = UniqueNames(*WRITTEN)
    for line in lines:
        path = line.rstrip("\r\n")
        if "\0" in path:
            problem = "no path holds a NUL byte; write the list in UTF-8"
            yield Source(path, unique("part"), None, None, problem)
        elif path:
            file = Path(path)
            yield _source(path, file, unique(_stem(_relative(file))), xyz, mode)


def _relative(file: Path) -> Path:
    """The path relative to the working directory, else to the file system's root."""
    absolute, root = Path(os.path.abspath(file)), Path.cwd()
    if not absolute.is_relative_to(root):
        root = Path(absolute.anchor)
    return absolute.relative_to(root)


def _stem(path: Path) -> Path:
    return path.with_suffix("") if path.name else path


def _list_below(
    folder: Path,
    kind: str,
    suffixes: Collection[str],
    left_out: frozenset[tuple[int, int]],
) -> Iterator[Path]:
    """The files with one of the suffixes in a folder and below it, without hidden ones.

    Raises:
      UserError: a folder cannot be read.
    """
    try:
        here = _identity(folder)
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    if here in left_out:
        return
    folders = [name for name in names if os.path.isdir(folder / name)]
    for name in [kind] if kind in folders else folders:
        # `here` is left out because a link may lead to a folder above this one.
        yield from _list_below(folder / name, kind, suffixes, left_out | {here})
    for name in set(names).difference(folders):
        if (folder / name).suffix.lower() in suffixes:
            yield folder / name


def _identity(folder: Path) -> tuple[int, int]:
    """A key that all paths to a folder share."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _source(path: str, file: Path, name: Path, xyz: Path | None, mode: str) -> Source:
    if not Mode(mode).has_depth:
        return Source(path, name, file, None)
    beside = file.parent.parent
    if xyz is not None:
        cloud = (
            xyz
            if os.path.isfile(xyz)
            else _find_by_stem(xyz, file.stem, DEPTH_SUFFIXES)
        )
        return Source(path, name, file, cloud)
    if file.parent.name == "rgb":
        cloud = _find_by_stem(beside / "xyz", file.stem, DEPTH_SUFFIXES)
        return Source(path, name, file, cloud)
    if Mode(mode).has_colour:
        return Source(path, name, file, None)
    # Mode 3d does not score the image; it is only shown, if there is one.
    image = _find_by_stem(beside / "rgb", file.stem, IMAGE_SUFFIXES)
    shown = file.parent.name == "xyz" and os.path.isfile(image)
    return Source(path, name, image if shown else None, file)


# A name as it is, and in the Unicode forms into which file systems convert it.
_FORMS = (
    str,
    functools.partial(unicodedata.normalize, "NFC"),
    functools.partial(unicodedata.normalize, "NFD"),
)


def _find_by_stem(folder: Path, stem: str, suffixes: Iterable[str]) -> Path:
    """The file with a stem; without one, the first name that was looked for."""
    # Longest first, so that an error about a missing point cloud names a .tiff.
    names = [stem + s for s in sorted(suffixes, key=lambda s: (-len(s), s))]
    names += [stem + Path(name).suffix.upper() for name in names]
    forms = dict.fromkeys(f(name) for f in _FORMS for name in names)
    found = (folder / name for name in forms)
    # For a name that is too long os.path returns False, and pathlib raises.
    return next((path for path in found if os.path.isfile(path)), folder / names[0])
