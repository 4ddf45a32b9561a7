"""Inspected parts: one decoded part, and a lazily decoded sequence of them.

A part is one object at one inspection station: an image, a depth map, or both, and its
known defects.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from ast_jax.errors import UserError

GOOD = "good"
# Files, Pillow images, or values that NumPy turns into arrays.
Sequences = Sequence[Any] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Part:
    """One inspected part, decoded. Image, z and masks have the same height and width.

    Attributes:
        id: split, defect and stem, unique within a category: "test/bent/000".
        defect: "good" or the defect type.
        image: RGB; None if the data set has only point clouds.
        z: distance in metres along the optical axis, 0 = missing; None in mode `rgb`.
        masks: one for each defect, () for good; None without ground truth.
        saturations: for each mask of MVTec LOCO the area in pixels from which its
            defect counts as found in full; () for other data sets.
    """

    id: str
    defect: str
    image: UInt8[np.ndarray, "h w 3"] | None
    z: Float32[np.ndarray, "h w"] | None
    masks: tuple[Bool[np.ndarray, "h w"], ...] | None
    saturations: tuple[float, ...] = ()

    @property
    def anomalous(self) -> bool:
        """Whether the part has any defect."""
        return self.defect != GOOD

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        pixels = self.z if self.image is None else self.image
        return pixels.shape[0], pixels.shape[1]

    @property
    def mask(self) -> Bool[np.ndarray, "h w"] | None:
        """All defects in one mask, all False for a good part; None if unknown."""
        if self.masks is None:
            return None
        return functools.reduce(np.logical_or, self.masks, np.zeros(self.size, bool))


@dataclasses.dataclass(frozen=True)
class Entry:
    """The facts about a part that need no decoding.

    Attributes:
        id: as in `Part`.
        defect: as in `Part`.
        digests: SHA-256 of the part's content, under "image", "z", "masks".
    """

    id: str
    defect: str
    digests: Mapping[str, str]


# Sequence without [Part], because a run-time type checker would decode a part.
class Parts(Sequence):
    """Parts in the order of the data set's files; an index decodes one."""

    def __init__(
        self,
        entries: Iterable[Entry],
        read: Callable[[int], Part],
        *,
        bit_depth: int = 16,
        notes: tuple[str, ...] = (),
        excluded: tuple[str, ...] = (),
        sizes: Iterable[Sequence[int]] = (),
    ):
        """Makes parts that `read(i)` decodes; threads may call it.

        Args:
            entries: the facts about each part.
            read: decodes the part of the i-th entry.
            bit_depth: how many of 16 bits it uses.
            notes: further texts for `summary`.
            excluded: ids of the parts that the user has left out.
            sizes: height and width of the smallest and the largest part, if known.
        """
        self._entries = tuple(entries)
        self._read = read
        self.bit_depth = bit_depth
        self.notes = notes
        self.excluded = excluded
        self.sizes = tuple((int(height), int(width)) for height, width in sizes)

    def __len__(self) -> int:
        """Returns the number of parts."""
        return len(self._entries)

    def __getitem__(self, index: SupportsIndex) -> Part:
        """Decodes the part at `index`; raises a UserError if its data are damaged."""
        return self._read(range(len(self))[index])

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The facts about each part."""
        return self._entries

    @property
    def ids(self) -> tuple[str, ...]:
        """The parts' ids."""
        return tuple(entry.id for entry in self._entries)

    @property
    def defects(self) -> tuple[str, ...]:
        """ "good" or the defect type of each part."""
        return tuple(entry.defect for entry in self._entries)

    @property
    def summary(self) -> str:
        """A line such as "209 good, 63 defective in 3 types; ignored: 12 files …"."""
        defects = [defect for defect in self.defects if defect != GOOD]
        line = f"{len(self) - len(defects)} good"
        if defects:
            kinds = len(set(defects))
            line += f", {len(defects)} defective in {kinds} "
            line += "type" if kinds == 1 else "types"
        return "; ".join((line, *self.notes))

    @property
    def content(self) -> dict[str, str]:
        """A digest of each part's image and depth, by its id."""
        digests = {}
        for entry in self._entries:
            own = json.dumps([entry.digests.get(kind) for kind in ("image", "z")])
            digests[entry.id] = hashlib.sha256(own.encode()).hexdigest()[:32]
        return digests

    def have(self, kind: str) -> bool:
        """Whether every part has this kind of content: "image", "z" or "masks"."""
        return None not in self.digests(kind)

    def digests(self, kind: str) -> tuple[str | None, ...]:
        """SHA-256 of one kind of each part's content; None if the part has none."""
        return tuple(entry.digests.get(kind) for entry in self._entries)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the parts' ids and content, whatever their folder is."""
        return self.fingerprint_of("image", "z", "masks")

    def fingerprint_of(self, *kinds: str) -> str:
        """Returns a fingerprint of some kinds of content.

        `fingerprint_of("image")` is the same with and without point clouds.
        """
        rows = [
            [entry.id, *(entry.digests.get(kind) for kind in kinds)]
            for entry in self._entries
        ]
        return hashlib.sha256(json.dumps([kinds, rows]).encode()).hexdigest()

    def subset(self, indices: Iterable[SupportsIndex]) -> "Parts":
        """Returns the parts at `indices` in that order; decodes nothing."""
        chosen = [range(len(self))[index] for index in indices]
        read = self._read
        return Parts(
            (self._entries[index] for index in chosen),
            lambda position: read(chosen[position]),
            bit_depth=self.bit_depth,
        )


def join_parts(
    images: Sequences | None, xyz: Sequences | None
) -> Iterable[tuple[Any, Any]]:
    """Joins the n-th image and the n-th point cloud; None stands for an absent one.

    Raises:
      UserError: there are none, or their numbers differ.
    """
    lengths = {len(parts) for parts in (images, xyz) if parts is not None}
    if len(lengths) != 1 or 0 in lengths:
        found = " and ".join(map(str, sorted(lengths))) or "no"
        raise UserError(f"got {found} images or point clouds; give as many of both")
    absent = itertools.repeat(None, *lengths)
    columns = (absent if parts is None else parts for parts in (images, xyz))
    return zip(*columns, strict=True)
