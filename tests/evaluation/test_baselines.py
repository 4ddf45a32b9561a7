"""The baselines' distances, by hand."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from small_inputs import make_inputs

from ast_jax import scoring
from ast_jax.evaluation import baselines
from ast_jax.evaluation.baselines import fit_gaussian, fit_nearest
from ast_jax.features.blocks import Block
from ast_jax.features.whitening import shrink
from ast_jax.inference.pair import score

READING = scoring.Reading(smoothing=1.0, top=True)


@pytest.fixture
def inputs():
    """Colour's channels and depth's, the soft foreground of some parts empty."""
    made = make_inputs("rgb3d")
    made.features.foreground[:, 0] = 0
    return dataclasses.replace(made, blocks=(Block("rgb", 6), Block("depth", 64)))


def batch(inputs):
    return inputs.take(np.arange(len(inputs)))


def scores(baseline, inputs):
    return score(baseline, inputs, batch_size=8)[baseline.name]


def test_the_gaussian_is_each_blocks_mahalanobis_distance(inputs):
    baseline = fit_gaussian(inputs, READING, 8)
    found, all_parts = scores(baseline, inputs), batch(inputs)
    m = all_parts["foreground"]
    for number, channels in enumerate([slice(0, 6), slice(6, 70)]):
        x = all_parts["x"][..., channels]
        good = x[m > 0]
        std = good.std(0)
        y = (good - good.mean(0)) / std
        fourth = float(np.square(np.square(y).sum(1)).mean())
        covariance = shrink(y.T @ y / len(y), fourth, len(y))
        off = (x - good.mean(0)) / std
        squares = np.einsum("...c,cd,...d", off, np.linalg.inv(covariance), off)
        expected = m**2 * squares / x.shape[-1]
        np.testing.assert_allclose(found["groups"][..., number], expected, rtol=2e-3)
    low, high = np.quantile(found["groups"][m > 0], scoring.UNIT_QUANTILES, axis=0)
    fused = ((found["groups"] - low) / (high - low)).mean(-1)
    np.testing.assert_allclose(found["map"], fused, atol=1e-4)
    assert found["top"].shape == found["max"].shape == (24,)


def test_the_nearest_patch_is_the_nearest_of_all_that_were_kept(inputs, monkeypatch):
    monkeypatch.setattr(baselines, "_CHUNK", 50)  # several chunks, the last filled up
    baseline = fit_nearest(inputs.select(range(9)), READING)
    good = batch(inputs.select(range(9)))
    rows = good["x"][good["foreground"] > 0]
    weight = np.repeat(1 / np.sqrt([2 * 6, 2 * 64]), [6, 64]) / rows.std(0)
    all_parts = batch(inputs)
    distance = cdist(
        (all_parts["x"] * weight).reshape(-1, 70), rows * weight, "sqeuclidean"
    ).min(1)
    expected = np.square(all_parts["foreground"]) * distance.reshape(24, 4, 4)
    found = scores(baseline, inputs)["map"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(found[:9], 0, atol=1e-4)  # its own


def test_as_many_patches_of_each_image_are_kept(inputs, monkeypatch):
    monkeypatch.setattr(baselines, "PATCHES", 24 * 5 + 3)
    bank = fit_nearest(inputs, READING).variables
    assert bank.patches.shape == (1, 24 * 5, 70)
    again = fit_nearest(inputs, READING).variables
    np.testing.assert_array_equal(bank.patches, again.patches)
    # More images than patches: one each, of some.
    monkeypatch.setattr(baselines, "PATCHES", 7)
    assert fit_nearest(inputs, READING).variables.patches.shape == (1, 7, 70)
