"""A detector's result for one part: score, decision, map and marked regions."""

import dataclasses
import functools
from collections.abc import Callable
from html import escape as html_escape

import numpy as np
from jaxtyping import Float, Float32

from ast_jax.data.part import Part
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.regions import Region, marked_regions
from ast_jax.inference.score_map import resize_map


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One scored part. Without a calibration every decision is None.

    Attributes:
      score: the image score.
      fine: the score map at 8 times the feature map's resolution.
      part: the part, decoded.
      calibration: of the category, or None.
      html: makes a notebook's picture of a prediction.
      score_by_fold: with cross calibration the image score of each fold's own pairs.
      maximum_by_fold: with cross calibration each fold's own highest map value.
    """

    score: float
    fine: Float32[np.ndarray, "a b"] = dataclasses.field(repr=False)
    part: Part = dataclasses.field(repr=False)
    calibration: Calibration | None = dataclasses.field(repr=False)
    html: Callable[["Prediction"], str] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )
    score_by_fold: Float[np.ndarray, " k"] | None = None
    maximum_by_fold: Float[np.ndarray, " k"] | None = dataclasses.field(
        default=None, repr=False
    )

    @functools.cached_property
    def map(self) -> Float32[np.ndarray, "h w"]:
        """The score map at the part's own resolution."""
        return resize_map(self.fine, self.part.size)

    @property
    def threshold(self) -> float | None:
        """The limit of the score; the part is anomalous if its score is higher."""
        if self.calibration is None:
            return None
        score = np.array([self.score])
        return float(self.calibration.thresholds(score, self.own_scores)[0])

    @property
    def pixel_threshold(self) -> float | None:
        """The limit of the map; a pixel with a higher score is marked."""
        if self.calibration is None:
            return None
        maximum = np.array([self.maximum])
        by_fold = maximum
        if self.maximum_by_fold is not None:
            by_fold = self.maximum_by_fold[None]
        return float(self.calibration.pixel_thresholds(maximum, by_fold)[0])

    @property
    def maximum(self) -> float:
        """The highest value of `fine`; it decides whether any pixel is marked."""
        return float(self.fine.max())

    @property
    def own_scores(self) -> Float[np.ndarray, "1 ..."]:
        """The scores that the calibration compares: the image score, or each fold's."""
        if self.score_by_fold is None:
            return np.array([self.score])
        return self.score_by_fold[None]

    @property
    def p_value(self) -> float | None:
        """The probability that a good part has such a high score."""
        if self.calibration is None:
            return None
        return float(self.calibration.p_values(self.own_scores)[0])

    @property
    def anomalous(self) -> bool | None:
        """Whether the score is above the threshold."""
        if self.calibration is None:
            return None
        return bool(self.calibration.anomalous(self.own_scores)[0])

    @functools.cached_property
    def regions(self) -> tuple[Region, ...] | None:
        """The regions of the map above the pixel threshold, highest peak first."""
        if self.calibration is None:
            return None
        return marked_regions(self.map, self.pixel_threshold, self.part.z)

    def _repr_html_(self) -> str:
        """Returns a notebook's view: score, decision and heat map."""
        return self.html(self) if self.html else html_escape(repr(self))
