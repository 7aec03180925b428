"""Neural generative coding: predictions descend, errors ascend through synapses of their own.

For node l with prediction zbar^l from its parents, and children l-1 (Ororbia and Kifer, 2022):

    zbar^l = g( sum phi(z_parent) W + b )
    e^l    = (phi(z^l) - zbar^l) / (2 beta_e)              or z^l - zbar^l, `rate_error=False`
    d^l    = -e^l + sum_children e^child E                  both times phi'(z^l) if `gate`
    force  = -gamma_v z^l + d^l - phi(z^l) V - lambda sign(z^l)
    dW = phi(z_parent)^T e^l (*) M_W,    dE = gamma_e dW^T (*) M_E

Without the gate no derivative of phi is needed and E is not W^T: the local form. With the gate,
E = W^T and no lateral term, the force is exactly minus the gradient of the energy.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.graph import (
    AbstractSynapse,
    Dense,
    Node,
    chain,
    check_nodes,
    colouring,
    draw,
    edge,
    edges,
)
from anima.core.errors import InputError, check_positive
from anima.core.functions import Activation, identity
from anima.core.functions import activation as named
from anima.core.types import Clamp, Number, Scalar, State


class NGC(AbstractCircuit):
    """An NGC circuit on any DAG; predictions run from parents to children, `input` to `output`.

    - `nodes`: parents before children.
    - `synapses`: `"parent->child"`, the generative W.
    - `feedback`: `"parent->child"` to the error synapse E that runs back, child to parent.
      Empty: the transpose of W is used (Rao and Ballard's t1).
    - `biases`: node name to bias; empty in the paper's form.
    - `lateral`: node name to V, units to units, fixed.
    - `beta_e`, `leak` (gamma_v), `gamma_e`, `laplace` (lambda): see the module's formulas.
    - `rate_error`, `gate`: which error, and whether phi' (and g') multiply what passes them.
    - `modulate`: synaptic scaling, M_ij = min(2 m_j / max m, 1) with m_j = sum_i |W_ij|.
    - `bound`: columns of every synapse are clipped to this norm after a learning step.
    """

    nodes: tuple[Node, ...] = eqx.field(static=True)
    synapses: dict[str, AbstractSynapse]
    feedback: dict[str, AbstractSynapse]
    biases: dict[str, Float[Array, "..."]]
    lateral: State = eqx.field(default_factory=dict)
    beta_e: Number = 0.5
    leak: Number = 0.001
    gamma_e: Number = 0.95
    laplace: Number = 0.0
    rate_error: bool = eqx.field(static=True, default=True)
    gate: bool = eqx.field(static=True, default=False)
    modulate: bool = eqx.field(static=True, default=False)
    bound: Number | None = None
    gain: State = eqx.field(default_factory=dict)

    def __check_init__(self):
        check_nodes(self.nodes)
        if self.feedback and set(self.feedback) != set(self.synapses):
            raise InputError("feedback must name every synapse, or none (then W^T is used)")
        check_positive("NGC", beta_e=self.beta_e, bound=self.bound)

    @classmethod
    def mlp(
        cls,
        sizes: Sequence[int],
        *,
        activation: str | Activation = "tanh",
        output: str | Activation = "identity",
        sigma: float | None = 0.05,
        sigma_e: float | None = None,
        tied: bool = False,
        bias: bool = False,
        group: int = 0,
        alpha: float = 0.15,
        beta_lat: float = 0.1,
        beta_e: Number = 0.5,
        leak: Number = 0.001,
        gamma_e: Number = 0.95,
        laplace: Number = 0.0,
        rate_error: bool = True,
        gate: bool = False,
        modulate: bool = False,
        bound: Number | None = None,
        key: PRNGKeyArray,
    ) -> "NGC":
        """`input` -> `h1` -> ... -> `output`: the chain of the papers, z^L = input, z^0 = output.

        **Arguments:** `sizes`, units per node, top (`input`) first; `activation`, the hidden phi;
        `output`, the transfer g of the output node; `sigma`, standard deviation of the initial
        W (`None`: 1/sqrt(n_pre)), and `sigma_e`, of the initial E (`None`: that of the W it
        runs against; unused if `tied`); `tied`, feed errors back through W^T; `bias`;
        `group`: hidden units inhibit each other in groups of this many, with self-inhibition
        `alpha` and strength `beta_lat` (0: no lateral synapses); the others are the fields of the
        class; `key`.

        **Raises:** `InputError` for bad sizes, activations, groups or coefficients.
        """
        *inner, last = chain(sizes, named(activation), identity)
        nodes = (*inner, Node(last.name, last.shape, last.parents, identity, named(output)))

        def sample(key, shape):
            return jax.random.normal(key, shape) * _spread(sigma, shape)

        def against(key, shape):
            spread = _spread(sigma, shape) if sigma_e is None else sigma_e
            return jax.random.normal(key, shape[::-1]) * spread

        forward, backward = jax.random.split(key)
        synapses = draw(nodes, sample, key=forward)
        return cls(
            nodes=nodes,
            synapses=synapses,
            feedback={} if tied else _reversed(nodes, against, key=backward),
            biases={n.name: jnp.zeros(n.shape) for n in nodes if n.parents} if bias else {},
            lateral={n.name: lateral(n, group, alpha, beta_lat) for n in inner[1:]}
            if group
            else {},
            beta_e=beta_e,
            leak=leak,
            gamma_e=gamma_e,
            laplace=laplace,
            rate_error=rate_error,
            gate=gate,
            modulate=modulate,
            bound=bound,
        )

    def drive(self, name: str, state: State) -> Float[Array, "..."]:
        """sum_parents phi(z_parent) W + b: what g turns into the prediction zbar."""
        total = self.biases[name] if name in self.biases else jnp.zeros(self.node(name).shape)
        for parent in self.node(name).parents:
            total = total + self.synapses[edge(parent, name)](self._rate(parent, state))
        return total

    def prediction(self, name: str, state: State) -> Float[Array, "..."]:
        """zbar = g(drive), of the node's shape."""
        return self.node(name).transfer(self.drive(name, state))

    def errors(self, state: State) -> State:
        """e^l for every node that has parents."""
        return {
            node.name: (self._represented(node, state) - self.prediction(node.name, state))
            / (2 * self.beta_e)
            for node in self.nodes
            if node.parents
        }

    def discrepancy(self, state: State) -> Scalar:
        """Total discrepancy, ToD = sum_l |e^l|^2."""
        return sum((jnp.sum(e**2) for e in self.errors(state).values()), jnp.zeros(()))

    def energy(self, state: State) -> Scalar:
        """beta_e ToD + gamma_v/2 |z|^2 + lambda |z|_1: what the gated form descends exactly."""
        return sum(self.energies(state).values(), jnp.zeros(()))

    def energies(self, state: State) -> dict[str, Scalar]:
        """By node: beta_e |e|^2 + gamma_v/2 |z|^2 + lambda |z|_1."""
        errors = self.errors(state)
        missed = {n: self.beta_e * jnp.sum(errors[n] ** 2) if n in errors else 0.0 for n in state}
        return {
            name: missed[name] + self.leak * jnp.sum(z**2) / 2 + self.laplace * jnp.sum(jnp.abs(z))
            for name, z in state.items()
        }

    def force(self, state: State) -> State:
        """-gamma_v z + d - phi(z) V - lambda sign(z); see the module's formulas."""
        errors = self.errors(state)
        passed = self._passed(errors, state)
        return {node.name: self._force(node, state, errors, passed) for node in self.nodes}

    def synaptic_energy(self, state: State) -> Scalar:
        """-sum <phi W (*) M_W, e> - gamma_e sum <e E (*) M_E, phi>, with phi and e held.

        Its gradient is -dW and -dE of the module's formulas.
        """
        held = jax.lax.stop_gradient(self)
        passed = held._passed(held.errors(state), state)
        total = jnp.zeros(())
        for parent, child in edges(self.nodes):
            name, rate = edge(parent, child), held._rate(parent, state)
            total = total - jnp.sum(self._modulated(self.synapses[name])(rate) * passed[child])
            if self.feedback:
                back = self._modulated(self.feedback[name])(passed[child])
                total = total - self.gamma_e * jnp.sum(back * rate)
        for name, bias in self.biases.items():
            total = total - jnp.sum(bias * passed[name])
        return total

    def start(self, clamp: Clamp) -> State:
        """The ancestral projection: each free node at its prediction."""
        given = self.check_clamp(clamp)
        state: State = {}
        for node in self.nodes:
            name = node.name
            state[name] = given[name] if name in given else self.prediction(name, state)
        return state

    def fixed(self) -> tuple[str, ...]:
        return ("gain", "lateral", "beta_e", "leak", "gamma_e", "laplace", "bound")

    def blocks(self) -> tuple[tuple[str, ...], ...]:
        return colouring(self.nodes, moral=True)

    def curvature(self) -> State:
        """gamma_v + (1 + sum_children |W| |E|) / (2 beta_e) + |V|, for slopes up to 1."""
        bound = {node.name: jnp.asarray(self.leak) for node in self.nodes}
        for node in self.nodes:
            if node.parents:
                bound[node.name] = bound[node.name] + 1 / (2 * self.beta_e)
            if node.name in self.lateral:
                inhibition = jnp.sum(jnp.abs(self.lateral[node.name]), -1)
                bound[node.name] = bound[node.name] + jnp.max(inhibition)
        for parent, child in edges(self.nodes):
            forward = self.synapses[edge(parent, child)].norm()
            back = self.feedback[edge(parent, child)].norm() if self.feedback else forward
            gain = jnp.max(self.gain[parent]) if parent in self.gain else 1.0
            heard = forward * back * gain**2 / (2 * self.beta_e)
            bound[parent] = bound[parent] + heard
        return bound

    def normalise(self) -> "NGC":
        """The circuit with every synapse's columns clipped to norm `bound`."""
        if self.bound is None:
            return self
        clip = partial(_clip_columns, bound=self.bound)
        return dataclasses.replace(
            self,
            synapses=jax.tree.map(clip, self.synapses),
            feedback=jax.tree.map(clip, self.feedback),
        )

    def _rate(self, name: str, state: State) -> Float[Array, "..."]:
        return self.sent(name, self.node(name).activation(state[name]))

    def _represented(self, node: Node, state: State) -> Float[Array, "..."]:
        return node.activation(state[node.name]) if self.rate_error else state[node.name]

    def _passed(self, errors: State, state: State) -> State:
        """Errors as the synapses see them: through g' if gated."""
        if not self.gate:
            return errors
        return {
            name: _times_slope(self.node(name).transfer, self.drive(name, state), error)
            for name, error in errors.items()
        }

    def _force(self, node: Node, state: State, errors: State, passed: State) -> Float[Array, "..."]:
        z = state[node.name]
        own = -errors[node.name] if node.name in errors else jnp.zeros_like(z)
        heard = jnp.zeros_like(z)
        for child in self.nodes:
            if node.name in child.parents:
                heard = heard + self._back(node, child, state, passed[child.name])
        heard = self.sent(node.name, heard)  # who sends nothing is not corrected
        if self.gate:
            heard = _times_slope(node.activation, z, heard)
            own = _times_slope(node.activation, z, own) if self.rate_error else own
        force = own + heard - self.leak * z - self.laplace * jnp.sign(z)
        if node.name in self.lateral:
            force = force - self._rate(node.name, state) @ self.lateral[node.name]
        return force

    def _back(self, parent: Node, child: Node, state: State, error) -> Float[Array, "..."]:
        name = edge(parent.name, child.name)
        if self.feedback:
            return self.feedback[name](error)
        return jax.vjp(self.synapses[name], state[parent.name])[1](error)[0]

    def _modulated(self, synapse: AbstractSynapse) -> AbstractSynapse:
        if not self.modulate:
            return synapse
        return jax.tree.map(lambda w: w * jax.lax.stop_gradient(modulation(w)), synapse)


