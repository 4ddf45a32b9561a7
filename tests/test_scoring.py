"""Scores by hand: masks, averages and torch's bicubic."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ast_jax import scoring

Z = jnp.array([[[[1.0, 2.0], [0.0, 4.0]]]])  # b h w c = 1 1 2 2
STUDENT = jnp.array([[[[0.0, 2.0], [2.0, 0.0]]]])
LOG_DET = jnp.array([[[0.5, -1.0]]])
M = jnp.array([[[1.0, 0.5]]])


def test_likelihood_is_masked_once():
    nll = scoring.negative_log_likelihood(Z, LOG_DET, M)
    np.testing.assert_allclose(nll, [[[2.5 - 0.5, 0.5 * (8.0 + 1.0)]]])


def test_distance_is_the_masked_mean_over_channels():
    np.testing.assert_allclose(scoring.distance(Z, STUDENT, M), [[[0.5, 5.0]]])


def test_hard_distance_is_each_channels_worst_positions_of_an_image():
    rng = np.random.default_rng(0)
    z, guess = jnp.array(rng.normal(size=(2, 3, 5, 6, 4)), jnp.float32)
    m = jnp.array(rng.uniform(size=(3, 5, 6)), jnp.float32)
    squares = np.asarray(m[..., None] * (z - guess) ** 2).reshape(3, 30, 4)
    worst = np.sort(squares, axis=1)[:, -6:]  # a fifth of 30
    hard = scoring.hard_distance(z, guess, m, 0.2)
    np.testing.assert_allclose(hard.sum((1, 2)), worst.sum((1, 2)) / 4 / 0.2, rtol=1e-5)
    assert np.count_nonzero(hard) < hard.size
    every = scoring.hard_distance(z, guess, m, 1.0)
    np.testing.assert_allclose(every, scoring.distance(z, guess, m), rtol=1e-6)


def test_the_map_holds_the_mask_twice_and_the_mean_score_once():
    scores = scoring.student_scores(Z, STUDENT, M)
    np.testing.assert_allclose(scores["map"], [[[0.5, 2.5]]])
    np.testing.assert_allclose(scores["mean"], [2.75])


@pytest.mark.parametrize(
    ("average", "expected"), [("all", 2.75), ("foreground", 5.5 / 1.5)]
)
def test_loss_average_divides_by_positions_or_by_foreground(average, expected):
    terms = scoring.loss_terms(scoring.distance(Z, STUDENT, M), M, average)
    np.testing.assert_allclose(terms[0] / terms[1], expected, rtol=1e-6)


def test_upsampling_keeps_constants_and_overshoots_at_edges():
    flat = scoring.upsample(jnp.ones((1, 5, 7)))
    assert flat.shape == (1, 40, 56)
    np.testing.assert_allclose(flat, 1, atol=1e-6)
    step = scoring.upsample(jnp.zeros((1, 6, 6)).at[:, 3:].set(1.0))
    assert step.max() > 1.01
    assert step.min() < -0.01


def test_bicubic_weights_are_keys_with_a_of_minus_three_quarters():
    """Half way between two pixels the outer taps weigh a/8 each."""
    row = scoring.bicubic_matrix(8, 24)[10]  # centre 3.0: a pixel itself
    np.testing.assert_allclose(row, np.eye(8)[3], atol=1e-6)
    middle = scoring.bicubic_matrix(8, 16)
    at = 0.25  # of the pixel behind the centre, at twice the resolution
    expected = -0.75 * ((1 + at) ** 3 - 5 * (1 + at) ** 2 + 8 * (1 + at) - 4)
    np.testing.assert_allclose(middle[7, 2], expected, rtol=1e-5)


def test_smoothing_is_scipys_gaussian_of_the_upsampled_map():
    score_map = np.random.default_rng(0).normal(size=(1, 6, 9)).astype(np.float32)
    fine = np.asarray(scoring.upsample(jnp.asarray(score_map)), np.float64)
    expected = ndimage.gaussian_filter(fine, (0, 3, 3), mode="nearest")
    smooth = scoring.upsample(jnp.asarray(score_map), 3.0)
    np.testing.assert_allclose(smooth, expected, atol=1e-5)


def test_top_is_the_mean_of_the_highest_half_per_cent():
    score_map = np.random.default_rng(0).normal(size=(2, 40, 20)).astype(np.float32)
    expected = np.sort(score_map.reshape(2, -1))[:, -4:].mean(1)
    np.testing.assert_allclose(scoring.top(jnp.asarray(score_map)), expected, rtol=1e-6)
    assert scoring.top(jnp.asarray(score_map[:, :3, :3])) == pytest.approx(
        score_map[:, :3, :3].max((1, 2))
    )


def test_groups_are_added_up_in_units_of_their_own_good_parts():
    """Two groups of one channel each: distances 1, 4 and 0, 16 before the mask."""
    good = np.stack([np.linspace(0, 1, 1001), np.linspace(0, 100, 1001)], -1)
    good = good.reshape(1, 7, 143, 2)
    units = scoring.Units.of(good, np.ones((1, 7, 143)))
    np.testing.assert_allclose(units.low, [[0.9, 90]] * 2, rtol=1e-5)
    np.testing.assert_allclose(units.high, [[0.995, 99.5]] * 2, rtol=1e-5)
    scores = scoring.group_scores(Z, STUDENT, M, (1, 1), units)
    groups = np.array([[[1.0, 0.0], [0.25 * 4.0, 0.25 * 16.0]]])
    np.testing.assert_allclose(scores["groups"][0], groups)
    in_units = (groups - [0.9, 90]) / [0.095, 9.5]
    np.testing.assert_allclose(scores["map"][0], in_units.mean(-1), rtol=1e-4)
    once = (np.array([[1.0, 0.0], [2.0, 8.0]]) - [0.9, 90]) / [0.095, 9.5]
    np.testing.assert_allclose(scores["mean"], [once.mean()], rtol=1e-4)


def test_the_outermost_positions_have_units_of_their_own():
    rng = np.random.default_rng(0)
    outermost = scoring.border(6, 8) > 0
    assert outermost.sum() == 24
    assert not outermost[1:-1, 1:-1].any()
    good = rng.uniform(size=(50, 6, 8, 1)) * np.where(outermost, 3.0, 1.0)[..., None]
    foreground = np.ones((50, 6, 8))
    units = scoring.Units.of(good, foreground, border_units=True)
    np.testing.assert_allclose(units.low, [[0.9], [2.7]], rtol=0.02)
    np.testing.assert_allclose(units.high, [[0.995], [2.985]], rtol=0.02)
    fused = np.asarray(units.fuse(jnp.asarray(good)))
    assert (fused[:, outermost] > 0).mean() == pytest.approx(0.1, abs=0.01)
    assert (fused[:, ~outermost] > 0).mean() == pytest.approx(0.1, abs=0.01)


def test_without_enough_good_positions_at_the_border_all_have_the_same_units():
    """A foreground mask may leave no position there."""
    good = np.random.default_rng(0).uniform(size=(50, 6, 8, 1))
    foreground = 1.0 - np.broadcast_to(scoring.border(6, 8), (50, 6, 8))
    units = scoring.Units.of(good, foreground, border_units=True)
    together = scoring.Units.of(good, foreground)
    np.testing.assert_array_equal(units, together)
    np.testing.assert_array_equal(units.low[0], units.low[1])


def test_a_map_of_one_position_is_all_border():
    assert scoring.border(1, 1).tolist() == [[1.0]]
    assert scoring.border(2, 3).tolist() == [[1.0] * 3] * 2
    good = np.arange(10.0).reshape(10, 1, 1, 1)
    units = scoring.Units.of(good, np.ones((10, 1, 1)), border_units=True)
    assert units.low.tolist() == [[pytest.approx(8.1)]] * 2


def test_without_units_groups_count_alike():
    scores = scoring.group_scores(Z, STUDENT, M, (1, 1), scoring.Units.none(2))
    np.testing.assert_allclose(
        scores["map"], scoring.student_scores(Z, STUDENT, M)["map"]
    )
