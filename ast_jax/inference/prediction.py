"""What a detector says of one part: score, decision, map and marked regions."""

import dataclasses
import functools
from collections.abc import Callable
from html import escape as html_escape

import numpy as np
from jaxtyping import Float32

from ast_jax.data.part import Part
from ast_jax.inference.calibration import Calibration
from ast_jax.inference.regions import Region, marked_regions
from ast_jax.inference.score_map import resized


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One scored part. Without a calibration every decision is None.

    Attributes:
      score: the image score.
      fine: the score map at 8 times the feature map's resolution.
      part: what was scored, decoded.
      calibration: of the category, or None.
      html: of a prediction, what a notebook shows.
    """

    score: float
    fine: Float32[np.ndarray, "a b"] = dataclasses.field(repr=False)
    part: Part = dataclasses.field(repr=False)
    calibration: Calibration | None = dataclasses.field(repr=False)
    html: Callable[["Prediction"], str] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    @functools.cached_property
    def map(self) -> Float32[np.ndarray, "h w"]:
        """The score map at the part's own resolution."""
        return resized(self.fine, self.part.size)

    @property
    def threshold(self) -> float | None:
        """A part with a higher score is anomalous."""
        return self.calibration and self.calibration.threshold

    @property
    def pixel_threshold(self) -> float | None:
        """A pixel with a higher score is marked."""
        return self.calibration and self.calibration.pixel_threshold

    @property
    def p_value(self) -> float | None:
        """How probable so high a score is for a good part."""
        if self.calibration is None:
            return None
        return float(self.calibration.p_values(np.array([self.score]))[0])

    @property
    def anomalous(self) -> bool | None:
        """Whether the score is above the threshold."""
        if self.calibration is None:
            return None
        return bool(self.calibration.anomalous(np.array([self.score]))[0])

    @functools.cached_property
    def regions(self) -> tuple[Region, ...] | None:
        """Where the map is above the pixel threshold, highest peak first."""
        if self.calibration is None:
            return None
        return marked_regions(self.map, self.calibration.pixel_threshold, self.part.z)

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: score, decision and heat map."""
        return self.html(self) if self.html else html_escape(repr(self))
