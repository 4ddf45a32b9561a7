"""What training carries from step to step: parameters, statistics, optimiser."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training import train_state


class TrainState(train_state.TrainState):
    """Flax's state with the running statistics of batch norm ({} without any)."""

    batch_stats: dict

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
    optimiser: optax.GradientTransformation,
    *,
    side: int,
    channels: int,
    key: jax.Array,
) -> TrainState:
    """Returns fresh parameters for maps of `side` × `side` × `channels`."""
    variables = jax.jit(module.init)(key, jnp.zeros((1, side, side, channels)))
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),  # an array, so that a checkpoint has its type
        apply_fn=module.apply,
        params=params,
        opt_state=optimiser.init(params),
        batch_stats=variables.get("batch_stats", {}),
        tx=optimiser,
    )
