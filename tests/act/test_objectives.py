"""Objectives: analytic gradients, the optima that theory names, and costs under a learner."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import solve_discrete_are, solve_discrete_lyapunov

from anima.act.heads import Categorical, Gaussian, SquashedGaussian
from anima.act.objectives import (
    ActionValue,
    Chosen,
    ClippedSurrogate,
    Deed,
    DeterministicActor,
    Drawn,
    ExpectedActor,
    Huber,
    PolicyGradient,
    StochasticActor,
    improved_policy,
    q_target,
    soft_target,
    td_target,
    temperature_cost,
)
from anima.circuit.predictive import Predictive
from anima.core.errors import InputError
from anima.core.types import Result
from anima.learn.assigners import Backprop, EquilibriumPropagation
from anima.learn.costs import SquaredError
from anima.learn.learner import Learner
from anima.settle.solvers import Euler

TRUE, FALSE = jnp.asarray(True), jnp.asarray(False)


def slope(cost, target, output):
    return jax.jit(jax.grad(partial(cost, target)))(output)


@pytest.mark.parametrize("advantage", [1.7, -0.6])
def test_the_policy_gradient_of_a_categorical_head(getkey, advantage):
    """d(-A log softmax_a)/dlogits = A (pi - e_a)."""
    logits, action = jax.random.normal(getkey(), (4,)), jnp.asarray(2)
    found = slope(PolicyGradient(Categorical(4)), Deed(action, jnp.asarray(advantage)), logits)
    assert np.allclose(found, advantage * (jax.nn.softmax(logits) - jax.nn.one_hot(2, 4)))


@pytest.mark.parametrize("advantage", [1.7, -0.6])
def test_the_policy_gradient_of_a_gaussian_head(getkey, advantage):
    """-A (a - mu)/sigma^2 in mu and -A (((a - mu)/sigma)^2 - 1) in log sigma."""
    params, action = jax.random.normal(getkey(), (4,)), jax.random.normal(getkey(), (2,))
    found = slope(PolicyGradient(Gaussian(2)), Deed(action, jnp.asarray(advantage)), params)
    mean, std = np.asarray(params[:2]), np.exp(np.asarray(params[2:]))
    surprise = (np.asarray(action) - mean) / std
    known = -advantage * np.concatenate([surprise / std, surprise**2 - 1])
    assert np.allclose(found, known)


def test_the_entropy_bonus_flattens_a_policy(getkey):
    """d(-H)/dlogits_a = pi_a (log pi_a + H)."""
    logits, head = jax.random.normal(getkey(), (4,)), Categorical(4)
    deed = Deed(jnp.asarray(0), jnp.asarray(0.0), head.log_prob(logits, jnp.asarray(0)))
    log_pi = np.asarray(jax.nn.log_softmax(logits))
    known = 0.3 * np.exp(log_pi) * (log_pi - np.sum(np.exp(log_pi) * log_pi))
    for cost in (PolicyGradient(head, entropy=0.3), ClippedSurrogate(head, entropy=0.3)):
        assert np.allclose(slope(cost, deed, logits), known)


@pytest.mark.parametrize("head", [Categorical(2), Gaussian(1, log_std=0.0)], ids=["cat", "gauss"])
def test_the_clipped_surrogate(head):
    """-min(rho A, clip(rho) A); no gradient where rho has left on the side that A pushes to."""
    action = jnp.asarray(1) if isinstance(head, Categorical) else jnp.asarray([0.8])
    params = jnp.asarray([0.3, -0.2])[: head.width]
    advantage, ratio = (a.ravel() for a in np.meshgrid([2.0, -2.0], [0.5, 0.9, 1.1, 1.5]))

    @jax.jit
    @jax.vmap
    def read(advantage, ratio):
        deed = Deed(action, advantage, head.log_prob(params, action) - jnp.log(ratio))
        return jax.value_and_grad(partial(ClippedSurrogate(head), deed))(params)

    cost, found = read(advantage, ratio)
    assert np.allclose(cost, -np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage))
    left = np.where(advantage > 0, ratio > 1.2, ratio < 0.8)
    score = np.asarray(jax.grad(head.log_prob)(params, action))
    assert np.all(np.asarray(found)[left] == 0)
    assert np.allclose(found[~left], -(ratio * advantage)[~left, None] * score)


@pytest.mark.float32
def test_the_clipped_side_never_overflows():
    """rho = exp(200) is infinite in float32; a positive advantage must not see it."""
    head, deed = Gaussian(1, log_std=0.0), Deed(jnp.zeros(1), jnp.asarray(1.0), jnp.asarray(-200.0))
    assert float(ClippedSurrogate(head)(deed, jnp.zeros(1))) == pytest.approx(-1.2)
    assert jnp.array_equal(slope(ClippedSurrogate(head), deed, jnp.ones(1)), jnp.zeros(1))


def test_huber_is_quadratic_near_and_linear_far():
    cost, target = Huber(delta=0.5), jnp.zeros(4)
    output = jnp.asarray([0.2, -0.4, 3.0, -2.0])
    known = 0.02 + 0.08 + 0.5 * (3 - 0.25) + 0.5 * (2 - 0.25)
    assert float(cost(target, output)) == pytest.approx(known)
    assert np.allclose(slope(cost, target, output), np.clip(output, -0.5, 0.5))
    assert np.allclose(slope(cost, target, target), 0)


@pytest.mark.parametrize("loss", [Huber(), SquaredError()], ids=["huber", "squared"])
def test_only_the_chosen_action_learns(getkey, loss):
    values = jax.random.normal(getkey(), (4,)) / 3
    found = slope(ActionValue(loss), Chosen(jnp.asarray(1), values[1] - 0.4), values)
    assert np.allclose(found, [0, 0.4, 0, 0])


def test_targets():
    """r + gamma v; r alone at a termination; the double estimate reads what the other one chose."""
    q, online = jnp.asarray([1.0, 3.0, 2.0]), jnp.asarray([0.0, 1.0, 5.0])
    reward = jnp.asarray(0.5)
    assert float(td_target(reward, FALSE, 0.9, q[0])) == pytest.approx(1.4)
    assert float(q_target(reward, FALSE, 0.9, q)) == pytest.approx(0.5 + 0.9 * 3)
    assert float(q_target(reward, FALSE, 0.9, q, online)) == pytest.approx(0.5 + 0.9 * 2)
    soft = soft_target(reward, FALSE, 0.9, q[1:], jnp.asarray(-0.7), 0.2)
    assert float(soft) == pytest.approx(0.5 + 0.9 * (2 + 0.2 * 0.7))
    for ended in (
        td_target(reward, TRUE, 0.9, q[0]),
        q_target(reward, TRUE, 0.9, q),
        soft_target(reward, TRUE, 0.9, q[1:], jnp.asarray(-0.7), 0.2),
    ):
        assert float(ended) == 0.5


def test_the_bellman_operator_of_the_target_contracts(getkey):
    """|TQ - TQ'| <= gamma |Q - Q'| in the largest entry, and equal for a constant difference."""
    move = jax.nn.softmax(jax.random.normal(getkey(), (5, 3, 5)))
    reward = jax.random.normal(getkey(), (5, 3))

    @jax.jit
    def operate(q):
        def one(reward, move):
            following = jax.vmap(lambda q: q_target(reward, FALSE, 0.9, q))(q)
            return move @ following

        return jax.vmap(jax.vmap(one))(reward, move)

    first, second = jax.random.normal(getkey(), (2, 5, 3))
    far = lambda a, b: float(jnp.max(jnp.abs(a - b)))
    assert 0 < far(operate(first), operate(second)) <= 0.9 * far(first, second)
    assert np.allclose(operate(first + 2) - operate(first), 0.9 * 2)


@pytest.fixture
def linear(getkey):
    """A linear system with quadratic costs: (A, B, Q, R) and a gain that keeps it stable."""
    a = np.asarray([[1.05, 0.2], [-0.1, 0.9]])
    b = np.asarray([[0.3], [1.0]])
    return a, b, np.diag([1.0, 0.5]), np.asarray([[0.2]]), np.asarray([[0.1, 0.3]])


def improve(actor, critic_matrix):
    """The gain K of the action -K x that minimises a deterministic actor's cost at every x."""
    critic = lambda x, u: -jnp.concatenate([x, u]) @ critic_matrix @ jnp.concatenate([x, u])
    cost = actor(critic)

    def best(x):
        start = jnp.zeros(1)
        return start - jnp.linalg.solve(
            jax.hessian(partial(cost, x))(start), jax.grad(partial(cost, x))(start)
        )

    return -jax.vmap(best)(jnp.eye(2)).T


