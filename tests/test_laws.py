"""The conformance matrix holds, and every law in it can tell a wrong rule from a right one."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from anima.circuit.predictive import Predictive
from anima.laws import (
    BACKPROP,
    CIRCUITS,
    CODING,
    FORWARDS,
    IMPLICIT,
    WHITENED,
    Row,
    coding,
    measure,
    propagation,
    rows,
)
from anima.learn.assigners import (
    ZIL,
    AbstractAssigner,
    Backprop,
    FixedPrediction,
    IncrementalPC,
    NGCRule,
    PredictiveCoding,
)
from anima.settle.solvers import Euler

pytestmark = pytest.mark.promotes  # complex activities meet real synapses

ONCE = (1.0,)
TWO = ("squared", "arbitrary")


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.assigner} on {row.circuit}")
def test_the_law_of_every_cell_holds(row):
    measured = measure(row)
    wrong = [name for name in measured.errors if not measured.verdict(name)]
    assert not wrong, [(n, measured.errors[n], measured.orders[n]) for n in wrong]


# Mutants: each breaks one thing that a careless implementation breaks.


class Scaled(AbstractAssigner):
    """Another rule's credit, times a factor (divided by beta and not 2 beta; the wrong sign)."""

    rule: AbstractAssigner
    factor: float = 2.0

    def predict(self, circuit, clamp):
        return self.rule.predict(circuit, clamp)

    def objective(self, circuit, clamp, cost, *, key):
        value, info = self.rule.objective(circuit, clamp, cost, key=key)
        return self.factor * value, info


class Unsettled(AbstractAssigner):
    """Reads plasticity at the forward pass, the target clamped, nothing settled."""

    step: float

    def predict(self, circuit, clamp):
        return PredictiveCoding().predict(circuit, clamp)

    def objective(self, circuit, clamp, cost, *, key):
        rule = PredictiveCoding(step=self.step, solver=Euler(1e-12), max_steps=1)
        return rule.objective(circuit, clamp, cost, key=key)


class Uneven(AbstractAssigner):
    """Euler of half a step: errors arrive at their time, but not whole."""

    def predict(self, circuit, clamp):
        return ZIL().predict(circuit, clamp)

    def objective(self, circuit, clamp, cost, *, key):
        rule = FixedPrediction(solver=Euler(0.5), max_steps=2)
        return rule.objective(circuit, clamp, cost, key=key)


class Thawed(AbstractAssigner):
    """Freezes nothing: plain predictive coding taken for backprop."""

    def predict(self, circuit, clamp):
        return FixedPrediction().predict(circuit, clamp)

    def objective(self, circuit, clamp, cost, *, key):
        return coding("corrected")(1.0).objective(circuit, clamp, cost, key=key)


MUTANTS = {
    "backprop of the wrong sign": Row(
        "", lambda _: Scaled(Backprop(), -1.0), "chain", FORWARDS, None, ONCE
    ),
    "predictions that thaw": Row("", lambda _: Thawed(), "chain", BACKPROP, None, ONCE),
    "half steps in place of whole ones": Row(
        "", lambda _: Uneven(), "chain", BACKPROP, None, ONCE
    ),
    "nothing settles": Row("", Unsettled, "chain", WHITENED, 1),
    "S^-1 g taken for g": Row("", coding("clamp"), "chain", BACKPROP, 1),
    "a force taken for an energy": Row("", coding("corrected"), "chain", BACKPROP, 2),
    "one side taken for two": Row("", propagation("one_sided"), "symmetric", IMPLICIT, 2),
    "a contrast over beta": Row(
        "", lambda s: Scaled(propagation("one_sided")(s)), "symmetric", IMPLICIT, 1
    ),
    "two points taken for a circle": Row(
        "", propagation("holomorphic", points=2), "chain", BACKPROP, None, (0.05,), analytic=True
    ),
    "turns that do not settle": Row(
        "", lambda s: IncrementalPC(step=0.5, solver=Euler(1e-9), count=round(1 / s)),
        "chain", CODING, 1, (1 / 4, 1 / 8), static=True,
    ),
    "own feedback taken for tied": Row(
        "", lambda _: NGCRule(step=0.5), "NGC, own feedback", CODING, None, ONCE
    ),
    "feedback of the wrong sign": Row(
        "", lambda _: Scaled(NGCRule(step=0.5), -1.0), "NGC, own feedback", BACKPROP, 0, ONCE
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_rule_breaks_its_law(name):
    measured = measure(MUTANTS[name], only=TWO)
    assert not any(measured.verdict(cost) for cost in TWO), measured


def test_every_kind_of_law_has_a_mutant():
    kinds = lambda table: {(row.reference.name, row.order) for row in table}
    assert kinds(rows()) <= kinds(MUTANTS.values())


def test_a_row_says_its_law():
    laws = {row.law for row in rows()}
    assert "backprop, exactly" in laws and "the gradient at the fixed point, to O(s^2)" in laws


def test_the_graph_has_every_kind_of_precision():
    graph = CIRCUITS["graph"](jax.random.key(0))
    assert isinstance(graph, Predictive)
    assert {jnp.ndim(p) for p in graph.precision.values()} == {0, 1, 2}
    assert dataclasses.is_dataclass(Row)
