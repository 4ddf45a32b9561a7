"""Scores a run's test images and computes the figures of `results.json`.

Image scores follow the paper's protocol (section 4.2.4): the maximum of the map where a
foreground mask exists, else its mean. Pixel figures are at each image's own resolution,
and once more at the authors' (METHOD.md "Score and metrics").
"""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from ast_jax.data.depth import resize_bilinear
from ast_jax.data.parts import GOOD, Part, Parts
from ast_jax.ensemble import Scores, upsampled
from ast_jax.evaluation.metrics import image_metrics, pixel_metrics

Metrics = dict[str, float | None]


def map_at(
    score_map: Float[np.ndarray, "a b"], size: tuple[int, int] | None = None
) -> Float[np.ndarray, "h w"]:
    """A score map at 8 times its resolution (192), then at an image's (height, width).

    Bicubic to 192, the authors' step; bilinear from there.
    """
    fine = upsampled(score_map)
    if size is None:
        return fine
    height, width = size
    resized = Image.fromarray(fine).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def image_figures(labels: Bool[np.ndarray, " n"], scores: Scores) -> Metrics:
    """Image AUROC by the protocol's score, by maximum and by mean; AP and best F1."""
    figures = image_metrics(labels, scores.image)
    for name, values in (("max", scores.maximum), ("mean", scores.mean)):
        figures[f"image_auroc_{name}"] = image_metrics(labels, values)["image_auroc"]
    return figures


def _with_ground_truth(parts: Parts) -> Iterator[tuple[int, Part]]:
    for index in range(len(parts)):
        part = parts[index]
        if part.masks is not None:
            yield index, part


def pixel_figures(parts: Parts, scores: Scores) -> Metrics:
    """Pixel metrics at each image's own resolution, and `pixel_auroc_192`.

    Parts without ground truth are left out.
    """

    def native(pairs: Iterator[tuple[int, Part]]):
        return (map_at(scores.maps[i], part.size) for i, part in pairs)

    # Decoded once for the map's size and the mask, which are read in step.
    for_maps, for_masks = itertools.tee(_with_ground_truth(parts))
    masks = (part.mask for _, part in for_masks)
    figures = pixel_metrics(native(for_maps), masks)
    for_maps, for_masks = itertools.tee(_with_ground_truth(parts))
    fine = 8 * scores.maps.shape[1]
    small = pixel_metrics(
        (map_at(scores.maps[i]) for i, _ in for_maps),
        (
            resize_bilinear(part.mask.astype(np.float32), fine) > 0
            for _, part in for_masks
        ),
    )
    return {**figures, "pixel_auroc_192": small["pixel_auroc"]}


def missing_reasons(parts: Parts, figures: Metrics) -> dict[str, str]:
    """Why a metric is null, by its name."""
    defective = [defect != GOOD for defect in parts.defects]
    if not any(defective):
        reason = "the test set has no defective image"
    elif all(defective):
        reason = "the test set has no good image"
    else:
        reason = "the defective test images have no ground truth"
    return {name: reason for name, value in figures.items() if value is None}


def figures(parts: Parts, scores: Scores) -> dict:
    """All figures of one category; under "reasons" why any of them is null."""
    labels = np.asarray([defect != GOOD for defect in parts.defects], bool)
    values = {**image_figures(labels, scores), **pixel_figures(parts, scores)}
    reasons = missing_reasons(parts, values)
    return {**values, "reasons": reasons} if reasons else values


def mean_figures(many: list[dict]) -> dict:
    """The mean of each figure over those that have it; null where none has."""
    names = dict.fromkeys(
        name
        for figures in many
        for name, value in figures.items()
        if value is None or isinstance(value, float)
    )
    return {name: _mean([figures.get(name) for figures in many]) for name in names}


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
