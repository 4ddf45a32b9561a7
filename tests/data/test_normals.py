"""Depth as a picture of normals: colours say the slope, the background is flat."""

import numpy as np
import pytest

from ast_jax.data.depth_options import DepthOptions
from ast_jax.data.normals import exaggeration, median_slope, normals_picture, surface

OPTIONS = DepthOptions()
FLAT = (128, 128, 255)


def ramp(slope: float, side: int = 40) -> np.ndarray:
    """A square that rises to the right, on a plane half a metre away."""
    z = np.full((side, side), 0.5, np.float32)
    rise = slope * np.arange(side, dtype=np.float32)
    z[8:-8, 8:-8] = 0.45 + rise[8:-8]
    return z


def test_slopes_are_metres_a_pixel_on_the_part_alone():
    (rightwards, downwards), part = surface(ramp(3e-4), OPTIONS)
    np.testing.assert_array_equal(part[8:-8, 8:-8], True)
    assert part.sum() == 24 * 24
    np.testing.assert_allclose(rightwards[14:26, 14:26], 3e-4, rtol=1e-3)
    np.testing.assert_allclose(downwards[14:26, 14:26], 0, atol=1e-8)


def test_the_median_good_part_leans_by_25_degrees_to_an_eighth_of_a_doubling():
    slopes = [median_slope(ramp(slope), OPTIONS) for slope in (2e-4, 3e-4, 9e-4)]
    factor = exaggeration([*slopes, 0.0])
    assert np.log2(factor) * 4 == pytest.approx(round(np.log2(factor) * 4))
    wanted = np.tan(np.radians(25)) / np.median(slopes)
    assert abs(np.log2(factor / wanted)) <= 1 / 8
    assert exaggeration([1000 * slope for slope in slopes]) < factor
    assert exaggeration([]) == exaggeration([0.0]) == 1.0


def test_a_part_that_rises_to_the_right_is_drawn_leaning_left():
    picture = normals_picture(ramp(3e-4), 40, np.tan(np.radians(25)) / 3e-4, OPTIONS)
    red, green, blue = picture[20, 20]
    assert red == round((1 - np.sin(np.radians(25))) * 127.5)
    assert green in (127, 128)
    assert blue == round((1 + np.cos(np.radians(25))) * 127.5)
    np.testing.assert_array_equal(picture[0, 0], FLAT)


def test_gaps_are_drawn_like_what_surrounds_them():
    z = ramp(3e-4)
    whole = normals_picture(z, 40, 1000.0, OPTIONS).astype(int)
    z[18:22, 18:22], z[25, 25] = 0, np.nan
    holed = normals_picture(z, 40, 1000.0, OPTIONS).astype(int)
    assert np.abs(holed - whole).max() < 60
    assert np.abs(holed - whole)[:12].max() <= 1  # a blur reaches four pixels


def test_an_empty_cloud_is_flat_and_says_so(caplog):
    picture = normals_picture(
        np.zeros((30, 40), np.float32), 16, 9.0, OPTIONS, name="a"
    )
    np.testing.assert_array_equal(picture, np.full((16, 16, 3), FLAT))
    assert "a: the point cloud is empty" in caplog.text
    assert median_slope(np.zeros((30, 40), np.float32), OPTIONS) == 0.0


def test_pictures_have_the_wanted_size_whatever_the_cloud_s_shape():
    z = np.pad(ramp(3e-4), ((0, 10), (0, 0)), constant_values=0.5)
    assert normals_picture(z, 64, 100.0, OPTIONS).shape == (64, 64, 3)
