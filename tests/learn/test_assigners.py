"""Assigners: what they refuse and what they report."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima import (
    NGC,
    Backprop,
    CrossEntropy,
    EquilibriumPropagation,
    EvenOdd,
    Hopfield,
    InputError,
    NGCRule,
    Predictive,
    PredictiveCoding,
    Result,
    SquaredError,
)
from anima.learn.assigners import contrast, swept

SIZES = [3, 4, 2]
KEY = jax.random.key(0)
X = {"input": np.asarray([0.5, -1.0, 0.8])}
COST = partial(SquaredError(), np.asarray([1.0, -1.0]))
FAMILIES = {"hopfield": Hopfield, "predictive": Predictive, "ngc": NGC}


@pytest.mark.parametrize(
    ("assigner", "family"),
    [
        (PredictiveCoding(), "hopfield"),
        (PredictiveCoding(), "ngc"),
        (NGCRule(), "hopfield"),
        (NGCRule(), "predictive"),
        (EquilibriumPropagation(), "ngc"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_wrong_family_is_refused_with_the_right_rule(assigner, family):
    circuit = FAMILIES[family].mlp(SIZES, key=KEY)
    for ask in (
        lambda: assigner.gradient(circuit, X, COST, key=KEY),
        lambda: assigner.predict(circuit, X),
    ):
        with pytest.raises(InputError, match="NGCRule"):
            ask()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PredictiveCoding(step=0.0), "step is 0.0"),
        (lambda: PredictiveCoding(max_steps=0), "max_steps is 0"),
        (lambda: NGCRule(step=-1.0), "step is -1.0"),
        (lambda: EquilibriumPropagation(beta=0.0), "beta is 0.0"),
        (lambda: EquilibriumPropagation(free_steps=0), "free_steps is 0"),
        (lambda: EquilibriumPropagation(nudged_steps=-1), "nudged_steps is -1"),
        (lambda: EquilibriumPropagation(scheme="centered"), "did you mean 'centred'"),
        (lambda: CrossEntropy(kappa=0.0), "kappa is 0.0"),
    ],
)
def test_bad_numbers_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


given = eqx.filter_jit(lambda rule, circuit, cost: rule.gradient(circuit, X, cost, key=KEY))


def test_eqprop_reports_the_free_phase_and_counts_all_steps():
    circuit = Hopfield.mlp([3, 5, 4, 2], key=KEY)
    rule = EquilibriumPropagation(free_steps=3, nudged_steps=2)
    _, info = given(rule, circuit, COST)
    free = rule.predict(circuit, X)
    np.testing.assert_allclose(info.residual, free.residual, rtol=1e-12)
    np.testing.assert_allclose(info.energy, free.energy, rtol=1e-12)
    assert int(info.steps) == 3 + 2 + 2
    assert int(info.result) == Result.MAX_STEPS
    settled = EquilibriumPropagation(free_steps=500, nudged_steps=500, tol=1e-6)
    _, info = given(settled, circuit, COST)
    assert int(info.result) == Result.CONVERGED and float(info.residual) <= 1e-6


def test_a_phase_that_diverges_is_reported_though_the_free_one_settled():
    """A cost without a minimum: +beta pulls away for ever."""
    circuit = Hopfield.mlp(SIZES, key=KEY)
    away = lambda output: -50 * jnp.sum((output - 1) ** 2)
    rule = EquilibriumPropagation(beta=0.5, nudged_steps=2000, tol=1e-4)
    assert int(rule.predict(circuit, X).result) == Result.CONVERGED
    assert int(given(rule, circuit, away)[1].result) == Result.NONFINITE


@pytest.mark.parametrize(
    ("rule", "family"), [(PredictiveCoding, "predictive"), (NGCRule, "ngc")], ids=["pc", "ngc"]
)
def test_clamped_rules_report_the_clamped_phase(rule, family):
    circuit = FAMILIES[family].mlp(SIZES, key=KEY)
    _, cut = given(rule(max_steps=1), circuit, COST)
    assert int(cut.result) == Result.MAX_STEPS and int(cut.steps) == 1
    solver = dict(solver=EvenOdd(0.5), tol=1e-6, max_steps=3000)
    _, done = given(rule(**solver), circuit, COST)
    assert int(done.result) == Result.CONVERGED
    assert float(done.residual) <= 1e-6 < float(cut.residual)
    nowhere = lambda output: jnp.nan * jnp.sum(output)
    assert int(given(rule(), circuit, nowhere)[1].result) == Result.NONFINITE


def test_the_residual_of_a_sweep_is_the_projected_force():
    """A hidden unit pressed against its bound is at rest."""
    circuit = Hopfield.mlp(SIZES, key=KEY)
    biases = circuit.biases | {"h1": jnp.asarray([5.0, -5.0, 0.2, 0.3])}
    circuit = Hopfield(circuit.nodes, circuit.synapses, biases)
    state = circuit.start(X)
    force = circuit.force(state)
    free = {name: state[name] for name in ("h1", "output")}
    moved = circuit.project({name: free[name] + force[name] for name in free})
    want = max(float(jnp.max(jnp.abs(moved[name] - free[name]))) for name in free)
    raw = max(float(jnp.max(jnp.abs(force[name]))) for name in free)
    assert want < raw, "no bound is active: this test sees nothing"
    np.testing.assert_allclose(swept(circuit, X).residual, want, rtol=1e-12)


def test_contrast_is_the_weighted_sum_of_energies_activities_held(getkey):
    circuit = Hopfield.mlp(SIZES, key=KEY)
    draw = lambda shape: jax.random.normal(getkey(), (2, *shape))
    states = {node.name: draw(node.shape) for node in circuit.nodes} | {
        "input": jnp.stack([X["input"]] * 2)
    }
    weights = jnp.asarray([0.7, -0.3])
    each = [circuit.energy(jax.tree.map(lambda s, i=i: s[i], states)) for i in range(2)]
    got = contrast(circuit, X, states, weights)
    np.testing.assert_allclose(got, 0.7 * each[0] - 0.3 * each[1], rtol=1e-12)
    held = jax.grad(lambda free: contrast(circuit, X, free, weights))(states)
    assert all(not np.any(value) for value in held.values())


@pytest.mark.parametrize("kappa", [0.5, 1.0, 8.0])
def test_the_gradient_of_cross_entropy_is_softmax_minus_target(kappa):
    """Whatever kappa is."""
    y, target = np.asarray([0.3, -1.2, 0.7]), np.asarray([0.2, 0.5, 0.3])
    soft = np.exp(kappa * y) / np.exp(kappa * y).sum()
    cost = partial(CrossEntropy(kappa), target)
    np.testing.assert_allclose(cost(y), -(target * np.log(soft)).sum() / kappa, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(cost)(y), soft - target, rtol=1e-10)


def test_squared_error():
    y, target = np.asarray([0.3, -1.2]), np.asarray([1.0, 0.5])
    np.testing.assert_allclose(SquaredError()(target, y), ((y - target) ** 2).sum() / 2)


def test_backprop_serves_every_family():
    for family in FAMILIES.values():
        credit, info = given(Backprop(), family.mlp(SIZES, key=KEY), COST)
        assert any(np.any(leaf) for leaf in jax.tree.leaves(credit.synapses))
        assert int(info.steps) == 0
        assert not any(jax.tree.leaves((info.energy, info.energies, info.residual)))
