"""Replay: a ring, drawn alike or by surprise, and returns over several steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.core.errors import InputError
from anima.world.env import Discrete, Spec, blank
from anima.world.replay import Replay

SPEC = Spec("Line", 1, Discrete(2), 100)


def chunk(numbers, worlds=1, terminated=(), truncated=()):
    """Rows whose reward and observation are their number (plus 1000 a world)."""
    base = jnp.asarray(numbers, jnp.float32)[:, None] + 1000 * jnp.arange(worlds)
    at = lambda which: (
        jnp.isin(jnp.asarray(numbers), jnp.asarray(list(which)))[:, None] & (jnp.ones(worlds, bool))
    )
    return blank(SPEC, len(numbers), worlds)._replace(
        observation=base[..., None],
        following=base[..., None] + 1,
        reward=base,
        terminated=at(terminated),
        truncated=at(truncated),
    )


def test_the_ring_keeps_the_newest_and_draws_them_alike():
    ring = Replay.empty(SPEC, 21, worlds=2, chunk=5)
    assert ring.surprise.shape == (10, 2)
    for start in range(0, 15, 5):
        ring = ring.push(chunk(range(start, start + 5), worlds=2))
    drawn = ring.sample(jax.random.key(0), 4000).transition.reward
    numbers, counts = np.unique(np.asarray(drawn), return_counts=True)
    assert numbers.tolist() == [*range(5, 15), *range(1005, 1015)]
    assert counts.min() > 130 and counts.max() < 270


def test_nothing_is_drawn_that_was_not_pushed():
    ring = Replay.empty(SPEC, 20, chunk=2).push(chunk([7, 8]))
    assert set(np.asarray(ring.sample(jax.random.key(0), 50).transition.reward)) == {7, 8}


def test_surprise_draws_in_proportion_and_weights_undo_it():
    ring = Replay.empty(SPEC, 4).push(chunk([0])).push(chunk([1])).push(chunk([2]))
    places = jnp.asarray([[0, 0], [1, 0], [2, 0]])
    ring = ring.surprised(places, jnp.asarray([1.0, -2.0, 4.0]))
    sample = ring.sample(jax.random.key(1), 7000, alpha=1.0, beta=1.0)
    reward = np.asarray(sample.transition.reward)
    share = np.bincount(reward.astype(int), minlength=3) / 7000
    np.testing.assert_allclose(share, [1 / 7, 2 / 7, 4 / 7], atol=0.02)
    weight = [float(np.asarray(sample.weight)[reward == k][0]) for k in range(3)]
    np.testing.assert_allclose(weight, [1, 0.5, 0.25], rtol=1e-2)
    # weighted, every transition counts alike
    mean = np.average(reward, weights=np.asarray(sample.weight))
    np.testing.assert_allclose(mean, 1.0, atol=0.05)
    np.testing.assert_array_equal(sample.place[:, 0], reward.astype(int))


@pytest.mark.parametrize(
    ("start", "reward", "following", "discount", "terminated"),
    [
        (0, 0 + 0.5 * 1 + 0.25 * 2, 3, 0.125, False),  # three whole steps
        (2, 2 + 0.5 * 3, 4, 0.25, True),  # stopped by the end: no value is added
        (5, 5 + 0.5 * 6, 7, 0.25, False),  # stopped by the clock: the value is
    ],
)
def test_returns_over_steps_stop_where_episodes_do(start, reward, following, discount, terminated):
    ring = Replay.empty(SPEC, 12, chunk=3)
    for rows in ([90, 91, 92], [0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]):  # wraps once
        ring = ring.push(chunk(rows, terminated=[3], truncated=[6]))
    sample = ring.sample(jax.random.key(0), 400, discount=0.5, steps=3)
    first = np.asarray(sample.transition.observation)[:, 0]
    assert set(first) == set(range(10))  # 10 and 11 have no whole return yet
    i = int(np.flatnonzero(first == start)[0])
    assert float(sample.transition.reward[i]) == reward
    assert float(sample.transition.following[i, 0]) == following
    assert float(sample.discount[i]) == discount
    assert bool(sample.transition.terminated[i]) is terminated


def test_a_ring_too_small_for_a_chunk_is_refused():
    with pytest.raises(InputError, match="capacity is 3"):
        Replay.empty(SPEC, 3, worlds=2, chunk=2)
