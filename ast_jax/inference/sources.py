"""Which files a user means by a path: images and their point clouds, to be scored.

Point clouds pair with images by stem: in a folder of their own, or in `xyz/` beside
`rgb/`, as MVTec 3D-AD lays them out.
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

WRITTEN = (".png", ".tiff")  # what is written of each part, under its name


@dataclasses.dataclass(frozen=True)
class Source:
    """The files of one part.

    Attributes:
      path: what the user calls it.
      name: a relative path without suffix, like no other part's, for files about it.
      image: its image; None where there is none.
      xyz: its point cloud, which may be missing; None where the user named none.
      problem: why there can be no such file, or None.
    """

    path: str
    name: Path
    image: Path | None
    xyz: Path | None
    problem: str | None = None


def listed(
    path: Path, xyz: Path | None, mode: str, leave_out: Collection[Path] = ()
) -> list[Source]:
    """The part of a file, or the parts in a folder and below it, sorted by path.

    Links to folders are followed, as training does. Of folders `rgb`, `xyz`, `gt` side
    by side only the one is entered that `mode` is about, so that neither clouds nor
    ground truth are taken for images.

    Args:
      path: in mode `3d` without `xyz` of point clouds, else of images.
      xyz: the file's point cloud, or the folder of those of the folder's images, below
        which they lie as the images do; None to look for `xyz/` beside `rgb/`.
      mode: rgb, 3d or rgb3d.
      leave_out: folders that are not entered.

    Raises:
      UserError: a path does not exist, nothing is found, a folder cannot be read, or
        nothing says where the point clouds are.
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
        files = sorted(_below(path, "xyz" if clouds else "rgb", suffixes, left_out))
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


def streamed(lines: Iterable[str], xyz: Path | None, mode: str) -> Iterator[Source]:
    """A part for each line with a path; empty lines are passed over.

    Args:
      lines: paths, each with or without its line's end.
      xyz: the folder in which every point cloud has its image's stem; None to look
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
    """The path from the working directory, or else from the file system's root."""
    absolute, root = Path(os.path.abspath(file)), Path.cwd()
    if not absolute.is_relative_to(root):
        root = Path(absolute.anchor)
    return absolute.relative_to(root)


def _stem(path: Path) -> Path:
    return path.with_suffix("") if path.name else path


def _below(
    folder: Path,
    kind: str,
    suffixes: Collection[str],
    left_out: frozenset[tuple[int, int]],
) -> Iterator[Path]:
    """The visible files with one of the suffixes, in a folder and below it.

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
        # A link to a folder above this one leads nowhere new.
        yield from _below(folder / name, kind, suffixes, left_out | {here})
    for name in set(names).difference(folders):
        if (folder / name).suffix.lower() in suffixes:
            yield folder / name


def _identity(folder: Path) -> tuple[int, int]:
    """The same for every path to one folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _source(path: str, file: Path, name: Path, xyz: Path | None, mode: str) -> Source:
    if not Mode(mode).has_depth:
        return Source(path, name, file, None)
    beside = file.parent.parent
    if xyz is not None:
        cloud = xyz if os.path.isfile(xyz) else _by_stem(xyz, file.stem, DEPTH_SUFFIXES)
        return Source(path, name, file, cloud)
    if file.parent.name == "rgb":
        cloud = _by_stem(beside / "xyz", file.stem, DEPTH_SUFFIXES)
        return Source(path, name, file, cloud)
    if Mode(mode).has_colour:
        return Source(path, name, file, None)
    # In mode 3d an image is only looked at, where there is one.
    image = _by_stem(beside / "rgb", file.stem, IMAGE_SUFFIXES)
    shown = file.parent.name == "xyz" and os.path.isfile(image)
    return Source(path, name, image if shown else None, file)


# A name as it is, and in the Unicode forms that file systems have made of it.
_FORMS = (
    str,
    functools.partial(unicodedata.normalize, "NFC"),
    functools.partial(unicodedata.normalize, "NFD"),
)


def _by_stem(folder: Path, stem: str, suffixes: Iterable[str]) -> Path:
    """The file of that stem; the first name that was looked for where there is none."""
    # Longest first, so that a missing point cloud is missed as .tiff.
    names = [stem + s for s in sorted(suffixes, key=lambda s: (-len(s), s))]
    names += [stem + Path(name).suffix.upper() for name in names]
    forms = dict.fromkeys(f(name) for f in _FORMS for name in names)
    found = (folder / name for name in forms)
    # os.path answers no where pathlib raises: for a name that is too long.
    return next((path for path in found if os.path.isfile(path)), folder / names[0])
