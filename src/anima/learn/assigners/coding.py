"""Credit by prediction errors: a cost displaces the output, and the errors that remain teach."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Inexact, PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.frozen import Frozen
from anima.circuit.ngc import NGC
from anima.circuit.precision import Precision, covariance_times
from anima.circuit.predictive import Predictive
from anima.core.errors import InputError, check_positive, check_range, pick
from anima.core.types import Clamp, Cost, Count, Equilibrium, Number, Scalar, State, worst
from anima.learn.assigners.base import (
    AbstractAssigner,
    Info,
    arriving,
    contrast,
    inform,
    nudged,
    only,
    swept,
    tangent,
)
from anima.learn.costs import check_cost
from anima.settle.settle import settle, walk
from anima.settle.solvers import AbstractSolver, Euler, EvenOdd


class PredictiveCoding(AbstractAssigner):
    """Let the cost displace the output, settle, and read dF/dtheta of what is left over.

    Three ways of applying the cost, `teach`, with step s and slope g = dC/dy at the sweep:

    - `"clamp"`: hold the output at y - s g. For C = 1/2 |y - t|^2 and s = 1 that is the target
      itself. As s -> 0: what backprop gives when fed S^-1 g, S the covariance that the circuit
      ascribes to its own output (Whittington and Bogacz, 2017; Millidge et al., 2022). Settled
      only briefly, n Euler steps of dt, in a chain of unit precisions, the node k synapses below
      the output (k = 0: the output) has C(n, k) dt^k of what backprop gives it, to relative O(dt):
      its direction, times a factor for each layer that Adam divides out and SGD does not.
    - `"corrected"`: leave the output free under the constant force -s g, which displaces it by
      s S g. As s -> 0: backprop itself, to O(s). Stable for every cost.
    - `"energy"`: F +- s C, centred: backprop itself, to O(s^2). Stable while S^-1 +- s C'' stays
      positive definite (`nudge_bound`).

    `solver`, `max_steps`, `tol`: how the nodes settle.
    """

    step: Number = 1.0
    solver: AbstractSolver = Euler(0.1)
    max_steps: Count = 20
    tol: Number = 0.0
    teach: str = eqx.field(static=True, default="clamp")

    def __check_init__(self):
        pick("teach", self.teach, _TEACHING)
        check_positive("PredictiveCoding", step=self.step, max_steps=self.max_steps)

    @property
    def nudges(self) -> tuple[Number, ...]:
        return (self.step, -self.step) if self.teach == "energy" else ()

    def predict(self, circuit: AbstractCircuit, clamp: Clamp) -> Equilibrium:
        return swept(only(Predictive, "PredictiveCoding", circuit), clamp)

    def objective(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[Scalar, Info]:
        return _TEACHING[self.teach](self, circuit, clamp, cost)

    def pressure(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> State:
        """Two phases under the constant force +-s g, whatever `teach`: to O(s^2)."""
        return _pressure(self, circuit, clamp, cost, self.step)


class NGCRule(AbstractAssigner):
    """NGC's own learning: clamp z^0 to y - s dC/dy, settle, change W and E by what is left over.

    The answer is the ancestral projection. With E = W^T, the derivative gate and no leak this is
    `PredictiveCoding`; with learnt E it need not be a gradient of anything (Ororbia and Kifer,
    2022).

    - `step`: s. - `solver`: Euler with dt = the papers' beta. - `max_steps`: their T.
    """

    step: Number = 1.0
    solver: AbstractSolver = Euler(0.1)
    max_steps: Count = 20
    tol: Number = 0.0

    def __check_init__(self):
        check_positive("NGCRule", step=self.step, max_steps=self.max_steps)

    def predict(self, circuit: AbstractCircuit, clamp: Clamp) -> Equilibrium:
        return swept(only(NGC, "NGCRule", circuit), clamp)

    def objective(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[Scalar, Info]:
        return _by_clamp(self, circuit, clamp, cost)

    def pressure(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> State:
        """The error that E carries to the clamped nodes, the output pulled by +-s g: with E = W^T,
        the derivative gate and no leak d cost / d clamp to O(s^2)."""
        return _pressure(self, circuit, clamp, cost, self.step)


class IncrementalPC(AbstractAssigner):
    """Predictive coding whose synapses move at every settling step (Salvatori et al., 2024).

    Each of `turns` takes one step of the solver and then one of the optimiser. The objective of a
    single example is the mean of its turns with synapses held: what they would do at a vanishing
    rate, and `PredictiveCoding`'s own as soon as the activities have settled.

    - `step`: s, the output is clamped to y - s dC/dy. - `solver`: must not carry anything from
      step to step (Euler, EvenOdd). - `count`: how many turns.
    """

    step: Number = 1.0
    solver: AbstractSolver = Euler(0.1)
    count: int = eqx.field(static=True, default=20)

    def __check_init__(self):
        check_positive("IncrementalPC", step=self.step, count=self.count)

    @property
    def turns(self) -> int:
        return self.count

    def predict(self, circuit: AbstractCircuit, clamp: Clamp) -> Equilibrium:
        return swept(only(Predictive, "IncrementalPC", circuit), clamp)

    def begin(self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost) -> Any:
        sweep = self.predict(circuit, clamp)
        return sweep, {**sweep.state, "output": _target(sweep, cost, self.step)}

    def turn(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, carry: Any, *, key: PRNGKeyArray
    ) -> tuple[Scalar, tuple[Info, Any]]:
        sweep, state = carry
        settled = settle(
            jax.lax.stop_gradient(circuit),
            {**clamp, "output": state["output"]},
            solver=self.solver,
            tol=0,
            max_steps=1,
            start=state,
        )
        value = circuit.synaptic_energy(jax.lax.stop_gradient(settled.state)) / self.step
        return value, (inform(circuit, cost, sweep, settled), (sweep, settled.state))

    def objective(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[Scalar, Info]:
        held = jax.lax.stop_gradient(circuit)
        sweep, state = self.begin(held, clamp, cost)
        taught = {**clamp, "output": state["output"]}
        path, last = walk(held, taught, solver=self.solver, steps=self.count, start=state)
        passed = jax.lax.stop_gradient(jax.tree.map(lambda z: z[1:], path))
        held_there = jax.lax.stop_gradient(last.state)
        values = jax.vmap(lambda free: circuit.synaptic_energy(held_there | free))(passed)
        return jnp.mean(values) / self.step, inform(circuit, cost, sweep, last)

    def pressure(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> State:
        """As `PredictiveCoding`'s, with as many steps as there are turns: no synapse moves."""
        settling = PredictiveCoding(self.step, self.solver, self.count)
        return settling.pressure(circuit, clamp, cost, key=key)


