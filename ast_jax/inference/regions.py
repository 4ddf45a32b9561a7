"""Marked regions of a score map: place, size, strength and depth."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage

EIGHT_CONNECTED = np.ones((3, 3), bool)  # pixels that touch at a corner are connected


@dataclasses.dataclass(frozen=True)
class Region:
    """A connected region of a score map above the pixel threshold.

    Attributes:
      box: the bounding box's left, top, width and height in pixels.
      area: the number of its pixels.
      peak: the largest score.
      peak_at: x and y of the pixel with this score.
      depth_difference: the region's median z minus that of its surroundings, in metres:
        positive for a hole, negative for a bump. None without z, or if the region or
        its surroundings have no depth.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    peak_at: tuple[int, int]
    depth_difference: float | None = None


def marked_regions(
    score_map: Float32[np.ndarray, "h w"],
    pixel_threshold: float,
    z: Float32[np.ndarray, "h w"] | None = None,
) -> tuple[Region, ...]:
    """The 8-connected regions above the threshold, highest peak first.

    Args:
      score_map: higher is more anomalous.
      pixel_threshold: pixels strictly above are marked.
      z: distance along the optical axis in metres in the map's size, 0 = missing.
    """
    labels, _ = ndimage.label(score_map > pixel_threshold, EIGHT_CONNECTED)
    present = None if z is None else np.where(z == 0, np.nan, z)
    regions = [
        _describe(score_map, labels, index, box, present)
        for index, box in enumerate(ndimage.find_objects(labels), start=1)
    ]
    return tuple(sorted(regions, key=lambda region: -region.peak))


def _describe(
    score_map: Float32[np.ndarray, "h w"],
    labels: np.ndarray,
    index: int,
    box: tuple[slice, slice],
    z: Float32[np.ndarray, "h w"] | None,
) -> Region:
    rows, columns = box
    inside = labels[box] == index
    scores = np.where(inside, score_map[box], -np.inf)
    row, column = np.unravel_index(np.argmax(scores), scores.shape)
    area = int(inside.sum())
    return Region(
        box=(
            *(columns.start, rows.start),
            *(columns.stop - columns.start, rows.stop - rows.start),
        ),
        area=area,
        peak=float(scores[row, column]),
        peak_at=(columns.start + int(column), rows.start + int(row)),
        depth_difference=None if z is None else _depth(labels, index, box, area, z),
    )


def _depth(
    labels: np.ndarray,
    index: int,
    box: tuple[slice, slice],
    area: int,
    z: Float32[np.ndarray, "h w"],
) -> float | None:
    """Median z in the region minus that in a frame half its size around it.

    The frame is equally wide on all sides, so that the slope of a tilted part cancels.
    Pixels of other regions do not belong to the frame.
    """
    width = max(2, round(area**0.5 / 2))
    crop = tuple(slice(max(0, s.start - width), s.stop + width) for s in box)
    region = labels[crop] == index
    around = ndimage.maximum_filter(region, 2 * width + 1, mode="constant")
    inner = _median(z[crop], region)
    outer = _median(z[crop], around & (labels[crop] == 0))
    return None if inner is None or outer is None else inner - outer


def _median(
    z: Float[np.ndarray, "h w"], chosen: Bool[np.ndarray, "h w"]
) -> float | None:
    values = z[chosen & ~np.isnan(z)]
    return float(np.median(values)) if values.size else None
