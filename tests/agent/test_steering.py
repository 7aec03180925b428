"""Continuous control: dQ/da arrives at the action without a derivative through the critic."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.agent import DDPG, SAC
from anima.agent.classic import ddpg, sac, svg0, synapse
from anima.agent.classic.steering import along
from anima.agent.life import decided
from anima.core.errors import InputError
from anima.settle.solvers import Euler
from anima.world.env import Continuous, Discrete, Spec, blank

ROAD = Spec("Road", 3, Continuous((-2.0, 0.0), (2.0, 1.0)), 9)
SMALL = dict(hidden=(6, 5), every=1, batch=4, capacity=20, warmup=2, steps=20)
SETTLED = dict(step=0.01, solver=Euler(0.2), max_steps=400)


def _climbed(assigner, credit=None):
    """(value, slope) that `climb` gives, and autodiff's, of two critics."""
    mind = sac(ROAD, assigner=assigner, credit=credit, **SMALL)
    critics = [mind.critic.init(jax.random.key(i)).circuit for i in range(2)]
    seen = jax.random.normal(jax.random.key(3), (16, 3))
    action = jax.random.uniform(jax.random.key(4), (16, 2), minval=-1.0)
    climb = lambda: mind.climb(critics, seen, action, jax.random.key(5))

    def least(action, seen):
        inputs = {"input": jnp.concatenate([seen, action])}
        answers = [mind.critic.assigner.answer(circuit, inputs)[0] for circuit in critics]
        return jnp.min(jnp.stack(answers))

    found = jax.jit(climb)()
    return found, jax.vmap(jax.value_and_grad(least))(action, seen)


@pytest.mark.parametrize(
    ("assigner", "credit", "gap"),
    [("backprop", {}, 1e-6), ("zil", {}, 1e-5), ("predictive", SETTLED, 3e-3)],
)
def test_the_pressure_on_an_action_is_autodiffs_slope_of_the_lesser_critic(assigner, credit, gap):
    (value, slope), (wanted, true) = _climbed(assigner, credit)
    np.testing.assert_allclose(value, wanted, atol=1e-5)
    np.testing.assert_allclose(slope, true, atol=gap)
    assert np.abs(true).max() > 0.1 and slope.shape == (16, 2)


