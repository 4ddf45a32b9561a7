"""Computes the figures of `results.json` from the scores of test images.

Image scores follow the paper's protocol (section 4.2.4): the maximum of the map if a
foreground mask exists, else its mean. Pixel figures are at each image's own resolution;
one more is at the authors' (docs/method.md "Score and metrics").
"""

import collections
import itertools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from ast_jax.data.depth import resize_bilinear
from ast_jax.data.part import GOOD, Part, Parts
from ast_jax.evaluation.metrics import image_metrics, pixel_metrics, spro_metrics
from ast_jax.inference.ensemble import Scores

Metrics = dict[str, float | None]
NO_KINDS: Mapping[str, str] = types.MappingProxyType({})


def image_figures(labels: Bool[np.ndarray, " n"], scores: Scores) -> Metrics:
    """Image AUROC by the protocol's score, by maximum and by mean; AP and best F1."""
    figures = image_metrics(labels, scores.image)
    for name, values in (("max", scores.maximum), ("mean", scores.mean)):
        figures[f"image_auroc_{name}"] = image_metrics(labels, values)["image_auroc"]
    return figures


def pixel_figures(parts: Parts, scores: Scores) -> Metrics:
    """Pixel metrics at each image's own resolution, and `pixel_auroc_192`.

    Leaves out parts without ground truth.
    """
    fine = 8 * scores.maps.shape[1]
    figures = pixel_metrics(
        *_iterate_in_step(
            parts,
            lambda index, part: scores.map_at(index, part.size),
            lambda index, part: part.mask,
        )
    )
    small = pixel_metrics(
        *_iterate_in_step(
            parts,
            lambda index, part: scores.map_at(index),
            lambda index, part: resize_bilinear(part.mask.astype(np.float32), fine) > 0,
        )
    )
    return {**figures, "pixel_auroc_192": small["pixel_auroc"]}


def kind_figures(parts: Parts, scores: Scores) -> Metrics:
    """Image AUROC and AU-sPRO of one kind of defects and the good images.

    As in MVTec LOCO's script, whose image AUROC is our `image_auroc_max`.
    """
    images = image_figures(_labels(parts), scores)
    pixels = spro_metrics(
        *_iterate_in_step(
            parts,
            lambda index, part: scores.map_at(index, part.size),
            lambda index, part: part.masks,
            lambda index, part: part.saturations,
        )
    )
    aurocs = {name: value for name, value in images.items() if "auroc" in name}
    return {**aurocs, **pixels}


def missing_reasons(parts: Parts, figures: Metrics) -> dict[str, str]:
    """The reason for each metric that is null, by its name."""
    labels = _labels(parts)
    image_reason = "the test set has no good image"
    pixel_reason = "the defective test images have no ground truth"
    if not labels.size:
        image_reason = pixel_reason = "there are no test images"
    elif not labels.any():
        image_reason = pixel_reason = "the test set has no defective image"
    elif None in figures.values() and any(
        part.masks for part in parts.subset(np.flatnonzero(labels))
    ):
        pixel_reason = "the masks of the defective test images mark no pixel"
    return {
        name: image_reason if name.startswith("image_") else pixel_reason
        for name, value in figures.items()
        if value is None
    }


def notes(parts: Parts) -> list[str]:
    """A sentence for each defect type that pixel metrics leave out."""
    missing = collections.Counter(
        defect
        for index, defect in enumerate(parts.defects)
        if not parts.subset([index]).have("masks")
    )
    return [
        f"pixel metrics leave out the defect type {defect!r} (test images: {count}), "
        "which has no ground truth"
        for defect, count in sorted(missing.items())
    ]


def figures(
    parts: Parts, scores: Scores, kinds: Mapping[str, str] = NO_KINDS
) -> dict[str, Any]:
    """All figures of one category.

    Args:
      parts: its test images.
      scores: of one network.
      kinds: short name → defect type, of types that are measured apart (MVTec LOCO).
        Then `image_auroc…` and `au_spro_…` are the means over the kinds, and a kind's
        own figures end in its short name. All other figures are of all images.

    Returns:
      Metrics by name. "reasons" has the reason for each null, and "notes" sentences
      about images that are left out; both are absent if they are empty.
    """
    values = {
        **image_figures(_labels(parts), scores),
        **pixel_figures(parts, scores),
    }
    reasons = missing_reasons(parts, values)
    if kinds:
        apart, why = _figures_of_kinds(parts, scores, kinds)
        values |= apart
        reasons = {k: why.get(k, reasons.get(k)) for k in values if values[k] is None}
    left_out = [] if values["pixel_auroc"] is None else notes(parts)
    return (
        values
        | ({"reasons": reasons} if reasons else {})
        | ({"notes": left_out} if left_out else {})
    )


def mean_figures(many: list[dict]) -> dict:
    """The mean of each figure over those that have it; null if none has."""
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


def _labels(parts: Parts) -> Bool[np.ndarray, " n"]:
    """True for defective images."""
    return np.asarray([defect != GOOD for defect in parts.defects], bool)


def _iterate_in_step(
    parts: Parts, *functions: Callable[[int, Part], Any]
) -> list[Iterator[Any]]:
    """The results of each function for the parts with ground truth, as iterators.

    Read the iterators in step, so that each part is decoded once and none is kept.
    """
    pairs = ((index, parts[index]) for index in range(len(parts)))
    known = (pair for pair in pairs if pair[1].masks is not None)
    copies = itertools.tee(known, len(functions))
    return [itertools.starmap(*both) for both in zip(functions, copies, strict=True)]


def _figures_of_kinds(
    parts: Parts, scores: Scores, kinds: Mapping[str, str]
) -> tuple[Metrics, dict[str, str]]:
    """The figures of each kind and their means, and the reason for each null."""
    values: Metrics = {}
    reasons: dict[str, str] = {}
    for kind, defect in kinds.items():
        rows = [i for i, name in enumerate(parts.defects) if name in (GOOD, defect)]
        mine = kind_figures(parts.subset(rows), scores.select(rows))
        why = missing_reasons(parts.subset(rows), mine)
        if defect not in parts.defects:
            why = dict.fromkeys(why, f"the test set has no image of {defect!r}")
        values |= {f"{name}_{kind}": value for name, value in mine.items()}
        reasons |= why | {f"{name}_{kind}": reason for name, reason in why.items()}
    for name in mine:
        each = [values[f"{name}_{kind}"] for kind in kinds]
        values[name] = None if None in each else float(np.mean(each))
    return values, reasons
