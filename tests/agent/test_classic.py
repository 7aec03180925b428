"""Deep Q-learning: what it aims at, and that every assigner finds the values of a small world."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.agent.angc import angc
from anima.agent.body import FORMS, body
from anima.agent.classic import Fading, Straight, Values, ddpg, dqn, ppo, reinforce, sac, svg0
from anima.agent.life import lives
from anima.agent.mind import alignment
from anima.core.errors import InputError
from anima.learn.assigners import Backprop
from anima.learn.optimisers import Average
from anima.world.env import Continuous, Discrete, Spec, Transition, blank, make
from anima.world.replay import Sample

SPEC = Spec("Line", 1, Discrete(2), 100)
# "Circuits" are tables here: the value of action a in state 0 (before) and state 1 (after).
ONLINE, SLOW = jnp.asarray([[0.0, 0.5], [3.0, 4.0]]), jnp.asarray([[0.0, 0.0], [7.0, 5.0]])


def _ask(table, observation):
    return table[observation[:, 0].astype(int)]


def _sample(terminated=False, truncated=False, reward=1.0, weight=1.0, discount=0.5):
    past = Transition(
        observation=jnp.zeros((1, 1)),
        action=jnp.ones(1, jnp.int32),
        reward=jnp.full(1, reward),
        following=jnp.ones((1, 1)),
        terminated=jnp.full(1, terminated),
        truncated=jnp.full(1, truncated),
    )
    zero = jnp.zeros((1, 2), jnp.int32)
    return Sample(past, jnp.full(1, discount), zero, jnp.full(1, weight))


@pytest.mark.parametrize(
    ("values", "sample", "goal"),
    [
        (dict(double=True, polyak=0.1), {}, 1 + 0.5 * 5),  # online chooses, slow judges
        (dict(double=False, polyak=0.1), {}, 1 + 0.5 * 7),
        (dict(double=False, polyak=1.0), {}, 1 + 0.5 * 4),  # no slow circuit
        (dict(double=True, polyak=0.1), dict(terminated=True), 1.0),
        (dict(double=True, polyak=0.1), dict(truncated=True), 1 + 0.5 * 5),
    ],
)
def test_the_goal_is_the_bellman_one(values, sample, goal):
    values = Values(discount=0.5, returns=1, clip=100.0, **values)
    wanted, error, value = values.targets(_ask, ONLINE, SLOW, _sample(**sample))
    np.testing.assert_allclose(error, [goal - 0.5], rtol=1e-6)
    np.testing.assert_allclose(wanted, [[0.0, goal]], rtol=1e-6)  # only what was done is corrected
    np.testing.assert_allclose(value, [[0.0, 0.5]])


def test_circuits_are_asked_only_what_the_goal_needs():
    """The online circuit makes something of what follows only if it is to choose there."""
    for double, polyak, rows in ((True, 0.1, (2, 1)), (False, 0.1, (1, 1)), (False, 1.0, (2, 0))):
        asked = {"online": 0, "slow": 0}

        def ask(who, observation, asked=asked):
            asked[who] += len(observation)
            return _ask(ONLINE, observation)

        values = Values(discount=0.5, returns=1, clip=1.0, double=double, polyak=polyak)
        values.targets(ask, "online", "slow", _sample())
        assert tuple(asked.values()) == rows


def test_the_step_towards_the_goal_is_clipped_and_weighted():
    values = Values(discount=0.5, returns=1, clip=1.0, double=True, polyak=0.1)
    wanted, error, _ = values.targets(_ask, ONLINE, SLOW, _sample(weight=0.25))
    np.testing.assert_allclose(wanted, [[0.0, 0.5 + 0.25]])
    np.testing.assert_allclose(error, [3.0])  # the surprise itself is whole


def test_epsilon_falls_as_it_says():
    line, fade = Straight(1.0, 0.1, 100), Fading(1.0, 0.1, 0.5)
    at = lambda curiosity, step, episodes: float(
        curiosity.epsilon(jnp.asarray(step), jnp.asarray(episodes))
    )
    near = lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-6)
    near([at(line, step, 9) for step in (0, 50, 100, 500)], [1, 0.55, 0.1, 0.1])
    near([at(fade, 7, episodes) for episodes in (0, 1, 2, 9)], [1, 0.5, 0.25, 0.1])


QUICK = ("predictive",)
EVERY = [
    pytest.param(form, marks=[pytest.mark.slow] * (form not in QUICK)) for form in sorted(FORMS)
]


@pytest.mark.parametrize("assigner", EVERY)
def test_every_assigner_finds_the_values_of_the_corridor(corridor, assigner):
    """Values, discounting and the policy of a world where all three are known."""
    mind = dqn(
        corridor.spec,
        assigner=assigner,
        hidden=(16,),
        rate=0.02,
        schedule="constant",
        steps=1200,
        every=4,
        batch=16,
        capacity=200,
        warmup=40,
        discount=0.5,
        polyak=0.1,
        epsilon_end=0.5,
    )
    life = lives(mind, corridor, [1])
    charts, _ = life.advance(300)
    state = life.one(0).mind
    found = mind._ask(state, state.learner.circuit, jnp.eye(2))
    np.testing.assert_allclose(found, [[0.25, 0.5], [0.5, 1.0]], atol=0.08)
    assert mind.choose(state, jnp.eye(2)).tolist() == [1, 1]
    assert {"surprise", "value", "cost", "residual", "epsilon"} <= set(charts)


@pytest.mark.slow
def test_alignment_is_one_for_backprop_and_less_for_others(corridor):
    for assigner, low, high in (("backprop", 1 - 1e-5, 1 + 1e-5), ("ngc", -1.0, 0.99)):
        mind = dqn(corridor.spec, assigner=assigner, hidden=(8,), every=4, batch=8, steps=99)
        life = lives(mind, corridor, [2])
        state = life.one(0).mind
        past = blank(corridor.spec, 4, 1)._replace(
            observation=jax.random.normal(jax.random.key(0), (4, 1, 2)), reward=jnp.ones((4, 1))
        )
        state = dataclasses.replace(state, replay=state.replay.push(past))
        found = float(jax.jit(mind.alignment)(state, jax.random.key(1))["alignment"])
        assert low <= found <= high


def test_contrasted_phases_around_a_prediction_give_its_gradient():
    inputs, targets = (jax.random.normal(jax.random.key(i), (8, n)) for i, n in ((0, 4), (1, 2)))
    for credit, least in (({"nudged_steps": 40}, 0.99), ({}, 0.93)):
        draw, assigner = body("eqprop-predictive", (4, 16, 16, 2), credit=credit)
        circuit = draw(jax.random.key(2))
        found = jax.jit(alignment)(circuit, assigner, inputs, targets, jax.random.key(3))
        assert found > least
        free, ahead = (_answers(rule, circuit, inputs) for rule in (assigner, Backprop()))
        np.testing.assert_allclose(free, ahead, rtol=1e-5)


def _answers(assigner, circuit, inputs):
    return jax.vmap(lambda seen: assigner.answer(circuit, {"input": seen}))(inputs)


def test_nothing_is_learnt_before_the_warmup_is_over(corridor):
    mind = dqn(
        corridor.spec, assigner="backprop", hidden=(4,), every=2, batch=4, warmup=8, steps=99
    )
    life = lives(mind, corridor, [0])
    before = jax.tree.leaves(life.one(0).mind.learner.circuit)
    before = [np.asarray(leaf) for leaf in before]
    life.advance(3)
    same = lambda: all(
        np.array_equal(a, b)
        for a, b in zip(before, jax.tree.leaves(life.one(0).mind.learner.circuit), strict=True)
    )
    assert same()
    life.advance(3)
    assert not same()


@pytest.mark.parametrize(
    ("recipe", "where"),
    [
        (dqn, lambda mind: mind.learner),
        pytest.param(ppo, lambda mind: mind.actor, marks=pytest.mark.slow),
        pytest.param(ddpg, lambda mind: mind.skill.actor, marks=pytest.mark.slow),
    ],
)
def test_it_is_judged_by_averaged_synapses_and_lives_by_the_latest(recipe, where, corridor):
    world = corridor if recipe is not ddpg else make("Pendulum-v1")
    settings: Any = dict(assigner="backprop", hidden=(4,), every=4, rate=0.01, steps=99)
    more = {} if recipe is ppo else dict(batch=4, warmup=8)
    more |= dict(epsilon=0.0, epsilon_end=0.0) if recipe is dqn else {}
    mind = recipe(world.spec, average=1.0, **settings, **more)
    life = lives(mind, world, [0])
    life.advance(400)
    state = life.one(0).mind
    seen = jax.random.normal(jax.random.key(1), (5000, world.spec.observation))
    latest = dataclasses.replace(where(state), optimiser=())  # nothing averaged in it
    without = eqx.tree_at(where, state, latest)
    judged, lived = mind.choose(state, seen), mind.choose(without, seen)
    assert not np.array_equal(judged, lived)
    acted, same = (mind.act(s, seen, jax.random.key(0)) for s in (state, without))
    np.testing.assert_array_equal(acted, same)
    kept = mind.circuits(state)["actor"]
    for one, other in zip(_leaves(kept), _leaves(where(state).answering), strict=True):
        np.testing.assert_array_equal(one, other)


def _leaves(circuit):
    return jax.tree.leaves(eqx.filter(circuit, eqx.is_array))


@pytest.mark.parametrize("recipe", [dqn, angc, ppo, reinforce, ddpg, svg0, sac])
def test_every_agent_that_takes_an_average_keeps_one_of_what_acts(recipe):
    world = make("Pendulum-v1" if recipe in (ddpg, svg0, sac) else "CartPole-v1")
    kept = lambda node: isinstance(node, Average)
    for average, count in ((0.0, 0), (0.1, 1)):
        mind = recipe(world.spec, assigner="backprop", hidden=(4,), average=average)
        state = jax.eval_shape(lambda: mind.init(jax.random.key(0)))  # noqa: B023
        assert sum(map(kept, jax.tree.leaves(state, is_leaf=kept))) == count


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(assigner="eqpro"), "did you mean 'eqprop'"),
        (dict(discount=1.5), "discount is 1.5"),
        (dict(batch=0), "batch is 0"),
        (dict(scale=(1.0, 2.0)), "scale has 2 numbers"),
        (dict(credit={"max_step": 3}), "max_step"),
        (dict(hidden=(0,)), "positive integers"),
        (dict(every=5, capacity=3), "capacity is 3|at least"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        mind = dqn(SPEC, **settings)
        jax.eval_shape(mind.init, jax.random.key(0))


def test_a_continuous_world_is_refused():
    with pytest.raises(InputError, match="1 continuous actions"):
        dqn(Spec("Pull", 1, Continuous((-1.0,), (1.0,)), 10))
