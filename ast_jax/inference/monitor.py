"""Tests whether new parts still look like those that the detector was calibrated on.

A conformal test martingale (Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman,
"Retrain or not retrain", 2021) bets against the p-values of accepted parts. Its capital
starts at 1 and stays small as long as the p-values are uniform: by Ville's inequality
it reaches 100 with probability at most 1 %, however long the stream is.

The p-values are exact for any number n of left-out parts. For a fixed threshold, the
left-out scores below it and the accepted parts' scores are exchangeable, whichever
parts are rejected. A new score falls into a gap between left-out scores like a ball
into a Pólya urn: if c of t parts so far are in a gap, the next one falls there with
probability (1 + c) / (n + t). The state is the count of each gap; it does not grow.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ast_jax.errors import UserError
from ast_jax.files import read_text, write_errors, write_text
from ast_jax.inference.calibration import Calibration

ALARM = 100.0
"""Parts like the calibrated ones reach it with probability at most 1 / ALARM."""
BETS = np.array([-1.0, 0.0, 1.0])
JUMP = 0.01
_COURSE = 500  # points of the course that are kept


def bets(
    capital: Float[np.ndarray, "... 3"], p: float | Float[np.ndarray, "..."]
) -> Float[np.ndarray, "... 3"]:
    """One step of the simple jumper: the capital of each bet after a p-value.

    A fraction JUMP of all capital is spread evenly. Then a bet ε is multiplied by
    1 + ε (p − 1/2).
    """
    total = capital.sum(-1, keepdims=True)
    moved = (1 - JUMP) * capital + JUMP / len(BETS) * total
    return moved * (1 + BETS * (np.asarray(p)[..., None] - 0.5))


def urn_p_value(counts: Int[np.ndarray, " g"], gap: int, chance: float) -> float:
    """The p-value, uniform, of a part in a gap; a high score has a small one.

    Args:
      counts: of parts in each gap so far, lowest first.
      gap: the new part's.
      chance: a random number, uniform on [0, 1).
    """
    weights = counts + 1
    above = weights[gap + 1 :].sum()
    return float((above + chance * weights[gap]) / weights.sum())


@dataclasses.dataclass
class Urn:
    """One pair's martingale: gaps between its left-out scores, counts and capital.

    Every score has a random number beside it, which decides between equal scores.

    Attributes:
      limit: the pair's threshold and its random number; a part above does not count.
      edges: the left-out scores below the limit, ascending, with their random numbers.
      counts: accepted parts in each gap.
      capital: of each bet, as a fraction of `exp(log_value)`.
      log_value: the martingale's logarithm.
    """

    limit: tuple[float, float]
    edges: Float[np.ndarray, "g 2"]
    counts: Int[np.ndarray, " g1"]
    capital: Float[np.ndarray, " 3"]
    log_value: float = 0.0

    @classmethod
    def of(
        cls, scores: Float[np.ndarray, " n"], alpha: float, rng: np.random.Generator
    ) -> "Urn":
        """Makes an urn for a pair's left-out scores; with alpha 0 every part counts."""
        both = np.stack([scores, rng.random(scores.size)], 1)
        both = both[np.lexsort((both[:, 1], both[:, 0]))]
        if not alpha:
            both = np.append(both, [[np.inf, 1.0]], 0)
        exceeding = max(1, int(alpha * (scores.size + 1) + 1e-9))
        edges, limit = both[:-exceeding], both[-exceeding]
        counts = np.zeros(len(edges) + 1, int)
        return cls((float(limit[0]), float(limit[1])), edges, counts, np.full(3, 1 / 3))

    def add(self, score: float, rng: np.random.Generator) -> None:
        """Adds a part, unless its score is above the limit."""
        chance, spread = rng.random(2)
        if not score <= self.limit[0] or (score, chance) > self.limit:
            return
        values, chances = self.edges.T
        low, high = (values.searchsorted(score, side) for side in ("left", "right"))
        gap = int(low + chances[low:high].searchsorted(chance))
        capital = bets(self.capital, urn_p_value(self.counts, gap, spread))
        self.log_value += float(np.log(capital.sum()))
        self.capital = capital / capital.sum()
        self.counts[gap] += 1


