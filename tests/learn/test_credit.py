"""What credit is made of: phases, plasticity, local parts; the battery for every assigner.

What it converges to, and how fast, is the conformance matrix (`tests/test_laws.py`).
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from anima import (
    NGC,
    Anderson,
    Backprop,
    CrossEntropy,
    EquilibriumPropagation,
    Euler,
    EvenOdd,
    Hopfield,
    NGCRule,
    Predictive,
    PredictiveCoding,
    SquaredError,
    settle,
)
from anima.circuit.graph import Dense
from anima.circuit.image import Convolution
from anima.testing import check_assigner, cosine, true_gradient

SIZES = [3, 5, 4, 2]
KEY = jax.random.key(5)
TARGET = np.asarray([0.3, -1.2])
COSTS = {
    "squared": partial(SquaredError(), TARGET),
    "cross-entropy": partial(CrossEntropy(2.0), np.asarray([0.8, 0.2])),
    "arbitrary": lambda y: jnp.sum(jnp.log(jnp.cosh(y - TARGET))) + y[0] * y[1] + jnp.sin(y[1]),
}
# all costs in one program: which it is comes as data
WHICH = dict(zip(COSTS, np.eye(3), strict=True))
X = np.asarray([0.5, -1.0, 0.8])
EXACT = dict(solver=Anderson(EvenOdd()), tol=1e-14)


def cost_of(which):
    return lambda output: which @ jnp.stack([cost(output) for cost in COSTS.values()])


def predictive() -> Predictive:
    circuit = Predictive.mlp(SIZES, key=KEY)
    spread = lambda bias: 0.3 * jnp.cos(jnp.arange(1.0, 1 + bias.size))
    biases = {name: spread(bias) for name, bias in circuit.biases.items()}
    return Predictive(circuit.nodes, circuit.synapses, biases, circuit.precision)


def hopfield() -> Hopfield:
    """Small weights around 1/2: no hidden unit touches a bound, so the fixed point is smooth."""
    circuit = Hopfield.mlp(SIZES, scale=0.3, key=KEY)
    biases = {n: jnp.full_like(b, 0.5) for n, b in circuit.biases.items()}
    return Hopfield(circuit.nodes, circuit.synapses, biases)


def flat(tree) -> np.ndarray:
    return np.asarray(ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0])


def fed(circuit, change) -> dict[str, np.ndarray]:
    """Cost name -> backprop through the sweep, fed `change(g)` in place of the cost's gradient."""
    sweep = lambda c: c.start({"input": X})["output"]
    output = sweep(circuit)
    back = eqx.filter_jit(lambda v: gradient_like(circuit, lambda c: sweep(c) @ v))
    return {n: flat(back(change(jax.grad(cost)(output)))) for n, cost in COSTS.items()}


def gradient_like(circuit, function):
    learnt, rest = circuit.parameters()
    return jax.grad(lambda learnt: function(eqx.combine(learnt, rest)))(learnt)


def ascribed(circuit, x=X):
    """S = Sigma_out + sum_k J_k Sigma_k J_k^T at the forward pass, J_k = d output / d z_k."""
    state = circuit.start({"input": x})
    total = 0.0
    for name, precision in circuit.precision.items():
        size = circuit.node(name).shape[0]
        full = precision if jnp.ndim(precision) == 2 else jnp.diag(jnp.full(size, precision))
        onward = lambda z, name=name: circuit.start({"input": x, name: z})["output"]
        slope = jax.jacobian(onward)(state[name])
        total = total + slope @ jnp.linalg.inv(full) @ slope.T
    return total


given = eqx.filter_jit(lambda rule, c, cost: rule.gradient(c, {"input": X}, cost, key=KEY))
plastic = eqx.filter_jit(lambda circuit, state: circuit.plasticity(state))


def test_squared_error_with_step_one_clamps_the_target():
    circuit = predictive()
    _, info = given(PredictiveCoding(), circuit, COSTS["squared"])
    clamp = {"input": X, "output": TARGET}
    begin = circuit.start({"input": X})
    found = settle(circuit, clamp, solver=Euler(0.1), tol=0, max_steps=20, start=begin)
    np.testing.assert_allclose(info.energy, found.energy, rtol=1e-12)
    assert int(info.steps) == 20


# Equilibrium propagation.


def propagation(beta, scheme="centred"):
    return EquilibriumPropagation(
        beta=beta, scheme=scheme, free_steps=3000, nudged_steps=3000, **EXACT
    )


