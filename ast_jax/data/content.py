"""The content of a part's files, and its check."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Bool, Float32, Shaped

from ast_jax.config import FULL_DEPTH
from ast_jax.data.decode import (
    DEFAULT_DEPTH,
    check_bit_depth,
    decode_image,
    decode_mask,
    decode_z,
    read_file,
    read_image,
)
from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.listing import Sample
from ast_jax.data.part import GOOD, Entry, Part
from ast_jax.data.raster import Raster
from ast_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class FileOptions:
    """The options for reading the files of a data set.

    Attributes:
        depth_options: unit and missing value of point clouds.
        bit_depth: how many of 16 bits the camera uses.
        class_numbers: whether ground truth holds class numbers instead of colours.
    """

    depth_options: DepthOptions = DEFAULT_DEPTH
    bit_depth: int = FULL_DEPTH
    class_numbers: bool = False


@dataclasses.dataclass(frozen=True)
class Content:
    """A sample's encoded bytes, and z in metres.

    Attributes:
        image: the encoded image.
        z: as in `Part`.
        masks: the encoded ground truth.
        saturations: as in `Part`.
        peak: the largest value of a 16-bit image; only `check` sets it.
        size: height and width in pixels; only `check` sets it.
    """

    image: bytes | None
    z: Float32[np.ndarray, "h w"] | None
    masks: tuple[bytes, ...] | None
    saturations: tuple[float, ...] = ()
    peak: int = 0
    size: tuple[int, int] | None = None

    def digests(self) -> dict[str, str]:
        """SHA-256 of each kind of content that the sample has."""
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

    def decode(self, entry: Entry, options: FileOptions) -> Part:
        """Decodes the part that `entry` names."""
        image, masks = self.image, self.masks
        if image is not None:
            image = decode_image(image, entry.id, options.bit_depth)
        if masks is not None:
            masks = tuple(
                decode_mask(mask, entry.id, numbers=options.class_numbers)
                for mask in masks
            )
        return Part(entry.id, entry.defect, image, self.z, masks, self.saturations)


def check(sample: Sample, options: FileOptions) -> tuple[Content, list[str]]:
    """Reads and decodes every file of a sample.

    Args:
        sample: the sample.
        options: for its files.

    Returns:
        Its content (without saturations), and a line for each file that is damaged or
        does not fit the others. The masks of a good part must be empty and are dropped.
    """
    problems: list[str] = []

    def attempt(function: Callable[..., Any], source: Any, *args: Any) -> Any:
        try:
            return None if source is None else function(source, *args)
        except UserError as error:
            problems.append(str(error))
            return None

    def decoded(
        function: Callable[..., Any], source: Any, *args: Any
    ) -> tuple[Any, Any]:
        content = attempt(read_file, source)
        return content, attempt(function, content, sample.name(source), *args)

    mask_of = functools.partial(decode_mask, numbers=options.class_numbers)
    image, raster = decoded(read_image, sample.image)
    peak = _peak(raster)
    attempt(check_bit_depth, peak, sample.name(sample.image), options.bit_depth)
    if isinstance(sample.xyz, Path):
        _, z = decoded(decode_z, sample.xyz, options.depth_options)
    else:
        z = sample.xyz
    decoded_masks = [decoded(mask_of, mask) for mask in sample.masks or ()]
    sources = {"xyz": sample.xyz, **dict(enumerate(sample.masks or ()))}
    arrays = {"xyz": z, **{row: mask for row, (_, mask) in enumerate(decoded_masks)}}
    named = [(sample.name(sources[key]), arrays[key]) for key in sources]
    problems += _misfits(sample, raster, named)
    pixels = z if raster is None else raster.values
    measured = {"peak": peak, "size": None if pixels is None else pixels.shape[:2]}
    if sample.defect != GOOD:
        for name, mask in named[1:]:
            _judge(name, mask)
        masks = None if sample.masks is None else tuple(c for c, _ in decoded_masks)
        return Content(image, z, masks, **measured), problems
    for name, mask in named[1:]:
        if mask is not None and mask.any():
            problems.append(f"{name}: marks a defect in a good part")
    return Content(image, z, (), **measured), problems


def _peak(raster: Raster | None) -> int:
    """The largest value of an image of 16 bits."""
    if raster is None or raster.values.dtype == np.uint8:
        return 0
    return int(raster.values[..., :3].max(initial=0))


def _misfits(
    sample: Sample,
    raster: Raster | None,
    named: Sequence[tuple[str, Shaped[np.ndarray, "_ _"] | None]],
) -> list[str]:
    """A line for each depth map or mask that has not the image's size."""
    lines = []
    arrays = [array for _, array in named if array is not None]
    if raster is not None:
        arrays.insert(0, raster.values)
    size = next((array.shape[:2] for array in arrays), None)
    for name, array in named:
        if array is None or array.shape == size:
            continue
        turned = (
            "; the image is turned as its EXIF orientation says, the other is not: save"
            " it upright"
        )
        lines.append(
            f"{name}: {_size(array.shape)}, but the image {sample.name(sample.image)} "
            f"is {_size(size)}"
            + (turned if raster and raster.turned and array.shape == size[::-1] else "")
        )
    if raster and raster.turned and len(arrays) > 1 and not lines:
        logging.log_first_n(
            logging.WARNING,
            "%s: turned as its EXIF orientation says; its depth and masks have to be "
            "upright, too",
            1,
            sample.name(sample.image),
        )
    return lines


def _judge(name: str, mask: Bool[np.ndarray, "h w"] | None) -> None:
    """Warns about a defect's mask that is probably wrong."""
    if mask is None:
        return
    if not mask.any():
        logging.warning("%s: marks no defect", name)
    elif (share := mask.mean()) > 0.5:
        logging.warning(
            "%s: marks %.0f %% of the image as defective; is it inverted?",
            *(name, 100 * share),
        )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} by {shape[0]} pixels"
