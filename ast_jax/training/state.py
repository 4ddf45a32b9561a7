"""What training carries from step to step: parameters, statistics, optimiser."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from flax.training import train_state
from ml_collections import ConfigDict


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


def adam(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """PyTorch's `Adam(weight_decay=…)`: L2 in the gradient, before the moments."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.adam(learning_rate, eps=1e-8)
    )


def create_state(
    module: nn.Module,
    config: ConfigDict,
    *,
    side: int,
    channels: int,
    key: jax.Array,
) -> TrainState:
    """Returns fresh parameters for maps of `side` × `side` × `channels`."""
    x = jnp.zeros((1, side, side, channels))
    variables = jax.jit(module.init)(key, x)
    optimiser = adam(config.train.learning_rate, config.train.weight_decay)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),  # an array, so that a checkpoint has its type
        apply_fn=module.apply,
        params=params,
        opt_state=optimiser.init(params),
        tx=optimiser,
        batch_stats=variables.get("batch_stats", {}),
    )


def state_template(
    module: nn.Module, config: ConfigDict, *, side: int, channels: int
) -> TrainState:
    """The same with shapes in place of arrays: what a checkpoint is restored into."""
    create = functools.partial(
        create_state, module, config, side=side, channels=channels
    )
    return jax.eval_shape(lambda key: create(key=key), jax.random.key(0))
