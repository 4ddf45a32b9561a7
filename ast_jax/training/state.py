"""What training carries from step to step: parameters, statistics, optimiser."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from flax.training import train_state
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Int
from ml_collections import ConfigDict

from ast_jax.parallel import replicated, split_tasks


class TrainState(train_state.TrainState):
    """Flax's state with the running statistics of batch norm ({} without any)."""

    # Any: a restored state's template holds shapes in place of the arrays.
    step: Any
    params: Any = struct.field(pytree_node=True)
    opt_state: Any = struct.field(pytree_node=True)
    batch_stats: Any

    @property
    def variables(self) -> dict:
        """Both collections, as `module.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@functools.cache
def adam(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """PyTorch's `Adam(weight_decay=…)`: L2 in the gradient, before the moments."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.adam(learning_rate, eps=1e-8)
    )


@functools.cache
def _apply(module: nn.Module) -> Callable:
    """One function for equal modules, so that their programs are one."""
    return module.apply


def create_state(
    module: nn.Module,
    config: ConfigDict,
    *,
    side: int,
    channels: int,
    key: jax.Array,
) -> TrainState:
    """Returns fresh parameters for maps of `side` × `side` × `channels`; traceable."""
    x = jnp.zeros((1, side, side, channels))
    variables = module.init(key, x)
    optimiser = adam(config.train.learning_rate, config.train.weight_decay)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),  # an array, so that a checkpoint has its type
        apply_fn=_apply(module),
        params=params,
        opt_state=optimiser.init(params),
        tx=optimiser,
        batch_stats=variables.get("batch_stats", {}),
    )


def create_states(
    module: nn.Module,
    config: ConfigDict,
    *,
    side: int,
    channels: int,
    seeds: Sequence[int],
    network: int,
    mesh: Mesh,
) -> TrainState:
    """Fresh states of several trainings, stacked along the mesh's task axis.

    Each is what its seed alone gives; `network` tells teacher (0) from student (1).
    """

    def of(seed: Int[Array, ""]) -> TrainState:
        key = jax.random.split(jax.random.key(seed))[network]
        return create_state(module, config, side=side, channels=channels, key=key)

    create = jax.jit(jax.vmap(of), out_shardings=split_tasks(mesh))
    return create(np.asarray(seeds, np.int32))


def take_state(states: TrainState, index: int, mesh: Mesh) -> TrainState:
    """One of several stacked states, on every device."""
    return _take(replicated(mesh))(states, index)


def stack_states(states: Sequence[TrainState], mesh: Mesh) -> TrainState:
    """The inverse of `take_state`, over all states."""
    return _stack(split_tasks(mesh))(*states)


@jax.jit
def is_finite(tree: Any) -> Bool[Array, ""]:
    """Whether every number of some arrays is finite."""
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return jnp.stack(finite).all()


@functools.cache
def _take(sharding: NamedSharding) -> Callable:
    return jax.jit(
        lambda states, index: jax.tree.map(lambda array: array[index], states),
        out_shardings=sharding,
    )


@functools.cache
def _stack(sharding: NamedSharding) -> Callable:
    return jax.jit(
        lambda *states: jax.tree.map(lambda *arrays: jnp.stack(arrays), *states),
        out_shardings=sharding,
    )


def state_template(
    module: nn.Module, config: ConfigDict, *, side: int, channels: int
) -> TrainState:
    """The same with shapes in place of arrays: what a checkpoint is restored into."""
    create = functools.partial(
        create_state, module, config, side=side, channels=channels
    )
    return jax.eval_shape(lambda key: create(key=key), jax.random.key(0))
