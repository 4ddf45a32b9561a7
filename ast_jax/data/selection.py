"""Selects samples of a listing, and describes the files that are left out."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ast_jax.data.exclude import find_ids
from ast_jax.data.ignored_files import describe_ignored, unread_clouds
from ast_jax.data.listing import Listing, problems_error
from ast_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Selection:
    """The selected samples of a category.

    Attributes:
        listing: the samples, and the problems.
        excluded: ids of training pictures that the user has left out.
        unused: files in the samples' folders that belong to no sample.
        root: the data set's folder.
    """

    listing: Listing
    excluded: tuple[str, ...]
    unused: tuple[Path, ...]
    root: Path

    def notes(self, split: str, split_of: Callable[[Path], str]) -> Iterator[str]:
        """Yields notes about the files that a split leaves out.

        Args:
            split: "train", "validation" or "test".
            split_of: returns the split of an unused file by its folder, or "".
        """
        if split == "train" and self.excluded:
            yield f"{len(self.excluded)} left out by dataset.exclude"
        inside = [path for path in self.unused if split_of(path) == split]
        if left := describe_ignored(inside, self.root):
            yield f"ignored: {left}"
        outside = [path for path in self.unused if not split_of(path)]
        if split == "train" and (left := describe_ignored(outside, self.root)):
            yield f"ignored outside of the splits: {left}"


def require_training(
    listing: Listing, unused: Sequence[Path], root: Path, category: str, tree: str
) -> Listing:
    """Adds a problem about point clouds whose type cannot be read, if there are any.

    Raises:
        UserError: there is no training picture; the line names the ignored files.
    """
    clouds = unread_clouds(unused)
    if clouds and any("no point cloud" in problem for problem in listing.problems):
        problems = (clouds, *listing.problems)
        listing = dataclasses.replace(listing, problems=problems)
    if any(sample.split == "train" for sample in listing.samples):
        return listing
    if listing.problems:
        raise problems_error(listing.problems)
    left = describe_ignored(unused, root)
    raise UserError(
        f"{root}: no good training image of {category!r}; expected {tree}"
        + (f"; ignored: {left}" if left else "")
    )


def leave_out(
    listing: Listing,
    names: Sequence[str],
    ids: Sequence[str] | None,
    root: Path,
    category: str,
) -> tuple[Listing, tuple[str, ...]]:
    """The listing without some training pictures, and their ids.

    Args:
        listing: all samples.
        names: of pictures to leave out, see `exclude.find_ids`.
        ids: of these pictures, as a run has recorded them, instead of names.
        root: the data set's folder.
        category: the category's name.

    Raises:
        UserError: no training picture has a name, or no picture is left.
    """
    train = [sample for sample in listing.samples if sample.split == "train"]
    if ids is None:
        excluded = find_ids(names, train, root, category)
    else:
        excluded = tuple(sample.id for sample in train if sample.id in ids)
    if len(excluded) == len(train):
        raise UserError("dataset.exclude leaves no training picture")
    kept = tuple(s for s in listing.samples if s.id not in excluded)
    return dataclasses.replace(listing, samples=kept), excluded
