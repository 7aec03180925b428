"""The REINFORCE synapse: what it expects to learn is the policy's gradient, and what it is not."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.act.estimators import Trajectory, discounted_returns, gae, td_errors
from anima.act.heads import Gaussian
from anima.act.reinforce import Reinforce
from anima.act.reinforce_parity import ReinforceParity
from anima.circuit.predictive import Predictive
from anima.core.errors import InputError
from anima.core.functions import sigmoid, tanh
from anima.learn.assigners import Backprop
from anima.learn.costs import SquaredError

INPUTS, ACTIONS = 3, 2


@pytest.fixture(params=["learnt", "fixed"])
def synapse(request, getkey):
    """One synapse that learns sigma and one that does not, weights of both signs."""
    std = 0.7 if request.param == "fixed" else None
    columns = ACTIONS * (1 if std else 2)
    weights = 0.5 * jax.random.normal(getkey(), (INPUTS, columns))
    return Reinforce(weights, activation=tanh, transfer=sigmoid, std=std, rate=0.1)


@pytest.fixture
def inputs(getkey):
    return jax.random.normal(getkey(), (INPUTS,))


def quadrature(order=12):
    """Noises (points, ACTIONS) and weights: exact means of polynomials under N(0, 1)^2."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    weights = weights / weights.sum()
    noise = np.asarray(list(itertools.product(nodes, repeat=ACTIONS)))
    weight = np.prod(list(itertools.product(weights, repeat=ACTIONS)), axis=1)
    return jnp.asarray(noise), jnp.asarray(weight)


def drawn_by(synapse, inputs, noise):
    mean, std = synapse.policy(inputs)
    return mean + std * noise


def bandit(action):
    """A reward with one best action, as a polynomial."""
    return -jnp.sum((action - jnp.asarray([0.9, -0.4])) ** 2) + action[0] * action[1]


def test_the_score_is_the_gradient_of_the_log_probability(synapse, inputs, getkey):
    """Three local factors, against autodiff through the whole policy."""
    drawn = jax.random.normal(getkey(), (ACTIONS,))
    log_prob = lambda weights, inputs: dataclasses.replace(synapse, weights=weights).log_prob(
        inputs, drawn
    )
    known = jax.jit(jax.grad(log_prob, argnums=(0, 1)))(synapse.weights, inputs)
    for mine, theirs in zip(synapse.score(inputs, drawn), known, strict=True):
        assert np.allclose(mine, theirs, rtol=1e-10)


def test_its_policy_is_a_gaussian_head(synapse, inputs, getkey):
    mean, std = synapse.policy(inputs)
    drawn = jax.random.normal(getkey(), (ACTIONS,))
    head = Gaussian(ACTIONS, log_std=jnp.log(std))
    assert np.allclose(synapse.log_prob(inputs, drawn), head.log_prob(mean, drawn))


def test_the_score_of_a_clipped_sigma_is_zero(inputs):
    """Where log sigma is held at its bound, W_sigma cannot move it."""
    weights = jnp.concatenate([jnp.ones((INPUTS, 2)), jnp.asarray([[9.0, 0.1]] * 3)], axis=1)
    synapse = Reinforce(weights)
    here = jnp.asarray([0.4, 0.5, 0.6])  # drives log sigma to 13.5 and .15
    score = synapse.score(here, jnp.asarray([0.3, 0.3]))[0]
    assert jnp.all(score[:, 2] == 0) and jnp.all(score[:, 3] != 0)
    assert float(synapse.policy(here)[1][0]) == pytest.approx(np.exp(2))


def test_the_expected_update_is_the_gradient_of_the_expected_reward(synapse, inputs):
    """E[r(o) score(o)] = grad E[r(o)] on a bandit, both by exact quadrature."""
    noise, weight = quadrature()

    def value(weights):
        there = dataclasses.replace(synapse, weights=weights)
        return weight @ jax.vmap(lambda xi: bandit(drawn_by(there, inputs, xi)))(noise)

    def credit(xi):
        drawn = drawn_by(synapse, inputs, xi)
        return bandit(drawn) * synapse.score(inputs, drawn)[0]

    known = jax.jit(jax.grad(value))(synapse.weights)
    found = jnp.einsum("n,nij->ij", weight, jax.jit(jax.vmap(credit))(noise))
    assert np.allclose(found, known, rtol=1e-9, atol=1e-12)
    assert jnp.max(jnp.abs(known)) > 0.01


