"""Convolutions with stride 1 that keep the map's size.

On a CPU they are matrix products, which XLA runs faster there than its own convolution:
by Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", 2016), which makes 4 to 6 times fewer multiplications, or of patches
where a batch is too small to pay for transforming the kernel. On a GPU or TPU the
library convolution is the right one.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jaxtyping import Array, Float

Padding = Literal["zero", "replicate"]

# Outputs are computed in tiles of 4×4. The points at which Winograd's method evaluates
# polynomials, by kernel size; infinity is one more. Each set was the most exact of
# several: errors of some 4e-6 and 1e-5 of the largest output.
_TILE = 4
_POINTS = {
    3: (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2),
    5: (0, 1, -1, 1 / 2, -1 / 2, 2, -2),
}
# Below so many tiles transforming the kernel costs more than is saved.
_WORTHWHILE_TILES = 128


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c c2"], padding: Padding
) -> Float[Array, "b h w c2"]:
    """Cross-correlation with stride 1 and an odd kernel; keeps the map's size."""
    x = pad_map(x, kernel.shape[0] // 2, padding)
    on_cpu = _by_winograd if _is_worthwhile(x.shape, kernel.shape[0]) else _by_patches
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=_by_library)


def pad_map(
    x: Float[Array, "b h w c"], size: int, padding: Padding
) -> Float[Array, "b h2 w2 c"]:
    """Adds `size` rows and columns on every side: zeros, or the border repeated."""
    if padding == "zero":
        return jnp.pad(x, ((0, 0), (size, size), (size, size), (0, 0)))
    # Not jnp.pad(mode="edge"), which refuses a batch that is sharded explicitly.
    x = jnp.concatenate([x[:, :1]] * size + [x] + [x[:, -1:]] * size, axis=1)
    return jnp.concatenate([x[:, :, :1]] * size + [x] + [x[:, :, -1:]] * size, axis=2)


def patches(x: Float[Array, "b h w c"], k: int) -> Float[Array, "b h2 w2 kkc"]:
    """Every k×k window of a padded map as one row of channels, (row, column, c)."""
    h, w = x.shape[1] - k + 1, x.shape[2] - k + 1
    windows = [x[:, i : i + h, j : j + w] for i in range(k) for j in range(k)]
    return jnp.concatenate(windows, axis=-1)


def _by_library(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _by_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # Barriers keep XLA from fusing, and so repeating for each of the k² windows, what
    # computes x: a third of a student's step.
    windows = patches(lax.optimization_barrier(x), kernel.shape[0])
    windows = lax.optimization_barrier(windows)
    return windows @ kernel.reshape(-1, kernel.shape[-1])


def _is_worthwhile(shape: Sequence, k: int) -> bool:
    """Whether Winograd's method pays for a padded map of this shape."""
    b, h, w, _ = shape
    if k not in _POINTS or export.is_symbolic_dim(b):
        return False
    rows, columns = _tiles(h, k), _tiles(w, k)
    return b * rows * columns >= _WORTHWHILE_TILES


def _tiles(padded: int, k: int) -> int:
    """Tiles along a side of a padded map, the last maybe reaching beyond it."""
    return -(-(padded - k + 1) // _TILE)


@functools.cache
def _transforms(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Winograd's matrices for inputs, kernels and outputs of two dimensions.

    With n = tile + k − 1 they are [n², n²], [n², k²] and [tile², n²]. In one dimension,
    with the points p, correlation is A ((G g) ⊙ (B d)): G and A evaluate polynomials at
    the points, B holds the coefficients of ∏ (x − q) over the other points q.
    """
    points = _POINTS[k]
    at_infinity = [float(degree == k - 1) for degree in range(k)]
    others = {p: [q for q in points if q != p] for p in points}
    norms = {p: np.prod([p - q for q in others[p]]) for p in points}
    g = [[p**degree / norms[p] for degree in range(k)] for p in points]
    b = [[*np.poly(others[p])[::-1], 0.0] for p in points]
    a = [[*(p**row for p in points), float(row == _TILE - 1)] for row in range(_TILE)]
    matrices = ([*b, np.poly(points)[::-1]], [*g, at_infinity], a)
    return tuple(np.kron(m, m).astype(np.float32) for m in matrices)


def _by_winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Everything is a matrix product, gradients too; in float32, which is exact enough
    and faster than bfloat16 here.
    """
    b, h, w, c = x.shape
    k, c2, dtype = kernel.shape[0], kernel.shape[-1], x.dtype
    x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    for_inputs, for_kernels, for_outputs = _transforms(k)
    rows, columns, n = _tiles(h, k), _tiles(w, k), _TILE + k - 1
    # Barriers as above: without, XLA repeats the cutting inside the product.
    tiles = lax.optimization_barrier(_cut(lax.optimization_barrier(x), k))
    tiles = lax.optimization_barrier(for_inputs @ tiles.reshape(n * n, -1))
    kernels = lax.optimization_barrier(for_kernels @ kernel.reshape(k * k, -1))
    products = lax.dot_general(
        tiles.reshape(n * n, -1, c),
        kernels.reshape(n * n, c, c2),
        (((2,), (1,)), ((0,), (0,))),
    )
    products = lax.optimization_barrier(products.reshape(n * n, -1))
    y = lax.optimization_barrier(for_outputs @ products)
    y = y.reshape(_TILE, _TILE, b, rows, columns, c2).transpose(2, 3, 0, 4, 1, 5)
    y = y.reshape(b, rows * _TILE, columns * _TILE, c2)
    return y[:, : h - k + 1, : w - k + 1].astype(dtype)


def _cut(x: Float[Array, "b h w c"], k: int) -> Float[Array, "n n b rows columns c"]:
    """The overlapping tiles of a padded map, filled up with zeros."""
    b, h, w, c = x.shape
    n, rows, columns = _TILE + k - 1, _tiles(h, k), _tiles(w, k)
    # A tile is cut from as many neighbouring blocks of _TILE rows as it touches.
    touched = -(-n // _TILE)
    shape = (rows + touched - 1, columns + touched - 1)
    missing = (shape[0] * _TILE - h, shape[1] * _TILE - w)
    x = jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    x = x.reshape(b, shape[0], _TILE, shape[1], _TILE, c)
    parts = [(j, min(_TILE, n - j * _TILE)) for j in range(touched)]
    x = jnp.concatenate([x[:, j : j + rows, :m] for j, m in parts], axis=2)
    x = jnp.concatenate([x[:, :, :, j : j + columns, :m] for j, m in parts], axis=4)
    return x.transpose(2, 4, 0, 1, 3, 5)
