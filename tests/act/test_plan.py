"""Planners: the oracle is a plain loop over sequences, the others approach the oracle."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.act.plan import (
    CEM,
    MPPI,
    Exhaustive,
    Future,
    Settling,
    foresee,
    information_gain,
)
from anima.act.preference import WISHES, preference
from anima.core.errors import InputError
from anima.world.classic import COMPILED
from anima.world.env import Continuous, Discrete, Spec

BOX = Continuous((-1.0,), (1.0,))
START = (1.0, -0.3)


def _matrix():
    return jnp.asarray([[1.0, 0.3], [-0.2, 0.9]])


def choices():
    """A damped spring pushed one of three ways."""
    ways = jnp.asarray([[0.0, -0.5], [0.0, 0.0], [0.0, 0.5]])
    imagine = lambda z, a: _matrix() @ z + a @ ways
    return Future(imagine, lambda z, a, after: jnp.sum(after**2) + 0.1 * a[0] * z[1])


def linear():
    """The same spring pushed as hard as one likes, at a price: a linear-quadratic problem."""
    imagine = lambda z, a: _matrix() @ z + jnp.stack([0.0 * a[0], 0.5 * a[0]])
    return Future(imagine, lambda z, a, after: jnp.sum(after**2) + 0.3 * jnp.sum(a**2))


def by_hand(future, horizon, hold, discount):
    """G of every sequence of three actions, step by step in Python."""
    found = {}
    for sequence in itertools.product(range(3), repeat=horizon):
        z, total, weight = jnp.asarray(START), 0.0, 1.0
        for action in np.repeat(sequence, hold):
            code = jnp.eye(3)[int(action)]
            after = future.imagine(z, code)
            total += weight * float(future.energy(z, code, after))
            z, weight = after, weight * discount
        found[sequence] = total
    return found


def test_the_exhaustive_planner_is_the_loop_over_all_sequences():
    planner = Exhaustive(Discrete(3), horizon=3, hold=2, discount=0.9)
    plan, _ = planner.plan(choices(), jnp.asarray(START), None, key=jax.random.key(0))
    every = by_hand(choices(), 3, 2, 0.9)
    np.testing.assert_allclose(plan.energies, list(every.values()), rtol=1e-12)
    best = min(every, key=lambda sequence: every[sequence])
    assert tuple(np.argmax(plan.actions, -1)) == best
    assert tuple(map(tuple, np.argmax(plan.candidates, -1))) == tuple(every)
    total = planner.total(choices(), jnp.asarray(START), plan.actions)
    np.testing.assert_allclose(total, every[best], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(CEM, marks=pytest.mark.slow), MPPI])
def test_drawn_plans_approach_the_oracle(kind):
    """Some iterations find the best of 3^5 sequences, where one does not."""
    space = Discrete(3)
    oracle = Exhaustive(space, horizon=5, hold=1)
    best, _ = oracle.plan(choices(), jnp.asarray(START), None, key=jax.random.key(0))
    low, spread = float(best.energies.min()), float(jnp.std(best.energies))

    def gap(iterations, key):
        often = dict(samples=20, iterations=iterations, spread=0.3, persist=0.3)
        planner = kind(space, horizon=5, hold=1, **often)
        plan, _ = planner.plan(choices(), jnp.asarray(START), planner.begin(), key=key)
        return float(planner.total(choices(), jnp.asarray(START), plan.actions)) - low

    keys = jax.random.split(jax.random.key(1), 4)
    late = [gap(8, key) for key in keys]
    assert min(late) >= -1e-12 and np.mean(late) < 0.05 * spread
    assert np.mean(late) < np.mean([gap(1, key) for key in keys])


@pytest.fixture
def optimum():
    """The least of the linear-quadratic problem over 4 steps, by its normal equations."""
    future, start = linear(), jnp.asarray(START)
    planner = Settling(BOX, horizon=4)
    energy = lambda flat: planner.total(future, start, flat[:, None])
    zero = jnp.zeros(4)
    return -jnp.linalg.solve(jax.hessian(energy)(zero), jax.grad(energy)(zero))


@pytest.mark.parametrize(
    "planner",
    [
        CEM(BOX, horizon=4, samples=200, iterations=6, persist=0.0, elite=0.1),
        MPPI(BOX, horizon=4, samples=200, iterations=8, persist=0.0, spread=0.2),
        Settling(BOX, horizon=4, steps=60, rate=0.2),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_continuous_plans_come_to_the_optimum(planner, optimum):
    plan, _ = planner.plan(linear(), jnp.asarray(START), planner.begin(), key=jax.random.key(3))
    np.testing.assert_allclose(plan.actions[:, 0], optimum, atol=0.08)


def test_the_pressure_on_actions_is_the_slope_of_the_energy():
    """Errors passed from moment to moment are dG/da exactly, held actions included."""
    bent = Future(
        lambda z, a: jnp.tanh(linear().imagine(z, a)), lambda z, a, y: jnp.sum(y**4) + a[0] * z[0]
    )
    planner = Settling(BOX, horizon=3, hold=2, discount=0.8)
    actions = jnp.asarray([[0.3], [-0.7], [0.1]])
    energy, pressure = planner.pressure(bent, jnp.asarray(START), actions)
    total = lambda actions: planner.total(bent, jnp.asarray(START), actions)
    np.testing.assert_allclose(energy, total(actions), rtol=1e-12)
    np.testing.assert_allclose(pressure, jax.grad(total)(actions), rtol=1e-10)


def test_settled_choices_are_among_the_best_that_can_be_done():
    start = jnp.asarray(START)
    planner = Settling(Discrete(3), horizon=4, steps=40, rate=1.0)
    plan, kept = planner.plan(choices(), start, planner.begin(), key=jax.random.key(0))
    assert set(np.unique(plan.candidates)) == {0.0, 1.0}
    np.testing.assert_allclose(kept.mean.sum(-1), 1, rtol=1e-9)  # what settled, on the simplex
    oracle = Exhaustive(Discrete(3), horizon=4, hold=1)
    best, _ = oracle.plan(choices(), start, None, key=jax.random.key(0))
    found = planner.total(choices(), start, plan.actions)
    np.testing.assert_allclose(found, plan.energies.min(), rtol=1e-12)
    assert np.mean(best.energies < found - 1e-12) < 0.1


def test_a_warm_start_moves_on_when_an_action_was_held_long_enough():
    planner = MPPI(BOX, horizon=3, hold=2, samples=8)
    kept = planner.begin()
    means = []
    for index in range(3):
        plan, kept = planner.plan(linear(), jnp.asarray(START), kept, key=jax.random.key(index))
        means.append((plan.actions, kept.mean))
    (first, then), (second, after), _ = means
    np.testing.assert_array_equal(then, first)  # still held
    np.testing.assert_array_equal(after[:-1], second[1:])
    assert after[-1] == 0
    cold = MPPI(BOX, horizon=3, samples=8, warm=False)
    _, kept = cold.plan(linear(), jnp.asarray(START), cold.begin(), key=jax.random.key(0))
    assert not kept.mean.any()


def test_noise_persists_as_it_is_told():
    """Neighbouring steps of drawn sequences correlate as AR(1) says; repeated choices as often."""
    from anima.act.plan import _draw

    zero, wide = jnp.zeros((3, 1)), jnp.full((3, 1), 0.05)  # far from the bounds
    drawn = _draw(BOX, zero, wide, 0.7, 4000, key=jax.random.key(0))[1:, :, 0]
    corr = np.corrcoef(np.asarray(drawn).T)
    np.testing.assert_allclose([corr[0, 1], corr[1, 2], corr[0, 2]], [0.7, 0.7, 0.49], atol=0.05)
    np.testing.assert_allclose(np.std(drawn, 0), 0.05, rtol=0.05)
    even, all_ = jnp.full((2, 3), 1 / 3), jnp.ones((2, 3))
    chosen = np.argmax(_draw(Discrete(3), even, all_, 0.4, 4000, key=jax.random.key(1)), -1)
    assert abs(np.mean(chosen[:, 0] == chosen[:, 1]) - (0.4 + 0.6 / 3)) < 0.03


def test_information_is_gained_only_where_members_disagree():
    random = np.random.default_rng(0)
    members = jnp.asarray(random.normal(size=(20, 5, 3)))
    gains = jax.vmap(lambda m: information_gain(m, 0.3))(members)
    assert np.all(gains > 0)
    assert information_gain(jnp.ones((5, 3)), 0.3) == 0
    by_hand = 0.5 * np.sum(np.log(1 + np.var(members[0], axis=0) / 0.3**2))
    np.testing.assert_allclose(gains[0], by_hand, rtol=1e-12)


def test_foreseen_energies_are_discounted_step_by_step():
    future = Future(lambda z, a: z + a, lambda z, a, after: after[0])
    path, energies = foresee(future, jnp.zeros(1), jnp.ones((2, 1)), hold=2, discount=0.5)
    np.testing.assert_allclose(path[:, 0], [1, 2, 3, 4])
    np.testing.assert_allclose(energies, [1, 1, 0.75, 0.5])


# Preferences.


def test_the_tasks_own_preferences_are_what_their_worlds_reward():
    """Pendulum's energy is its cost less the price of torque, from any state."""
    wish = preference(COMPILED["Pendulum-v1"]().spec, WISHES["Pendulum-v1"], effort=0.004)
    angle, spin, torque = 2.5, -3.0, 1.5
    seen = jnp.asarray([np.cos(angle), np.sin(angle), spin])
    want = angle**2 + 0.1 * spin**2 + 0.001 * torque**2
    np.testing.assert_allclose(wish(jnp.asarray([torque / 2]), seen), want, rtol=1e-6)
    for name, wishes in WISHES.items():
        spec = COMPILED[name]().spec
        energy = preference(spec, wishes)(jnp.zeros(1), jnp.zeros(spec.observation))
        assert np.isfinite(energy)


