"""The files of a data set's folder that belong to no part, and the lines about them."""

import dataclasses
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from ast_jax.data.walk import path_text

CLOUD_SUFFIXES = frozenset(
    (".ply", ".pcd", ".exr", ".pfm", ".obj", ".stl", ".xyz", ".las", ".laz", ".e57")
)


@dataclasses.dataclass(frozen=True)
class IgnoredFiles:
    """Files that are ignored.

    Attributes:
        count: the number of files.
        places: the number of their folders.
        first: the first file's path below the data set's folder.
    """

    count: int
    places: int
    first: str

    def __str__(self) -> str:
        """Returns a text such as "12 files in 2 places (first: good/notes.txt)"."""
        files = "1 file" if self.count == 1 else f"{self.count} files"
        places = "1 place" if self.places == 1 else f"{self.places} places"
        return f"{files} in {places} (first: {self.first})"


def unused_files(paths: Iterable[Path], used: Collection[Path]) -> list[Path]:
    """The paths that no sample uses."""
    known = {os.path.abspath(path) for path in used}
    return [path for path in paths if os.path.abspath(path) not in known]


def describe_ignored(paths: Collection[Path], root: Path) -> IgnoredFiles | None:
    """Describes ignored paths; None if there are none."""
    if not paths:
        return None
    first = min(paths)
    name = first.relative_to(root) if first.is_relative_to(root) else first
    return IgnoredFiles(
        len(paths), len({path.parent for path in paths}), path_text(name)
    )


def unread_clouds(paths: Collection[Path]) -> str:
    """A line about point clouds of types that cannot be read, or ""."""
    found = [path for path in paths if path.suffix.lower() in CLOUD_SUFFIXES]
    if not found:
        return ""
    suffixes = ", ".join(sorted({path.suffix.lower() for path in found}))
    more = f" and {len(found) - 1} more files" if len(found) > 1 else ""
    return (
        f"{path_text(min(found))}{more}: point clouds of a type that is not read "
        f"({suffixes}); write TIFF or .npy, x, y, z [h, w, 3] or z [h, w] on the "
        "image's pixel grid"
    )
