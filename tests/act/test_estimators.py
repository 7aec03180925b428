"""Estimators: each identity they must obey, against plain sums in numpy and enumerated worlds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.act.estimators import (
    Trajectory,
    discounted_returns,
    elapsed,
    eligibility_traces,
    gae,
    lambda_returns,
    n_step_returns,
    optimal_baseline,
    phi,
    td_errors,
    td_targets,
)
from anima.core.errors import InputError

GAMMA = 0.9
LAMBDA = 0.7


@pytest.fixture
def mixed(getkey):
    """Eleven transitions: one episode terminates, one is truncated, the last is cut off."""
    r_t, v_tm1, v_t = jax.random.normal(getkey(), (3, 11))
    flags = jnp.zeros(11, bool)
    return Trajectory(r_t, v_tm1, v_t, flags.at[3].set(True), flags.at[7].set(True))


def consistent(trajectory):
    """The same with V(s_{t+1}) of one transition being V(s_t) of the next, inside an episode."""
    following = jnp.where(
        trajectory.ended.at[-1].set(True), trajectory.v_t, jnp.roll(trajectory.v_tm1, -1)
    )
    return Trajectory(
        trajectory.r_t,
        trajectory.v_tm1,
        following,
        trajectory.terminated,
        trajectory.truncated,
    )


def horizon(trajectory, t):
    """(transitions from t on that are seen, whether the last of them terminates)."""
    terminated, ended = np.asarray(trajectory.terminated), np.asarray(trajectory.ended)
    last = next((k for k in range(t, len(ended)) if ended[k]), len(ended) - 1)
    return last - t + 1, bool(terminated[last])


def n_step(trajectory, t, n):
    """G^(n)_t as a plain sum: the definition."""
    seen, terminates = horizon(trajectory, t)
    n = min(n, seen)
    total = sum(GAMMA**k * float(trajectory.r_t[t + k]) for k in range(n))
    worthless = terminates and n == seen
    return total + (0 if worthless else GAMMA**n * float(trajectory.v_t[t + n - 1]))


def averaged(trajectory, t, weights):
    """sum_n weights(n) A^(n)_t, for as many n as the weights have."""
    return sum(w * (n_step(trajectory, t, n) - float(trajectory.v_tm1[t])) for n, w in weights)


@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_n_step_returns_are_their_definition(mixed, n):
    known = [n_step(mixed, t, n) for t in range(11)]
    assert np.allclose(n_step_returns(mixed, GAMMA, n), known, rtol=1e-12)


def test_returns_are_the_longest_n_step_returns(mixed):
    known = [n_step(mixed, t, 99) for t in range(11)]
    assert np.allclose(discounted_returns(mixed, GAMMA), known, rtol=1e-12)


def test_td_targets_are_one_step_returns(mixed):
    assert np.allclose(td_targets(mixed, GAMMA), n_step_returns(mixed, GAMMA, 1))
    assert np.allclose(td_errors(mixed, GAMMA), td_targets(mixed, GAMMA) - mixed.v_tm1)


def longest(trajectory, t):
    seen, _ = horizon(trajectory, t)
    weights = [(n, (1 - LAMBDA) * LAMBDA ** (n - 1)) for n in range(1, seen)]
    return averaged(trajectory, t, [*weights, (seen, LAMBDA ** (seen - 1))])


def renormalised(trajectory, t):
    seen, terminates = horizon(trajectory, t)
    if terminates:  # A^(n) = A^(seen) for all n beyond: nothing is missing, nothing to renormalise
        return longest(trajectory, t)
    scale = (1 - LAMBDA) / (1 - LAMBDA**seen)
    weights = [(n, scale * LAMBDA ** (n - 1)) for n in range(1, seen + 1)]
    return averaged(trajectory, t, weights)


@pytest.mark.parametrize(("tail", "known"), [("longest", longest), ("renormalise", renormalised)])
def test_gae_averages_the_n_step_advantages(mixed, tail, known):
    trajectory = consistent(mixed)
    found = gae(trajectory, GAMMA, LAMBDA, tail=tail)
    assert np.allclose(found, [known(trajectory, t) for t in range(11)], rtol=1e-12)


def test_the_renormalised_tail_is_the_weighted_sum_of_td_errors(mixed):
    """sum_l gamma^l (lambda^l - lambda^T)/(1 - lambda^T) delta_l, over the truncated episode."""
    errors = np.asarray(td_errors(mixed, GAMMA))[4:8]
    powers = np.arange(4)
    weights = GAMMA**powers * (LAMBDA**powers - LAMBDA**4) / (1 - LAMBDA**4)
    assert gae(mixed, GAMMA, LAMBDA, tail="renormalise")[4] == pytest.approx(weights @ errors)


def test_gae_with_lambda_one(mixed):
    """Longest: A^(T). Renormalised: the mean of A^(1) .. A^(T) where the future is cut off."""
    trajectory = consistent(mixed)
    returns = discounted_returns(trajectory, GAMMA)
    assert np.allclose(gae(trajectory, GAMMA, 1.0), returns - trajectory.v_tm1, rtol=1e-12)
    found = gae(trajectory, GAMMA, 1.0, tail="renormalise")
    for t in range(11):
        seen, terminates = horizon(trajectory, t)
        among = [seen] if terminates else range(1, seen + 1)
        mean = averaged(trajectory, t, [(n, 1 / len(among)) for n in among])
        assert found[t] == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("tail", ["longest", "renormalise"])
def test_lambda_zero_is_the_td_error(mixed, tail):
    assert np.allclose(gae(mixed, GAMMA, 0.0, tail=tail), td_errors(mixed, GAMMA), rtol=1e-12)


def test_lambda_returns(mixed):
    """G(lambda) = A(lambda) + V, with TD(0)'s and Monte Carlo's targets as its ends."""
    trajectory = consistent(mixed)
    assert np.allclose(lambda_returns(trajectory, GAMMA, 0.0), td_targets(trajectory, GAMMA))
    assert np.allclose(
        lambda_returns(trajectory, GAMMA, 1.0), discounted_returns(trajectory, GAMMA)
    )
    known = [longest(trajectory, t) + float(trajectory.v_tm1[t]) for t in range(11)]
    assert np.allclose(lambda_returns(trajectory, GAMMA, LAMBDA), known, rtol=1e-12)


def test_the_backward_view_is_the_forward_view(mixed, getkey):
    features = jax.random.normal(getkey(), (11, 4))
    traces = eligibility_traces(mixed, features, GAMMA, LAMBDA)
    backward = jnp.einsum("t,td->d", td_errors(mixed, GAMMA), traces)
    forward = jnp.einsum("t,td->d", gae(mixed, GAMMA, LAMBDA), features)
    assert np.allclose(backward, forward, rtol=1e-10)


def test_terminated_and_truncated_differ_by_the_bootstrap(mixed):
    """The same transitions, the end being real or only the clock's."""
    swapped = Trajectory(mixed.r_t, mixed.v_tm1, mixed.v_t, mixed.truncated, mixed.terminated)
    for estimate in (
        partial(discounted_returns, discount=GAMMA),
        partial(n_step_returns, discount=GAMMA, steps=9),
        partial(gae, discount=GAMMA, decay=1.0),
    ):
        change = np.asarray(estimate(swapped) - estimate(mixed))
        known = np.zeros(11)
        known[:4] = GAMMA ** np.arange(4, 0, -1) * float(mixed.v_t[3])
        known[4:8] = -(GAMMA ** np.arange(4, 0, -1)) * float(mixed.v_t[7])
        if estimate.func is gae:  # which telescopes, and v_t here is not the next v_tm1
            change, known = change[[3, 7]], known[[3, 7]]
        assert np.allclose(change, known, rtol=1e-12)


