import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from ast_jax.data.decode import (
    decode_image,
    decode_labels,
    decode_mask,
    decode_z,
    resize_image,
)
from ast_jax.errors import UserError

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]


def encode(image, format="PNG", **options) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def smooth(size=(32, 48)) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([4 * x, 5 * y, 2 * (x + y)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_pixels_written(format):
    np.testing.assert_array_equal(decode_image(encode(COLOUR, format)), COLOUR)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_give_nearly_the_pixels_written(format):
    image = decode_image(encode(smooth(), format, quality=95))
    assert np.abs(image.astype(int) - smooth()).mean() < 3


def test_grey_becomes_three_equal_channels():
    expected = np.repeat(GREY[..., None], 3, axis=-1)
    np.testing.assert_array_equal(decode_image(encode(GREY)), expected)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_upper_eight(format):
    deep = (GREY.astype(np.uint16) << 8) + 0x7F
    image = decode_image(encode(deep, format))
    np.testing.assert_array_equal(image[..., 1], GREY)


def test_big_endian_sixteen_bit_tiff_is_the_same_image():
    file = io.BytesIO()
    tifffile.imwrite(file, GREY.astype(np.uint16) << 8, byteorder=">")
    np.testing.assert_array_equal(decode_image(file.getvalue())[..., 0], GREY)


def test_one_bit_becomes_black_and_white():
    image = decode_image(encode(Image.fromarray(GREY > 99)))
    np.testing.assert_array_equal(image[..., 2], np.where(GREY > 99, 255, 0))


def test_alpha_is_dropped_and_the_colour_kept():
    alpha = np.full((7, 5, 1), 3, np.uint8)
    rgba = np.concatenate([COLOUR, alpha], axis=-1)
    np.testing.assert_array_equal(decode_image(encode(rgba)), COLOUR)
    grey_alpha = Image.fromarray(GREY).convert("LA")
    np.testing.assert_array_equal(decode_image(encode(grey_alpha))[..., 0], GREY)


def test_palette_gives_its_colours_even_with_transparency():
    image = Image.fromarray(GREY % 3).convert("P")
    image.frombytes((GREY % 3).tobytes())
    palette = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    image.putpalette(palette)
    expected = np.array(palette, np.uint8).reshape(3, 3)[GREY % 3]
    np.testing.assert_array_equal(decode_image(encode(image)), expected)
    transparent = encode(image, transparency=bytes([0, 128, 255]))
    np.testing.assert_array_equal(decode_image(transparent), expected)


def test_cmyk_becomes_rgb():
    cmyk = Image.fromarray(smooth()).convert("CMYK")
    image = decode_image(encode(cmyk, "JPEG", quality=98))
    assert np.abs(image.astype(int) - smooth()).mean() < 3


def test_exif_orientation_turns_the_image_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90° clockwise
    content = encode(smooth(), "JPEG", quality=95, exif=exif)
    upright = np.rot90(smooth(), k=-1)
    assert decode_image(content).shape == upright.shape
    assert np.abs(decode_image(content).astype(int) - upright).mean() < 3


def test_first_frame_of_many_is_taken():
    second = Image.fromarray(255 - COLOUR)
    content = encode(COLOUR, "TIFF", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode_image(content), COLOUR)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.3, 0.6, 0.9])
