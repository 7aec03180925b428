"""What single rules promise beside their row of the matrix, and what they refuse."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from anima import (
    ZIL,
    Backprop,
    CrossEntropy,
    EquilibriumPropagation,
    Euler,
    FixedPrediction,
    Hopfield,
    IncrementalPC,
    InputError,
    Learner,
    NGCRule,
    Predictive,
    PredictiveCoding,
    Result,
    SquaredError,
)
from anima.laws import chain, graph

KEY = jax.random.key(5)
X = np.asarray([0.5, -1.0, 0.8])


def square(y):
    return jnp.sum(y**2)


@pytest.mark.promotes
@pytest.mark.parametrize("rule", [FixedPrediction(), ZIL()], ids=["fixed", "zil"])
def test_exact_rules_follow_backprops_trajectory(rule):
    """100 steps of Adam: the weights stay where backprop's are."""
    random = np.random.default_rng(0)
    inputs, targets = random.uniform(size=(40, 6)), np.eye(3)[random.integers(0, 3, 40)]
    circuit = Predictive.mlp([6, 8, 8, 3], key=KEY)
    order = jnp.asarray(random.integers(0, 40, (100, 5)))

    def trained(rule):
        learner = Learner(circuit, rule, CrossEntropy(), optax.adam(1e-2))
        sweep = eqx.filter_jit(learner.sweep)
        state, _ = sweep(learner.init(KEY), jnp.asarray(inputs), jnp.asarray(targets), order)
        return np.asarray(ravel_pytree(eqx.filter(state.circuit, eqx.is_array))[0])

    want = trained(Backprop())
    np.testing.assert_allclose(trained(rule), want, atol=1e-9)
    assert np.max(np.abs(want - ravel_pytree(eqx.filter(circuit, eqx.is_array))[0])) > 0.1


def test_fixed_predictions_settle_as_deep_as_the_circuit_is():
    """Twelve hidden layers: told nothing it is backprop, and with four steps it is not."""
    circuit = Predictive.mlp([3, *[4] * 12, 2], key=KEY)
    clamp = {"input": jnp.asarray([0.3, -0.8, 0.5])}

    def credit(rule):
        found = eqx.filter_jit(rule.gradient)(circuit, clamp, square, key=KEY)[0]
        return np.asarray(ravel_pytree(eqx.filter(found, eqx.is_array))[0])

    want = credit(Backprop())
    np.testing.assert_allclose(credit(FixedPrediction()), want, rtol=1e-9, atol=1e-14)
    assert np.max(np.abs(credit(FixedPrediction(max_steps=4)) - want)) > 0.1 * np.max(np.abs(want))


def test_a_clamp_that_settles_briefly_gives_every_layer_backprops_direction():
    """n steps of dt: layer k below the output has C(n, k) dt^k of its gradient, to O(dt); at rest
    all layers have S^-1 g instead, which turns even the output's own."""
    circuit, clamp = Predictive.mlp([3, 6, 5, 4], key=KEY), {"input": jnp.asarray(X)}
    target = jnp.asarray([0.3, -1.2, 0.4, 0.1])
    cost = lambda y: 1e-5 * jnp.sum((y - target) ** 2)  # small: all but linear

    def credit(rule):
        found = eqx.filter_jit(rule.gradient)(circuit, clamp, cost, key=KEY)[0]
        return [np.ravel(found.synapses[n].weight) for n in ("h2->output", "h1->h2", "input->h1")]

    want = credit(Backprop())

    def turned(dt, steps):
        unit = lambda v: v / np.linalg.norm(v)
        rule = PredictiveCoding(solver=Euler(dt), max_steps=steps)
        found = zip(credit(rule), want, strict=True)
        return np.asarray([np.linalg.norm(unit(a) - unit(b)) for a, b in found])

    coarse, fine = turned(1e-2, 4), turned(1e-3, 4)
    np.testing.assert_allclose(coarse / fine, 10, rtol=0.1)
    assert np.all(fine < 0.01)
    assert np.all(turned(0.1, 400) > 0.1)
    small = credit(PredictiveCoding(solver=Euler(1e-3), max_steps=4))
    sizes = [np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(small, want, strict=True)]
    np.testing.assert_allclose(sizes, [1, 4e-3, 6e-6], rtol=2e-2)


