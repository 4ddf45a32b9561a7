"""Reads one part from a user's files, pictures or arrays."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageFile, ImageOps

from ast_jax.config import FULL_DEPTH
from ast_jax.data.decode import (
    DEFAULT_DEPTH,
    decode_image,
    decode_z,
    eight_bits,
    whole_numbers,
    z_of_array,
)
from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.part import Part
from ast_jax.data.raster import colours
from ast_jax.errors import UserError
from ast_jax.mode import Mode

# A file, or a value for NumPy's asarray: also nested lists, JAX's and torch's arrays.
FileOrArray = Any
_UNKNOWN = "unknown"  # in place of the defect type


def decode(
    mode: str,
    image: FileOrArray | Image.Image | None,
    xyz: FileOrArray | None,
    name: str = "",
    *,
    depth_options: DepthOptions = DEFAULT_DEPTH,
    bit_depth: int = FULL_DEPTH,
) -> Part:
    """Decodes one part, in the same way as the files of data sets.

    Args:
      mode: rgb, which ignores `xyz`, 3d or rgb3d.
      image: a file, a Pillow image, or an array or nested list [h,w], [h,w,1], [h,w,3]
        or [h,w,4] (alpha is dropped) of 8 or 16 bits.
      xyz: a file as `decode_z` reads it, or an array or nested list [h,w,3] (x, y, z)
        or [h,w] (z): floats in metres or integers in millimetres; 0 or NaN means
        missing depth.
      name: the part's name in warnings.
      depth_options: of the run.
      bit_depth: of the run; how many of 16 bits the camera uses.

    Raises:
      UserError: an input that the mode needs is missing or cannot be decoded, the
        inputs do not fit together, or no pixel has depth.
    """
    mode = Mode(mode)
    needs = {"image": image} if mode.has_colour else {}
    needs |= {"xyz": xyz} if mode.has_depth else {}
    if missing := [kind for kind, source in needs.items() if source is None]:
        raise UserError(
            f"mode {mode} needs {' and '.join(needs)}; got no"
            f" {' and no '.join(missing)}"
        )
    pixels = None if image is None else _pixels(image, bit_depth)
    z = _depth(xyz, depth_options) if mode.has_depth else None
    if pixels is not None and z is not None and pixels.shape[:2] != z.shape:
        sizes = (f"{a.shape[1]} by {a.shape[0]}" for a in (pixels, z))
        turned = pixels.shape[1::-1] == z.shape
        hint = "; does the image's EXIF orientation turn it?" if turned else ""
        raise UserError("image is {} pixels, but xyz is {}{}".format(*sizes, hint))
    return Part(name or _name(image, xyz), _UNKNOWN, pixels, z, None)


def _name(*sources: FileOrArray | Image.Image | None) -> str:
    paths = [str(s) for s in sources if isinstance(s, str | os.PathLike)]
    return next(iter(paths), "part")


def _pixels(
    image: FileOrArray | Image.Image, bit_depth: int
) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(image, str | os.PathLike):
        return decode_image(Path(image), bit_depth=bit_depth)
    if not isinstance(image, Image.Image):
        pixels = _array(image, "image")
        if isinstance(image, Sequence) and pixels.dtype.kind in "iu":
            fits = pixels.size and pixels.min() >= 0 and pixels.max() < 256
            pixels = pixels.astype(np.uint8) if fits else pixels  # a list has no type
        return _pixels_of_array(pixels, bit_depth)
    if 0 in image.size:
        raise UserError(f"image: {image.width} by {image.height} pixels")
    try:
        if content := _deep_content(image):
            return decode_image(content, "image", bit_depth)
        array = np.asarray(colours(ImageOps.exif_transpose(image)))
    except UserError:
        raise
    except Exception as error:  # Pillow's plugins raise many types
        raise UserError(f"image: {error}") from error
    values = whole_numbers(array if array.ndim == 3 else array[..., None], "image")
    return eight_bits(values, "image", bit_depth)


def _deep_content(image: Image.Image) -> bytes | None:
    """The bytes of a file with 16-bit colour, which Pillow would read with 8 bits."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile or not image.fp:
        return None
    if ";16" not in str(image.tile[0].args):
        return None
    position = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(position)
    return content


def _pixels_of_array(image: np.ndarray, bit_depth: int) -> UInt8[np.ndarray, "h w 3"]:
    channels = image.shape[-1] if image.ndim == 3 else 1
    fits = image.ndim in (2, 3) and image.size and channels in (1, 3, 4)
    if not fits or image.dtype.kind != "u" or image.dtype.itemsize > 2:
        raise UserError(
            f"image: got {image.dtype} of shape {image.shape}, expected uint8 or uint16"
            " [h, w], [h, w, 3] or [h, w, 4]"
        )
    values = whole_numbers(image.reshape(*image.shape[:2], channels), "image")
    return eight_bits(values, "image", bit_depth)


def _depth(xyz: FileOrArray, depth_options: DepthOptions) -> Float32[np.ndarray, "h w"]:
    if isinstance(xyz, str | os.PathLike):
        z, name = decode_z(Path(xyz), options=depth_options), str(xyz)
    else:
        name = "xyz"
        z = z_of_array(_array(xyz, name), name, depth_options)
    if not z.any():
        raise UserError(f"{name}: no depth is present, every pixel is 0 or NaN")
    return z


def _array(value: Any, name: str) -> np.ndarray:
    """Converts any library's array, or nested lists, to NumPy's.

    Raises:
      UserError: that is not possible.
    """
    if isinstance(value, np.ma.MaskedArray):
        return value.filled(0)  # a masked value is missing
    if isinstance(value, np.ndarray):
        return np.asarray(value)  # a matrix is always two-dimensional
    if not hasattr(value, "__array__") and not isinstance(value, Sequence):
        kind = type(value).__name__
        raise UserError(f"{name}: got {kind}, expected a file or an array")
    try:
        return np.asarray(value)
    # Many types: from a tensor with a gradient or on a GPU, or lists of unequal length.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        kind = type(value).__name__
        raise UserError(f"{name}: {kind} is not an array ({reason})") from error
