"""The learner: batches, noise, and a life that can be cut in two."""

import pickle
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anima import (
    NGC,
    Backprop,
    CrossEntropy,
    EquilibriumPropagation,
    EvenOdd,
    Hopfield,
    InputError,
    Learner,
    NGCRule,
    Predictive,
    PredictiveCoding,
    Result,
    SquaredError,
    optimiser,
)
from anima.learn.costs import AbstractCost
from anima.learn.learner import summary

SIZES = [3, 6, 4, 2]
KEY = jax.random.key(1)
EQPROP = EquilibriumPropagation(free_steps=8, nudged_steps=4)


class Flat(AbstractCost):
    """Indifferent."""

    def __call__(self, target, output):
        return 0.0 * jnp.sum(output)


def hopfield():
    return Hopfield.mlp(SIZES, key=KEY)


def batch(count=4, seed=0):
    random, kind = np.random.default_rng(seed), jnp.result_type(float)
    inputs = random.uniform(size=(count, 3)).astype(kind)
    targets = np.eye(2, dtype=kind)[random.integers(0, 2, count)]
    return {"input": inputs}, targets


def leaves(tree):
    data = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [np.asarray(data(x)) for x in jax.tree.leaves(tree) if eqx.is_array(x)]


def identical(one, other):
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_descends_the_mean_credit():
    learner = Learner(hopfield(), EQPROP, SquaredError(), optax.sgd(0.1))
    state, (clamp, target) = learner.init(KEY), batch()
    after, info = eqx.filter_jit(learner.step)(state, (clamp, target))
    keys = jax.random.split(jax.random.fold_in(KEY, 0), 4)
    credit, infos = eqx.filter_jit(learner.gradient)(state.circuit, clamp, target, keys)
    for name, synapse in state.circuit.synapses.items():
        want = synapse.weight - 0.1 * credit.synapses[name].weight
        np.testing.assert_allclose(after.circuit.synapses[name].weight, want, rtol=1e-12)
    assert int(after.step) == 1
    np.testing.assert_allclose(info.cost, np.mean(infos.cost), rtol=1e-12)
    assert info.output.shape == (4, 2)


def test_the_summary_keeps_the_worst():
    learner = Learner(hopfield(), EQPROP, SquaredError(), optax.sgd(0.1))
    clamp, target = batch()
    clamp = {"input": np.concatenate([clamp["input"][:3], np.full((1, 3), np.nan)])}
    keys = jax.random.split(KEY, 4)
    _, infos = eqx.filter_jit(learner.gradient)(learner.circuit, clamp, target, keys)
    assert int(summary(infos).result) == Result.NONFINITE
    assert infos.result.tolist() == [1, 1, 1, 3]
    good = jax.tree.map(lambda x: x[:3], infos)
    assert float(summary(good).residual) == max(good.residual.tolist())
    assert int(summary(good).result) == Result.MAX_STEPS


@pytest.mark.parametrize("family", ["hopfield", "predictive"])
def test_learning_lowers_the_cost(family):
    circuit = hopfield() if family == "hopfield" else Predictive.mlp(SIZES, key=KEY)
    rule = EQPROP if family == "hopfield" else PredictiveCoding()
    learner = Learner(circuit, rule, SquaredError(), optimiser(circuit, rate=0.2))
    step, state, seen = eqx.filter_jit(learner.step), learner.init(KEY), []
    for _ in range(30):
        state, info = step(state, batch(8))
        seen.append(float(info.cost))
    assert seen[-1] < 0.6 * seen[0]


# Noise.