@pytest.mark.promotes
def test_incremental_pc_moves_its_synapses_at_every_turn_and_energy_never_rises():
    rule = IncrementalPC(count=12)
    learner = Learner(chain(KEY), rule, SquaredError(), optax.sgd(0.01))
    batch = ({"input": jnp.asarray([X])}, jnp.asarray([[0.3, -1.2]]))
    cost = partial(SquaredError(), batch[1][0])

    def life(turns):
        made = eqx.tree_at(lambda learner: learner.assigner, learner, IncrementalPC(count=turns))
        state, info = jax.jit(lambda: made.step(made.init(KEY), batch))()
        return state.circuit, float(info.energy), int(info.steps)

    few, many = life(4), life(12)
    assert many[1] < few[1] < life(1)[1]
    moved, _, steps = many
    assert steps == 12
    # by hand: a step of settling, a step of descent, twelve times
    circuit, state = learner.circuit, learner.circuit.start({"input": jnp.asarray(X)})
    state = {**state, "output": state["output"] - jax.grad(cost)(state["output"])}

    @jax.jit
    def turn(circuit, state):
        force = circuit.force(state)
        state = state | {n: state[n] + 0.1 * force[n] for n in ("h1", "h2")}
        slope = circuit.plasticity(state)
        return eqx.apply_updates(circuit, jax.tree.map(lambda g: -0.01 * g, slope)), state

    for _ in range(12):
        circuit, state = turn(circuit, state)
    for got, want in zip(jax.tree.leaves(moved), jax.tree.leaves(circuit), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10)


def refuses(rule, build, cost, message):
    """Says so as soon as it is traced, before anything is compiled."""
    circuit = build(KEY)
    with pytest.raises(InputError, match=message):
        eqx.filter_eval_shape(lambda: rule.gradient(circuit, {"input": X}, cost, key=KEY))


def repelled(y):
    return -20 * square(y)


@pytest.mark.slow
def test_a_nudge_beyond_the_bound_is_refused_with_the_bound():
    rule = EquilibriumPropagation(1.0, free_steps=5, nudged_steps=60)
    give = lambda: rule.gradient(chain(KEY), {"input": X}, repelled, key=KEY)
    with pytest.raises(InputError, match=r"stable up to 0\.0\d+: nudge less"):
        give()
    tame = EquilibriumPropagation(1.0, free_steps=5, nudged_steps=60, linearise=True)
    calm = lambda: tame.gradient(chain(KEY), {"input": X}, repelled, key=KEY)
    results = jax.jit(lambda: (give()[1].result, calm()[1].result))()
    # within jit a result says so; tol 0: as many steps as asked for
    assert [int(code) for code in results] == [Result.UNSTABLE, Result.MAX_STEPS]


@pytest.mark.parametrize("scheme", ["centred", pytest.param("random_sign", marks=pytest.mark.slow)])
@pytest.mark.parametrize("nudge", [0.9, 60.0], ids=["beyond", "far"])
def test_a_convex_cost_is_bounded_where_the_rule_nudges_against_it_too(scheme, nudge):
    """Under -beta |y - t|^2 the output keeps a minimum while 2 beta lambda_max(S) < 1."""
    circuit, cost = Hopfield.mlp([3, 4, 2], key=KEY), lambda y: jnp.sum((y - 1) ** 2)
    against = next(k for k in map(jax.random.key, range(9)) if not jax.random.bernoulli(k))
    give = lambda **how: EquilibriumPropagation(nudge, nudged_steps=60, **how).gradient(
        circuit, {"input": X}, cost, key=against
    )
    with pytest.raises(InputError, match=r"stable up to 0\.[34]\d*: nudge less"):
        give(scheme=scheme)
    give(scheme="one_sided")


@pytest.mark.float32
def test_what_rounding_leaves_behind_is_no_runaway_nudge():
    """PPO's clipped surrogate is flat for most examples: nothing is pulled, nothing diverges."""
    circuit, flat = Hopfield.mlp([3, 128, 2], key=KEY), lambda y: 1e-8 * jnp.sum(y)
    rule = EquilibriumPropagation(0.5, free_steps=8, nudged_steps=4, linearise=True)
    give = lambda x: rule.gradient(circuit, {"input": x}, flat, key=KEY)
    info = jax.jit(jax.vmap(lambda x: give(x)[1]))(jax.random.normal(KEY, (512, 3)))
    assert float(info.residual.max()) > 0 and int(info.result.max()) < Result.UNSTABLE


