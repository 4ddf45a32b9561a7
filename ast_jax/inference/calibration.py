"""From scores of held-out good parts to decisions with a guaranteed false-alarm rate.

Split-conformal prediction (Vovk et al., "Algorithmic learning in a random world", 2005;
Bates et al., "Testing for outliers with conformal p-values", 2023, section 1.2): if a
new good part is exchangeable with n held-out good ones, its score is equally likely to
take each of the n + 1 ranks. No defect and no test image is needed, and nothing is
assumed of the scores' distribution. The rate holds on average over the draws of the
held-out parts; a single draw's rate scatters around it.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from absl import logging
from jaxtyping import Bool, Float
from scipy import stats

from ast_jax.errors import UserError

_ROUNDING = 1e-9
"""Keeps alpha (n + 1) = 0.29 · 100 from being floored to 28."""
_SMALLEST = 1e-300
"""Below, 1 / alpha is infinite."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What held-out good parts say about a new part; `calibrate` makes one.

    Attributes:
      alpha: the false-alarm rate asked for.
      scores: the held-out parts' image scores, ascending; n of them, at least one.
      map_maxima: the largest value of each held-out part's score map, ascending.
    """

    alpha: float
    scores: tuple[float, ...]
    map_maxima: tuple[float, ...]

    @property
    def attained_alpha(self) -> float:
        """The guaranteed rate: the largest k / (n + 1) ≤ alpha, else 1 / (n + 1)."""
        return self._exceeding / (len(self.scores) + 1)

    @property
    def threshold(self) -> float:
        """A part whose score is above is anomalous: the k-th largest held-out score."""
        return self.scores[-self._exceeding]

    @property
    def pixel_threshold(self) -> float:
        """A pixel above is marked: the k-th largest of the held-out maps' maxima.

        Pixels are not exchangeable, parts are: at most `attained_alpha` of the good
        parts show any marked pixel.
        """
        return self.map_maxima[-self._exceeding]

    def p_values(self, scores: Float[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
        """(1 + number of held-out scores ≥ score) / (n + 1), of each part.

        At most `attained_alpha` exactly where the part is anomalous.
        """
        count = len(self.scores)
        at_least = count - np.searchsorted(np.array(self.scores), scores, side="left")
        return (1 + at_least) / (count + 1)

    def anomalous(self, scores: Float[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
        """Whether each score is above the threshold; NaN too is no sign of good."""
        return ~(scores <= self.threshold)

    @classmethod
    def from_dict(cls, values: Mapping) -> "Calibration":
        """The inverse of `dataclasses.asdict`, through JSON or not."""
        return cls(
            float(values["alpha"]), tuple(values["scores"]), tuple(values["map_maxima"])
        )

    @property
    def _exceeding(self) -> int:
        """k: of the n + 1 ranks, the number of highest ones that raise an alarm."""
        count = len(self.scores)
        # An alpha next to 1 would take all ranks, also that above every held-out score.
        return min(count, max(1, math.floor(self.alpha * (count + 1) + _ROUNDING)))


def calibrate(
    scores: Float[np.ndarray, " n"], map_maxima: Float[np.ndarray, " n"], alpha: float
) -> Calibration | None:
    """Calibrates on good parts that were held out of training.

    Args:
      scores: their image scores.
      map_maxima: the largest value of each one's score map, at the resolution at which
        pixels will be marked.
      alpha: the false-alarm rate asked for, in (0, 1). Where n + 1 < 1 / alpha it
        cannot be guaranteed; the smallest rate that can is used, with a warning.

    Returns:
      None without held-out parts: then there is no threshold.

    Raises:
      UserError: alpha is not between 0 and 1.
      ValueError: a score or maximum is NaN.
    """
    if not 0 < alpha < 1:
        raise UserError(
            f"calibration.alpha is {alpha}; give a rate between 0 and 1, such as 0.01"
        )
    if np.isnan(scores).any() or np.isnan(map_maxima).any():
        raise ValueError("Got a NaN among the scores to calibrate on.")
    if not scores.size:
        return None
    result = Calibration(
        alpha,
        tuple(np.sort(scores).astype(float).tolist()),
        tuple(np.sort(map_maxima).astype(float).tolist()),
    )
    if result.attained_alpha > alpha + _ROUNDING:
        logging.warning(
            "%d held-out good images cannot guarantee calibration.alpha = %g, which "
            "takes %d: using the smallest attainable, %.3g",
            *(scores.size, alpha, math.ceil(1 / max(alpha, _SMALLEST) - _ROUNDING) - 1),
            result.attained_alpha,
        )
    return result


@dataclasses.dataclass(frozen=True)
class Proportion:
    """An observed share with its exact 95 % confidence interval.

    Attributes:
      count: how many were counted.
      total: of how many, at least one.
    """

    count: int
    total: int

    @property
    def value(self) -> float:
        """The observed share."""
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson's interval (Biometrika 26, 1934); it includes 0 and 1."""
        interval = stats.binomtest(self.count, self.total).proportion_ci(
            confidence_level=0.95, method="exact"
        )
        return float(interval.low), float(interval.high)


def share_of_alarms(alarms: Bool[np.ndarray, " n"]) -> Proportion | None:
    """The false-alarm rate if the parts are good, recall if defective; None of none."""
    return Proportion(int(alarms.sum()), alarms.size) if alarms.size else None