def implicit(circuit) -> dict[str, np.ndarray]:
    """Cost name -> the gradient of the loss at the net's own fixed point.

    With H = -d force / dz there and H a = dC/dz: dC/dtheta = d/dtheta <a, force(z*, theta)>.
    """
    run = eqx.filter_jit(partial(settle, max_steps=5000, **EXACT))
    found = run(circuit, {"input": X})
    hidden = {name: found.state[name] for name in ("h1", "h2")}
    assert all(float(jnp.min(jnp.minimum(z, 1 - z))) > 0.05 for z in hidden.values())
    free, unravel = ravel_pytree({n: z for n, z in found.state.items() if n != "input"})

    def force(circuit, free):
        pull = circuit.force({"input": jnp.asarray(X), **unravel(free)})
        return ravel_pytree({name: pull[name] for name in unravel(free)})[0]

    stiffness = -jax.jit(jax.jacobian(lambda free: force(circuit, free)))(free)
    pulled = jax.jit(lambda a: gradient_like(circuit, lambda c: a @ force(c, free)))
    references = {}
    for name, cost in COSTS.items():
        slope = jax.grad(lambda free, cost=cost: cost(unravel(free)["output"]))(free)
        adjoint = jnp.linalg.solve(stiffness, slope)
        references[name] = flat(pulled(adjoint))
    return references


@pytest.mark.slow
def test_random_signs_average_to_the_centred_contrast():
    """In expectation over its two signs the bias is the centred one, O(beta^2)."""
    circuit, cost = hopfield(), COSTS["arbitrary"]

    @eqx.filter_jit
    def run(key, scheme):
        rule = propagation(0.2, scheme)
        return rule.gradient(circuit, {"input": X}, cost, key=key)[0]

    drawn = jax.vmap(lambda key: run(key, "random_sign"))(jax.random.split(KEY, 12))
    each = np.asarray([flat(jax.tree.map(lambda x, i=i: x[i], drawn)) for i in range(12)])
    signs = np.unique(np.round(each, 10), axis=0)
    assert len(signs) == 2
    centred = flat(run(KEY, "centred"))
    np.testing.assert_allclose(signs.mean(0), centred, atol=1e-9)
    assert np.max(np.abs(signs[0] - centred)) > 1e-4


@pytest.mark.slow
def test_true_gradient_is_the_implicit_one_and_backprops():
    """The battery's yardstick, forward mode through the loop, against the two others."""
    truth = eqx.filter_jit(lambda r, c, which: true_gradient(r, c, {"input": X}, cost_of(which)))
    circuit = hopfield()
    for name, want in implicit(circuit).items():
        got = truth(propagation(0.1), circuit, WHICH[name])
        np.testing.assert_allclose(flat(got), want, atol=1e-10)
    circuit = predictive()
    for name, want in fed(circuit, lambda g: g).items():
        got = truth(Backprop(), circuit, WHICH[name])
        np.testing.assert_allclose(flat(got), want, atol=1e-12)


# Neural generative coding.


def test_ngc_is_predictive_coding_when_tied_gated_and_without_leak():
    """E = W^T, phi' on, 2 beta_e = 1, leak 0, error on z: step for step, settled or not."""
    pc = predictive()
    ngc = NGC(pc.nodes, pc.synapses, {}, pc.biases, leak=0.0, rate_error=False, gate=True)
    for cost in COSTS.values():
        want, same = given(PredictiveCoding(step=0.7), pc, cost)
        got, info = given(NGCRule(step=0.7), ngc, cost)
        for field in ("synapses", "biases"):
            close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13)
            jax.tree.map(close, getattr(got, field), getattr(want, field))
        np.testing.assert_allclose(info.residual, same.residual, rtol=1e-9)


def test_learned_feedback_near_the_transpose_keeps_the_angle():
    pc = predictive()
    noise = iter(jax.random.split(KEY, 3))
    feedback = {
        name: Dense(s.weight.T + 0.3 * jax.random.normal(next(noise), s.weight.T.shape))
        for name, s in pc.synapses.items()
    }
    ngc = NGC(pc.nodes, pc.synapses, feedback, pc.biases, leak=0.0, rate_error=False, gate=True)
    check_assigner(NGCRule(), ngc)


# All of them.


@pytest.mark.slow
def test_eqprop_on_hopfield():
    check_assigner(propagation(0.05), hopfield(), least=0.999)


