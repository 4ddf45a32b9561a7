"""Joins several stages (taps) of a backbone to one map, on the coarsest one's grid."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def join(taps: Sequence[Float[Array, "b _ _ _"]]) -> Float[Array, "b h w c"]:
    """The taps' channels side by side, on the grid of the last and coarsest tap."""
    rows, columns = taps[-1].shape[1:3]
    return jnp.concatenate([coarsen(x, rows, columns) for x in taps], axis=-1)


def coarsen(
    x: Float[Array, "b y x c"], rows: int, columns: int
) -> Float[Array, "b h w c"]:
    """Averages a finer map over 3×3 positions, then over each cell of a grid.

    Returns a map on the grid unchanged, because an average would blur a defect over
    three cells.

    Raises:
      ValueError: the cells do not have a whole number of positions.
    """
    b, height, width, c = x.shape
    if (height, width) == (rows, columns):
        return x
    if height % rows or width % columns:
        raise ValueError(f"{height}x{width} positions do not fit {rows}x{columns}.")
    # Repeat the border; jnp.pad refuses an explicitly sharded batch.
    tall = jnp.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
    tall = tall[:, :-2] + tall[:, 1:-1] + tall[:, 2:]
    wide = jnp.concatenate([tall[:, :, :1], tall, tall[:, :, -1:]], axis=2)
    smooth = (wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]) / 9
    cells = smooth.reshape(b, rows, height // rows, columns, width // columns, c)
    return cells.mean((2, 4))
