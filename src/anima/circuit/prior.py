"""A prior on a node: what a circuit expects before it sees anything.

    E(z) = trust E_circuit(z) + 1/2 eps Pi eps^T + 1/2 log|2 pi Sigma|,   eps = z_node - mean

It wraps a circuit of any family. A generative circuit whose root carries the mean and covariance
of a class is that class's dream: clamp nothing and let it settle with noise. `trust` says how much
the circuit's own errors weigh against the prior, which families without a precision need as well.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.graph import Node
from anima.circuit.precision import Precision, largest, surprise, weigh
from anima.core.errors import InputError
from anima.core.types import Clamp, Number, Scalar, State


class Prior(AbstractCircuit):
    """A circuit with a Gaussian prior on one of its nodes.

    - `circuit`: any circuit; its parameters are what learning changes.
    - `name`: the node; `mean`, of its shape; `precision` Pi, a number, a diagonal or full.
    - `trust`: the weight of the circuit's own energy.
    """

    circuit: AbstractCircuit
    name: str = eqx.field(static=True)
    mean: Float[Array, "..."]
    precision: Precision
    trust: Number

    def __init__(
        self,
        circuit: AbstractCircuit,
        name: str,
        mean: Float[Array, "..."],
        precision: Precision,
        trust: Number = 1.0,
    ):
        """See the class; raises `InputError` for an unknown node or a mean of another shape."""
        want = circuit.node(name).shape
        if jnp.shape(mean) != want:
            raise InputError(
                f"the prior of {name!r} has a mean of shape {jnp.shape(mean)}, the node has {want}"
            )
        self.circuit, self.name = circuit, name
        self.mean, self.precision, self.trust = mean, precision, trust

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The circuit's."""
        return self.circuit.nodes

    @property
    def gain(self) -> State:
        """The circuit's."""
        return self.circuit.gain

    def start(self, clamp: Clamp) -> State:
        """The circuit's start with the node at the prior's mean, unless it is clamped."""
        return self.circuit.start({self.name: self.mean} | self.check_clamp(clamp))

    def energy(self, state: State) -> Scalar:
        """trust E_circuit + 1/2 eps Pi eps^T + 1/2 log|2 pi Sigma|, in nats where E is."""
        own = surprise(state[self.name] - self.mean, self.precision)
        return self.trust * self.circuit.energy(state) + own

    def synaptic_energy(self, state: State) -> Scalar:
        """The circuit's, times `trust`: a prior has no synapses."""
        return self.trust * self.circuit.synaptic_energy(state)

    def force(self, state: State) -> State:
        """trust times the circuit's force, and -eps Pi on the node."""
        force = jax.tree.map(lambda f: self.trust * f, self.circuit.force(state))
        pull = weigh(state[self.name] - self.mean, self.precision)
        return force | {self.name: force[self.name] - pull}

    def parameters(self) -> tuple["Prior", "Prior"]:
        """The circuit's parameters; the prior itself is not learnt by descent."""
        learnt, missing = self.circuit.parameters()[0], lambda leaf: leaf is None
        inner = jax.tree.map(lambda leaf: leaf is not None, learnt, is_leaf=missing)
        none = jax.tree.map(lambda _: False, self)
        return eqx.partition(self, eqx.tree_at(lambda p: p.circuit, none, inner))

    def project(self, state: State) -> State:
        return self.circuit.project(state)

    def curvature(self) -> State:
        """trust times the circuit's, and |Pi| on the node."""
        stiff = {name: self.trust * value for name, value in self.circuit.curvature().items()}
        return stiff | {self.name: stiff[self.name] + largest(self.precision)}

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        return self.circuit.blocks()

    def normalise(self) -> "Prior":
        return dataclasses.replace(self, circuit=self.circuit.normalise())

    def silence(self, rates: dict[str, float], *, key: PRNGKeyArray) -> "Prior":
        return dataclasses.replace(self, circuit=self.circuit.silence(rates, key=key))
