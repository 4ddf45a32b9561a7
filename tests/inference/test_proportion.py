"""Observed shares and their intervals."""

import numpy as np
import pytest
from scipy import stats

from ast_jax.inference.proportion import share_of_alarms


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
