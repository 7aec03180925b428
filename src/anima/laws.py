"""The conformance matrix: every cost on every assigner on every circuit, each with its theorem.

A `Row` pairs an assigner with a circuit and says what its credit must converge to, and how fast,
whatever the cost. `measure` tries it in float64 on a small random circuit. The same table is run by
the tests, by `benchmarks/conformance.py`, and by whoever adds a row of their own:

    assert measure(Row("my rule", MyRule, "chain", BACKPROP, order=1)).holds
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from anima.act.heads import Categorical, Gaussian
from anima.act.objectives import Deed, PolicyGradient
from anima.circuit.circuit import AbstractCircuit, gradient
from anima.circuit.graph import Dense, Node, edges
from anima.circuit.hopfield import Hopfield
from anima.circuit.image import Convolution
from anima.circuit.ngc import NGC
from anima.circuit.precision import Precision
from anima.circuit.predictive import Predictive
from anima.core.functions import identity, tanh
from anima.core.types import Clamp, Cost, Number, State
from anima.learn.assigners import (
    ZIL,
    AbstractAssigner,
    Backprop,
    EquilibriumPropagation,
    FixedPrediction,
    IncrementalPC,
    NGCRule,
    PredictiveCoding,
    response,
)
from anima.learn.costs import CrossEntropy, Huber, SquaredError
from anima.settle.settle import settle
from anima.settle.solvers import Anderson, Euler, EvenOdd

STEPS = (0.02, 0.01, 0.005)
EXACT = 1e-10
SLOPE = 0.1

_SETTLED: dict[str, Any] = dict(solver=Anderson(Euler(0.3)), tol=1e-14)
_TARGET = (0.3, -1.2)


@dataclasses.dataclass(frozen=True)
class Reference:
    """What credit is compared with: a function of (circuit, clamp, cost), and its name."""

    name: str
    gradient: Callable[[AbstractCircuit, State, Cost], AbstractCircuit]


@dataclasses.dataclass(frozen=True)
class Row:
    """A theorem: the credit of `build(number)` on a circuit is the reference's, to an order.

    - `assigner`: its name in the table; `build`: step or nudge -> the assigner.
    - `circuit`: a key of `CIRCUITS`; `reference`.
    - `order`: the relative error falls as number^order, within `SLOPE`; `None`: it is below
      `EXACT` at every number; 0: only the angle must be below 90 degrees.
    - `numbers`: the steps or nudges at which it is tried.
    - `analytic`: whether only costs that extend to complex outputs are served.
    - `static`: whether a number decides how much is compiled, so that each needs its own program.
    """

    assigner: str
    build: Callable[[float], AbstractAssigner]
    circuit: str
    reference: Reference
    order: int | None = None
    numbers: tuple[float, ...] = STEPS
    analytic: bool = False
    static: bool = False

    @property
    def law(self) -> str:
        """In words, for the table."""
        if self.order == 0:
            return f"less than 90 degrees from {self.reference.name}"
        how = "exactly" if self.order is None else "to O(s)" if self.order == 1 else "to O(s^2)"
        return f"{self.reference.name}, {how}"


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out: by cost, the relative errors at the row's numbers, their order, the cosine."""

    row: Row
    errors: dict[str, tuple[float, ...]]
    orders: dict[str, float]
    cosines: dict[str, float]

    def verdict(self, cost: str) -> bool:
        """Whether the law holds for one cost."""
        if self.row.order is None or (self.row.order and max(self.errors[cost]) <= EXACT):
            return max(self.errors[cost]) <= EXACT  # no order can be seen where all is exact
        if self.row.order == 0:
            return self.cosines[cost] > 0
        return abs(self.orders[cost] - self.row.order) <= SLOPE

    @property
    def holds(self) -> bool:
        """Whether the law holds for every cost."""
        return all(self.verdict(cost) for cost in self.errors)


def costs() -> dict[str, Cost]:
    """The costs of the table, each of an output of two units."""
    target = jnp.asarray(_TARGET)
    choice, move = jnp.asarray(1), jnp.asarray([0.7, -0.4])
    policy = lambda head, deed, worth: partial(PolicyGradient(head), Deed(deed, jnp.asarray(worth)))
    return {
        "squared": partial(SquaredError(), target),
        "cross-entropy": partial(CrossEntropy(2.0), jnp.asarray([0.8, 0.2])),
        "reconstruction": lambda y: jnp.sum(jnp.log1p(jnp.exp(y)) - jnp.asarray([0.9, 0.2]) * y),
        "arbitrary": lambda y: jnp.sum(jnp.log(jnp.cosh(y - target))) + y[0] * y[1] + jnp.sin(y[1]),
        "Huber": partial(Huber(0.5), target),
        "categorical, A > 0": policy(Categorical(2), choice, 1.3),
        "categorical, A < 0": policy(Categorical(2), choice, -1.3),
        "Gaussian, A > 0": policy(Gaussian(2, log_std=0.1), move, 1.3),
        "Gaussian, A < 0": policy(Gaussian(2, log_std=0.1), move, -1.3),
    }


