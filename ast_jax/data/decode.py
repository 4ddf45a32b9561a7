"""From a file's bytes to pixels: images, ground truth and depth.

Whatever a camera or a publisher writes becomes the one form that the rest works on, and
a file that cannot be decoded is named in one line.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Bool, Float32, Int32, UInt8
from PIL import Image, ImageOps

from ast_jax.data import depth_check
from ast_jax.data.depth_options import DepthOptions
from ast_jax.errors import UserError

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"))
DEPTH_SUFFIXES = frozenset((".tif", ".tiff", ".png", ".npy"))
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
DEFAULT_DEPTH = DepthOptions()


def read_file(source: bytes | os.PathLike) -> bytes:
    """Return the file's bytes (bytes pass through); raise UserError naming the file."""
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise UserError(
            f"{source}: cannot be read ({error.strerror or error})"
        ) from error


def decode_image(
    source: bytes | os.PathLike, name: str = ""
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image to 8-bit RGB, upright as its EXIF orientation says.

    Grey, palette and CMYK become RGB; alpha is dropped, the colour below it kept, as
    Pillow's `convert("RGB")` and the published pipelines do; of 16 bits the upper 8 are
    kept, as Pillow does with 16-bit colour.

    Args:
        source: the file or its bytes: PNG, JPEG, BMP, TIFF or WebP (first frame).
        name: what an error calls it; the path when empty.

    Raises:
        UserError: the file is missing, truncated, or no such image.
    """
    with _opened(source, name) as image:
        return np.asarray(to_rgb(ImageOps.exif_transpose(image)))


def decode_labels(
    source: bytes | os.PathLike, name: str = ""
) -> UInt8[np.ndarray, "h w"] | Int32[np.ndarray, "h w"]:
    """Decode ground truth: the class number of each pixel, 0 = none.

    A palette's indices, not its colours, count; of several channels the largest; alpha
    doesn't count.

    Raises:
        UserError: as `decode_image`.
    """
    with _opened(source, name) as image:
        image = ImageOps.exif_transpose(image)
        if "A" in image.getbands():
            image = image.convert("L" if image.mode == "LA" else "RGB")
        labels = np.asarray(image)
    labels = labels.max(axis=-1) if labels.ndim == 3 else labels
    return labels.astype(np.uint8 if labels.itemsize == 1 else np.int32)


def decode_mask(source: bytes | os.PathLike, name: str = "") -> Bool[np.ndarray, "h w"]:
    """Decode ground truth: True where any value is above 0.

    Raises:
        UserError: as `decode_image`.
    """
    return decode_labels(source, name) > 0


def decode_z(
    source: bytes | os.PathLike,
    name: str = "",
    options: DepthOptions = DEFAULT_DEPTH,
    *,
    checked: bool = True,
) -> Float32[np.ndarray, "h w"]:
    """Decode a depth map: z in metres, 0 = missing.

    Args:
        source: the file or its bytes. TIFF or `.npy`: an organised point cloud
            `[h, w, 3]`, of which z is the last channel, or z alone `[h, w]`; also a
            16-bit PNG.
        name: what an error calls it; the path when empty.
        options: the unit, and which value is missing.
        checked: refuse numbers that can't be distances in that unit; they need no
            second look in prepared data.

    Returns:
        z; NaN, which some scanners write for "missing", becomes 0.

    Raises:
        UserError: the file is missing, damaged, of another shape, or holds infinities
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
    """As `decode_z`, of an array in place of a file."""
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
    with np.errstate(over="ignore"):  # beyond float32 is infinite, told below
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
    """Resize to `size` × `size`, bilinear with antialiasing.

    Done by Pillow on 8 bits, so equal to torchvision's `Resize((size, size))` on a PIL
    image, which the authors use.
    """
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def to_rgb(image: Image.Image) -> Image.Image:
    """Bring an image of any of Pillow's modes to 8-bit RGB, as `decode_image` does.

    Raises:
        ValueError: grey values are floating-point, or beyond 16 bits.
    """
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("grey values beyond 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point grey values; store 8 or 16 bits")
    elif image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns when it drops a palette's alpha
    return image.convert("RGB")


def _name(source: bytes | os.PathLike) -> str:
    return "image data" if isinstance(source, bytes) else os.fspath(source)


@contextlib.contextmanager
def _opened(source: bytes | os.PathLike, name: str) -> Iterator[Image.Image]:
    """Open and load an image; whatever goes wrong while it is used names the file."""
    name = name or _name(source)
    content = read_file(source)
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            image.load()
            yield image
    except Image.UnidentifiedImageError as error:
        raise UserError(
            f"{name}: not a {', '.join(IMAGE_FORMATS)} image"
            + ("" if content else " (the file is empty)")
        ) from error
    # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error and others.
    except Exception as error:
        raise UserError(f"{name}: damaged or truncated image ({error})") from error


def _read_array(content: bytes, name: str) -> np.ndarray:
    """Decode TIFF, PNG or `.npy`, told apart by their first bytes."""
    try:
        if content.startswith(b"\x93NUMPY"):
            return _load_npy(content)
        if content.startswith((b"II", b"MM")):
            return tifffile.imread(io.BytesIO(content))
        if content.startswith(b"\x89PNG"):
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                return np.asarray(image)
    # tifffile and NumPy raise many kinds on damaged bytes.
    except Exception as error:
        raise UserError(f"{name}: damaged or truncated depth ({error})") from error
    raise UserError(f"{name}: not a TIFF, PNG or .npy file with depth")


def _load_npy(content: bytes) -> np.ndarray:
    attempts_left = 10
    while True:
        try:
            return np.load(io.BytesIO(content), allow_pickle=False)
        except SystemError:
            # Python 3.11 now and then fails so while threads parse headers, which are
            # Python's literals (https://github.com/python/cpython/issues/106905).
            attempts_left -= 1
            if not attempts_left:
                raise