def test_energies_by_node_say_where_the_surprise_is():
    circuit = graph(KEY)
    clamp = {"input": jnp.asarray(X)}
    info = jax.jit(lambda: PredictiveCoding().gradient(circuit, clamp, square, key=KEY)[1])()
    assert set(info.energies) == {"left", "right", "output"}
    np.testing.assert_allclose(sum(info.energies.values()), info.energy)


@pytest.mark.promotes
@pytest.mark.parametrize(
    ("circuit", "rule"),
    [
        (chain(KEY), FixedPrediction()),
        (Hopfield.mlp([3, 4, 2], key=KEY), EquilibriumPropagation(0.05)),
    ],
    ids=["sweep", "settled"],
)
def test_alignment_is_the_cosine_with_the_true_gradient(circuit, rule):
    learner = Learner(circuit, rule, SquaredError(), optax.sgd(0.1), align=True)
    batch = ({"input": jnp.asarray([X, -X])}, jnp.asarray([[0.3, -1.2], [1.0, 0.0]]))
    info = jax.jit(lambda: learner.step(learner.init(KEY), batch)[1])()
    assert 0.99 < float(info.alignment) <= 1 + 1e-12
    if isinstance(rule, FixedPrediction):
        assert float(info.alignment) == pytest.approx(1, abs=1e-12)


def skipping(key):
    """A chain with a second way from h1 to the output."""
    circuit = Predictive.mlp([3, 4, 4, 2], key=key)
    *most, last = circuit.nodes
    nodes = (*most, dataclasses.replace(last, parents=("h2", "h1")))
    synapses = circuit.synapses | {"h1->output": circuit.synapses["h2->output"]}
    return Predictive(nodes, synapses, circuit.biases, circuit.precision)


@pytest.mark.parametrize(
    ("rule", "circuit", "message"),
    [
        (ZIL(), skipping, "there are ways of .* FixedPrediction serves any graph"),
        (
            ZIL(),
            lambda key: Predictive(
                (c := chain(key)).nodes, c.synapses, c.biases, {**c.precision, "h1": 2.0}
            ),
            "needs unit precisions, and that of 'h1' is 2.0",
        ),
        (FixedPrediction(), lambda key: Hopfield.mlp([3, 4, 2], key=key), "serves Predictive"),
        (NGCRule(), chain, "NGCRule serves NGC circuits, not Predictive"),
        (
            EquilibriumPropagation(scheme="holomorphic"),
            lambda key: Predictive.mlp([3, 4, 2], activation="relu", key=key),
            "node 'h1' has 'relu': use tanh",
        ),
    ],
    ids=["zil-graph", "zil-precision", "fixed-hopfield", "ngc-predictive", "holomorphic-relu"],
)
def test_a_rule_that_cannot_serve_a_circuit_says_which_can(rule, circuit, message):
    refuses(rule, circuit, square, message)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (lambda y: y, r"gives shape \(2,\): it must be a scalar"),
        (jnp.argmax, "it must be a differentiable float"),
        (lambda y: float(np.sum(np.asarray(y))), "written in jax.numpy"),
        (lambda state: jnp.sum(state["h1"]), "of the output node's activity alone"),
    ],
    ids=["vector", "integer", "numpy", "other-node"],
)
@pytest.mark.parametrize("rule", [Backprop(), FixedPrediction(), EquilibriumPropagation()])
def test_a_cost_that_is_none_is_refused(rule, cost, message):
    refuses(rule, chain, cost, message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PredictiveCoding(teach="energetic"), "'energetic'"),
        (lambda: PredictiveCoding(step=0.0), "step"),
        (lambda: IncrementalPC(count=0), "count"),
        (lambda: FixedPrediction(max_steps=-1), "max_steps"),
        (lambda: EquilibriumPropagation(points=1), "points is 1, give at least 2"),
    ],
    ids=["teach", "step", "count", "max_steps", "points"],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
