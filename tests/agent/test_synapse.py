"""The REINFORCE synapse as an agent: it credits what was done, and passes a target down."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.agent.classic import synapse
from anima.world.env import Continuous, Spec, Transition

ROAD = Spec("Road", 2, Continuous((-2.0,), (2.0,)), 9)
SMALL = dict(assigner="backprop", hidden=(4,), features=3, every=3, worlds=2, steps=60)


@pytest.fixture(scope="module")
def lived():
    """A mind, its state, and three steps in two worlds, the first of which ends at its second."""
    mind = synapse(ROAD, discount=0.9, lambda_=0.5, **SMALL)
    state = mind.init(jax.random.key(0))
    seen = jax.random.normal(jax.random.key(1), (4, 2, 2))
    acts = jnp.stack([mind.act(state, seen[t], jax.random.key(t)) for t in range(3)])
    ended = jnp.zeros((3, 2), bool).at[1, 0].set(True)
    reward = jnp.asarray([[1.0, -1.0], [0.5, 0.2], [-0.3, 0.1]])
    return mind, state, Transition(seen[:-1], acts, reward, seen[1:], ended, ~ended & False)


def test_a_cycle_is_the_synapses_own_acts_and_rewards(lived):
    """By hand: each world's trace and rewards, the weights the mean of both worlds'."""
    mind, state, past = lived
    features = mind._features(state, past.observation)
    error, _, value = mind._judged(state, past)
    wanted, targets = [], np.zeros((3, 2, 3))
    for world in range(2):
        one, trace = state.synapse, state.synapse.init()
        for t in range(3):
            drawn, x = past.action[t, world] / 2, features[t, world]
            trace = one.eligible(trace, x, drawn)
            targets[t, world] = one.target(trace, x, error[t, world])
            over = past.ended[t, world]
            one, trace = one.reinforce(trace, error[t, world], learn=t == 2, ended=over)
        wanted.append(one.weights)
    found, _, passed = mind._reinforced(state, features, past.action / 2, error, past.ended)
    np.testing.assert_allclose(found.weights, np.mean(wanted, 0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(passed, targets, rtol=1e-5, atol=1e-6)
    ahead = mind.worth(state, past.following[1])
    np.testing.assert_allclose(error[1, 0], past.reward[1, 0] - value[1, 0], rtol=1e-5)
    np.testing.assert_allclose(
        error[1, 1], past.reward[1, 1] + 0.9 * ahead[1] - value[1, 1], rtol=1e-4
    )


@pytest.mark.slow
def test_learning_moves_synapse_body_and_critic_and_keeps_the_last_targets(lived):
    mind, state, past = lived
    after, chart = jax.jit(mind.learn)(state, past, jax.random.key(0))
    assert np.abs(after.synapse.weights - state.synapse.weights).max() > 0
    for name in ("body", "critic"):
        weights = lambda s, name=name: getattr(s, name).circuit.synapses["input->h1"].weight
        assert np.abs(weights(after) - weights(state)).max() > 0
    assert after.targets.shape == (6, 3) and chart["surprise"] > 0
    aligned = mind.alignment(after, jax.random.key(0))["alignment"]
    np.testing.assert_allclose(aligned, 1, rtol=1e-4)


@pytest.mark.slow
def test_a_fixed_sigma_is_not_learnt():
    mind = synapse(ROAD, std=0.25, **SMALL)
    state = mind.init(jax.random.key(0))
    assert state.synapse.weights.shape == (3, 1)
    drawn = mind.act(state, jnp.zeros((2000, 2)), jax.random.key(0))
    np.testing.assert_allclose(np.std(drawn), 0.5, rtol=0.05)  # of half the range of 2
    still = dataclasses.replace(state.synapse, weights=jnp.zeros((3, 1)))
    calm = dataclasses.replace(state, synapse=still)
    np.testing.assert_allclose(mind.choose(calm, jnp.ones((1, 2))), 0, atol=1e-6)
