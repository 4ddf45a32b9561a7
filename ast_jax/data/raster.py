"""Reads a picture's values as they are stored: all bits, all colours, and alpha.

Pillow reads nearly all files, but cuts 16-bit colour to 8 bits and reads some layouts
of TIFF wrongly. This module reads all 16 bits, and such TIFF files with tifffile.
"""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tifffile
from jaxtyping import Shaped
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ast_jax.errors import UserError

FORMATS = "PNG, JPEG, BMP, TIFF, WEBP"
MOST_PIXELS = 500_000_000
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PHOTOMETRIC = ("MINISBLACK", "MINISWHITE", "RGB")
_ORIENTATION = 0x0112  # EXIF tag
# Pillow's names of byte layouts, with and without a change of the byte order.
_NATIVE = {"F;32BF": "F;32F", "I;32BS": "I;32S", "I;16BS": "I;16S"}
_FLOAT_PREDICTOR = 3
_JPEG_IN_TIFF = ("jpeg", "tiff_jpeg", "webp")
# Functions that turn stored rows and columns upright, by EXIF orientation.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


class Raster(NamedTuple):
    """A picture, upright.

    Attributes:
        values: grey [h, w, 1], RGB [h, w, 3] or RGBA [h, w, 4], in the stored type.
        lossy: whether compression changed the values a little.
        turned: whether its EXIF orientation turned or mirrored it.
    """

    values: Shaped[np.ndarray, "h w c"]
    lossy: bool
    turned: bool


def read_raster(content: bytes, name: str) -> Raster:
    """Reads a picture's colours; a palette's indices become colours.

    Args:
        content: PNG, JPEG, BMP, TIFF or WebP (first frame or page).
        name: the name in errors.

    Raises:
        UserError: it is not such a picture, is damaged, or has too many pixels.
    """
    tag = 1
    if content.startswith(_TIFF):
        values, tag = _read_by_tifffile(content, name)
        if values is not None:
            return Raster(_UPRIGHT.get(tag, np.asarray)(values), False, tag in _UPRIGHT)
    with open_picture(content, name) as image:
        lossy = _is_lossy(image, content)
        # Before `getexif`, because that lets Pillow load the image.
        values = _read_both_bytes(image, content)
        clear = image.info.get("transparency")
        orientation = image.getexif().get(_ORIENTATION, 1)
        if values is None:
            turned = orientation in _UPRIGHT  # exif_transpose copies any other image
            upright = ImageOps.exif_transpose(image) if turned else image
            values = np.asarray(colours(upright))
        else:
            values = _UPRIGHT.get(orientation, np.asarray)(values)
        values = values if values.ndim == 3 else values[..., None]
        if clear is not None and values.dtype != np.uint8:
            values = _add_alpha(values, clear)
        return Raster(values, lossy, orientation in _UPRIGHT or tag in _UPRIGHT)


def read_labels(content: bytes, name: str) -> Shaped[np.ndarray, "h w"]:
    """Reads class numbers: a palette's indices, or the largest of several channels.

    Raises:
        UserError: as `read_raster`.
    """
    with open_picture(content, name) as image:
        if image.mode != "P":
            values = read_raster(content, name).values
            return values[..., : 3 if values.shape[2] == 4 else None].max(axis=-1)
        return np.asarray(ImageOps.exif_transpose(image))


@contextlib.contextmanager
def open_picture(content: bytes, name: str) -> Iterator[ImageFile.ImageFile]:
    """Opens an image; an error while it is used becomes a UserError with its name.

    Raises:
        UserError: it is not a picture, is damaged, or has too many pixels.
    """
    plugin = next((p for found, p in _PLUGINS if found(content)), None)
    if plugin is None:
        empty = "" if content else " (the file is empty)"
        raise UserError(f"{name}: not a {FORMATS} image{empty}")
    # `Image.open` would refuse sound pictures of 179 megapixels as attacks.
    with _read_errors(name), plugin(io.BytesIO(content)) as image:
        _check_size(image.width, image.height, name)
        yield image


