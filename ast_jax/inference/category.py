"""Calibrates a trained category on left-out good images, and scores its test images."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from absl import logging

from ast_jax.backbones.run_weights import check_backbone
from ast_jax.data.part import Parts
from ast_jax.errors import UserError
from ast_jax.features.category import Category
from ast_jax.inference.calibration import Calibration, calibrate
from ast_jax.inference.calibration_file import (
    is_calibrated,
    read_calibration,
    write_calibration,
)
from ast_jax.inference.ensemble import Ensemble, Scores, ScoresBySeed
from ast_jax.inference.pair import NETWORKS, write_units
from ast_jax.run import Run, seed_and_fold


class CategoryScores(NamedTuple):
    """Scores of a category's test images.

    Attributes:
      by_seed: seed → network → scores.
      combined: network → scores; with several seeds the ensemble's.
    """

    by_seed: ScoresBySeed
    combined: dict[str, Scores]


class LeftOut(NamedTuple):
    """Good images that training left out, and their scores.

    Attributes:
      parts: the images; there may be none.
      scores: the student's scores; with cross each image's are of its fold's pairs.
    """

    parts: Parts
    scores: Scores


class CalibratedCategory(NamedTuple):
    """A category's pairs, their calibration, and the images of the calibration."""

    ensemble: Ensemble
    calibration: Calibration | None
    left_out: LeftOut


def calibrate_category(
    run: Run, category: Category, *, keep: bool = False
) -> CalibratedCategory:
    """Calibrates on good images that training left out; writes `calibration.json`.

    These images are the publisher's validation split, or the fraction that training
    held out. With cross they are all good images, each scored by its fold's pairs.

    Args:
      run: the run.
      category: its data; they may differ from the data that the run was trained on.
      keep: keep the run's calibration, if it has one.

    Raises:
      UserError: there is no trained pair, or an image that it learned from is gone.
    """
    if keep and (other := find_changed_image(run, category)):
        return _keep_calibration(run, category, other)
    config, names = category.config, run.members(category.name)
    batch_size, alpha = config.train.batch_size, config.calibration.alpha
    train = category.inputs("train")
    at = {part_id: row for row, part_id in enumerate(category.parts["train"].ids)}

    def rows(member: str, key: str) -> list[int]:
        ids = run.read_record(category.name, member)[key]
        if missing := sorted(set(ids) - at.keys()):
            raise UserError(
                f"{category.name}: {missing[0]} was trained on and is not in "
                f"{config.dataset.root} any more; put it back."
            )
        return [at[part_id] for part_id in ids]

    check_backbone(run, category.name, category.backbone)
    good = {member: train.select(rows(member, "train")) for member in names}
    ensemble = Ensemble.load(run, category.name).with_units(good, batch_size)
    for member in names:
        write_units(run, category.name, member, ensemble.pairs[member])
    ensemble = ensemble.fit_scales(good, batch_size)
    each = {
        fold: rows(member, "held_out")
        for member in names
        if (fold := seed_and_fold(member)[1])
    }
    folds = None
    if each:
        all_rows = np.concatenate(list(each.values()))
        folds = np.repeat(np.arange(len(each)), [len(mine) for mine in each.values()])
        parts = category.parts["train"].subset(all_rows.tolist())
        scores = _concatenate(
            ensemble.fold(fold).score(train.select(mine), batch_size)["student"]
            for fold, mine in each.items()
        )
    else:
        parts = category.parts["validation"]
        if len(parts):
            inputs = category.inputs("validation")
        else:
            held_out = rows(names[0], "held_out")
            parts = category.parts["train"].subset(held_out)
            inputs = train.select(held_out)
        scores = empty_scores(train.side)
        if len(inputs):
            scores = ensemble.score(inputs, batch_size)["student"]
    left_out = LeftOut(parts, scores)
    if keep and is_calibrated(run, category.name):
        calibration, scales = read_calibration(run, category.name)
        if calibration is not None:  # else these may be the first images to set one
            ensemble = dataclasses.replace(ensemble, scales=scales)
            return CalibratedCategory(ensemble, calibration, left_out)
    calibration = calibrate(scores.image, scores.maximum, alpha, folds)
    write_calibration(run, category.name, calibration, ensemble.scales)
    return CalibratedCategory(ensemble, calibration, left_out)


def _concatenate(each: Iterable[Scores]) -> Scores:
    """Concatenates the scores of several sets of images."""
    each = list(each)
    arrays = [(one.maps, one.maximum, one.mean, one.image) for one in each]
    joined = map(np.concatenate, zip(*arrays, strict=True))
    return Scores(*joined, smoothing=each[0].smoothing)


def find_changed_image(run: Run, category: Category) -> str | None:
    """The id of the first good image that differs from the run's, or None.

    Its content differs, or it is missing, or it is a new validation image. A run of an
    earlier version has recorded only names.
    """
    record = run.read_record(category.name)
    train, validation = (category.parts[s].content for s in ("train", "validation"))
    now = train | validation
    known = record.get("content", {})
    for part_id in known or (*record["train"], *record["held_out"]):
        if part_id not in now or now[part_id] != known.get(part_id, now[part_id]):
            return part_id
    return next(
        (part_id for part_id in validation if known and part_id not in known), None
    )


def _keep_calibration(run: Run, category: Category, other: str) -> CalibratedCategory:
    """The run's own calibration, for data on which it cannot be calibrated.

    Raises:
      UserError: the run has no calibration yet.
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
    check_backbone(run, category.name, category.backbone)
    calibration, scales = read_calibration(run, name)
    ensemble = Ensemble.load(run, name)
    ensemble = dataclasses.replace(ensemble, scales=scales)
    side = run.read_record(name)["side"]
    nothing = LeftOut(category.parts["train"].subset([]), empty_scores(side))
    return CalibratedCategory(ensemble, calibration, nothing)


def score_test_images(ensemble: Ensemble, category: Category) -> CategoryScores:
    """Scores the test images, by each seed and by the ensemble; there may be none.

    Raises:
      UserError: a test image is damaged, or a device has too little memory.
    """
    config, inputs = category.config, category.inputs("test")
    if not len(inputs):
        combined = dict.fromkeys(NETWORKS, empty_scores(inputs.side))
        seeds = map(str, config.train.seeds)
        return CategoryScores(dict.fromkeys(seeds, combined), combined)
    masked = inputs.has_foreground
    by_member = ensemble.score_by_member(inputs, config.train.batch_size)
    by_seed = ensemble.combine_by_seed(by_member, masked=masked)
    return CategoryScores(by_seed, ensemble.combine(by_member, masked=masked))


def empty_scores(side: int) -> Scores:
    """Returns empty scores; maps have this height and width."""
    none = np.zeros(0, np.float32)
    return Scores(np.zeros((0, side, side), np.float32), none, none, none)
