"""Decides on new parts by the scores of good parts that a network did not see.

Split: every pair leaves out the same n good parts (split-conformal prediction; Vovk et
al., "Algorithmic learning in a random world", 2005; Bates et al., "Testing for outliers
with conformal p-values", 2023, section 1.2). Cross: each fold's pair leaves out its own
fold, so that every good part gets a score (CV+; Barber, Candès, Ramdas, Tibshirani,
"Predictive inference with the jackknife+", 2021). The scores may have any distribution.
The rates hold on average over random draws of the good parts.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Int

from ast_jax.errors import UserError

_ROUNDING = 1e-9
"""0.29 · 100 is a little less than 29 in floating point, and must not become 28."""
_SMALLEST = 1e-300
"""1 / alpha is infinite for a smaller alpha."""
# Image scores [b], or every fold's own [b, k].
OwnScores = Float[np.ndarray, " b"] | Float[np.ndarray, "b k"]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The scores of left-out good parts, and the decisions by them.

    `calibrate` makes one.

    Attributes:
      alpha: the false-alarm rate that the user wants.
      scores: the left-out parts' image scores, ascending; n of them, at least one.
      map_maxima: the largest value of each left-out part's score map, ascending.
      score_folds: the fold, from 0, whose pair gave each score; empty with split.
      maximum_folds: the fold of each map maximum, likewise.
    """

    alpha: float
    scores: tuple[float, ...]
    map_maxima: tuple[float, ...]
    score_folds: tuple[int, ...] = ()
    maximum_folds: tuple[int, ...] = ()

    @property
    def is_cross(self) -> bool:
        """Whether each fold's own pair scores a new part."""
        return bool(self.score_folds)

    @property
    def folds(self) -> int:
        """The number of folds; 1 with split."""
        return max(self.score_folds) + 1 if self.is_cross else 1

    @property
    def smallest(self) -> float:
        """1 / (n + 1), the smallest possible p-value."""
        return 1 / (len(self.scores) + 1)

    @property
    def attainable(self) -> float:
        """The rate that decides: the largest k / (n + 1) ≤ alpha, else 1 / (n + 1)."""
        return self.exceeding / (len(self.scores) + 1)

    @property
    def guaranteed(self) -> float:
        """A bound on the rate of false alarms; with split it is `attainable`."""
        if not self.is_cross:
            return self.attainable
        sizes = np.bincount(self.score_folds).tolist()
        return cross_bound(self.exceeding, sizes)

    @property
    def threshold(self) -> float:
        """The k-th largest left-out score.

        With split, a part with a higher score is anomalous. With cross, each fold's
        pair has its own scores, so the limit differs a little from part to part
        (`thresholds`); this is the limit of a part on which all pairs agree.
        """
        return self.scores[-self.exceeding]

    @property
    def pixel_threshold(self) -> float:
        """The k-th largest of the left-out maps' maxima; with cross as `threshold`.

        A good part has a marked pixel at most as often as it raises an alarm. The bound
        counts parts, because parts are exchangeable and pixels are not.
        """
        return self.map_maxima[-self.exceeding]

    def with_parts(
        self, own: Float[np.ndarray, "b k"], own_maxima: Float[np.ndarray, "b k"]
    ) -> "Calibration":
        """Returns a calibration with more good parts, which no pair has seen.

        With cross each new part joins one fold, in turn.

        Args:
          own: the new parts' image scores, of each fold.
          own_maxima: the maxima of their maps, likewise.
        """
        rows = np.arange(len(own))
        folds = (len(self.scores) + rows) % self.folds
        scores = np.array([*self.scores, *own[rows, folds]])
        maxima = np.array([*self.map_maxima, *own_maxima[rows, folds]])
        if not self.is_cross:
            return dataclasses.replace(
                self,
                scores=tuple(np.sort(scores).tolist()),
                map_maxima=tuple(np.sort(maxima).tolist()),
            )
        by_score = np.argsort(scores, kind="stable")
        by_maximum = np.argsort(maxima, kind="stable")
        score_folds = np.array([*self.score_folds, *folds])
        maximum_folds = np.array([*self.maximum_folds, *folds])
        return Calibration(
            self.alpha,
            tuple(scores[by_score].tolist()),
            tuple(maxima[by_maximum].tolist()),
            tuple(score_folds[by_score].tolist()),
            tuple(maximum_folds[by_maximum].tolist()),
        )

    def with_alpha(self, alpha: float) -> "Calibration":
        """Returns a calibration at another rate; warns if the rate is unattainable.

        Raises:
          UserError: alpha is not between 0 and 1.
        """
        _check_alpha(alpha)
        result = dataclasses.replace(self, alpha=float(alpha))
        _warn_if_unattainable(result)
        return result

    def p_values(self, scores: OwnScores) -> Float[np.ndarray, " b"]:
        """(1 + number of left-out scores ≥ the part's) / (n + 1), for each part.

        A part is anomalous if and only if its p-value is at most `attainable`.

        Args:
          scores: the image scores. With cross, the scores of each fold's pair, which
            are compared with the scores that this pair gave to its left-out parts.
        """
        return (1 + self._count_at_least(scores)) / (len(self.scores) + 1)

    def anomalous(self, scores: OwnScores) -> Bool[np.ndarray, " b"]:
        """Whether the p-value is at most `attainable`; a NaN is anomalous too."""
        if not self.is_cross:
            return ~(np.reshape(scores, len(scores)) <= self.threshold)
        few = self._count_at_least(scores) < self.exceeding
        return few | np.isnan(_columns(scores)).any(1)

    def thresholds(
        self, scores: Float[np.ndarray, " b"], by_fold: OwnScores
    ) -> Float[np.ndarray, " b"]:
        """The limit of each part; it is anomalous if and only if its score is higher.

        Args:
          scores: the image scores.
          by_fold: the argument of `anomalous`.
        """
        if not self.is_cross:
            return np.full(len(scores), self.threshold)
        return scores - self._margins(by_fold, self.scores, self.score_folds)

    def pixel_thresholds(
        self, maxima: Float[np.ndarray, " b"], by_fold: OwnScores
    ) -> Float[np.ndarray, " b"]:
        """The limit of each part's pixels; like `thresholds`, for the maps' maxima.

        A part has a marked pixel if and only if the p-value of its maxima is at most
        `attainable`.
        """
        if not self.is_cross:
            return np.full(len(maxima), self.pixel_threshold)
        return maxima - self._margins(by_fold, self.map_maxima, self.maximum_folds)

    def to_dict(self) -> dict[str, Any]:
        """The attributes, without those that are empty."""
        tree = dataclasses.asdict(self)
        return {key: value for key, value in tree.items() if value != ()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """The inverse of `to_dict`, through JSON or not."""
        names = ("scores", "map_maxima", "score_folds", "maximum_folds")
        tuples = {key: tuple(values[key]) for key in names if key in values}
        return cls(float(values["alpha"]), **tuples)

    @property
    def exceeding(self) -> int:
        """k: the number of highest ranks, of n + 1, that raise an alarm."""
        count = len(self.scores)
        # At most n, for an alpha close to 1: a score above all left-out ones is rank 1.
        return min(count, max(1, math.floor(self.alpha * (count + 1) + _ROUNDING)))

    def _count_at_least(self, scores: OwnScores) -> Int[np.ndarray, " b"]:
        """The number of left-out scores that are at least the part's."""
        columns = _columns(scores)
        held_out, folds = np.array(self.scores), np.array(self.score_folds)
        counts = np.zeros(len(columns), int)
        for fold, column in enumerate(columns.T):
            mine = held_out[folds == fold] if self.is_cross else held_out
            counts += mine.size - np.searchsorted(mine, column, side="left")
        return counts

    def _margins(
        self, by_fold: Float[np.ndarray, "b k"], left_out: Sequence[float], folds: Any
    ) -> Float[np.ndarray, " b"]:
        """The distance by which all folds' values must fall for the part to be good.

        Fewer than k left-out values are at least the part's if and only if the k-th
        smallest difference between the part's and a left-out value is positive.
        """
        differences = np.asarray(by_fold, float)[:, list(folds)] - np.array(left_out)
        return np.partition(differences, self.exceeding - 1, 1)[:, self.exceeding - 1]


def _columns(scores: OwnScores) -> Float[np.ndarray, "b k"]:
    return scores[:, None] if np.ndim(scores) == 1 else scores


def cross_bound(exceeding: int, sizes: Sequence[int]) -> float:
    """An upper bound on the false-alarm rate of cross decisions, for any networks.

    There is an alarm if fewer than k = `exceeding` left-out scores, in K folds of m
    parts, are at least the part's. The result is the smallest of three bounds:

    * Barber et al. 2021, theorem 4, from the count in its proof: at most 2 (k − 1) + m
      of n + m parts can win so many comparisons, so the rate is at most (2 (k − 1) + m)
      / (n + m). Folds must have one size, and training must treat parts alike.
    * Let N be the number of left-out scores of one fold that are at least the part's:
      P(N ≤ j) ≤ (j + 1) / (m + 1), because part and fold are exchangeable. An alarm
      needs N ≤ k − 1 in each fold, so the rate is at most k / (m + 1).
    * An alarm needs Σ N ≤ k − 1 over the folds, so Σ max(a − N, 0) ≥ a K − (k − 1). By
      Markov the rate is at most K a (a + 1) / (2 (m + 1) (a K − k + 1)), for every a.

    Args:
      exceeding: k.
      sizes: the number of parts that each fold left out.
    """
    n, most, count = sum(sizes), max(sizes), len(sizes)
    bounds = [1.0, exceeding / (most + 1)]
    if min(sizes) == most:
        bounds.append((2 * (exceeding - 1) + most) / (n + most))
    for a in range(1, min(sizes) + 2):
        if (spare := a * count - exceeding + 1) > 0:
            bounds.append(sum(a * (a + 1) / (2 * (m + 1)) for m in sizes) / spare)
    return min(bounds)


def calibrate(
    scores: Float[np.ndarray, " n"],
    map_maxima: Float[np.ndarray, " n"],
    alpha: float,
    folds: Int[np.ndarray, " n"] | None = None,
) -> Calibration | None:
    """Calibrates on good parts that were left out of training.

    Args:
      scores: their image scores.
      map_maxima: the largest value of each part's score map, at the resolution at which
        pixels are marked.
      alpha: the wanted false-alarm rate, in (0, 1). If n + 1 < 1 / alpha, there are too
        few parts for it; the smallest possible rate is used, with a warning.
      folds: with cross the fold of each part, from 0; None with split.

    Returns:
      The calibration; None if there are no left-out parts.

    Raises:
      UserError: alpha is not between 0 and 1.
      ValueError: a score or maximum is NaN.
    """
    _check_alpha(alpha)
    if np.isnan(scores).any() or np.isnan(map_maxima).any():
        raise ValueError("Got a NaN among the scores to calibrate on.")
    if not scores.size:
        return None
    by_score, by_maximum = (np.argsort(a, kind="stable") for a in (scores, map_maxima))
    result = Calibration(
        alpha,
        tuple(scores[by_score].astype(float).tolist()),
        tuple(map_maxima[by_maximum].astype(float).tolist()),
        *(() if folds is None else _reorder(folds, by_score, by_maximum)),
    )
    _warn_if_unattainable(result)
    return result


def _reorder(folds: np.ndarray, *orders: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(folds[order].tolist()) for order in orders]


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise UserError(
            f"calibration.alpha is {alpha}; give a rate between 0 and 1, such as 0.01"
        )


def _warn_if_unattainable(calibration: Calibration) -> None:
    """Warns if the calibration has too few parts for its rate."""
    alpha, attainable = calibration.alpha, calibration.attainable
    if attainable > alpha + _ROUNDING:
        needed = math.ceil(1 / max(alpha, _SMALLEST) - _ROUNDING) - 1
        logging.warning(
            "%d held-out good images cannot guarantee calibration.alpha = %g, which "
            "takes %d: using the smallest attainable, %.3g",
            *(len(calibration.scores), alpha, needed, attainable),
        )
