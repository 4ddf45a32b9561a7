"""Pictures of one inspected part: input, depth, ground truth and score maps.

All score maps of a category and network share one colour scale (`colours.ColourScale`).
"""

import base64
import functools
import io
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ast_jax.data.part import Part
from ast_jax.inference.colours import OUTLINE, depth_picture, score_picture

SIDE = 400  # pixels of a picture's longer side
VIEWS = {
    "input": "Input",
    "depth": "Depth",
    "truth": "Ground truth",
    "student": "Student map",
    "teacher": "Teacher map",
    "combined": "Combined map",
}
_QUALITY = 78
_GAP, _LINE = 8, 20  # pixels between a strip's pictures; height of a line of text


def thumbnail_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width with a longer side of at most `SIDE`."""
    factor = min(1.0, SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def pictures(
    part: Part, positions: Mapping[str, Float[np.ndarray, "h w"]]
) -> dict[str, Image.Image]:
    """The pictures of a part by view, in the order of `VIEWS`; some may be absent.

    Args:
      part: the part.
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
    """The pictures as text for the page, with the "outline" of defects, if any."""
    uris = {name: _data_uri(picture) for name, picture in views.items()}
    if part.mask is not None and part.mask.any():
        uris["outline"] = _data_uri(_outline(_small_mask(part)))
    return uris


def strip(title: str, views: Mapping[str, Image.Image]) -> Image.Image:
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
    """A WebP, or for masks a PNG, which is smaller and without loss."""
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
    """The ground truth in the thumbnail's size; every defect has at least one pixel."""
    height, width = thumbnail_size(part.size)
    share = Image.fromarray(part.mask.astype(np.float32))
    return np.asarray(share.resize((width, height), Image.Resampling.BOX)) > 0


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 12)
