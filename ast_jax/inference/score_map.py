"""Resizes score maps on the host, from the feature map's size to a picture's."""

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image

from ast_jax import scoring


def upsample_map(
    score_map: Float[np.ndarray, "a b"], smoothing: float = 0.0
) -> Float[np.ndarray, "h w"]:
    """`scoring.upsample` of one map, on the host."""
    rows, columns = (scoring.upsampling_matrix(n, smoothing) for n in score_map.shape)
    return (rows @ score_map @ columns.T).astype(np.float32)


def map_at(
    score_map: Float[np.ndarray, "a b"],
    size: tuple[int, int] | None = None,
    smoothing: float = 0.0,
) -> Float[np.ndarray, "h w"]:
    """A score map at 8 times its resolution (192), or resized to (height, width).

    The step to 192 is bicubic, as the authors', and smooths; the next is bilinear.
    """
    fine = upsample_map(score_map, smoothing)
    return fine if size is None else resize_map(fine, size)


def resize_map(
    fine: Float32[np.ndarray, "a b"], size: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """An upsampled score map at an image's (height, width), bilinear."""
    picture = Image.fromarray(fine)
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))
