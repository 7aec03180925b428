"""What the living agent dreams of: places without states kept, and what it believed of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.agent.dreams import Places
from anima.agent.living import living
from anima.world.env import AbstractWorld, Discrete, Moments, Spec, blank

WISH = {"0": {"target": 0.0, "precision": 2.0}}
CHOICES = dict(planner="exhaustive", plan=dict(horizon=2, hold=1), prefer=WISH)


class Shift(AbstractWorld):
    """Left of 0 an action moves one way, right of it the other."""

    spec: Spec = dataclasses.field(default=Spec("Shift", 1, Discrete(2), 50))

    def reset(self, key):
        return jnp.zeros(1)

    def observe(self, state):
        return state

    def step(self, state, action, key):
        return state + self.moved(state, action), jnp.zeros(()), jnp.zeros((), bool)

    @staticmethod
    def moved(state, action):
        return jnp.sign(state) * (2.0 * action[..., None] - 1)


def _after(states, count=4):
    """Places after some states, in units of 1."""
    step = lambda places, state: (places.seen(state, jnp.ones(state.shape)), None)
    return jax.lax.scan(step, Places.empty(count, states.shape[1]), states)[0]


def test_places_spread_over_all_that_was_seen_however_seldom():
    """A hundred states at each of three corners, one at the fourth, in any order."""
    corners = np.asarray([[0, 0], [9, 0], [0, 9], [9, 9]], np.float32)
    rng = np.random.default_rng(0)
    order = rng.permutation([0] * 100 + [1] * 100 + [2] * 100 + [3])
    states = corners[order] + 0.1 * rng.standard_normal((301, 2)).astype(np.float32)
    places = _after(jnp.asarray(states))
    found = np.asarray(places.moments.mean)
    nearest = np.linalg.norm(found[:, None] - corners, axis=-1).argmin(0)
    assert sorted(nearest) == [0, 1, 2, 3]
    np.testing.assert_allclose(found[nearest], corners, atol=0.4)
    np.testing.assert_array_equal(places.moments.count[nearest], [100, 100, 100, 1])
    drawn = np.asarray(places.draw(jax.random.key(0), 400))
    at = np.linalg.norm(drawn[:, None] - corners, axis=-1)
    assert at.min(1).max() < 0.8 and (np.bincount(at.argmin(1)) > 60).all()


def test_places_lose_no_state_and_what_one_holds_are_its_moments():
    states = jax.random.normal(jax.random.key(1), (50, 3))
    places = _after(states).moments
    assert float(places.count.sum()) == 50
    whole = jax.tree.map(lambda leaf: leaf[0], places)
    for index in range(1, 4):
        whole = whole.joined(jax.tree.map(lambda leaf, i=index: leaf[i], places))
    want = Moments.empty(3).seen(states)
    for found, wanted in zip(jax.tree.leaves(whole), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_first_states_are_places_and_the_same_state_is_not_a_new_one():
    places = _after(jnp.asarray([[1.0], [1.0], [2.0], [1.0]]))
    np.testing.assert_array_equal(places.moments.count, [3, 1, 0, 0])
    assert set(np.asarray(places.draw(jax.random.key(0), 50)).ravel()) == {1.0, 2.0}


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs, tmp_path_factory):
    with quick_programs(tmp_path_factory.mktemp("compiled")):
        yield


def _mind(dreams):
    return living(
        Shift().spec,
        assigner="fixed-prediction",
        hidden=(16,),
        rate=0.01,
        updates=1,
        batch=16,
        capacity=20,
        sleep=200,
        dreams=dreams,
        warmup=0,
        **CHOICES,
    )


def _day(states, key):
    """Transitions at some states, any action each; the episode ends with the last."""
    action = jax.random.randint(key, states.shape[:1], 0, 2)
    following = states + Shift.moved(states, action)
    past = blank(Shift().spec, states.shape[0], 1, 1)._replace(
        observation=states[:, None, None], action=action[:, None, None]
    )
    ends = jnp.zeros(past.truncated.shape, bool).at[-1].set(True)
    return past._replace(following=following[:, None, None], truncated=ends)


def _days(mind):
    """How the state is after a day, and how surprised it would be by one on average."""

    @jax.jit
    def lived(state, day, key):
        keys = jax.random.split(key, day.reward.shape[0])
        return jax.lax.scan(lambda state, x: (mind.learn(state, *x)[0], None), state, (day, keys))[
            0
        ]

    @jax.jit
    def surprise(state, day):
        past = jax.tree.map(lambda leaf: leaf[:, 0, 0], day)
        return jnp.mean(jax.vmap(lambda past: mind.model.surprise(state.model, past))(past))

    return lived, surprise


KEYS = jax.random.split(jax.random.key(3), 8)
LEFT = -jax.random.uniform(KEYS[0], (30, 1), minval=1.0, maxval=2.0)


@pytest.fixture(scope="module")
def dreamer(quick):
    """One that dreams, how it lives, and its state after a day on the left."""
    mind = _mind(0.5)
    lived, surprise = _days(mind)
    born = mind.init(KEYS[0])
    assert not np.asarray(born.night.been.known).any()
    return mind, lived, surprise, lived(born, _day(LEFT, KEYS[1]), KEYS[2])


def test_dreams_keep_what_a_new_day_would_undo(dreamer):
    """A day on the left, then two on the right, where the same actions do the opposite; only the
    last 20 steps are remembered. Whoever dreams still knows the left."""
    _, lived, surprise, state = dreamer
    awake = _mind(0.0)
    forgets, _ = _days(awake)
    old, new = _day(LEFT, KEYS[3]), _day(-LEFT, KEYS[4])
    other = forgets(awake.init(KEYS[0]), _day(LEFT, KEYS[1]), KEYS[2])
    assert surprise(state, old) < 0.05
    for day in (5, 6):
        state = lived(state, _day(-LEFT, KEYS[day]), KEYS[day])
        other = forgets(other, _day(-LEFT, KEYS[day]), KEYS[day])
    kept, lost = surprise(state, old), surprise(other, old)
    assert surprise(state, new) < 0.2
    assert kept < 0.3 * lost and lost > 0.3, (kept, lost)


def test_it_dreams_of_what_it_believed_when_it_woke(dreamer):
    mind, _, _, state = dreamer
    night = state.night
    assert np.asarray(night.been.known).sum() > 20
    for now, then in zip(
        jax.tree.leaves(state.model.circuits), jax.tree.leaves(night.model.circuits), strict=True
    ):
        np.testing.assert_array_equal(now, then)
    changed = jax.tree.map(lambda leaf: leaf + 1, state.model.circuits)
    state = dataclasses.replace(state, model=dataclasses.replace(state.model, circuits=changed))
    past = mind._recalled(state, KEYS[7])
    real = jax.tree.map(lambda leaf: leaf[0, :8], past)
    dreamt = jax.tree.map(lambda leaf: leaf[0, 8:], past)
    moved = lambda past: past.following - past.observation
    true = lambda past: Shift.moved(past.observation, past.action)
    np.testing.assert_allclose(moved(real), true(real), rtol=1e-5)
    error = moved(dreamt) - true(dreamt)
    assert 0 < np.abs(error).mean() < 0.3  # what it believed, which is nearly so
    assert not np.asarray(dreamt.ended).any()


def test_after_an_alarm_it_does_not_dream_of_the_world_that_was(dreamer):
    """Neither in the next sleep nor in those after it, however long the episode goes on."""
    mind, lived, _, state = dreamer
    past = jax.tree.map(lambda leaf: leaf[0, 0, 0], _day(LEFT, KEYS[1]))
    been = lambda alarmed: mind._been(state.night, state.model, past, jnp.asarray(alarmed))
    replayed = set(np.asarray(LEFT[-20:]).ravel())

    def recalled(night):
        found = mind._recalled(dataclasses.replace(state, night=night), KEYS[7])
        return set(np.asarray(found.observation).ravel())

    assert not recalled(been(False)) <= replayed
    assert recalled(been(True)) <= replayed
    after = lived(dataclasses.replace(state, night=been(True)), _day(-LEFT, KEYS[5]), KEYS[5])
    places = after.night.been
    assert np.asarray(places.known).sum() > 20
    # that of the alarm itself is of the world as it has become
    assert (np.asarray(places.moments.mean)[np.asarray(places.known)] < 0).sum() == 1