def test_truncated_image_is_named(format, kept, tmp_path):
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encode(noise, format)
    path = tmp_path / "cut.img"
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=r"cut\.img: (not a|damaged or truncated)"):
        decode_image(path)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.png: cannot be read \(No such file"):
        decode_image(tmp_path / "absent.png")
    with pytest.raises(UserError, match=r"^part 7: not a PNG"):
        decode_image(b"GIF89a and more", "part 7")
    float_image = encode(GREY.astype(np.float32), "TIFF")
    with pytest.raises(UserError, match="not whole numbers"):
        decode_image(float_image)


@pytest.mark.parametrize("value", [1, 252, 255])
def test_mask_is_any_value_above_zero(value):
    defect = GREY > 99
    mask = decode_mask(encode(defect.astype(np.uint8) * np.uint8(value)))
    np.testing.assert_array_equal(mask, defect)


def test_mask_ignores_alpha_and_palette_colours():
    defect = GREY > 99
    grey = Image.fromarray(np.uint8(255) * defect)
    for mode in ("1", "LA", "RGB", "RGBA"):
        np.testing.assert_array_equal(decode_mask(encode(grey.convert(mode))), defect)
    palette = Image.fromarray(defect.astype(np.uint8))
    palette.putpalette([255, 255, 255, 0, 0, 0])
    numbers = decode_mask(encode(palette), numbers=True)
    np.testing.assert_array_equal(numbers, defect)
    np.testing.assert_array_equal(decode_mask(encode(palette)), ~defect)  # white


def test_what_is_transparent_in_a_mask_is_no_defect():
    defect = GREY > 99
    alpha = np.uint8(255) * defect
    white = np.full((*GREY.shape, 3), 255, np.uint8)
    rgba = np.dstack([white, alpha])
    contents = [encode(rgba), encode(rgba, "TIFF"), encode(rgba, "WEBP", lossless=True)]
    grey_alpha = Image.merge("LA", [Image.fromarray(a) for a in (white[..., 0], alpha)])
    contents.append(encode(grey_alpha))
    palette = Image.fromarray(defect.astype(np.uint8))
    palette.putpalette([255, 255, 255, 255, 0, 0])
    contents.append(encode(palette, transparency=0))
    ground = Image.fromarray(np.where(defect, 200, 255).astype(np.uint8))
    contents.append(encode(ground, transparency=255))
    for content in contents:
        np.testing.assert_array_equal(decode_mask(content), defect)


def test_alpha_alone_may_draw_a_mask():
    defect = GREY > 99
    black = np.zeros((*GREY.shape, 3), np.uint8)
    for drawn in (255, 100):  # a brush that is half transparent
        alpha = np.uint8(drawn) * defect
        for colour in (black, black + np.uint8(255)):
            mask = decode_mask(encode(np.dstack([colour, alpha])))
            np.testing.assert_array_equal(mask, defect)
    for alpha in (np.uint8(255), np.uint8(0)):  # all opaque, all transparent
        rgba = np.dstack([black, np.full(GREY.shape, alpha)])
        assert not decode_mask(encode(rgba)).any()


@pytest.mark.parametrize("white", [255, 120])
@pytest.mark.parametrize("options", [{"format": "JPEG"}, {"format": "WEBP"}])
def test_a_lossy_mask_is_what_is_nearer_to_white(options, white):
    defect = np.zeros((64, 64), bool)
    defect[20:44, 10:30] = True
    content = encode(np.uint8(white) * defect, quality=75, **options)
    assert (decode_image(content)[..., 0] > 0).sum() != defect.sum()  # it is lossy
    assert (decode_mask(content) != defect).sum() <= 4
    black = encode(np.zeros((64, 64), np.uint8), quality=75, **options)
    assert not decode_mask(black).any()


def test_a_lossless_mask_may_hold_small_numbers():
    defect = GREY > 99
    for options in ({"format": "PNG"}, {"format": "WEBP", "lossless": True}):
        content = encode(np.uint8(1) * defect, **options)
        np.testing.assert_array_equal(decode_mask(content), defect)
    deep = encode(defect.astype(np.uint16))
    np.testing.assert_array_equal(decode_mask(deep), defect)


CASES = Path(os.environ.get("AST_JAX_SHARED", ROOT.parent / "shared"), "cases")


@pytest.mark.skipif(not CASES.is_dir(), reason="no folder of cases; AST_JAX_SHARED")
@pytest.mark.parametrize(
    "name, off",
    [
        ("mask_palette_white_first.png", 0),
        ("mask_transparent_background.png", 0),
        ("mask_quality75.jpg", 40),
    ],
)
def test_a_mask_marks_the_same_in_every_form(name, off):
    reference = decode_mask(CASES / "mask_reference.png")
    assert reference.mean() < 0.02
    assert (decode_mask(CASES / name) != reference).sum() <= off


def test_labels_keep_class_numbers_of_sixteen_bits():
    labels = GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_labels(encode(labels)), labels)


