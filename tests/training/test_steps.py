"""One program gives the losses of one device on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_inputs import BLOCKS, SIDE, make_inputs

from ast_jax.models import create_student, create_teacher
from ast_jax.parallel import DATA_AXIS, check_batch, data_mesh
from ast_jax.training.state import adam, create_states
from ast_jax.training.steps import compile_steps, student_loss, teacher_loss

# Fewer steps are made of as many rows: numbers of steps share a program.
BATCH, STEPS = 8, 20


def losses_on(devices: int, network: str, mode: str, config, steps: int, average="all"):
    """The losses of some steps, and Adam's state after them."""
    inputs = make_inputs(mode)
    size = {"side": SIDE, "channels": inputs.channels}
    networks = size | {"blocks": BLOCKS[config.method]}
    samples = inputs.take(np.arange(len(inputs)))
    if network == "teacher":
        module, loss = create_teacher(config, **networks), teacher_loss(average)
    else:
        module = create_student(config, **networks, axis_name=DATA_AXIS)
        loss = student_loss(average)
        samples["target"] = np.tanh(samples["x"])
    mesh = data_mesh(jax.devices()[:devices])
    one = {"seeds": [0], "steps": [steps], "network": 0}
    state = create_states(module, config, **size, **one, mesh=mesh)
    rng = np.random.default_rng(1)
    rows = rng.integers(len(inputs), size=(STEPS, BATCH)).astype(np.int32)
    samples, rows, count = jax.tree.map(
        lambda array: array[None], (samples, rows, np.int32(steps))
    )
    state, losses = compile_steps(loss, mesh)(state, samples, rows, count)
    return np.asarray(losses[0, :steps]), jax.device_get(state.opt_state)


@pytest.mark.parametrize("network", ["teacher", "student"])
@pytest.mark.parametrize(
    ("mode", "steps", "method"),
    [("rgb", 20, "ast"), ("rgb3d", 20, "ast_plus"), ("3d", 5, "ast")],
)
def test_losses_are_equal_on_one_and_eight_devices(
    network, mode, steps, method, configs
):
    config = configs[method]
    one, _ = losses_on(1, network, mode, config, steps)
    eight, _ = losses_on(8, network, mode, config, steps)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    assert one[-1] != one[0]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("mode", ["rgb", "rgb3d"])
def test_losses_are_equal_on_two_and_four_devices(mode, devices, config):
    one, _ = losses_on(1, "student", mode, config, 20)
    several, _ = losses_on(devices, "student", mode, config, 20)
    np.testing.assert_allclose(several, one, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["teacher", "student"])
@pytest.mark.parametrize("mode", ["rgb", "rgb3d", "3d"])
def test_gradients_are_equal_on_one_and_eight_devices(network, mode, config):
    """After one step Adam's first moment is a tenth of the gradient."""
    _, one = losses_on(1, network, mode, config, 1)
    _, eight = losses_on(8, network, mode, config, 1)
    gradients = [jax.tree.leaves(state[1][0].mu) for state in (one, eight)]
    largest = max(np.abs(leaf).max() for leaf in gradients[0])
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * largest)


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_bfloat16_trains_as_float32_does(network, config):
    exact, _ = losses_on(1, network, "rgb", config, 20)
    config.train.dtype = "bfloat16"
    rounded, _ = losses_on(1, network, "rgb", config, 20)
    np.testing.assert_allclose(rounded, exact, rtol=0.02)
    assert not np.array_equal(rounded, exact)


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_the_foreground_average_divides_by_the_global_weight(network, config):
    one, _ = losses_on(1, network, "rgb3d", config, 1, average="foreground")
    eight, _ = losses_on(8, network, "rgb3d", config, 1, average="foreground")
    every, _ = losses_on(1, network, "rgb3d", config, 1)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    assert one[0] > 1.5 * every[0]


def test_adam_has_torchs_weight_decay_in_the_gradient():
    """One step by hand: g = gradient + decay · parameter, then Adam's first step."""
    learning_rate, decay = 0.1, 0.5
    params, gradient = jnp.array([2.0, -3.0]), jnp.array([0.3, 1.4])
    optimiser = adam(learning_rate, decay)
    updates, _ = optimiser.update(gradient, optimiser.init(params), params)
    g = np.array([0.3 + 0.5 * 2.0, 1.4 - 0.5 * 3.0])
    expected = np.array([2.0, -3.0]) - learning_rate * g / (np.abs(g) + 1e-8)
    np.testing.assert_allclose(
        optax.apply_updates(params, updates), expected, rtol=1e-5
    )


def test_an_indivisible_batch_proposes_one_that_divides():
    mesh = data_mesh(jax.devices()[:8])
    check_batch(16, mesh)
    with pytest.raises(Exception, match=r"12 does not divide by the 8 .*batch_size=8"):
        check_batch(12, mesh)