ANALYTIC = ("squared", "cross-entropy", "reconstruction", "arbitrary")


def measure(row: Row, *, only: Sequence[str] = (), seed: int = 5) -> Measured:
    """Tries a row's law; run it under float64 (`jax.enable_x64(True)`).

    **Arguments:** `only`: names of `costs()`, if not all that the row serves.
    """
    circuit = CIRCUITS[row.circuit](jax.random.key(seed))
    clamp = {"input": jnp.resize(jnp.asarray([0.5, -1.0, 0.8]), circuit.node("input").shape)}
    served = only or (ANALYTIC if row.analytic else costs())
    table = {name: cost for name, cost in costs().items() if name in served}
    which = jnp.eye(len(table))
    # all costs in one program: which it is comes as data
    chosen = lambda w: lambda y: jnp.sum(w * jnp.stack([cost(y) for cost in table.values()]))
    key = jax.random.key(seed + 1)

    def credit(number, w):
        return _flat(row.build(number).gradient(circuit, clamp, chosen(w), key=key)[0])

    def reference(w):
        return _flat(row.reference.gradient(circuit, clamp, chosen(w)))

    each = jax.vmap(credit, (None, 0))
    if row.static:
        found = [jax.jit(partial(each, number))(which) for number in row.numbers]
    else:
        found = jax.jit(jax.vmap(each, (0, None)))(jnp.asarray(row.numbers), which)
    want = jax.jit(jax.vmap(reference))(which)
    return _measured(row, list(table), np.asarray(found), np.asarray(want))


def _measured(row: Row, names: Sequence[str], found: np.ndarray, want: np.ndarray) -> Measured:
    """`found`: (numbers, costs, parameters); `want`: (costs, parameters)."""
    size = np.linalg.norm(want, axis=-1)
    errors = np.linalg.norm(found - want, axis=-1) / size
    logs = np.log(np.maximum(errors, np.finfo(float).tiny))
    several = len(row.numbers) > 1
    orders = np.polyfit(np.log(row.numbers), logs, 1)[0] if several else np.zeros(len(names))
    lengths = np.linalg.norm(found[-1], axis=-1) * size
    cosines = np.sum(found[-1] * want, -1) / lengths
    return Measured(
        row,
        {name: tuple(float(e) for e in errors[:, i]) for i, name in enumerate(names)},
        {name: float(orders[i]) for i, name in enumerate(names)},
        {name: float(cosines[i]) for i, name in enumerate(names)},
    )


def _flat(credit: AbstractCircuit) -> Float[Array, " parameters"]:
    """The credit of synapses and biases alone: what feedback synapses learn has no reference."""
    kept = {name: getattr(credit, name) for name in ("synapses", "biases")}
    return ravel_pytree(eqx.filter(kept, eqx.is_inexact_array))[0]


# Circuits: small, random, smooth where the symmetric ones settle.


def chain(key) -> Predictive:
    """Predictive 3-5-4-2, tanh, unit precisions, biases away from 0."""
    circuit = Predictive.mlp([3, 5, 4, 2], key=key)
    biases = {
        name: 0.3 * jnp.cos(jnp.arange(1.0, 1 + b.size)) for name, b in circuit.biases.items()
    }
    return dataclasses.replace(circuit, biases=biases)


def graph(key) -> Predictive:
    """A diamond with a skip, and precisions that are numbers, diagonals and matrices."""
    nodes = (
        Node("input", (3,)),
        Node("left", (4,), ("input",), tanh),
        Node("right", (3,), ("input",), tanh),
        Node("output", (2,), ("left", "right", "input"), identity, tanh),
    )
    size = {node.name: node.shape[0] for node in nodes}
    keys = iter(jax.random.split(key, 16))
    draw = lambda *shape: jax.random.normal(next(keys), shape)
    return Predictive(
        nodes=nodes,
        synapses={f"{p}->{c}": Dense(0.6 * draw(size[p], size[c])) for p, c in edges(nodes)},
        biases={node.name: 0.3 * draw(*node.shape) for node in nodes[1:]},
        precision={
            "left": 2.0,
            "right": jnp.asarray([0.5, 1.0, 2.0]),
            "output": jnp.asarray([[2.0, 0.4], [0.4, 1.0]]),
        },
    )


