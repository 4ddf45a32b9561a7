"""Small detectors to export, made without training, and parts to score."""

import dataclasses
from pathlib import Path

import jax
import layouts
import numpy as np
from reference_arrays import load
from safetensors.numpy import save_file
from stand_in_weights import state_dict

from ast_jax import backbones
from ast_jax.config import default
from ast_jax.features.inputs import Normaliser
from ast_jax.inference.calibration import calibrate
from ast_jax.inference.detector import Detector
from ast_jax.inference.ensemble import Ensemble, Scale
from ast_jax.inference.pair import Pair
from ast_jax.models import create_student, create_teacher

BACKBONE = "tf_efficientnet_b0"  # squeeze-excite; its stage 2 has 40 channels
SIZE = 64


def recorded(folder: Path) -> Detector:
    """The recorded RGB+3D pair behind a stand-in of EfficientNet-B0.

    Its threshold lies between the scores of `parts(range(3))`.
    """
    weights = folder / f"{BACKBONE}.safetensors"
    save_file(state_dict(BACKBONE), weights)
    config = default()
    config.dataset.image_size = SIZE
    config.backbone.update(name=BACKBONE, stage=2, weights=str(weights))
    config.teacher.hidden, config.student.width = 16, 32
    case, size = load("combi"), {"side": 8, "channels": 104}
    variables = {"teacher": {"params": case.teacher()}, "student": case.student()}
    pair = Pair(
        create_teacher(config, **size), create_student(config, **size), variables
    )
    ensemble = Ensemble({"0": pair}, config.evaluation.image_score)
    backbone = backbones.create(config.backbone, image_size=SIZE)
    detector = Detector("bagel", config, 8, backbone, ensemble, None)
    scores = np.sort([p.score for p in detector.predict_many(parts(range(3)))])
    between = ((scores[1:] + scores[:-1]) / 2).astype(np.float32)
    return dataclasses.replace(detector, calibration=calibrate(between, between, 0.25))


def untrained(config, *, seeds: tuple[int, ...] = (0,)) -> Detector:
    """Fresh pairs for a configuration; several seeds with scales, and a normaliser."""
    backbone, side, channels = None, config.dataset.image_size // 32, 0
    if config.mode != "3d":
        image_size = config.dataset.image_size
        backbone = backbones.create(config.backbone, image_size=image_size)
        channels = backbone.channels
    standardise = backbone is not None and backbone.standardise
    size = {"side": side, "channels": channels + 64 * (config.mode != "rgb")}
    pairs, scales = {}, {}
    for seed in seeds:
        teacher, student = (f(config, **size) for f in (create_teacher, create_student))
        x = np.zeros((1, side, side, size["channels"]), np.float32)
        keys = jax.random.split(jax.random.key(seed))
        variables = {
            "teacher": jax.jit(teacher.init)(keys[0], x),
            "student": jax.jit(student.init)(keys[1], x),
        }
        values = np.random.default_rng(seed).uniform(0.5, 2, (2, channels))
        normaliser = Normaliser(*values.astype(np.float32)) if standardise else None
        pairs[str(seed)] = Pair(teacher, student, variables, normaliser)
        scale = Scale(1.0 + seed, 0.5, 2.0, 0.25 + seed)
        scales[str(seed)] = {"student": scale, "teacher": scale}
    scales = scales if len(seeds) > 1 else {}
    ensemble = Ensemble(pairs, config.evaluation.image_score, scales)
    return Detector("bagel", config, side, backbone, ensemble, None)


def calibrated_on(detector: Detector, good) -> Detector:
    """The detector with a threshold at alpha 0.25 by its scores of good parts."""
    predictions = list(detector.predict_many(good))
    scores = np.array([prediction.score for prediction in predictions])
    maxima = np.array([prediction.fine.max() for prediction in predictions], float)
    return dataclasses.replace(detector, calibration=calibrate(scores, maxima, 0.25))


def folded(detector: Detector, some) -> Detector:
    """The detector's pair and a changed one as two folds, calibrated on some parts."""
    (pair,) = detector.ensemble.pairs.values()
    changed = jax.tree.map(lambda array: 1.01 * array, pair.variables)
    other = dataclasses.replace(pair, variables=changed)
    pairs = {"0/fold_0": pair, "0/fold_1": other}
    ensemble = dataclasses.replace(detector.ensemble, pairs=pairs)
    detector = dataclasses.replace(detector, ensemble=ensemble, calibration=None)
    folds = np.arange(len(some)) % 2
    by_fold = np.stack([p.score_by_fold for p in detector.predict_many(some)])
    own = np.take_along_axis(by_fold, folds[:, None], axis=1)[:, 0]
    own *= np.float32(0.999)  # no part's score lies at the threshold
    calibration = calibrate(own, own, 0.5, folds)
    return dataclasses.replace(detector, calibration=calibration)


def parts(seeds) -> list[tuple[np.ndarray, np.ndarray]]:
    """(image, xyz) of parts, every other one defective."""
    return [
        (
            layouts.picture(seed, defect=bool(seed % 2)),
            layouts.cloud(seed, defect=bool(seed % 2)),
        )
        for seed in seeds
    ]
