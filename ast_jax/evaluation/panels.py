"""Pictures of one inspected part: input, depth, ground truth and score maps.

All score maps of a category and network share one colour scale (`ColourScale`).
"""

import base64
import dataclasses
import functools
import io
from collections.abc import Mapping

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ast_jax.data import depth
from ast_jax.data.parts import Part

SIDE = 400  # pixels of a picture's longer side
VIEWS = {
    "input": "Input",
    "depth": "Depth",
    "truth": "Ground truth",
    "student": "Student map",
    "teacher": "Teacher map",
    "combined": "Combined map",
}
_COLOURS_OF_SCORES = matplotlib.colormaps["inferno"]
_COLOURS_OF_DEPTH = matplotlib.colormaps["viridis"]
_LEAST_RELIEF = 4e-3  # metres; a flat part is not stretched to show noise
_MISSING = (42, 46, 54)  # pixels without depth
OUTLINE = (53, 224, 255)  # seen on photographs and on every score colour
_QUALITY = 78
_GAP, _LINE = 8, 20  # pixels around the pictures of a panel, and of a line of text


@dataclasses.dataclass(frozen=True)
class ColourScale:
    """Which scores the darkest and the brightest colour stand for.

    Attributes:
      low: the darkest; 5 % of all pixels of good test images lie below.
      middle: half way; the pixel threshold, or without one the value below which 95 %
        of the good test images stay entirely.
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
        """From the maps of the good test images, or of all where none is good."""
        low = float(np.quantile(maps, 0.05))
        middle = pixel_threshold
        if middle is None:
            middle = float(np.quantile(maxima, 0.95))
        least = low + 1e-6 * max(1.0, abs(low))
        return cls(low, max(middle, least), pixel_threshold is not None)

    @property
    def high(self) -> float:
        """The score of the brightest colour, and of all above."""
        return 2 * self.middle - self.low

    def position(self, scores: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """Where each score lies on the scale, in 0..1."""
        return np.clip((scores - self.low) / (self.high - self.low), 0, 1)


def colour_stops(count: int = 12) -> list[str]:
    """The score colours from low to high, as CSS hexadecimal values."""
    positions = np.linspace(0, 1, count)
    return [matplotlib.colors.to_hex(_COLOURS_OF_SCORES(x)) for x in positions]


def score_picture(position: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colours of a map of positions on a colour scale (0..1)."""
    return _COLOURS_OF_SCORES(position, bytes=True)[..., :3]


def depth_picture(z: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Relief of a part: near is bright, missing pixels are grey.

    Contrast is each picture's own, over the foreground, so that shallow dents show.
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
    colours = _COLOURS_OF_DEPTH(np.clip(nearness, 0, 1), bytes=True)[..., :3]
    return np.where(present[..., None], colours, np.array(_MISSING, np.uint8))


def thumbnail_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width with the longer side at `SIDE`, or less if the part is."""
    factor = min(1.0, SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def pictures(
    part: Part, positions: Mapping[str, Float[np.ndarray, "h w"]]
) -> dict[str, Image.Image]:
    """The pictures of a part by view, in the order of `VIEWS`, without what it lacks.

    Args:
      part: decoded.
      positions: of the score maps on their colour scales, in the thumbnail's size.
    """
    found: dict[str, np.ndarray] = {}
    if part.image is not None:
        found["input"] = part.image
    if part.z is not None:
        found["depth"] = depth_picture(part.z)
    if part.mask is not None:
        found["truth"] = np.where(_small_mask(part), np.uint8(255), np.uint8(0))
    found |= {name: score_picture(position) for name, position in positions.items()}
    height, width = thumbnail_size(part.size)
    return {
        name: Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
        for name, pixels in found.items()
    }


def data_uris(part: Part, views: Mapping[str, Image.Image]) -> dict[str, str]:
    """The pictures to stand inside the page, and the defects' "outline" if any."""
    uris = {name: _data_uri(picture) for name, picture in views.items()}
    if part.mask is not None and part.mask.any():
        uris["outline"] = _data_uri(_outline(_small_mask(part)))
    return uris


def panel(title: str, views: Mapping[str, Image.Image]) -> Image.Image:
    """A row of a part's pictures, each under its name, below a title."""
    width, height = next(iter(views.values())).size
    cell = max(width, 150)
    sheet = Image.new(
        "RGB",
        (len(views) * (cell + _GAP) + _GAP, height + 2 * _LINE + 3 * _GAP),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, "black", _font())
    for column, (name, picture) in enumerate(views.items()):
        x = _GAP + column * (cell + _GAP)
        draw.text((x, _GAP + _LINE), VIEWS[name], "#667080", _font())
        sheet.paste(picture.convert("RGB"), (x, 2 * (_GAP + _LINE)))
    return sheet


def _outline(mask: Bool[np.ndarray, "h w"]) -> Image.Image:
    """A line around a mask, transparent elsewhere."""
    thickness = max(1, round(max(mask.shape) / 130))
    line = ndimage.binary_dilation(mask, iterations=thickness) & ~mask
    picture = Image.fromarray(line.astype(np.uint8))
    picture.putpalette([0, 0, 0, *OUTLINE])
    return picture


def _data_uri(picture: Image.Image) -> str:
    """WebP; PNG for masks, which it holds in fewer bytes and without loss."""
    stream, kind = io.BytesIO(), "png"
    if picture.mode == "P":
        picture.save(stream, "PNG", transparency=0, optimize=True)
    elif picture.mode == "L":
        bits = picture.convert("1", dither=Image.Dither.NONE)
        bits.save(stream, "PNG", optimize=True)
    else:
        kind = "webp"
        picture.save(stream, "WEBP", quality=_QUALITY, method=2)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _small_mask(part: Part) -> Bool[np.ndarray, "h w"]:
    """The ground truth in the thumbnail's size, where no defect is too small to see."""
    height, width = thumbnail_size(part.size)
    share = Image.fromarray(part.mask.astype(np.float32))
    return np.asarray(share.resize((width, height), Image.Resampling.BOX)) > 0


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 12)
