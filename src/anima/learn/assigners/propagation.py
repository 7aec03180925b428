"""Equilibrium propagation: credit as the contrast of nudged equilibria."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.ngc import NGC
from anima.core.errors import InputError, check_positive, pick
from anima.core.functions import is_analytic
from anima.core.types import Clamp, Cost, Count, Equilibrium, Number, Scalar, State, worst
from anima.learn.assigners.base import (
    AbstractAssigner,
    Info,
    arriving,
    contrast,
    inform,
    nudged,
    tangent,
)
from anima.learn.costs import check_cost
from anima.settle.settle import settle, walk
from anima.settle.solvers import AbstractSolver, EvenOdd


class EquilibriumPropagation(AbstractAssigner):
    """Settle freely, settle again with the cost nudging the output, and contrast the phases.

    Update: sum_k w_k dE/dtheta(z_k) over nudges beta_k, an estimate of the gradient of the cost at
    the circuit's own fixed point (Scellier and Bengio, 2017; Laborieux et al., 2021, centred;
    Laborieux and Zenke, 2022, holomorphic).

    - `beta`: the nudge.
    - `scheme`: `"one_sided"` (+beta against free; bias O(beta)), `"centred"` (+beta against
      -beta; O(beta^2)), `"random_sign"` (the sign of beta drawn per example, against free),
      `"holomorphic"` (beta e^{2 pi i k / points}, of which the first Fourier coefficient:
      O(beta^points), so exact at finite beta; analytic activations only).
    - `linearise`: nudge by <dC/dy, y> with the slope read at the free output, in place of C: a
      constant force, which no cost can make unstable, at the same order of bias.
    - `solver`; `free_steps`, `nudged_steps`, `tol`: when each phase ends.
    - `points`: of the holomorphic scheme.
    """

    beta: Number = 0.2
    scheme: str = eqx.field(static=True, default="centred")
    solver: AbstractSolver = EvenOdd()
    free_steps: Count = 50
    nudged_steps: Count = 20
    tol: Number = 0.0
    linearise: bool = eqx.field(static=True, default=False)
    points: int = eqx.field(static=True, default=6)

    def __check_init__(self):
        pick("scheme", self.scheme, _SCHEMES)
        check_positive(
            "EquilibriumPropagation",
            beta=self.beta,
            free_steps=self.free_steps,
            nudged_steps=self.nudged_steps,
        )
        if self.points < 2:
            raise InputError(f"EquilibriumPropagation: points is {self.points}, give at least 2")

    @property
    def nudges(self) -> tuple[Number, ...]:
        if self.linearise:
            return ()
        return (self.beta,) if self.scheme == "one_sided" else (self.beta, -self.beta)

    def predict(self, circuit: AbstractCircuit, clamp: Clamp) -> Equilibrium:
        self._check(circuit)
        return settle(circuit, clamp, solver=self.solver, tol=self.tol, max_steps=self.free_steps)

    def answer(self, circuit: AbstractCircuit, clamp: Clamp) -> Inexact[Array, "..."]:
        _, last = walk(circuit, clamp, solver=self.solver, steps=int(self.free_steps))
        return last.state["output"]

    def objective(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> tuple[Scalar, Info]:
        held = jax.lax.stop_gradient(circuit)
        free, phases, weights = self._phases(held, clamp, cost, key)
        value = contrast(circuit, clamp, phases.state, weights)
        if self.scheme in ("one_sided", "random_sign"):
            value = value - jnp.sum(weights) * circuit.synaptic_energy(free.state)
        return value, eqx.tree_at(
            lambda info: (info.steps, info.result),
            inform(circuit, cost, free, free),
            (
                free.steps + jnp.sum(phases.steps, dtype=free.steps.dtype),
                worst(free.result, phases.result),
            ),
        )

    def pressure(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, *, key: PRNGKeyArray
    ) -> State:
        """The contrast of what the clamped nodes feel in the phases; biased as the credit is."""
        free, phases, weights = self._phases(circuit, clamp, cost, key)
        return arriving(circuit, clamp, free, phases.state, weights)

    def _phases(
        self, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, key: PRNGKeyArray
    ) -> tuple[Equilibrium, Equilibrium, Inexact[Array, " phases"]]:
        """The free answer, the nudged ones, and the weights of their contrast."""
        free = self.predict(circuit, clamp)
        output = free.state["output"]
        check_cost(cost, output)
        nudges, weights = _SCHEMES[self.scheme](self, key)
        phases = nudged(
            circuit,
            clamp,
            tangent(cost, output) if self.linearise else cost,
            free,
            nudges,
            solver=self.solver,
            tol=self.tol,
            max_steps=self.nudged_steps,
        )
        return free, phases, weights

    def _check(self, circuit: AbstractCircuit) -> None:
        if isinstance(circuit, NGC):
            raise InputError(
                "EquilibriumPropagation needs a force that is the gradient of an energy, which "
                "NGC circuits do not have: use NGCRule, or a Hopfield or Predictive circuit"
            )
        if self.scheme != "holomorphic":
            return
        for node in circuit.nodes:
            for function in (node.activation, node.transfer):
                if not is_analytic(function):
                    raise InputError(
                        f"the holomorphic scheme needs analytic activations, and node "
                        f"{node.name!r} has {function.__name__!r}: use tanh, sigmoid or identity, "
                        "or the centred scheme"
                    )


Nudges = tuple[Inexact[Array, " phases"], Inexact[Array, " phases"]]


def _one_sided(rule: EquilibriumPropagation, key: PRNGKeyArray) -> Nudges:
    return jnp.asarray([rule.beta]), jnp.asarray([1 / rule.beta])


def _centred(rule: EquilibriumPropagation, key: PRNGKeyArray) -> Nudges:
    beta = rule.beta
    return jnp.asarray([beta, -beta]), jnp.asarray([0.5 / beta, -0.5 / beta])


def _random_sign(rule: EquilibriumPropagation, key: PRNGKeyArray) -> Nudges:
    signed = jnp.where(jax.random.bernoulli(key, shape=(1,)), rule.beta, -rule.beta)
    return signed, 1 / signed


def _holomorphic(rule: EquilibriumPropagation, key: PRNGKeyArray) -> Nudges:
    """Points on a circle. Real synapses answer conjugate nudges alike: half of it will do."""
    count = rule.points // 2 + 1
    turn = jnp.exp(2j * jnp.pi * jnp.arange(count) / rule.points)
    twice = jnp.asarray([1.0 if 2 * k % rule.points == 0 else 2.0 for k in range(count)])
    return rule.beta * turn, twice / (rule.points * rule.beta * turn)


_SCHEMES: dict[str, Callable[[EquilibriumPropagation, PRNGKeyArray], Nudges]] = {
    "one_sided": _one_sided,
    "centred": _centred,
    "random_sign": _random_sign,
    "holomorphic": _holomorphic,
}
