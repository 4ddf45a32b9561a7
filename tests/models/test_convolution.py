"""The convolutions of a CPU are the library's, in values and gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ast_jax.models import convolution
from ast_jax.models.convolution import convolve, pad_map, prepare


def arrays(b: int, h: int, w: int, c: int, c2: int, k: int):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(b, h, w, c)), jnp.float32)
    kernel = rng.normal(size=(k, k, c, c2)) / np.sqrt(k * k * c)
    return x, jnp.asarray(kernel, jnp.float32)


def library(x, kernel, padding):
    return convolution._by_library(pad_map(x, kernel.shape[0] // 2, padding), kernel)


def relative_error(ours, theirs) -> float:
    return float(jnp.abs(ours - theirs).max() / jnp.abs(theirs).max())


@pytest.fixture
def calls(monkeypatch):
    """Names of the ways that were taken."""
    taken = []
    for name in ("_by_winograd", "_by_patches"):
        way = getattr(convolution, name)

        def noted(x, kernel, name=name, way=way, **tile):
            taken.append((name, *tile.values()))
            return way(x, kernel, **tile)

        monkeypatch.setattr(convolution, name, noted)
    return taken


@pytest.mark.parametrize("padding", ["zero", "replicate"])
@pytest.mark.parametrize(
    ("b", "k", "h", "w", "way"),
    [
        (4, 3, 24, 24, ("_by_winograd", 4)),
        (4, 3, 25, 23, ("_by_winograd", 4)),  # no whole number of tiles
        (1, 3, 24, 24, ("_by_winograd", 2)),
        (1, 3, 25, 23, ("_by_winograd", 2)),
        (4, 5, 24, 24, ("_by_winograd", 4)),
        (4, 5, 22, 27, ("_by_winograd", 4)),
        (1, 5, 20, 23, ("_by_winograd", 2)),
        (4, 3, 8, 8, ("_by_patches",)),
        (4, 1, 24, 24, ("_by_patches",)),
    ],
)
def test_values_and_gradients_are_the_librarys(b, k, h, w, way, padding, calls):
    x, kernel = arrays(b, h, w, 10, 7, k)

    def loss(convolve, x, kernel):
        y = convolve(x, kernel, padding)
        return jnp.sum(jnp.sin(y)), y

    def of(convolve):
        gradient = jax.value_and_grad(
            lambda *both: loss(convolve, *both), argnums=(0, 1), has_aux=True
        )
        (_, y), gradients = jax.jit(gradient)(x, kernel)
        return y, *gradients

    for ours, theirs in zip(of(convolve), of(library), strict=True):
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs) < 3e-5
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


def test_bfloat16_comes_out_as_it_went_in():
    x, kernel = (a.astype(jnp.bfloat16) for a in arrays(4, 24, 24, 10, 7, 3))
    y = convolve(x, kernel, "zero")
    assert y.dtype == jnp.bfloat16
    exact = library(x.astype(jnp.float32), kernel.astype(jnp.float32), "zero")
    assert relative_error(y.astype(jnp.float32), exact) < 4e-3


def test_a_batch_of_unknown_size_is_exported():
    _, kernel = arrays(1, 24, 24, 10, 7, 3)
    (b,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((b, 24, 24, 10), jnp.float32)
    function = jax.jit(lambda x: convolve(x, kernel, "zero"))
    exported = jax.export.export(function)(shape)
    x, _ = arrays(2, 24, 24, 10, 7, 3)
    np.testing.assert_allclose(exported.call(x), function(x), atol=1e-5)


@pytest.mark.parametrize("padding", ["zero", "replicate"])
def test_a_prepared_kernel_gives_the_same_for_any_batch(padding):
    x, kernel = arrays(4, 24, 24, 10, 7, 3)
    prepared = prepare(kernel, x.shape)
    alone = prepare(kernel, x[:1].shape)
    assert prepared.shape == (6, 6, 10, 7)
    assert alone.shape == (4, 4, 10, 7)
    function = jax.jit(convolve, static_argnums=2)
    expected = function(x, kernel, padding)
    np.testing.assert_array_equal(function(x, kernel, padding, prepared), expected)
    for batch, of in ((1, prepared), (4, alone), (2, alone)):
        y = function(x[:batch], kernel, padding, of)
        assert relative_error(y, expected[:batch]) < 3e-5


def test_nothing_is_prepared_where_patches_are_faster():
    _, kernel = arrays(1, 8, 8, 10, 7, 3)
    assert prepare(kernel, (4, 8, 8, 10)) is None
