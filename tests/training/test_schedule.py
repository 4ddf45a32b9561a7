"""The one-cycle rate rises and falls over each training's own length."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ast_jax.config import ast_plus, default
from ast_jax.training.state import create_optimiser, cycle_rate, one_cycle


def test_the_rate_is_optaxs_cosine_cycle():
    steps = 200
    expected = optax.cosine_onecycle_schedule(steps, 1.0)
    found = jax.vmap(cycle_rate)(jnp.arange(steps) / steps)
    np.testing.assert_allclose(
        found, [expected(step) for step in range(steps)], atol=1e-6
    )


def test_trainings_of_two_lengths_run_their_own_cycles_side_by_side():
    cycle = one_cycle()

    def run(total):
        state = cycle.init(None)._replace(total=total)
        update = jnp.ones(())
        found = []
        for _ in range(4):
            rate, state = cycle.update(update, state)
            found.append(rate)
        return jnp.stack(found)

    both = jax.vmap(run)(jnp.array([4, 8]))
    for rates, total in zip(both, (4, 8), strict=True):
        expected = jax.vmap(cycle_rate)(jnp.arange(4) / total)
        np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_a_gradient_beyond_the_bound_is_scaled_down():
    config = ast_plus(default()).train
    config.learning_rate = 1.0
    params = jnp.zeros(2)
    states = {}
    for name, gradient in (("long", [300.0, 400.0]), ("unit", [0.6, 0.8])):
        optimiser = create_optimiser(config)
        _, state = optimiser.update(jnp.array(gradient), optimiser.init(params), params)
        states[name] = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(states["long"], states["unit"], rtol=1e-6)


def test_the_faithful_method_keeps_its_plain_optimiser():
    config = default().train
    assert create_optimiser(config) is create_optimiser(config)
    state = create_optimiser(config).init(jnp.zeros(2))
    assert optax.tree_utils.tree_get(state, "total") is None
    config.clip = 1.0
    assert create_optimiser(config) is not create_optimiser(default().train)
    with pytest.raises(KeyError):
        optax.tree_utils.tree_set(state, total=1)