def depth_file(values, **options) -> bytes:
    file = io.BytesIO()
    colours = values.ndim == 3 and "planarconfig" not in options
    photometric = "rgb" if colours else "minisblack"
    tifffile.imwrite(file, values, photometric=photometric, **options)
    return file.getvalue()


def npy(values) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


POINTS = RNG.normal(size=(6, 8, 3)).astype(np.float32)


def test_z_is_the_last_channel_of_a_point_cloud():
    contents = (
        depth_file(POINTS),
        depth_file(POINTS, compression="zlib"),
        depth_file(np.moveaxis(POINTS, -1, 0), planarconfig="separate"),
        depth_file(POINTS[..., 2]),
        npy(POINTS),
        npy(POINTS[..., 2].astype(np.float64)),
    )
    for content in contents:
        np.testing.assert_array_equal(decode_z(content), POINTS[..., 2])


@pytest.mark.parametrize("encoded", [encode, depth_file, npy])
def test_integer_depth_is_in_millimetres(encoded):
    millimetres = RNG.integers(0, 2000, (6, 8), dtype=np.uint16)
    z = decode_z(encoded(millimetres))
    np.testing.assert_allclose(z, millimetres / 1000, rtol=1e-6)
    assert z.dtype == np.float32


def test_nan_is_missing_and_infinity_an_error():
    points = POINTS.copy()
    points[2, 3, 2] = np.nan
    assert decode_z(npy(points))[2, 3] == 0
    points[2, 3, 2] = -np.inf
    with pytest.raises(UserError, match="cloud 3: 1 of 48 depth values are infinite"):
        decode_z(npy(points), "cloud 3")
    with pytest.raises(UserError, match="infinite"):
        decode_z(npy(np.full((4, 4), 1e300)))  # beyond float32


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not depth",
        depth_file(POINTS)[:300],
        depth_file(POINTS)[:20],
        depth_file(RNG.normal(size=(64, 64, 3)), compression="zlib")[:4000],
        npy(POINTS)[:-8],
        npy(np.array([{"a": 1}])),  # would need unpickling
        npy(POINTS.astype(complex)),
        npy(POINTS[..., :2]),
        npy(POINTS[0, 0]),
        npy(np.zeros((0, 4), np.float32)),
        encode(COLOUR),
        encode(np.full((6, 8), 1000, np.uint16))[:-30],
        struct.pack("<2sHI", b"II", 42, 8),
    ],
    ids=range(14),
)
def test_what_is_no_depth_is_named(content):
    with pytest.raises(UserError, match=r"^scan\.tiff: "):
        decode_z(content, "scan.tiff")


def test_resize_averages_what_it_shrinks():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    resized = resize_image(stripes, 16)
    assert resized.shape == (16, 16, 3)
    assert np.abs(resized[:, 1:-1].astype(int) - 100).max() <= 2


def test_resize_equals_the_antialiased_triangle_filter():
    """Pillow's rule in NumPy: the filter's support grows with the reduction."""
    image = RNG.integers(0, 256, (30, 50, 3), dtype=np.uint8)
    size = 20

    def matrix(length):
        scale = length / size
        centres = (np.arange(size) + 0.5) * scale
        support = max(scale, 1)
        distance = np.abs(np.arange(length) + 0.5 - centres[:, None]) / support
        weight = np.clip(1 - distance, 0, None)
        return weight / weight.sum(axis=1, keepdims=True)

    expected = np.einsum("yi,xj,ijc->yxc", matrix(30), matrix(50), image.astype(float))
    assert np.abs(resize_image(image, size) - expected).max() <= 1.01
