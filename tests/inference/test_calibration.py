"""The conformal guarantees, by rank arithmetic and by simulation."""

import json
import logging

import numpy as np
import pytest
from scipy import stats

from ast_jax.errors import UserError
from ast_jax.inference.calibration import (
    Calibration,
    calibrate,
    cross_bound,
)


def _calibrated(count, alpha):
    scores = np.arange(1.0, count + 1)
    return calibrate(scores, 10 * scores, alpha)


@pytest.mark.parametrize(
    ("count", "alpha", "attained", "threshold"),
    [
        (99, 0.01, 0.01, 99),
        (99, 0.29, 0.29, 71),  # 0.29 · 100 is 28.999… in floating point
        (100, 0.05, 5 / 101, 96),
        (20, 0.01, 1 / 21, 20),  # too few: the smallest attainable
        (1, 0.5, 0.5, 1),
        (20, 1 - 1e-12, 20 / 21, 1),  # next to 1: the lowest held-out score
        (20, 5e-324, 1 / 21, 20),
    ],
)
def test_threshold_is_the_kth_largest_score(count, alpha, attained, threshold):
    calibration = _calibrated(count, alpha)
    assert calibration.attainable == calibration.guaranteed == pytest.approx(attained)
    assert calibration.threshold == threshold
    assert calibration.pixel_threshold == 10 * threshold


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3, 0.9])
def test_anomalous_is_a_p_value_of_at_most_the_attainable(alpha):
    scores = np.random.default_rng(0).integers(0, 12, 37).astype(np.float32)
    calibration = calibrate(scores, scores, alpha)
    new = np.arange(-1, 13, 0.5, np.float32)
    np.testing.assert_array_equal(
        calibration.anomalous(new),
        calibration.p_values(new) <= calibration.attainable,
    )


def test_p_values_count_ties_against_the_alarm():
    calibration = calibrate(np.array([1.0, 2, 2, 3]), np.zeros(4), 0.5)
    p_values = calibration.p_values(np.array([0.0, 2, 2.5, 3, 4]))
    np.testing.assert_allclose(p_values, [1, 0.8, 0.4, 0.4, 0.2])


def test_false_alarms_stay_below_alpha_in_2000_repetitions():
    """Each repetition draws 59 held-out parts and 20 new good ones."""
    rng = np.random.default_rng(0)
    alpha, alarms, marked = 0.05, [], []
    for _ in range(2000):
        # A part's pixels share its brightness: exchangeable parts, dependent pixels.
        maps = rng.standard_t(3, (79, 1)) + rng.exponential(size=(79, 8))
        scores, maxima = maps.mean(1), maps.max(1)
        calibration = calibrate(scores[:59], maxima[:59], alpha)
        alarms.append(calibration.anomalous(scores[59:]).mean())
        marked.append((maps[59:] > calibration.pixel_threshold).any(1).mean())
    for rates in (alarms, marked):
        error = stats.sem(rates)
        assert error < 0.002
        assert np.mean(rates) < alpha + 3 * error
        # Without ties the rate is the attained one, not merely below it.
        assert np.mean(rates) > 3 / 60 - 3 * error


def test_the_guarantee_holds_with_ties():
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(2000):
        scores = rng.integers(0, 4, 40).astype(float)
        calibration = calibrate(scores[:19], scores[:19], 0.1)
        rates.append(calibration.anomalous(scores[19:]).mean())
    assert np.mean(rates) < 0.1


def test_too_few_parts_warn_with_the_number_that_alpha_takes(caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        _calibrated(99, 0.01)
        assert not caplog.records
        _calibrated(98, 0.01)
    assert "98 held-out good images" in caplog.text
    assert "takes 99: using the smallest attainable, 0.0101" in caplog.text


def test_a_nan_score_raises_an_alarm():
    assert _calibrated(10, 0.1).anomalous(np.array([np.nan, 1.0])).tolist() == [1, 0]


def test_no_held_out_part_means_no_threshold():
    assert calibrate(np.zeros(0), np.zeros(0), 0.01) is None


def test_calibration_survives_json_exactly():
    scores = np.random.default_rng(0).random(30, np.float32)
    calibration = calibrate(scores, scores * 3, 0.07)
    text = json.dumps(calibration.to_dict())
    assert Calibration.from_dict(json.loads(text)) == calibration


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 5.0])
def test_alpha_outside_zero_and_one_is_refused(alpha):
    with pytest.raises(UserError, match=r"calibration\.alpha is"):
        _calibrated(10, alpha)


def test_a_nan_to_calibrate_on_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        calibrate(np.array([1.0, np.nan]), np.zeros(2), 0.1)


def cross_calibrated(rng, n, k, alpha, spread=0.5):
    """Fold models that disagree: each adds its own noise to a part's score."""
    folds = np.arange(n) % k
    parts = rng.standard_normal(n + 50)
    seen = parts[:, None] + spread * rng.standard_normal((n + 50, k))
    own = seen[np.arange(n), folds]
    return calibrate(own, own + 1, alpha, folds), seen[n:]


