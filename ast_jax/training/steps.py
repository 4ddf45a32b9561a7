"""Train steps for one device's share of a batch, mapped over devices and tasks.

A task is one training of several side by side. A batch is {"x": [b,h,w,c],
"foreground": [b,h,w]}, for a student also {"target": [b,h,w,c]}, the teacher's z.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from ast_jax import scoring
from ast_jax.parallel import DATA_AXIS, TASK_AXIS
from ast_jax.training.state import TrainState

Batch = dict[str, Float[Array, "b ..."]]
ExampleArrays = dict[str, Float[Array, "n ..."]]
# (state, params, batch) → ((loss numerator, denominator), batch statistics)
Loss = Callable[[TrainState, dict, Batch], tuple[tuple[jax.Array, jax.Array], dict]]


@functools.cache
def teacher_loss(average: scoring.LossAverage) -> Loss:
    """The negative log-likelihood of good parts (paper, equation 4)."""

    def loss(state: TrainState, params: dict, batch: Batch):
        z, log_det = state.apply_fn({"params": params}, batch["x"])
        m = batch["foreground"]
        nll = scoring.negative_log_likelihood(z, log_det, m)
        return scoring.loss_terms(nll, m, average), {}

    return loss


@functools.cache
def student_loss(average: scoring.LossAverage, hardest: float = 1.0) -> Loss:
    """The squared distance to the teacher's z (paper, equation 5).

    Args:
      average: over which positions.
      hardest: the share of an image's positions that counts, the hardest of them.
    """

    def loss(state: TrainState, params: dict, batch: Batch):
        z_student, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            batch["x"],
            train=True,
            mutable=["batch_stats"],
        )
        m = batch["foreground"]
        both = (batch["target"], z_student, m)
        if hardest < 1:
            distance = scoring.hard_distance(*both, hardest)
        else:
            distance = scoring.distance(*both)
        terms = scoring.loss_terms(distance, m, average)
        return terms, updates.get("batch_stats", {})

    return loss


def train_step(
    loss: Loss, state: TrainState, batch: Batch
) -> tuple[TrainState, Float[Array, ""]]:
    """Makes one Adam step on this device's share of a batch, inside a data axis.

    Returns the next state, equal on all devices, and the loss of the whole batch.
    """

    def share_of_loss(params: dict):
        (numerator, denominator), batch_stats = loss(state, params, batch)
        return numerator / lax.psum(denominator, DATA_AXIS), batch_stats

    gradient = jax.value_and_grad(share_of_loss, has_aux=True)
    (value, batch_stats), grads = gradient(state.params)
    grads, value = lax.psum((grads, value), DATA_AXIS)
    return state.apply_gradients(grads=grads, batch_stats=batch_stats), value


@functools.cache
def compile_steps(loss: Loss, mesh: Mesh) -> Callable:
    """Compiles many steps of several trainings into one call.

    The arguments of the returned function have a leading axis of t trainings, a
    multiple of the mesh's task axis:

      states: stacked; donated.
      examples: arrays [t, n, …]; a training with fewer than n examples is filled up.
      rows: [t, s, b], the examples of each step's batch.
      counts: [t], how many of the s steps each training makes. A training with fewer
        steps waits for the others. So all calls have one shape, also at the end of an
        epoch and after the end of a training.

    It returns the states and the losses [t, s], which are 0 after the count. All counts
    share one program, so an interruption changes no bit of the result.
    """

    def training(
        state: TrainState,
        examples: ExampleArrays,
        rows: Int[Array, "s b"],
        count: Int[Array, ""],
    ):
        def step(n: Int[Array, ""], carry: tuple[TrainState, Float[Array, " s"]]):
            state, losses = carry
            batch = jax.tree.map(lambda array: array[rows[n]], examples)
            state, value = train_step(loss, state, batch)
            return state, losses.at[n].set(value)

        return lax.fori_loop(0, count, step, (state, jnp.zeros(len(rows))))

    per_task = PartitionSpec(TASK_AXIS)
    spread = jax.shard_map(
        _for_each_task(training),
        mesh=mesh,
        in_specs=(
            per_task,
            per_task,
            PartitionSpec(TASK_AXIS, None, DATA_AXIS),
            per_task,
        ),
        out_specs=per_task,
        check_vma=False,  # `train_step` sums the gradients itself, as under pmap
    )
    return jax.jit(spread, donate_argnums=0)


@functools.cache
def compile_teachers(apply: Callable, mesh: Mesh) -> Callable:
    """Compiles (stacked parameters, x [t, b, h, w, c]) → z, for the frozen teachers."""
    per_task = PartitionSpec(TASK_AXIS)
    divided = PartitionSpec(TASK_AXIS, DATA_AXIS)
    spread = jax.shard_map(
        _for_each_task(lambda params, x: apply({"params": params}, x)[0]),
        mesh=mesh,
        in_specs=(per_task, divided),
        out_specs=divided,
        check_vma=False,
    )
    return jax.jit(spread)


def _for_each_task(function: Callable) -> Callable:
    """Maps `function` over the leading axis of its arguments, the tasks of a device."""

    def over_tasks(*arguments):
        if len(jax.tree.leaves(arguments)[0]) > 1:
            return jax.vmap(function)(*arguments)
        # A single task is not mapped, because a mapped loop copies unchanged arrays.
        result = function(*jax.tree.map(lambda array: array[0], arguments))
        return jax.tree.map(lambda array: array[None], result)

    return over_tasks
