"""The continuous Hopfield network: symmetric synapses, one energy, no direction.

    E(s) = 1/2 sum_i |s_i|^2 - sum_{i->j} <s_j, W_ij s_i> - sum_i <b_i, s_i>

Hidden activities live in [0, 1] by projection; the output is linear, since an output that can
saturate stops learning. With its neighbours held a node's minimiser is project(drive), exactly.
Hopfield (1984); Scellier and Bengio (2017).

W may convolve and pool. A node that sends into a max pool has a drive that depends on itself, by
who wins: project(drive) is then no longer its minimiser, but it is that of an upper bound on the
energy which touches it where the node is, since -<s_j, max(...)> is concave for s_j >= 0 (as
hidden activities are). So the step still never raises the energy (the concave-convex procedure,
Yuille and Rangarajan, 2003).
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.graph import AbstractSynapse, Node, chain, check_nodes, colouring, draw, edge
from anima.circuit.image import Convolution, Sample, stack
from anima.core.functions import Activation, identity
from anima.core.functions import activation as named
from anima.core.types import Clamp, Scalar, State


class Hopfield(AbstractCircuit):
    """A symmetric circuit: what one node does to another, the other does to it.

    - `nodes`: listed in the order in which a sweep from the input visits them; a node's
      `activation` is the projection onto its range.
    - `synapses`: `"a->b"`, used in both directions.
    - `biases`: one per node, of its shape.
    - `gain`: see `AbstractCircuit.silence`; empty unless units are silenced.
    """

    nodes: tuple[Node, ...] = eqx.field(static=True)
    synapses: dict[str, AbstractSynapse]
    biases: dict[str, Float[Array, "..."]]
    gain: State = eqx.field(default_factory=dict)

    def __check_init__(self):
        check_nodes(self.nodes)

    @classmethod
    def mlp(
        cls,
        sizes: Sequence[int],
        *,
        activation: str | Activation = "hard_sigmoid",
        scale: float = 0.7,
        key: PRNGKeyArray,
    ) -> "Hopfield":
        """`input` - `h1` - ... - `output`, each joined to the next by symmetric synapses.

        **Arguments:** `sizes`, units per node, input first; `activation`, the projection of the
        hidden nodes (`hard_sigmoid` bounds them to [0, 1]); `scale`: weights are drawn from
        U(-scale, scale) / sqrt(n_pre); `key`. Input and output are unbounded.

        **Raises:** `InputError` for bad sizes or activations.
        """
        nodes = chain(sizes, named(activation), identity)
        return cls._born(nodes, draw(nodes, _uniform(scale), key=key))

    @classmethod
    def conv(
        cls,
        shape: tuple[int, ...],
        layers: Sequence[Convolution | int],
        *,
        activation: str | Activation = "hard_sigmoid",
        scale: float = 0.7,
        key: PRNGKeyArray,
    ) -> "Hopfield":
        """`input` - `h1` - ... - `output` on images: convolutions, then dense layers.

        **Arguments:** `shape`, of the images: (height, width, channels); `layers`, one for each
        later node, a `Convolution` or a number of units, the output's last; the rest as for
        `mlp`, n_pre being the size of a kernel's window.

        **Raises:** `InputError` for a layer that does not fit on the one before it.

        >>> layers = [Convolution(16, 5, padding=2, pool="max"), 10]
        >>> Hopfield.conv((28, 28, 1), layers, key=jax.random.key(0)).node("h1").shape
        (14, 14, 16)
        """
        sample = _uniform(scale)
        return cls._born(*stack(shape, layers, named(activation), identity, sample, key=key))

    @classmethod
    def _born(cls, nodes: tuple[Node, ...], synapses: dict[str, AbstractSynapse]) -> "Hopfield":
        biases = {node.name: jnp.zeros(node.shape) for node in nodes}
        return cls(nodes=nodes, synapses=synapses, biases=biases)

    def energy(self, state: State) -> Scalar:
        """E(s) = 1/2 sum |s|^2 - sum <s_j, W_ij s_i> - sum <b, s>.

        With silenced units each survivor counts for the 1 / (1 - rate) units it stands for, in
        its own term as in its synapses: its minimiser is still project(drive), and silent units
        are in no term at all.
        """
        return sum(self.energies(state).values(), jnp.zeros(()))

    def energies(self, state: State) -> dict[str, Scalar]:
        """By node: 1/2 |s_j|^2 - <b_j, s_j> - <s_j, sum_i W_ij s_i>, i its parents."""
        terms = {}
        sent = {node.name: self.sent(node.name, state[node.name]) for node in self.nodes}
        for node in self.nodes:
            drive = self.biases[node.name]
            for parent in node.parents:
                drive = drive + self.synapses[edge(parent, node.name)](sent[parent])
            terms[node.name] = jnp.sum(sent[node.name] * (state[node.name] / 2 - drive))
        return terms

    def curvature(self) -> State:
        """1, times the units that each survivor of a silencing stands for."""
        ones = {node.name: jnp.ones(node.shape) for node in self.nodes}
        return ones | {name: jnp.where(gain > 0, gain, 1) for name, gain in self.gain.items()}

    def start(self, clamp: Clamp) -> State:
        """A sweep outwards from the clamped nodes: each jumps to its minimiser given those before.

        With the input clamped this is the forward pass of the multilayer network; with a label
        clamped it is the pass back towards the pixels.
        """
        given = self.check_clamp(clamp)
        state = {node.name: jnp.zeros(node.shape) for node in self.nodes} | given
        stiff = self.curvature()
        for name in self._outwards(clamp):
            jump = state[name] + self.force(state)[name] / stiff[name]
            state = state | {name: self.node(name).activation(jump)}
        return state

    def project(self, state: State) -> State:
        """Every node back into its range."""
        return {name: self.node(name).activation(value) for name, value in state.items()}

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        return colouring(self.nodes, moral=False)

    def _outwards(self, clamp: Clamp) -> list[str]:
        """The free nodes by their distance from the clamped ones."""
        reached, order = set(clamp), []
        while True:
            ring = [
                node.name
                for node in self.nodes
                if node.name not in reached
                and any(node.name in pair and reached & set(pair) for pair in self._edges())
            ]
            if not ring:
                return order + [n.name for n in self.nodes if n.name not in reached]
            order += ring
            reached.update(ring)

    def _edges(self) -> list[tuple[str, str]]:
        return [(parent, node.name) for node in self.nodes for parent in node.parents]


def _uniform(scale: float) -> Sample:
    """Weights from U(-scale, scale) / sqrt(n_pre)."""

    def sample(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        drawn = jax.random.uniform(key, shape, minval=-1.0)
        return drawn * scale / math.sqrt(math.prod(shape[:-1]))

    return sample