def test_cross_counts_each_folds_own_scores():
    scores = np.array([1.0, 2, 3, 10, 20, 30])
    calibration = calibrate(scores, scores, 0.3, np.array([0, 0, 0, 1, 1, 1]))
    assert (calibration.folds, calibration.attainable) == (2, 2 / 7)
    new = np.array([[4.0, 40], [2, 40], [4, 30], [2.5, 5], [0, 0]])
    p_values = calibration.p_values(new)
    np.testing.assert_allclose(p_values * 7, [1, 3, 2, 5, 7])
    assert calibration.anomalous(new).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2, 0.6])
def test_a_part_is_anomalous_exactly_above_its_own_threshold(alpha):
    rng = np.random.default_rng(0)
    calibration, new = cross_calibrated(rng, 43, 4, alpha)
    scores = new.mean(1)
    above = scores > calibration.thresholds(scores, new)
    np.testing.assert_array_equal(above, calibration.anomalous(new))
    maxima = calibration.pixel_thresholds(scores, new + 1)
    np.testing.assert_array_equal(scores > maxima, calibration.anomalous(new))
    agreed = np.repeat(np.linspace(-3, 3, 30)[:, None], 4, 1)
    limits = calibration.thresholds(agreed[:, 0], agreed)
    np.testing.assert_allclose(limits, calibration.threshold)


def test_a_single_fold_decides_as_split_does():
    scores = np.random.default_rng(0).random(30)
    split = calibrate(scores, scores, 0.1)
    cross = calibrate(scores, scores, 0.1, np.zeros(30, int))
    new = np.linspace(0, 1.2, 50)
    np.testing.assert_array_equal(split.p_values(new), cross.p_values(new[:, None]))
    np.testing.assert_array_equal(split.anomalous(new), cross.anomalous(new[:, None]))
    assert cross.guaranteed == split.guaranteed


@pytest.mark.parametrize(
    ("exceeding", "sizes", "bound"),
    [
        (1, [20] * 5, 1 / 21),  # above all of any one fold's
        (5, [20] * 5, 5 * 2 * 3 / (2 * 21 * (2 * 5 - 4))),
        (1, [1] * 40, 1 / 41),  # the jackknife+, (2 k - 1) / (n + 1)
        (10, [1] * 99, 19 / 100),
        (40, [10] * 4, 1.0),
    ],
)
def test_the_bound_by_hand(exceeding, sizes, bound):
    assert cross_bound(exceeding, sizes) == pytest.approx(bound)


@pytest.mark.parametrize(("n", "k", "alpha"), [(100, 5, 0.05), (40, 8, 0.3)])
def test_cross_is_no_worse_than_the_papers_bound(n, k, alpha):
    calibration = _cross(n, k, alpha)
    papers = 2 * alpha + (1 - k / n) / (k + 1)
    assert calibration.attainable <= alpha < calibration.guaranteed <= papers


def _cross(n, k, alpha):
    scores = np.arange(float(n))
    return calibrate(scores, scores, alpha, np.arange(n) % k)


def test_99_parts_do_for_one_per_cent_with_cross():
    assert _cross(99, 5, 0.01).attainable == 0.01
    assert _cross(99, 5, 0.01).guaranteed == pytest.approx(1 / 21)


def test_cross_keeps_its_bound_where_folds_conspire():
    """The folds disagree in the way that makes an alarm most likely."""
    rng = np.random.default_rng(3)
    n, k, alarms = 20, 4, []
    for _ in range(4000):
        left_out = rng.random((k, n // k))
        # A new part has a high score in one fold if and only if it has in all others.
        new = np.full((1, k), rng.random())
        folds = np.repeat(np.arange(k), n // k)
        calibration = calibrate(left_out.ravel(), left_out.ravel(), 0.05, folds)
        alarms.append(calibration.anomalous(new)[0])
    assert np.mean(alarms) <= calibration.guaranteed == pytest.approx(1 / 6)


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_observed_false_alarms_of_cross_stay_below_alpha(spread):
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(1000):
        calibration, new = cross_calibrated(rng, 59, 5, 0.05, spread)
        rates.append(calibration.anomalous(new).mean())
    assert np.mean(rates) < 0.05 + 3 * stats.sem(rates)


def test_a_nan_of_any_fold_raises_an_alarm():
    calibration = _cross(40, 2, 0.1)
    assert calibration.anomalous(np.array([[0.0, np.nan], [0, 0]])).tolist() == [1, 0]


def test_of_no_parts_nothing_is_said():
    none = np.zeros(0, np.float32)
    for calibration in (_calibrated(10, 0.1), _cross(40, 2, 0.1)):
        assert calibration.anomalous(none).shape == (0,)
        assert calibration.p_values(none).shape == (0,)


@pytest.mark.parametrize("cross", [False, True])
def test_with_alpha_is_calibrating_at_it(cross):
    rng = np.random.default_rng(0)
    scores, maxima = rng.random((2, 40))
    folds = np.arange(40) % 4 if cross else None
    moved = calibrate(scores, maxima, 0.05, folds).with_alpha(0.2)
    assert moved == calibrate(scores, maxima, 0.2, folds)
    with pytest.raises(UserError, match=r"is 1\.5"):
        moved.with_alpha(1.5)


def test_an_unattainable_alpha_is_said_of_an_old_calibration(caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert _calibrated(99, 0.05).with_alpha(0.001).attainable == 0.01
    assert "takes 999: using the smallest attainable, 0.01" in caplog.text
