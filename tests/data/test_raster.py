"""Pictures as they are stored, in every layout that a camera's software writes."""

import io
import itertools
import re
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from ast_jax.data import raster
from ast_jax.data.decode import decode_image, decode_mask, decode_z, read_image
from ast_jax.data.raster import read_raster
from ast_jax.errors import UserError

RNG = np.random.default_rng(0)
SIZE = (33, 21)  # not whole tiles, nor whole strips
TYPES = ("u1", "u2", "u4", "i2", "f4")
LAYOUTS = {
    "strips": {},
    "thin strips": {"rowsperstrip": 5},
    "tiles": {"tile": (16, 16)},
    "zip": {"compression": "zlib"},
    "zip with predictor": {"compression": "zlib", "predictor": True},
    "zipped tiles": {"compression": "zlib", "tile": (16, 16)},
}


def values(kind: str, channels: int) -> np.ndarray:
    top = 256 if kind == "u1" else 30_000
    shape = (*SIZE, channels) if channels > 1 else SIZE
    return RNG.integers(0, top, shape).astype(kind)


def tiff(array, *, byteorder="<", separate=False, photometric=None, **options) -> bytes:
    file = io.BytesIO()
    colours = array.ndim == 3
    if separate and colours:
        array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
        options["planarconfig"] = "separate"
    elif colours:
        options["planarconfig"] = "contig"
    photometric = photometric or ("rgb" if colours else "minisblack")
    tifffile.imwrite(
        file, array, photometric=photometric, byteorder=byteorder, **options
    )
    return file.getvalue()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", TYPES)
def test_every_layout_of_tiff_holds_the_array_written(kind, layout):
    options = LAYOUTS[layout]
    if kind == "f4":  # whose predictor takes imagecodecs
        options = {key: v for key, v in options.items() if key != "predictor"}
    for channels, order, separate, big in itertools.product(
        (1, 3, 4), "<>", (False, True), (False, True)
    ):
        array = values(kind, channels)
        if channels == 4:
            options = options | {"extrasamples": ["unassalpha"]}
        else:
            options.pop("extrasamples", None)
        content = tiff(
            array, byteorder=order, separate=separate, bigtiff=big, **options
        )
        read = read_raster(content, "a").values
        expected = array.reshape(*SIZE, channels)
        np.testing.assert_array_equal(
            read[..., :channels], expected, f"{channels} {order} {separate} {big}"
        )
        if kind == "f4":
            with pytest.raises(UserError, match=r"^a: .* whole numbers \(float32"):
                decode_image(content, "a")
            continue
        rgb = np.broadcast_to(expected[..., :3], (*SIZE, 3))
        eight = rgb if kind == "u1" else rgb >> 8
        np.testing.assert_array_equal(decode_image(content), eight)
        if channels == 4:
            alpha, end = expected[..., 3], np.iinfo(kind).max
            opaque = alpha > max(alpha.max() // 2, end // 16)
            np.testing.assert_array_equal(decode_mask(content), opaque)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["u2", "i4", "f4", "f8"])
