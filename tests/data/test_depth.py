"""The 3D preprocessing against the authors' arrays, and on unusual clouds.

`tests/reference/preprocess_3d.npz` holds two synthetic clouds run through the authors'
public code, which leaves the first row and column unfilled.
"""

from pathlib import Path

import numpy as np
import pytest

from ast_jax.data import depth

REFERENCE = Path(__file__).parents[1] / "reference" / "preprocess_3d.npz"
SIDE = 24


@pytest.fixture(params=["0", "1"])
def reference(request):
    with np.load(REFERENCE) as arrays:
        keys = [key for key in arrays if key.startswith(f"{request.param}/")]
        return {key.split("/")[1]: np.squeeze(arrays[key]) for key in keys}


def cloud(height=64, width=64):
    """A tilted plane at half a metre with a box of 3 cm standing on it."""
    z = 0.5 + 0.01 * np.linspace(0, 1, height)[:, None] + np.zeros((height, width))
    z[height // 4 : height // 2, width // 4 : width // 2] -= 0.03
    return z.astype(np.float32)


def folded(image):
    """Pixel-unshuffle, written with a loop."""
    side = image.shape[0] // 8
    cells = np.empty((side, side, 64), image.dtype)
    for row in range(8):
        for column in range(8):
            cells[..., row * 8 + column] = image[row::8, column::8]
    return cells


def assert_close(actual, desired, tolerance):
    scale = np.abs(desired).max()
    np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * scale)


def test_filling_equals_the_authors_but_for_the_first_row_and_column(reference):
    filled = depth.fill_missing(reference["z_raw"])
    assert_close(filled[1:, 1:], reference["z_filled"][1:, 1:], 1e-5)


def test_foreground_equals_the_authors(reference):
    plane = depth.background_plane(reference["z_filled"])
    foreground = depth.foreground_mask(reference["z_filled"], plane)
    np.testing.assert_array_equal(foreground, reference["foreground"] > 0)
    at_192 = depth.resize_bilinear(foreground.astype(np.float32), 192) > 0
    np.testing.assert_array_equal(at_192, reference["foreground_192"] > 0)


def test_foreground_weight_equals_the_authors(reference):
    weight = depth.foreground_weight(reference["foreground"] > 0, SIDE)
    assert_close(weight, reference["foreground_24"], 1e-5)


def test_depth_equals_the_authors(reference):
    relative = depth.relative_depth(reference["z_filled"], reference["foreground"] > 0)
    assert_close(depth.resize_bilinear(relative, 192), reference["depth_192"], 1e-4)


def test_the_whole_chain_equals_the_authors(reference):
    channels, weight = depth.preprocess_depth(reference["z_raw"], SIDE)
    assert_close(channels, folded(reference["depth_192"]), 1e-4)
    assert_close(weight, reference["foreground_24"], 1e-5)
    assert channels.dtype == weight.dtype == np.float32


@pytest.mark.parametrize("gap", [np.s_[0], np.s_[:, 0], np.s_[-1], np.s_[:, -1]])
def test_a_missing_border_line_is_filled(gap):
    z = np.full((12, 10), 0.5, np.float32)
    z[gap] = 0
    np.testing.assert_allclose(depth.fill_missing(z), 0.5)


def test_each_round_fills_one_pixel_further():
    z = np.zeros((15, 15), np.float32)
    z[7, 7] = 0.5
    for rounds in range(4):
        filled = np.argwhere(depth.fill_missing(z, rounds))
        assert len(filled) == (2 * rounds + 1) ** 2
        assert np.abs(filled - 7).max() == rounds


def test_filling_averages_the_present_neighbours_only():
    z = np.zeros((3, 3), np.float32)
    z[0, 0], z[2, 1] = 0.2, 0.4
    assert depth.fill_missing(z, 1)[1, 1] == pytest.approx(0.3)


def test_filling_leaves_its_input_alone():
    z = cloud()
    z[10:20, 10:20] = 0
    before = z.copy()
    depth.fill_missing(z)
    np.testing.assert_array_equal(z, before)


