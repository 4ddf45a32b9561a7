"""Area under the (saturated) per-region-overlap curve, exact at every threshold.

PRO is the mean fraction of each defect region that a threshold marks (Bergmann et al.,
IJCV 2021, section 5.1). sPRO counts a region as found once its saturation area is
marked (Bergmann et al., IJCV 2022, section 4.2). Both are functions of the false
positive rate (FPR) of the good pixels, integrated up to a limit, as in MVTec's scripts.

The area needs no curve. A region's pixel is marked from the FPR at its own score up to
the limit, so its part of the area is the limit minus that FPR. Sorted good scores and
two binary searches for each defect pixel give the area.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy import ndimage

from ast_jax.inference.regions import EIGHT_CONNECTED


@dataclasses.dataclass(frozen=True)
class PixelScores:
    """The scores of a test set's pixels, sorted for pixel metrics.

    Attributes:
      good: scores of the pixels outside every defect, ascending.
      regions: for each defect region the scores of its pixels, ascending.
      saturations: for each region the number of marked pixels from which it counts as
        found; the region's size for plain PRO.
    """

    good: Float32[np.ndarray, " good"]
    regions: tuple[Float32[np.ndarray, " _size"], ...]
    saturations: tuple[float, ...]

    @property
    def comparable(self) -> bool:
        """Whether there are good pixels and defects, so that metrics exist."""
        return bool(self.good.size and self.regions)


def scores_by_component(
    maps: Iterable[Float32[np.ndarray, "_h _w"]],
    masks: Iterable[Bool[np.ndarray, "_h _w"]],
) -> PixelScores:
    """Sorts the pixels of a test set by region: each 8-connected part of a mask.

    Args:
      maps: score maps, higher is more anomalous; sizes may differ. With a generator
        only one map is in memory, beside four bytes per pixel for the result.
      masks: ground truth of each map, in its size; all False for a good part.

    Raises:
      ValueError: the numbers of maps and masks differ, or the sizes of a map and its
        mask, or a score is not finite.
    """
    good, regions = [], []
    for score_map, mask in zip(maps, masks, strict=True):
        _check(score_map, mask)
        good.append(score_map[~mask])
        regions.extend(_components(score_map, mask))
    return PixelScores(
        _join_sorted(good), tuple(regions), tuple(float(r.size) for r in regions)
    )


def scores_by_defect(
    maps: Iterable[Float32[np.ndarray, "_h _w"]],
    masks: Iterable[Sequence[Bool[np.ndarray, "_h _w"]]],
    saturations: Iterable[Sequence[float]],
) -> PixelScores:
    """Sorts the pixels of a test set by region: each defect's mask, connected or not.

    Args:
      maps: score maps, as in `scores_by_component`.
      masks: for each map one mask per defect; empty for a good part. Masks may overlap;
        an empty mask is not a region.
      saturations: for each mask its saturation area in pixels (`saturation_area`).

    Raises:
      ValueError: as in `scores_by_component`, or a saturation area is not positive.
    """
    good, regions, areas = [], [], []
    for score_map, defects, limits in zip(maps, masks, saturations, strict=True):
        _check(score_map, *defects)
        good.append(score_map[~_union(defects, score_map.shape)])
        for mask, area in zip(defects, limits, strict=True):
            if not area > 0:
                raise ValueError(f"Got a saturation area of {area} px; it must be > 0.")
            if mask.any():
                regions.append(np.sort(score_map[mask]))
                areas.append(float(area))
    return PixelScores(_join_sorted(good), tuple(regions), tuple(areas))


def area_under_pro(
    scores: PixelScores, limits: Sequence[float]
) -> Float[np.ndarray, " limits"]:
    """The area under the (s)PRO curve from FPR 0 to each limit, divided by the limit.

    With good scores g and a region's pixels p in descending order, of which the first
    `saturation` count, `area = Σ_p w_p ∫_0^limit [p is marked at FPR x] dx`. Within a
    tie the curve is a straight line, and so it is at the limit.

    Args:
      scores: a test set with good pixels and defects.
      limits: false positive rates in (0, 1].

    Returns:
      One value in [0, 1] for each limit, the mean over all regions.
    """
    bounds = np.asarray(limits, np.float64)
    total = np.zeros(bounds.size)
    for region, saturation in zip(scores.regions, scores.saturations, strict=True):
        counted = region[-int(np.ceil(saturation)) :]
        weights = _weights(counted.size, saturation)
        before, after = false_positive_rates(scores.good, counted)
        total += [weights @ _marked_area(before, after, x) for x in bounds]
    return total / (bounds * len(scores.regions))


def area_under_pro_sampled(
    scores: PixelScores, limit: float, *, thresholds: int = 100
) -> float:
    """`area_under_pro` in the approximation of MVTec 3D-AD's script; no saturation.

    The thresholds are equidistant *ranks* of the good scores. Back to the Feature
    (Horwitz & Hoshen, 2022) and its successors use 100 thresholds. Then a limit of 0.01
    has a single sample below it, so these papers' figures are coarse: comparable with
    each other, but not with the exact value.
    """
    count = scores.good.size
    ranks = np.linspace(0, count - 1, thresholds, dtype=int)
    pro = np.zeros(thresholds)
    for region in scores.regions:
        marked_not = np.searchsorted(region, scores.good[ranks], side="right")
        pro += 1 - marked_not / region.size
    x = np.append(1 - (ranks[::-1] + 1) / count, 1.0)
    y = np.append(pro[::-1] / len(scores.regions), 1.0)
    below = x < limit
    x, y = np.append(x[below], limit), np.append(y[below], np.interp(limit, x, y))
    return float(np.trapezoid(y, x) / limit)


def false_positive_rates(
    good: Float32[np.ndarray, " good"], thresholds: Float32[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The fractions of ascending good scores above, and at or above, thresholds."""
    above = good.size - np.searchsorted(good, thresholds, side="right")
    at_or_above = good.size - np.searchsorted(good, thresholds, side="left")
    return above / good.size, at_or_above / good.size