class Monitor:
    """Watches a stream of parts; `load` continues after an earlier process.

    With cross calibration each fold's pair has its own martingale. The value is the
    largest of them, divided by their number, so that the guarantee is the same.
    """

    def __init__(
        self, calibration: Calibration, seed: int = 0, *, rejecting: bool = True
    ):
        """Starts at no parts.

        Args:
          calibration: its left-out scores are compared with the parts'.
          seed: of the random numbers.
          rejecting: do not count parts above the threshold.
        """
        alpha = calibration.alpha if rejecting else 0.0
        self._key = _fingerprint(calibration)
        scores, folds = np.array(calibration.scores), np.array(calibration.score_folds)
        groups = [scores]
        if calibration.is_cross:
            groups = [scores[folds == fold] for fold in range(calibration.folds)]
        rng = np.random.default_rng([seed])
        self._urns = [Urn.of(group, alpha, rng) for group in groups]
        self._seed, self.parts = seed, 0
        self.highest, self.alarm_at = self.value, None
        self._course: list[tuple[int, float]] = [(0, self.value)]

    @property
    def value(self) -> float:
        """The martingale's value, at most 1 at the start; ALARM or more is an alarm."""
        largest = max(urn.log_value for urn in self._urns)
        return float(np.exp(min(largest, 700.0)) / len(self._urns))

    @property
    def alarm(self) -> bool:
        """Whether the value has ever reached ALARM: the parts look different now."""
        return self.alarm_at is not None

    @property
    def course(self) -> list[tuple[int, float]]:
        """Some points (parts so far, value), for a plot."""
        last = (self.parts, self.value)
        return self._course if self._course[-1] == last else [*self._course, last]

    def add(self, own_scores: Float[np.ndarray, "..."]) -> float:
        """Adds one part; returns the value after it.

        Args:
          own_scores: its image score; with cross each fold's.
        """
        rng = np.random.default_rng([self._seed, self.parts])
        for urn, score in zip(self._urns, np.ravel(own_scores), strict=True):
            urn.add(float(score), rng)
        self.parts += 1
        value = self.value
        self.highest = max(self.highest, value)
        if self.alarm_at is None and value >= ALARM:
            self.alarm_at = self.parts
        self._remember(value)
        return value

    def _remember(self, value: float) -> None:
        """Keeps a point of the course; with many parts, points further apart."""
        spacing = max(1, self._course[-1][0] // (_COURSE // 2))
        if self.parts - self._course[-1][0] >= spacing:
            self._course.append((self.parts, value))
        if len(self._course) > _COURSE:
            self._course = self._course[::2]

    def save(self, path: Path) -> None:
        """Writes the state: all of it or nothing.

        Raises:
          UserError: the folder cannot be written.
        """
        urns = [
            {
                "counts": urn.counts.tolist(),
                "capital": urn.capital.tolist(),
                "log_value": urn.log_value,
            }
            for urn in self._urns
        ]
        tree = {
            "calibration": self._key,
            "seed": self._seed,
            "parts": self.parts,
            "highest": self.highest,
            "alarm_at": self.alarm_at,
            "urns": urns,
            "course": self._course,
        }
        write_text(path, json.dumps(tree) + "\n")

    @classmethod
    def load(cls, path: Path, calibration: Calibration, seed: int = 0) -> "Monitor":
        """Returns the monitor that a file holds, or a new one if there is no file.

        The state of another calibration is renamed to `NAME.<its key>`.

        Raises:
          UserError: the file is damaged or cannot be read.
        """
        try:
            tree = json.loads(read_text(path))
            if tree["calibration"] != _fingerprint(calibration):
                aside = path.with_name(f"{path.name}.{tree['calibration']}")
                with write_errors(path):
                    path.rename(aside)
                return cls(calibration, seed)
            monitor = cls(calibration, int(tree["seed"]))
            monitor._restore(tree)
        except FileNotFoundError:
            return cls(calibration, seed)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: damaged ({error!r}); move it away and the monitor starts anew"
            ) from error
        return monitor

    def _restore(self, tree: dict[str, Any]) -> None:
        self.parts = int(tree["parts"])
        self.highest, self.alarm_at = float(tree["highest"]), tree["alarm_at"]
        self._course = [(int(part), float(value)) for part, value in tree["course"]]
        for urn, saved in zip(self._urns, tree["urns"], strict=True):
            counts = np.array(saved["counts"], int)
            if counts.shape != urn.counts.shape:
                raise ValueError("counts of another calibration")
            urn.counts, urn.log_value = counts, float(saved["log_value"])
            urn.capital = np.array(saved["capital"], float)


def _fingerprint(calibration: Calibration) -> str:
    """A short text that differs between calibrations."""
    text = json.dumps(calibration.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
