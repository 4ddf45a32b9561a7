"""A trained category as a whole: its calibration on good images that training left out,
and the scores of its test images.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from absl import logging

from ast_jax.errors import UserError
from ast_jax.features.category import Category
from ast_jax.features.inputs import Inputs
from ast_jax.inference.calibration import (
    Calibration,
    calibrate,
    is_calibrated,
    read_calibration,
    write_calibration,
)
from ast_jax.inference.ensemble import NETWORKS, Ensemble, Scores, ScoresBySeed
from ast_jax.run import Run


class CategoryScores(NamedTuple):
    """Scores of a category's test images.

    Attributes:
      by_seed: every pair's own, seed → network → scores.
      combined: network → scores; with several seeds the ensemble's.
    """

    by_seed: ScoresBySeed
    combined: dict[str, Scores]


def calibrate_category(
    run: Run, category: Category, *, keep: bool = False
) -> tuple[Ensemble, Calibration | None]:
    """Calibrates on good images that training left out; writes `calibration.json`.

    They are the publisher's validation split, or the fraction that training held out.

    Args:
      run: the run.
      category: its data, which may be others than the run was trained on.
      keep: whether a calibration that the run has stays as it is.

    Raises:
      UserError: there is no trained pair, or an image it was trained on is gone.
    """
    if keep and (other := first_other(run, category)):
        return _as_calibrated(run, category, other)
    config = category.config
    batch_size, seeds = config.train.batch_size, config.train.seeds
    train = category.inputs("train")
    at = {part_id: row for row, part_id in enumerate(category.parts["train"].ids)}

    def rows(seed: int, key: str) -> Inputs:
        ids = run.read_inputs(category.name, seed)[key]
        if missing := sorted(set(ids) - at.keys()):
            raise UserError(
                f"{category.name}: {missing[0]} was trained on and is not in "
                f"{config.dataset.root} any more; put it back."
            )
        return train.select([at[part_id] for part_id in ids])

    for seed in seeds:
        backbone = category.backbone and category.backbone.fingerprint
        run.check_inputs(category.name, seed, {"backbone": backbone})

    ensemble = Ensemble.load(run, category.name).scaled_by(
        {str(seed): rows(seed, "train") for seed in seeds}, batch_size
    )
    held_out = rows(seeds[0], "held_out")
    if len(category.parts["validation"]):
        held_out = category.inputs("validation")
    calibration = None
    if len(held_out):
        scores = ensemble.score(held_out, batch_size)["student"]
        calibration = calibrate(scores.image, scores.maximum, config.calibration.alpha)
    if keep and is_calibrated(run, category.name):
        calibration, scales = read_calibration(run, category.name)
        ensemble = dataclasses.replace(ensemble, scales=scales)
    else:
        write_calibration(run, category.name, calibration, ensemble.scales)
    return ensemble, calibration


def first_other(run: Run, category: Category) -> str | None:
    """The first good image that is not what training and calibration have seen.

    It has other content, or is gone, or is new among the validation images; a run of
    an earlier version knows the names alone.
    """
    record = run.read_inputs(category.name, category.config.train.seeds[0])
    train, validation = (category.parts[s].content for s in ("train", "validation"))
    now = train | validation
    known = record.get("content", {})
    for part_id in known or (*record["train"], *record["held_out"]):
        if part_id not in now or now[part_id] != known.get(part_id, now[part_id]):
            return part_id
    return next(
        (part_id for part_id in validation if known and part_id not in known), None
    )


def _as_calibrated(
    run: Run, category: Category, other: str
) -> tuple[Ensemble, Calibration | None]:
    """What the run has, for data on which it cannot be calibrated.

    Raises:
      UserError: it has no calibration yet.
    """
    name, root = category.name, category.config.dataset.root
    if not is_calibrated(run, name):
        raise UserError(
            f"{name}: {other} was trained on and is not in {root} any more, or is "
            "another image there; put it back."
        )
    logging.warning(
        "%s: %s in %s is not the image that this run was trained or calibrated on; the "
        "run's threshold stays. --recalibrate takes a new one from these images.",
        *(name, other, root),
    )
    calibration, scales = read_calibration(run, name)
    ensemble = Ensemble.load(run, name)
    return dataclasses.replace(ensemble, scales=scales), calibration


def score_test_images(ensemble: Ensemble, category: Category) -> CategoryScores:
    """Scores the test images by every pair and by all together; maybe there are none.

    Raises:
      UserError: a test image is damaged, or a device's memory does not suffice.
    """
    config, inputs = category.config, category.inputs("test")
    if not len(inputs):
        combined = dict.fromkeys(NETWORKS, _no_scores(inputs.side))
        return CategoryScores(
            dict.fromkeys(map(str, config.train.seeds), combined), combined
        )
    by_seed = ensemble.score_by_seed(inputs, config.train.batch_size)
    return CategoryScores(by_seed, ensemble.combine(by_seed, masked=inputs.masked))


def _no_scores(side: int) -> Scores:
    none = np.zeros(0, np.float32)
    return Scores(np.zeros((0, side, side), np.float32), none, none, none)
