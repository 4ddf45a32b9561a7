"""Convolutions with stride 1 that keep the map's size.

On a GPU or TPU, JAX's own convolution is the fastest. On a CPU, matrix products are
faster. Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", 2016) needs 2 to 6 times fewer multiplications. A small batch does not
pay for transforming the kernel; there each k×k patch is multiplied with the kernel.

Winograd's method computes a tile of outputs from the n×n inputs that overlap it, with
n = tile + k − 1 (tile 4 and k = 3: n = 6):

    x [b,h,w,c] ─ analyse columns ─ analyse rows ─► [n·n, tiles, c]  ┐
                                                                     ├ n·n products
    kernel [k,k,c,c2] ─ transform (once) ─────────► [n·n, c, c2]     ┘      │
    y [b,h,w,c2] ◄─ synthesise rows ─ synthesise columns ◄─ [n·n, tiles, c2]
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from ast_jax.platforms import run_by_platform

Padding = Literal["zero", "replicate"]

# The points at which Winograd's method evaluates polynomials, by their number n;
# infinity is the n-th point. Each set had the smallest error of several that we tried.
_POINTS = {
    4: (0, 1, -1),
    6: (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2),
    8: (0, 1, -1, 1 / 2, -1 / 2, 2, -2),
}
# Sides of the tiles of outputs. Tile 4 needs fewer products than tile 2, but its error
# is 2 to 3 times larger when factors are rounded to bfloat16.
_TILES = {"float32": (2, 4), "bfloat16": (2,)}
# To transform a kernel takes as long as to multiply it with this many tiles (float32).
_KERNEL_COST = 100


def convolve(
    x: Float32[Array, "b h w c"],
    kernel: Float32[Array, "k k c c2"],
    padding: Padding,
    dtype: DTypeLike = jnp.float32,
    transformed: Float[Array, "nn c c2"] | None = None,
) -> Float32[Array, "b h w c2"]:
    """Cross-correlation with stride 1 and an odd kernel; keeps the map's size.

    Args:
      x: maps.
      kernel: in JAX's layout.
      padding: the values beyond the maps' borders.
      dtype: float32 or bfloat16, to which the factors of products are rounded, also in
        the gradient. Sums are float32; a GPU or TPU rounds the result to `dtype` too.
      transformed: `transform_kernel` of the kernel, for the same dtype. It replaces the
        kernel, of which only the size is used.
    """
    k, dtype = kernel.shape[0], jnp.dtype(dtype)
    padded = pad_map(x, k // 2, padding)
    if transformed is not None:
        return _convolve_in_five_passes(padded, transformed, k, dtype)
    on_cpu = functools.partial(_convolve_by_patches, dtype=dtype)
    if tile := best_tile(x.shape, k, dtype):
        on_cpu = functools.partial(_convolve_by_winograd, tile=tile, dtype=dtype)
    default = functools.partial(_convolve_by_library, dtype=dtype)
    return run_by_platform(padded, kernel, cpu=on_cpu, default=default)


def transform_kernel(
    kernel: Float32[Array, "k k c c2"], shape: Sequence, dtype: DTypeLike = jnp.float32
) -> Float[Array, "nn c c2"] | None:
    """Transforms a kernel for Winograd's method on maps of a shape; None for patches.

    Inference does this once. The result takes up to 4 times the kernel's memory.
    """
    dtype = jnp.dtype(dtype)
    tile = best_tile(shape, kernel.shape[0], dtype)
    return _transform(kernel, tile).astype(dtype) if tile else None


def best_tile(shape: Sequence, k: int, dtype: DTypeLike) -> int | None:
    """The fastest tile of Winograd's method for maps of a shape; None for patches.

    The fastest has the fewest multiplications for a pair of channels.
    """
    b, h, w, _ = shape
    if export.is_symbolic_dim(b):
        return None
    costs = {None: k**2 * b * h * w}
    for tile in _TILES[jnp.dtype(dtype).name]:
        n = tile + k - 1
        if n in _POINTS and k > 1:
            costs[tile] = n**2 * (b * -(-h // tile) * -(-w // tile) + _KERNEL_COST)
    return min(costs, key=costs.get)


def pad_map(
    x: Float[Array, "b h w c"], size: int, padding: Padding
) -> Float[Array, "b h2 w2 c"]:
    """Adds `size` rows and columns on every side: zeros, or the border repeated."""
    if padding == "zero":
        return jnp.pad(x, ((0, 0), (size, size), (size, size), (0, 0)))
    # jnp.pad(mode="edge") refuses a batch that is sharded explicitly.
    x = jnp.concatenate([x[:, :1]] * size + [x] + [x[:, -1:]] * size, axis=1)
    return jnp.concatenate([x[:, :, :1]] * size + [x] + [x[:, :, -1:]] * size, axis=2)


def patches(x: Float[Array, "b h w c"], k: int) -> Float[Array, "b h2 w2 kkc"]:
    """Every k×k window of a padded map as one row of channels, (row, column, c)."""
    h, w = x.shape[1] - k + 1, x.shape[2] - k + 1
    windows = [x[:, i : i + h, j : j + w] for i in range(k) for j in range(k)]
    return jnp.concatenate(windows, axis=-1)


def _convolve_by_library(
    x: jax.Array, kernel: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    y = lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.astype(jnp.float32)


def _convolve_by_patches(
    x: jax.Array, kernel: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    k, _, c, c2 = kernel.shape
    # Without the barrier XLA fuses the computation of x into the k² windows and repeats
    # it for each of them, which takes a third of a student's step.
    windows = patches(lax.optimization_barrier(x), k)
    y = _products(
        windows.reshape(1, -1, k * k * c), kernel.reshape(1, k * k * c, c2), dtype
    )
    return y.reshape(*windows.shape[:-1], c2)


@functools.cache
def _transforms(k: int, tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Winograd's matrices for inputs, kernels and outputs in one dimension.

    With n = tile + k − 1 they are B [n, n], G [n, k] and A [n, tile]. The correlation
    of inputs d and kernel g is Aᵀ ((G g) ⊙ (B d)). G and A evaluate polynomials at the
    points; B has for each point the coefficients of ∏ (x − q) over the other points q.
    """
    points = _POINTS[tile + k - 1]
    at_infinity = [float(degree == k - 1) for degree in range(k)]
    others = {p: [q for q in points if q != p] for p in points}
    norms = {p: np.prod([p - q for q in others[p]]) for p in points}
    g = [[p**degree / norms[p] for degree in range(k)] for p in points]
    b = [[*np.poly(others[p])[::-1], 0.0] for p in points]
    a = [[p**row for row in range(tile)] for p in points]
    matrices = (
        [*b, np.poly(points)[::-1]],
        [*g, at_infinity],
        [*a, [float(row == tile - 1) for row in range(tile)]],
    )
    return tuple(np.array(m) for m in matrices)