def symmetric(key) -> Hopfield:
    """Hopfield 3-5-4-2, small weights around 1/2: no unit touches a bound."""
    circuit = Hopfield.mlp([3, 5, 4, 2], scale=0.3, key=key)
    return _centred(circuit)


def coded(key) -> NGC:
    """The chain as NGC: E = W^T, phi' on, error on z, no leak."""
    circuit = chain(key)
    return NGC(
        nodes=circuit.nodes,
        synapses=circuit.synapses,
        feedback={},
        biases=circuit.biases,
        leak=0.0,
        rate_error=False,
        gate=True,
    )


def learnt(key) -> NGC:
    """The same with error synapses of their own, near the transpose."""
    tied = coded(key)
    noise = iter(jax.random.split(key, len(tied.synapses)))
    stray = lambda w: Dense(w.T + 0.3 * jax.random.normal(next(noise), w.T.shape))
    feedback = {name: stray(jax.tree.leaves(synapse)[0]) for name, synapse in tied.synapses.items()}
    return dataclasses.replace(tied, feedback=feedback)


_LAYERS = (Convolution(2, 2, pool="max", pool_stride=1), Convolution(1, 2, 1, 1, "average"), 2)


def convolution(key) -> Predictive:
    """Two convolutions of a 4 x 4 image, max and average pooling, tanh."""
    return Predictive.conv((4, 4, 1), _LAYERS, activation="tanh", key=key)


def symmetric_convolution(key) -> Hopfield:
    """The same as a symmetric circuit, small weights around 1/2."""
    circuit = Hopfield.conv((4, 4, 1), _LAYERS, scale=0.3, key=key)
    return _centred(circuit)


def _centred(circuit: Hopfield) -> Hopfield:
    half = {name: jnp.full_like(bias, 0.5) for name, bias in circuit.biases.items()}
    return dataclasses.replace(circuit, biases=half)


CIRCUITS: dict[str, Callable[..., AbstractCircuit]] = {
    "chain": chain,
    "graph": graph,
    "symmetric": symmetric,
    "convolution": convolution,
    "symmetric convolution": symmetric_convolution,
    "NGC, tied": coded,
    "NGC, own feedback": learnt,
}


# References.


def backprop(circuit: AbstractCircuit, clamp: Clamp, cost: Cost) -> AbstractCircuit:
    """Reverse mode through the forward sweep."""
    return gradient(lambda c: (cost(c.start(clamp)["output"]), None), circuit)[0]


def whitened(circuit: AbstractCircuit, clamp: Clamp, cost: Cost) -> AbstractCircuit:
    """Backprop fed S^-1 g in place of g, S the covariance ascribed to the output."""
    state = circuit.start(clamp)
    fed = jnp.linalg.solve(response(circuit, clamp, state), jax.grad(cost)(state["output"]))
    return gradient(lambda c: (c.start(clamp)["output"] @ fed, None), circuit)[0]


def implicit(circuit: AbstractCircuit, clamp: Clamp, cost: Cost) -> AbstractCircuit:
    """The gradient at the circuit's own fixed point: <a, d force/dtheta>, H a = dC/dz."""
    found = settle(circuit, clamp, max_steps=3000, **_SETTLED).state
    free, unravel = ravel_pytree({n: z for n, z in found.items() if n not in clamp})

    def force(circuit, free):
        pull = circuit.force(circuit.check_clamp(clamp) | unravel(free))
        return ravel_pytree({name: pull[name] for name in unravel(free)})[0]

    stiffness = -jax.jacobian(lambda free: force(circuit, free))(free)
    slope = jax.grad(lambda free: cost(unravel(free)["output"]))(free)
    adjoint = jnp.linalg.solve(stiffness, slope)
    return gradient(lambda c: (adjoint @ force(c, free), None), circuit)[0]


def forwards(circuit: AbstractCircuit, clamp: Clamp, cost: Cost) -> AbstractCircuit:
    """Forward mode through the sweep, one parameter at a time."""
    own, rest = circuit.parameters()
    flat, unravel = ravel_pytree(own)
    judged = lambda flat: cost(eqx.combine(unravel(flat), rest).start(clamp)["output"])
    return unravel(jax.jacfwd(judged)(flat))


