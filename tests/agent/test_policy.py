"""Policies from rollouts: what an update is made of, piece by piece."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.act.heads import Gaussian
from anima.act.objectives import Deed, PolicyGradient
from anima.agent.classic import ppo, reinforce
from anima.agent.classic.policy import GAE, Phi
from anima.core.errors import InputError
from anima.world.env import Continuous, Discrete, Spec, Transition

LINE = Spec("Line", 2, Discrete(3), 9)
ROAD = Spec("Road", 2, Continuous((-2.0, 0.0), (2.0, 1.0)), 9)
SMALL = dict(assigner="backprop", hidden=(4,), steps=48, every=4, worlds=2, discount=0.9)


def _rollout(mind, state, key):
    """Four steps in two worlds; the second world's episode ends at its third."""
    seen = jax.random.normal(key, (5, 2, 2))
    acts = [mind.act(state, seen[t], jax.random.fold_in(key, t)) for t in range(4)]
    ended = jnp.zeros((4, 2), bool).at[2, 1].set(True)
    reward = jnp.arange(8.0).reshape(4, 2)
    return Transition(seen[:-1], jnp.stack(acts), reward, seen[1:], ended, jnp.zeros_like(ended))


@pytest.fixture(scope="module")
def minds():
    settings = dict(standardise=False, epochs=3, parts=2, lambda_=1.0)
    return {spec.name: ppo(spec, **SMALL, **settings) for spec in (LINE, ROAD)}


@pytest.mark.parametrize("where", ["Line", pytest.param("Road", marks=pytest.mark.slow)])
def test_a_rollout_says_what_was_done_and_what_came_of_it(minds, where):
    mind = minds[where]
    state = mind.init(jax.random.key(0))
    past = _rollout(mind, state, jax.random.key(1))
    rollout, chart = mind._looked_back(state, past)
    last = np.asarray(mind.worth(state, past.following[-1]))
    goal = np.zeros((4, 2))
    for world in range(2):
        ahead = last[world]
        for t in (3, 2, 1, 0):
            ahead = past.reward[t, world] + 0.9 * (0 if past.terminated[t, world] else ahead)
            goal[t, world] = ahead
    np.testing.assert_allclose(rollout.goals[:, 0], goal.ravel(), rtol=1e-5)  # lambda = 1
    value = mind.worth(state, past.observation.reshape(8, 2))
    np.testing.assert_allclose(rollout.deeds.advantage, goal.ravel() - value, rtol=1e-4, atol=1e-5)
    head = mind.head_of(state.spread)
    params = mind._ask(state, state.actor.circuit, past.observation.reshape(8, 2))
    chance = jax.vmap(head.log_prob)(params, rollout.deeds.action)
    np.testing.assert_allclose(rollout.deeds.log_prob, chance, rtol=1e-5)
    assert chart["entropy"] > 0
    if where == "Road":  # as the head drew them, whatever the world's units
        np.testing.assert_allclose(mind._in_world(rollout.deeds.action), past.action.reshape(8, 2))


def test_before_the_first_update_ppo_is_the_policy_gradient(minds):
    """The ratio is 1, and the surrogate's gradient is that of -A log pi."""
    mind = minds["Line"]
    state = mind.init(jax.random.key(0))
    rollout, _ = mind._looked_back(state, _rollout(mind, state, jax.random.key(1)))
    params = mind._ask(state, state.actor.circuit, rollout.inputs)
    mean = lambda cost: lambda params: jnp.mean(jax.vmap(cost)(rollout.deeds, params))
    mine, plain = mind._cost(state.spread), PolicyGradient(mind.head)
    np.testing.assert_allclose(
        jax.grad(mean(mine))(params), jax.grad(mean(plain))(params), rtol=1e-5, atol=1e-7
    )


def test_every_epoch_reads_every_row_once_in_an_order_of_its_own(minds):
    mind = minds["Line"]
    rows = dataclasses.replace(mind._blank(), goals=jnp.arange(8.0)[:, None])
    read = np.asarray(mind._batches(rows, jax.random.key(0)).goals).reshape(3, 8)
    np.testing.assert_array_equal(np.sort(read, 1), np.tile(np.arange(8), (3, 1)))
    assert len({tuple(order) for order in read}) == 3
    assert mind._batches(rows, jax.random.key(0)).goals.shape == (6, 4, 1)


@pytest.mark.slow
def test_a_spread_learns_from_surprise_and_worth_alone():
    """d C/d log sigma = -A ((a - mu)^2/sigma^2 - 1): what was far and good widens it."""
    mind = reinforce(ROAD, **SMALL)
    state = mind.init(jax.random.key(0))
    mean, action = jnp.asarray([[0.0, 0.5]]), jnp.asarray([[1.0, 0.5]])
    deeds = Deed(action, jnp.ones(1), jnp.zeros(1))
    cost = lambda spread: mind._cost(spread)(jax.tree.map(lambda leaf: leaf[0], deeds), mean[0])
    sigma = np.exp(state.spread)
    np.testing.assert_allclose(
        jax.grad(cost)(state.spread), -((np.asarray([1.0, 0.0]) / sigma) ** 2 - 1), rtol=1e-5
    )
    moved, _ = mind._spread(state, mean, deeds)
    assert moved[0] > state.spread[0] and moved[1] < state.spread[1]
    assert isinstance(mind.head_of(moved), Gaussian)


@pytest.mark.slow
def test_what_a_policy_draws_may_leave_the_box_and_what_it_chooses_may_not(minds):
    mind = minds["Road"]
    state = mind.init(jax.random.key(0))
    state = dataclasses.replace(state, spread=jnp.full(2, 1.0))
    seen = 100 * jnp.ones((50, 2))
    drawn, chosen = mind.act(state, seen, jax.random.key(0)), mind.choose(state, seen)
    assert np.abs(drawn[:, 0]).max() > 2 and np.abs(chosen[:, 0]).max() <= 2
    assert chosen[:, 1].min() >= 0 and chosen[:, 1].max() <= 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ppo(LINE, parts=3), "parts is 3: it must divide the 256 steps"),
        (lambda: ppo(LINE, clip=1.5), "clip is 1.5"),
        (lambda: ppo(LINE, epochs=0), "epochs is 0"),
        (lambda: ppo(LINE, scale=[1.0]), "scale has 1 numbers, Line shows 2"),
        (lambda: ppo(LINE, lambda_=2.0), "decay is 2.0"),
        (lambda: ppo(LINE, entropy=-1.0), "entropy is -1"),
        (lambda: reinforce(LINE, choice=4), "phi is 4"),
        (lambda: reinforce(LINE, spread=0.0), "spread is 0"),
        (lambda: Phi(3, 1.5), "discount is 1.5"),
        (lambda: GAE(0.9, -0.1), "decay is -0.1"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()
