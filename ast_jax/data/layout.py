"""Listing files as publishers lay them out, and naming what is missing there."""

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from absl import logging

from ast_jax.data.part import GOOD
from ast_jax.data.samples import Listing, Sample
from ast_jax.errors import UserError


def subfolders(folder: Path) -> list[Path]:
    """The visible subfolders, sorted; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and _seen(path))


def files(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """The visible files with one of the (lower-case) suffixes, by stem, sorted.

    Raises:
        UserError: two of them share a stem, so that an id would name both.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() not in suffixes or not _seen(path):
            continue
        if path.stem in found:
            raise UserError(
                f"{path}: the stem {path.stem!r} is that of {found[path.stem].name} "
                "too; keep one of the two files"
            )
        found[path.stem] = path
    return found


@dataclasses.dataclass(frozen=True)
class Found:
    """The files of one kind in one folder: those that belong to a stem, by stem."""

    folder: Path
    files: Mapping[str, tuple[Path, ...]]

    @classmethod
    def in_folder(
        cls, folder: Path, suffixes: Collection[str], ending: str = ""
    ) -> "Found":
        """Find one file a stem; `ending` is what its name adds to the stem."""
        return cls(
            folder,
            {
                stem.removesuffix(ending): (path,)
                for stem, path in files(folder, suffixes).items()
            },
        )


def pair(
    split: str,
    defect: str,
    images: Found | None,
    *,
    clouds: Found | None = None,
    masks: Found | None = None,
) -> Listing:
    """Pair the images of one split and defect type with their clouds and masks.

    Args:
        split: "train", "validation" or "test".
        defect: "good" or the defect type.
        images: the images, of which each point cloud must have one; None where the
            data are depth alone.
        clouds: the point clouds, likewise; None in mode `rgb`.
        masks: the ground truth. Either each image of a defect type has some, or none
            has, which is worth a warning.

    Returns:
        A sample for each stem with an image or a cloud, sorted, and the problems.
    """
    stems = sorted(
        {stem for found in (images, clouds) if found for stem in found.files}
    )
    problems = []
    if defect != GOOD and defect.lower() == GOOD:
        problems.append(f"{split}/{defect}: write {GOOD!r} in lower case")

    def match(kind: str, found: Found, stem: str) -> tuple[Path, ...]:
        if stem not in found.files:
            problems.append(f"{found.folder}: no {kind} of {split}/{defect}/{stem}")
        return found.files.get(stem, ())

    no_truth = defect != GOOD and not (masks and masks.files)
    if no_truth and stems:
        logging.warning(
            "%s: no ground truth of %r, which has no pixel metrics",
            masks.folder if masks else split,
            defect,
        )
    samples = []
    for stem in stems:
        image = match("image", images, stem) if images else ()
        cloud = match("point cloud", clouds, stem) if clouds else ()
        if no_truth:
            truth = None
        elif defect == GOOD:
            truth = masks.files.get(stem, ()) if masks else ()
        else:
            truth = match("mask, though others of its type have one,", masks, stem)
        samples.append(
            Sample(
                id=f"{split}/{defect}/{stem}",
                split=split,
                defect=defect,
                image=image[0] if image else None,
                xyz=cloud[0] if cloud else None,
                masks=truth,
            )
        )
    return Listing(tuple(samples), tuple(problems))


def good_only(folders: Iterable[Path]) -> list[Path]:
    """The folder `good` of a split that is learned from; others earn a warning."""
    kept = []
    for folder in folders:
        if folder.name == GOOD:
            kept.append(folder)
        else:
            logging.warning("%s: ignored, only %r is learned from", folder, GOOD)
    return kept


def near_match(value: str, known: Collection[str]) -> str:
    """The end of an error about an unknown name: the near match and what there is."""
    close = difflib.get_close_matches(value, known, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}There are: {', '.join(sorted(known))}"


def _seen(path: Path) -> bool:
    return not path.name.startswith(".")  # macOS leaves ._000.png beside 000.png
