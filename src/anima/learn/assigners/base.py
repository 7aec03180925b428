"""The interface of all assigners, the reference among them, and what they share."""

from abc import abstractmethod
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Inexact, Int, PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit, gradient
from anima.core.errors import InputError
from anima.core.types import Clamp, Cost, Count, Equilibrium, Number, Result, Scalar, State
from anima.learn.assigners.stability import refuse_unstable
from anima.learn.costs import check_cost
from anima.settle.settle import settle, slope
from anima.settle.solvers import AbstractSolver, residual

Family = TypeVar("Family", bound=AbstractCircuit)


class Info(eqx.Module):
    """What a chart needs of one assignment of credit, for one example.

    - `cost`: at the free output; `output`: that output.
    - `energy`: where learning read its (last) activities; `energies`: the same by node.
    - `residual`: of the free phase for contrastive rules, of the clamped phase for the others.
    - `steps`: solver steps taken, all phases together.
    - `result`: the worst `Result` code of all phases.
    - `alignment`: the cosine between the batch's credit and the true gradient, where a learner
      was asked to compute it (it costs a backward pass), else `None`.

    Backprop settles nothing: its energies and its residual are 0.
    """

    cost: Scalar
    output: Inexact[Array, "..."]
    energy: Scalar
    energies: dict[str, Scalar]
    residual: Scalar
    steps: Int[Array, "..."]
    result: Int[Array, "..."]
    alignment: Scalar | None = None


class AbstractAssigner(eqx.Module):
    """Any cost on any circuit: `gradient` is shaped like the circuit, and learning descends it.

    A rule whose synapses move while it settles takes several `turns` for each example; a `Learner`
    then lets its optimiser act at every one of them.
    """

    @property
    def nudges(self) -> tuple[Number, ...]:
        """What multiples of the cost itself it adds to the energy, at most; none by default."""
        return ()

    @abstractmethod
    def predict(self, circuit: AbstractCircuit, clamp: Clamp) -> Equilibrium:
        """The answer without a teacher: the state whose output the cost judges."""

    @abstractmethod
    def objective(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[Scalar, Info]:
        """A scalar whose gradient in the circuit's parameters is the assigned credit."""

    def gradient(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[AbstractCircuit, Info]:
        """The credit of one example.

        **Arguments:** `circuit`; `clamp`, the question, e.g. `{"input": x}`; `cost`, any
        differentiable function of the output node's activity; `key`, for rules that draw.

        **Returns:** the estimate of d cost / d theta, shaped like `circuit`, and an `Info`.

        **Raises:** `InputError` for a circuit that the rule cannot serve, a cost that is not a
        differentiable scalar of the output, and, outside of `jax.jit`, a nudge that made the
        circuit unstable (inside, `Info.result` says so).
        """
        credit, info = gradient(lambda c: self.objective(c, clamp, cost, key=key), circuit)
        refuse_unstable(self, circuit, clamp, cost, info.result)
        return credit, info

    def pressure(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> State:
        """The estimate of d cost / d clamp: the error that arrives at the clamped nodes.

        The same settling that gives the synapses their credit tells a clamped node which way the
        cost would have it move. An actor reads dQ/da at its critic's action so, and no derivative
        is taken through the critic.

        **Raises:** `InputError` by default: a rule need not have it.
        """
        raise InputError(
            f"{type(self).__name__} tells clamped nodes nothing: actors that follow their critic's "
            "dQ/da need an assigner with `pressure`, as all of anima's own are"
        )

    def answer(self, circuit: AbstractCircuit, clamp: Clamp) -> Inexact[Array, "..."]:
        """The output of `predict`, in a form that reverse mode accepts: for diagnostics only."""
        return circuit.start(clamp)["output"]

    @property
    def turns(self) -> int:
        """How many times the synapses move for one example."""
        return 1

    def begin(self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost) -> Any:
        """What the first turn starts from (a pytree)."""
        return None

    def turn(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, carry: Any, *, key: PRNGKeyArray
    ) -> tuple[Scalar, tuple[Info, Any]]:
        """One turn's objective, its `Info`, and what the next turn starts from."""
        value, info = self.objective(circuit, clamp, cost, key=key)
        return value, (info, carry)


class Backprop(AbstractAssigner):
    """The reference: reverse mode through the circuit's forward sweep. Not local.

    On a Hopfield circuit the sweep is the feedforward network with the same weights, so this is
    the equal-size twin of every other assigner.
    """

    def predict(self, circuit: AbstractCircuit, clamp: Clamp) -> Equilibrium:
        return swept(circuit, clamp)

    def objective(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[Scalar, Info]:
        state = circuit.start(clamp)
        check_cost(cost, state["output"])
        value, none = cost(state["output"]), jnp.zeros(())
        terms = jax.eval_shape(circuit.energies, state)
        return value, Info(
            cost=value,
            output=state["output"],
            energy=none,
            energies=jax.tree.map(jnp.zeros_like, terms),
            residual=none,
            steps=none.astype(jnp.int32),
            result=_done(jnp.isfinite(value)),
        )

    def pressure(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> State:
        return jax.grad(lambda clamp: cost(circuit.start(clamp)["output"]))(clamp)


def inform(circuit: AbstractCircuit, cost: Cost, answer: Equilibrium, settled: Equilibrium) -> Info:
    """The `Info` of an answer without a teacher and of the phase in which credit was read."""
    output = answer.state["output"]
    return Info(
        cost=cost(output),
        output=output,
        energy=settled.energy,
        energies=circuit.energies(settled.state),
        residual=settled.residual,
        steps=settled.steps,
        result=settled.result,
    )


def swept(circuit: AbstractCircuit, clamp: Clamp) -> Equilibrium:
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
        result=_done(finite),
    )


def _done(finite: Bool[Array, ""]) -> Int[Array, ""]:
    return jnp.where(finite, Result.CONVERGED, Result.NONFINITE).astype(jnp.int32)


def nudged(
    circuit: AbstractCircuit,
    clamp: Clamp,
    cost: Cost,
    free: Equilibrium,
    nudges: Inexact[Array, " phases"],
    *,
    solver: AbstractSolver,
    tol: Number,
    max_steps: Count,
) -> Equilibrium:
    """Settles on E + nudge C from the free answer, once for each nudge (a leading axis).

    **Returns:** equilibria; `Result.UNSTABLE` marks a phase that ends with more force than the
    nudge brought in, which no descent does; what rounding leaves behind is no force.
    """
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(z)) for z in jax.tree.leaves(free.state)]))
    rounding = 100 * jnp.finfo(largest.dtype).eps * (1 + largest)

    def phase(nudge: Scalar) -> Equilibrium:
        found = settle(
            circuit,
            clamp,
            cost=cost,
            nudge=nudge,
            solver=solver,
            tol=tol,
            max_steps=max_steps,
            start=free.state,
        )
        brought = jnp.abs(nudge) * jnp.max(jnp.abs(slope(cost, free.state["output"])))
        ran = found.residual > 2 * (free.residual + brought) + rounding
        code = jnp.where(ran, jnp.maximum(found.result, Result.UNSTABLE), found.result)
        return eqx.tree_at(lambda e: e.result, found, code.astype(found.result.dtype))

    return jax.vmap(phase)(nudges)