def _convolve_by_winograd(
    x: jax.Array, kernel: jax.Array, tile: int, dtype: jnp.dtype
) -> jax.Array:
    return _convolve_in_five_passes(x, _transform(kernel, tile), kernel.shape[0], dtype)


def _transform(kernel: jax.Array, tile: int) -> jax.Array:
    """G g Gᵀ of each pair of channels: [n·n, c, c2]."""
    k, _, c, c2 = kernel.shape
    _, matrix, _ = _transforms(k, tile)
    # One product with the Kronecker square handles rows and columns together. In two
    # products XLA would copy the array between them.
    matrix = np.kron(matrix, matrix).astype(np.float32)
    return (matrix @ kernel.reshape(k * k, -1)).reshape(-1, c, c2)


def _convolve_in_five_passes(
    x: jax.Array, kernels: jax.Array, k: int, dtype: jnp.dtype
) -> jax.Array:
    """Convolves a padded map with transformed kernels, in five passes."""
    (b, h, w, c), (nn, _, c2) = x.shape, kernels.shape
    n = math.isqrt(nn)
    tile = n - k + 1
    height, width = h - k + 1, w - k + 1
    rows, columns = -(-height // tile), -(-width // tile)
    analysis, _, synthesis = map(_Matrix, _transforms(k, tile))
    # Fill up the last tiles; their extra outputs are cut off at the end.
    missing = (rows * tile - height, columns * tile - width)
    x = jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    # Each pass works along axis 2 and puts its n points first, so the same function
    # takes the columns w in its first call and the rows h in its second:
    #   [b, h, w, c] → [n, b, h, columns, c] → [n, n, b, rows, columns, c]
    # Without the barriers XLA repeats each pass inside the next one.
    tiles = _analyse(lax.optimization_barrier(x), analysis, tile)
    tiles = _analyse(lax.optimization_barrier(tiles), analysis, tile)
    # One matrix product for each of the n·n points, over all tiles and channels.
    products = _products(tiles.reshape(nn, -1, c), kernels, dtype)
    # Back the same way: rows, then columns.
    y = _synthesise(products.reshape(n, n, b, rows, columns, c2), synthesis, tile)
    y = _synthesise(lax.optimization_barrier(y), synthesis, tile)
    return y[:, :height, :width]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _products(
    x: Float32[Array, "n m c"], y: Float[Array, "n c c2"], dtype: jnp.dtype
) -> Float32[Array, "n m c2"]:
    """Matrix products of factors rounded to `dtype`, with float32 sums.

    The gradient is made of such products too.
    """
    return _products_forward(x, y, dtype)[0]


def _products_forward(x, y, dtype):
    # Barriers before and after products, for the same reason as between passes.
    x, y = lax.optimization_barrier((x.astype(dtype), y.astype(dtype)))
    return _multiply(x, y, (2, 1)), (x, y)


def _products_backward(dtype, factors, dz):
    x, y = factors
    dz = lax.optimization_barrier(dz.astype(dtype))
    dx = _multiply(dz, y, (2, 2))
    if dtype == jnp.float32:
        return dx, _multiply(x, dz, (1, 1))
    # XLA computes a product that sums over the rows of both factors in float32, at a
    # third of the speed. The reshapes hide the transpose from XLA.
    n, m, c = x.shape
    x = lax.optimization_barrier(jnp.swapaxes(x, 1, 2).reshape(n * c, m))
    return dx, _multiply(x.reshape(n, c, m), dz, (2, 1))


_products.defvjp(_products_forward, _products_backward)


def _multiply(x: jax.Array, y: jax.Array, over: tuple[int, int]) -> jax.Array:
    """One matrix product for each entry of the first axis.

    Sums over the axis over[0] of x and over[1] of y.
    """
    dimensions = (((over[0],), (over[1],)), ((0,), (0,)))
    return lax.optimization_barrier(
        lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)
    )


