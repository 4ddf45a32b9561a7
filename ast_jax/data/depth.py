"""Depth channels and foreground from the z image of an organised point cloud.

AST (Rudolph et al., WACV 2023, section 3.3): fill the sensor's gaps; find the object,
which stands out from the background plane; express depth relative to the object's mean;
fold 8×8 pixels of depth into the channels of one position of the feature map.
"""

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Float32
from scipy import ndimage

from ast_jax.data.depth_options import DepthOptions

UNSHUFFLE = 8  # depth pixels along each side of one position of the feature map
DEFAULT = DepthOptions()
DEPTH_SCALE = 100.0  # metres to centimetres, for a variance of about 1
_CORNER = 2  # side in pixels of a corner's block


def preprocess_depth(
    z: Float32[np.ndarray, "h w"],
    side: int,
    options: DepthOptions = DEFAULT,
    *,
    name: str = "",
) -> tuple[Float32[np.ndarray, "side side c"], Float32[np.ndarray, "side side"]]:
    """Depth channels and soft foreground weight on a `side`×`side` feature map.

    If no object stands out, the whole cloud counts as foreground. An empty cloud gives
    depth 0 and weight 1. Both cases are logged with `name`.

    Args:
      z: height in metres of any h and w; 0 or a non-finite value = missing.
      side: positions along each side of the feature map; depth is resized to 8·`side`.
      options: fill rounds, distance of the foreground and its dilation.
      name: the cloud's name in warnings.

    Returns:
      depth: centimetres off the object's mean, 0 in the background; 8×8 pixels are
        folded into 64 channels (channel = row offset · 8 + column offset).
      weight: fraction of foreground, in 0..1, after a dilation by an 8×8 box.
    """
    z = fill_missing(np.where(np.isfinite(z), z, np.float32(0)), options.fill_rounds)
    if not z.any():
        logging.warning("%s: the point cloud is empty; its depth is taken as 0", name)
        empty = np.zeros((side, side, UNSHUFFLE**2), np.float32)
        return empty, np.ones((side, side), np.float32)
    plane = background_plane(z, name=name)
    foreground = foreground_mask(z, plane, options.foreground_distance)
    if foreground.any():
        weight = foreground_weight(foreground, side, options.dilation)
    else:
        logging.warning(
            "%s: nothing stands out from the background plane by more than %g m "
            "(depth.foreground_distance); the whole image counts as foreground",
            *(name, options.foreground_distance),
        )
        foreground = z != 0
        weight = np.ones((side, side), np.float32)
    depth = resize_bilinear(relative_depth(z, foreground), side * UNSHUFFLE)
    return _unshuffle(depth), weight


