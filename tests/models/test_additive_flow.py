"""Additive couplings preserve volume, invert exactly, and work side by side."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.models.coupling import AdditiveCoupling, ChannelScale, Parallel

SHAPE = (2, 3, 4, 5)  # b h w c: halves of 2 and 3 channels

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), SHAPE)


@pytest.fixture
def coupling():
    """A coupling whose conditioners see a position's neighbours too."""
    to_second, to_first = np.random.default_rng(0).normal(size=(2, 3, 3))

    def f1(y1):
        return jnp.tanh((y1 + jnp.roll(y1, 1, 1)) @ to_second[:2])

    def f2(x2):
        return jnp.sin(x2 @ to_first[:, :2]) * jnp.roll(x2, 1, 2)[..., :2]

    return AdditiveCoupling(f1, f2)


def jacobian_log_det(bijector: distrax.Bijector, x: jax.Array) -> float:
    def flat(values):
        return bijector.forward(values.reshape(1, *SHAPE[1:])).ravel()

    jacobian = jax.jacrev(flat)(x[0].ravel())
    return np.linalg.slogdet(np.asarray(jacobian, np.float64))[1]


def test_a_coupling_changes_no_volume_whatever_its_conditioners(coupling, x):
    y, log_det = coupling.forward_and_log_det(x)
    assert not np.allclose(y[..., :2], x[..., :2])
    assert not np.allclose(y[..., 2:], x[..., 2:])
    np.testing.assert_array_equal(log_det, np.zeros(SHAPE[:3]))
    np.testing.assert_allclose(jacobian_log_det(coupling, x), 0, atol=1e-5)


def test_the_coupling_inverts_both_ways(coupling, x):
    np.testing.assert_allclose(coupling.inverse(coupling.forward(x)), x, atol=1e-5)
    np.testing.assert_allclose(coupling.forward(coupling.inverse(x)), x, atol=1e-5)
    np.testing.assert_array_equal(coupling.inverse_log_det_jacobian(x), 0)


def test_scales_are_the_whole_log_det(x):
    scale = ChannelScale(jnp.array([0.5, -0.25, 0.0, 1.0, 0.125]))
    y, log_det = scale.forward_and_log_det(x)
    np.testing.assert_allclose(y[..., 3], x[..., 3] * np.e, rtol=1e-5)
    np.testing.assert_allclose(log_det, np.full(SHAPE[:3], 1.375), rtol=1e-6)
    np.testing.assert_allclose(jacobian_log_det(scale, x), 12 * 1.375, rtol=1e-5)
    back, inverse_log_det = scale.inverse_and_log_det(y)
    np.testing.assert_allclose(back, x, rtol=1e-5)
    np.testing.assert_allclose(inverse_log_det, -log_det)


def test_bijectors_side_by_side_do_not_see_each_other(coupling, x):
    """The first two channels are scaled, the last five coupled."""
    scale = ChannelScale(jnp.array([0.5, -1.0]))
    both = Parallel([scale, coupling], (2, 5))
    wide = jnp.concatenate([x[..., :2], x], -1)
    y, log_det = both.forward_and_log_det(wide)
    np.testing.assert_array_equal(y[..., :2], scale.forward(x[..., :2]))
    np.testing.assert_array_equal(y[..., 2:], coupling.forward(x))
    np.testing.assert_allclose(log_det, np.full(SHAPE[:3], -0.5))
    back, inverse_log_det = both.inverse_and_log_det(y)
    np.testing.assert_allclose(back, wide, atol=1e-5)
    np.testing.assert_allclose(inverse_log_det, -log_det)


def test_every_bijector_has_its_channels_counted(coupling):
    with pytest.raises(ValueError, match=r"Got 1 bijectors and sizes \(2, 3\)"):
        Parallel([coupling], (2, 3))
