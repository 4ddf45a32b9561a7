"""Network inputs of a set of parts, read from the feature cache batch by batch.

An input is x, image features and depth side by side, and the foreground weight.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Float32, Int, Shaped

from ast_jax.features.blocks import Block
from ast_jax.features.extract import Features, Rows
from ast_jax.features.whitening import BlockWhitening, Whitening, fit_whitening

_BLOCK = 64  # images that a pass over all images reads at a time


class Normaliser(NamedTuple):
    """Mean and standard deviation of each feature channel over the training set."""

    mean: Float[np.ndarray, " c"]
    std: Float[np.ndarray, " c"]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Network inputs of n parts, in the parts' order.

    Attributes:
      features: arrays, or rows in the cache.
      rows: the parts' positions in them.
      binary_mask: make the foreground 0 or 1 (the paper) instead of a soft weight.
      normaliser: of the image features, or a whitening of all of x, or None.
      blocks: of the channels of x.
    """

    features: Features
    rows: Int[np.ndarray, " n"]
    binary_mask: bool = False
    normaliser: Normaliser | BlockWhitening | None = None
    blocks: tuple[Block, ...] = ()

    @classmethod
    def of(
        cls, features: Features, *, binary_mask: bool, blocks: tuple[Block, ...] = ()
    ) -> "Inputs":
        """Inputs of all parts of some features."""
        array = features.depth if features.rgb is None else features.rgb
        rows = np.arange(len(array))
        return cls(features, rows, binary_mask, blocks=blocks)

    def __len__(self) -> int:
        """Returns n."""
        return len(self.rows)

    @property
    def side(self) -> int:
        """Height and width of the maps."""
        array = self._arrays()[0]
        return array.shape[1]

    @property
    def channels(self) -> int:
        """Channels of x."""
        return sum(array.shape[-1] for array in self._arrays())

    @property
    def has_foreground(self) -> bool:
        """Whether a foreground mask exists: in modes `3d` and `rgb3d`."""
        return self.features.foreground is not None

    @property
    def nbytes(self) -> int:
        """Size of all x and foregrounds as float32."""
        return 4 * len(self) * self.side**2 * (self.channels + 1)

    def _arrays(self) -> list[Rows]:
        both = (self.features.rgb, self.features.depth)
        return [array for array in both if array is not None]

    def select(self, rows: Sequence[int] | np.ndarray) -> "Inputs":
        """The inputs of some of the parts."""
        return dataclasses.replace(self, rows=self.rows[np.asarray(rows, int)])

    def with_normaliser(
        self, normaliser: Normaliser | BlockWhitening | None
    ) -> "Inputs":
        """Returns inputs with standardised image features, or with x whitened."""
        return dataclasses.replace(self, normaliser=normaliser)

    def take(self, rows: np.ndarray) -> dict[str, Float[np.ndarray, "b ..."]]:
        """Returns {"x": [b,h,w,c], "foreground": [b,h,w]} of some parts, float32."""
        features, at = self.features, self.rows[rows]
        arrays = (features.rgb, features.depth, features.foreground)
        batch = (a if a is None else _rows(a, at) for a in arrays)
        return network_input(
            *batch, normaliser=self.normaliser, binary_mask=self.binary_mask
        )

    def fit_whitening(self) -> BlockWhitening:
        """Fits the whitening of each block on the foreground of all parts."""
        plain, blocks, start = self.with_normaliser(None), [], 0
        for block in self.blocks:
            channels = slice(start, start + block.channels)
            blocks.append(plain._fit_block(channels))
            start += block.channels
        return BlockWhitening(tuple(blocks))

    def _fit_block(self, channels: slice) -> Whitening:
        def foreground() -> Iterator[Float[np.ndarray, "_ c"]]:
            for first in range(0, len(self), _BLOCK):
                rows = np.arange(first, min(first + _BLOCK, len(self)))
                batch = self.take(rows)
                yield batch["x"][batch["foreground"] > 0][:, channels]

        return fit_whitening(foreground)

    def fit_normaliser(self) -> Normaliser | None:
        """Fits mean and deviation of the image features; None without image features.

        A constant channel gets deviation 1.
        """
        rgb = self.features.rgb
        if rgb is None:
            return None
        blocks = [self.rows[i : i + _BLOCK] for i in range(0, len(self), _BLOCK)]
        count = len(self) * self.side**2
        sums = (_rows(rgb, b).sum((0, 1, 2), dtype=np.float64) for b in blocks)
        mean = sum(sums) / count
        squares = (np.square(_rows(rgb, b) - mean).sum((0, 1, 2)) for b in blocks)
        std = np.sqrt(sum(squares) / count)
        std[std < 1e-6] = 1.0
        return Normaliser(mean.astype(np.float32), std.astype(np.float32))


def _rows(
    array: Shaped[Rows, "n ..."], at: Int[np.ndarray, " b"]
) -> Float32[np.ndarray, "b ..."]:
    """A copy of some rows."""
    return np.asarray(array[at], np.float32)


def network_input(
    rgb: Shaped[Array | np.ndarray, "b h w c"] | None,
    depth: Shaped[Array | np.ndarray, "b h w d"] | None,
    foreground: Shaped[Array | np.ndarray, "b h w"] | None,
    *,
    normaliser: Normaliser | BlockWhitening | None,
    binary_mask: bool,
) -> dict[str, Shaped[Array | np.ndarray, "b ..."]]:
    """Returns "x" and "foreground" of a batch; takes NumPy's arrays and JAX's.

    Args:
      rgb: image features, None in mode `3d`.
      depth: depth channels, None in mode `rgb`.
      foreground: its weight, None in mode `rgb`, which has no mask.
      normaliser: of the image features, or a whitening of all of x, or None.
      binary_mask: replace every positive weight by 1.
    """
    if rgb is not None and isinstance(normaliser, Normaliser):
        rgb = (rgb - normaliser.mean) / normaliser.std
    arrays = [array for array in (rgb, depth) if array is not None]
    xp = arrays[0].__array_namespace__()
    if foreground is None:
        foreground = xp.ones(arrays[0].shape[:3], xp.float32)
    elif binary_mask:
        foreground = (foreground > 0).astype(xp.float32)
    x = xp.concatenate(arrays, axis=-1)
    if isinstance(normaliser, BlockWhitening):
        x = normaliser.forward(x)
    return {"x": x, "foreground": foreground}
