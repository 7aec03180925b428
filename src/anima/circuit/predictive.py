"""Predictive coding: every node predicts its children, and what it gets wrong is energy.

Nodes n with parents P(n) on any directed acyclic graph:

    mu_n = g_n( sum_{p in P(n)} phi_p(z_p) W_pn + b_n ),   eps_n = z_n - mu_n
    F = sum_n [ 1/2 eps_n Pi_n eps_n^T + 1/2 log|2 pi Sigma_n| ],   Pi_n = Sigma_n^-1

Rao and Ballard (1999); Friston (2005); Bogacz (2017); Salvatori et al. (2022) for graphs.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.graph import AbstractSynapse, Node, chain, check_nodes, colouring, draw, edge
from anima.circuit.image import Convolution, stack
from anima.circuit.precision import Precision, largest, surprise
from anima.core.errors import InputError
from anima.core.functions import Activation, activation, identity
from anima.core.types import Clamp, Scalar, State


class Predictive(AbstractCircuit):
    """A predictive-coding circuit on any DAG of nodes.

    - `nodes`: parents before children.
    - `synapses`: `"parent->child"` to the map of rates phi(z_parent) to the child's drive.
    - `biases`: node name to bias, of the node's shape. A root's bias is its prior mean.
    - `precision`: node name to Pi_n, a number, (n,) or (n, n). Not learnt (with a point-mass
      posterior that is unbounded below). A node without a precision has no term
      in the energy: by default the roots, whose prior is then flat.
    - `gain`: see `AbstractCircuit.silence`; empty unless units are silenced.

    >>> circuit = Predictive.mlp([784, 256, 10], key=jax.random.key(0))
    >>> float(circuit.energy(circuit.start({"input": jnp.ones(784)}))) > 0
    True
    """

    nodes: tuple[Node, ...] = eqx.field(static=True)
    synapses: dict[str, AbstractSynapse]
    biases: dict[str, Float[Array, "..."]]
    precision: dict[str, Precision]
    gain: State = eqx.field(default_factory=dict)

    def __check_init__(self):
        check_nodes(self.nodes)
        for node in self.nodes:
            if node.parents and node.name not in self.precision:
                raise InputError(f"node {node.name!r} has parents but no precision: give it one")

    @classmethod
    def mlp(
        cls,
        sizes: Sequence[int],
        *,
        activation: str | Activation = "tanh",
        output: str | Activation = "identity",
        prior: bool = False,
        skip: bool = False,
        key: PRNGKeyArray,
    ) -> "Predictive":
        """`input` -> `h1` -> ... -> `output`, each node predicting the next.

        **Arguments:** `sizes`, units per node, input first; `activation`, the hidden rate phi;
        `output`, the transfer g of the output node; `prior`, whether the input node carries a
        standard normal prior with a learnt mean (for generative use, where it is free); `skip`,
        whether the input predicts the output directly as well, past the hidden nodes; `key`.
        Weights are N(0, 1/n_pre), biases 0, precisions 1.

        **Raises:** `InputError` for bad sizes or activations.
        """
        nodes = chain(sizes, _activation(activation), identity)
        if skip and len(nodes) > 2:
            last = nodes[-1]
            nodes = (*nodes[:-1], dataclasses.replace(last, parents=(*last.parents, "input")))
        return cls._born(nodes, draw(nodes, _fan_in, key=key), _activation(output), prior)

    @classmethod
    def conv(
        cls,
        shape: tuple[int, ...],
        layers: Sequence[Convolution | int],
        *,
        activation: str | Activation = "relu",
        output: str | Activation = "identity",
        key: PRNGKeyArray,
    ) -> "Predictive":
        """`input` -> `h1` -> ... -> `output` on images: convolutions, then dense layers.

        **Arguments:** `shape`, of the images: (height, width, channels); `layers`, one for each
        later node, a `Convolution` or a number of units, the output's last; the rest as for
        `mlp`, n_pre being the size of a kernel's window.

        **Raises:** `InputError` for a layer that does not fit on the one before it.
        """
        nodes, synapses = stack(shape, layers, _activation(activation), identity, _fan_in, key=key)
        return cls._born(nodes, synapses, _activation(output), prior=False)

    @classmethod
    def _born(
        cls,
        nodes: tuple[Node, ...],
        synapses: dict[str, AbstractSynapse],
        transfer: Activation,
        prior: bool,
    ) -> "Predictive":
        """With biases 0, precisions 1, and `transfer` at the last node."""
        nodes = (*nodes[:-1], dataclasses.replace(nodes[-1], transfer=transfer))
        modelled = nodes if prior else nodes[1:]
        return cls(
            nodes=nodes,
            synapses=synapses,
            biases={node.name: jnp.zeros(node.shape) for node in modelled},
            precision={node.name: 1.0 for node in modelled},
        )

    def prediction(self, name: str, state: State) -> Inexact[Array, "..."]:
        """mu_n = g_n(sum_p phi_p(z_p) W_pn + b_n), of the node's shape."""
        node = self.node(name)
        drive = self.biases[name] if name in self.biases else jnp.zeros(node.shape)
        for parent in node.parents:
            rate = self.node(parent).activation(state[parent])
            drive = drive + self.synapses[edge(parent, name)](self.sent(parent, rate))
        return node.transfer(drive)

    def errors(self, state: State) -> State:
        """eps_n = z_n - mu_n for every node that has a precision."""
        return {name: state[name] - self.prediction(name, state) for name in self.precision}

    def energy(self, state: State) -> Scalar:
        """F = sum_n 1/2 eps_n Pi_n eps_n^T + 1/2 log|2 pi Sigma_n|, in nats."""
        return sum(self.energies(state).values(), jnp.zeros(()))

    def energies(self, state: State) -> dict[str, Scalar]:
        """Each modelled node's term of F: how surprised it is, in nats."""
        return {n: surprise(error, self.precision[n]) for n, error in self.errors(state).items()}

    def fixed(self) -> tuple[str, ...]:
        return ("gain", "precision")

    def start(self, clamp: Clamp) -> State:
        """The forward sweep: every free node at its prediction, where its error vanishes."""
        given = self.check_clamp(clamp)
        state: State = {}
        for node in self.nodes:
            name = node.name
            state[name] = given[name] if name in given else self.prediction(name, state)
        return state

    def curvature(self) -> State:
        """|Pi_n| + sum_children |Pi_m| |W_nm|^2: the Gauss-Newton bound for slopes up to 1.

        Into a max pool it holds as long as the winners stay the same.
        """
        bound = {
            node.name: largest(self.precision[node.name])
            if node.name in self.precision
            else jnp.zeros(())
            for node in self.nodes
        }
        for node in self.nodes:
            for parent in node.parents:
                norm = self.synapses[edge(parent, node.name)].norm()
                norm = norm * jnp.max(self.gain[parent]) if parent in self.gain else norm
                bound[parent] = bound[parent] + largest(self.precision[node.name]) * norm**2
        return bound

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        return colouring(self.nodes, moral=True)


_activation: Callable[[str | Activation], Activation] = activation


def _fan_in(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    return jax.random.normal(key, shape) / math.sqrt(math.prod(shape[:-1]))