def test_the_reward_credits_the_action_that_was_carried_out(synapse, inputs, getkey):
    """However late it comes: what changes is rate x reward x score of that action."""
    state, action = synapse.act(synapse.init(), inputs, getkey())
    score = synapse.score(inputs, action)[0]
    assert np.allclose(state.eligibility, score)
    changed, after = synapse.reinforce(state, -1.5)
    assert np.allclose(changed.weights - synapse.weights, -0.1 * 1.5 * score)
    assert int(after.steps) == 0 and jnp.all(after.accumulated == 0)


def test_learning_from_a_bandit_raises_the_reward(inputs, getkey):
    """The whole loop, compiled: act, hear, change; a baseline is subtracted."""
    synapse = Reinforce.dense(INPUTS, ACTIONS, key=getkey(), std=0.3, rate=0.02)

    def live(carry, key):
        synapse, state, baseline = carry
        state, action = synapse.act(state, inputs, key)
        reward = bandit(action)
        synapse, state = synapse.reinforce(state, reward - baseline)
        return (synapse, state, 0.9 * baseline + 0.1 * reward), reward

    start = (synapse, synapse.init(), jnp.zeros(()))
    rewards = jax.jit(lambda keys: jax.lax.scan(live, start, keys)[1])
    rewards = rewards(jax.random.split(getkey(), 2000))
    best = jax.grad(bandit)  # zero at the best action
    optimum = bandit(-jnp.linalg.solve(jax.hessian(bandit)(jnp.zeros(2)), best(jnp.zeros(2))))
    assert float(jnp.mean(rewards[-200:])) > float(optimum) - 0.45
    assert float(jnp.mean(rewards[-200:])) > float(jnp.mean(rewards[:50])) + 0.3


def life(synapse, observations, key):
    """The eligibility before each reward, and the score of each act, along one episode."""
    state, traces, scores = synapse.init(), [], []
    for step, here in enumerate(observations):
        before = state.eligibility
        state, _ = synapse.act(state, here, jax.random.fold_in(key, step))
        traces.append(state.eligibility)
        scores.append(state.eligibility - synapse.decay * before)
    return jnp.stack(traces), jnp.stack(scores)


def test_a_discounted_trace_credits_every_action_with_its_return(getkey):
    """sum_t r_t e_t = sum_t G_t score_t for decay gamma; with TD errors and gamma lambda, GAE's."""
    observations = jax.random.normal(getkey(), (6, INPUTS))
    rewards, values = jax.random.normal(getkey(), (2, 6))
    ends = jnp.arange(6) == 5
    trajectory = Trajectory(rewards, values, jnp.roll(values, -1), ends, jnp.zeros(6, bool))
    weights = 0.3 * jax.random.normal(getkey(), (INPUTS, ACTIONS))
    for decay, heard, worth in (
        (0.9, rewards, discounted_returns(trajectory, 0.9)),
        (0.9 * 0.8, td_errors(trajectory, 0.9), gae(trajectory, 0.9, 0.8)),
    ):
        synapse = Reinforce(weights, std=0.5, decay=decay)
        traces, scores = life(synapse, observations, getkey())
        backward = jnp.einsum("t,tij->ij", heard, traces)
        forward = jnp.einsum("t,tij->ij", worth, scores)
        assert np.allclose(backward, forward, rtol=1e-10)


def test_while_the_mask_is_off_gradients_accumulate_and_weights_rest(synapse, inputs, getkey):
    """Then the mean of all is applied at once, and the count begins again."""
    here, state, scores = synapse, synapse.init(), []
    for learn, reward in ((False, 1.0), (False, -2.0), (True, 0.5)):
        state, action = here.act(state, inputs, getkey())
        scores.append(reward * synapse.score(inputs, action)[0])
        before, counted = here.weights, int(state.steps)
        here, state = here.reinforce(state, reward, learn=learn)
        if not learn:
            assert jnp.array_equal(here.weights, before)
            assert int(state.steps) == counted + 1
            assert np.allclose(state.accumulated, sum(scores))
    assert np.allclose(here.weights - synapse.weights, 0.1 * sum(scores) / 3)
    assert int(state.steps) == 0 and jnp.all(state.accumulated == 0)


def test_an_episodes_end_clears_what_is_eligible(inputs, getkey):
    synapse = Reinforce.dense(INPUTS, ACTIONS, key=getkey(), decay=0.9)
    state, _ = synapse.act(synapse.init(), inputs, getkey())
    kept, gone = (synapse.reinforce(state, 1.0, ended=ended)[1] for ended in (False, True))
    assert jnp.array_equal(kept.eligibility, state.eligibility)
    assert jnp.all(gone.eligibility == 0)


