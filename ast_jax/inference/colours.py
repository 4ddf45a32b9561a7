"""The colours of scores and of depth: one scale for all maps of a category."""

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, UInt8

from ast_jax.data import depth

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

_SCORE_COLOURS, _DEPTH_COLOURS = "inferno", "viridis"
_LEAST_RELIEF = 4e-3  # metres; a smaller range would only show noise
_MISSING = (42, 46, 54)  # of pixels without depth
OUTLINE = (53, 224, 255)  # visible on photographs and on every score colour


@dataclasses.dataclass(frozen=True)
class ColourScale:
    """The scores that a category's colours stand for.

    A report makes its scale from test images (`of`), a detector without any
    (`Detector.colour_scale`).

    Attributes:
      low: the score of the darkest colour and of all below.
      middle: the score half way between the darkest and the brightest colour; the pixel
        threshold, if there is one.
      calibrated: whether `middle` is the pixel threshold.
    """

    low: float
    middle: float
    calibrated: bool

    @classmethod
    def of(
        cls,
        maps: Float[np.ndarray, "n h w"],
        maxima: Float[np.ndarray, " n"],
        pixel_threshold: float | None,
    ) -> "ColourScale":
        """Makes a scale from the maps of good test images.

        `low` has 5 % of all their pixels below it. Without a pixel threshold, `middle`
        is the value that the maxima of 95 % of these images do not exceed.

        Args:
          maps: of the good test images, or of all if none is good.
          maxima: the largest value of each map.
          pixel_threshold: None without a calibration.
        """
        low = float(np.quantile(maps, 0.05))
        middle = pixel_threshold
        if middle is None:
            middle = float(np.quantile(maxima, 0.95))
        least = low + 1e-6 * max(1.0, abs(low))
        return cls(low, max(middle, least), pixel_threshold is not None)

    @property
    def high(self) -> float:
        """The score of the brightest colour and of all above."""
        return 2 * self.middle - self.low

    def position(self, scores: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """The position of each score on the scale, in 0..1."""
        return np.clip((scores - self.low) / (self.high - self.low), 0, 1)


def colour_stops(count: int = 12) -> list[str]:
    """The score colours from low to high, as CSS hexadecimal values."""
    from matplotlib.colors import to_hex

    return [to_hex(_colormap(_SCORE_COLOURS)(x)) for x in np.linspace(0, 1, count)]


def score_picture(position: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colours of a map of positions on a colour scale (0..1)."""
    return _colormap(_SCORE_COLOURS)(position, bytes=True)[..., :3]


def depth_picture(z: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The relief of a part: near is bright, missing pixels are grey.

    The contrast fits the foreground of each picture, so that shallow dents are visible.
    """
    z = depth.fill_missing(np.where(np.isfinite(z), z, np.float32(0)))
    present = z != 0
    if not present.any():
        return np.full((*z.shape, 3), _MISSING, np.uint8)
    foreground = depth.foreground_mask(z, depth.background_plane(z))
    near, far = np.quantile(
        z[foreground if foreground.any() else present], (0.01, 0.99)
    )
    middle, span = (near + far) / 2, max(far - near, _LEAST_RELIEF)
    nearness = 0.5 - (z - middle) / span
    colours = _colormap(_DEPTH_COLOURS)(np.clip(nearness, 0, 1), bytes=True)[..., :3]
    return np.where(present[..., None], colours, np.array(_MISSING, np.uint8))


@functools.cache
def _colormap(name: str) -> "Colormap":
    import matplotlib  # takes a quarter of a second, and only pictures need it

    return matplotlib.colormaps[name]