def test_silence_is_the_same_in_all_phases():
    """With a cost that is flat the centred contrast is exactly zero, noise or no noise."""
    noise = (("h1", 0.5), ("input", 0.3))
    learner = Learner(hopfield(), EQPROP, Flat(), optax.sgd(1.0), noise=noise)
    clamp, target = batch()
    keys = jax.random.split(KEY, 4)
    credit, _ = eqx.filter_jit(learner.gradient)(learner.circuit, clamp, target, keys)
    assert not any(np.any(leaf) for leaf in leaves(credit))
    loud = Learner(hopfield(), EQPROP, SquaredError(), optax.sgd(1.0), noise=noise)
    credit, _ = eqx.filter_jit(loud.gradient)(loud.circuit, clamp, target, keys)
    assert all(np.any(leaf) for leaf in leaves(credit.synapses))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "build"),
    [
        (EQPROP, hopfield),
        (EQPROP, lambda: Predictive.mlp(SIZES, key=KEY)),
        (PredictiveCoding(), lambda: Predictive.mlp(SIZES, key=KEY)),
        (NGCRule(), lambda: NGC.mlp(SIZES, sigma=None, rate_error=False, leak=0.0, key=KEY)),
        (Backprop(), hopfield),
    ],
    ids=["eqprop", "eqprop-predictive", "pc", "ngc", "backprop"],
)
def test_silenced_units_do_not_learn(rule, build):
    """Of a batch of one: no synapse to or from a silent unit changes, others do."""
    learner = Learner(build(), rule, SquaredError(), optax.sgd(1.0), noise=(("h1", 0.5),))
    clamp, target = batch(1)
    keys = jax.random.split(KEY, 1)
    credit, _ = eqx.filter_jit(learner.gradient)(learner.circuit, clamp, target, keys)
    silence, _ = jax.random.split(keys[0])
    quiet = learner.circuit.silence({"h1": 0.5}, key=silence)
    dead = np.asarray(quiet.gain["h1"]) == 0
    assert 0 < dead.sum() < dead.size
    into = np.asarray(credit.synapses["input->h1"].weight)
    out = np.asarray(credit.synapses["h1->h2"].weight)
    np.testing.assert_allclose(into[:, dead], 0, atol=1e-15)
    np.testing.assert_array_equal(out[dead], 0)
    assert np.any(np.abs(into[:, ~dead]) > 1e-6) and np.any(np.abs(out[~dead]) > 1e-6)


def test_each_example_and_each_step_has_its_own_silence():
    learner = Learner(hopfield(), EQPROP, SquaredError(), optax.sgd(0.0), noise=(("input", 0.5),))
    clamp, target = batch(1)
    twins = ({"input": np.repeat(clamp["input"], 6, 0)}, np.repeat(target, 6, 0))
    step = eqx.filter_jit(learner.step)
    state, first = step(learner.init(KEY), twins)
    _, second = step(state, twins)
    assert len(np.unique(first.output[:, 0])) > 1
    assert not np.array_equal(first.output, second.output)


def test_noise_must_name_a_node_and_a_rate():
    with pytest.raises(InputError, match="no node 'h9'"):
        Learner(hopfield(), EQPROP, SquaredError(), optax.sgd(0.1), noise=(("h9", 0.5),))
    with pytest.raises(InputError, match=r"silence rate of 'h1' is 1\.0"):
        Learner(hopfield(), EQPROP, SquaredError(), optax.sgd(0.1), noise=(("h1", 1.0),))


def test_the_circuit_at_hand_is_not_left_silenced():
    learner = Learner(hopfield(), EQPROP, SquaredError(), optax.sgd(0.1), noise=(("h1", 0.5),))
    state, _ = eqx.filter_jit(learner.step)(learner.init(KEY), batch())
    assert state.circuit.gain == {}


# Determinism and resume.


def lived(noise=(("input", 0.2),), rule="adam"):
    circuit = hopfield()
    fitted = optimiser(circuit, rule=rule, rate=0.01, schedule="exponential", per_epoch=3)
    cost = CrossEntropy(4.0)
    return Learner(circuit, EquilibriumPropagation(scheme="random_sign"), cost, fitted, noise)


@pytest.mark.float32
@pytest.mark.promotes
def test_k_steps_and_k_more_are_2k_steps_bit_for_bit():
    """In the precision that people run: the state holds all that resuming needs."""
    learner = lived()
    step = eqx.filter_jit(learner.step)
    straight = learner.init(KEY)
    for i in range(6):
        straight, _ = step(straight, batch(seed=i))
    broken = learner.init(KEY)
    for i in range(3):
        broken, _ = step(broken, batch(seed=i))
    flat, shape = jax.tree.flatten(broken)
    packed = [(leaf.dtype, leaves(leaf)[0]) for leaf in flat]
    assert pickle.loads(pickle.dumps([array for _, array in packed]))
    key = lambda dtype: jnp.issubdtype(dtype, jax.dtypes.prng_key)
    again = [jax.random.wrap_key_data(a) if key(d) else jnp.asarray(a) for d, a in packed]
    broken = jax.tree.unflatten(shape, again)
    for i in range(3, 6):
        broken, _ = step(broken, batch(seed=i))
    identical(straight, broken)
    other = learner.init(jax.random.key(2))
    for i in range(6):
        other, _ = step(other, batch(seed=i))
    weight = lambda state: np.asarray(state.circuit.synapses["input->h1"].weight)
    assert not np.array_equal(weight(straight), weight(other))


