"""Train steps, written for one device's share of a batch and mapped over the devices.

A batch is {"x": [b,h,w,c], "foreground": [b,h,w]}, for the student also
{"target": [b,h,w,c]}, the frozen teacher's z.
"""

from collections.abc import Callable

import jax
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from ast_jax import scoring
from ast_jax.training.devices import DATA_AXIS
from ast_jax.training.state import TrainState

Batch = dict[str, Float[Array, "b ..."]]
Samples = dict[str, Float[Array, "n ..."]]
# (state, params, batch) → ((loss numerator, denominator), batch statistics)
Loss = Callable[[TrainState, dict, Batch], tuple[tuple[jax.Array, jax.Array], dict]]


def teacher_loss(average: scoring.LossAverage) -> Loss:
    """The negative log-likelihood of good parts (paper, equation 4)."""

    def loss(state: TrainState, params: dict, batch: Batch):
        z, log_det = state.apply_fn({"params": params}, batch["x"])
        m = batch["foreground"]
        nll = scoring.negative_log_likelihood(z, log_det, m)
        return scoring.loss_terms(nll, m, average), {}

    return loss


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


def mapped_steps(
    loss: Loss, mesh: Mesh
) -> Callable[
    [TrainState, Samples, Int[Array, "s b"]], tuple[TrainState, Float[Array, " s"]]
]:
    """Compiles many steps into one call without a host round trip.

    The returned function takes the state (donated), samples [n, …] on every device
    and the rows of them that make each step's batch; it returns the state and losses.
    """

    def steps(state: TrainState, samples: Samples, indices: Int[Array, "s b"]):
        def body(state: TrainState, rows: Int[Array, " b"]):
            batch = jax.tree.map(lambda array: array[rows], samples)
            return train_step(loss, state, batch)

        return lax.scan(body, state, indices)

    everywhere = PartitionSpec()
    mapped = jax.shard_map(
        steps,
        mesh=mesh,
        in_specs=(everywhere, everywhere, PartitionSpec(None, DATA_AXIS)),
        out_specs=everywhere,
        check_vma=False,  # gradients are summed by hand, as under pmap
    )
    return jax.jit(mapped, donate_argnums=0)