@pytest.mark.parametrize("recipe", [ddpg, svg0, sac])
def test_an_actor_that_climbs_the_pressure_follows_the_critic_itself(recipe):
    """The cost -<dQ/da, a(output)> has the slope of -Q(a(output)), entropy apart."""
    mind = recipe(ROAD, assigner="backprop", **SMALL)
    critic = lambda action: jnp.sin(2 * action[0]) + action[0] * action[1]
    key, alpha = jax.random.key(2), jnp.asarray(0.3)
    params = jnp.linspace(-0.5, 0.4, mind.conduct.head.width)
    action, _ = mind.conduct.mean_to(params, key)
    target = mind.conduct.target(jax.grad(critic)(action), key)
    cost = mind.conduct.cost(alpha)

    def whole(params):
        action, chance = mind.conduct.mean_to(params, key)
        return (alpha if recipe is not ddpg else 0.0) * chance - critic(action)

    found = jax.grad(lambda params: cost(target, params))(params)
    np.testing.assert_allclose(found, jax.grad(whole)(params), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(along(jnp.ones(2), action), jnp.sum(action), rtol=1e-6)


@pytest.mark.slow
def test_targets_bootstrap_through_truncation_only_and_pay_for_certainty():
    mind = sac(ROAD, assigner="backprop", discount=0.5, temperature=0.2, **SMALL)
    state = mind.init(jax.random.key(0))
    past = blank(ROAD, 4)._replace(
        reward=jnp.asarray([1.0, 1.0, 1.0, 2.0]),
        terminated=jnp.asarray([False, True, False, True]),
        truncated=jnp.asarray([False, False, True, False]),
    )
    sample = dataclasses.replace(
        mind._sample(state, jax.random.key(0)), transition=past, discount=jnp.full(4, 0.5)
    )
    _, goal = mind._goals(state, sample, jax.random.key(1))
    seen = jnp.zeros((4, 3))
    params = mind.actor.ask(state.skill.actor.circuit, seen)
    keys = jax.random.split(jax.random.key(1), 4)
    then, chance = jax.vmap(mind.conduct.mean_to)(params, keys)
    ahead = jnp.min(mind._values(state.skill.slow, seen, then), 0) - 0.2 * chance
    wanted = past.reward + 0.5 * jnp.asarray([1.0, 0.0, 1.0, 0.0]) * ahead
    np.testing.assert_allclose(goal, wanted, rtol=1e-5)


def test_a_temperature_rises_while_the_policy_is_too_certain():
    mind = sac(ROAD, assigner="backprop", temperature=0.2, certainty=1.0, **SMALL)
    skill = mind.init(jax.random.key(0)).skill
    at = lambda chance: mind._heat(skill, jnp.asarray(chance))[0]
    assert at(5.0) > skill.log_temperature > at(-5.0)
    fixed = sac(ROAD, assigner="backprop", adapt=False, **SMALL)
    assert fixed._heat(skill, jnp.asarray(5.0))[0] == skill.log_temperature


@pytest.mark.slow
def test_before_the_warmup_any_action_is_tried_and_nothing_changes():
    mind = ddpg(ROAD, assigner="backprop", noise=0.0, **SMALL | dict(warmup=10))
    state = mind.init(jax.random.key(0))
    seen = jnp.zeros((200, 3))
    tried = mind.act(state, seen, jax.random.key(1))
    assert tried[:, 0].min() < -1.8 and tried[:, 0].max() > 1.8 and tried[:, 1].min() >= 0
    ready = dataclasses.replace(state, step=jnp.asarray(10))
    np.testing.assert_allclose(mind.act(ready, seen, jax.random.key(1)), mind.choose(state, seen))
    after, _ = jax.jit(mind.learn)(state, blank(ROAD, 1, 1), jax.random.key(0))
    before, now = jax.tree.leaves(state.skill.critics), jax.tree.leaves(after.skill.critics)
    for a, b in zip(before, now, strict=True):
        if not jnp.issubdtype(jnp.asarray(a).dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DDPG("CartPole-v1"), "ddpg steers by continuous actions, CartPole-v1 takes 2 act"),
        (lambda: SAC("CartPole-v1"), "use dqn, ppo, reinforce or angc"),
        (lambda: svg0(Spec("Line", 2, Discrete(3), 9)), "Line takes 3 actions"),
        (lambda: synapse(Spec("Line", 2, Discrete(3), 9)), "Line takes 3 actions"),
        (lambda: ddpg(ROAD, noise=-1.0), "noise is -1"),
        (lambda: ddpg(ROAD, batch=0), "batch is 0"),
        (lambda: sac(ROAD, temperature=0.0), "temperature is 0"),
        (lambda: sac(ROAD, discount=1.5), "discount is 1.5"),
        (lambda: svg0(ROAD, least_spread=0.0), "least_spread is 0"),
        (lambda: synapse(ROAD, lambda_=2.0), "lambda_ is 2"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_noise_that_persists_keeps_its_deviation_and_remembers_itself():
    """An AR(1): its deviation grows to `noise`, its correlation is rho a step; an episode begins
    without what the last one ended with."""
    mind = ddpg(ROAD, assigner="backprop", noise=0.05, persistence=0.9, **SMALL)
    state = dataclasses.replace(mind.init(jax.random.key(0)), step=jnp.asarray(100))
    seen = jnp.zeros((500, 3))
    meant = mind.spec.action.code(mind.choose(state, seen))

    def step(thought, key):
        action, thought = mind.decide(state, thought, seen, key, explore=True)
        return thought, mind.spec.action.code(action) - meant

    keys = jax.random.split(jax.random.key(1), 60)
    _, noise = jax.lax.scan(step, mind.afresh(500), keys)
    assert noise.shape == (60, 500, 2)
    np.testing.assert_allclose(noise[0].std(), 0.05 * np.sqrt(1 - 0.9**2), rtol=0.1)
    np.testing.assert_allclose(noise[-1].std(), 0.05, rtol=0.1)
    together = jnp.mean(noise[-1] * noise[-2]) / jnp.mean(noise[-2] ** 2)
    np.testing.assert_allclose(together, 0.9, atol=0.05)
    thought, begun = jnp.full((500, 2), 0.5), jnp.arange(500) < 250
    _, after = decided(mind, state, thought, seen, begun, keys[0])
    np.testing.assert_allclose(jnp.mean(after[:250]), 0.0, atol=0.01)
    np.testing.assert_allclose(jnp.mean(after[250:]), 0.45, atol=0.01)
    with pytest.raises(InputError, match="persistence is 1"):
        ddpg(ROAD, persistence=1.0, **SMALL)
