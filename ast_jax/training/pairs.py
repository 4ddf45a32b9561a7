"""Trains the pairs of a run: a teacher and a student for every category and seed.

Read `train_categories` first. It chooses the images of each pair, and trains several
pairs side by side.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from absl import logging
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ast_jax.errors import UserError
from ast_jax.features.category import Category
from ast_jax.features.inputs import Inputs, Normaliser
from ast_jax.features.whitening import BlockWhitening
from ast_jax.models import create_groups, create_student, create_teacher
from ast_jax.parallel import DATA_AXIS, TASK_AXIS, barrier, is_main, task_mesh
from ast_jax.parameter import variable_shapes
from ast_jax.run import Run, lock, seed_and_fold
from ast_jax.training.feed import Examples
from ast_jax.training.folds import members, split_fold
from ast_jax.training.loop import Stage, Task, is_finished, train_stage
from ast_jax.training.overview import parameter_table
from ast_jax.training.state import TrainState, create_states
from ast_jax.training.steps import Loss, student_loss, teacher_loss
from ast_jax.training.targets import teacher_targets


@dataclasses.dataclass(frozen=True)
class UntrainedPair:
    """A pair that is not trained yet, and its good images.

    Attributes:
      name: as the log shows it.
      task: seed and directory.
      inputs: of the images, normalised.
      batch_size: the configured one, or fewer images if there are not so many.
    """

    name: str
    task: Task
    inputs: Inputs
    batch_size: int


def train_categories(
    config: ConfigDict,
    workdir: str | Path,
    categories: Sequence[Category],
    *,
    profile: bool = False,
) -> Run:
    """Trains every category's, seed's and fold's teacher and student.

    Args:
      config: of the run.
      workdir: its folder; a run there is continued.
      categories: open; their features are extracted here if the cache lacks them.
      profile: whether to write a trace of some steps to the subfolder `profile`.

    Raises:
      UserError: another process works in the folder, it holds another run, or there are
        too few images.
      SystemExit: the process was asked to stop; it has saved its states.
    """
    names = [(category, name) for category in categories for name in members(category)]
    mesh = task_mesh(len(names), config.train.batch_size)
    with lock(workdir):
        run = Run.create(workdir, config)
        pairs = [
            begin_pair(run, category, name, mesh.shape[DATA_AXIS])
            for category, name in names
        ]
        traces = run.directory / "profile" if profile else None
        train_pairs(pairs, config, mesh, traces)
    barrier("trained")
    return run


def begin_pair(run: Run, category: Category, member: str, share: int) -> UntrainedPair:
    """Chooses the images to train on, and records them in the run.

    Args:
      run: the run of the pair.
      category: its data.
      member: the pair's name, of `folds.members`.
      share: the number of devices that share a batch.

    Raises:
      UserError: there are too few images.
    """
    config, parts = run.config, category.parts
    seed, fold = seed_and_fold(member)
    rows, held_out = split_fold(category, fold)
    inputs = category.inputs_to_learn(rows)
    normaliser = _normaliser(category, inputs)
    plain = isinstance(normaliser, Normaliser)
    ids = parts["train"].ids
    record = {
        "side": inputs.side,
        "channels": inputs.channels,
        "bit_depth": parts["train"].bit_depth,
        "excluded": parts["train"].excluded,
        "sizes": parts["train"].sizes,
        "files": parts["train"].summary,
        "backbone": category.backbone and category.backbone.fingerprint,
        "weights_sha256": category.backbone and category.backbone.weights_sha256,
        "content": parts["train"].content | parts["validation"].content,
        "train": [ids[row] for row in rows],
        "held_out": [ids[row] for row in held_out],
        "normaliser": [array.tolist() for array in normaliser] if plain else None,
    }
    if len(create_groups(config, inputs.channels, inputs.blocks)) > 1:
        record["blocks"] = inputs.blocks
    if category.exaggeration is not None:
        record["exaggeration"] = category.exaggeration
    if run.is_begun(category.name, member):
        run.check_record(category.name, member, record)
    else:
        run.write_record(category.name, member, record)
    if isinstance(normaliser, BlockWhitening) and is_main():
        normaliser.save(run.whitening_file(category.name, member))
    return UntrainedPair(
        f"{category.name}, seed {member.replace('/fold_', ', fold ')}",
        Task(int(seed), run.seed_directory(category.name, member)),
        inputs.with_normaliser(normaliser),
        _batch_size(config, len(inputs), category.name, share),
    )


def _normaliser(
    category: Category, inputs: Inputs
) -> Normaliser | BlockWhitening | None:
    """The normaliser that the configuration or the backbone needs, fitted on inputs."""
    if category.config.features.whiten:
        return inputs.fit_whitening()
    standardise = category.backbone is not None and category.backbone.standardise
    return inputs.fit_normaliser() if standardise else None


def _batch_size(config: ConfigDict, n: int, name: str, share: int) -> int:
    """The configured batch size, or the number of images that `share` devices divide.

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