def contrast(
    circuit: AbstractCircuit, clamp: Clamp, states: State, weights: Inexact[Array, " phases"]
) -> Scalar:
    """Re sum_k weights_k E(states_k), the activities held: what contrastive plasticity descends.

    **Arguments:** `states`, a leading axis of phases on every node; clamped nodes are read from
    `clamp`, so that a synapse from them sees one difference of activities and not two products.
    """
    free = {name: value for name, value in states.items() if name not in clamp}
    clamped = circuit.check_clamp(clamp)
    energy = lambda free: circuit.synaptic_energy(clamped | free)
    energies = jax.vmap(energy)(jax.lax.stop_gradient(free))
    return jnp.real(jnp.sum(weights * energies))


def arriving(
    circuit: AbstractCircuit,
    clamp: Clamp,
    free: Equilibrium,
    states: State,
    weights: Inexact[Array, " phases"],
) -> State:
    """Re sum_k weights_k (force(free) - force(states_k)) at the clamped nodes.

    Where the force is minus an energy's gradient this is the derivative of `contrast` in the
    clamp, and so d cost / d clamp by the same theorems that make the other one the credit.

    **Arguments:** as for `contrast`; `free`, where the circuit settled without a cost.
    """
    felt = lambda state: {name: circuit.force(state)[name] for name in clamp}
    rest = felt(free.state)

    def weighed(rest: Array, forces: Array) -> Array:
        return jnp.real(jnp.tensordot(weights, rest[None] - forces, 1))

    return jax.tree.map(weighed, rest, jax.vmap(felt)(states))


def tangent(cost: Cost, output: Inexact[Array, "..."]) -> Cost:
    """The cost's linearisation <dC/dy, y> at `output`: a constant force, stable at any nudge."""
    pull = jax.lax.stop_gradient(slope(cost, output))
    return lambda y: jnp.sum(pull * y)


def only(family: type[Family], assigner: str, circuit: AbstractCircuit) -> Family:
    """The circuit, if it is of the family that the assigner serves."""
    if not isinstance(circuit, family):
        raise InputError(
            f"{assigner} serves {family.__name__} circuits, not {type(circuit).__name__}: use "
            "PredictiveCoding, IncrementalPC, FixedPrediction or ZIL for Predictive, NGCRule for "
            "NGC, EquilibriumPropagation for Hopfield and Predictive circuits (Backprop serves all)"
        )
    return circuit
