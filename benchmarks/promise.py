"""Compares the wanted, attainable, guaranteed and observed rates of false alarms.

python -m benchmarks.promise --dataset=mvtec_ad --root=../shared/data/mvtec_ad

Uses real pictures and their real features: mean and maximum over the feature map, in a
random projection to 32 numbers. The detector is a Gaussian with a shrunk covariance;
the squared Mahalanobis distance is the score. It is cheap enough to be fitted in each
of 2,000 repetitions, and like the networks it fits few good pictures too closely. Each
repetition draws n good pictures to fit and calibrate, and decides on the other good
pictures (at most 100) and on all defective ones.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator

import numpy as np
from absl import app, flags
from jaxtyping import Float

from ast_jax.config import default
from ast_jax.inference.calibration import Calibration, calibrate
from ast_jax.inference.odd_parts import odd_parts
from ast_jax.inference.proportion import Proportion
from ast_jax.pipeline import open_categories

SIZES, ALPHAS, FOLDS, HELD_OUT = (20, 50, 100, 200), (0.01, 0.05, 0.1), 5, 0.2
DIMENSIONS, SHRINKAGE, NEW = 32, 0.1, 100
Vectors = Float[np.ndarray, "n d"]


@dataclasses.dataclass
class Row:
    """One line of the table."""

    category: str
    method: str
    n: int
    asked: float
    attainable: float
    guaranteed: float
    false_alarms: list[float] = dataclasses.field(default_factory=list)
    recalls: list[float] = dataclasses.field(default_factory=list)

    def cells(self) -> list[str]:
        """As text: rates in per cent, the observed one with its 95 % interval."""
        rates = np.array(self.false_alarms)
        half = 1.96 * rates.std(ddof=1) / np.sqrt(rates.size)
        observed = f"{100 * rates.mean():.2f} ± {100 * half:.2f}"
        known = (self.asked, self.attainable, self.guaranteed)
        return [
            *(self.category, self.method, str(self.n)),
            *(f"{100 * rate:.1f}" for rate in known),
            *(observed, f"{100 * np.mean(self.recalls):.1f}"),
        ]


def vectors(config) -> Iterator[tuple[str, Vectors, Vectors]]:
    """(category, good, defective) of a data set, one vector per picture."""
    for category in open_categories(config):
        found = {"good": [], "defective": []}
        for split in ("train", "validation", "test"):
            parts = category.parts[split]
            if not len(parts):
                continue
            inputs = category.inputs(split)
            for row, defect in enumerate(parts.defects):
                x = inputs.take(np.array([row]))["x"][0]
                kind = "good" if defect == "good" else "defective"
                found[kind].append(np.concatenate([x.mean((0, 1)), x.max((0, 1))]))
        yield category.name, *_projected(*map(np.array, found.values()))


def _projected(good: np.ndarray, defective: np.ndarray) -> tuple[Vectors, Vectors]:
    """Projects vectors by one random matrix, which depends on no picture."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((good.shape[1], DIMENSIONS)) / good.shape[1] ** 0.5
    return good @ matrix, defective @ matrix


def fitted(train: Vectors):
    """The score of a Gaussian that has learned from `train`."""
    mean, covariance = train.mean(0), np.cov(train.T)
    target = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    precision = np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * target)

    def score(x: Vectors) -> Float[np.ndarray, " n"]:
        return np.einsum("nd,de,ne->n", x - mean, precision, x - mean)

    return score


def split(good: Vectors, *new: Vectors) -> tuple[Calibration, list[np.ndarray]]:
    """A fifth held out: the calibration, and the scores of new parts."""
    held_out = round(HELD_OUT * len(good))
    score = fitted(good[held_out:])
    scores = score(good[:held_out])
    return calibrate(scores, scores, 0.5), [score(x) for x in new]


def cross(good: Vectors, *new: Vectors) -> tuple[Calibration, list[np.ndarray]]:
    """Each fold left out in turn; the scores of new parts are each fold's."""
    folds = np.arange(len(good)) % FOLDS
    each = [fitted(good[folds != fold]) for fold in range(FOLDS)]
    scores = np.array([each[f](x[None])[0] for f, x in zip(folds, good, strict=True)])
    calibration = calibrate(scores, scores, 0.5, folds)
    return calibration, [np.stack([score(x) for score in each], 1) for x in new]


