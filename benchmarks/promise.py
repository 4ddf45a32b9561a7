"""Compares the wanted, attainable, guaranteed and observed rates of false alarms.

python -m benchmarks.promise --dataset=mvtec_ad --root=../shared/data/mvtec_ad
python -m benchmarks.promise --run=runs/solar,runs/solar_plus

With --dataset it uses real pictures, their real features, and a detector that is cheap
enough to be fitted in each of 2,000 repetitions (`real_sets`). Each repetition draws n
good pictures to fit and calibrate, and decides on the other good pictures (at most 100)
and on all defective ones.

With --run it uses the trained networks of a run. From the good pictures that they left
out, each repetition draws as many as n good pictures would leave out. It calibrates on
them and decides on all test pictures. The interval is exact for their number.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator

import numpy as np
from absl import app, flags

from ast_jax.features.category import open_categories
from ast_jax.inference.calibration import Calibration, OwnScores, calibrate
from ast_jax.inference.odd_parts import odd_parts
from ast_jax.inference.proportion import Proportion
from benchmarks import real_sets
from benchmarks.real_sets import TrainedCategory, Vectors, fit_gaussian

SIZES, ALPHAS, FOLDS, HELD_OUT = (20, 50, 100, 200), (0.01, 0.05, 0.1), 5, 0.2
NEW, GOOD, PLANTED = 100, 100, 3
HEAD = ("pictures", "method", "n", "asked %", "attainable %", "guaranteed %")
HEAD += ("observed %", "recall %")


@dataclasses.dataclass
class Row:
    """One line of the table.

    Attributes:
      tested: how many good pictures all draws decide on, where they are the same.
    """

    category: str
    method: str
    n: int
    asked: float
    attainable: float
    guaranteed: float
    tested: int | None = None
    false_alarms: list[float] = dataclasses.field(default_factory=list)
    recalls: list[float] = dataclasses.field(default_factory=list)

    def add(
        self, calibration: Calibration, good: OwnScores, defective: OwnScores
    ) -> None:
        """Takes in one repetition's decisions."""
        self.false_alarms.append(float(calibration.anomalous(good).mean()))
        self.recalls.append(float(calibration.anomalous(defective).mean()))

    def cells(self) -> list[str]:
        """As text: rates in per cent, the observed one with its 95 % interval."""
        known = (self.asked, self.attainable, self.guaranteed)
        return [
            *(self.category, self.method, str(self.n)),
            *(f"{100 * rate:.1f}" for rate in known),
            *(self._rate_text(), f"{100 * np.mean(self.recalls):.1f}"),
        ]

    def _rate_text(self) -> str:
        rates = np.array(self.false_alarms)
        if self.tested is None:
            half = 1.96 * rates.std(ddof=1) / np.sqrt(rates.size)
            return f"{100 * rates.mean():.2f} ± {100 * half:.2f}"
        alarms = round(float(rates.mean()) * self.tested)
        low, high = Proportion(alarms, self.tested).interval
        return f"{100 * rates.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def split(good: Vectors, *new: Vectors) -> tuple[Calibration, list[np.ndarray]]:
    """A fifth held out: the calibration, and the scores of new parts."""
    held_out = round(HELD_OUT * len(good))
    score = fit_gaussian(good[held_out:])
    scores = score(good[:held_out])
    return calibrate(scores, scores, 0.5), [score(x) for x in new]


def cross(good: Vectors, *new: Vectors) -> tuple[Calibration, list[np.ndarray]]:
    """Each fold left out in turn; the scores of new parts are each fold's."""
    folds = np.arange(len(good)) % FOLDS
    each = [fit_gaussian(good[folds != fold]) for fold in range(FOLDS)]
    scores = np.array([each[f](x[None])[0] for f, x in zip(folds, good, strict=True)])
    calibration = calibrate(scores, scores, 0.5, folds)
    return calibration, [np.stack([score(x) for score in each], 1) for x in new]


def measure(
    name: str, good: Vectors, defective: Vectors, repetitions: int
) -> Iterator[Row]:
    """All rows of a category, of the detector that is fitted anew."""
    for n in (n for n in SIZES if n + 20 <= len(good)):
        rng = np.random.default_rng(n)
        rows: dict[tuple[str, float], Row] = {}
        for _ in range(repetitions):
            drawn = good[rng.permutation(len(good))[: n + NEW]]
            for method in (split, cross):
                made, scores = method(drawn[:n], drawn[n:], defective)
                for alpha in ALPHAS:
                    calibration = dataclasses.replace(made, alpha=alpha)
                    key = (method.__name__, alpha)
                    if key not in rows:
                        rows[key] = _row(name, n, calibration)
                    rows[key].add(calibration, *scores)
        yield from rows.values()


