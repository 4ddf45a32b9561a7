"""Any input of a user becomes a part or one UserError."""

import io

import numpy as np
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from ast_jax.data.decode import (
    decode_image,
    decode_labels,
    decode_mask,
    decode_z,
)
from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.part import Part
from ast_jax.errors import UserError
from ast_jax.inference import read_part

SETTINGS = settings(max_examples=60, deadline=None)
ANY_TYPE = st.one_of(
    arrays.scalar_dtypes(),
    arrays.unicode_string_dtypes(max_len=3),
    st.just(np.dtype(object)),
)
ANY_ARRAY = ANY_TYPE.flatmap(
    lambda dtype: (
        arrays.arrays(
            dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
        )
        if dtype.kind != "O"
        else st.just(np.array([{"a": 1}, None]))
    )
)
NUMBERS = st.one_of(
    arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(), arrays.floating_dtypes()
)
ANY_MAP = NUMBERS.flatmap(
    lambda dtype: arrays.arrays(
        dtype,
        st.one_of(
            st.tuples(st.integers(4, 9), st.integers(4, 9)),
            st.tuples(st.integers(4, 9), st.integers(4, 9), st.sampled_from([1, 3, 4])),
        ),
    )
)
ANY_THING = st.one_of(
    ANY_ARRAY,
    ANY_MAP,
    st.recursive(
        st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=3)),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=8,
    ),
    st.binary(max_size=9),
    st.sampled_from([{}, object(), 1j, range(3)]),
)
OPTIONS = st.builds(
    DepthOptions,
    unit=st.sampled_from(["auto", "m", "mm"]),
    missing=st.sampled_from([0.0, -1.0, 65535.0, np.inf, np.nan, 1e30]),
)


def refused_or(function, *args, **options):
    try:
        return function(*args, **options)
    except UserError as error:
        assert str(error)
        return None


def encoded(array, kind: str) -> bytes:
    """A file of the array; rejects arrays that the format cannot hold."""
    file = io.BytesIO()
    try:
        if kind == "npy":
            np.save(file, array, allow_pickle=True)
        elif kind == "tiff":
            tifffile.imwrite(file, array)
        else:
            Image.fromarray(array).save(file, kind)
    except Exception:
        assume(False)
    return file.getvalue()


def damaged(content: bytes, cut: float, flips: list[tuple[float, int]]) -> bytes:
    out = bytearray(content[: round(cut * len(content))])
    for place, value in flips if out else ():
        out[int(place * (len(out) - 1))] ^= value
    return bytes(out)


STARTS = (b"", b"II*\0", b"MM\0*", b"II+\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
STARTS += (b"BM", b"RIFF\0\0\0\0WEBP", b"\x93NUMPY\1\0")
DAMAGE = st.tuples(
    st.one_of(st.just(1.0), st.floats(0, 1)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=3),
)


@SETTINGS
@given(image=ANY_THING, bit_depth=st.sampled_from([8, 10, 12, 14, 16]))
def test_any_image_is_a_part_or_refused(image, bit_depth):
    part = refused_or(read_part.decode, "rgb", image, None, bit_depth=bit_depth)
    assert part is None or isinstance(part, Part)


@SETTINGS
@given(xyz=ANY_THING, options=OPTIONS)
def test_any_depth_is_a_part_or_refused(xyz, options):
    part = refused_or(read_part.decode, "3d", None, xyz, depth_options=options)
    assert part is None or (np.isfinite(part.z).all() and part.z.any())


@SETTINGS
@given(
    array=st.one_of(ANY_ARRAY, ANY_MAP),
    kind=st.sampled_from(["npy", "tiff", "png", "jpeg", "bmp", "webp"]),
    damage=DAMAGE,
    options=OPTIONS,
)
def test_any_file_is_read_or_refused(array, kind, damage, options):
    content = damaged(encoded(array, kind), *damage)
    image = refused_or(decode_image, content, "a file")
    assert image is None or (image.dtype == np.uint8 and image.shape[2:] == (3,))
    for decode in (decode_mask, decode_labels):
        truth = refused_or(decode, content, "a file")
        assert truth is None or truth.ndim == 2
    z = refused_or(decode_z, content, "a file", options)
    assert z is None or (z.ndim == 2 and np.isfinite(z).all())


@SETTINGS
@given(
    start=st.sampled_from(STARTS),
    rest=st.binary(max_size=200),
)
def test_any_bytes_are_read_or_refused(start, rest):
    for decode in (decode_image, decode_mask, decode_labels, decode_z):
        refused_or(decode, start + rest, "a file")
