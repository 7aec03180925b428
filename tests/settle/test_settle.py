"""The one loop: what it returns, what it refuses, and what does not grow with its length."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima import (
    NGC,
    Anderson,
    Euler,
    EvenOdd,
    Hopfield,
    InputError,
    Momentum,
    Predictive,
    Result,
    settle,
    trace,
)
from anima.circuit.graph import AbstractSynapse, Dense, Node
from anima.settle.settle import walk

SIZES = [3, 5, 4, 2]
SOLVERS = [Euler(0.2), Momentum(0.1, 0.5), EvenOdd(), Anderson(EvenOdd())]
TARGET = np.asarray([1.0, -2.0])
run = eqx.filter_jit(settle)


def squared(output):
    return jnp.sum((output - TARGET) ** 2)


def question(getkey):
    return {"input": jax.random.normal(getkey(), (3,))}


def test_the_quadratic_nudge_has_its_closed_form_minimum(getkey):
    """With C = |s - y|^2 EvenOdd jumps to (drive + 2 beta y) / (1 + 2 beta), whatever beta."""
    circuit, clamp = Hopfield.mlp(SIZES, key=getkey()), question(getkey)
    weight = np.asarray(circuit.synapses["h2->output"].weight)
    for beta in (0.1, 3.0, 1000.0):
        found = run(
            circuit,
            clamp,
            cost=squared,
            nudge=jnp.asarray(beta),
            solver=EvenOdd(),
            tol=jnp.asarray(1e-10),
            max_steps=500,
        )
        assert int(found.result) == Result.CONVERGED
        drive = np.asarray(found.state["h2"]) @ weight
        want = (drive + 2 * beta * TARGET) / (1 + 2 * beta)
        np.testing.assert_allclose(found.state["output"], want, atol=1e-9)


def test_one_sweep_jumps_to_the_minimum_of_a_nudged_output(getkey):
    """With its only neighbour clamped, the output is there after a single step."""
    circuit = Hopfield.mlp(SIZES, key=getkey())
    state = circuit.start(question(getkey))
    clamp = {name: state[name] for name in ("input", "h1", "h2")}
    found = settle(circuit, clamp, cost=squared, nudge=0.7, solver=EvenOdd(), max_steps=1)
    drive = np.asarray(state["h2"]) @ np.asarray(circuit.synapses["h2->output"].weight)
    np.testing.assert_allclose(found.state["output"], (drive + 1.4 * TARGET) / 2.4, rtol=1e-12)


def test_a_stiff_cost_that_couples_outputs_does_not_make_even_odd_diverge(getkey):
    """The nudge's curvature bounds all of the cost's Hessian, not just its diagonal."""
    circuit, clamp = Hopfield.mlp([3, 5, 10], key=getkey()), question(getkey)
    cost = lambda output: 10 * jnp.sum(output) ** 2
    found = settle(circuit, clamp, cost=cost, nudge=2.0, solver=EvenOdd(), max_steps=3000)
    assert int(found.result) == Result.CONVERGED


class Grid(AbstractSynapse):
    """Onto a node of shape (2, 2)."""

    weight: jax.Array

    def __call__(self, rate):
        return (rate @ self.weight).reshape(2, 2)

    def norm(self):
        return Dense(self.weight).norm()


def test_an_output_of_any_shape_can_be_nudged(getkey):
    nodes = (Node("input", (3,)), Node("output", (2, 2), ("input",)))
    biases = {node.name: jnp.zeros(node.shape) for node in nodes}
    weight = jax.random.normal(getkey(), (3, 4))
    circuit, clamp = Hopfield(nodes, {"input->output": Grid(weight)}, biases), question(getkey)
    cost = lambda output: jnp.sum((output - 1) ** 2)
    found = settle(circuit, clamp, cost=cost, nudge=0.5, solver=EvenOdd(), tol=1e-10)
    drive = (clamp["input"] @ weight).reshape(2, 2)
    np.testing.assert_allclose(found.state["output"], (drive + 1) / 2, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_trace_agrees_with_settle_step_by_step(solver, getkey):
    circuit, clamp = Predictive.mlp(SIZES, key=getkey()), question(getkey)
    nudged = dict(cost=squared, nudge=0.3, solver=solver)
    path = eqx.filter_jit(partial(trace, **nudged, steps=6))(circuit, clamp)
    until = jax.jit(lambda n: settle(circuit, clamp, **nudged, tol=0, max_steps=n))
    assert path.steps.tolist() == list(range(7))
    for step in range(7):
        found = until(step)
        assert int(found.steps) == step
        same = lambda a, b, i=step: np.testing.assert_allclose(a[i], b, rtol=1e-11, atol=1e-13)
        jax.tree.map(same, path.state, found.state)
        same(path.energy, found.energy)
        same(path.residual, found.residual)


def test_a_walk_is_a_trace_looked_at_from_its_end(getkey):
    circuit, clamp = Predictive.mlp(SIZES, key=getkey()), question(getkey) | {"output": TARGET}
    how = dict(solver=EvenOdd(), steps=4)
    whole = eqx.filter_jit(partial(trace, **how))(circuit, clamp)
    path, last = eqx.filter_jit(partial(walk, **how))(circuit, clamp)
    assert set(path) == {"h1", "h2"} and int(last.steps) == 4
    for name, way in path.items():
        np.testing.assert_array_equal(way, whole.state[name])
    same = lambda a, b: np.testing.assert_allclose(a, b[-1], rtol=1e-12)
    jax.tree.map(
        same, (last.state, last.energy, last.residual), (whole.state, whole.energy, whole.residual)
    )


def test_the_start_may_be_given_and_the_clamp_wins(getkey):
    circuit, clamp = Hopfield.mlp(SIZES, key=getkey()), question(getkey)
    begin = {node.name: jnp.full(node.shape, 0.5) for node in circuit.nodes}
    found = settle(circuit, clamp, start=begin, max_steps=0)
    np.testing.assert_array_equal(found.state["input"], clamp["input"])
    for name in ("h1", "h2", "output"):
        np.testing.assert_array_equal(found.state[name], 0.5)
    assert int(found.steps) == 0


@pytest.mark.parametrize("family", [Hopfield, Predictive, NGC])
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_reverse_mode_is_refused(family, solver, getkey):
    """No backprop: the compiler keeps the promise."""
    circuit, clamp = family.mlp([3, 4, 2], key=getkey()), question(getkey)
    answer = lambda clamp: jnp.sum(settle(circuit, clamp, solver=solver).state["output"])
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(answer)(clamp)


def test_one_trace_whatever_the_numbers(getkey):
    """max_steps, tol, nudge, and the numbers of circuit, clamp and solver are all data."""
    circuit, clamp, traces = Hopfield.mlp(SIZES, key=getkey()), question(getkey), []

    @jax.jit
    def count(circuit, clamp, dt, nudge, tol, max_steps):
        traces.append(None)
        solver = Euler(dt)
        return settle(
            circuit, clamp, cost=squared, nudge=nudge, solver=solver, tol=tol, max_steps=max_steps
        ).steps

    moving, fixed = eqx.partition(circuit, eqx.is_array)
    del fixed  # all that a Hopfield circuit holds is arrays and static fields
    grown = lambda k: jax.tree.map(lambda x: x * k, moving)
    seen = [int(count(grown(k), clamp, 0.1 * k, 0.2 * k, 0.1**k, 7 * k)) for k in (1, 2, 3)]
    assert len(traces) == 1
    assert len(set(seen)) == 3


def equations(jaxpr) -> int:
    """How many operations a program holds, loops counted once."""
    return len(str(jaxpr).splitlines())


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_program_does_not_grow_with_the_number_of_steps(solver, getkey):
    circuit, clamp = Predictive.mlp(SIZES, key=getkey()), question(getkey)
    for tol in (0, 1e-4):
        run = lambda clamp, n, tol=tol: settle(circuit, clamp, solver=solver, tol=tol, max_steps=n)
        sizes = {equations(jax.make_jaxpr(partial(run, n=n))(clamp)) for n in (2, 200, 100_000)}
        assert len(sizes) == 1
    path = lambda clamp, n: trace(circuit, clamp, solver=solver, steps=n)
    assert len({equations(jax.make_jaxpr(partial(path, n=n))(clamp)) for n in (2, 200)}) == 1


def test_an_example_does_not_move_for_its_neighbours(getkey):
    """tol > 0: who has settled waits; answers and step counts are those of each alone."""
    circuit = Predictive.mlp(SIZES, key=getkey())
    easy = circuit.start(question(getkey))
    several = {
        "input": jnp.stack([easy["input"], jax.random.normal(getkey(), (3,)), jnp.zeros(3)]),
        "output": jnp.stack([easy["output"], jnp.asarray([3.0, -4.0]), jnp.asarray([0.1, 0.0])]),
    }
    one = lambda clamp: settle(circuit, clamp, solver=Euler(0.2), tol=1e-6, max_steps=2000)
    together = jax.jit(jax.vmap(one))(several)
    alone = [jax.jit(one)(jax.tree.map(lambda x, i=i: x[i], several)) for i in range(3)]
    assert together.steps.tolist() == [int(found.steps) for found in alone]
    assert int(together.steps[0]) == 1 < int(together.steps[2]) < int(together.steps[1])
    for i, found in enumerate(alone):
        close = lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-12)
        jax.tree.map(close, together.state, found.state)


def test_the_residual_is_the_projected_force(getkey):
    """At a bound a force outwards is no unrest."""
    circuit, clamp = Hopfield.mlp(SIZES, key=getkey()), question(getkey)
    biases = circuit.biases | {"h1": jnp.asarray([5.0, -5.0, 0.2, 0.1, 0.3])}
    circuit = Hopfield(circuit.nodes, circuit.synapses, biases)
    found = settle(circuit, clamp, solver=EvenOdd(), tol=1e-8)
    assert int(found.result) == Result.CONVERGED and float(found.residual) <= 1e-8
    force = circuit.force(found.state)
    assert float(jnp.max(jnp.abs(force["h1"]))) > 3  # pressed against both bounds
    cut = settle(circuit, clamp, solver=Euler(0.1), max_steps=2)
    force = circuit.force(cut.state)
    free = {name: cut.state[name] for name in ("h1", "h2", "output")}
    moved = circuit.project({name: free[name] + force[name] for name in free})
    want = max(float(jnp.max(jnp.abs(moved[name] - free[name]))) for name in free)
    np.testing.assert_allclose(cut.residual, want, rtol=1e-12)
    assert int(cut.result) == Result.MAX_STEPS


@pytest.mark.parametrize("decay", [0.9, 0.95])
def test_who_stops_early_has_converged(decay, getkey):
    """A ball rolling through a place without force has not settled there."""
    circuit = Predictive.mlp(SIZES, key=getkey())
    one = lambda tol, clamp: settle(
        circuit, clamp, solver=Momentum(0.2, decay), tol=tol, max_steps=5000
    )
    inputs = jax.random.normal(getkey(), (16, 3))
    targets = jax.random.normal(getkey(), (16, 2))
    many = jax.jit(jax.vmap(one, (None, 0)))
    for tol in (1e-1, 1e-3, 1e-5):
        found = many(tol, {"input": inputs, "output": targets})
        assert np.all(np.asarray(found.steps) < 5000)
        assert np.all(np.asarray(found.residual) <= tol), found.residual


@pytest.mark.parametrize("beta_e", [0.5, 0.1])
def test_ngc_circuits_dream_with_even_odd(beta_e, getkey):
    """Block steps need a true bound on the curvature; with 1 for every node this diverges."""
    circuit = NGC.mlp([3, 6, 4, 2], sigma=None, gate=True, tied=True, beta_e=beta_e, key=getkey())
    path = trace(circuit, {"output": TARGET}, solver=EvenOdd(), steps=100)
    assert np.all(np.diff(path.energy) <= 1e-12), "a step went uphill"


@pytest.mark.parametrize("where", ["clamp", "circuit", "cost"])
def test_divergence_is_reported(where, getkey):
    circuit, clamp = Hopfield.mlp(SIZES, key=getkey()), question(getkey)
    cost = squared
    if where == "clamp":
        clamp = {"input": clamp["input"] * jnp.nan}
    elif where == "circuit":
        circuit = jax.tree.map(lambda leaf: leaf * jnp.nan, circuit)
    else:
        cost = lambda output: -50 * jnp.sum((output - 1) ** 2)  # no minimum: the nudge wins
    found = settle(circuit, clamp, cost=cost, nudge=0.5, max_steps=5000)
    assert int(found.result) == Result.NONFINITE


@pytest.mark.parametrize("start", [False, True], ids=["swept", "given-start"])
@pytest.mark.parametrize(
    ("clamp", "message"),
    [
        ({"inptu": np.ones(3)}, "no node 'inptu': did you mean 'input'"),
        ({"input": np.ones(4)}, r"clamp of 'input' has shape \(4,\), the node has \(3,\)"),
        ({"input": np.ones((8, 3))}, "give one example"),
    ],
)
def test_bad_clamps_are_refused(clamp, message, start, getkey):
    circuit = Hopfield.mlp(SIZES, key=getkey())
    begin = circuit.start({"input": jnp.ones(3)}) if start else None
    with pytest.raises(InputError, match=message):
        settle(circuit, clamp, start=begin)


def test_a_cost_needs_an_output_node(getkey):
    """Ignoring it would be a default instead of a complaint."""
    nodes = (Node("input", (3,)), Node("y", (2,), ("input",)))
    biases = {node.name: jnp.zeros(node.shape) for node in nodes}
    circuit = Hopfield(nodes, {"input->y": Dense(jnp.ones((3, 2)))}, biases)
    with pytest.raises(InputError, match="no node 'output'"):
        settle(circuit, question(getkey), cost=squared, nudge=0.1)


def test_settling_a_silenced_circuit_leaves_its_silent_units_out(getkey):
    """Nudged or free, whatever the target: silent units stand where the start put them."""
    circuit, clamp = Hopfield.mlp(SIZES, key=getkey()), question(getkey)
    quiet = circuit.silence({"h1": 0.5}, key=jax.random.key(1))
    dead = np.asarray(quiet.gain["h1"]) == 0
    assert 0 < dead.sum() < dead.size
    for nudge in (-0.3, 0.0, 0.3):
        found = run(quiet, clamp, cost=squared, nudge=jnp.asarray(nudge), solver=EvenOdd())
        np.testing.assert_array_equal(np.asarray(found.state["h1"])[dead], 0)


def test_half_a_node_can_be_clamped():
    """The seen half stays as it is given; the rest settles where minimising over it says."""
    circuit = Predictive.mlp([2, 4], activation="identity", prior=True, key=jax.random.key(0))
    weight = circuit.synapses["input->output"].weight
    given, seen = jnp.asarray([1.0, -2.0, 9.0, 9.0]), jnp.asarray([True, True, False, False])
    found = settle(
        circuit,
        {"output": given},
        only={"output": seen},
        solver=Euler(0.1),
        tol=1e-10,
        max_steps=20_000,
    )
    assert int(found.result) == Result.CONVERGED
    half = weight[:, :2]
    code = jnp.linalg.solve(half @ half.T + jnp.eye(2), half @ given[:2])
    np.testing.assert_allclose(found.state["output"][:2], given[:2], rtol=0)
    np.testing.assert_allclose(found.state["input"], code, rtol=1e-6)
    np.testing.assert_allclose(found.state["output"][2:], code @ weight[:, 2:], rtol=1e-6)


def test_a_mask_without_its_clamp_is_refused():
    circuit = Predictive.mlp([2, 4], key=jax.random.key(0))
    with pytest.raises(InputError, match=r"clamp 'output' as well"):
        settle(circuit, {"input": jnp.zeros(2)}, only={"output": jnp.ones(4, bool)})
