"""The conformal guarantee, by rank arithmetic and by simulation."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from scipy import stats

from ast_jax.errors import UserError
from ast_jax.inference.calibration import Calibration, calibrate, share_of_alarms


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
    assert calibration.attained_alpha == pytest.approx(attained)
    assert calibration.threshold == threshold
    assert calibration.pixel_threshold == 10 * threshold


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3, 0.9])
def test_anomalous_is_a_p_value_of_at_most_the_attained_alpha(alpha):
    scores = np.random.default_rng(0).integers(0, 12, 37).astype(np.float32)
    calibration = calibrate(scores, scores, alpha)
    new = np.arange(-1, 13, 0.5, np.float32)
    np.testing.assert_array_equal(
        calibration.anomalous(new),
        calibration.p_values(new) <= calibration.attained_alpha,
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
    text = json.dumps(dataclasses.asdict(calibration))
    assert Calibration.from_dict(json.loads(text)) == calibration


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 5.0])
def test_alpha_outside_zero_and_one_is_refused(alpha):
    with pytest.raises(UserError, match=r"calibration\.alpha is"):
        _calibrated(10, alpha)


def test_a_nan_to_calibrate_on_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        calibrate(np.array([1.0, np.nan]), np.zeros(2), 0.1)


def test_share_of_alarms_has_clopper_pearsons_interval():
    observed = share_of_alarms(np.arange(21) < 2)
    assert observed.value == pytest.approx(2 / 21)
    low, high = observed.interval
    # The interval's ends make the observation, or a rarer one, 2.5 % likely.
    assert stats.binom.sf(1, 21, low) == pytest.approx(0.025)
    assert stats.binom.cdf(2, 21, high) == pytest.approx(0.025)


@pytest.mark.parametrize("alarm", [False, True])
def test_interval_is_one_sided_at_the_ends(alarm):
    low, high = share_of_alarms(np.full(21, alarm)).interval
    bound = 1 - 0.025 ** (1 / 21)
    assert (low, high) == pytest.approx((1 - bound, 1) if alarm else (0, bound))


def test_there_is_no_share_of_no_parts():
    assert share_of_alarms(np.zeros(0, bool)) is None
