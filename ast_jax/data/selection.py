"""Which of the listed samples are taken, and what is said of all that is not."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ast_jax.data.exclude import chosen
from ast_jax.data.ignored import ignored, unread_clouds
from ast_jax.data.listing import Listing, problems_error
from ast_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Selection:
    """The samples of a category that are taken.

    Attributes:
        listing: they, and the problems.
        excluded: ids of training pictures that the user has left out.
        unused: files nearby that are of no sample.
        root: the data set's folder.
    """

    listing: Listing
    excluded: tuple[str, ...]
    unused: tuple[Path, ...]
    root: Path

    def notes(self, split: str, split_of: Callable[[Path], str]) -> Iterator[str]:
        """What there is to say about a split beside its counts.

        Args:
            split: "train", "validation" or "test".
            split_of: the split that an unused file would belong to, or "".
        """
        if split == "train" and self.excluded:
            yield f"{len(self.excluded)} left out by dataset.exclude"
        inside = [path for path in self.unused if split_of(path) == split]
        if left := ignored(inside, self.root):
            yield f"ignored: {left}"
        outside = [path for path in self.unused if not split_of(path)]
        if split == "train" and (left := ignored(outside, self.root)):
            yield f"ignored outside of the splits: {left}"


def require_training(
    listing: Listing, unused: Sequence[Path], root: Path, category: str, tree: str
) -> Listing:
    """The listing, with a line about point clouds that are of an unread type.

    Raises:
        UserError: it has no training picture; the line says what there is instead.
    """
    clouds = unread_clouds(unused)
    if clouds and any("no point cloud" in problem for problem in listing.problems):
        problems = (clouds, *listing.problems)
        listing = dataclasses.replace(listing, problems=problems)
    if any(sample.split == "train" for sample in listing.samples):
        return listing
    if listing.problems:
        raise problems_error(listing.problems)
    left = ignored(unused, root)
    raise UserError(
        f"{root}: no good training image of {category!r}; expected {tree}"
        + (f"; ignored: {left}" if left else "")
    )


def left_out(
    listing: Listing,
    names: Sequence[str],
    ids: Sequence[str] | None,
    root: Path,
    category: str,
) -> tuple[Listing, tuple[str, ...]]:
    """The listing without some training pictures, and their ids.

    Args:
        listing: all samples.
        names: of pictures to leave out, see `chosen`.
        ids: theirs, as a run recorded them, in the place of names.
        root: the data set's folder.
        category: the category's name.

    Raises:
        UserError: a name is no training picture's, or nothing is left.
    """
    train = [sample for sample in listing.samples if sample.split == "train"]
    if ids is None:
        excluded = chosen(names, train, root, category)
    else:
        excluded = tuple(sample.id for sample in train if sample.id in ids)
    if len(excluded) == len(train):
        raise UserError("dataset.exclude leaves no training picture")
    kept = tuple(s for s in listing.samples if s.id not in excluded)
    return dataclasses.replace(listing, samples=kept), excluded