class _Matrix(tuple):
    """A hashable matrix, as rows of floats."""

    def __new__(cls, matrix: np.ndarray):
        return super().__new__(cls, map(tuple, matrix.tolist()))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
@functools.partial(jax.jit, static_argnums=(1, 2))  # so that it is traced once
def _analyse(x: jax.Array, matrix: _Matrix, tile: int) -> jax.Array:
    """v[p, …, r, …] = Σ_i matrix[p, i] · x[…, tile·r + i, …], along axis 2 of x.

    p is a new first axis and r, the tile, replaces the position on the axis.

    The sum of strided slices takes XLA one pass; a matrix product would first have to
    copy the overlapping tiles. The gradient is `_synthesise`, also one pass; JAX's own
    gradient of slices and sums takes many.
    """
    n = len(matrix[0])
    tiles = (x.shape[2] - n) // tile + 1
    slices = [
        lax.slice_in_dim(x, i, i + tile * (tiles - 1) + 1, tile, 2) for i in range(n)
    ]
    return jnp.stack([_combine(row, slices) for row in matrix])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
@functools.partial(jax.jit, static_argnums=(1, 2))
def _synthesise(v: jax.Array, matrix: _Matrix, tile: int) -> jax.Array:
    """The transpose of `_analyse`: adds matrix[p, i] · v[p, r] to x[tile·r + i].

    Positions that differ by a multiple of `tile` are summed as one array, so that each
    output is written once.
    """
    n, tiles = len(matrix[0]), v.shape[3]
    columns = list(zip(*matrix, strict=True))
    touched = -(-n // tile)  # blocks of `tile` positions that one tile overlaps

    def at(offset: int) -> jax.Array:
        """x[offset], x[offset + tile], …"""
        total = 0.0
        for block, i in enumerate(range(offset, n, tile)):
            padding = [(0, 0)] * (v.ndim - 1)
            padding[2] = (block, touched - 1 - block)
            total += jnp.pad(_combine(columns[i], list(v)), padding)
        return total

    x = jnp.stack([at(offset) for offset in range(tile)], 3)
    x = x.reshape(*v.shape[1:3], -1, *v.shape[4:])
    return lax.slice_in_dim(x, 0, tile * (tiles - 1) + n, axis=2)


_analyse.defvjp(
    lambda x, matrix, tile: (_analyse(x, matrix, tile), None),
    lambda matrix, tile, _, dv: (_synthesise(dv, matrix, tile),),
)
_synthesise.defvjp(
    lambda v, matrix, tile: (_synthesise(v, matrix, tile), None),
    lambda matrix, tile, _, dx: (_analyse(dx, matrix, tile),),
)


def _combine(weights: Sequence[float], arrays: Sequence[jax.Array]) -> jax.Array:
    terms = [w * array for w, array in zip(weights, arrays, strict=True) if w]
    return functools.reduce(jnp.add, terms)