@contextlib.contextmanager
def _read_errors(name: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{name}: there is not enough memory to read it") from error
    # Pillow's plugins and tifffile raise OSError, SyntaxError, struct.error and others.
    except Exception as error:
        raise UserError(f"{name}: damaged or truncated image ({error})") from error


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{name}: {width} by {height} pixels; at most {MOST_PIXELS // 10**6} "
            "megapixels are read; cut or shrink it"
        )


def colours(image: Image.Image) -> Image.Image:
    """Converts an image to grey, RGB or RGBA; values of more than 8 bits stay."""
    if image.mode in ("L", "RGB", "RGBA", "I", "F") or image.mode.startswith("I;16"):
        if "transparency" in image.info and image.mode in ("L", "RGB"):
            return image.convert("RGBA")
        return image
    if image.mode == "1":
        return image.convert("RGBA" if "transparency" in image.info else "L")
    if image.mode in ("P", "PA", "LA", "La", "RGBa"):
        return image.convert("RGBA")
    return image.convert("RGB")


def _read_both_bytes(
    image: ImageFile.ImageFile, content: bytes
) -> Shaped[np.ndarray, "h w c"] | None:
    """Returns 16-bit colour with both bytes; None if the image has no such colour.

    Pillow gives only the upper byte of each value. It unpacks decompressed bytes by a
    "raw mode"; with the raw mode of the other byte order it gives the lower byte. Grey
    with alpha is read as four bytes a pixel.
    """
    mode = image.tile[0].args if image.tile else None
    mode = mode[0] if isinstance(mode, tuple) else mode
    if not isinstance(mode, str) or ";16" not in mode or mode.startswith("I"):
        return None
    if mode == "LA;16B":
        stored = _unpack(image, "RGBA").astype(np.uint16)
        return stored[..., [0, 0, 0, 2]] << 8 | stored[..., [1, 1, 1, 3]]
    base, _, order = mode.rpartition(";16")
    native = "L" if sys.byteorder == "little" else "B"
    other = {"L": "B", "B": "L"}[native if order == "N" else order]
    again = type(image)(io.BytesIO(content))
    low = _unpack(again, f"{base};16{other}").astype(np.uint16)
    return np.asarray(image).astype(np.uint16) << 8 | low


def read_in_native_order(image: ImageFile.ImageFile) -> Shaped[np.ndarray, "h w"]:
    """Reads a TIFF file that libtiff decompresses.

    libtiff puts the bytes into this machine's order; Pillow would turn them again.
    """
    tile = image.tile[0]
    if tile.codec_name != "libtiff":
        return np.asarray(image)
    return _unpack(image, _NATIVE.get(tile.args[0], tile.args[0]))


def _add_alpha(
    values: Shaped[np.ndarray, "h w c"], clear: int | tuple[int, ...]
) -> Shaped[np.ndarray, "h w 4"]:
    """Adds the alpha of a 16-bit PNG in which one colour is transparent."""
    alpha = np.where((values == clear).all(axis=-1, keepdims=True), 0, 0xFFFF)
    rgb = np.broadcast_to(values, (*values.shape[:2], 3))
    return np.concatenate([rgb, alpha], axis=-1).astype(np.uint16)


def _unpack(image: ImageFile.ImageFile, mode: str) -> Shaped[np.ndarray, "h w *c"]:
    def rename(args: object) -> object:
        return (mode, *args[1:]) if isinstance(args, tuple) else mode

    image.tile = [tile._replace(args=rename(tile.args)) for tile in image.tile]
    return np.asarray(image)


def _read_by_tifffile(
    content: bytes, name: str
) -> tuple[Shaped[np.ndarray, "h w c"] | None, int]:
    """Returns the first page's values and orientation; None for values Pillow reads."""
    try:
        file = tifffile.TiffFile(io.BytesIO(content))
        page = file.pages[0]
    except Exception:  # of many types; Pillow tries next, and its error is reported
        return None, 1
    with _read_errors(name), file:
        tag = page.tags.get(_ORIENTATION)
        orientation = int(tag.value) if tag else 1
        _check_size(page.imagewidth, page.imagelength, name)
        bits = page.bitspersample
        if not isinstance(bits, int):
            raise ValueError(f"its channels differ in bits: {bits}")
        separate = page.samplesperpixel > 1 and page.planarconfig == 2
        plain = bits <= 8 and not separate and page.sampleformat == 1
        known = page.compression in TiffImagePlugin.COMPRESSION_INFO
        if plain and not (known and (bits in (1, 8) or page.samplesperpixel == 1)):
            raise codec_error(page, name)
        if plain and not file.is_bigtiff:
            return None, orientation
        photometric = getattr(page.photometric, "name", str(page.photometric))
        try:
            if photometric not in _PHOTOMETRIC:
                raise ValueError(f"{photometric} of {bits} bits isn't read; store RGB")
            return _read_grey_or_colour(page, photometric), orientation
        except (ValueError, KeyError, ImportError, NotImplementedError) as error:
            # Pillow has more codecs, and reads these layouts correctly.
            packed = bits == 12 and page.samplesperpixel == 1 and file.byteorder == "<"
            deep = (bits == 16 or packed) and page.sampleformat == 1
            if (plain or (deep and lacks_codec(error))) and pillow_knows(file):
                return None, orientation
            if lacks_codec(error):
                raise codec_error(page, name) from error
            raise


def lacks_codec(error: Exception) -> bool:
    """Whether tifffile would need another package to decompress a file."""
    return isinstance(error, ImportError) or "imagecodecs" in str(error)


def pillow_knows(file: tifffile.TiffFile) -> bool:
    """Whether Pillow opens and decompresses such a file correctly."""
    page = file.pages[0]
    turned_big = file.is_bigtiff and file.byteorder == ">"
    separate = page.samplesperpixel > 1 and page.planarconfig == 2
    return (
        page.compression in TiffImagePlugin.COMPRESSION_INFO
        and page.predictor != _FLOAT_PREDICTOR  # libtiff ignores it with packbits
        and not turned_big
        and not separate
    )


def codec_error(page: tifffile.TiffPage, name: str) -> UserError:
    """Makes the error about a sound TIFF file whose codec is missing."""
    codec = getattr(page.compression, "name", str(page.compression))
    predictor = "" if page.predictor in (1, 2) else f" and predictor {page.predictor}"
    return UserError(
        f"{name}: a TIFF file of {page.bitspersample} bits with compression {codec}"
        f"{predictor}, which is not read; save it with 8, 16 or 32 bits, uncompressed "
        "or with deflate"
    )


def _read_grey_or_colour(
    page: tifffile.TiffPage, photometric: str
) -> Shaped[np.ndarray, "h w c"]:
    values = page.asarray()
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    if values.ndim not in (2, 3) or page.axes not in ("YX", "YXS", "SYX"):
        raise ValueError(f"axes {page.axes} are not those of a picture")
    values = values if values.ndim == 3 else values[..., None]
    if photometric == "MINISWHITE" and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    return _drop_extras(values, page)


def _drop_extras(
    values: Shaped[np.ndarray, "h w samples"], page: tifffile.TiffPage
) -> Shaped[np.ndarray, "h w c"]:
    """Returns grey, RGB or RGBA from all samples of a page."""
    if values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    colours = 3 if values.shape[2] >= 3 else 1
    alpha = [extra for extra in page.extrasamples if extra]  # 1 or 2: an alpha
    if not alpha or values.shape[2] == colours:
        return values[..., :colours]
    rgb = np.broadcast_to(values[..., :colours], (*values.shape[:2], 3))
    return np.concatenate([rgb, values[..., colours : colours + 1]], axis=-1)


def _is_lossy(image: ImageFile.ImageFile, content: bytes) -> bool:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.info.get("compression") in _JPEG_IN_TIFF
    if isinstance(image, WebPImagePlugin.WebPImageFile):
        return b"VP8L" not in content  # the chunk of lossless pictures
    return isinstance(image, JpegImagePlugin.JpegImageFile)


_PLUGINS: tuple[tuple[Callable[[bytes], bool], type[ImageFile.ImageFile]], ...] = (
    (lambda c: c.startswith(b"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    (lambda c: c.startswith(b"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    (lambda c: c.startswith(b"BM"), BmpImagePlugin.BmpImageFile),
    (lambda c: c.startswith(_TIFF), TiffImagePlugin.TiffImageFile),
    (
        lambda c: c.startswith(b"RIFF") and c[8:12] == b"WEBP",
        WebPImagePlugin.WebPImageFile,
    ),
)