@pytest.mark.float32
def test_a_sweep_is_its_steps():
    """One scan over rows of an order, augmented by a key that the step count decides."""
    learner = lived(rule="momentum")
    clamp, targets = batch(12)
    order = np.arange(12).reshape(4, 3)
    jitter = lambda x, key: x + 0.1 * jax.random.normal(key, x.shape)
    sweep = eqx.filter_jit(partial(learner.sweep, augment=jitter))
    start = learner.init(KEY)
    whole, info = sweep(start, clamp["input"], targets, order)
    half, _ = sweep(start, clamp["input"], targets, order[:2])
    half, _ = sweep(half, clamp["input"], targets, order[2:])
    identical(whole, half)
    assert info.cost.shape == info.output.shape == (4,) and int(whole.step) == 4
    plain = eqx.filter_jit(learner.sweep)
    swept, info = plain(start, clamp["input"], targets, order[:1])
    rows = {"input": clamp["input"][order[0]]}
    stepped, one = eqx.filter_jit(learner.step)(start, (rows, targets[order[0]]))
    for a, b in zip(leaves(swept), leaves(stepped), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    hits = np.argmax(one.output, -1) == np.argmax(targets[order[0]], -1)
    np.testing.assert_allclose(info.output[0], hits.mean(), rtol=1e-6)
    moved = leaves(sweep(start, clamp["input"], targets, order[:1])[0].circuit)
    assert not all(np.allclose(a, b) for a, b in zip(moved, leaves(swept.circuit), strict=True))


def test_an_ensemble_is_its_members():
    """Seeds, rates and nudges as leaves: `vmap` over whole lives changes nothing in any of them."""
    clamp, targets = batch(6)

    def life(seed, rate, beta):
        circuit = Hopfield.mlp(SIZES, key=jax.random.key(seed))
        rule = EquilibriumPropagation(beta, free_steps=5, nudged_steps=3)
        made = Learner(circuit, rule, SquaredError(), optimiser(circuit, rate=rate))
        rows = jnp.arange(6).reshape(3, 2)
        state, info = made.sweep(made.init(KEY), clamp["input"], targets, rows)
        return state.circuit.parameters()[0], info.cost

    settings = jnp.arange(3), jnp.asarray([0.1, 0.2, 0.1]), jnp.asarray([0.1, 0.2, 0.4])
    together = jax.jit(jax.vmap(life))(*settings)
    alone = jax.jit(life)
    for i in range(3):
        one = alone(*(column[i] for column in settings))
        for a, b in zip(leaves(together), leaves(one), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-11, atol=1e-14)
    weights = leaves(together)[0]
    assert not np.allclose(weights[0], weights[1])


def test_one_trace_for_a_life():
    learner, traces = Learner(hopfield(), EQPROP, SquaredError(), optax.sgd(0.1)), []

    @eqx.filter_jit
    def step(state, batch):
        traces.append(None)
        return learner.step(state, batch)

    state = learner.init(KEY)
    for i in range(3):
        state, _ = step(state, batch(seed=i))
    assert len(traces) == 1


def test_predictions_are_without_noise_or_teacher():
    rule = EquilibriumPropagation(solver=EvenOdd(), free_steps=30)
    learner = Learner(hopfield(), rule, SquaredError(), optax.sgd(0.1), noise=(("h1", 0.9),))
    clamp, _ = batch()
    got = eqx.filter_jit(learner.predict)(learner.circuit, clamp)
    answer = eqx.filter_jit(lambda x: rule.predict(learner.circuit, {"input": x}).state["output"])
    want = [answer(x) for x in clamp["input"]]
    np.testing.assert_allclose(got, np.stack(want), rtol=1e-10)


def test_columns_stay_within_their_bound_while_learning():
    circuit = NGC.mlp(SIZES, sigma=None, bound=0.3, key=KEY)
    learner = Learner(circuit, NGCRule(), SquaredError(), optax.sgd(0.5))
    state, _ = eqx.filter_jit(learner.step)(learner.init(KEY), batch())
    for synapse in (*state.circuit.synapses.values(), *state.circuit.feedback.values()):
        assert np.all(np.linalg.norm(synapse.weight, axis=0) <= 0.3 * (1 + 1e-12))


def test_compiled_is_the_step_in_the_memory_of_the_state_it_uses_up():
    learner = Learner(hopfield(), EQPROP, SquaredError(), optax.sgd(0.1))
    clamp, targets = batch()
    want, told = eqx.filter_jit(learner.step)(learner.init(KEY), (clamp, targets))
    step, state = learner.compiled(), learner.init(KEY)
    got, info = step(state, (clamp, targets))
    for a, b in zip(leaves((got, info)), leaves((want, told)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert all(x.is_deleted() for x in jax.tree.leaves(state.circuit.synapses))
    assert not any(x.is_deleted() for x in jax.tree.leaves(learner.circuit.synapses))