def test_a_goal_costs_the_same_anywhere_short_of_it():
    wish = preference(Spec("?", 2, BOX, 9), {"1": {"above": 0.5, "weight": 2.0}})
    energies = [float(wish(jnp.zeros(1), jnp.asarray([9.0, z]))) for z in (-3.0, 0.4, 0.6)]
    assert energies == [2.0, 2.0, 0.0]
    wish = preference(Spec("?", 2, BOX, 9), {"0": {"below": 0.5}})
    assert [float(wish(jnp.zeros(1), jnp.asarray([z, 0.0]))) for z in (0.4, 0.6)] == [0.0, 1.0]
    assert list(wish.wanted) == ["0"]


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"angel": {"target": 0.0}}, "did you mean 'angle'"),
        ({"7": {"target": 0.0}}, "shows no such state"),
        ({"angle": {"goal": 0.0}}, "give target and precision"),
        ({"angle": {"target": 0.0, "weight": 1.0}}, "give target and precision"),
        ({"angle": {"target": "up"}}, "must be a number"),
        ({"angle": {"target": 0.0, "precision": -1.0}}, "must be positive"),
        ({"angle": 3}, "give target and precision"),
    ],
)
def test_preferences_that_cannot_be_are_refused(table, said):
    with pytest.raises(InputError, match=said):
        preference(COMPILED["CartPole-v1"]().spec, table)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Exhaustive(BOX), "needs a set of actions"),
        (lambda: Exhaustive(Discrete(3), horizon=30), "too many"),
        (lambda: Exhaustive(Discrete(2), horizon=0), "plan.horizon is 0"),
        (lambda: MPPI(BOX, horizon=2000), "plan.horizon is 2000"),
        (lambda: MPPI(BOX, horizon=200, hold=20), "4000 steps"),
        (lambda: CEM(BOX, samples=0), "plan.samples is 0"),
        (lambda: CEM(BOX, discount=1.5), "discount is 1.5"),
        (lambda: MPPI(BOX, persist=1.0), "persist is 1.0"),
        (lambda: MPPI(BOX, temperature=0.0), "temperature is 0"),
        (lambda: Settling(BOX, rate=-1.0), "rate is -1"),
    ],
)
def test_plans_that_cannot_be_are_refused(make, said):
    with pytest.raises(InputError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