def test_nothing_crosses_the_end_of_an_episode(mixed):
    later = Trajectory(
        mixed.r_t.at[8:].add(5.0),
        mixed.v_tm1.at[8:].add(5.0),
        mixed.v_t.at[8:].add(5.0),
        mixed.terminated,
        mixed.truncated,
    )
    for tail in ("longest", "renormalise"):
        estimate = partial(gae, discount=GAMMA, decay=LAMBDA, tail=tail)
        assert jnp.array_equal(estimate(mixed)[:8], estimate(later)[:8])
    assert jnp.array_equal(n_step_returns(mixed, GAMMA, 5)[:8], n_step_returns(later, GAMMA, 5)[:8])
    assert elapsed(mixed).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]


def episode_gradient(world, logits, choice, steps, discounted):
    """sum over all episodes of p(episode) sum_tau Phi_tau grad log pi(a_tau|s_tau)."""
    states, actions, lengths = world.episodes()
    value, action_value = world.values(logits)
    policy, layers = world.policy(logits), jnp.arange(states.shape[1])

    def one(states, actions, length):
        here = (layers, states, actions)
        lands = jnp.where(layers == length - 1, world.move.shape[-1] - 1, jnp.roll(states, -1))
        live = layers < length
        chance = policy[here] * world.move[(*here, lands)]
        following = jnp.roll(states, -1)
        ends = layers == length - 1
        trajectory = Trajectory(
            world.reward[here], value[layers, states], value[layers + 1, following], ends, ~live
        )
        weights = phi(
            choice,
            trajectory,
            world.discount,
            q_tm1=action_value[here],
            steps=steps,
            discount_state_distribution=discounted,
        )
        scores = (
            jnp.zeros_like(logits)
            .at[layers, states]
            .add(
                jnp.where(live, weights, 0.0)[:, None]
                * (jax.nn.one_hot(actions, 2) - policy[layers, states])
            )
        )
        return jnp.prod(jnp.where(live, chance, 1.0)) * scores

    return jnp.sum(jax.jit(jax.vmap(one))(states, actions, lengths), axis=0)