def train_pairs(
    pairs: Sequence[UntrainedPair],
    config: ConfigDict,
    mesh: Mesh,
    traces: Path | None = None,
) -> None:
    """Trains pairs, as many side by side as the devices have room for.

    Args:
      pairs: of one run.
      config: of the run.
      mesh: of `parallel.task_mesh`.
      traces: folder for a trace of some steps of each stage, or None.
    """
    # One program trains pairs of one batch size. The largest pairs come first, so that
    # pairs of similar size are trained side by side.
    pairs = sorted(pairs, key=lambda pair: -len(pair.inputs))
    for batch_size, group in itertools.groupby(pairs, lambda pair: pair.batch_size):
        _train_one_size(list(group), batch_size, config, mesh, traces)


def _train_one_size(
    pairs: Sequence[UntrainedPair],
    batch_size: int,
    config: ConfigDict,
    mesh: Mesh,
    traces: Path | None,
) -> None:
    """Trains pairs of one batch size."""
    images = max(len(pair.inputs) for pair in pairs)
    stages = _stages(config, batch_size, images, traces)
    devices = mesh.shape[TASK_AXIS]
    each = min(config.train.tasks_per_device, -(-len(pairs) // devices))
    slots = devices * each
    logged = False
    # Finished pairs keep their slots, so that a resumed run uses the same program.
    for first in range(0, len(pairs), slots):
        group = pairs[first : first + slots]
        if all(
            is_finished(stage, pair.task, len(pair.inputs))
            for stage in stages
            for pair in group
        ):
            continue
        if not logged:
            _log_parameters(config, group[0].inputs)
            logged = True
        logging.info("%s: training.", "; ".join(pair.name for pair in group))
        with contextlib.ExitStack() as saves:
            _train_side_by_side(group, stages, slots, config, mesh, saves)


def _log_parameters(config: ConfigDict, inputs: Inputs) -> None:
    """Logs the parameters of both networks."""
    size = {"side": inputs.side, "channels": inputs.channels}
    shape = (1, inputs.side, inputs.side, inputs.channels)
    for name, create in (("teacher", create_teacher), ("student", create_student)):
        module = create(config, **size, blocks=inputs.blocks)
        table = parameter_table(variable_shapes(module, shape))
        logging.info("%s:\n%s", name, table)


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
        stage(
            "student",
            student_loss(average, config.student.hardest),
            config.student.epochs,
        ),
    )


def _train_side_by_side(
    pairs: Sequence[UntrainedPair],
    stages: tuple[Stage, Stage],
    slots: int,
    config: ConfigDict,
    mesh: Mesh,
    saves: contextlib.ExitStack,
) -> None:
    """Trains a teacher, then a student, for each pair; spare slots stay idle.

    The teachers' last checkpoints are written while the students train.
    """
    inputs = [pair.inputs for pair in pairs]
    tasks = [pair.task for pair in pairs]
    size = {"side": inputs[0].side, "channels": inputs[0].channels}
    blocks, idle = inputs[0].blocks, slots - len(tasks)
    seeds = [task.seed for task in tasks] + [0] * idle

    def create_stage(stage: Stage, network: int, module: nn.Module) -> TrainState:
        steps = [stage.steps(len(each)) for each in inputs] + [1] * idle
        several = {"seeds": seeds, "steps": steps, "network": network, "mesh": mesh}
        return create_states(module, config, **size, **several)

    module = create_teacher(config, **size, blocks=blocks)
    states = create_stage(stages[0], 0, module)
    examples = [Examples(each) for each in inputs]
    teachers = train_stage(stages[0], tasks, states, examples, mesh, saves)

    directories = [task.directory for task in tasks]
    batch_size = stages[0].batch_size
    targets = teacher_targets(teachers, inputs, directories, batch_size, mesh)
    examples = [Examples(*both) for both in zip(inputs, targets, strict=True)]
    module = create_student(config, **size, blocks=blocks, axis_name=DATA_AXIS)
    states = create_stage(stages[1], 1, module)
    train_stage(stages[1], tasks, states, examples, mesh, saves)
