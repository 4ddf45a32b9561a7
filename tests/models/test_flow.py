"""The flow inverts, its log-det is the Jacobian's, and it starts as a permutation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.models.coupling import (
    AffineCoupling,
    ChannelPermutation,
    arctan,
    soft_clamp,
)
from ast_jax.models.teacher import Teacher

SHAPE = (2, 3, 4, 6)  # b h w c


pytestmark = pytest.mark.usefixtures("quick_compilation")


def random_parameters(teacher: Teacher, scale: float = 1.0):
    """Parameters with every γ moved away from its zero start."""
    x = jnp.zeros((1, teacher.height, teacher.width, teacher.channels))
    shapes = jax.eval_shape(teacher.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        if path[-1].key == "gamma":
            return jnp.full(leaf.shape, scale)
        return jnp.asarray(rng.uniform(-0.1, 0.1, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(drawn, shapes)


@pytest.fixture(scope="module", params=[32, 0], ids=["encoded", "unencoded"])
def flow(request, quick_compilation):
    teacher = Teacher(*SHAPE[1:], blocks=2, hidden=8, encoding_channels=request.param)
    return teacher, random_parameters(teacher)


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), SHAPE)


def test_inverse_inverts_forward_with_conditioning(flow, x):
    teacher, variables = flow
    z, log_det = jax.jit(teacher.apply)(variables, x)
    inverse = jax.jit(lambda v, z: teacher.apply(v, z, method="inverse"))
    x_again, inverse_log_det = inverse(variables, z)
    np.testing.assert_allclose(x_again, x, atol=1e-4)
    np.testing.assert_allclose(inverse_log_det, -log_det, atol=1e-4)
    assert not np.allclose(z, x)


def test_forward_inverts_inverse(flow, x):
    teacher, variables = flow
    back = jax.jit(lambda v, z: teacher.apply(v, z, method="inverse"))(variables, x)[0]
    np.testing.assert_allclose(jax.jit(teacher.apply)(variables, back)[0], x, atol=1e-4)


def test_log_det_is_that_of_the_full_jacobian(flow, x):
    teacher, variables = flow

    def flat(values):
        return teacher.apply(variables, values.reshape(1, *SHAPE[1:]))[0].ravel()

    jacobian = jax.jit(jax.jacrev(flat))(x[0].ravel())
    _, expected = np.linalg.slogdet(np.asarray(jacobian, np.float64))
    log_det = jax.jit(teacher.apply)(variables, x[:1])[1]
    np.testing.assert_allclose(log_det.sum(), expected, rtol=1e-4)


def test_a_fresh_flow_is_its_permutations(x):
    teacher = Teacher(*SHAPE[1:], hidden=8)
    variables = random_parameters(teacher, scale=0.0)
    z, log_det = jax.jit(teacher.apply)(variables, x)
    expected = x
    for k in range(4):
        expected = expected[..., np.random.RandomState(k).permutation(SHAPE[-1])]
    np.testing.assert_array_equal(z, expected)
    np.testing.assert_array_equal(log_det, 0)


def test_odd_channels_split_into_floor_and_ceiling(x):
    teacher = Teacher(3, 4, 5, hidden=8)
    variables = random_parameters(teacher)
    z, _ = jax.jit(teacher.apply)(variables, x[..., :5])
    back = jax.jit(lambda v, z: teacher.apply(v, z, method="inverse"))(variables, z)[0]
    np.testing.assert_allclose(back, x[..., :5], atol=1e-4)


def test_clamp_keeps_gradients_finite_at_extreme_inputs():
    teacher = Teacher(*SHAPE[1:], hidden=8)
    variables = random_parameters(teacher, scale=100.0)

    @jax.jit
    @jax.value_and_grad
    def loss(variables, magnitude):
        z, log_det = teacher.apply(variables, jnp.full(SHAPE, magnitude))
        return 0.5 * jnp.square(z).sum() - log_det.sum()

    for magnitude in (0.0, 1e3, 1e12, 1e30):
        value, gradient = loss(variables, magnitude)
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_arctan_is_numpys():
    x = np.concatenate([np.linspace(-3, 3, 1001), [0.0, 1e-30, 1e9, -1e9, np.inf]])
    found = jax.jit(arctan)(x.astype(np.float32))
    np.testing.assert_allclose(found, np.arctan(x), atol=1.5e-7)
    slopes = jax.vmap(jax.grad(arctan))(x[:-1].astype(np.float32))
    np.testing.assert_allclose(slopes, 1 / (1 + x[:-1] ** 2), rtol=1e-5)


def test_a_permutations_gradient_goes_back_to_where_the_channel_was(x):
    permutation = np.random.RandomState(0).permutation(SHAPE[-1])
    weights = np.arange(x.size, dtype=np.float32).reshape(SHAPE)
    gradient = jax.grad(
        lambda x: (weights * ChannelPermutation(permutation).forward(x)).sum()
    )(x)
    np.testing.assert_array_equal(gradient[..., permutation], weights)


def test_soft_clamp_is_bounded_and_has_the_stated_slope():
    s = jnp.array([-1e9, -1.0, 0.0, 1.0, 1e9])
    assert np.abs(soft_clamp(s, 1.9)).max() < 1.9
    slope = jax.grad(lambda s: soft_clamp(s, 1.9))(0.0)
    np.testing.assert_allclose(slope, 0.636, rtol=1e-6)


def test_log_prob_is_the_density_of_a_normal_under_the_flow(flow, x):
    teacher, variables = flow
    z, log_det = jax.jit(teacher.apply)(variables, x)
    log_prob = jax.jit(lambda v, x: teacher.apply(v, x, method="log_prob"))(
        variables, x
    )
    c = SHAPE[-1]
    expected = -0.5 * (z**2).sum(-1) - 0.5 * c * np.log(2 * np.pi) + log_det
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)


def test_mistaken_arguments_are_named():
    with pytest.raises(ValueError, match=r"clamp must be positive. Got -1"):
        AffineCoupling(lambda x: x, lambda x: x, -1.0)
    with pytest.raises(ValueError, match=r"each once. Got"):
        ChannelPermutation(np.array([0, 0, 1]))
