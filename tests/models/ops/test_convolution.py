"""The convolutions of a CPU equal JAX's, in values and gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.models.ops import convolution
from ast_jax.models.ops.convolution import convolve, pad_map, transform_kernel


def arrays(b: int, h: int, w: int, c: int, c2: int, k: int):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(b, h, w, c)), jnp.float32)
    kernel = rng.normal(size=(k, k, c, c2)) / np.sqrt(k * k * c)
    return x, jnp.asarray(kernel, jnp.float32)


def library(x, kernel, padding, dtype=jnp.float32):
    x = pad_map(x, kernel.shape[0] // 2, padding)
    return convolution._convolve_by_library(x, kernel, jnp.dtype(dtype))


def values_and_gradients(convolve, x, kernel, *args):
    def loss(x, kernel):
        y = convolve(x, kernel, *args)
        return jnp.sum(jnp.sin(y)), y

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, y), gradients = jax.jit(gradient)(x, kernel)
    return y, *gradients


def relative_error(ours, theirs) -> float:
    return float(jnp.abs(ours - theirs).max() / jnp.abs(theirs).max())


@pytest.fixture
def calls(monkeypatch):
    """The names of the functions that were called."""
    taken = []
    for name in ("_convolve_by_winograd", "_convolve_by_patches"):
        way = getattr(convolution, name)

        def noted(x, kernel, name=name, way=way, **chosen):
            taken.append((name, chosen.get("tile")))
            return way(x, kernel, **chosen)

        monkeypatch.setattr(convolution, name, noted)
    return taken


@pytest.mark.parametrize("padding", ["zero", "replicate"])
@pytest.mark.parametrize(
    ("b", "k", "h", "w", "way"),
    [
        (4, 3, 24, 24, ("_convolve_by_winograd", 4)),
        (4, 3, 25, 23, ("_convolve_by_winograd", 4)),  # no whole number of tiles
        (1, 3, 24, 24, ("_convolve_by_winograd", 2)),
        (1, 3, 25, 23, ("_convolve_by_winograd", 2)),
        (4, 5, 24, 24, ("_convolve_by_winograd", 4)),
        (4, 5, 22, 27, ("_convolve_by_winograd", 4)),
        (1, 5, 20, 23, ("_convolve_by_winograd", 2)),
        (4, 3, 8, 8, ("_convolve_by_patches", None)),
        (4, 1, 24, 24, ("_convolve_by_patches", None)),
    ],
)
def test_values_and_gradients_are_the_librarys(b, k, h, w, way, padding, calls):
    x, kernel = arrays(b, h, w, 10, 7, k)

    ours = values_and_gradients(convolve, x, kernel, padding)
    theirs = values_and_gradients(library, x, kernel, padding)
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.shape == yours.shape
        assert relative_error(mine, yours) < 3e-5
    assert set(calls) == {way}


def test_the_transforms_are_exact_in_float64():
    """In one dimension, and with all of the tile's degrees of freedom."""
    rng = np.random.default_rng(0)
    for k, tile in itertools.product((3, 5), (2, 4)):
        inputs, kernels, outputs = convolution._transforms(k, tile)
        d, g = rng.normal(size=tile + k - 1), rng.normal(size=k)
        y = outputs.T @ ((kernels @ g) * (inputs @ d))
        expected = [np.sum(d[i : i + k] * g) for i in range(tile)]
        np.testing.assert_allclose(y, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("size", "way"),
    [(24, ("_convolve_by_winograd", 2)), (8, ("_convolve_by_patches", None))],
)
def test_bfloat16_errs_at_most_twice_as_much_as_the_librarys(size, way, calls):
    x, kernel = arrays(4, size, size, 64, 48, 3)
    exact = values_and_gradients(library, x, kernel, "zero")
    theirs = values_and_gradients(library, x, kernel, "zero", jnp.bfloat16)
    ours = values_and_gradients(convolve, x, kernel, "zero", jnp.bfloat16)
    for mine, yours, true in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == jnp.float32
        error, usual = (float(jnp.std(y - true)) for y in (mine, yours))
        assert usual / 4 < error < 2 * usual
    assert set(calls) == {way}


def test_a_batch_of_unknown_size_is_exported():
    _, kernel = arrays(1, 24, 24, 10, 7, 3)
    (b,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((b, 24, 24, 10), jnp.float32)
    function = jax.jit(lambda x: convolve(x, kernel, "zero"))
    exported = jax.export.export(function)(shape)
    x, _ = arrays(2, 24, 24, 10, 7, 3)
    np.testing.assert_allclose(exported.call(x), function(x), atol=1e-5)


@pytest.mark.parametrize("padding", ["zero", "replicate"])
def test_a_transformed_kernel_gives_the_same_for_any_batch(padding):
    x, kernel = arrays(4, 24, 24, 10, 7, 3)
    for_four = transform_kernel(kernel, x.shape)
    for_one = transform_kernel(kernel, x[:1].shape)
    assert for_four.shape == (36, 10, 7)
    assert for_one.shape == (16, 10, 7)
    function = jax.jit(convolve, static_argnums=2)
    expected = function(x, kernel, padding)
    same = function(x, kernel, padding, transformed=for_four)
    np.testing.assert_array_equal(same, expected)
    for batch, transformed in ((1, for_four), (4, for_one), (2, for_one)):
        y = function(x[:batch], kernel, padding, transformed=transformed)
        assert relative_error(y, expected[:batch]) < 3e-5


def test_no_kernel_is_transformed_where_patches_are_faster():
    _, kernel = arrays(1, 8, 8, 10, 7, 3)
    assert transform_kernel(kernel, (4, 8, 8, 10)) is None
