"""A trained teacher and student, frozen, and what they say of a batch of inputs."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ast_jax import scoring
from ast_jax.device_memory import memory_errors
from ast_jax.features.inputs import Inputs, Normaliser
from ast_jax.models import create_student, create_teacher
from ast_jax.models.layers import PREPARED
from ast_jax.models.ops import convolution
from ast_jax.models.teacher import Teacher
from ast_jax.parallel import data_mesh, place, replicated, split_batch, to_host
from ast_jax.run import Member, Run

# network ("student" or "teacher") → {"map": [n,h,w], "max": [n], "mean": [n]}
PairScores = dict[str, dict[str, Float[np.ndarray, "n ..."]]]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Both networks with their variables, and the normaliser of their input."""

    teacher: Teacher
    student: nn.Module
    variables: dict[str, Any]  # "teacher" and "student" → Flax collections
    normaliser: Normaliser | None = None

    @functools.cached_property
    def compiled(self):
        """`pair_scores` of this pair, compiled: (variables, x, foreground) → scores."""
        return jax.jit(functools.partial(pair_scores, self.teacher, self.student))


def pair_scores(
    teacher: Teacher,
    student: nn.Module,
    variables: dict[str, Any],
    x: Float[Array, "b h w c"],
    foreground: Float[Array, "b h w"],
) -> dict[str, dict[str, Float[Array, "b ..."]]]:
    """Returns {"student": …, "teacher": …}, each with map, max and mean."""
    z, log_det = teacher.apply(variables["teacher"], x)
    z_student = student.apply(variables["student"], x, train=False)
    return {
        "student": scoring.student_scores(z, z_student, foreground),
        "teacher": scoring.teacher_scores(z, log_det, foreground),
    }


def prepared(
    pair: Pair, variables: dict[str, Any], shape: tuple[int, int, int, int]
) -> dict[str, Any]:
    """The variables with what a CPU computes of kernels alone, for a faster inference.

    Args:
      pair: what `variables` are of.
      variables: `pair.variables`, wherever they lie.
      shape: of the batches of features, [b, h, w, c], that are fastest then.
    """
    if jax.default_backend() != "cpu":
        return variables
    modules = {"teacher": pair.teacher, "student": pair.student}
    return {
        network: variables[network] | _prepare(module, variables[network], shape)
        for network, module in modules.items()
    }


def tiles(pair: Pair, shape: tuple[int, int, int, int]) -> tuple[int | None, ...]:
    """Equal for shapes for which `prepared` makes the same."""
    if jax.default_backend() != "cpu":
        return ()
    kernels = (leaf for leaf in jax.tree.leaves(pair.variables) if leaf.ndim == 4)
    sizes = sorted({kernel.shape[0] for kernel in kernels})
    return tuple(convolution.best_tile(shape, k, pair.teacher.dtype) for k in sizes)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _prepare(module: nn.Module, variables: dict[str, Any], shape: tuple) -> dict:
    return module.apply(variables, jnp.zeros(shape), mutable=[PREPARED])[1]


def score(
    pair: Pair, inputs: Inputs, *, batch_size: int, mesh: Mesh | None = None
) -> PairScores:
    """Scores all inputs, batch by batch; the last batch is filled up and cut.

    Raises:
      UserError: a device's memory does not suffice for a batch.
    """
    mesh = mesh or data_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    variables = place(pair.variables, replicated(mesh))
    inputs = inputs.normalised(pair.normaliser)

    def scores_from(first: int) -> dict[str, dict[str, jax.Array]]:
        rows = np.arange(first, first + batch_size)
        batch = inputs.take(np.minimum(rows, len(inputs) - 1))
        batch = place(batch, split_batch(mesh))
        return pair.compiled(variables, batch["x"], batch["foreground"])

    outputs = map(scores_from, range(0, len(inputs), batch_size))
    with memory_errors("scoring", batch_size, mesh.size):
        # The devices get the next batch, and no more, before the host waits for this.
        pairwise = itertools.pairwise(itertools.chain(outputs, [None]))
        results = [to_host(output) for output, _ in pairwise]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(inputs)], *results)


def load_pair(run: Run, category: str, seed: Member) -> Pair:
    """Opens a trained pair, on whatever devices there are.

    Raises:
      UserError: it was not trained, or a checkpoint is missing or damaged.
    """
    # They bring Orbax and optax, which the class of a detector does not need.
    from ast_jax.training.checkpoints import opened
    from ast_jax.training.state import state_template

    record = run.read_inputs(category, seed)
    size = {"side": record["side"], "channels": record["channels"]}
    teacher = create_teacher(run.config, **size)
    student = create_student(run.config, **size)
    variables = {}
    for name, module in (("teacher", teacher), ("student", student)):
        template = state_template(module, run.config, **size)
        with opened(run.seed_directory(category, seed) / name) as store:
            state = store.restore(template, replicated(data_mesh()))
        step, last = int(state.step), _last_step(run, name, record)
        if step < last:
            logging.warning(
                "%s, seed %s: the %s stands at step %d of %d; train.py finishes it.",
                *(category, seed, name, step, last),
            )
        variables[name] = state.variables
    normaliser = None
    if record["normaliser"]:
        arrays = (np.asarray(a, np.float32) for a in record["normaliser"])
        normaliser = Normaliser(*arrays)
    return Pair(teacher, student, variables, normaliser)


def _last_step(run: Run, network: str, record: dict[str, Any]) -> int:
    """Where a network's training ends."""
    steps_an_epoch = len(record["train"]) // run.config.train.batch_size
    return run.config[network].epochs * max(1, steps_an_epoch)