def modulation(weight: Float[Array, "pre post"]) -> Float[Array, "pre post"]:
    """M_j = min(2 m_j / max_j m_j, 1), m_j = sum_i |W_ij|: strong columns learn at full rate."""
    mass = jnp.sum(jnp.abs(weight), axis=tuple(range(weight.ndim - 1)))
    scaled = jnp.minimum(2 * mass / jnp.maximum(jnp.max(mass), jnp.finfo(weight.dtype).tiny), 1)
    return jnp.broadcast_to(scaled, weight.shape)


def lateral(node: Node, group: int, alpha: float, beta_lat: float) -> Float[Array, "n n"]:
    """V: `alpha` on the diagonal, `beta_lat` between units of one group, 0 elsewhere."""
    (size,) = node.shape
    if group < 1 or size % group:
        raise InputError(f"lateral group {group} must divide the {size} units of {node.name!r}")
    block = jnp.full((group, group), beta_lat) + jnp.eye(group) * (alpha - beta_lat)
    return jnp.kron(jnp.eye(size // group), block)


def _spread(sigma: float | None, shape: tuple[int, ...]) -> float:
    return 1 / math.sqrt(shape[0]) if sigma is None else sigma


def _reversed(nodes: Sequence[Node], sample, *, key: PRNGKeyArray) -> dict[str, AbstractSynapse]:
    """An error synapse for every edge, from the child back to the parent: (post, pre).

    `sample` draws it for a W of shape (pre, post).
    """
    pairs = edges(nodes)
    keys = jax.random.split(key, max(len(pairs), 1))
    size = {node.name: math.prod(node.shape) for node in nodes}
    return {
        edge(p, c): Dense(sample(k, (size[p], size[c])))
        for (p, c), k in zip(pairs, keys, strict=False)
    }


def _clip_columns(weight: Float[Array, "pre post"], bound: Number) -> Float[Array, "pre post"]:
    norm = jnp.sqrt(jnp.sum(weight**2, axis=tuple(range(weight.ndim - 1)), keepdims=True))
    return weight * jnp.minimum(1, bound / jnp.maximum(norm, jnp.finfo(weight.dtype).tiny))


def _times_slope(function: Activation, at, vector):
    """vector * function'(at), for an elementwise function."""
    return jax.jvp(function, (at,), (vector,))[1]
