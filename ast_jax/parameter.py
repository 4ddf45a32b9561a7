"""Creates parameters of Flax modules, and finds their shapes, in little time."""

import functools
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

# A part of the key of JAX's caches, so that a function traced under the other value is
# traced again.
_zeros = jax.make_user_context(default_value=False)


def parameter(
    module: nn.Module,
    name: str,
    initialiser: nn.initializers.Initializer,
    shape: tuple[int, ...],
) -> Array:
    """Returns `module.param(name, initialiser, shape)`.

    If the parameter exists, Flax traces the initialiser only to compare shapes. That
    takes a large share of the time of tracing a network, so this function compares the
    shapes itself.

    Args:
      module: the module of the parameter.
      name: of the parameter.
      initialiser: makes a new parameter.
      shape: of the parameter.
    """
    if module.has_variable("params", name):
        value = module.get_variable("params", name)
        if value.shape == shape:
            return value
    if _zeros.value:
        initialiser = nn.initializers.zeros
    return module.param(name, initialiser, shape)  # raises if a value has another shape


def initialise_with_zeros() -> AbstractContextManager:
    """Makes new parameters zeros in the block, which takes a tenth of the time."""
    return _zeros(True)


@functools.cache
def variable_shapes(module: nn.Module, shape: tuple[int, ...]) -> dict[str, dict]:
    """Returns the shapes of "params" and "batch_stats" for inputs of a shape."""
    with initialise_with_zeros():
        variables = jax.eval_shape(
            lambda: module.init(jax.random.key(0), jnp.zeros(shape))
        )
    return {name: variables.get(name, {}) for name in ("params", "batch_stats")}