def test_depth_is_the_same_in_every_layout(kind, layout):
    options = LAYOUTS[layout]
    if kind[0] == "f":
        options = {key: v for key, v in options.items() if key != "predictor"}
    array = RNG.integers(400, 800, (*SIZE, 3)).astype(kind)
    expected = array[..., 2] / 1000
    array = (array / 1000).astype(kind) if kind[0] == "f" else array
    for order, separate in itertools.product("<>", (False, True)):
        for stored in (array, array[..., 2]):
            content = tiff(stored, byteorder=order, separate=separate, **options)
            np.testing.assert_allclose(decode_z(content), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_white_may_be_zero(kind):
    array = values(kind, 1)
    content = tiff(array, photometric="miniswhite")
    expected = np.iinfo(kind).max - array
    np.testing.assert_array_equal(read_raster(content, "a").values[..., 0], expected)


def test_of_several_pages_the_first_is_taken():
    pages = np.stack([values("u2", 3), values("u2", 3)])
    read = read_raster(tiff_pages(pages), "a").values
    np.testing.assert_array_equal(read, pages[0])


def tiff_pages(pages) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in pages:
            writer.write(page, photometric="rgb")
    return file.getvalue()


def png(array, *, colour: int, interlaced: bool = False) -> bytes:
    """A PNG of 16 bits whose rows go through all five filters."""
    height, width, channels = array.shape
    step = 2 * channels
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)]
        passes += [(2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    else:
        passes = [(0, 0, 1, 1)]
    data = b""
    for top, left, down, right in passes:
        part = array[top::down, left::right].astype(">u2")
        before = np.zeros(part.shape[1] * step, int)
        for number, row in enumerate(part if part.size else ()):
            line = np.frombuffer(row.tobytes(), np.uint8).astype(int)
            a = np.concatenate([np.zeros(step, int), line[:-step]])
            c = np.concatenate([np.zeros(step, int), before[:-step]])
            near = np.abs([before - c, a - c, a + before - 2 * c])
            paeth = np.choose(near.argmin(axis=0), [a, before, c])
            guess = (0, a, before, (a + before) // 2, paeth)[number % 5]
            coded = ((line - guess) % 256).astype(np.uint8)
            data += bytes([number % 5]) + coded.tobytes()
            before = line

    def chunk(kind, body):
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("colour, channels", [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_16_bit_png_is_read_with_all_its_bits(colour, channels, interlaced):
    array = RNG.integers(0, 65536, (*SIZE, channels), dtype=np.uint16)
    content = png(array, colour=colour, interlaced=interlaced)
    expected = array[..., [0, 0, 0, 1]] if channels == 2 else array
    np.testing.assert_array_equal(read_raster(content, "a").values, expected)
    rgb = np.broadcast_to(expected[..., :3], (*SIZE, 3))
    np.testing.assert_array_equal(decode_image(content), rgb >> 8)
    with Image.open(io.BytesIO(content)) as image:  # what has always been read
        if channels > 1:
            np.testing.assert_array_equal(
                decode_image(content), np.asarray(image.convert("RGB"))
            )


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_upper_eight_of_the_filled_bits_are_kept(bits):
    array = RNG.integers(0, 1 << bits, (*SIZE, 3), dtype=np.uint16)
    for content in (png(array, colour=2), tiff(array)):
        image = decode_image(content, bit_depth=bits)
        np.testing.assert_array_equal(image, array >> (bits - 8))


def test_a_value_beyond_the_filled_bits_is_told():
    array = np.full((*SIZE, 1), 4096, np.uint16)
    with pytest.raises(UserError, match=r"^a: .*4096.* 12 bits.*bit_depth=14"):
        decode_image(png(array, colour=0), "a", 12)


@pytest.mark.parametrize("low, high", [(-1, 5), (0, 70_000)])
def test_numbers_beyond_16_bits_are_no_picture(low, high):
    array = np.full(SIZE, high, np.int32)
    array[3, 4] = low
    with pytest.raises(UserError, match=rf"^a: values from {low} to {high}"):
        read_image(tiff(array), "a")


def test_a_picture_of_196_megapixels_is_sound():
    file = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(file, "PNG", compress_level=1)
    assert read_raster(file.getvalue(), "a").values.shape == (14_000, 14_000, 1)


def test_more_pixels_than_any_camera_has_are_told(monkeypatch):
    monkeypatch.setattr(raster, "MOST_PIXELS", 10**6)
    file = io.BytesIO()
    Image.new("L", (2000, 1000)).save(file, "PNG")
    with pytest.raises(UserError, match=r"^a: 2000 by 1000 pixels; at most 1 mega"):
        read_raster(file.getvalue(), "a")


def test_lack_of_memory_is_not_called_damage(monkeypatch):
    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(raster, "_is_lossy", fail)
    with pytest.raises(UserError, match=r"^a: there is not enough memory"):
        read_raster(png(values("u2", 3), colour=2), "a")


def test_layouts_that_nothing_reads_are_told():
    array = RNG.integers(0, 9, (*SIZE, 4), dtype=np.uint16)
    content = tiff(array, photometric="separated")
    with pytest.raises(UserError, match=re.escape("a: ")):
        decode_image(content, "a")


def lzw(content: bytes) -> bytes:
    """TIFF's LZW, of single bytes: the table is cleared before codes grow."""
    codes = []
    for start in range(0, len(content), 200):
        codes += [256, *content[start : start + 200]]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def compressed(array, code: int, **options) -> bytes:
    """A TIFF file of one strip, compressed by LZW, that says compression `code`."""
    file = io.BytesIO(tiff(array, **options))
    with tifffile.TiffFile(file) as written:
        page = written.pages[0]
        start, length = page.dataoffsets[0], sum(page.databytecounts)
        content = lzw(file.getvalue()[start : start + length])
        page.tags["Compression"].overwrite(code)
        page.tags["StripOffsets"].overwrite(len(file.getvalue()))
        page.tags["StripByteCounts"].overwrite(len(content))
        return file.getvalue() + content


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u2", "i2", "i4", "f4"])
def test_what_only_pillow_decompresses_keeps_its_byte_order(kind, order):
    array = RNG.integers(400, 800, SIZE).astype(kind)
    array = (array / 1000).astype(kind) if kind == "f4" else array
    content = compressed(array, 5, byteorder=order)
    expected = array if kind == "f4" else array.astype(np.float32) * np.float32(1e-3)
    np.testing.assert_array_equal(decode_z(content), expected)
    if kind == "u2":
        np.testing.assert_array_equal(read_raster(content, "a").values[..., 0], array)


@pytest.mark.parametrize(
    "kind, channels, code",
    [
        ("f8", 1, 5),  # LZW, of whose other types Pillow reads some
        *(("u1", 3, code) for code in (34712, 50002)),
        *(("u2", 3, code) for code in (34712, 50002)),
        *(("f8", 1, code) for code in (34712, 50002)),
    ],
)
def test_a_codec_that_is_not_there_is_not_called_damage(kind, channels, code):
    content = compressed(values(kind, channels), code)
    for read in (decode_image, decode_z):
        with pytest.raises(UserError, match=r"^a: .*compression .*deflate") as error:
            read(content, "a")
        assert "damaged" not in str(error.value)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("order", ["<", ">"])
def test_packed_bits_are_read_or_told(bits, order):
    array = RNG.integers(0, 1 << bits, SIZE).astype("u2")
    every_bit = np.unpackbits(
        array.astype(">u2").view("u1").reshape(SIZE[0], -1), axis=1
    )
    used = every_bit.reshape(*SIZE, 16)[..., 16 - bits :].reshape(SIZE[0], -1)
    rows = np.packbits(used, axis=1)
    file = io.BytesIO(tiff(rows, byteorder=order))
    with tifffile.TiffFile(file) as written:
        tags = written.pages[0].tags
        tags["ImageWidth"].overwrite(SIZE[1])
        tags["BitsPerSample"].overwrite(bits)
    content = file.getvalue()
    if (bits, order) == (12, "<"):
        np.testing.assert_array_equal(read_raster(content, "a").values[..., 0], array)
        return
    with pytest.raises(UserError, match=rf"^a: .* {bits} bits.* 16 ") as error:
        read_raster(content, "a")
    assert "damaged" not in str(error.value)


@pytest.mark.parametrize("colour, clear", [(0, 30_000), (2, (30_000, 1, 2))])
def test_one_colour_of_a_16_bit_png_may_be_transparent(colour, clear):
    ground = RNG.random(SIZE) < 0.5
    array = np.where(ground[..., None], clear, 500).astype(np.uint16)
    content = png(array, colour=colour)
    body = struct.pack(f">{array.shape[2]}H", *np.atleast_1d(clear))
    chunk = b"tRNS" + body
    chunk = struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    content = content[:33] + chunk + content[33:]  # behind the header
    np.testing.assert_array_equal(decode_mask(content), ~ground)
    seen = np.broadcast_to(array, (*SIZE, 3))
    np.testing.assert_array_equal(decode_image(content), seen >> 8)