def measure(
    name: str, good: Vectors, defective: Vectors, repetitions: int
) -> Iterator[Row]:
    """All rows of a category."""
    for n in (n for n in SIZES if n + 20 <= len(good)):
        rng = np.random.default_rng(n)
        rows: dict[tuple[str, float], Row] = {}
        for _ in range(repetitions):
            drawn = good[rng.permutation(len(good))[: n + NEW]]
            for method in (split, cross):
                made, (ordinary, defects) = method(drawn[:n], drawn[n:], defective)
                for alpha in ALPHAS:
                    calibration = dataclasses.replace(made, alpha=alpha)
                    row = rows.get((method.__name__, alpha))
                    if row is None:
                        rates = (calibration.attainable, calibration.guaranteed)
                        row = Row(name, method.__name__, n, alpha, *rates)
                        rows[method.__name__, alpha] = row
                    row.false_alarms.append(calibration.anomalous(ordinary).mean())
                    row.recalls.append(calibration.anomalous(defects).mean())
        yield from rows.values()


def planted(name: str, good: Vectors, defective: Vectors, repetitions: int) -> str:
    """The numbers of listed pictures: of 3 defective ones, and of 97 good ones."""
    rng, hits, false = np.random.default_rng(0), [], []
    for _ in range(repetitions):
        mine = good[rng.permutation(len(good))[:97]]
        three = defective[rng.permutation(len(defective))[:3]]
        pictures, folds = np.concatenate([mine, three]), rng.permutation(100) % FOLDS
        scores = np.empty(100)
        for fold in range(FOLDS):
            score = fitted(pictures[folds != fold])
            scores[folds == fold] = score(pictures[folds == fold])
        listed = odd_parts(scores)
        hits.append(sum(part >= 97 for part in listed))
        false.append(sum(part < 97 for part in listed))
    enough = Proportion(int(np.sum(np.array(hits) >= 2)), repetitions)
    few = Proportion(int(np.sum(np.array(false) <= 2)), repetitions)
    return (
        f"{name}: of 3 planted {np.mean(hits):.2f} listed on average, at least 2 in "
        f"{enough.value:.1%}; good ones {np.mean(false):.2f}, at most 2 in "
        f"{few.value:.1%}"
    )


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    values = flags.FLAGS
    config = default()
    config.mode = "rgb"
    config.dataset.update(name=values.dataset, root=values.root)
    config.dataset.update(image_size=values.image_size, data_dir=values.data_dir)
    config.backbone.name = values.backbone
    head = ("category", "method", "n", "asked %", "attainable %", "guaranteed %")
    head += ("observed %", "recall %")
    print("|", " | ".join(head), "|")
    print("|" + "---|" * len(head))
    for name, good, defective in vectors(config):
        for row in measure(name, good, defective, values.repetitions):
            print("|", " | ".join(row.cells()), "|", flush=True)
            if values.json:
                with open(values.json, "a") as file:
                    mean = {"observed": float(np.mean(row.false_alarms))}
                    mean["recall"] = float(np.mean(row.recalls))
                    shown = dataclasses.asdict(row) | mean
                    del shown["false_alarms"], shown["recalls"]
                    file.write(json.dumps(shown) + "\n")
        if len(good) >= 97:
            print(planted(name, good, defective, values.repetitions // 4), flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("dataset", "mvtec_ad", "As dataset.name.")
    flags.DEFINE_string("root", "", "As dataset.root.")
    flags.DEFINE_string("data_dir", "~/.cache/ast_jax", "As dataset.data_dir.")
    flags.DEFINE_string("backbone", "tf_efficientnet_lite0.package", "backbone.name.")
    flags.DEFINE_integer("image_size", 256, "As dataset.image_size.")
    flags.DEFINE_integer("repetitions", 2000, "Draws of good pictures.")
    flags.DEFINE_string("json", None, "A file that gets a line a row.")
    sys.exit(app.run(main))
