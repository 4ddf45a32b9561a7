"""Network inputs join, mask and standardise what the cache holds."""

import numpy as np
import pytest
from small_inputs import SIDE, make_inputs

from ast_jax.features.inputs import Inputs


@pytest.mark.parametrize(("mode", "channels"), [("rgb", 6), ("3d", 64), ("rgb3d", 70)])
def test_x_is_features_then_depth(mode, channels):
    inputs = make_inputs(mode)
    batch = inputs.take(np.array([3, 1]))
    assert inputs.channels == channels
    assert batch["x"].shape == (2, SIDE, SIDE, channels)
    if mode == "rgb3d":
        np.testing.assert_array_equal(batch["x"][0, ..., :6], inputs.features.rgb[3])
        np.testing.assert_array_equal(batch["x"][1, ..., 6:], inputs.features.depth[1])


def test_rgb_runs_unmasked():
    inputs = make_inputs("rgb")
    assert not inputs.has_foreground
    np.testing.assert_array_equal(inputs.take(np.arange(2))["foreground"], 1)


def test_a_binary_mask_is_one_wherever_there_is_any_foreground():
    soft = make_inputs("3d")
    soft.features.foreground[:, 0] = 0
    binary = Inputs.of(soft.features, binary_mask=True).take(np.arange(3))["foreground"]
    np.testing.assert_array_equal(binary[:, 0], 0)
    np.testing.assert_array_equal(binary[:, 1:], 1)


def test_selected_rows_are_those_of_the_cache():
    inputs = make_inputs("rgb").select([5, 2, 9]).select([2, 0])
    np.testing.assert_array_equal(inputs.rows, [9, 5])
    x = inputs.take(np.arange(2))["x"]
    np.testing.assert_array_equal(x, inputs.features.rgb[[9, 5]])


def test_the_normaliser_standardises_the_features_it_was_fitted_on():
    inputs = make_inputs("rgb3d", n=70).select(range(66))  # more than one block
    inputs.features.rgb[..., 0] = 4.0  # a channel that never changes
    normaliser = inputs.fit_normaliser()
    x = inputs.with_normaliser(normaliser).take(np.arange(66))["x"]
    np.testing.assert_allclose(x[..., :6].mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(x[..., 1:6].std((0, 1, 2)), 1, rtol=1e-4)
    np.testing.assert_array_equal(x[..., 0], 0)
    np.testing.assert_array_equal(x[..., 6:], inputs.features.depth[:66])


def test_depth_alone_needs_no_normaliser():
    assert make_inputs("3d").fit_normaliser() is None