def test_the_actor_that_minimises_the_ddpg_cost_is_riccatis(linear):
    """Policy iteration (Hewer, 1971): exact critic, then the actor's cost, until nothing moves."""
    a, b, q, r, gain = linear
    gamma = 0.95
    actor = partial(DeterministicActor, Gaussian(1, log_std=0.0))
    for _ in range(8):
        closed = np.sqrt(gamma) * (a - b @ gain)
        worth = solve_discrete_lyapunov(closed.T, q + gain.T @ r @ gain)
        both = np.concatenate([a, b], axis=1)
        stage = np.block([[q, np.zeros((2, 1))], [np.zeros((1, 2)), r]])
        gain = np.asarray(improve(actor, jnp.asarray(stage + gamma * both.T @ worth @ both)))
    riccati = solve_discrete_are(np.sqrt(gamma) * a, np.sqrt(gamma) * b, q, r)
    known = np.linalg.solve(r + gamma * b.T @ riccati @ b, gamma * b.T @ riccati @ a)
    assert np.allclose(gain, known, rtol=1e-9)


def test_svg_follows_the_critic_through_the_drawn_action(getkey):
    """d(-Q(mu + sigma xi)) = -Q'(a) (1, sigma xi): at the Riccati action its mean is zero in mu."""
    head, key, params = Gaussian(1), getkey(), jnp.asarray([0.4, -0.7])
    cost = StochasticActor(head, lambda x, u: jnp.sum(-((u - x) ** 2)))
    found = slope(cost, Drawn(jnp.asarray([0.1]), key), params)
    action = float(head.sample(params, key)[0])
    known = 2 * (action - 0.1) * np.asarray([1, action - 0.4])
    assert np.allclose(found, known)


