"""Trains a teacher and then a student for every category and seed of a run."""

import dataclasses
import itertools
from collections.abc import Sequence
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
from ast_jax.data.part import Parts
from ast_jax.errors import UserError
from ast_jax.features.extract import extract
from ast_jax.features.inputs import Inputs
from ast_jax.models import create_student, create_teacher
from ast_jax.parallel import DATA_AXIS, TASK_AXIS, barrier, task_mesh
from ast_jax.run import Run, locked
from ast_jax.training.faults import memory_errors
from ast_jax.training.feed import Samples
from ast_jax.training.loop import Stage, Task, is_finished, train_stage
from ast_jax.training.overview import parameter_table
from ast_jax.training.progress import check_tensorboard
from ast_jax.training.state import create_states, state_template
from ast_jax.training.steps import Loss, student_loss, teacher_loss
from ast_jax.training.targets import teacher_targets


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
        batch_size = config.train.batch_size
        with memory_errors(f"{self.name}: extracting features", batch_size):
            features = extract(
                self.parts[split],
                mode=config.mode,
                image_size=config.dataset.image_size,
                backbone=self.backbone,
                cache_dir=Path(config.dataset.data_dir).expanduser() / "features",
                batch_size=batch_size,
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
    # Before the backbone, whose weights may have to be fetched.
    names = data.categories(config.dataset)
    backbone = None
    if config.mode != "3d":
        size = config.dataset.image_size
        backbone = create_backbone(config.backbone, image_size=size)
    return [
        Category(
            name,
            data.load(config.dataset, name, mode=config.mode),
            backbone,
            config,
        )
        for name in names
    ]


def train(config: ConfigDict, workdir: str | Path, *, profile: bool = False) -> Run:
    """Trains every category and seed; a run that stands already is continued.

    Args:
      config: of the run.
      workdir: its folder.
      profile: whether to write a trace of some steps to its subfolder `profile`.

    Raises:
      UserError: anything that the user can put right.
      SystemExit: the process was asked to stop, and has saved.
    """
    if config.train.tensorboard:
        check_tensorboard()
    categories = open_categories(config)
    batch_size, seeds = config.train.batch_size, config.train.seeds
    mesh = task_mesh(len(categories) * len(seeds), batch_size)
    with locked(workdir):
        run = Run.create(workdir, config)
        traces = run.directory / "profile" if profile else None
        pairs = [
            prepare(run, category, seed, mesh.shape[DATA_AXIS])
            for category in categories
            for seed in seeds
        ]
        # One program trains pairs of one batch size; the largest first, so that pairs
        # that are trained side by side are of a size.
        pairs.sort(key=lambda pair: -len(pair.inputs))
        for size, group in itertools.groupby(pairs, lambda pair: pair.batch_size):
            train_pairs(list(group), size, config, mesh, traces)
    barrier("trained")
    return run


@dataclasses.dataclass(frozen=True)
class UntrainedPair:
    """A category and seed, and the good images that its pair is to learn.

    Attributes:
      name: for people.
      task: seed and directory.
      inputs: of the images, normalised.
      batch_size: the configured one, or less where there are fewer images.
    """

    name: str
    task: Task
    inputs: Inputs
    batch_size: int


def prepare(run: Run, category: Category, seed: int, share: int) -> UntrainedPair:
    """Chooses the images to train on, and records in the run which they are.

    Args:
      run: to which the pair belongs.
      category: its data.
      seed: its seed.
      share: how many devices share a batch.

    Raises:
      UserError: there are too few images.
    """
    config, parts, inputs = run.config, category.parts, category.inputs("train")
    # A validation split that the publisher ships is the held-out set.
    fraction = 0.0 if len(parts["validation"]) else config.calibration.fraction
    # The same for all seeds: their ensemble is calibrated on what none has seen.
    rows, held_out = hold_out(len(inputs), fraction, config.train.seeds[0])
    standardise = category.backbone is not None and category.backbone.standardise
    normaliser = inputs.select(rows).fit_normaliser() if standardise else None
    ids = parts["train"].ids
    record = {
        "side": inputs.side,
        "channels": inputs.channels,
        "backbone": category.backbone and category.backbone.fingerprint,
        "train": [ids[row] for row in rows],
        "held_out": [ids[row] for row in held_out],
        "normaliser": normaliser and [array.tolist() for array in normaliser],
    }
    if run.is_begun(category.name, seed):
        run.check_inputs(category.name, seed, record)
    else:
        run.write_inputs(category.name, seed, record)
    inputs = inputs.select(rows)
    return UntrainedPair(
        f"{category.name}, seed {seed}",
        Task(seed, run.seed_directory(category.name, seed)),
        inputs.normalised(normaliser),
        _batch_size(config, len(inputs), category.name, share),
    )


def _batch_size(config: ConfigDict, n: int, name: str, share: int) -> int:
    """The configured batch, or one of all images that `share` devices divide.

    Raises:
      UserError: there are fewer images than devices that share a batch.
    """
    size = config.train.batch_size
    if n >= size:
        return size
    smaller = n - n % share
    if not smaller:
        raise UserError(
            f"{name}: {n} good training images are fewer than the {share} devices that "
            "share a batch; add images or use fewer devices."
        )
    logging.warning(
        "%s: %d good training images are fewer than a batch of %d: batches of %d.",
        *(name, n, size, smaller),
    )
    return smaller


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


def train_pairs(
    pairs: Sequence[UntrainedPair],
    batch_size: int,
    config: ConfigDict,
    mesh: Mesh,
    traces: Path | None = None,
) -> None:
    """Trains pairs, as many side by side as there is room for on the devices.

    Args:
      pairs: of one batch size.
      batch_size: theirs.
      config: of the run.
      mesh: of `parallel.task_mesh`.
      traces: a folder for a trace of some steps of each stage, if wanted.

    """
    images = max(len(pair.inputs) for pair in pairs)
    stages = _stages(config, batch_size, images, traces)
    devices = mesh.shape[TASK_AXIS]
    each = min(config.train.tasks_per_device, -(-len(pairs) // devices))
    slots = devices * each
    told = False
    # Finished pairs of a group keep their places: a resumed run is the same program.
    for first in range(0, len(pairs), slots):
        group = pairs[first : first + slots]
        if all(
            is_finished(stage, pair.task, len(pair.inputs))
            for stage in stages
            for pair in group
        ):
            continue
        if not told:
            _log_parameters(config, group[0].inputs)
            told = True
        logging.info("%s: training.", "; ".join(pair.name for pair in group))
        _train_side_by_side(group, stages, slots, config, mesh)


def _log_parameters(config: ConfigDict, inputs: Inputs) -> None:
    """An overview of both networks."""
    size = {"side": inputs.side, "channels": inputs.channels}
    for name, create in (("teacher", create_teacher), ("student", create_student)):
        state = state_template(create(config, **size), config, **size)
        logging.info("%s:\n%s", name, parameter_table(state.variables))


def _stages(
    config: ConfigDict, batch_size: int, images: int, traces: Path | None
) -> tuple[Stage, Stage]:
    average = config.train.loss_average
    common = {
        "batch_size": batch_size,
        "images": images,
        "checkpoint_epochs": config.train.checkpoint_epochs,
        "tensorboard": config.train.tensorboard,
    }

    def stage(name: str, loss: Loss, epochs: int) -> Stage:
        return Stage(name, loss, epochs, profile=traces and traces / name, **common)

    return (
        stage("teacher", teacher_loss(average), config.teacher.epochs),
        stage("student", student_loss(average), config.student.epochs),
    )


def _train_side_by_side(
    pairs: Sequence[UntrainedPair],
    stages: tuple[Stage, Stage],
    slots: int,
    config: ConfigDict,
    mesh: Mesh,
) -> None:
    """One teacher and one student for each pair; slots beyond the pairs stay idle."""
    inputs = [pair.inputs for pair in pairs]
    tasks = [pair.task for pair in pairs]
    size = {"side": inputs[0].side, "channels": inputs[0].channels}
    seeds = [task.seed for task in tasks] + [0] * (slots - len(tasks))

    module = create_teacher(config, **size)
    states = create_states(module, config, **size, seeds=seeds, network=0, mesh=mesh)
    samples = [Samples(of) for of in inputs]
    teachers = train_stage(stages[0], tasks, states, samples, mesh)

    directories = [task.directory for task in tasks]
    batch_size = stages[0].batch_size
    targets = teacher_targets(teachers, inputs, directories, batch_size, mesh)
    samples = [Samples(*both) for both in zip(inputs, targets, strict=True)]
    module = create_student(config, **size, axis_name=DATA_AXIS)
    states = create_states(module, config, **size, seeds=seeds, network=1, mesh=mesh)
    train_stage(stages[1], tasks, states, samples, mesh)
