"""Lists files in publishers' layouts, and names missing ones."""

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from absl import logging

from ast_jax.data.listing import Listing, Sample
from ast_jax.data.part import GOOD
from ast_jax.data.walk import files_below, one_form, unusable_reason

Files = dict[str, tuple[Path, ...]]


@dataclasses.dataclass(frozen=True)
class FilesByStem:
    """The files of one kind, by stem.

    Attributes:
        folder: the folder with the files.
        files: by stem: the path below the folder without suffix, in one Unicode form.
        problems: a line for each file that cannot be used.
    """

    folder: Path
    files: Mapping[str, tuple[Path, ...]]
    problems: tuple[str, ...] = ()

    @classmethod
    def in_folder(
        cls, folder: Path, suffixes: Collection[str], ending: str = ""
    ) -> "FilesByStem":
        """Finds one file for each stem, in subfolders too.

        Args:
            folder: the folder with the files.
            suffixes: in lower case.
            ending: of files' names after the stem, such as "_mask"; a name may lack it.
        """
        return cls.among(files_below(folder), folder, suffixes, ending)

    @classmethod
    def among(
        cls,
        paths: Iterable[Path],
        folder: Path,
        suffixes: Collection[str],
        ending: str = "",
        without: Collection[str] = (),
    ) -> "FilesByStem":
        """Does the same as `in_folder` with some paths below `folder`.

        A subfolder named in `without` is not a part of a stem.
        """
        found: dict[str, Path] = {}
        problems = []
        for path in paths:
            if path.suffix.lower() not in suffixes:
                continue
            if problem := unusable_reason(path):
                problems.append(problem)
                continue
            parts = path.relative_to(folder).with_suffix("").parts
            stem = one_form("/".join(p for p in parts[:-1] if p not in without))
            stem = f"{stem}/".lstrip("/") + one_form(parts[-1]).removesuffix(ending)
            if stem in found:
                problems.append(_stem_fault(path, found[stem], stem))
            else:
                found[stem] = path
        files = {stem: (path,) for stem, path in found.items()}
        return cls(folder, files, tuple(problems))

    def match(self, stems: Collection[str]) -> Files:
        """The files of each stem.

        A file that has no stem's whole path may still match by its name alone, if both
        are the only ones of that name and one of them is in a subfolder: the mask of
        test/bent/day2/000 may be masks/bent/000.
        """
        matched = {stem: self.files[stem] for stem in stems if stem in self.files}
        wanted = _group_by_name(stem for stem in stems if stem not in matched)
        left = _group_by_name(stem for stem in self.files if stem not in matched)
        for name, (stem, *more) in wanted.items():
            (other, *others) = left.get(name, (stem,))
            nested_once = ("/" in stem) != ("/" in other)
            if nested_once and not more and not others:
                matched[stem] = self.files[other]
        return matched


def _group_by_name(stems: Iterable[str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for stem in stems:
        names.setdefault(stem.rpartition("/")[2], []).append(stem)
    return names


def _stem_fault(path: Path, other: Path, stem: str) -> str:
    return (
        f"{path}: the stem {stem!r} is that of {other.name} too; keep one of the two "
        "files"
    )


def join_by_stem(
    split: str,
    defect: str,
    images: FilesByStem | None,
    *,
    clouds: FilesByStem | None = None,
    masks: FilesByStem | None = None,
) -> Listing:
    """Joins the images of one split and defect type with their clouds and masks.

    Args:
        split: "train", "validation" or "test".
        defect: "good" or the defect type.
        images: the images, one for each point cloud; None if the data are depth alone.
        clouds: the point clouds, one for each image; None in mode `rgb`.
        masks: the ground truth. Either every image of a defect type has a mask, or none
            has one; the latter gives a warning.

    Returns:
        A sample for each stem with an image or a cloud, sorted, and the problems.
    """
    stems = sorted(
        {stem for found in (images, clouds) if found for stem in found.files}
    )
    kinds = [found for found in (images, clouds, masks) if found]
    problems = [problem for found in kinds for problem in found.problems]
    defect = one_form(defect)
    if defect != GOOD and defect.lower() == GOOD:
        problems.append(f"{split}/{defect}: write {GOOD!r} in lower case")
    if images and clouds:  # if a part has two stems, the image's counts
        owners = images.match(tuple(clouds.files))
        stems = [s for s in stems if s in images.files or s not in owners]
    by_stem = {id(found): found.match(stems) for found in kinds}

    def match(kind: str, found: FilesByStem, stem: str) -> tuple[Path, ...]:
        if stem not in by_stem[id(found)]:
            line = f"{found.folder}: no {kind} of {split}/{defect}/{stem}"
            problems.append(line + _suggest_name(found, by_stem[id(found)]))
        return by_stem[id(found)].get(stem, ())

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
            truth = by_stem[id(masks)].get(stem, ()) if masks else ()
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


def _suggest_name(found: FilesByStem, matched: Files) -> str:
    """Makes the end of a line about a missing file: another name that it may have."""
    taken = {path for paths in matched.values() for path in paths}
    left = [path for paths in found.files.values() for path in paths]
    other = next((path for path in left if path not in taken), None)
    return f"; is it {other.name}? Its stem must be the image's" if other else ""


def keep_good(folders: Iterable[Path]) -> list[Path]:
    """The folder `good` of a training split; warns about other folders."""
    kept = []
    for folder in folders:
        if folder.name == GOOD:
            kept.append(folder)
        else:
            logging.warning("%s: ignored, only %r is learned from", folder, GOOD)
    return kept


def near_match(value: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: a similar name, and all names."""
    known = tuple(known)
    close = difflib.get_close_matches(value, known, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}There are: {', '.join(sorted(known))}"