def test_ddpg_reads_the_mode():
    head = SquashedGaussian(Gaussian(1, log_std=0.0))
    cost = DeterministicActor(head, lambda x, u: jnp.sum(x * u))
    found = slope(cost, jnp.asarray([3.0]), jnp.asarray([0.5]))
    assert np.allclose(found, -3 * (1 - np.tanh(0.5) ** 2))


def test_sacs_optimum_over_actions_is_the_boltzmann_policy(getkey):
    """C >= -alpha log sum exp(Q/alpha), with equality and no slope at pi ~ exp(Q/alpha)."""
    q, alpha = jax.random.normal(getkey(), (5,)), 0.4
    cost = partial(ExpectedActor(Categorical(5), alpha), q)
    best = q / alpha + 3
    least = -alpha * float(jax.nn.logsumexp(q / alpha))
    assert float(cost(best)) == pytest.approx(least)
    assert np.allclose(jax.grad(cost)(best), 0, atol=1e-12)
    others = jax.jit(jax.vmap(cost))(best[None] + jax.random.normal(getkey(), (50, 5)) / 10)
    assert jnp.all(others > least)


def test_sacs_optimum_over_a_continuum(getkey):
    """Q = -h (a - m)^2/2: N(m, alpha/h). There the gradient is (0, alpha (xi^2 - 1)) plus noise in
    mu of mean zero, and log pi - Q/alpha is the same for every action."""
    alpha, stiff, best = 0.3, 2.0, 0.6
    head = Gaussian(1)
    params = jnp.asarray([best, np.log(alpha / stiff) / 2])
    critic = lambda x, u: -stiff * jnp.sum((u - best) ** 2) / 2
    cost = StochasticActor(head, critic, alpha)
    keys = jax.random.split(getkey(), 20)
    each = jax.jit(jax.vmap(lambda key: slope(cost, Drawn(None, key), params)))
    found, actions = each(keys), jax.vmap(lambda key: head.sample(params, key))(keys)
    noise = (actions[:, 0] - best) / jnp.exp(params[1])
    known = jnp.stack([stiff * (actions[:, 0] - best), alpha * (noise**2 - 1)], axis=1)
    assert np.allclose(found, known)
    gap = jax.vmap(lambda a: head.log_prob(params, a) - critic(None, a) / alpha)(actions)
    assert np.allclose(gap, gap[0])


@pytest.mark.parametrize(("log_prob", "sign"), [(2.0, -1), (-2.0, 1)])
def test_the_temperature_rises_while_there_is_too_little_entropy(log_prob, sign):
    """Target entropy 0: log pi = 2 says the entropy is -2, so descent must raise alpha."""
    log_alpha, log_prob = jnp.asarray(0.5), jnp.asarray(log_prob)
    found = jax.grad(temperature_cost)(log_alpha, log_prob, 0.0)
    assert float(found) == pytest.approx(-np.exp(0.5) * float(log_prob))
    assert np.sign(float(found)) == sign
    assert float(jax.grad(temperature_cost, argnums=1)(log_alpha, log_prob, 0.0)) == 0


@pytest.mark.parametrize("beta", [0.0, 1e-3, 1.0, 1e3])
def test_the_improved_policy_is_optimal(getkey, beta):
    """It sums to 1, and beta Q + pi_old/pi is one number nu on its support: the KKT condition."""
    old = jax.nn.softmax(3 * jax.random.normal(getkey(), (6,)))
    q = jax.random.normal(getkey(), (6,))
    new = improved_policy(old, q, beta)
    nu = beta * q + old / new
    assert abs(float(jnp.sum(new)) - 1) < 1e-12
    assert float(jnp.ptp(nu)) < 1e-9 * max(1, beta)
    assert jnp.all(new > 0)


