"""The state of a training: parameters, batch statistics and optimiser."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from flax.training import train_state
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from ast_jax.parallel import replicated_sharding, task_sharding
from ast_jax.parameter import initialise_with_zeros

# Fractions of the training's length and of the highest rate; PyTorch's and optax's
# defaults.
_CYCLE_PEAK, _CYCLE_START, _CYCLE_END = 0.3, 1 / 25, 1 / 25e4


class TrainState(train_state.TrainState):
    """Flax's state with the running statistics of batch norm, or {}."""

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


def create_optimiser(options: ConfigDict) -> optax.GradientTransformation:
    """Adam with the options of the section `train`; equal options give one object."""
    decay, rate = options.weight_decay, options.learning_rate
    if options.schedule == "constant" and not options.clip:
        return adam(rate, decay)
    return _schedule_adam(rate, decay, options.schedule == "one_cycle", options.clip)


@functools.cache
def _schedule_adam(
    learning_rate: float, weight_decay: float, cycle: bool, clip: float
) -> optax.GradientTransformation:
    """Bounds the gradient's norm, then Adam, then the cycle's rate."""
    steps = [optax.clip_by_global_norm(clip)] if clip else []
    steps.append(adam(learning_rate, weight_decay))
    return optax.chain(*steps, *([one_cycle()] if cycle else []))


class CycleState(NamedTuple):
    """The number of steps done, and of all steps."""

    count: Int[Array, ""]
    total: Int[Array, ""]


def one_cycle() -> optax.GradientTransformation:
    """Scales updates by a rate that rises to 1 and falls to nearly 0.

    Smith, "Super-convergence" (2018), with cosine ramps. The number of steps is part of
    the state, because trainings side by side share a program and differ in length.
    """

    def init(params: Any) -> CycleState:
        del params
        return CycleState(jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32))

    def update(updates: Any, state: CycleState, params: Any = None):
        del params
        rate = cycle_rate(state.count / state.total)
        scaled = jax.tree.map(lambda update: rate * update, updates)
        return scaled, state._replace(count=state.count + 1)

    return optax.GradientTransformation(init, update)


def cycle_rate(progress: Float[Array, ""]) -> Float[Array, ""]:
    """The rate, relative to the highest, at a fraction of the training in 0 … 1."""

    def ramp(low: float, high: float, at: jax.Array) -> jax.Array:
        return low + (high - low) * (1 - jnp.cos(jnp.pi * at)) / 2

    up = ramp(_CYCLE_START, 1.0, progress / _CYCLE_PEAK)
    down = ramp(1.0, _CYCLE_END, (progress - _CYCLE_PEAK) / (1 - _CYCLE_PEAK))
    return jnp.where(progress < _CYCLE_PEAK, up, down)


@functools.cache
def _apply(module: nn.Module) -> Callable:
    """`module.apply`, one object for equal modules, so that they share a program."""
    return module.apply


class _Recipe(NamedTuple):
    """What a new state is made from; equal recipes make equal states by one program."""

    module: nn.Module
    optimiser: optax.GradientTransformation
    has_cycle: bool
    side: int
    channels: int


def _recipe(module: nn.Module, config: ConfigDict, side: int, channels: int) -> _Recipe:
    has_cycle = config.train.schedule == "one_cycle"
    optimiser = create_optimiser(config.train)
    return _Recipe(module, optimiser, has_cycle, side, channels)


def _create_state(
    recipe: _Recipe, key: jax.Array, steps: int | Int[Array, ""] = 1
) -> TrainState:
    """A new state; `steps` is the length of the training, which the cycle needs."""
    x = jnp.zeros((1, recipe.side, recipe.side, recipe.channels))
    variables = recipe.module.init(key, x)
    params = variables["params"]
    opt_state = recipe.optimiser.init(params)
    if recipe.has_cycle:
        total = jnp.asarray(steps, jnp.int32)
        opt_state = optax.tree_utils.tree_set(opt_state, total=total)
    return TrainState(
        step=jnp.zeros((), jnp.int32),  # an array, so that a checkpoint has its type
        apply_fn=_apply(recipe.module),
        params=params,
        opt_state=opt_state,
        tx=recipe.optimiser,
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
    steps: Sequence[int] = (),
) -> TrainState:
    """New states of several trainings, stacked along the mesh's task axis.

    Each depends only on its seed and its number of steps. `network` is 0 for teachers
    and 1 for students, so that a teacher and its student start from different keys.
    """
    recipe = _recipe(module, config, side, channels)
    lengths = np.asarray(steps or [1] * len(seeds), np.int32)
    create = _compile_creation(recipe, network, task_sharding(mesh))
    return create(np.asarray(seeds, np.int32), lengths)


@functools.cache
def _compile_creation(
    recipe: _Recipe, network: int, sharding: NamedSharding
) -> Callable:
    def create_one(seed: Int[Array, ""], steps: Int[Array, ""]) -> TrainState:
        key = jax.random.split(jax.random.key(seed))[network]
        return _create_state(recipe, key, steps)

    return jax.jit(jax.vmap(create_one), out_shardings=sharding)


def take_state(states: TrainState, index: int, mesh: Mesh) -> TrainState:
    """One of several stacked states, on every device."""
    return _take(replicated_sharding(mesh))(states, index)


def stack_states(states: Sequence[TrainState], mesh: Mesh) -> TrainState:
    """The inverse of `take_state`, over all states."""
    return _stack(task_sharding(mesh))(*states)


@jax.jit
def is_finite(tree: Any) -> Bool[Array, ""]:
    """Whether every number in a tree of arrays is finite."""
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
    """A state with shapes in place of arrays: the template to restore a checkpoint."""
    return _template(_recipe(module, config, side, channels))


@functools.cache
def _template(recipe: _Recipe) -> TrainState:
    with initialise_with_zeros():
        return jax.eval_shape(lambda: _create_state(recipe, jax.random.key(0)))
