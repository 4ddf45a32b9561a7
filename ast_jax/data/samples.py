"""Samples: where the data of a part lie, what is kept of them, and their check."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float32

from ast_jax.data.decode import (
    DEFAULT_DEPTH,
    decode_image,
    decode_mask,
    decode_z,
    read_file,
)
from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.part import GOOD, Entry, Part
from ast_jax.errors import UserError

SPLITS = ("train", "validation", "test")
SHOWN_PROBLEMS = 5


@dataclasses.dataclass(frozen=True)
class Sample:
    """Where the data of one part lie, or (synthetic) those data themselves.

    Attributes:
        id: split, defect and stem: "test/bent/000".
        split: "train", "validation" or "test".
        defect: "good" or the defect type.
        image: the image file, or its bytes.
        xyz: the point cloud or depth file, or z in metres.
        masks: the ground truth, one file a defect; () where a good part has none, None
            where the data set has none for this defect type.
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
        """What an error calls a source: its path, or the sample's id."""
        return str(source) if isinstance(source, Path) else self.id


@dataclasses.dataclass(frozen=True)
class Listing:
    """The samples of a category, and a line for each file that is missing."""

    samples: tuple[Sample, ...] = ()
    problems: tuple[str, ...] = ()

    def __add__(self, other: "Listing") -> "Listing":
        """Both, one after the other."""
        return Listing(self.samples + other.samples, self.problems + other.problems)


@dataclasses.dataclass(frozen=True)
class Content:
    """What is kept of a sample: encoded bytes, and z in metres."""

    image: bytes | None
    z: Float32[np.ndarray, "h w"] | None
    masks: tuple[bytes, ...] | None
    saturations: tuple[float, ...] = ()

    def digests(self) -> dict[str, str]:
        """SHA-256 of each kind of content that there is."""
        digests = {}
        if self.image is not None:
            digests["image"] = hashlib.sha256(self.image).hexdigest()
        if self.z is not None:
            shape = repr(self.z.shape).encode()
            digests["z"] = hashlib.sha256(shape + self.z.tobytes()).hexdigest()
        if self.masks is not None:
            masks = [hashlib.sha256(mask).hexdigest() for mask in self.masks]
            truth = json.dumps([masks, self.saturations])
            digests["masks"] = hashlib.sha256(truth.encode()).hexdigest()
        return digests

    def decode(self, entry: Entry) -> Part:
        """Decode into the part that `entry` names."""
        image = None if self.image is None else decode_image(self.image, entry.id)
        masks = self.masks
        if masks is not None:
            masks = tuple(decode_mask(mask, entry.id) for mask in masks)
        return Part(entry.id, entry.defect, image, self.z, masks, self.saturations)


def check(
    sample: Sample, depth_options: DepthOptions = DEFAULT_DEPTH
) -> tuple[Content, list[str]]:
    """Read and decode every file of a sample.

    Args:
        sample: the sample.
        depth_options: the unit of its point cloud, and what is missing in it.

    Returns:
        Its content (without saturations), and a line for each file that is broken or
        doesn't fit the others. The masks of a good part, once seen to be empty, go.
    """
    problems: list[str] = []

    def attempt(function: Callable[..., Any], source: Any, *args: Any) -> Any:
        try:
            return None if source is None else function(source, *args)
        except UserError as error:
            problems.append(str(error))
            return None

    def decoded(
        function: Callable[..., Any], source: Any, *options: Any
    ) -> tuple[Any, Any]:
        content = attempt(read_file, source)
        return content, attempt(function, content, sample.name(source), *options)

    image, pixels = decoded(decode_image, sample.image)
    if isinstance(sample.xyz, Path):
        _, z = decoded(decode_z, sample.xyz, depth_options)
    else:
        z = sample.xyz
    pairs = [decoded(decode_mask, mask) for mask in sample.masks or ()]

    size = next((a.shape[:2] for a in (pixels, z) if a is not None), None)
    sources = (sample.xyz, *(sample.masks or ()))
    for source, array in zip(sources, (z, *(mask for _, mask in pairs)), strict=True):
        if array is not None and array.shape != size:
            problems.append(
                f"{sample.name(source)}: {_size(array.shape)}, but the image "
                f"{sample.name(sample.image)} is {_size(size)}"
            )
    if sample.defect != GOOD:
        for source, (_, mask) in zip(sample.masks or (), pairs, strict=True):
            if mask is not None and not mask.any():
                logging.warning("%s: marks no defect", sample.name(source))
        masks = None if sample.masks is None else tuple(c for c, _ in pairs)
        return Content(image, z, masks), problems
    for source, (_, mask) in zip(sample.masks or (), pairs, strict=True):
        if mask is not None and mask.any():
            problems.append(f"{sample.name(source)}: marks a defect in a good part")
    return Content(image, z, ()), problems


def told(problems: Sequence[str]) -> UserError:
    """Log every problem; return the one line that counts them and shows the first."""
    for problem in problems:
        logging.error("%s", problem)
    shown = "; ".join(problems[:SHOWN_PROBLEMS])
    more = len(problems) - SHOWN_PROBLEMS
    end = f"; and {more} more, all in the log" if more > 0 else ""
    counted = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return UserError(f"{counted} with the data: {shown}{end}")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} by {shape[0]} pixels"
