"""Listing: the files of a category's parts, and the missing ones."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float32

from ast_jax.errors import UserError

SPLITS = ("train", "validation", "test")
SHOWN_PROBLEMS = 5


@dataclasses.dataclass(frozen=True)
class Sample:
    """The files of one part, or (synthetic) its data.

    Attributes:
        id: split, defect and stem: "test/bent/000".
        split: "train", "validation" or "test".
        defect: "good" or the defect type.
        image: the image file, or its bytes.
        xyz: the point cloud or depth file, or z in metres.
        masks: the ground truth, one file for each defect; () for a good part without
            one, None if the data set has none for this defect type.
    """

    id: str
    split: str
    defect: str
    image: Path | bytes | None = None
    xyz: Path | Float32[np.ndarray, "h w"] | None = None
    masks: tuple[Path | bytes, ...] | None = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file of the sample."""
        sources = (self.image, self.xyz, *(self.masks or ()))
        return tuple(source for source in sources if isinstance(source, Path))

    def name(self, source: Any) -> str:
        """The name of a source in an error: its path, or the sample's id."""
        return str(source) if isinstance(source, Path) else self.id


@dataclasses.dataclass(frozen=True)
class Listing:
    """The samples of a category, and a line for each file that is missing."""

    samples: tuple[Sample, ...] = ()
    problems: tuple[str, ...] = ()

    def __add__(self, other: "Listing") -> "Listing":
        """Joins two listings."""
        return Listing(self.samples + other.samples, self.problems + other.problems)


def problems_error(problems: Sequence[str]) -> UserError:
    """Logs every problem; returns an error that counts them and shows the first."""
    for problem in problems:
        logging.error("%s", problem)
    shown = "; ".join(problems[:SHOWN_PROBLEMS])
    more = len(problems) - SHOWN_PROBLEMS
    end = f"; and {more} more, all in the log" if more > 0 else ""
    counted = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return UserError(f"{counted} with the data: {shown}{end}")
