"""Decodes files of images, ground truth and depth to arrays.

Every format of a camera or a publisher becomes one form, on which all other modules
work. A file that cannot be decoded is a `UserError` with its name.
"""

import io
import os
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Bool, Float32, Shaped, UInt8, UInt16
from PIL import Image

from ast_jax.config import BIT_DEPTHS, FULL_DEPTH
from ast_jax.data import depth_check
from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.raster import (
    Raster,
    codec_error,
    lacks_codec,
    open_picture,
    pillow_knows,
    read_in_native_order,
    read_labels,
    read_raster,
)
from ast_jax.data.walk import path_text
from ast_jax.errors import UserError

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"))
DEPTH_SUFFIXES = frozenset((".tif", ".tiff", ".png", ".npy"))
_OF_PILLOW = (np.uint16, np.int16, np.int32, np.float32)
_DARKEST_WHITE = 64  # of a lossy mask: less is black with noise
DEFAULT_DEPTH = DepthOptions()


def read_file(source: bytes | os.PathLike) -> bytes:
    """Returns the file's bytes, or the argument if it is bytes.

    Raises:
        UserError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no file can have the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path_text(source)}: cannot be read ({reason})") from error


def decode_image(
    source: bytes | os.PathLike, name: str = "", bit_depth: int = FULL_DEPTH
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image to 8-bit RGB, upright as its EXIF orientation says.

    Grey, palette and CMYK become RGB. Alpha is dropped and the colour below it is kept,
    as by Pillow's `convert("RGB")` and the published pipelines.

    Args:
        source: the file or its bytes: PNG, JPEG, BMP, TIFF or WebP (first frame).
        name: the name in errors; the path when empty.
        bit_depth: how many of 16 bits the camera fills; the upper 8 of them are kept.

    Raises:
        UserError: the file is missing, truncated or not such an image, or its values
            have more bits.
    """
    name = name or _name(source)
    return eight_bits(read_image(read_file(source), name).values, name, bit_depth)


def read_image(content: bytes, name: str) -> Raster:
    """Reads an image as it is stored, in whole numbers of 8 or 16 bits.

    Raises:
        UserError: as `decode_image`.
    """
    raster = read_raster(content, name)
    return raster._replace(values=whole_numbers(raster.values, name))


def whole_numbers(
    values: Shaped[np.ndarray, "*shape"], name: str
) -> UInt8[np.ndarray, "*shape"] | UInt16[np.ndarray, "*shape"]:
    """Returns an image's values as unsigned numbers of 8 or 16 bits.

    Raises:
        UserError: a value is not a whole number, or is beyond 16 bits.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iu":
        raise UserError(
            f"{name}: its values are not whole numbers ({values.dtype}); store 8 or 16 "
            "bits"
        )
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise UserError(
            f"{name}: values from {values.min()} to {values.max()}, beyond 16 bits"
        )
    return values.astype(np.uint16)


def eight_bits(
    values: Shaped[np.ndarray, "h w c"], name: str, bit_depth: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns 8-bit RGB from an image's values of 8 or 16 bits.

    Raises:
        UserError: a value of 16 bits is beyond `bit_depth`.
    """
    if values.dtype != np.uint8:
        check_bit_depth(int(values.max(initial=0)), name, bit_depth)
        values = (values >> (bit_depth - 8)).astype(np.uint8)
    if values.shape[2] not in (1, 3):
        values = values[..., :3]
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def check_bit_depth(peak: int, name: str, bit_depth: int) -> None:
    """Refuses an image whose largest value has more bits than the camera fills.

    Raises:
        UserError: `peak` is beyond `bit_depth`.
    """
    if peak >> bit_depth:
        raise UserError(
            f"{name}: a value of {peak} is beyond the {bit_depth} bits that the "
            f"training images fill; train with --config.dataset.bit_depth={_bits(peak)}"
            " if the value is right"
        )


def estimate_bit_depth(peak: int) -> int:
    """Returns the bits of a camera whose 16-bit files have values up to `peak`."""
    return _bits(peak) if peak else FULL_DEPTH


def _bits(peak: int) -> int:
    return next(bits for bits in BIT_DEPTHS if not peak >> bits)


def decode_labels(
    source: bytes | os.PathLike, name: str = ""
) -> Shaped[np.ndarray, "h w"]:
    """Decodes ground truth to the class number of each pixel; 0 is no class.

    The numbers are a palette's indices, or the largest value of several channels
    without alpha.

    Raises:
        UserError: as `decode_image`.
    """
    return read_labels(read_file(source), name or _name(source))


