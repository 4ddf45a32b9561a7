"""`train.precision` reaches the products of both networks and of the backbone."""

import jax
import jax.numpy as jnp
import pytest

from ast_jax.precision import multiply_at, multiply_at_least_high

SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)


def traced(context):
    """The precision of a product that is traced inside a context."""
    with context:
        equation = jax.make_jaxpr(lambda x: x @ x)(SQUARE).eqns[0]
    return equation.params["precision"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("high", jax.lax.Precision.HIGH), ("highest", jax.lax.Precision.HIGHEST)],
)
def test_a_choice_is_that_of_products_inside(choice, expected):
    assert set(traced(multiply_at(choice))) == {expected}


def test_the_default_leaves_the_users_own_choice():
    assert traced(multiply_at("default")) is None
    with jax.default_matmul_precision("highest"):
        assert set(traced(multiply_at("default"))) == {jax.lax.Precision.HIGHEST}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("default", jax.lax.Precision.HIGH),
        ("high", jax.lax.Precision.HIGH),
        ("highest", jax.lax.Precision.HIGHEST),
    ],
)
def test_the_backbone_is_at_least_high(choice, expected):
    with multiply_at(choice):
        assert set(traced(multiply_at_least_high())) == {expected}
