"""From scores of good parts that a network did not see to decisions on new parts.

Split: every pair leaves the same n good parts out (split-conformal prediction; Vovk et
al., "Algorithmic learning in a random world", 2005; Bates et al., "Testing for outliers
with conformal p-values", 2023, section 1.2). Cross: each fold's pair leaves out its own
fold, so that every good part gets a score (CV+; Barber, Candès, Ramdas, Tibshirani,
"Predictive inference with the jackknife+", 2021). Nothing is assumed of the scores'
distribution. Rates hold on average over the draws of the good parts.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Int

from ast_jax.errors import UserError
from ast_jax.files import write_json
from ast_jax.inference.ensemble import Scale
from ast_jax.parallel import is_main
from ast_jax.run import Run

_ROUNDING = 1e-9
"""Keeps alpha (n + 1) = 0.29 · 100 from being floored to 28."""
_SMALLEST = 1e-300
"""Below, 1 / alpha is infinite."""
Scales = Mapping[str, Mapping[str, Scale]]  # member → network → scale
# Image scores [b], or every fold's own [b, k].
OwnScores = Float[np.ndarray, " b"] | Float[np.ndarray, "b k"]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What left-out good parts say about a new part; `calibrate` makes one.

    Attributes:
      alpha: the false-alarm rate asked for.
      scores: the left-out parts' image scores, ascending; n of them, at least one.
      map_maxima: the largest value of each left-out part's score map, ascending.
      score_folds: the fold, from 0, whose pair gave each score; empty with split.
      maximum_folds: likewise of each map maximum.
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
        """How many pairs score a new part against left-out parts of their own."""
        return max(self.score_folds) + 1 if self.is_cross else 1

    @property
    def smallest(self) -> float:
        """1 / (n + 1), the smallest p-value there is."""
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

        With split a part whose score is above is anomalous. With cross each fold's pair
        has scores of its own, so the limit differs a little from part to part
        (`thresholds`); this is the limit of a part on which all pairs agree.
        """
        return self.scores[-self.exceeding]

    @property
    def pixel_threshold(self) -> float:
        """The k-th largest of the left-out maps' maxima; with cross as `threshold`.

        Pixels are not exchangeable, parts are: a good part shows any marked pixel at
        most as often as it raises an alarm.
        """
        return self.map_maxima[-self.exceeding]

    def with_parts(
        self, own: Float[np.ndarray, "b k"], own_maxima: Float[np.ndarray, "b k"]
    ) -> "Calibration":
        """Calibrated on more good parts that no pair has seen.

        With cross each of them joins one fold, in turn.

        Args:
          own: their image scores, of each fold.
          own_maxima: likewise the maxima of their maps.
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
        """The same parts' decisions at another rate; warns of an unattainable one.

        Raises:
          UserError: alpha is not between 0 and 1.
        """
        _check_alpha(alpha)
        result = dataclasses.replace(self, alpha=float(alpha))
        _warn_of(result)
        return result

    def p_values(self, scores: OwnScores) -> Float[np.ndarray, " b"]:
        """(1 + number of left-out scores ≥ the part's) / (n + 1), of each part.

        At most `attainable` exactly where the part is anomalous.

        Args:
          scores: the image scores; with cross each fold's, compared with its own.
        """
        return (1 + self._at_least(scores)) / (len(self.scores) + 1)

    def anomalous(self, scores: OwnScores) -> Bool[np.ndarray, " b"]:
        """Whether the p-value is at most `attainable`; NaN too is no sign of good."""
        if not self.is_cross:
            return ~(np.reshape(scores, len(scores)) <= self.threshold)
        few = self._at_least(scores) < self.exceeding
        return few | np.isnan(_columns(scores)).any(1)

    def thresholds(
        self, scores: Float[np.ndarray, " b"], by_fold: OwnScores
    ) -> Float[np.ndarray, " b"]:
        """The limit of each part: it is anomalous exactly where its score is above.

        Args:
          scores: the image scores.
          by_fold: what `anomalous` gets.
        """
        if not self.is_cross:
            return np.full(len(scores), self.threshold)
        return scores - self._margins(by_fold, self.scores, self.score_folds)

    def pixel_thresholds(
        self, maxima: Float[np.ndarray, " b"], by_fold: OwnScores
    ) -> Float[np.ndarray, " b"]:
        """The limit of each part's pixels; as `thresholds`, of the maps' maxima.

        A part shows a marked pixel exactly where the p-value of its maxima is at most
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
        given = {key: tuple(values[key]) for key in names if key in values}
        return cls(float(values["alpha"]), **given)

    @property
    def exceeding(self) -> int:
        """k: of the n + 1 ranks, the number of highest ones that raise an alarm."""
        count = len(self.scores)
        # An alpha next to 1 would take all ranks, also that above every held-out score.
        return min(count, max(1, math.floor(self.alpha * (count + 1) + _ROUNDING)))

    def _at_least(self, scores: OwnScores) -> Int[np.ndarray, " b"]:
        """How many left-out scores are at least the part's."""
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
        """By how much every fold's value may fall before the part is accepted.

        Fewer than k left-out values are at least the part's exactly where the k-th
        smallest difference between the part's and a left-out value is positive.
        """
        differences = np.asarray(by_fold, float)[:, list(folds)] - np.array(left_out)
        return np.partition(differences, self.exceeding - 1, 1)[:, self.exceeding - 1]


def _columns(scores: OwnScores) -> Float[np.ndarray, "b k"]:
    return scores[:, None] if np.ndim(scores) == 1 else scores


def cross_bound(exceeding: int, sizes: Sequence[int]) -> float:
    """The most often that cross decisions raise false alarms, whatever the networks.

    The alarm is "fewer than k = `exceeding` left-out scores are at least the part's",
    of K folds of m parts. This is the smallest of three bounds:

    * Barber et al. 2021, theorem 4, as their proof counts it: at most 2 (k − 1) + m of
      n + m parts can win so many comparisons, so the rate is at most (2 (k − 1) + m) /
      (n + m). It takes folds of one size, and training that treats parts alike.
    * Let N be the number of left-out scores of one fold that are at least the part's:
      P(N ≤ j) ≤ (j + 1) / (m + 1), since part and fold are exchangeable. An alarm takes
      N ≤ k − 1 in each fold, so the rate is at most k / (m + 1).
    * It takes Σ N ≤ k − 1 over the folds, so Σ max(a − N, 0) ≥ a K − (k − 1), and by
      Markov the rate is at most K a (a + 1) / (2 (m + 1) (a K − k + 1)) for every a.

    Args:
      exceeding: k.
      sizes: how many parts each fold left out.
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
      map_maxima: the largest value of each one's score map, at the resolution at which
        pixels will be marked.
      alpha: the false-alarm rate asked for, in (0, 1). Where n + 1 < 1 / alpha it
        cannot be decided at; the smallest rate that can is used, with a warning.
      folds: whose pair left the part out, from 0, with cross; None with split.

    Returns:
      None without left-out parts: then there is no threshold.

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
        *(() if folds is None else _in_orders(folds, by_score, by_maximum)),
    )
    _warn_of(result)
    return result


def _in_orders(folds: np.ndarray, *orders: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(folds[order].tolist()) for order in orders]


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise UserError(
            f"calibration.alpha is {alpha}; give a rate between 0 and 1, such as 0.01"
        )


def _warn_of(calibration: Calibration) -> None:
    """Says that so few parts cannot decide at the rate asked for."""
    alpha, attainable = calibration.alpha, calibration.attainable
    if attainable > alpha + _ROUNDING:
        needed = math.ceil(1 / max(alpha, _SMALLEST) - _ROUNDING) - 1
        logging.warning(
            "%d held-out good images cannot guarantee calibration.alpha = %g, which "
            "takes %d: using the smallest attainable, %.3g",
            *(len(calibration.scores), alpha, needed, attainable),
        )


def write_calibration(
    run: Run, category: str, calibration: Calibration | None, scales: Scales
) -> None:
    """Writes `calibration.json` whole: what decisions need, beside the networks.

    Args:
      run: where it goes.
      category: of the run.
      calibration: the category's, or None.
      scales: by which several pairs' scores are averaged; empty for a single one.

    Of several processes the main one writes.

    Raises:
      UserError: the folder cannot be written.
    """
    tree = {
        "calibration": calibration and calibration.to_dict(),
        "scales": {
            member: {
                name: dataclasses.asdict(scale) for name, scale in networks.items()
            }
            for member, networks in scales.items()
        },
    }
    if is_main():
        write_json(_path(run, category), tree)


def is_calibrated(run: Run, category: str) -> bool:
    """Whether an evaluation has written the file, maybe without a threshold."""
    return _path(run, category).exists()


def read_calibration(run: Run, category: str) -> tuple[Calibration | None, Scales]:
    """Returns what `write_calibration` wrote.

    Raises:
      UserError: the run was not evaluated, or the file is damaged.
    """
    path = _path(run, category)
    command = f"python evaluate.py --workdir={run.directory}"
    try:
        tree = json.loads(path.read_text())
        calibration = tree["calibration"]
        if calibration is not None:
            calibration = Calibration.from_dict(calibration)
        scales = {
            member: {name: Scale(**scale) for name, scale in networks.items()}
            for member, networks in tree["scales"].items()
        }
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing, the run was not evaluated; run {command}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path}: damaged ({error!r}); run {command} again") from error
    return calibration, scales


def _path(run: Run, category: str) -> Path:
    return run.directory / category / "calibration.json"
