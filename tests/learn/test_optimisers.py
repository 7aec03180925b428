"""Optimisers: rates reach their layers, schedules their steps, and nonsense nobody."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anima import (
    NGC,
    Backprop,
    FixedPrediction,
    Hopfield,
    InputError,
    Learner,
    NGCRule,
    Predictive,
    SquaredError,
    optimiser,
)
from anima.circuit.image import Convolution
from anima.learn.optimisers import averaging, least_squares

SIZES = [3, 5, 4, 2]
KEY = jax.random.key(0)


def ones(circuit):
    return jax.tree.map(jnp.ones_like, circuit.parameters()[0])


def updates(circuit, count=1, **options):
    """What a constant gradient of ones turns into, step by step."""
    fitted = optimiser(circuit, **options)
    learnt, credit = circuit.parameters()[0], ones(circuit)
    memory, found = fitted.init(learnt), []
    for _ in range(count):
        update, memory = fitted.update(credit, memory, learnt)
        found.append(update)
    return found


def number(update) -> float:
    """The value of an update that is the same everywhere in an array."""
    value = np.unique(np.asarray(update))
    np.testing.assert_allclose(value, value[0])
    return float(value[0])


@pytest.mark.parametrize("family", [Hopfield, Predictive, NGC])
def test_each_layer_has_its_rate(family):
    """A parameter belongs to the node that its synapse leads to."""
    options = dict(bias=True) if family is NGC else {}
    (update,) = updates(family.mlp(SIZES, key=KEY, **options), rate=[0.3, 0.2, 0.1])
    want = {"input->h1": -0.3, "h1->h2": -0.2, "h2->output": -0.1}
    assert {name: number(s.weight) for name, s in update.synapses.items()} == pytest.approx(want)
    if family is NGC:
        back = {name: number(s.weight) for name, s in update.feedback.items()}
        assert back == pytest.approx(want)
    want = {"h1": -0.3, "h2": -0.2, "output": -0.1}
    biases = {name: number(b) for name, b in update.biases.items() if name != "input"}
    assert biases == pytest.approx(want)


@pytest.mark.parametrize("rate", [0.01, [0.01, 0.02, 0.03]])
def test_a_roots_bias_learns_at_the_first_layers_rate(rate):
    """A learnt prior mean must not move at rate 1."""
    for circuit in (Predictive.mlp(SIZES, prior=True, key=KEY), Hopfield.mlp(SIZES, key=KEY)):
        (update,) = updates(circuit, rate=rate)
        assert number(update.biases["input"]) == pytest.approx(-0.01)


@pytest.mark.promotes
@pytest.mark.parametrize(
    ("rule", "want"),
    [
        ("sgd", [-0.1, -0.1, -0.1]),
        ("momentum", [-0.1, -0.19, -0.271]),
        ("adam", [-0.1, -0.1, -0.1]),
        ("rmsprop", [-0.1 / np.sqrt(0.1), -0.1 / np.sqrt(0.19), -0.1 / np.sqrt(0.271)]),
    ],
)
def test_rules_by_hand(rule, want):
    found = updates(Hopfield.mlp([3, 2], key=KEY), 3, rule=rule, rate=0.1)
    got = [number(update.biases["output"]) for update in found]
    assert got == pytest.approx(want, rel=1e-6)


@pytest.mark.promotes
@pytest.mark.parametrize(
    ("schedule", "want"),
    [
        ("constant", np.ones(6)),
        ("cosine", (1 + np.cos(np.pi * np.arange(6) / 6)) / 2),
        ("exponential", 0.99 ** np.asarray([0, 0, 1, 1, 2, 2])),
    ],
)
def test_schedules_by_hand(schedule, want):
    """Three epochs of two steps."""
    circuit = Hopfield.mlp([3, 2], key=KEY)
    found = updates(circuit, 6, rate=0.5, schedule=schedule, epochs=3, per_epoch=2)
    got = [number(update.biases["output"]) for update in found]
    np.testing.assert_allclose(got, -0.5 * want, rtol=1e-6, atol=1e-12)


def test_decay_is_of_synapses_only_and_at_the_current_rate():
    circuit = NGC.mlp(SIZES, bias=True, key=KEY)
    found = updates(
        circuit, 3, rate=[0.3, 0.2, 0.1], decay=0.5, schedule="exponential", per_epoch=2, epochs=2
    )
    for update, shape in zip(found, (1, 1, 0.99), strict=True):
        for field in ("synapses", "feedback"):
            for name, rate in (("input->h1", 0.3), ("h1->h2", 0.2), ("h2->output", 0.1)):
                weight = getattr(circuit, field)[name].weight
                want = -shape * rate * (1 + 0.5 * weight)
                got = getattr(update, field)[name].weight
                np.testing.assert_allclose(got, want, rtol=1e-6)
        assert number(update.biases["h1"]) == pytest.approx(-0.3 * shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rule="sdg"), "unknown rule 'sdg': did you mean 'sgd'"),
        (dict(schedule="cosin"), "did you mean 'cosine'"),
        (dict(rate=0.0), "rate of h1 is 0.0: it must be positive"),
        (dict(rate=[0.1, -0.1, 0.1]), "rate of h2 is -0.1"),
        (dict(rate=[0.1, 0.1]), "2 rates for 3 layers"),
        (dict(decay=-0.1), "decay is -0.1"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        optimiser(Hopfield.mlp(SIZES, key=KEY), **options)


@pytest.mark.parametrize("share", [0.25, pytest.param(1.0, marks=pytest.mark.slow)])
def test_what_answers_is_the_average_over_the_last_share(share):
    """The parameters of a learner as each update found them, averaged as the formula says."""
    circuit = Predictive.mlp(SIZES, key=KEY)
    learner = Learner(
        circuit, Backprop(), SquaredError(), optimiser(circuit, rate=0.01, average=share)
    )
    state = learner.init(KEY)
    batch = {"input": jnp.ones((2, 3))}, jnp.ones((2, 2))
    first: Any = lambda circuit: np.asarray(circuit.synapses["input->h1"].weight)
    weights = []
    for _ in range(40):
        weights.append(first(state.circuit))
        state, _ = learner.step(state, batch)
    mean = weights[0]
    for step, weight in enumerate(weights, 1):
        mean = mean + (weight - mean) / max(share * step, 1)
    found = first(state.answering)
    np.testing.assert_allclose(found, mean, rtol=1e-4)
    if share == 1:
        np.testing.assert_allclose(found, np.mean(weights, 0), rtol=1e-4)
    assert not np.allclose(found, first(state.circuit), rtol=1e-3)


@pytest.mark.promotes
def test_averaging_changes_nothing_that_is_learnt_and_without_it_the_latest_answers():
    circuit = NGC.mlp(SIZES, bias=True, key=KEY)
    batch = {"input": jnp.ones((2, 3))}, jnp.ones((2, 2))
    learnt = {}
    for average in (0.0, 0.1):
        rule = optimiser(circuit, rule="adam", rate=0.01, frobenius=True, average=average)
        learner = Learner(circuit, NGCRule(), SquaredError(), rule)
        state = learner.init(KEY)
        for _ in range(3):
            state, _ = learner.step(state, batch)
        learnt[average] = state
    one, other = (learnt[share].circuit.parameters()[0] for share in (0.0, 0.1))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert learnt[0.0].answering is learnt[0.0].circuit


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_what_moves_in_a_line_is_averaged_where_its_weights_say(share):
    """Weights t^(1/share - 1) on theta_t = t have their mean at T / (1 + share)."""
    trace, theta = averaging(share), jnp.zeros(())
    memory = trace.init(theta)
    for _ in range(1000):
        theta, memory = theta + 1, trace.update(theta, memory, theta)[1]
    np.testing.assert_allclose(memory.mean, 1000 / (1 + share), rtol=0.01)


def test_a_share_to_average_over_is_no_more_than_all():
    with pytest.raises(InputError, match=r"average is 1\.5"):
        optimiser(Hopfield.mlp(SIZES, key=KEY), average=1.5)


def told(count: int, key=KEY) -> tuple[jax.Array, jax.Array]:
    """Questions of very different sizes, and answers that no linear map gives."""
    inputs = jax.random.normal(key, (count, 5)) * jnp.asarray([[1.0, 5.0, 0.2, 1.0, 1.0]]) + 0.5
    return inputs, jnp.stack([jnp.sin(inputs[:, 0]) + inputs[:, 1], inputs[:, 2] ** 2], -1)


@pytest.mark.parametrize("make", [Backprop, FixedPrediction])
def test_least_squares_of_one_layer_are_those_of_all_examples_at_once(make):
    """min_W sum_s 1/2 |y_s - W x_s|^2 + ridge/2 |W - W_0|^2, by its normal equations."""
    circuit = Predictive.mlp([5, 2], key=KEY)
    fitted = optax.chain(least_squares(memory=1.0, ridge=0.3), optax.scale(-1.0))
    learner = Learner(circuit, make(), SquaredError(), fitted)
    inputs, targets = told(40)
    state, _ = learner.sweep(learner.init(KEY), inputs, targets, jnp.arange(40)[:, None])
    heard = np.concatenate([inputs, np.ones((40, 1))], 1).astype(np.float64)
    before = np.concatenate([circuit.synapses["input->output"].weight, np.zeros((1, 2))])
    normal = heard.T @ heard + 0.3 * np.eye(6)
    want = np.linalg.solve(normal, heard.T @ np.asarray(targets) + 0.3 * before)
    got = state.circuit
    np.testing.assert_allclose(got.synapses["input->output"].weight, want[:-1], atol=2e-4)
    np.testing.assert_allclose(got.biases["output"], want[-1], atol=2e-4)


def test_least_squares_learn_a_deep_circuit_faster_than_its_gradient():
    """Where questions are of very different sizes, after as many single examples."""
    circuit = Predictive.mlp([5, 16, 2], skip=True, activation="tanh", key=KEY)
    inputs, targets = told(1000)
    order = jnp.arange(1000)[:, None]

    def cost(rule, rate):
        learner = Learner(
            circuit, FixedPrediction(), SquaredError(), optimiser(circuit, rule=rule, rate=rate)
        )
        _, info = learner.sweep(learner.init(KEY), inputs, targets, order)
        return float(jnp.mean(info.cost[-200:]))

    assert cost("rls", 0.5) < 0.5 * min(cost("sgd", rate) for rate in (0.003, 0.01, 0.03))


@pytest.mark.parametrize(
    "circuit",
    [
        Hopfield.mlp([3, 2], key=KEY),
        NGC.mlp([3, 2], key=KEY),
        Predictive.conv((6, 6, 1), [Convolution(2, 3), 2], key=KEY),
    ],
    ids=["Hopfield", "NGC", "convolutional"],
)
def test_least_squares_refuse_what_is_no_dense_predictive_circuit(circuit):
    with pytest.raises(InputError, match="rule 'rls' cannot learn this"):
        optimiser(circuit, rule="rls").init(circuit.parameters()[0])


def test_least_squares_remember_nothing_of_an_error_of_zero():
    """Of which nobody can say what was heard."""
    circuit = Predictive.mlp([5, 2], key=KEY)
    fitted = least_squares()
    _, first = fitted.update(ones(circuit), fitted.init(circuit.parameters()[0]))
    update, after = fitted.update(jax.tree.map(jnp.zeros_like, ones(circuit)), first)
    np.testing.assert_array_equal(after.moments["output"], first.moments["output"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(update))


@pytest.mark.parametrize("options", [dict(memory=0.0), dict(memory=2.0), dict(ridge=-1.0)])
def test_least_squares_refuse_nonsense(options):
    with pytest.raises(InputError, match=f"least_squares: {next(iter(options))} is"):
        least_squares(**options)


def test_least_squares_refuse_a_batch():
    circuit = Predictive.mlp([5, 2], key=KEY)
    learner = Learner(circuit, Backprop(), SquaredError(), optimiser(circuit, rule="rls"))
    inputs, targets = told(4)
    with pytest.raises(InputError, match="one example at a time, and was given 4"):
        learner.step(learner.init(KEY), ({"input": inputs}, targets))