@pytest.mark.slow
@pytest.mark.parametrize("family", [Hopfield, Predictive])
def test_eqprop_on_images(family):
    """Pools of both kinds, no unit at a bound and no two equals: a smooth fixed point."""
    layers = [Convolution(2, 2, pool="max", pool_stride=1), Convolution(1, 2, 1, 1, "average"), 2]
    circuit = family.conv((4, 4, 1), layers, activation="tanh", key=KEY)
    if family is Hopfield:
        circuit = Hopfield.conv((4, 4, 1), layers, scale=0.3, key=KEY)
        half = {n: jnp.full_like(b, 0.5) for n, b in circuit.biases.items()}
        circuit = Hopfield(circuit.nodes, circuit.synapses, half)
    check_assigner(propagation(0.05), circuit, least=0.999)


@pytest.mark.slow
def test_one_sided_eqprop():
    check_assigner(propagation(0.05, "one_sided"), hopfield(), least=0.99)


def test_predictive_coding():
    check_assigner(PredictiveCoding(), predictive())


def test_predictive_coding_by_its_own_law():
    """Another yardstick than the default: backprop fed S^-1 g, at any input."""

    def law(circuit, clamp, cost):
        learnt, rest = circuit.parameters()
        sweep = lambda learnt: eqx.combine(learnt, rest).start(clamp)["output"]
        output, back = jax.vjp(sweep, learnt)
        vector = jnp.linalg.solve(ascribed(circuit, clamp["input"]), jax.grad(cost)(output))
        return back(vector)[0]

    rule = PredictiveCoding(step=0.001, max_steps=3000, **EXACT)
    check_assigner(rule, predictive(), law=law, least=0.9999)


def test_backprop():
    check_assigner(Backprop(), predictive(), least=1 - 1e-12)


@pytest.mark.parametrize(
    ("assigner", "build"),
    [
        (PredictiveCoding(), predictive),
        (EquilibriumPropagation(), hopfield),
        (NGCRule(), lambda: NGC.mlp(SIZES, sigma=None, key=KEY)),
    ],
    ids=["pc", "eqprop", "ngc"],
)
def test_nothing_is_backpropagated(assigner, build):
    """Where learning reads its activities cannot be differentiated in reverse, only forwards."""
    circuit, cost = build(), COSTS["squared"]
    read = lambda x: assigner.gradient(circuit, {"input": x}, cost, key=KEY)[1].energy
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(read)(X)
    assert np.all(np.isfinite(jax.jit(jax.jacfwd(read))(X)))


def test_clamped_rules_read_plasticity_where_they_settled_and_nothing_else():
    """The credit is the circuit's own local plasticity at held activities, over the step."""
    pc = predictive()
    ngc = NGC.mlp(SIZES, sigma=None, modulate=True, key=KEY)
    for rule, circuit in ((PredictiveCoding(0.5), pc), (NGCRule(0.5), ngc)):
        begin = eqx.filter_jit(type(circuit).start)(circuit, {"input": X})
        target = begin["output"] - 0.5 * jax.grad(COSTS["arbitrary"])(begin["output"])
        clamp = {"input": X, "output": target}
        found = settle(circuit, clamp, solver=Euler(0.1), tol=0, max_steps=20, start=begin)
        want = plastic(circuit, found.state)
        got, _ = given(rule, circuit, COSTS["arbitrary"])
        np.testing.assert_allclose(flat(got), flat(want) / 0.5, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("scheme", ["centred", "one_sided"])
def test_eqprop_contrasts_plasticity_between_phases_and_nothing_else(scheme):
    circuit, rule = hopfield(), EquilibriumPropagation(0.3, scheme, free_steps=9, nudged_steps=4)
    run = eqx.filter_jit(partial(settle, cost=COSTS["arbitrary"], solver=EvenOdd(), tol=0))
    phase = partial(run, circuit, {"input": X})
    free = phase(nudge=0.0, max_steps=9).state
    nudged = lambda nudge: phase(nudge=jnp.asarray(nudge), max_steps=4, start=free).state
    change = lambda nudge: flat(plastic(circuit, nudged(nudge)))
    other = flat(plastic(circuit, free)) if scheme == "one_sided" else change(-0.3)
    want = (change(0.3) - other) / (0.3 if scheme == "one_sided" else 0.6)
    got, _ = given(rule, circuit, COSTS["arbitrary"])
    np.testing.assert_allclose(flat(got), want, rtol=1e-9, atol=1e-13)


def test_cosine_sees_a_turned_gradient():
    circuit = predictive()
    credit, _ = given(Backprop(), circuit, COSTS["squared"])
    assert abs(cosine(credit, credit) - 1) < 1e-12
    assert abs(cosine(jax.tree.map(jnp.negative, credit), credit) + 1) < 1e-12
