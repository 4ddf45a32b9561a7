"""A trained teacher and student: their files, and the scores of a batch of inputs."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ast_jax import scoring
from ast_jax.data.turned import TURNS
from ast_jax.device_memory import memory_errors
from ast_jax.errors import UserError
from ast_jax.features.blocks import Block
from ast_jax.features.inputs import Inputs, Normaliser
from ast_jax.features.whitening import BlockWhitening
from ast_jax.files import read_text, write_json
from ast_jax.inference.traced_programs import TracedPrograms
from ast_jax.models import create_student, create_teacher
from ast_jax.models.layers import TRANSFORMED
from ast_jax.models.ops import convolution
from ast_jax.models.teacher import ParallelTeacher, Teacher
from ast_jax.parallel import (
    batch_sharding,
    data_mesh,
    is_main,
    place,
    replicated_sharding,
    to_host,
)
from ast_jax.parameter import variable_shapes
from ast_jax.run import Member, Run

NETWORKS = ("student", "teacher")
# network → {"map": [n,h,w], "max": [n], "mean": [n]}; also "top" [n] if the top score
# decides, and "groups" [n,h,w,g] if there are several groups. A detector without
# networks has its own name there.
PairScores = dict[str, dict[str, Float[np.ndarray, "n ..."]]]


@runtime_checkable
class Scorer(Protocol):
    """An argument of `score`: a pair, or a baseline, which is fitted, not trained."""

    variables: Any
    normaliser: Normaliser | BlockWhitening | None

    @property
    def compiled(self) -> Callable[..., Any]:
        """(variables, x, foreground) → scores by name."""
        ...


@dataclasses.dataclass(frozen=True)
class Pair:
    """Both networks with their variables, and the normaliser of their input.

    Attributes:
      teacher: a flow, or several side by side.
      student: one network, or one for each flow.
      variables: "teacher" and "student" → Flax collections; with several groups also
        "units", in which their distances are added.
      normaliser: of the input, if it is normalised.
      reading: options by which image scores are read from maps.
    """

    teacher: Teacher | ParallelTeacher
    student: nn.Module
    variables: dict[str, Any]
    normaliser: Normaliser | BlockWhitening | None = None
    reading: scoring.Reading = scoring.PLAIN

    @property
    def groups(self) -> tuple[int, ...]:
        """The number of channels of each of several teachers; () for a single one."""
        if isinstance(self.teacher, Teacher):
            return ()
        return tuple(group.size for group in self.teacher.groups)

    def with_units(self, units: scoring.Units) -> "Pair":
        """Returns the pair with other units; a pair of one group has none."""
        if not self.groups:
            return self
        return dataclasses.replace(
            self, variables=self.variables | {"units": tuple(units)}
        )

    @functools.cached_property
    def compiled(self):
        """`pair_scores` of this pair, compiled: (variables, x, foreground) → scores."""
        return jax.jit(functools.partial(pair_scores, self))


def pair_scores(
    pair: Pair,
    variables: dict[str, Any],
    x: Float[Array, "b h w c"],
    foreground: Float[Array, "b h w"],
) -> dict[str, dict[str, Float[Array, "b ..."]]]:
    """Returns {"student": …, "teacher": …}, each with map, max, mean and maybe top.

    Args:
      pair: the networks; its own variables are not used.
      variables: as `pair.variables`.
      x: network input.
      foreground: its weight.
    """
    z, log_det = pair.teacher.apply(variables["teacher"], x)
    outputs = (z, pair.student.apply(variables["student"], x, train=False))
    if pair.groups:
        fusion = (pair.groups, scoring.Units(*variables["units"]), pair.reading)
        student = scoring.group_scores(*outputs, foreground, *fusion)
    else:
        student = scoring.student_scores(*outputs, foreground, pair.reading)
    teacher = scoring.teacher_scores(z, log_det, foreground, pair.reading)
    return {"student": student, "teacher": teacher}


def transform_kernels(
    pair: Pair,
    variables: dict[str, Any],
    shape: tuple[int, int, int, int],
    traced: TracedPrograms | None = None,
) -> dict[str, Any]:
    """Adds transformed kernels to the variables, so that a CPU scores faster.

    Args:
      pair: the networks.
      variables: `pair.variables`, on any devices.
      shape: of the batches of features, [b, h, w, c], that become fastest.
      traced: programs that earlier processes traced.
    """
    if not any(tiles(pair, shape)):  # no kernel is transformed
        return variables
    modules = {"teacher": pair.teacher, "student": pair.student}
    transformed = {}
    for network, module in modules.items():
        transform = functools.partial(_transform, module, shape)
        if traced is not None:
            name, own = f"transform {network} {shape}", (variables[network],)
            transform = traced.compile(name, transform, own)
        transformed[network] = variables[network] | transform(variables[network])
    return variables | transformed


def tiles(pair: Pair, shape: tuple[int, int, int, int]) -> tuple[int | None, ...]:
    """The tile of each kernel size; equal tiles have equal transformed kernels."""
    if jax.default_backend() != "cpu":
        return ()
    shapes = map(np.shape, jax.tree.leaves(pair.variables))
    sizes = sorted({kernel[0] for kernel in shapes if len(kernel) == 4})
    return tuple(convolution.best_tile(shape, k, pair.teacher.dtype) for k in sizes)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _transform(module: nn.Module, shape: tuple, variables: dict[str, Any]) -> dict:
    """The collection of transformed kernels; the layers put them there in a call."""
    return module.apply(variables, jnp.zeros(shape), mutable=[TRANSFORMED])[1]


def score(
    pair: Scorer, inputs: Inputs, *, batch_size: int, mesh: Mesh | None = None
) -> PairScores:
    """Scores all inputs, batch by batch.

    The last batch is filled up, and its scores are cut off again.

    Raises:
      UserError: a device has too little memory for a batch.
    """
    mesh = mesh or data_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    variables = place(pair.variables, replicated_sharding(mesh))
    inputs = inputs.with_normaliser(pair.normaliser)

    def scores_from(first: int) -> dict[str, dict[str, jax.Array]]:
        rows = np.arange(first, first + batch_size)
        batch = inputs.take(np.minimum(rows, len(inputs) - 1))
        batch = place(batch, batch_sharding(mesh))
        return pair.compiled(variables, batch["x"], batch["foreground"])

    outputs = map(scores_from, range(0, len(inputs), batch_size))
    with memory_errors("scoring", batch_size, mesh.size):
        # The devices get one more batch before the host waits for this one.
        pairwise = itertools.pairwise(itertools.chain(outputs, [None]))
        results = [to_host(output) for output, _ in pairwise]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(inputs)], *results)


def load_pair(
    run: Run, category: str, seed: Member, traced: TracedPrograms | None = None
) -> Pair:
    """Opens a trained pair; any number of devices will do.

    Args:
      run: the trained run.
      category: its name.
      seed: the pair's name in the run.
      traced: what earlier processes traced.

    Raises:
      UserError: it was not trained, or a checkpoint is missing or damaged.
    """
    # It imports Orbax and optax, so an import of Detector does without them.
    from ast_jax.training.checkpoints import open_store

    record = run.read_record(category, seed)
    size = {"side": record["side"], "channels": record["channels"]}
    blocks = tuple(Block(*block) for block in record.get("blocks", ()))
    teacher = create_teacher(run.config, **size, blocks=blocks)
    student = create_student(run.config, **size, blocks=blocks)
    shape = (1, record["side"], record["side"], record["channels"])
    variables = {}
    for name, module in (("teacher", teacher), ("student", student)):
        find = functools.partial(variable_shapes, module, shape)
        template = traced.shapes(f"{seed} {name}", find) if traced else find()
        with open_store(run.seed_directory(category, seed) / name) as store:
            step, restored = store.restore_variables(
                template, replicated_sharding(data_mesh())
            )
        last = _last_step(run, name, record)
        if step < last:
            logging.warning(
                "%s, seed %s: the %s stands at step %d of %d; train.py finishes it.",
                *(category, seed, name, step, last),
            )
        variables[name] = restored
    normaliser = None
    if record["normaliser"]:
        arrays = (np.asarray(a, np.float32) for a in record["normaliser"])
        normaliser = Normaliser(*arrays)
    if run.config.features.whiten:
        normaliser = BlockWhitening.load(run.whitening_file(category, seed))
    reading = scoring.Reading.of(run.config.evaluation)
    pair = Pair(teacher, student, variables, normaliser, reading)
    return pair.with_units(_read_units(run.units_file(category, seed), pair))


def write_units(run: Run, category: str, seed: Member, pair: Pair) -> None:
    """Writes the units of a pair's groups, in the main process."""
    if pair.groups and is_main():
        units = scoring.Units(*pair.variables["units"])
        tree = {name: array.tolist() for name, array in units._asdict().items()}
        write_json(run.units_file(category, seed), tree)


def _read_units(path: Path, pair: Pair) -> scoring.Units:
    """Reads the units; before they are written, units that change nothing."""
    if not pair.groups or not path.exists():
        return scoring.Units.none(len(pair.groups))
    try:
        tree = json.loads(read_text(path))
        shape = (2, len(pair.groups))  # earlier versions had one row
        arrays = (np.asarray(tree[name], np.float32) for name in scoring.Units._fields)
        return scoring.Units(*(np.broadcast_to(array, shape) for array in arrays))
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error!r}); evaluate it again.") from error


def _last_step(run: Run, network: str, record: dict[str, Any]) -> int:
    """The step at which a network's training ends."""
    turns = TURNS if run.config.dataset.any_direction else 1
    steps_an_epoch = turns * len(record["train"]) // run.config.train.batch_size
    return run.config[network].epochs * max(1, steps_an_epoch)
