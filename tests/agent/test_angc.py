"""Active NGC: what surprises the generator rewards the actor."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.agent.angc import angc
from anima.agent.life import lives
from anima.core.errors import InputError
from anima.world.env import Continuous, Spec

SMALL = dict(
    hidden=(12,),
    settling=10,
    rate=0.01,
    generator_rate=0.01,
    rule="adam",
    every=4,
    batch=16,
    capacity=200,
    warmup=40,
    discount=0.5,
    polyak=0.1,
    steps=1600,
)


@pytest.fixture(scope="module")
def lived(corridor):
    mind = angc(corridor.spec, epistemic=1.0, **SMALL)
    life = lives(mind, dataclasses.replace(corridor, prize=0.0), [0])
    first, _ = life.advance(20)
    last, _ = life.advance(200)
    return mind, life, first, last


@pytest.mark.slow
def test_the_generator_learns_to_foresee_and_then_is_surprised_no_more(lived):
    _, life, first, last = lived
    assert np.mean(last["foresight"][0, -20:]) < 0.2 * np.mean(first["foresight"][0, 10:])
    assert np.mean(last["epistemic"][0, -20:]) < 0.5 * np.mean(first["epistemic"][0, :5])
    aligned = life.alignment()
    assert set(aligned) == {"alignment", "generator_alignment"}


@pytest.mark.slow
def test_novelty_is_the_discrepancy_over_its_running_maximum(lived):
    mind, life, *_ = lived
    state = life.one(0).mind
    sample = mind.actor.sample(state.actor, jax.random.key(0)).transition
    novelty, largest = mind.novelty(state, sample)
    assert novelty.shape == (16,) and float(novelty.min()) >= 0 and float(novelty.max()) <= 1
    by_hand = [
        mind._discrepancy(
            state.generator.circuit,
            jnp.concatenate([mind.spec.action.code(sample.action[i]), sample.observation[i]]),
            sample.following[i],
        )
        for i in (0, 7)
    ]
    np.testing.assert_allclose(np.asarray(novelty)[[0, 7]] * largest, by_hand, rtol=2e-3)
    odd = sample._replace(following=1 - sample.following)  # what never happens
    strange, grown = mind.novelty(state, odd)
    assert float(grown) > float(largest) or float(strange.mean()) > float(novelty.mean())


def test_the_epistemic_reward_reaches_the_actor(lived):
    """In a world that pays nothing, what is replayed pays what surprised."""
    _, life, *_ = lived
    reward = np.asarray(life.one(0).mind.actor.replay.rows.reward)
    assert reward.min() >= 0 and reward.max() > 0


def test_in_the_exact_form_credit_is_backprops(corridor):
    life = lives(angc(corridor.spec, assigner="fixed-prediction", **SMALL), corridor, [0])
    life.advance(15)
    aligned = life.alignment()
    for name in ("alignment", "generator_alignment"):
        np.testing.assert_allclose(aligned[name], 1, atol=1e-5)


def test_ablated_it_is_a_q_learner_alone(corridor):
    mind = angc(corridor.spec, epistemic=0.0, **SMALL)
    life = lives(mind, corridor, [0])
    before = jax.tree.leaves(life.one(0).mind.generator.circuit.synapses)
    before = [np.asarray(leaf) for leaf in before]
    charts, _ = life.advance(15)
    assert "epistemic" not in charts
    after = jax.tree.leaves(life.one(0).mind.generator.circuit.synapses)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(assigner="ncg"), "unknown assigner"),
        (dict(assigner="eqprop"), "without error units"),
        (dict(epistemic=-1.0), "epistemic is -1"),
        (dict(forget=2.0), "forget is 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(corridor, settings, said):
    with pytest.raises(InputError, match=said):
        angc(corridor.spec, **settings)


def test_a_continuous_world_is_refused():
    with pytest.raises(InputError, match="continuous"):
        angc(Spec("Pull", 1, Continuous((-1.0,), (1.0,)), 10))