def _marked_area(
    before: Float[np.ndarray, " n"], after: Float[np.ndarray, " n"], limit: float
) -> Float[np.ndarray, " n"]:
    """∫_0^limit of a step that rises linearly from 0 at `before` to 1 at `after`."""
    reached = np.minimum(after, limit) - before
    with np.errstate(divide="ignore", invalid="ignore"):
        cut_off = reached**2 / (2 * (after - before))
    whole = limit - (before + after) / 2
    return np.where(after <= limit, whole, np.where(reached > 0, cut_off, 0.0))


def _weights(size: int, saturation: float) -> Float[np.ndarray, " size"]:
    """Weights of ascending pixels: the `saturation` highest ones, equal, with sum 1."""
    descending = np.clip(saturation - np.arange(size), 0, 1) / saturation
    return descending[::-1]


def _components(
    score_map: Float32[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]
) -> list[Float32[np.ndarray, " _size"]]:
    """The ascending scores of each 8-connected component of the mask."""
    labels, count = ndimage.label(mask, EIGHT_CONNECTED)
    if not count:
        return []
    label, score = labels[mask], score_map[mask]
    ordered = score[np.lexsort((score, label))]
    ends: Int[np.ndarray, " count"] = np.cumsum(np.bincount(label)[1:])
    return np.split(ordered, ends[:-1])


def _check(
    score_map: Float32[np.ndarray, "_h _w"], *masks: Bool[np.ndarray, "_h _w"]
) -> None:
    for mask in masks:
        if score_map.shape != mask.shape:
            raise ValueError(
                f"Got a score map of {score_map.shape} for a mask of {mask.shape}."
            )
    if not np.isfinite(score_map).all():
        raise ValueError("Got a score map with values that are not finite.")


def _union(
    masks: Sequence[Bool[np.ndarray, "h w"]], shape: tuple[int, ...]
) -> Bool[np.ndarray, "h w"]:
    return np.any(masks, axis=0) if masks else np.zeros(shape, bool)


def _join_sorted(
    pieces: list[Float32[np.ndarray, " _size"]],
) -> Float32[np.ndarray, " total"]:
    """Joins all pieces in one sorted array; empties the list to save memory."""
    joined = np.concatenate([np.empty(0, np.float32), *pieces])
    pieces.clear()
    joined.sort()
    return joined
