"""Interquartile means and their intervals."""

import numpy as np
import pytest
from scipy import stats

from anima.run.statistics import interval, iqm


@pytest.mark.parametrize("count", [4, 8, 100])
def test_the_interquartile_mean_is_a_trimmed_one(count):
    values = np.random.default_rng(count).normal(size=count)
    np.testing.assert_allclose(iqm(values), stats.trim_mean(values, 0.25))


def test_ends_that_are_not_whole_count_in_part():
    np.testing.assert_allclose(iqm(np.array([5.0])), 5)
    np.testing.assert_allclose(iqm(np.array([1.0, 3.0])), 2)
    # of five, 1.25 go at each end: (.75 of the second + third + .75 of the fourth) / 2.5
    np.testing.assert_allclose(iqm(np.array([0.0, 1, 2, 30, 400])), (0.75 + 2 + 22.5) / 2.5)


def test_the_interval_covers_as_often_as_it_says():
    """Of seeds drawn from a normal law, whose interquartile mean is 0."""
    random = np.random.default_rng(0)
    found = [
        interval(random.normal(size=(30, 1)) + random.normal(size=(1, 5))[:, :1] * 0)
        for _ in range(60)
    ]
    covered = np.mean([low <= 0 <= high for low, high in found])
    assert covered >= 0.85
    widths = [high - low for low, high in found]
    assert 0.5 < np.mean(widths) < 1.1  # about 4 x 1.1 / sqrt(30)


def test_episodes_of_a_seed_go_together():
    """Seeds that differ by 100 leave an interval of that size, however many episodes each has."""
    values = np.repeat(np.array([[0.0], [100.0]] * 5), 1000, axis=1)
    low, high = interval(values)
    assert high - low > 50
    alone = interval(values[:1])
    assert alone == (0.0, 0.0)