def value_gradient(world, logits):
    """The gradient of V at the first state, by central differences."""

    def value(flat):
        return world.values(flat.reshape(logits.shape))[0][0, world.begin]

    steps = 1e-5 * jnp.eye(logits.size)
    flat = logits.ravel()[None]
    rise = jax.vmap(value)(flat + steps) - jax.vmap(value)(flat - steps)
    return (rise / 2e-5).reshape(logits.shape)


@pytest.mark.parametrize(
    ("choice", "steps"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (6, 2)]
)
def test_every_phi_gives_the_gradient_of_v(world, getkey, choice, steps):
    logits = jax.random.normal(getkey(), world.reward.shape)
    known = value_gradient(world, logits)
    found = episode_gradient(world, logits, choice, steps, True)
    assert np.allclose(found, known, atol=1e-9)
    assert jnp.max(jnp.abs(known)) > 0.01


def test_without_the_discounted_distribution_late_states_count_fully(world, getkey):
    """Each layer's part of the gradient is then larger by gamma^-layer, and so is no gradient."""
    logits = jax.random.normal(getkey(), world.reward.shape)
    known = value_gradient(world, logits)
    found = episode_gradient(world, logits, 5, 1, False)
    growth = (world.discount ** -jnp.arange(3.0))[:, None, None]
    assert np.allclose(found, known * growth, atol=1e-9)


def test_the_first_phi_is_the_return_from_the_start(mixed):
    returns = np.asarray(discounted_returns(mixed, GAMMA))
    known = np.repeat(returns[[0, 4, 8]], [4, 4, 3])
    assert np.allclose(phi(1, mixed, GAMMA), known)
    assert np.allclose(phi(1, mixed, GAMMA, discount_state_distribution=True), known)


def test_the_optimal_baseline_has_the_least_variance(getkey):
    returns, scores = jax.random.normal(getkey(), (2, 50))
    best = optimal_baseline(returns, scores**2)

    def spread(baseline):
        return jnp.mean(((returns - baseline) * scores) ** 2)

    assert jax.grad(spread)(best) == pytest.approx(0, abs=1e-12)
    assert spread(best) < min(spread(best + 0.1), spread(best - 0.1))


def test_a_batch_is_a_vmap(mixed):
    pair = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), mixed)
    both = jax.vmap(lambda trajectory: gae(trajectory, GAMMA, LAMBDA))(pair)
    assert jnp.allclose(both[0], gae(mixed, GAMMA, LAMBDA), rtol=1e-12)


def rlax_estimates(rlax, trajectory):
    """rlax's own numbers for one unbroken stretch, cut off at its end."""
    discount = jnp.full(3, GAMMA)
    values = jnp.append(trajectory.v_tm1, trajectory.v_t[-1])
    advantages = rlax.truncated_generalized_advantage_estimation(
        trajectory.r_t, discount, LAMBDA, values
    )
    lambdas = rlax.lambda_returns(trajectory.r_t, discount, trajectory.v_t, LAMBDA)
    steps = rlax.n_step_bootstrapped_returns(trajectory.r_t, discount, trajectory.v_t, 2)
    returns = rlax.discounted_returns(trajectory.r_t, discount, trajectory.v_t)
    return advantages, lambdas, steps, returns


@pytest.mark.promotes
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rlax_agrees(mixed):
    reason = "rlax is not installed: it needs a nightly TensorFlow Probability (pip install rlax)"
    rlax = pytest.importorskip("rlax", reason=reason)
    stretch = jax.tree.map(lambda x: x[8:], consistent(mixed))
    ours = (
        gae(stretch, GAMMA, LAMBDA),
        lambda_returns(stretch, GAMMA, LAMBDA),
        n_step_returns(stretch, GAMMA, 2),
        discounted_returns(stretch, GAMMA),
    )
    for mine, theirs in zip(ours, rlax_estimates(rlax, stretch), strict=True):
        assert np.allclose(mine, theirs, rtol=1e-6)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda t: gae(t, 1.2, 0.9), "discount is 1.2"),
        (lambda t: gae(t, 0.9, -0.1), "decay is -0.1"),
        (lambda t: gae(t, 0.9, 0.9, tail="longst"), "did you mean 'longest'"),
        (lambda t: n_step_returns(t, 0.9, 0), "steps is 0"),
        (lambda t: phi(7, t, 0.9), "no choice 7"),
        (lambda t: phi(4, t, 0.9), "give q_tm1"),
        (lambda t: Trajectory(t.r_t[:3], t.v_t, t.v_t, t.ended, t.ended), "lengths differ"),
    ],
)
def test_bad_input_is_named(mixed, make, words):
    with pytest.raises(InputError, match=words):
        make(mixed)