def test_the_improved_policy_for_a_weak_preference(getkey):
    """pi_old (1 + beta A) + O(beta^2): the error falls fourfold as beta halves."""
    old = jax.nn.softmax(jax.random.normal(getkey(), (5,)))
    q = jax.random.normal(getkey(), (5,))
    advantage = q - old @ q
    gaps = [
        float(jnp.max(jnp.abs(improved_policy(old, q, beta) - old * (1 + beta * advantage))))
        for beta in (0.02, 0.01)
    ]
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.05)


def test_the_improved_policy_beats_every_other(getkey):
    old, q = jax.nn.softmax(jax.random.normal(getkey(), (5,))), jax.random.normal(getkey(), (5,))
    gain = lambda new: 2.0 * new @ q + old @ jnp.log(new)
    best = improved_policy(old, q, 2.0)
    others = jnp.log(best)[None] + jax.random.normal(getkey(), (100, 5)) / 20
    assert jnp.all(jax.vmap(gain)(jax.nn.softmax(others, axis=-1)) < gain(best))


def test_an_impossible_action_stays_impossible():
    """Its worth, however large, must not count either."""
    new = improved_policy(jnp.asarray([0.5, 0.0, 0.5]), jnp.asarray([0.0, 100.0, 1.0]), 1.0)
    alone = improved_policy(jnp.asarray([0.5, 0.5]), jnp.asarray([0.0, 1.0]), 1.0)
    assert float(new[1]) == 0 and np.allclose(new[jnp.asarray([0, 2])], alone)


@pytest.mark.promotes
def test_a_learner_takes_deeds_as_targets(getkey):
    """One step of SGD on a batch of deeds is one step of the mean policy gradient."""
    circuit = Predictive.mlp([3, 4, 2], activation="tanh", key=getkey())
    inputs = jax.random.normal(getkey(), (6, 3))
    deeds = Deed(jnp.arange(6) % 2, jax.random.normal(getkey(), (6,)))
    cost = PolicyGradient(Categorical(2))
    learner = Learner(circuit, Backprop(), cost, optax.sgd(0.1))
    state, info = eqx.filter_jit(learner.step)(learner.init(getkey()), ({"input": inputs}, deeds))

    def loss(synapses):
        sweep = dataclasses.replace(circuit, synapses=synapses).start
        output = jax.vmap(lambda x: sweep({"input": x})["output"])(inputs)
        return jnp.mean(jax.vmap(cost)(deeds, output))

    value, slope = jax.jit(jax.value_and_grad(loss))(circuit.synapses)
    assert float(info.cost) == pytest.approx(float(value))
    by_hand = jax.tree.map(lambda w, g: w - 0.1 * g, circuit.synapses, slope)
    learnt = jax.tree.leaves(state.circuit.synapses)
    assert all(map(np.allclose, learnt, jax.tree.leaves(by_hand)))


def test_a_local_assigner_takes_a_policys_cost(getkey):
    """EqProp's centred contrast approaches the gradient of -A log pi, for either sign of A."""
    circuit = Predictive.mlp([2, 3, 2], activation="tanh", key=getkey())
    clamp = {"input": jax.random.normal(getkey(), (2,))}
    local = EquilibriumPropagation(beta=1e-3, solver=Euler(0.2), nudged_steps=400)

    @jax.jit
    @jax.vmap
    def credits(advantage):
        cost = partial(PolicyGradient(Categorical(2)), Deed(jnp.asarray(1), advantage))
        rules = (local, Backprop())
        return [rule.gradient(circuit, clamp, cost, key=jax.random.key(0)) for rule in rules]

    (mine, info), (exact, _) = credits(jnp.asarray([1.2, -1.2]))
    assert jnp.all(info.result != Result.NONFINITE)
    for found, known in zip(jax.tree.leaves(mine), jax.tree.leaves(exact), strict=True):
        assert np.allclose(found, known, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ClippedSurrogate(Categorical(2), clip=1.5), "clip is 1.5"),
        (lambda: PolicyGradient(Categorical(2), entropy=-1.0), "entropy is -1"),
        (lambda: Huber(delta=0.0), "delta is 0"),
        (lambda: StochasticActor(Categorical(2), lambda x, u: u), "ExpectedActor"),
        (lambda: StochasticActor(Gaussian(1), lambda x, u: u, -1.0), "temperature is -1"),
        (lambda: ExpectedActor(Categorical(2), -1.0), "temperature is -1"),
        (lambda: improved_policy(jnp.ones(1), jnp.ones(1), -1.0), "beta is -1"),
        (
            lambda: ClippedSurrogate(Categorical(2))(
                Deed(jnp.asarray(0), jnp.asarray(1.0)), jnp.zeros(2)
            ),
            "give log_prob",
        ),
    ],
)
def test_bad_settings_are_named(make, words):
    with pytest.raises(InputError, match=words):
        make()
