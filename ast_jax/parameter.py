"""Parameters of Flax modules, and the shapes of all of them, at little cost."""

import functools
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

# JAX takes nothing that it traced with another value of this from its caches.
_shapes_only = jax.make_user_context(default_value=False)


def parameter(
    module: nn.Module,
    name: str,
    initialiser: nn.initializers.Initializer,
    shape: tuple[int, ...],
) -> Array:
    """Returns `module.param(name, initialiser, shape)`.

    For a parameter that exists Flax traces the initialiser, only to compare shapes:
    a large share of the time that tracing a network takes.
    """
    if module.has_variable("params", name):
        value = module.get_variable("params", name)
        if value.shape == shape:
            return value
    if _shapes_only.value:
        initialiser = nn.initializers.zeros
    return module.param(name, initialiser, shape)  # raises if a value has another shape


def initialise_with_zeros() -> AbstractContextManager:
    """New parameters are zeros inside, which are traced in a tenth of the time."""
    return _shapes_only(True)


@functools.cache
def variable_shapes(module: nn.Module, shape: tuple[int, ...]) -> dict[str, dict]:
    """Shapes of a module's "params" and "batch_stats" for inputs of a shape."""
    with initialise_with_zeros():
        variables = jax.eval_shape(
            lambda: module.init(jax.random.key(0), jnp.zeros(shape))
        )
    return {name: variables.get(name, {}) for name in ("params", "batch_stats")}
