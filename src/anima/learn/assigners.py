"""Assigners: how a cost becomes a change of synapses.

Each turns `cost(output)` into a scalar *objective* of the circuit's parameters in which all
activities are held at where the circuit settled; the gradient of that is the plasticity, and each
of its terms is local. One objective per example means that the gradient of a batch is one matrix
product per synapse. Only `Backprop`, the reference, differentiates through the sweep itself.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit, gradient
from anima.circuit.ngc import NGC
from anima.circuit.predictive import Predictive
from anima.core.errors import InputError, check_positive, pick
from anima.core.types import Cost, Equilibrium, Result, Scalar, State, worst
from anima.settle.settle import settle
from anima.settle.solvers import AbstractSolver, Euler, EvenOdd, residual


class Info(eqx.Module):
    """What a chart needs of one assignment of credit, for one example.

    - `cost`: at the free output; `output`: that output.
    - `energy`: where learning read its (last) activities.
    - `residual`: of the free phase for contrastive rules, of the clamped phase for the others.
    - `steps`: solver steps taken, all phases together.
    - `result`: the worst `Result` code of all phases.
    """

    cost: Scalar
    output: Float[Array, "..."]
    energy: Scalar
    residual: Scalar
    steps: Int[Array, ""]
    result: Int[Array, ""]


class AbstractAssigner(eqx.Module):
    """Any cost on any circuit: `gradient` is shaped like the circuit, and learning descends it."""

    @abstractmethod
    def predict(self, circuit: AbstractCircuit, clamp: State) -> Equilibrium:
        """The answer without a teacher: the state whose output the cost judges."""

    @abstractmethod
    def objective(
        self, circuit: AbstractCircuit, clamp: State, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[Scalar, Info]:
        """A scalar whose gradient in the circuit's parameters is the assigned credit."""

    def gradient(
        self, circuit: AbstractCircuit, clamp: State, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[AbstractCircuit, Info]:
        """The credit of one example.

        **Arguments:** `circuit`; `clamp`, the question, e.g. `{"input": x}`; `cost`, any
        differentiable function of the output node's activity; `key`, for rules that draw.

        **Returns:** the estimate of d cost / d theta, shaped like `circuit`, and an `Info`.
        """
        return gradient(lambda circuit: self.objective(circuit, clamp, cost, key=key), circuit)


class Backprop(AbstractAssigner):
    """The reference: reverse mode through the circuit's forward sweep. Not local.

    On a Hopfield circuit the sweep is the feedforward network with the same weights, so this is
    the equal-size twin of every other assigner.
    """

    def predict(self, circuit: AbstractCircuit, clamp: State) -> Equilibrium:
        return swept(circuit, clamp)

    def objective(
        self, circuit: AbstractCircuit, clamp: State, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[Scalar, Info]:
        sweep = swept(circuit, clamp)
        value = cost(sweep.state["output"])
        return value, _info(cost, sweep, sweep)


class PredictiveCoding(AbstractAssigner):
    """Clamp the output a step of -s dC/dy away from its prediction, settle, read dF/dtheta / s.

    For C = 1/2 |y - t|^2 and s = 1 that clamps the target itself. As s -> 0 the result is what
    backprop gives when fed S^-1 g instead of g, S the covariance that the circuit ascribes to its
    own output (Whittington and Bogacz, 2017; Millidge et al., 2022).

    - `step`: s. - `solver`, `max_steps`, `tol`: how the hidden nodes settle.
    """

    step: float = 1.0
    solver: AbstractSolver = Euler(0.1)
    max_steps: int = 20
    tol: float = 0.0

    def __check_init__(self):
        check_positive("PredictiveCoding", step=self.step, max_steps=self.max_steps)

    def predict(self, circuit: AbstractCircuit, clamp: State) -> Equilibrium:
        return swept(_only(Predictive, "PredictiveCoding", circuit), clamp)

    def objective(
        self, circuit: AbstractCircuit, clamp: State, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[Scalar, Info]:
        _only(Predictive, "PredictiveCoding", circuit)
        return _clamped(self, circuit, clamp, cost)


class NGCRule(AbstractAssigner):
    """NGC's own learning: clamp z^0 to y - s dC/dy, settle, change W and E by what is left over.

    The answer is the ancestral projection. With E = W^T, the derivative gate and no leak this is
    `PredictiveCoding`; with learnt E it need not be a gradient of anything (Ororbia and Kifer,
    2022).

    - `step`: s. - `solver`: Euler with dt = the papers' beta. - `max_steps`: their T.
    """

    step: float = 1.0
    solver: AbstractSolver = Euler(0.1)
    max_steps: int = 20
    tol: float = 0.0

    def __check_init__(self):
        check_positive("NGCRule", step=self.step, max_steps=self.max_steps)

    def predict(self, circuit: AbstractCircuit, clamp: State) -> Equilibrium:
        return swept(_only(NGC, "NGCRule", circuit), clamp)

    def objective(
        self, circuit: AbstractCircuit, clamp: State, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[Scalar, Info]:
        _only(NGC, "NGCRule", circuit)
        return _clamped(self, circuit, clamp, cost)


class EquilibriumPropagation(AbstractAssigner):
    """Settle freely, settle again with the cost nudging the output, and contrast the two.

    Update: (dE/dtheta at +beta - dE/dtheta at the other phase) / (their distance in beta), an
    estimate of the gradient of the cost at the circuit's own fixed point (Scellier and Bengio,
    2017; Laborieux et al., 2021 for the centred scheme).

    - `beta`: the nudge.
    - `scheme`: `"one_sided"` (+beta against free; bias O(beta)), `"centred"` (+beta against
      -beta; O(beta^2)), `"random_sign"` (the sign of beta drawn per example, against free).
    - `solver`; `free_steps`, `nudged_steps`, `tol`: when each phase ends.
    """

    beta: float = 0.2
    scheme: str = eqx.field(static=True, default="centred")
    solver: AbstractSolver = EvenOdd()
    free_steps: int = 50
    nudged_steps: int = 20
    tol: float = 0.0

    def __check_init__(self):
        pick("scheme", self.scheme, _SCHEMES)
        check_positive(
            "EquilibriumPropagation",
            beta=self.beta,
            free_steps=self.free_steps,
            nudged_steps=self.nudged_steps,
        )

    def predict(self, circuit: AbstractCircuit, clamp: State) -> Equilibrium:
        if isinstance(circuit, NGC):
            raise InputError(
                "EquilibriumPropagation needs a force that is the gradient of an energy, which "
                "NGC circuits do not have: use NGCRule, or a Hopfield or Predictive circuit"
            )
        return settle(circuit, clamp, solver=self.solver, tol=self.tol, max_steps=self.free_steps)

    def objective(
        self, circuit: AbstractCircuit, clamp: State, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[Scalar, Info]:
        held = jax.lax.stop_gradient(circuit)
        free = self.predict(held, clamp)
        nudges, weights = _SCHEMES[self.scheme](self.beta, key)

        def nudged(nudge: Scalar) -> Equilibrium:
            return settle(
                held,
                clamp,
                cost=cost,
                nudge=nudge,
                solver=self.solver,
                tol=self.tol,
                max_steps=self.nudged_steps,
                start=free.state,
            )

        phases = jax.vmap(nudged)(nudges)
        value = contrast(circuit, clamp, phases.state, weights)
        if self.scheme != "centred":
            value = value - jnp.sum(weights) * circuit.synaptic_energy(free.state)
        info = _info(cost, free, free)
        return value, Info(
            cost=info.cost,
            output=info.output,
            energy=info.energy,
            residual=info.residual,
            steps=free.steps + jnp.sum(phases.steps, dtype=free.steps.dtype),
            result=worst(free.result, phases.result),
        )


def contrast(
    circuit: AbstractCircuit, clamp: State, states: State, weights: Float[Array, " phases"]
) -> Scalar:
    """sum_k weights_k E(states_k), the activities held: what contrastive plasticity descends.

    **Arguments:** `states`, a leading axis of phases on every node; clamped nodes are read from
    `clamp`, so that a synapse from them sees one difference of activities and not two products.
    """
    free = {name: value for name, value in states.items() if name not in clamp}
    held = jax.lax.stop_gradient(free)
    energies = jax.vmap(lambda free: circuit.synaptic_energy({**clamp, **free}))(held)
    return jnp.sum(weights * energies)


def swept(circuit: AbstractCircuit, clamp: State) -> Equilibrium:
    """The forward sweep as an answer: no settling, so no steps; the residual says what is left."""
    state = circuit.start(clamp)
    force = circuit.force(state)
    free = {name: value for name, value in state.items() if name not in clamp}
    left = residual(circuit.project, free, force)
    energy = circuit.energy(state)
    finite = jnp.isfinite(left) & jnp.isfinite(energy)
    return Equilibrium(
        state=state,
        energy=energy,
        residual=left,
        steps=jnp.zeros((), jnp.int32),
        result=jnp.where(finite, Result.CONVERGED, Result.NONFINITE).astype(jnp.int32),
    )


def _clamped(assigner: Any, circuit: AbstractCircuit, clamp: State, cost: Cost):
    """Predict, clamp the output a step against the cost, settle, hold: synaptic energy / step."""
    held = jax.lax.stop_gradient(circuit)
    sweep = assigner.predict(held, clamp)
    output = sweep.state["output"]
    target = output - assigner.step * jax.grad(cost)(output)
    settled = settle(
        held,
        {**clamp, "output": target},
        solver=assigner.solver,
        tol=assigner.tol,
        max_steps=assigner.max_steps,
        start=sweep.state,
    )
    state = jax.lax.stop_gradient(settled.state)
    return circuit.synaptic_energy(state) / assigner.step, _info(cost, sweep, settled)


def _info(cost: Cost, answer: Equilibrium, settled: Equilibrium) -> Info:
    output = answer.state["output"]
    return Info(
        cost=cost(output),
        output=output,
        energy=settled.energy,
        residual=settled.residual,
        steps=settled.steps,
        result=settled.result,
    )


def _one_sided(beta, key):
    return jnp.asarray([beta]), jnp.asarray([1 / beta])


def _centred(beta, key):
    return jnp.asarray([beta, -beta]), jnp.asarray([0.5 / beta, -0.5 / beta])


def _random_sign(beta, key):
    signed = jnp.where(jax.random.bernoulli(key, shape=(1,)), beta, -beta)
    return signed, 1 / signed


_SCHEMES: dict[str, Callable] = {
    "one_sided": _one_sided,
    "centred": _centred,
    "random_sign": _random_sign,
}


def _only(family: type, assigner: str, circuit: AbstractCircuit) -> AbstractCircuit:
    if not isinstance(circuit, family):
        raise InputError(
            f"{assigner} serves {family.__name__} circuits, not {type(circuit).__name__}: use "
            "PredictiveCoding for Predictive, NGCRule for NGC, EquilibriumPropagation for Hopfield "
            "and Predictive circuits (Backprop serves all)"
        )
    return circuit