def measure_trained(one: TrainedCategory, repetitions: int) -> Iterator[Row]:
    """All rows of a category, of networks that are trained."""
    own = [one.own_scores(one.test_parts(good=good)) for good in (True, False)]
    whole = one.calibration
    scores, share = np.array(whole.scores), 1.0 if whole.is_cross else HELD_OUT
    folds = (
        np.array(whole.score_folds) if whole.is_cross else np.zeros(scores.size, int)
    )
    for n in (n for n in SIZES if round(share * n) <= scores.size):
        rng = np.random.default_rng(n)
        rows: dict[float, Row] = {}
        for _ in range(repetitions):
            # As many of each fold as there are: the first of each, then the second …
            order = rng.permutation(scores.size)
            place = np.empty(scores.size, int)
            for fold in range(whole.folds):
                mine = order[folds[order] == fold]
                place[mine] = np.arange(mine.size)
            chosen = order[np.argsort(place[order], kind="stable")][: round(share * n)]
            by = folds[chosen] if whole.is_cross else None
            made = calibrate(scores[chosen], scores[chosen], 0.5, by)
            for alpha in ALPHAS:
                calibration = dataclasses.replace(made, alpha=alpha)
                if alpha not in rows:
                    rows[alpha] = _row(one.name, n, calibration, len(own[0]))
                rows[alpha].add(calibration, *own)
        yield from rows.values()


def _row(name: str, n: int, calibration: Calibration, tested: int | None = None) -> Row:
    method = "cross" if calibration.is_cross else "split"
    rates = (calibration.alpha, calibration.attainable, calibration.guaranteed)
    return Row(name, method, n, *rates, tested)


def count_planted(
    name: str, good: Vectors, defective: Vectors, repetitions: int
) -> str:
    """The numbers of listed pictures: of 3 defective ones, and of 100 good ones."""
    rng, hits, false = np.random.default_rng(0), [], []
    for _ in range(repetitions):
        mine = good[rng.permutation(len(good))[:GOOD]]
        defects = defective[rng.permutation(len(defective))[:PLANTED]]
        pictures = np.concatenate([mine, defects])
        folds = rng.permutation(len(pictures)) % FOLDS
        scores = np.empty(len(pictures))
        for fold in range(FOLDS):
            score = fit_gaussian(pictures[folds != fold])
            scores[folds == fold] = score(pictures[folds == fold])
        listed = odd_parts(scores)
        hits.append(sum(part >= GOOD for part in listed))
        false.append(sum(part < GOOD for part in listed))
    enough = Proportion(int(np.sum(np.array(hits) >= 2)), repetitions)
    few = Proportion(int(np.sum(np.array(false) <= 2)), repetitions)
    return (
        f"{name}: of {PLANTED} planted {np.mean(hits):.2f} listed on average, at least "
        f"2 in {enough.value:.1%}; good ones {np.mean(false):.2f}, at most 2 in "
        f"{few.value:.1%}"
    )


def _print_rows(rows: Iterator[Row]) -> None:
    for row in rows:
        print("|", " | ".join(row.cells()), "|", flush=True)
        if flags.FLAGS.json:
            tree = dataclasses.asdict(row)
            for name in ("false_alarms", "recalls"):
                tree[name] = float(np.mean(tree[name]))
            with open(flags.FLAGS.json, "a") as file:
                file.write(json.dumps(tree) + "\n")


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    values = flags.FLAGS
    print("|", " | ".join(HEAD), "|\n|" + "---|" * len(HEAD))
    for folder in values.run:
        for one in real_sets.open_trained(folder):
            _print_rows(measure_trained(one, values.repetitions))
    for category in (
        open_categories(real_sets.configuration()) if values.dataset else ()
    ):
        good, defective = real_sets.picture_vectors(category)
        _print_rows(measure(category.name, good, defective, values.repetitions))
        if len(good) >= GOOD:
            found = count_planted(
                category.name, good, defective, values.repetitions // 4
            )
            print(found, flush=True)


if __name__ == "__main__":
    real_sets.define_flags()
    flags.DEFINE_integer("repetitions", 2000, "Draws of good pictures.")
    flags.DEFINE_string("json", None, "A file that gets a line a row.")
    sys.exit(app.run(main))
