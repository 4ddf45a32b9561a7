"""Whitening: features in units of the good parts' standard deviation per direction.

Each channel is standardised. The covariance is shrunk by the closed form of Ledoit and
Wolf ("A well-conditioned estimator for large-dimensional covariance matrices", 2004).
The result is expressed in the covariance's eigenvectors, each with variance 1. So a
flow that starts as the identity starts as the Gaussian model of the good parts.
"""

import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from ast_jax.errors import UserError
from ast_jax.files import read_errors, write_bytes

_SMALLEST = 1e-6  # of a channel's deviation, and of an eigenvalue


class Whitening(NamedTuple):
    """An invertible linear map of the channels: y = (x − mean) · matrix."""

    mean: Float[np.ndarray, " c"]
    matrix: Float[np.ndarray, "c c"]
    inverse_matrix: Float[np.ndarray, "c c"]

    def forward(self, x: Float[Array | np.ndarray, "*n c"]):
        """Returns y with uncorrelated channels; takes NumPy's arrays and JAX's."""
        return (x - self.mean) @ self.matrix

    def inverse(self, y: Float[Array | np.ndarray, "*n c"]):
        """Returns x."""
        return y @ self.inverse_matrix + self.mean


def fit_whitening(
    blocks: Callable[[], Iterable[Float[np.ndarray, "_ c"]]],
) -> Whitening:
    """Fits the whitening of rows of features.

    Keeps all directions, because anomalies show where good parts hardly differ.

    Args:
      blocks: called twice; returns the same rows each time, block by block.

    Raises:
      ValueError: there is no row.
    """
    mean, std = _moments(blocks())
    n, second, fourth = 0, 0.0, 0.0
    for block in blocks():
        y = (block - mean) / std
        n += len(y)
        second += y.T @ y
        fourth += np.square(np.square(y).sum(1)).sum()
    variances, directions = np.linalg.eigh(shrink(second / n, fourth / n, n))
    deviations = np.sqrt(np.maximum(variances, _SMALLEST))
    return Whitening(
        mean.astype(np.float32),
        (directions / deviations / std[:, None]).astype(np.float32),
        ((directions * deviations).T * std).astype(np.float32),
    )


def _moments(
    blocks: Iterable[Float[np.ndarray, "_ c"]],
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Mean and deviation of each channel; a constant channel gets deviation 1."""
    n, first, second, origin = 0, 0.0, 0.0, None
    for block in blocks:
        block = np.asarray(block, np.float64)
        if origin is None:  # without it, a small variance vanishes in sums of squares
            origin = block.mean(0)
        n += len(block)
        first += (block - origin).sum(0)
        second += np.square(block - origin).sum(0)
    if not n:
        raise ValueError("Whitening needs at least one row of features.")
    std = np.sqrt(np.maximum(second / n - np.square(first / n), 0))
    std[std < _SMALLEST] = 1.0
    return origin + first / n, std


def shrink(
    covariance: Float[np.ndarray, "c c"], fourth: float, n: int
) -> Float[np.ndarray, "c c"]:
    """Shrinks a covariance towards a multiple of the identity, by Ledoit and Wolf.

    Args:
      covariance: of n rows y with mean 0.
      fourth: the mean of |y|⁴.
      n: the number of rows.
    """
    target = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    distance = np.square(covariance - target).sum()
    error = (fourth - np.square(covariance).sum()) / n
    share = 1.0 if error >= distance else max(error, 0.0) / distance
    return (1 - share) * covariance + share * target


class BlockWhitening(NamedTuple):
    """Whitenings of several blocks of channels, which are side by side."""

    blocks: tuple[Whitening, ...]

    def forward(self, x: Float[Array | np.ndarray, "*n c"]):
        """Returns the whitened blocks side by side; takes NumPy's arrays and JAX's."""
        return self._apply("forward", x)

    def inverse(self, y: Float[Array | np.ndarray, "*n c"]):
        """Returns x."""
        return self._apply("inverse", y)

    def _apply(self, method: str, x):
        parts, start = [], 0
        for whitening in self.blocks:
            stop = start + len(whitening.mean)
            parts.append(getattr(whitening, method)(x[..., start:stop]))
            start = stop
        return x.__array_namespace__().concatenate(parts, axis=-1)

    def save(self, path: Path) -> None:
        """Writes an .npz file; raises a UserError if it cannot be written."""
        arrays = {
            f"{number}.{name}": array
            for number, whitening in enumerate(self.blocks)
            for name, array in whitening._asdict().items()
        }
        content = io.BytesIO()
        np.savez(content, **arrays)
        write_bytes(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> "BlockWhitening":
        """Reads a file that `save` wrote.

        Raises:
          UserError: the file is missing or damaged.
        """
        try:
            # From bytes, because NumPy leaves the handle of a damaged file open.
            with read_errors(path):
                content = io.BytesIO(path.read_bytes())
            with np.load(content, allow_pickle=False) as arrays:
                count = len(arrays.files) // len(Whitening._fields)
                return cls(
                    tuple(
                        Whitening(
                            *(arrays[f"{n}.{name}"] for name in Whitening._fields)
                        )
                        for n in range(count)
                    )
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path}: missing or damaged ({error}); train it again."
            ) from error