def test_a_bilinear_surface_is_its_own_background_plane():
    down, right = np.linspace(0, 1, 200)[:, None], np.linspace(0, 1, 300)
    z = (0.5 + 0.02 * down - 0.01 * right + 0.01 * down * right).astype(np.float32)
    # The corners are means of 2×2 blocks, half a pixel inside.
    np.testing.assert_allclose(depth.background_plane(z), z, atol=2e-4)


def test_dilation_reaches_four_pixels_back_and_three_ahead():
    foreground = np.zeros((64, 64), bool)
    foreground[28, 36] = True  # reaches rows 24…31 and columns 32…39: cell (3, 4)
    weight = depth.foreground_weight(foreground, 8)
    expected = np.zeros((8, 8), np.float32)
    expected[3, 4] = 1
    np.testing.assert_array_equal(weight, expected)


def test_resizing_to_the_same_size_changes_nothing():
    z = cloud(32, 32)
    np.testing.assert_array_equal(depth.resize_bilinear(z, 32), z)


def test_resizing_keeps_a_ramp_inside_the_border():
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32), (20, 40))
    expected = (np.arange(80) + 0.5) / 2 - 0.5
    resized = depth.resize_bilinear(ramp, 80)
    np.testing.assert_allclose(resized[:, 1:-1], np.tile(expected, (80, 1))[:, 1:-1])


def test_rows_and_columns_of_a_cloud_that_is_not_square_are_not_mixed_up():
    z = cloud(48, 80)
    channels, weight = depth.preprocess_depth(z, 6)
    turned, turned_weight = depth.preprocess_depth(np.ascontiguousarray(z.T), 6)
    np.testing.assert_allclose(turned_weight, weight.T)
    swapped = turned.reshape(6, 6, 8, 8).transpose(1, 0, 3, 2).reshape(6, 6, 64)
    np.testing.assert_allclose(swapped, channels, atol=1e-4)


@pytest.mark.parametrize("missing", [0.0, np.nan, np.inf])
def test_a_corner_without_any_pixel_takes_the_nearest_present_ones(missing, caplog):
    z = cloud()
    z[:10, -10:] = missing
    channels, weight = depth.preprocess_depth(z, 8, name="test/bent/003")
    assert "test/bent/003" in caplog.text
    complete, complete_weight = depth.preprocess_depth(cloud(), 8)
    np.testing.assert_array_equal(weight, complete_weight)
    np.testing.assert_allclose(channels, complete, atol=1e-3)


def test_a_complete_cloud_is_worth_no_warning(caplog):
    depth.preprocess_depth(cloud(), 8)
    assert not caplog.records


def test_an_empty_foreground_means_the_whole_image(caplog):
    z = np.full((64, 64), 0.5, np.float32)
    z[30:50, 30:50] += 0.004  # less than 7 mm
    z[5:15, 40:50] = 0
    channels, weight = depth.preprocess_depth(z, 8, name="train/good/007")
    assert "train/good/007" in caplog.text
    np.testing.assert_array_equal(weight, 1)
    assert np.isfinite(channels).all()
    filled = depth.fill_missing(z)
    present_mean = filled[filled != 0].mean()
    centre = folded(np.where(filled, 100 * (filled - present_mean), 0))
    np.testing.assert_allclose(channels, centre, atol=1e-4)


def test_an_empty_cloud_gives_zero_depth_and_full_weight(caplog):
    z = np.zeros((30, 40), np.float32)
    channels, weight = depth.preprocess_depth(z, 4, name="test/cut/001")
    assert "test/cut/001" in caplog.text
    np.testing.assert_array_equal(channels, np.zeros((4, 4, 64)))
    np.testing.assert_array_equal(weight, np.ones((4, 4)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (3, 50)])
def test_a_tiny_cloud_stays_finite(shape):
    z = np.random.default_rng(0).uniform(0.4, 0.6, shape).astype(np.float32)
    channels, weight = depth.preprocess_depth(z, 4)
    assert np.isfinite(channels).all()
    assert weight.min() >= 0
    assert weight.max() <= 1


def test_what_needs_a_present_pixel_says_so():
    nothing = np.zeros((5, 5), np.float32)
    with pytest.raises(ValueError, match="present pixel"):
        depth.background_plane(nothing)
    with pytest.raises(ValueError, match="foreground pixel"):
        depth.relative_depth(nothing, nothing > 0)
