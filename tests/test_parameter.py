"""Parameters are Flax's, and their shapes are those of the variables."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax.errors import ScopeParamShapeError

from ast_jax.parameter import initialise_with_zeros, parameter, variable_shapes


class Affine(nn.Module):
    """With one parameter drawn at random, and statistics."""

    @nn.compact
    def __call__(self, x):
        shape = (x.shape[-1],)
        self.variable("batch_stats", "mean", jnp.zeros, shape)
        return x * parameter(self, "scale", nn.initializers.normal(1.0), shape)


def test_a_parameter_is_drawn_once_and_then_taken():
    x = jnp.ones((2, 3))
    variables = Affine().init(jax.random.key(0), x)
    scale = variables["params"]["scale"]
    assert (scale != 0).all()
    assert (Affine().apply(variables, x) == scale).all()


def test_a_parameter_of_another_shape_is_refused():
    variables = Affine().init(jax.random.key(0), jnp.ones((2, 3)))
    with pytest.raises(ScopeParamShapeError, match="scale"):
        Affine().apply(variables, jnp.ones((2, 4)))


def test_shapes_are_those_of_the_variables_and_zeros_end_with_the_context():
    x = jnp.ones((2, 3))
    shapes = variable_shapes(Affine(), x.shape)
    variables = Affine().init(jax.random.key(0), x)
    assert shapes == jax.eval_shape(lambda: variables)
    with initialise_with_zeros():
        assert (Affine().init(jax.random.key(0), x)["params"]["scale"] == 0).all()
    assert (Affine().init(jax.random.key(0), x)["params"]["scale"] != 0).all()