def test_a_reset_has_the_shape_of_the_weights(synapse, inputs, getkey):
    state, _ = synapse.act(synapse.init(), inputs, getkey())
    shapes = lambda state: jax.tree.map(jnp.shape, state)
    assert shapes(synapse.init()) == shapes(state)
    assert synapse.init().eligibility.shape == synapse.weights.shape


def test_the_soft_bound_slows_what_goes_out_and_speeds_what_comes_back(inputs, getkey):
    """dW = rate g (1 - sign(g) W/bound): nothing beyond it, and no sign is favoured."""
    weights = jnp.asarray([[0.9, -0.9], [0.0, 0.5], [-0.5, 0.1]])
    free = Reinforce(weights, std=0.5, rate=0.01)
    soft = dataclasses.replace(free, bound=1.0)
    state, _ = free.act(free.init(), inputs, getkey())
    change = free.reinforce(state, 1.0)[0].weights - weights
    room = 1 - jnp.sign(change) * weights
    assert np.allclose(soft.reinforce(state, 1.0)[0].weights - weights, change * room)
    for reward in (1e6, -1e6):
        far = soft.reinforce(state, reward)[0].weights
        assert jnp.max(jnp.abs(far)) <= 1 and jnp.min(far) < 0 < jnp.max(far)


def test_a_target_passes_down_what_the_action_wanted(synapse, getkey):
    """A circuit below that learns 1/2 |x - target|^2 follows the gradient of -reward log p."""
    below = Predictive.mlp([2, 4, INPUTS], activation="tanh", key=getkey())
    clamp = {"input": jax.random.normal(getkey(), (2,))}

    @jax.jit
    def both(key):
        hidden = below.start(clamp)["output"]
        state, action = synapse.act(synapse.init(), hidden, key)
        wanted = partial(SquaredError(), synapse.target(state, hidden, -0.8))
        through = lambda hidden: 0.8 * synapse.log_prob(hidden, action)
        return [Backprop().gradient(below, clamp, c, key=key)[0] for c in (wanted, through)]

    local, known = both(getkey())
    pairs = zip(jax.tree.leaves(local), jax.tree.leaves(known), strict=True)
    assert all(np.allclose(mine, theirs, rtol=1e-9) for mine, theirs in pairs)


def test_stacked_synapses_need_only_the_common_reward(getkey):
    """Each one's own score times the same reward is the gradient of the whole stack's value."""
    normal = lambda *shape: jax.random.normal(getkey(), shape) / 2
    lower = Reinforce(normal(INPUTS, ACTIONS), transfer=tanh, std=0.4)
    upper = Reinforce(normal(ACTIONS, 1), std=0.6)
    inputs, best = jax.random.normal(getkey(), (INPUTS,)), 0.7
    noise, weight = quadrature(8)
    top, top_weight = (jnp.asarray(a) for a in np.polynomial.hermite_e.hermegauss(4))
    top_weight = top_weight / jnp.sum(top_weight)

    def value(weights):
        def one(xi, last):
            hidden = drawn_by(dataclasses.replace(lower, weights=weights), inputs, xi)
            return -jnp.sum((drawn_by(upper, hidden, last) - best) ** 2)

        return weight @ jax.vmap(lambda xi: jax.vmap(partial(one, xi))(top))(noise) @ top_weight

    def credit(xi, last):
        hidden = drawn_by(lower, inputs, xi)
        reward = -jnp.sum((drawn_by(upper, hidden, last) - best) ** 2)
        return reward * lower.score(inputs, hidden)[0]

    each = jax.jit(jax.vmap(lambda xi: jax.vmap(partial(credit, xi))(top)))(noise)
    found = jnp.einsum("n,m,nmij->ij", weight, top_weight, each)
    assert np.allclose(found, jax.jit(jax.grad(value))(lower.weights), rtol=1e-9)


# The published synapse's slips, each shown there and shown absent here.


def published(weights, inputs, rewards, *, learn=1.0, seed=3, **settings):
    rule = ReinforceParity(**settings)
    state = rule.init(weights, jax.random.PRNGKey(seed))
    return rule.step(state, inputs[None], jnp.asarray([rewards]), learn)


