"""The one abstraction: a circuit is named nodes, an energy, forces on nodes, local plasticity."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, PRNGKeyArray

from anima.circuit.graph import Node
from anima.core.errors import InputError, nearest
from anima.core.types import Clamp, Scalar, State


class AbstractCircuit(eqx.Module):
    """Something that settles. Its parameters are its leaves; its state is a dict of activities.

    All methods take ONE example's state and are batched with `jax.vmap`. A family must define
    `nodes`, `start` and `energy`; the rest follows from the energy unless the family's dynamics
    are not a gradient (NGC).
    """

    nodes: eqx.AbstractVar[tuple[Node, ...]]
    gain: eqx.AbstractVar[State]

    @abstractmethod
    def start(self, clamp: Clamp) -> State:
        """A full state to settle from: clamped nodes as given, the others by a sweep from them."""

    @abstractmethod
    def energy(self, state: State) -> Scalar:
        """The energy E(z) of a full state: a scalar, whose free minimum is the answer."""

    def energies(self, state: State) -> dict[str, Scalar]:
        """The energy by node, summing to `energy`: where it is that the circuit is surprised.

        Default: one term for the whole circuit.
        """
        return {"circuit": self.energy(state)}

    def synaptic_energy(self, state: State) -> Scalar:
        """The scalar whose gradient in the parameters, activities held, is the plasticity.

        Default: the energy itself. It exists so that the plasticity of a whole batch is one
        matrix product: d/dtheta of a mean over examples, not a mean of outer products.
        """
        return self.energy(state)

    def force(self, state: State) -> State:
        """The force on every node, -dE/dz, of the state's shapes.

        Of a complex state it is the complex derivative, for energies that are analytic.
        """
        complex_ = any(jnp.iscomplexobj(z) for z in state.values())
        if complex_:
            kind = jnp.result_type(*state.values())
            state = {name: jnp.asarray(z, kind) for name, z in state.items()}
        return jax.tree.map(jnp.negative, jax.grad(self.energy, holomorphic=complex_)(state))

    def plasticity(self, state: State) -> "AbstractCircuit":
        """dE/dtheta with activities held, shaped like the circuit; learning descends it.

        Each synapse appears in one term of the energy only, so this is local: it reads the
        activities at the synapse's two ends (and the error there) and nothing else.
        """
        return gradient(lambda circuit: (circuit.synaptic_energy(state), None), self)[0]

    def parameters(self) -> tuple["AbstractCircuit", "AbstractCircuit"]:
        """What learning changes, and the rest; `eqx.combine` rejoins them."""

        def learnt(path, leaf):
            return path[0].name not in self.fixed() and eqx.is_inexact_array(leaf)

        return eqx.partition(self, jax.tree_util.tree_map_with_path(learnt, self))

    def fixed(self) -> tuple[str, ...]:
        """The fields that are part of the circuit but not learnt, swept numbers included."""
        return ("gain",)

    def project(self, state: State) -> State:
        """The nearest allowed state (some families bound their activities). Default: as it is."""
        return state

    def curvature(self) -> State:
        """Per node, a number or one a unit: how stiff the energy is in that node alone, at most.

        A block solver that moves a node by force / curvature cannot overshoot. Default: 1.
        """
        return {node.name: jnp.ones(()) for node in self.nodes}

    @abstractmethod
    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """Groups of nodes without a direct influence on each other, for block solvers."""

    def normalise(self) -> "AbstractCircuit":
        """The circuit with its synapses back inside their constraint, if it has one."""
        return self

    def silence(self, rates: dict[str, float], *, key: PRNGKeyArray) -> "AbstractCircuit":
        """The circuit with units silenced at random: noise that every phase sees alike.

        A unit of node n falls silent with probability `rates[n]`; the others send
        1 / (1 - rates[n]) of their rate, so that the mean drive is unchanged (dropout, Srivastava
        et al. 2014, made part of the energy). Because the silence belongs to the circuit, free
        and nudged phases cannot disagree about it.

        **Raises:** `InputError` for an unknown node or a rate outside [0, 1).
        """
        gain = dict(self.gain)
        for index, (name, rate) in enumerate(sorted(rates.items())):
            node = self.node(name)
            if not 0 <= rate < 1:
                raise InputError(f"silence rate of {name!r} is {rate}: it must be in [0, 1)")
            kept = jax.random.bernoulli(jax.random.fold_in(key, index), 1 - rate, node.shape)
            gain[name] = jnp.where(kept, 1 / (1 - rate), 0.0)
        return dataclasses.replace(self, gain=gain)

    def sent(self, name: str, rate: Inexact[Array, "*n"]) -> Inexact[Array, "*n"]:
        """What a node sends when it fires at `rate`: all of it, unless units are silenced."""
        return rate * self.gain[name] if name in self.gain else rate

    def node(self, name: str) -> Node:
        """The node called `name`; raises `InputError` if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise InputError(f"no node {name!r}: {nearest(name, [n.name for n in self.nodes])}")

    def check_clamp(self, clamp: Clamp) -> State:
        """The clamp as JAX's arrays.

        **Raises:** `InputError` if it names an unknown node or has another shape than it.
        """
        for name, value in clamp.items():
            want, got = self.node(name).shape, jnp.shape(value)
            if got != want:
                raise InputError(
                    f"clamp of {name!r} has shape {got}, the node has {want}: "
                    "give one example (batch with jax.vmap)"
                )
        return {name: jnp.asarray(value) for name, value in clamp.items()}


def gradient(
    objective: Callable[[AbstractCircuit], tuple[Scalar, Any]], circuit: AbstractCircuit
) -> tuple[AbstractCircuit, Any]:
    """The gradient of (value, aux) = objective(circuit) in the circuit's parameters, and the aux.

    **Returns:** a circuit whose parameters are the gradient's entries and whose other leaves are
    `None`.
    """
    learnt, rest = circuit.parameters()
    return jax.grad(lambda learnt: objective(eqx.combine(learnt, rest)), has_aux=True)(learnt)
