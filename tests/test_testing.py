"""The battery can fail: each law catches a mutant made to break it."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima import NGC, EquilibriumPropagation, Hopfield, Predictive, PredictiveCoding
from anima.circuit.circuit import gradient
from anima.learn.assigners import AbstractAssigner
from anima.settle.solvers import AbstractSolver, residual
from anima.testing import check_assigner, check_circuit, check_solver

KEY = jax.random.key(3)
SIZES = [2, 3, 2]


def mutant(base, **methods):
    """A class like `base` but for some methods (which the library itself never makes)."""
    return type("Mutant", (base,), methods)


def hopfield(**methods):
    return mutant(Hopfield, **methods).mlp(SIZES, key=KEY)


def predictive(**methods):
    return mutant(Predictive, **methods).mlp(SIZES, key=KEY)


def reversed_force(self, state):
    return {name: -f for name, f in Predictive.force(self, state).items()}


def halved_plasticity(self, state):
    return jax.tree.map(lambda leaf: leaf / 2, Predictive.plasticity(self, state))


def scaled_by_all(self, state):
    everything = sum(jnp.sum(jax.lax.stop_gradient(z) ** 2) for z in state.values())
    return NGC.synaptic_energy(self, state) * everything


def heard_by_all(self, state):
    total = sum(jnp.sum(z) for z in state.values())
    return {name: f + 0.01 * total for name, f in NGC.force(self, state).items()}


def extra_energy(self, state):
    return Predictive.energy(self, state) + 0.01 * jnp.sum(state["h1"] ** 3)


def only_synaptic(self, state):
    """Learns half: the energy knows nothing of it."""
    return Predictive.energy(self, state) / 2


def late_start(self, clamp):
    self.check_clamp(clamp)
    state = Predictive.start(self, clamp)
    return state | {"input": state["input"] * 0.9}


def short_start(self, clamp):
    state = Predictive.start(self, clamp)
    return {name: value for name, value in state.items() if name != "h1"}


counter = itertools.count()


def forgetful_silence(self, rates, *, key):
    for name in rates:
        self.node(name)
        if not 0 <= rates[name] < 1:
            return Predictive.silence(self, rates, key=key)
    key = jax.random.key(next(counter))
    return Predictive.silence(self, rates, key=key)


CIRCUITS = {
    "force is minus the gradient of the energy": lambda: predictive(force=reversed_force),
    "plasticity is the gradient of synaptic_energy": lambda: predictive(
        plasticity=halved_plasticity
    ),
    "plasticity is the energy's gradient": lambda: predictive(synaptic_energy=only_synaptic),
    "start keeps the clamp of 'input'": lambda: predictive(start=late_start),
    "start gives every node": lambda: predictive(start=short_start),
    "a clamp of an unknown node is an InputError": lambda: predictive(
        check_clamp=lambda self, clamp: dict(clamp)
    ),
    "curvature is positive": lambda: predictive(
        curvature=lambda self: {node.name: -jnp.ones(()) for node in self.nodes}
    ),
    "curvature names every node": lambda: predictive(curvature=lambda self: {"h1": jnp.ones(())}),
    "by force / curvature does not raise": lambda: predictive(
        curvature=lambda self: {node.name: jnp.asarray(0.1) for node in self.nodes}
    ),
    "project is idempotent": lambda: predictive(
        project=lambda self, state: {name: value / 2 for name, value in state.items()}
    ),
    "project treats each node by itself": lambda: predictive(
        project=lambda self, state: {n: z if len(state) > 1 else 0 * z for n, z in state.items()}
    ),
    "blocks hold every node once": lambda: predictive(blocks=lambda self: (("input", "h1"),)),
    "nodes of a block do not touch": lambda: predictive(
        blocks=lambda self: (("input", "h1", "output"),)
    ),
    "silence at rate 0 is the identity": lambda: predictive(
        sent=lambda self, name, rate: 1.1 * rate if name in self.gain else rate
    ),
    "silence depends on nothing but its key": lambda: predictive(silence=forgetful_silence),
    "silent units of 'input' send 'h1' nothing": lambda: predictive(
        sent=lambda self, name, rate: rate
    ),
    "a silence rate of 1 is an InputError": lambda: predictive(
        silence=lambda self, rates, key: Predictive.silence(
            self, {name: min(rate, 0.5) for name, rate in rates.items()}, key=key
        )
    ),
    "the circuit pickles": lambda: Predictive.mlp(SIZES, activation=lambda z: z, key=KEY),
}


@pytest.mark.parametrize("law", CIRCUITS)
def test_a_circuit_that_breaks_a_law_is_caught(law):
    circuit = CIRCUITS[law]()
    with pytest.raises(AssertionError, match=law):
        check_circuit(circuit)


def test_non_local_plasticity_and_force_are_caught():
    """At generic activities: at the forward pass, where errors vanish, neither would be seen."""
    for law, methods in (
        (
            r"the change of .*->.* is local.*reads .*'h1', 'input', 'output",
            dict(synaptic_energy=scaled_by_all),
        ),
        ("force is local", dict(force=heard_by_all)),
    ):
        circuit = mutant(NGC, **methods).mlp(SIZES, sigma=None, key=KEY)
        with pytest.raises(AssertionError, match=law):
            check_circuit(circuit, conservative=False)


def test_claims_that_are_too_strong_are_caught():
    """NGC without the gate is no gradient."""
    with pytest.raises(AssertionError, match="force is minus the gradient"):
        check_circuit(NGC.mlp(SIZES, sigma=None, key=KEY))


@pytest.mark.slow
def test_a_graph_claimed_symmetric_is_caught(diamond):
    with pytest.raises(AssertionError, match="is local"):
        check_circuit(diamond, directed=False)


class Skewed(AbstractSolver):
    """An Euler step with something wrong."""

    kind: str = eqx.field(static=True)
    dt: float = 0.3

    def init(self, landscape, free):
        return None

    def step(self, landscape, free, carry):
        force = landscape.force(free)
        met = residual(landscape.project, free, force)
        if self.kind == "hasty":
            return free, None, jnp.zeros_like(met)
        if self.kind == "biased":
            force = {name: f + 1e-3 for name, f in force.items()}
        if self.kind == "uphill":
            force = {name: -f for name, f in force.items()}
        moved = {name: free[name] + self.dt * force[name] for name in free}
        if self.kind == "unprojected":
            return moved, None, met
        if self.kind == "capped":
            moved = {name: jnp.clip(z, -5, 5) for name, z in moved.items()}
        return landscape.project(moved), None, met


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        ("hasty", "a small convex Predictive circuit settles"),
        ("biased", "a small convex Predictive circuit settles"),
        ("uphill", "diverged: reduce"),
        ("unprojected", "a small convex Hopfield circuit settles"),
        ("capped", "dt = 1e9 is reported as divergence"),
    ],
)
def test_a_solver_that_breaks_a_law_is_caught(kind, law):
    with pytest.raises(AssertionError, match=law):
        check_solver(Skewed(kind), max_steps=3000)


def test_a_solver_that_counts_in_python_is_caught():
    class Counting(AbstractSolver):
        """Needs to know, while it is traced, how far it has moved."""

        def init(self, landscape, free):
            return None

        def step(self, landscape, free, carry):
            if residual(landscape.project, free, landscape.force(free)) > 1:
                return free, None, jnp.ones(())
            return free, None, jnp.zeros(())

    with pytest.raises(jax.errors.TracerBoolConversionError):
        check_solver(Counting())


class Wrong(AbstractAssigner):
    """Another assigner's objective with something wrong."""

    right: AbstractAssigner
    kind: str = eqx.field(static=True)

    def predict(self, circuit, clamp):
        return self.right.predict(circuit, clamp)

    def objective(self, circuit, clamp, cost, *, key):
        value, info = self.right.objective(circuit, clamp, cost, key=key)
        if self.kind == "flipped":
            value = -value
        if self.kind == "decaying":
            value = value + 0.01 * sum(jnp.sum(s.weight**2) for s in circuit.synapses.values())
        if self.kind == "mute":
            value = 0.0 * value
        if self.kind == "lying":
            info = dataclasses.replace(info, output=info.output + 1)
        if self.kind == "cheap":
            info = dataclasses.replace(info, cost=0.5 * info.cost)
        if self.kind == "blind":
            info = dataclasses.replace(info, result=jnp.zeros_like(info.result))
        return value, info

    def gradient(self, circuit, clamp, cost, *, key):
        objective = lambda circuit: self.objective(circuit, clamp, cost, key=key)
        credit, info = gradient(objective, circuit)
        if self.kind == "louder alone":
            credit = jax.tree.map(lambda leaf: 1.01 * leaf, credit)
        if self.kind == "shapeless":
            credit = jax.tree.map(jnp.ravel, credit)
        if self.kind == "restless":
            jitter = 1e-3 * np.random.default_rng().normal()  # a new number at each call
            credit = jax.tree.map(lambda leaf: leaf + jitter, credit)
        return credit, info


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        ("flipped", r"credit for the squared cost points along the gradient .*cosine is -"),
        ("mute", r"points along the gradient .*cosine is 0"),
        ("decaying", "a cost that is flat changes nothing"),
        ("lying", "info's output is the assigner's answer"),
        ("cheap", "info's cost is that of its answer"),
        ("blind", "a clamp that is not a number is reported"),
        ("louder alone", "the credit of a batch is the mean of its examples' credits"),
        ("shapeless", "credit is shaped like the circuit's parameters"),
    ],
)
def test_an_assigner_that_breaks_a_law_is_caught(kind, law):
    circuit = Predictive.mlp([2, 3, 2], key=KEY)
    with pytest.raises(AssertionError, match=law):
        check_assigner(Wrong(PredictiveCoding(), kind), circuit)


def test_too_much_is_not_promised():
    """Plain predictive coding is not within a hair of backprop; the bound is seen to bite."""
    with pytest.raises(AssertionError, match=r"cosine above 0\.9999"):
        check_assigner(PredictiveCoding(), Predictive.mlp([2, 3, 2], key=KEY), least=0.9999)


def test_eqprop_far_from_its_limit_is_seen():
    """A nudge too large, too few steps: the angle to the true gradient says so."""
    rule = EquilibriumPropagation(beta=0.2, scheme="one_sided", free_steps=1, nudged_steps=1)
    circuit = Hopfield.mlp(SIZES, key=KEY)
    with pytest.raises(AssertionError, match=r"cosine above 0.999|flat"):
        check_assigner(rule, circuit, least=0.999)