class FixedPrediction(AbstractAssigner):
    """Predictive coding with predictions and slopes frozen at the sweep: exactly backprop.

    With the output clamped at y - Sigma dC/dy the frozen circuit is linear, and where it settles
    Pi_n eps_n = -dC/dmu_n at every node (Millidge et al., 2022). With precisions that are numbers
    or diagonals `EvenOdd` settles it in as many steps as the circuit is deep.

    `solver`, `max_steps`, `tol`: how the frozen circuit settles; `max_steps` 0: in one step for
    each modelled node. A full precision wants more.
    """

    solver: AbstractSolver = EvenOdd()
    max_steps: Count = 0
    tol: Number = 0.0

    def __check_init__(self):
        check_range("FixedPrediction", 0, math.inf, max_steps=self.max_steps)

    def predict(self, circuit: AbstractCircuit, clamp: Clamp) -> Equilibrium:
        return swept(only(Predictive, "FixedPrediction", circuit), clamp)

    def objective(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[Scalar, Info]:
        circuit = only(Predictive, "FixedPrediction", circuit)
        held = jax.lax.stop_gradient(circuit)
        sweep, settled, frozen = self._settled(held, clamp, cost)
        errors = frozen.weighted_errors(settled.state)
        errors = {name: e for name, e in errors.items() if name not in clamp}
        return _pulled(circuit, sweep.state, errors), inform(frozen, cost, sweep, settled)

    def pressure(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> State:
        """What the clamped nodes hear of their children's errors: exactly d cost / d clamp."""
        held = only(Predictive, "FixedPrediction", circuit)
        sweep, settled, frozen = self._settled(held, clamp, cost)
        return _heard(held, clamp, sweep.state, frozen.weighted_errors(settled.state))

    def _settled(
        self, circuit: Predictive, clamp: Clamp, cost: Cost
    ) -> tuple[Equilibrium, Equilibrium, Frozen]:
        """The sweep, where the frozen circuit settled, and that circuit."""
        sweep = self.predict(circuit, clamp)
        frozen = Frozen(circuit=circuit, at=sweep.state)  # pyright: ignore[reportCallIssue]
        settled = settle(
            frozen,
            {**clamp, "output": _whitened_target(circuit, sweep, cost)},
            solver=self.solver,
            tol=self.tol,
            max_steps=len(circuit.precision) if _is_zero(self.max_steps) else self.max_steps,
            start=sweep.state,
        )
        return sweep, settled, frozen


class ZIL(AbstractAssigner):
    """Zero-divergence inference learning: exactly backprop, by timing alone.

    From the sweep, steps of dt 1 bring the error of the node d synapses below the output to it at
    step d, before its parents have moved: that is when its synapses learn (Song et al., 2020;
    Salvatori et al., 2022). The circuit must be a chain of layers, with unit precisions.
    """

    def predict(self, circuit: AbstractCircuit, clamp: Clamp) -> Equilibrium:
        return swept(only(Predictive, "ZIL", circuit), clamp)

    def objective(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[Scalar, Info]:
        circuit = only(Predictive, "ZIL", circuit)
        depth = _depths(circuit)  # before a number is made an array that cannot be looked at
        held = jax.lax.stop_gradient(circuit)
        sweep, last, errors = self._errors(held, depth, clamp, cost)
        return _pulled(circuit, sweep.state, errors), inform(held, cost, sweep, last)

    def pressure(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> State:
        """What the clamped nodes hear of their children's errors: exactly d cost / d clamp."""
        circuit = only(Predictive, "ZIL", circuit)
        sweep, _, errors = self._errors(circuit, _depths(circuit), clamp, cost)
        return _heard(circuit, clamp, sweep.state, errors)

    def _errors(
        self, circuit: Predictive, depth: dict[str, int], clamp: Clamp, cost: Cost
    ) -> tuple[Equilibrium, Equilibrium, State]:
        """The sweep, the last step, and each node's error at the step when it arrives there."""
        sweep = self.predict(circuit, clamp)
        taught = {**clamp, "output": _target(sweep, cost, 1.0)}
        steps = max((d for name, d in depth.items() if name not in taught), default=0)
        path, last = walk(circuit, taught, solver=Euler(1.0), steps=steps, start=sweep.state)
        met = last.state | {name: path[name][d] for name, d in depth.items() if name in path}
        errors = {name: met[name] - sweep.state[name] for name in depth}
        return sweep, last, errors


def _by_clamp(rule: Any, circuit: AbstractCircuit, clamp: Clamp, cost: Cost) -> tuple[Scalar, Info]:
    held = jax.lax.stop_gradient(circuit)
    sweep = rule.predict(held, clamp)
    settled = settle(
        held,
        {**clamp, "output": _target(sweep, cost, rule.step)},
        solver=rule.solver,
        tol=rule.tol,
        max_steps=rule.max_steps,
        start=sweep.state,
    )
    state = jax.lax.stop_gradient(settled.state)
    return circuit.synaptic_energy(state) / rule.step, inform(held, cost, sweep, settled)


def _by_force(
    rule: PredictiveCoding, circuit: AbstractCircuit, clamp: Clamp, cost: Cost
) -> tuple[Scalar, Info]:
    """One phase suffices: at the sweep all errors vanish, and with them the plasticity."""
    sweep, phases = _nudged(rule, circuit, clamp, cost, [rule.step], linearise=True)
    value = contrast(circuit, clamp, phases.state, jnp.asarray([1 / rule.step]))
    return value, _both(circuit, cost, sweep, phases)


def _by_energy(
    rule: PredictiveCoding, circuit: AbstractCircuit, clamp: Clamp, cost: Cost
) -> tuple[Scalar, Info]:
    sweep, phases = _nudged(rule, circuit, clamp, cost, [rule.step, -rule.step], linearise=False)
    weights = jnp.asarray([0.5 / rule.step, -0.5 / rule.step])
    value = contrast(circuit, clamp, phases.state, weights)
    return value, _both(circuit, cost, sweep, phases)


_TEACHING: dict[str, Callable[..., tuple[Scalar, Info]]] = {
    "clamp": _by_clamp,
    "corrected": _by_force,
    "energy": _by_energy,
}


def _nudged(
    rule: Any, circuit, clamp: Clamp, cost: Cost, nudges, *, linearise: bool
) -> tuple[Equilibrium, Equilibrium]:
    held = jax.lax.stop_gradient(circuit)
    sweep = rule.predict(held, clamp)
    check_cost(cost, sweep.state["output"])
    applied = tangent(cost, sweep.state["output"]) if linearise else cost
    return sweep, nudged(
        held,
        clamp,
        applied,
        sweep,
        jnp.asarray(nudges),
        solver=rule.solver,
        tol=rule.tol,
        max_steps=rule.max_steps,
    )


def _pressure(rule: Any, circuit, clamp: Clamp, cost: Cost, step: Number) -> State:
    """From two phases in which the output is free, under the constant force +-step g."""
    sweep, phases = _nudged(rule, circuit, clamp, cost, [step, -step], linearise=True)
    weights = jnp.asarray([0.5 / step, -0.5 / step])
    return arriving(circuit, clamp, sweep, phases.state, weights)


def _both(circuit, cost: Cost, sweep: Equilibrium, phases: Equilibrium) -> Info:
    """The info of the first phase, but the steps and the worst of all."""
    first = jax.tree.map(lambda leaf: leaf[0], phases)
    info = inform(jax.lax.stop_gradient(circuit), cost, sweep, first)
    total = (
        jnp.max(phases.residual),
        jnp.sum(phases.steps, dtype=info.steps.dtype),
        worst(phases.result),
    )
    return eqx.tree_at(lambda i: (i.residual, i.steps, i.result), info, total)


def _target(sweep: Equilibrium, cost: Cost, step: Number) -> Inexact[Array, "..."]:
    """y - s dC/dy."""
    output = sweep.state["output"]
    check_cost(cost, output)
    return output - step * jax.grad(cost)(output)


def _whitened_target(circuit: Predictive, sweep: Equilibrium, cost: Cost) -> Inexact[Array, "..."]:
    """y - Sigma dC/dy, so that the output's weighted error is the slope of the cost itself."""
    output = sweep.state["output"]
    check_cost(cost, output)
    return output - covariance_times(jax.grad(cost)(output), circuit.precision["output"])


def _pulled(circuit: Predictive, at: State, errors: State) -> Scalar:
    """-sum_n <Pi_n eps_n, mu_n(theta)>: its gradient is plasticity with the rates at the sweep."""
    return _pulled_at(circuit, *jax.lax.stop_gradient((at, errors)))


def _pulled_at(circuit: Predictive, at: State, errors: State) -> Scalar:
    terms = (jnp.sum(e * circuit.prediction(name, at)) for name, e in errors.items())
    return -sum(terms, jnp.zeros(()))


def _heard(circuit: Predictive, clamp: Clamp, at: State, errors: State) -> State:
    """-sum_n (dmu_n/dz)^T Pi_n eps_n over the children n of each clamped node."""
    return jax.grad(lambda clamp: _pulled_at(circuit, {**at, **clamp}, errors))(clamp)


def _is_unit(precision: Precision) -> bool:
    """Whether a precision is the number 1. A traced number, as inside a compiled life, cannot be
    looked at and is taken to be what its circuit was built with."""
    single = jnp.shape(precision) == ()
    return single and (isinstance(precision, Tracer) or bool(precision == 1))


def _is_zero(count: Count) -> bool:
    return isinstance(count, int) and count == 0


def _depths(circuit: Predictive) -> dict[str, int]:
    """Modelled node -> how many synapses lead from it to the output.

    **Raises:** `InputError` unless every way to the output is equally long and precisions are 1.
    """
    depth: dict[str, set[int]] = {node.name: set() for node in circuit.nodes}
    depth["output"].add(0)
    for node in reversed(circuit.nodes):
        for parent in node.parents:
            depth[parent] |= {d + 1 for d in depth[node.name]}
    uneven = [name for name in circuit.precision if len(depth[name]) != 1]
    if uneven:
        raise InputError(
            f"ZIL serves chains of layers: from {uneven[0]!r} to the output there are ways of "
            f"{sorted(depth[uneven[0]])} synapses; FixedPrediction serves any graph"
        )
    for name, precision in circuit.precision.items():
        if not _is_unit(precision):
            raise InputError(
                f"ZIL needs unit precisions, and that of {name!r} is {precision}: "
                "FixedPrediction serves any"
            )
    return {name: depth[name].copy().pop() for name in circuit.precision}
