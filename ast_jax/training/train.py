"""Trains a teacher and then a student for every category and seed of a run."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ast_jax import data
from ast_jax.backbones import Backbone
from ast_jax.backbones import create as create_backbone
from ast_jax.config import validate
from ast_jax.data.features import extract
from ast_jax.data.inputs import Inputs
from ast_jax.data.parts import Parts
from ast_jax.errors import UserError
from ast_jax.models import create_student, create_teacher
from ast_jax.run import Run
from ast_jax.training.devices import DATA_AXIS, check_batch, data_mesh, split_batch
from ast_jax.training.loop import Samples, Stage, train_stage
from ast_jax.training.state import TrainState, create_state
from ast_jax.training.steps import student_loss, teacher_loss

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Category:
    """One category's parts, by split, and the backbone that sees them."""

    name: str
    parts: dict[str, Parts]
    backbone: Backbone | None
    config: ConfigDict

    def inputs(self, split: str) -> Inputs:
        """Network inputs of a split; extracts the features unless they are cached."""
        config = self.config
        features = extract(
            self.parts[split],
            mode=config.mode,
            image_size=config.dataset.image_size,
            backbone=self.backbone,
            cache_dir=Path(config.dataset.data_dir).expanduser() / "features",
            batch_size=config.train.batch_size,
            storage_dtype=config.dataset.feature_dtype,
            devices=jax.local_devices(),
        )
        return Inputs.of(features, binary_mask=config.train.mask == "binary")


def open_categories(config: ConfigDict) -> list[Category]:
    """Opens the configured data and the backbone; nothing is written to a run.

    Raises:
      UserError: whatever is wrong with the data set or the backbone's weights.
    """
    validate(config)
    backbone = None
    if config.mode != "3d":
        size = config.dataset.image_size
        backbone = create_backbone(
            config.backbone, dtype=config.train.dtype, image_size=size
        )
    return [
        Category(
            name,
            data.load(config.dataset, name, mode=config.mode),
            backbone,
            config,
        )
        for name in data.categories(config.dataset)
    ]


def train(config: ConfigDict, workdir: str | Path) -> Run:
    """Trains every category and seed; a run that stands already is continued.

    Raises:
      UserError: anything that the user can put right.
    """
    categories = open_categories(config)
    mesh = data_mesh()
    check_batch(config.train.batch_size, mesh)
    run = Run.create(workdir, config)
    with run.locked():
        for category in categories:
            inputs = category.inputs("train")
            for seed in config.train.seeds:
                logging.info("%s, seed %d: training.", category.name, seed)
                train_pair(run, category, seed, inputs, mesh)
    return run


def hold_out(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits n good images by chance into (trained on, held out), each ascending.

    Raises:
      UserError: nothing would be left to train on.
    """
    held_out = round(n * fraction)
    if held_out >= n:
        raise UserError(
            f"calibration.fraction {fraction} leaves none of {n} good images to train."
        )
    order = np.random.default_rng([seed, 1]).permutation(n)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def train_pair(
    run: Run, category: Category, seed: int, inputs: Inputs, mesh: Mesh
) -> None:
    """Trains one teacher and one student on the good training images."""
    config, parts = run.config, category.parts
    # A validation split that the publisher ships is the held-out set.
    fraction = 0.0 if len(parts["validation"]) else config.calibration.fraction
    # The same for all seeds: their ensemble is calibrated on what none has seen.
    rows, held_out = hold_out(len(inputs), fraction, config.train.seeds[0])
    inputs = inputs.select(rows)
    standardise = category.backbone is not None and category.backbone.standardise
    normaliser = inputs.fit_normaliser() if standardise else None
    ids = parts["train"].ids
    run.write_inputs(
        category.name,
        seed,
        {
            "side": inputs.side,
            "channels": inputs.channels,
            "train": [ids[row] for row in rows],
            "held_out": [ids[row] for row in held_out],
            "normaliser": normaliser and [array.tolist() for array in normaliser],
        },
    )
    inputs = inputs.normalised(normaliser)
    size = {"side": inputs.side, "channels": inputs.channels}
    keys = jax.random.split(jax.random.key(seed))
    directory = run.seed_directory(category.name, seed)
    average = config.train.loss_average

    module = create_teacher(config, **size)
    state = create_state(module, config, **size, key=keys[0])
    loss, epochs = teacher_loss(average), config.teacher.epochs
    stage = Stage("teacher", epochs, loss, seed, directory)
    teacher = train_stage(stage, state, Samples(inputs), config, mesh)

    target = teacher_targets(teacher, inputs, config.train.batch_size, mesh)
    module = create_student(config, **size, axis_name=DATA_AXIS)
    state = create_state(module, config, **size, key=keys[1])
    loss, epochs = student_loss(average), config.student.epochs
    stage = Stage("student", epochs, loss, seed, directory)
    train_stage(stage, state, Samples(inputs, target), config, mesh)


def teacher_targets(
    teacher: TrainState, inputs: Inputs, batch_size: int, mesh: Mesh
) -> np.ndarray:
    """The frozen teacher's z of all inputs, computed once: [n, h, w, c]."""
    batch_size = -(-batch_size // mesh.size) * mesh.size
    apply = jax.jit(lambda params, x: teacher.apply_fn({"params": params}, x)[0])
    targets = np.empty((len(inputs), inputs.side, inputs.side, inputs.channels), "f4")
    for first in range(0, len(inputs), batch_size):
        rows = np.arange(first, first + batch_size)
        x = inputs.take(np.minimum(rows, len(inputs) - 1))["x"]
        z = apply(teacher.params, jax.device_put(x, split_batch(mesh)))
        targets[rows[rows < len(inputs)]] = z[: len(inputs) - first]
    return targets
