"""A part is the same in every form that a user may pass."""

import jax.numpy as jnp
import layouts
import numpy as np
import pytest
from PIL import Image

from ast_jax.errors import UserError
from ast_jax.inference import read_part

PIXELS = layouts.picture(0)
CLOUD = layouts.cloud(0)


def image_of(image):
    return read_part.decode("rgb", image, None).image


def z_of(xyz):
    return read_part.decode("3d", None, xyz).z


def test_images_come_as_files_pictures_and_arrays(tmp_path):
    path = layouts.save(tmp_path / "a.png", PIXELS)
    for image in (path, str(path), Image.open(path), PIXELS):
        np.testing.assert_array_equal(image_of(image), PIXELS)


def test_grey_becomes_rgb_and_alpha_is_dropped():
    grey = PIXELS[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=-1)
    alpha = np.concatenate([PIXELS, np.full_like(PIXELS[..., :1], 9)], axis=-1)
    for image in (grey, grey[..., None], Image.fromarray(grey)):
        np.testing.assert_array_equal(image_of(image), expected)
    for image in (alpha, Image.fromarray(alpha, "RGBA")):
        np.testing.assert_array_equal(image_of(image), PIXELS)


def test_of_16_bits_the_upper_8_are_kept_as_in_files(tmp_path):
    values = np.arange(layouts.SIZE[0] * layouts.SIZE[1], dtype=np.uint16) * 21
    values = values.reshape(layouts.SIZE)
    path = layouts.save(tmp_path / "a.png", values)
    expected = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    for image in (path, values, Image.fromarray(values)):
        np.testing.assert_array_equal(image_of(image), expected)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.full((4, 4), np.nan),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(5, np.uint8),
    ],
)
def test_an_array_that_is_no_image_is_told_by_type_and_shape(image):
    with pytest.raises(UserError, match=rf"got {image.dtype} of shape \({len(image)},"):
        image_of(image)


def test_a_picture_of_floats_is_refused():
    with pytest.raises(UserError, match="not whole numbers"):
        image_of(Image.fromarray(np.zeros((4, 4), np.float32)))


def test_clouds_come_as_files_and_arrays(tmp_path):
    z = CLOUD[..., 2]
    np.save(tmp_path / "z.npy", z)
    path = layouts.save(tmp_path / "a.tiff", CLOUD)
    for xyz in (path, str(path), tmp_path / "z.npy", CLOUD, z, z[..., None]):
        np.testing.assert_array_equal(z_of(xyz), z)


def test_lists_and_other_libraries_arrays_are_arrays():
    torch = pytest.importorskip("torch")
    z = CLOUD[..., 2]
    for make in (np.ndarray.tolist, jnp.asarray, torch.tensor):
        np.testing.assert_array_equal(z_of(make(z)), z)
        np.testing.assert_array_equal(image_of(make(PIXELS)), PIXELS)


def test_what_is_masked_is_missing():
    z = CLOUD[..., 2]
    below = np.where(z > 0, z, np.float32(9))
    np.testing.assert_array_equal(z_of(np.ma.masked_array(below, z == 0)), z)


@pytest.mark.parametrize("image", ["a\0b.png", "x" * 5000, Image.new("RGB", (0, 3))])
def test_what_can_be_no_picture_is_told(image):
    with pytest.raises(UserError, match=r"a\0b|xxx|image: 0 by 3"):
        image_of(image)


@pytest.mark.parametrize("value", [b"bytes", [[1, 2], [3]], [["a"]], [], [[300]]])
def test_what_is_neither_a_file_nor_an_array_is_told_by_name(value):
    with pytest.raises(UserError, match=r"^image: "):
        image_of(value)
    if value != [[300]]:
        with pytest.raises(UserError, match=r"^xyz: "):
            z_of(value)


def test_a_tensor_that_has_a_gradient_is_told_by_name():
    torch = pytest.importorskip("torch")
    with pytest.raises(UserError, match=r"^xyz: Tensor .*grad"):
        z_of(torch.ones(4, 4, requires_grad=True))


def test_integers_are_millimetres_and_nan_is_missing(tmp_path):
    millimetres = np.round(CLOUD[..., 2] * 1000).astype(np.uint16)
    path = layouts.save(tmp_path / "a.png", millimetres)
    for xyz in (path, millimetres):
        np.testing.assert_allclose(z_of(xyz), millimetres * 1e-3, rtol=1e-6)
    holes = np.where(CLOUD == 0, np.float32(np.nan), CLOUD)
    np.testing.assert_array_equal(z_of(holes), CLOUD[..., 2])


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_cloud_without_any_depth_is_refused(tmp_path, value):
    empty = np.full((4, 4, 3), value, np.float32)
    path = layouts.save(tmp_path / "a.tiff", empty)
    for xyz, name in ((empty, "xyz"), (path, str(path))):
        with pytest.raises(UserError, match=f"{name}: no depth is present"):
            z_of(xyz)


@pytest.mark.parametrize(
    "xyz", [np.zeros((4, 4), np.uint8), np.ones((2, 2), object), np.ones(3)]
)
def test_an_array_that_is_no_depth_is_refused(xyz):
    with pytest.raises(UserError, match="xyz: "):
        z_of(xyz)


def test_rgb_does_not_look_at_the_cloud(tmp_path):
    assert read_part.decode("rgb", PIXELS, tmp_path / "missing.tiff").z is None


def test_depth_alone_may_have_an_image_to_be_shown():
    part = read_part.decode("3d", PIXELS, CLOUD, "a part")
    np.testing.assert_array_equal(part.image, PIXELS)
    assert part.id == "a part"