def settled_coding(circuit: AbstractCircuit, clamp: Clamp, cost: Cost) -> AbstractCircuit:
    """`PredictiveCoding` of the same chain, settled; an NGC circuit is read as a predictive one."""
    if isinstance(circuit, NGC):
        ones: dict[str, Precision] = {node.name: 1.0 for node in circuit.nodes if node.parents}
        circuit = Predictive(
            nodes=circuit.nodes,
            synapses=circuit.synapses,
            biases=circuit.biases,
            precision=ones,
        )
    rule = PredictiveCoding(step=0.5, max_steps=3000, **_SETTLED)
    return rule.gradient(circuit, clamp, cost, key=jax.random.key(0))[0]


BACKPROP = Reference("backprop", backprop)
FORWARDS = Reference("forward mode", forwards)
WHITENED = Reference("backprop fed S^-1 g", whitened)
IMPLICIT = Reference("the gradient at the fixed point", implicit)
CODING = Reference("settled predictive coding", settled_coding)


# The table.


def coding(teach: str) -> Callable[[float], AbstractAssigner]:
    """Predictive coding at step s, settled."""
    return lambda s: PredictiveCoding(step=s, teach=teach, max_steps=3000, **_SETTLED)


def propagation(scheme: str, **how) -> Callable[[float], AbstractAssigner]:
    """Equilibrium propagation at nudge s, both phases settled."""
    settled: dict[str, Any] = dict(free_steps=3000, nudged_steps=3000, **_SETTLED)
    return lambda s: EquilibriumPropagation(beta=s, scheme=scheme, **settled, **how)


def incremental(share: float) -> AbstractAssigner:
    """Incremental PC of 1 / share turns, synapses held: all but the first few are settled."""
    return IncrementalPC(step=0.5, solver=EvenOdd(), count=round(1 / share))


def fixed(_: Number) -> AbstractAssigner:
    """Fixed predictions, settled."""
    return FixedPrediction(max_steps=300)


def ngc(_: Number) -> AbstractAssigner:
    """NGC's rule, settled."""
    return NGCRule(step=0.5, max_steps=3000, **_SETTLED)


def rows() -> list[Row]:
    """The whole table."""
    once = (1.0,)
    table = [
        Row("Backprop", lambda _: Backprop(), name, FORWARDS, None, once)
        for name in ("chain", "graph", "symmetric")
    ]
    for name in ("chain", "graph"):
        table += [
            Row("FixedPrediction", fixed, name, BACKPROP, None, once),
            Row("PredictiveCoding, clamp", coding("clamp"), name, WHITENED, 1),
            Row("PredictiveCoding, corrected", coding("corrected"), name, BACKPROP, 1),
            Row("PredictiveCoding, energy", coding("energy"), name, BACKPROP, 2),
            Row("EquilibriumPropagation, centred", propagation("centred"), name, BACKPROP, 2),
        ]
    table += [
        Row("FixedPrediction", fixed, "convolution", BACKPROP, None, once),
        Row("PredictiveCoding, energy", coding("energy"), "convolution", BACKPROP, 2),
        Row(
            "EquilibriumPropagation, centred",
            propagation("centred"),
            "symmetric convolution",
            IMPLICIT,
            2,
        ),
    ]
    holomorphic = propagation("holomorphic", points=10)
    return [
        *table,
        Row("ZIL", lambda _: ZIL(), "chain", BACKPROP, None, once),
        Row(
            "IncrementalPC",
            incremental,
            "chain",
            CODING,
            1,
            (1 / 200, 1 / 400, 1 / 800),
            static=True,
        ),
        Row("NGCRule", ngc, "NGC, tied", CODING, None, once),
        Row("NGCRule", ngc, "NGC, own feedback", BACKPROP, 0, once),
        Row(
            "EquilibriumPropagation, one-sided", propagation("one_sided"), "symmetric", IMPLICIT, 1
        ),
        Row("EquilibriumPropagation, centred", propagation("centred"), "symmetric", IMPLICIT, 2),
        Row(
            "EquilibriumPropagation, linearised",
            propagation("centred", linearise=True),
            "symmetric",
            IMPLICIT,
            2,
        ),
        Row(
            "EquilibriumPropagation, random sign",
            propagation("random_sign"),
            "symmetric",
            IMPLICIT,
            1,
        ),
        Row(
            "EquilibriumPropagation, holomorphic",
            holomorphic,
            "chain",
            BACKPROP,
            None,
            (0.03,),
            analytic=True,
        ),
    ]
