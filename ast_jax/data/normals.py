"""Depth as a picture of normals, for a backbone that was trained on photographs.

Red and green show how far the surface leans to the right and downwards, blue how flat
it is. Slopes are in metres per pixel. Files need not state the pixel's pitch, because
it cancels out: the exaggeration of slopes comes from the category's good parts.
"""

from collections.abc import Sequence

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage

from ast_jax.data.decode import resize_image
from ast_jax.data.depth import background_plane, fill_missing, foreground_mask
from ast_jax.data.depth_options import DepthOptions

ANGLE = 25.0  # degrees of the exaggerated median slope of good parts
BLUR = 1.0  # σ in pixels: removes a range sensor's noise, and keeps scratches
STEPS = 4  # steps of exaggeration from one power of two to the next
_BORDER = 2  # pixels around the foreground that are still drawn
_FLAT = (128, 128, 255)


def surface(
    z: Float32[np.ndarray, "h w"], options: DepthOptions, *, name: str = ""
) -> tuple[Float[np.ndarray, "2 h w"], Bool[np.ndarray, "h w"]]:
    """Slopes to the right and downwards in metres per pixel, and the part's mask.

    Gaps that `fill_rounds` does not close take the depth of the nearest present pixel.
    If nothing stands out, all present pixels are the part. An empty cloud is flat.
    """
    z = fill_missing(np.where(np.isfinite(z), z, np.float32(0)), options.fill_rounds)
    if not z.any():
        logging.warning("%s: the point cloud is empty; it is drawn as flat", name)
        return np.zeros((2, *z.shape)), np.zeros(z.shape, bool)
    plane = background_plane(z, name=name)
    part = foreground_mask(z, plane, options.foreground_distance)
    if not part.any():
        part = z != 0
    nearest = ndimage.distance_transform_edt(
        z == 0, return_distances=False, return_indices=True
    )
    smooth = ndimage.gaussian_filter(
        z[tuple(nearest)].astype(np.float64), BLUR, mode="nearest"
    )
    downwards, rightwards = np.gradient(smooth)
    return np.stack([rightwards, downwards]), part


def median_slope(z: Float32[np.ndarray, "h w"], options: DepthOptions) -> float:
    """The median slope of a part in metres per pixel; 0 for an empty cloud."""
    slopes, part = surface(z, options)
    return float(np.median(np.hypot(*slopes)[part])) if part.any() else 0.0


def exaggeration(median_slopes: Sequence[float]) -> float:
    """The factor that brings the median good part's median slope to `ANGLE`.

    Rounded to one of four steps per doubling, so that one more part changes neither the
    factor nor every picture of the category.
    """
    slopes = [slope for slope in median_slopes if slope > 0]
    if not slopes:
        return 1.0
    wanted = np.tan(np.radians(ANGLE)) / np.median(slopes)
    return float(2 ** (round(np.log2(wanted) * STEPS) / STEPS))


def normals_picture(
    z: Float32[np.ndarray, "h w"],
    size: int,
    factor: float,
    options: DepthOptions,
    *,
    name: str = "",
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The part's normals as colours, its background flat.

    Args:
      z: height in metres of any h and w; 0 or a non-finite value = missing.
      size: side of the picture in pixels.
      factor: of `exaggeration`.
      options: fill rounds and distance of the foreground.
      name: the cloud's name in warnings.
    """
    slopes, part = surface(z, options, name=name)
    normals = np.stack([*(-factor * slopes), np.ones(z.shape)], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    picture = np.round((normals + 1) * 127.5).astype(np.uint8)
    drawn = ndimage.binary_dilation(part, iterations=_BORDER)
    return resize_image(np.where(drawn[..., None], picture, np.uint8(_FLAT)), size)
