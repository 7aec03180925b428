"""A predictive circuit linearised at a sweep: what fixed-prediction learning settles."""

import jax
import jax.numpy as jnp

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.graph import Node, colouring
from anima.circuit.precision import largest, weigh
from anima.circuit.predictive import Predictive
from anima.core.types import Clamp, Scalar, State


class Frozen(AbstractCircuit):
    """A predictive circuit whose predictions, and their slopes, stay where a sweep left them.

    Its force is no gradient: a child hears of its parent's move only through the frozen slope.
    """

    circuit: Predictive
    at: State

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.circuit.nodes

    @property
    def gain(self) -> State:
        return self.circuit.gain

    def start(self, clamp: Clamp) -> State:
        return {**self.at, **self.check_clamp(clamp)}

    def weighted_errors(self, state: State) -> State:
        """Pi_n (z_n - mu_n) for every modelled node, mu_n frozen."""
        precision = self.circuit.precision
        frozen = self._predictions(self.at)
        return {name: weigh(state[name] - frozen[name], precision[name]) for name in frozen}

    def energy(self, state: State) -> Scalar:
        return sum(self.energies(state).values(), jnp.zeros(()))

    def energies(self, state: State) -> dict[str, Scalar]:
        """1/2 eps_n Pi_n eps_n of each modelled node."""
        frozen, errors = self._predictions(self.at), self.weighted_errors(state)
        return {n: jnp.sum(errors[n] * (state[n] - frozen[n])) / 2 for n in errors}

    def force(self, state: State) -> State:
        """-Pi_n eps_n + sum_children (dmu_m/dz_n)^T Pi_m eps_m, the slopes read at the sweep."""
        errors = self.weighted_errors(state)
        (heard,) = jax.vjp(self._predictions, self.at)[1](errors)
        return {
            name: heard[name] - errors[name] if name in errors else heard[name] for name in state
        }

    def curvature(self) -> State:
        """Pi_n itself where it is a number or a diagonal, else its largest eigenvalue's bound."""
        precision = self.circuit.precision
        own = {node.name: precision.get(node.name, 1.0) for node in self.nodes}
        return {n: jnp.asarray(largest(p) if jnp.ndim(p) == 2 else p) for n, p in own.items()}

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        return colouring(self.nodes, moral=False)

    def _predictions(self, state: State) -> State:
        return {name: self.circuit.prediction(name, state) for name in self.circuit.precision}
