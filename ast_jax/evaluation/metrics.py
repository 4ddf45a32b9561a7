"""Metrics of a test set at image and pixel level: exact, with scikit-learn's ties.

A metric is None if there are no defects or nothing good. Pixel metrics read the maps
one by one, so a test set of full-size images fits in memory.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
)

from ast_jax.evaluation.region_overlap import (
    PixelScores,
    area_under_pro,
    area_under_pro_sampled,
    false_positive_rates,
    scores_by_component,
    scores_by_defect,
)

FPR_LIMITS = (0.3, 0.1, 0.05, 0.01)
"""AU-PRO is integrated up to these false positive rates."""

SPRO_LIMITS = (1.0, *FPR_LIMITS)
"""AU-sPRO is integrated up to these, as in MVTec LOCO's script."""

_SAMPLED_LIMIT = 0.01
_PIXEL_KEYS = (
    *("pixel_auroc", "pixel_ap", "pixel_f1_max"),
    *(f"au_pro_{limit}" for limit in FPR_LIMITS),
    f"au_pro_{_SAMPLED_LIMIT}_100_thresholds",
)
_SPRO_KEYS = tuple(f"au_spro_{limit}" for limit in SPRO_LIMITS)


def image_auroc(
    labels: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> float | None:
    """Area under the ROC curve; `labels` is True for defective images.

    None if all images are good or all are defective.
    """
    return float(roc_auc_score(labels, scores)) if _both_occur(labels) else None


def image_ap(
    labels: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> float | None:
    """Average precision, `Σ_k (R_k − R_{k−1}) P_k`; None as for `image_auroc`."""
    return (
        float(average_precision_score(labels, scores)) if _both_occur(labels) else None
    )


def image_f1_max(
    labels: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> float | None:
    """The best F1 over all thresholds; None as for `image_auroc`.

    The threshold is chosen on the test images themselves. Benchmarks print this figure;
    a production line cannot expect it.
    """
    if not _both_occur(labels):
        return None
    precision, recall, _ = precision_recall_curve(labels, scores)
    nonzero = np.maximum(precision + recall, np.finfo(np.float64).tiny)
    return float(np.max(2 * precision * recall / nonzero))


def image_metrics(
    labels: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> dict[str, float | None]:
    """`image_auroc`, `image_ap` and `image_f1_max` by these names."""
    return {
        "image_auroc": image_auroc(labels, scores),
        "image_ap": image_ap(labels, scores),
        "image_f1_max": image_f1_max(labels, scores),
    }


def pixel_metrics(
    maps: Iterable[Float32[np.ndarray, "_h _w"]],
    masks: Iterable[Bool[np.ndarray, "_h _w"]],
) -> dict[str, float | None]:
    """All pixel metrics of a test set, over all its pixels together.

    Args:
      maps: score maps, higher is more anomalous. Sizes may differ; they are read once,
        in order, and may come from a generator.
      masks: the ground truth of each map in its size; all False for a good image.

    Returns:
      `pixel_auroc`, `pixel_ap`, `pixel_f1_max`; `au_pro_0.3`, `au_pro_0.1`,
      `au_pro_0.05`, `au_pro_0.01` at exact thresholds over 8-connected regions; and
      `au_pro_0.01_100_thresholds`, the approximation of papers that follow MVTec
      3D-AD's script (`region_overlap.area_under_pro_sampled`). All are None if no pixel
      or every pixel is defective.

    Raises:
      ValueError: as in `region_overlap.scores_by_component`.
    """
    scores = scores_by_component(maps, masks)
    if not scores.comparable:
        return dict.fromkeys(_PIXEL_KEYS)
    values = (
        *_detection(scores),
        *area_under_pro(scores, FPR_LIMITS),
        area_under_pro_sampled(scores, _SAMPLED_LIMIT),
    )
    return {key: float(value) for key, value in zip(_PIXEL_KEYS, values, strict=True)}


def spro_metrics(
    maps: Iterable[Float32[np.ndarray, "_h _w"]],
    masks: Iterable[Sequence[Bool[np.ndarray, "_h _w"]]],
    saturations: Iterable[Sequence[float]],
) -> dict[str, float | None]:
    """AU-sPRO of MVTec LOCO, where a partly covered defect can count as found.

    Call it once for logical and once for structural defects, each with the good images.

    Args:
      maps: score maps, as in `pixel_metrics`.
      masks: for each map one mask per defect; empty for a good image.
      saturations: for each mask its saturation area in pixels.

    Returns:
      `au_spro_1.0`, `au_spro_0.3`, `au_spro_0.1`, `au_spro_0.05`, `au_spro_0.01`. All
      are None if no pixel or every pixel is defective.

    Raises:
      ValueError: as in `region_overlap.scores_by_defect`.
    """
    scores = scores_by_defect(maps, masks, saturations)
    if not scores.comparable:
        return dict.fromkeys(_SPRO_KEYS)
    values = area_under_pro(scores, SPRO_LIMITS)
    return {key: float(value) for key, value in zip(_SPRO_KEYS, values, strict=True)}


def _both_occur(labels: Bool[np.ndarray, " n"]) -> bool:
    return bool(labels.any() and not labels.all())


def _detection(scores: PixelScores) -> tuple[float, float, float]:
    """AUROC, average precision and best F1 of the pixels.

    Recall changes only at the scores of defect pixels, and precision and F1 are highest
    there, so these scores are the only thresholds that count.
    """
    thresholds, counts = np.unique(np.concatenate(scores.regions), return_counts=True)
    before, after = false_positive_rates(scores.good, thresholds)
    defective = counts.sum()
    found = np.cumsum(counts[::-1])[::-1]
    marked = found + after * scores.good.size
    auroc = 1 - counts @ (before + after) / 2 / defective
    average_precision = counts @ (found / marked) / defective
    return auroc, average_precision, np.max(2 * found / (defective + marked))
