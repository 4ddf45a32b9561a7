"""Real pictures, a cheap detector and trained runs, for the benchmarks of decisions.

The cheap detector is a Gaussian with a shrunk covariance over one vector per picture.
The vector is the mean and maximum over the feature map, projected to 32 numbers by a
random matrix. The score is the squared Mahalanobis distance. Like the networks, it
learns from its good pictures, and fits few of them closely.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from absl import flags, logging
from jaxtyping import Float
from ml_collections import ConfigDict

from ast_jax.config import default
from ast_jax.data.part import GOOD, Entry, Part, Parts
from ast_jax.features.category import Category, open_categories
from ast_jax.inference.calibration import Calibration, OwnScores
from ast_jax.inference.calibration_file import read_calibration
from ast_jax.inference.category import score_test_images
from ast_jax.inference.ensemble import Ensemble
from ast_jax.run import Run

DIMENSIONS, SHRINKAGE = 32, 0.1
METHODS = {"ast": "AST", "ast_plus": "AST+"}
Vectors = Float[np.ndarray, "n d"]


def define_flags() -> None:
    """Defines the flags that choose pictures and trained runs."""
    flags.DEFINE_string("dataset", "", "As dataset.name: elpv, mvtec_ad, mvtec_3d_ad.")
    flags.DEFINE_string("root", "", "As dataset.root.")
    flags.DEFINE_list("categories", [], "As dataset.categories.")
    flags.DEFINE_string("data_dir", "~/.cache/ast_jax", "As dataset.data_dir.")
    flags.DEFINE_string("backbone", "tf_efficientnet_lite0.package", "backbone.name.")
    flags.DEFINE_integer("image_size", 256, "As dataset.image_size.")
    flags.DEFINE_list("run", [], "Trained runs' folders, by commas.")


def configuration() -> ConfigDict:
    """Returns the flags as a configuration, in mode rgb."""
    values, config = flags.FLAGS, default()
    config.mode = "rgb"
    config.dataset.update(name=values.dataset, root=values.root)
    config.dataset.update(image_size=values.image_size, data_dir=values.data_dir)
    config.dataset.categories = tuple(values.categories)
    config.backbone.name = values.backbone
    return config


def picture_vectors(
    category: Category, changed: Callable[[Parts], Parts] = lambda parts: parts
) -> tuple[Vectors, Vectors]:
    """Returns the vectors of a category's good and defective pictures, of all splits.

    Args:
      category: the pictures.
      changed: changes the pictures before the backbone sees them.
    """
    found = {True: [], False: []}
    parts = {split: changed(parts) for split, parts in category.parts.items()}
    category = dataclasses.replace(category, parts=parts)
    for split, mine in parts.items():
        if not len(mine):
            continue
        inputs = category.inputs(split)
        for row, defect in enumerate(mine.defects):
            x = inputs.take(np.array([row]))["x"][0]
            found[defect == GOOD].append(
                np.concatenate([x.mean((0, 1)), x.max((0, 1))])
            )
    return _project(np.array(found[True])), _project(np.array(found[False]))


def _project(pictures: Float[np.ndarray, "n c"]) -> Vectors:
    """Projects vectors by one random matrix, which depends on no picture."""
    channels = pictures.shape[1]
    matrix = np.random.default_rng(0).standard_normal((channels, DIMENSIONS))
    return pictures @ matrix / channels**0.5


def fit_gaussian(train: Vectors) -> Callable[[Vectors], Float[np.ndarray, " n"]]:
    """Fits a Gaussian to `train`; returns its score function."""
    mean, covariance = train.mean(0), np.cov(train.T)
    target = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    precision = np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * target)

    def score(x: Vectors) -> Float[np.ndarray, " n"]:
        return np.einsum("nd,de,ne->n", x - mean, precision, x - mean)

    return score


def brighten(parts: Parts, factor: float) -> Parts:
    """Simulates a stronger lamp: multiplies every grey value by `factor`."""

    def read(row: int) -> Part:
        part = parts[row]
        image = np.clip(np.rint(factor * part.image.astype(float)), 0, 255)
        return dataclasses.replace(part, image=image.astype(np.uint8))

    entries = []
    for row, (part_id, defect) in enumerate(zip(parts.ids, parts.defects, strict=True)):
        kinds = {kind: parts.digests(kind)[row] for kind in ("image", "z", "masks")}
        digests = {kind: digest for kind, digest in kinds.items() if digest is not None}
        digests["image"] += f" times {factor}"
        entries.append(Entry(part_id, defect, digests))
    return Parts(entries, read, bit_depth=parts.bit_depth)


@dataclasses.dataclass(frozen=True)
class TrainedCategory:
    """A category of a run that was trained and calibrated.

    Attributes:
      name: the category's, and the method.
      category: its pictures.
      ensemble: its networks.
      calibration: on the good pictures that they left out.
    """

    name: str
    category: Category
    ensemble: Ensemble
    calibration: Calibration

    def own_scores(self, parts: Parts) -> OwnScores:
        """Returns the scores that the calibration compares, of any pictures."""
        opened = dataclasses.replace(
            self.category, parts=self.category.parts | {"test": parts}
        )
        return score_test_images(self.ensemble, opened).combined["student"].own

    def test_parts(self, *, good: bool) -> Parts:
        """Returns the good or the defective test pictures."""
        parts = self.category.parts["test"]
        rows = [row for row, kind in enumerate(parts.defects) if (kind == GOOD) == good]
        return parts.subset(rows)


def open_trained(folder: str) -> Iterator[TrainedCategory]:
    """Yields every category of a run that has a threshold; does not change the run."""
    run = Run.open(folder)
    for category in open_categories(run.config, run):
        calibration, scales = read_calibration(run, category.name)
        if calibration is None:
            logging.warning("%s: %s has no left-out images.", folder, category.name)
            continue
        ensemble = dataclasses.replace(Ensemble.load(run, category.name), scales=scales)
        name = f"{category.name}, {METHODS[run.config.method]}"
        yield TrainedCategory(name, category, ensemble, calibration)