def fill_missing(
    z: Float32[np.ndarray, "h w"], rounds: int = DEFAULT.fill_rounds
) -> Float32[np.ndarray, "h w"]:
    """Gives missing (0) pixels the mean of their present 3×3 neighbours, repeatedly.

    Each of the `rounds` reaches one pixel further into a gap. Border pixels are filled
    too (the authors' code leaves out the first row and column).
    """
    width = z.shape[1]
    padded = np.pad(z, 1)
    flat = padded.reshape(-1)  # a view: writing to it writes to `padded`
    row_steps = np.arange(-1, 2)[:, None] * (width + 2)
    neighbourhood = (row_steps + np.arange(-1, 2)).reshape(9, 1)
    for _ in range(rounds):
        present = padded != 0
        fillable = np.flatnonzero(_dilate_3x3(present) & ~present[1:-1, 1:-1])
        # The indices of the same pixels in the padded image.
        fillable += 2 * (fillable // width) + width + 3
        values = flat[fillable + neighbourhood]
        flat[fillable] = values.sum(axis=0) / np.count_nonzero(values, axis=0)
    return padded[1:-1, 1:-1].copy()


def background_plane(
    z: Float32[np.ndarray, "h w"], *, name: str = ""
) -> Float[np.ndarray, "h w"]:
    """The surface through the means of the four 2×2 corners, bilinear in between.

    A corner without a present pixel takes the mean of the four nearest present pixels;
    this is logged with `name`.

    Raises:
      ValueError: no pixel is present.
    """
    height, width = z.shape
    corners = [
        [_corner_height(z, row, column, name) for column in (0, width - 1)]
        for row in (0, height - 1)
    ]
    down = np.linspace(0, 1, height)
    right = np.linspace(0, 1, width)
    rows = np.stack([1 - down, down], axis=1)
    columns = np.stack([1 - right, right])
    return rows @ np.asarray(corners, np.float64) @ columns


def foreground_mask(
    z: Float32[np.ndarray, "h w"],
    plane: Float[np.ndarray, "h w"],
    distance: float = DEFAULT.foreground_distance,
) -> Bool[np.ndarray, "h w"]:
    """The present pixels at more than `distance` metres from the `plane`."""
    return (np.abs(z - plane) > distance) & (z != 0)


def relative_depth(
    z: Float32[np.ndarray, "h w"], foreground: Bool[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w"]:
    """Centimetres off the mean of the foreground; 0 in the background.

    Raises:
      ValueError: `foreground` is empty.
    """
    if not foreground.any():
        raise ValueError("Depth relative to the foreground needs a foreground pixel.")
    offset = z - z[foreground].mean(dtype=np.float64).astype(np.float32)
    return np.where(foreground, offset * np.float32(DEPTH_SCALE), np.float32(0))


def foreground_weight(
    foreground: Bool[np.ndarray, "h w"], side: int, dilation: int = DEFAULT.dilation
) -> Float32[np.ndarray, "side side"]:
    """The soft weight in 0..1 of each position of the feature map.

    The mask is resized to 8·`side`, where every touched pixel counts. It is dilated
    with a box of `dilation` pixels. Then it is resized bilinearly to `side`: the mean
    of each cell's central 2×2 pixels.
    """
    touched = resize_bilinear(foreground.astype(np.float32), side * UNSHUFFLE) > 0
    # The authors' dilation reaches further ahead than back: output pixel i sees inputs
    # i − 3 … i + 4. `origin` shifts SciPy's window, which reaches further back.
    dilated = ndimage.maximum_filter(
        touched.astype(np.uint8),
        size=dilation,
        origin=dilation % 2 - 1,
        mode="constant",
    )
    cells = dilated.reshape(side, UNSHUFFLE, side, UNSHUFFLE)
    middle = slice(UNSHUFFLE // 2 - 1, UNSHUFFLE // 2 + 1)
    return cells[:, middle, :, middle].mean(axis=(1, 3), dtype=np.float32)


def resize_bilinear(
    image: Float32[np.ndarray, "h w"], size: int
) -> Float32[np.ndarray, "size size"]:
    """Bilinear without antialiasing, half-pixel centres: torch's `F.interpolate`."""
    low, high, share = _sources(image.shape[0], size)
    rows = image[low] * (1 - share)[:, None] + image[high] * share[:, None]
    low, high, share = _sources(image.shape[1], size)
    return rows[:, low] * (1 - share) + rows[:, high] * share


def _sources(
    length: int, size: int
) -> tuple[np.ndarray, np.ndarray, Float32[np.ndarray, " size"]]:
    """The two input pixels of each output pixel, and the weight of the second one.

    In float32 as in torch, because rounding decides which pixels a binary mask touches.
    """
    scale = np.float32(length) / np.float32(size)
    centres = np.arange(size, dtype=np.float32) + np.float32(0.5)
    position = np.maximum(scale * centres - np.float32(0.5), np.float32(0))
    low = np.minimum(position.astype(np.int64), length - 1)
    share = np.clip(position - low.astype(np.float32), 0, 1)
    return low, np.minimum(low + 1, length - 1), share


def _corner_height(
    z: Float32[np.ndarray, "h w"], row: int, column: int, name: str
) -> np.floating:
    """Mean height of the 2×2 block at the corner pixel [row, column] of the image."""
    block = z[
        slice(0, _CORNER) if row == 0 else slice(-_CORNER, None),
        slice(0, _CORNER) if column == 0 else slice(-_CORNER, None),
    ]
    if block.any():
        return block[block != 0].mean(dtype=np.float64)
    present = np.argwhere(z != 0)
    if not present.size:
        raise ValueError("A background plane needs at least one present pixel.")
    logging.warning(
        "%s: no pixel is present at the corner (%d, %d) of the point cloud; the"
        " background plane uses the nearest ones",
        name,
        row,
        column,
    )
    squared = ((present - (row, column)) ** 2).sum(axis=1)
    nearest = present[np.argsort(squared, kind="stable")[: _CORNER**2]]
    return z[tuple(nearest.T)].mean(dtype=np.float64)


def _dilate_3x3(
    mask: Bool[np.ndarray, "height width"],
) -> Bool[np.ndarray, "h w"]:
    """Whether any pixel of the 3×3 neighbourhood is set; the border is cut off."""
    rows = mask[:-2] | mask[1:-1] | mask[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def _unshuffle(
    depth: Float32[np.ndarray, "height width"],
) -> Float32[np.ndarray, "side side c"]:
    """Folds each 8×8 block of pixels into the channels of one position."""
    side = depth.shape[0] // UNSHUFFLE
    blocks = depth.reshape(side, UNSHUFFLE, side, UNSHUFFLE).transpose(0, 2, 1, 3)
    return blocks.reshape(side, side, UNSHUFFLE**2)
