"""The monitor stays quiet on parts like the calibrated ones, and notices others."""

import json

import numpy as np
import pytest
from scipy import stats

from ast_jax.errors import UserError
from ast_jax.inference.calibration import calibrate
from ast_jax.inference.monitor import ALARM, BETS, Monitor, Urn, bets, urn_p_value


def calibrated(rng, n=40, alpha=0.1, folds=None):
    scores = rng.standard_normal(n)
    return calibrate(scores, scores, alpha, folds)


def fed(monitor, scores):
    for score in scores:
        monitor.add(np.array([score]))
    return monitor


def test_bets_are_fair():
    capital = np.array([0.2, 0.5, 0.3])
    p_values = (np.arange(1000) + 0.5) / 1000
    after = np.array([bets(capital, p) for p in p_values])
    assert after.sum(1).mean() == pytest.approx(1)
    low, high = bets(capital, 0.0), bets(capital, 1.0)
    assert low[BETS == -1] > high[BETS == -1]


def test_an_urns_p_value_is_the_share_above():
    counts = np.array([0, 4, 1])
    assert urn_p_value(counts, 2, 0.0) == 0
    assert urn_p_value(counts, 1, 0.0) == pytest.approx(2 / 8)
    assert urn_p_value(counts, 0, 0.5) == pytest.approx((2 + 5 + 0.5) / 8)


@pytest.mark.parametrize("ties", [False, True])
def test_p_values_are_independent_and_uniform_with_any_number_of_parts(ties):
    """Twelve left-out parts, and the first 15 accepted ones; defects are rejected."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(300):
        scores = rng.standard_normal(12 + 40)
        if ties:
            scores = np.floor(6 * stats.norm.cdf(scores))
        scores[12::3] += 30  # defects
        urn, row = Urn.of(scores[:12], 0.1, rng), []
        for score in scores[12:]:
            before = urn.counts.copy()
            urn.add(score, rng)
            if (urn.counts != before).any():
                gap = int(np.argmax(urn.counts - before))
                row.append(urn_p_value(before, gap, rng.random()))
        if len(row) >= 15:
            rows.append(row[:15])
    p_values = np.array(rows)
    assert len(rows) > 200
    assert stats.kstest(p_values.ravel(), "uniform").pvalue > 0.01
    early, late = p_values[:, :7].mean(1), p_values[:, 7:].mean(1)
    assert abs(np.corrcoef(early, late)[0, 1]) < 0.2
    spread = p_values.mean(1).std() / np.sqrt(1 / 12 / 15)
    assert spread == pytest.approx(1, abs=0.15)


def test_exchangeable_streams_hardly_ever_reach_the_alarm():
    rng = np.random.default_rng(1)
    alarms = []
    for _ in range(30):
        monitor = fed(Monitor(calibrated(rng, 20)), rng.standard_normal(150))
        alarms.append(monitor.alarm)
    assert np.mean(alarms) <= 0.05


@pytest.mark.parametrize("shift", [-1.5, 1.5])
def test_a_shift_of_the_scores_is_noticed_whichever_way(shift):
    rng = np.random.default_rng(2)
    monitor = fed(Monitor(calibrated(rng, 100)), rng.standard_normal(100))
    assert not monitor.alarm
    fed(monitor, rng.standard_normal(300) + shift)
    assert monitor.alarm and 100 < monitor.alarm_at < 250
    assert monitor.highest >= ALARM


def test_rejected_parts_do_not_count_whatever_their_share():
    rng = np.random.default_rng(3)
    calibration = calibrated(rng)
    monitor = fed(Monitor(calibration), [calibration.threshold + 1, np.nan] * 50)
    assert (monitor.value, monitor.parts) == (1.0, 100)


def test_cross_has_a_martingale_a_fold_and_its_value_pays_for_all():
    rng = np.random.default_rng(4)
    calibration = calibrated(rng, 60, folds=np.arange(60) % 3)
    monitor = Monitor(calibration)
    assert monitor.value == pytest.approx(1 / 3)
    for part in rng.standard_normal((400, 1)) - 1.5:
        monitor.add(np.repeat(part, 3) + 0.1 * rng.standard_normal(3))
    assert monitor.alarm


def test_a_restart_goes_on_as_if_there_was_none(tmp_path):
    rng = np.random.default_rng(5)
    calibration, scores = calibrated(rng), rng.standard_normal(60)
    whole = fed(Monitor(calibration, seed=3), scores)
    fed(Monitor(calibration, seed=3), scores[:20]).save(tmp_path / "monitor.json")
    again = Monitor.load(tmp_path / "monitor.json", calibration)
    fed(again, scores[20:])
    assert (again.value, again.parts) == (whole.value, 60)
    assert again.course == whole.course


def test_a_state_of_another_calibration_is_set_aside(tmp_path):
    rng = np.random.default_rng(6)
    path = tmp_path / "monitor.json"
    fed(Monitor(calibrated(rng)), rng.standard_normal(5)).save(path)
    before = path.read_text()
    assert Monitor.load(path, calibrated(rng)).parts == 0
    (aside,) = tmp_path.iterdir()
    assert aside.read_text() == before and aside != path


@pytest.mark.parametrize("damage", ["", "[]", "{}", '"urns"'])
def test_a_damaged_state_is_named(tmp_path, damage):
    rng = np.random.default_rng(7)
    calibration, path = calibrated(rng), tmp_path / "monitor.json"
    Monitor(calibration).save(path)
    if damage == '"urns"':
        tree = json.loads(path.read_text())
        tree["urns"][0]["counts"] = [1]
        damage = json.dumps(tree)
    path.write_text(damage)
    with pytest.raises(UserError, match=r"monitor\.json: damaged"):
        Monitor.load(path, calibration)


def test_the_course_of_an_endless_stream_stays_short(tmp_path):
    rng = np.random.default_rng(8)
    monitor = fed(Monitor(calibrated(rng, 10)), rng.standard_normal(1500))
    parts = [part for part, _ in monitor.course]
    assert len(parts) <= 501 and parts == sorted(parts)
    assert parts[0] == 0 and parts[-1] == 1500
