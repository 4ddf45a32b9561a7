"""Train steps, written for one device's share of a batch and mapped over the devices,
several trainings (tasks) side by side.

A batch is {"x": [b,h,w,c], "foreground": [b,h,w]}, for the student also
{"target": [b,h,w,c]}, the frozen teacher's z.
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
def student_loss(average: scoring.LossAverage) -> Loss:
    """The squared distance to the teacher's z (paper, equation 5)."""

    def loss(state: TrainState, params: dict, batch: Batch):
        z_student, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            batch["x"],
            train=True,
            mutable=["batch_stats"],
        )
        m = batch["foreground"]
        distance = scoring.distance(batch["target"], z_student, m)
        terms = scoring.loss_terms(distance, m, average)
        return terms, updates.get("batch_stats", {})

    return loss


def train_step(
    loss: Loss, state: TrainState, batch: Batch
) -> tuple[TrainState, Float[Array, ""]]:
    """One Adam step on this device's share of a batch; runs inside a data axis.

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

    The returned function takes, each with a leading axis of trainings t that divides by
    the mesh's task axis:

      states: stacked; donated.
      examples: arrays [t, n, …], of a training that has fewer than n filled up.
      rows: [t, s, b], which examples make each step's batch.
      counts: [t], how many of the s steps to make. What a training has no steps for is
        waited out, not compiled anew: neither an epoch's end nor a finished training
        changes a shape.

    It returns the states and the losses [t, s], zeros behind the count. The program is
    the same for every count, so where a training is interrupted does not change a bit.
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
        check_vma=False,  # gradients are summed by hand, as under pmap
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
    """`function` over the leading axis of its arguments: the tasks of one device."""

    def over_tasks(*arguments):
        if len(jax.tree.leaves(arguments)[0]) > 1:
            return jax.vmap(function)(*arguments)
        # A lone task is not mapped: a mapped loop copies what it leaves unchanged.
        result = function(*jax.tree.map(lambda array: array[0], arguments))
        return jax.tree.map(lambda array: array[None], result)

    return over_tasks