def test_weights_are_signed_here_and_rest_while_nothing_is_learnt(inputs, getkey):
    weights = jnp.asarray([[-0.5, 0.2], [0.3, -0.4], [2.0, -0.1]])
    after, _ = published(weights, inputs, 0.0, learn=0.0)
    assert jnp.array_equal(after.weights, jnp.clip(weights, 0, 1))
    synapse = Reinforce(weights)
    state, _ = synapse.act(synapse.init(), inputs, getkey())
    assert jnp.array_equal(synapse.reinforce(state, 0.0)[0].weights, weights)


def test_sigma_may_be_below_one(inputs):
    """With non-negative inputs the published weights cannot bring log sigma below zero."""
    weights = jnp.concatenate([jnp.zeros((INPUTS, 1)), -jnp.ones((INPUTS, 1))], axis=1)
    here = jnp.abs(inputs)
    after, _ = published(weights, here, 0.0)
    assert float(Reinforce(after.weights).policy(here)[1][0]) == 1
    assert float(Reinforce(weights).policy(here)[1][0]) < 1


def test_a_reward_is_not_given_to_an_action_drawn_after_it(inputs, getkey):
    """There the gradient is reward x score of the new action; here, of the one that earned it."""
    weights = jnp.abs(jax.random.normal(getkey(), (INPUTS, 2)))
    after, first = published(weights, inputs, 0.0, learn=0.0, bound=9.0)
    rule = ReinforceParity(bound=9.0)
    _, second = rule.step(after, inputs[None], jnp.asarray([2.0]), 0.0)
    synapse = Reinforce(weights)
    earned, fresh = (0.02 * synapse.score(inputs, info.actions[0])[0] for info in (first, second))
    assert np.allclose(second.gradient, fresh)
    assert not np.allclose(earned, fresh, rtol=0.1)
    state, action = synapse.act(synapse.init(), inputs, getkey())
    changed = synapse.reinforce(state, 2.0)[0].weights - weights
    assert np.allclose(changed, 1e-2 * 2.0 * synapse.score(inputs, action)[0])


def test_a_clipped_action_is_scored_as_it_was_drawn(inputs, getkey):
    """E[score] = 0 holds for what was drawn; scoring what is left after clipping is biased."""
    weights = 0.3 * jax.random.normal(getkey(), (INPUTS, ACTIONS))
    synapse = Reinforce(weights, std=0.6, low=-0.1, high=0.4)
    noise, weight = quadrature(40)
    mean_score = lambda act: jnp.einsum(
        "n,nij->ij",
        weight,
        jax.vmap(lambda xi: synapse.score(inputs, act(drawn_by(synapse, inputs, xi)))[0])(noise),
    )
    assert np.allclose(mean_score(lambda drawn: drawn), 0, atol=1e-12)
    assert jnp.max(jnp.abs(mean_score(lambda drawn: jnp.clip(drawn, -0.1, 0.4)))) > 0.05
    key = getkey()
    state, action = synapse.act(synapse.init(), inputs, key)
    free = dataclasses.replace(synapse, low=-jnp.inf, high=jnp.inf)
    unbounded, drawn = free.act(free.init(), inputs, key)
    assert jnp.array_equal(state.eligibility, unbounded.eligibility)
    assert np.allclose(action, np.clip(drawn, -0.1, 0.4)) and not np.allclose(action, drawn)


def test_a_published_reset_forgets_the_seed(inputs):
    weights = jnp.ones((INPUTS, 2)) / 2
    rule = ReinforceParity()
    keys = [rule.reset(rule.init(weights, jax.random.PRNGKey(seed))).key for seed in (1, 2)]
    assert jnp.array_equal(*keys)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Reinforce(jnp.ones((2, 3))), "even number of columns"),
        (lambda: Reinforce(jnp.ones((2, 2)), std=0.0), "std is 0"),
        (lambda: Reinforce(jnp.ones((2, 2)), rate=0.0), "rate is 0"),
        (lambda: Reinforce(jnp.ones((2, 2)), decay=1.5), "decay is 1.5"),
        (lambda: Reinforce(jnp.ones((2, 2)), bound=-1.0), "bound is -1"),
        (lambda: Reinforce(jnp.ones((2, 2)), low=1.0, high=0.0), "low"),
        (lambda: Reinforce.dense(0, 2, key=jax.random.key(0)), "inputs is 0"),
    ],
)
def test_bad_settings_are_named(make, words):
    with pytest.raises(InputError, match=words):
        make()