def decode_mask(
    source: bytes | os.PathLike, name: str = "", *, numbers: bool = False
) -> Bool[np.ndarray, "h w"]:
    """Decodes ground truth: True where any colour is above 0 and not transparent.

    If the picture's compression changes values, True is every value above half of the
    largest one, provided that the largest one is clearly brighter than black.

    Args:
        source: the file or its bytes.
        name: the name in errors; the path when empty.
        numbers: the values are class numbers, see `decode_labels`.

    Raises:
        UserError: as `decode_image`.
    """
    name = name or _name(source)
    if numbers:
        return decode_labels(source, name) > 0
    raster = read_raster(read_file(source), name)
    colours = raster.values[..., :3].max(axis=-1)
    if raster.lossy:
        peak = int(colours.max(initial=0))
        marked = colours > max(peak // 2, _DARKEST_WHITE // 2)
    else:
        marked = colours > 0
    if raster.values.shape[2] == 4:
        return _drop_transparent(raster.values[..., 3], marked, colours)
    return marked


def _drop_transparent(
    alpha: Shaped[np.ndarray, "h w"],
    marked: Bool[np.ndarray, "h w"],
    colours: Shaped[np.ndarray, "h w"],
) -> Bool[np.ndarray, "h w"]:
    """Returns the marked pixels that are opaque; of an all-black mask, all opaque."""
    if not colours.any() and alpha.any() and not alpha.all():
        marked = np.ones_like(marked)
    # A brush may be half transparent.
    peak = int(alpha.max(initial=0, where=marked))
    least = np.iinfo(alpha.dtype).max // 16
    return marked & (alpha > max(peak // 2, least))


def decode_z(
    source: bytes | os.PathLike,
    name: str = "",
    options: DepthOptions = DEFAULT_DEPTH,
    *,
    checked: bool = True,
) -> Float32[np.ndarray, "h w"]:
    """Decodes a depth map to z in metres; 0 is missing.

    Args:
        source: the file or its bytes. A TIFF or `.npy` has an organised point cloud
            `[h, w, 3]`, whose last channel is z, or z alone `[h, w]`. A 16-bit PNG has
            z.
        name: the name in errors; the path when empty.
        options: the unit, and which value means missing.
        checked: refuses numbers that cannot be distances in that unit. Prepared data
            were checked before.

    Returns:
        z; NaN, which some scanners write for "missing", becomes 0.

    Raises:
        UserError: the file is missing, damaged or of another shape, or has infinities
            or numbers that cannot be distances.
    """
    name = name or _name(source)
    return z_of_array(_read_array(read_file(source), name), name, options, checked)


def z_of_array(
    values: np.ndarray,
    name: str,
    options: DepthOptions = DEFAULT_DEPTH,
    checked: bool = True,
) -> Float32[np.ndarray, "h w"]:
    """Does the same as `decode_z` with an array instead of a file."""
    if values.ndim == 3 and values.shape[0] == 3 != values.shape[2]:
        values = np.moveaxis(values, 0, -1)  # planar TIFF
    shape = values.shape
    if values.ndim == 3 and values.shape[2] in (1, 3):
        values = values[..., -1]
    is_number = values.dtype.kind == "f" or (
        values.dtype.kind in "iu" and values.dtype.itemsize > 1  # 8 bits: a picture
    )
    if values.ndim != 2 or values.size == 0 or not is_number:
        raise UserError(
            f"{name}: not a depth map: got {values.dtype} of shape {shape}, "
            "expected floats or 16-bit integers [h, w, 3] (x, y, z) or [h, w] (z)"
        )
    if checked:
        depth_check.check_shape(shape, name)
    if options.missing:
        missing = np.isclose(values.astype(np.float64), options.missing, 1e-6, 0)
        values = np.where(missing, values.dtype.type(0), values)
    kind = values.dtype.kind
    with np.errstate(over="ignore"):  # too large for float32: infinite, refused below
        z = values.astype(np.float32) * np.float32(options.metres(kind))
    z = np.where(np.isnan(z), np.float32(0), z)
    if infinite := np.count_nonzero(np.isinf(z)):
        raise UserError(
            f"{name}: {infinite} of {z.size} depth values are infinite; write 0 or NaN "
            "where depth is missing, or set --config.depth.missing=inf (or -inf)"
        )
    if checked:
        depth_check.check_values(values, name)
        depth_check.check_range(z, kind, name, options)
    return z


def resize_image(
    image: UInt8[np.ndarray, "h w 3"], size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Resizes to `size` × `size`, bilinear with antialiasing.

    Pillow does it on 8 bits. So the result equals torchvision's `Resize((size, size))`
    on a PIL image, which the authors use.
    """
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def _name(source: bytes | os.PathLike) -> str:
    return "image data" if isinstance(source, bytes) else os.fspath(source)


def _read_array(content: bytes, name: str) -> np.ndarray:
    """Decodes TIFF, PNG or `.npy`; the first bytes tell which."""
    try:
        if content.startswith(b"\x93NUMPY"):
            return _load_npy(content)
        if content.startswith((b"II", b"MM")):
            return _load_tiff(content, name)
        if content.startswith(b"\x89PNG"):
            with open_picture(content, name) as image:
                return np.asarray(image)
    except UserError:
        raise
    # tifffile and NumPy raise errors of many types on damaged bytes.
    except Exception as error:
        raise UserError(f"{name}: damaged or truncated depth ({error})") from error
    raise UserError(f"{name}: not a TIFF, PNG or .npy file with depth")


def _load_tiff(content: bytes, name: str) -> np.ndarray:
    try:
        return tifffile.imread(io.BytesIO(content))
    except (ValueError, KeyError, ImportError, NotImplementedError) as error:
        if not lacks_codec(error):
            raise
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages[0]
        # Pillow has some codecs of its own, and reads these types with every bit.
        known = page.dtype in _OF_PILLOW and page.samplesperpixel == 1
        if len(file.pages) > 1 or not known or not pillow_knows(file):
            raise codec_error(page, name)
    with open_picture(content, name) as image:
        return read_in_native_order(image)


def _load_npy(content: bytes) -> np.ndarray:
    attempts_left = 10
    while True:
        try:
            return np.load(io.BytesIO(content), allow_pickle=False)
        except SystemError:
            # Python 3.11 raises it now and then while threads parse headers, which are
            # Python's literals (https://github.com/python/cpython/issues/106905).
            attempts_left -= 1
            if not attempts_left:
                raise
