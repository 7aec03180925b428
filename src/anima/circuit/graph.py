"""How a circuit is wired: nodes, the synapses between them, and who touches whom.

One description serves every family. A node names its parents; a synapse runs from each parent to
the node. Directed families (predictive, NGC) read it as a generative graph, the symmetric family
(Hopfield) as undirected edges.
"""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from anima.core.errors import InputError
from anima.core.functions import Activation, identity
from anima.core.types import Scalar


@dataclasses.dataclass(frozen=True)
class Node:
    """A population of neurons.

    - `name`: unique in its circuit.
    - `shape`: the shape of one example's activity.
    - `parents`: names of the nodes that predict or drive it.
    - `activation`: directed families, the rate phi(z) it sends on; symmetric family, the
      projection onto the range its activity may take.
    - `transfer`: directed families, the g in mu = g(drive); unused by the symmetric family.
    """

    name: str
    shape: tuple[int, ...]
    parents: tuple[str, ...] = ()
    activation: Activation = identity
    transfer: Activation = identity

    def __post_init__(self):
        if not self.shape or any(not isinstance(n, int) or n < 1 for n in self.shape):
            raise InputError(f"node {self.name!r}: shape {self.shape} must hold positive integers")


class AbstractSynapse(eqx.Module):
    """A map from one node's rates to a drive on another, linear in its own weights.

    A max pool makes it linear piece by piece; whatever holds for linear maps then holds as long
    as the winners stay the same.
    """

    @abstractmethod
    def __call__(self, rate: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """The drive that `rate` sends, of the receiving node's shape."""

    @abstractmethod
    def norm(self) -> Scalar:
        """An upper bound on the map's largest singular value, or on its Lipschitz constant."""


class Dense(AbstractSynapse):
    """z W, every unit to every unit: `weight` is (pre, post). An image is read row by row."""

    weight: Float[Array, "pre post"]

    def __call__(self, rate: Inexact[Array, "..."]) -> Inexact[Array, " post"]:
        return jnp.ravel(rate) @ self.weight

    def norm(self) -> Scalar:
        """sqrt(|W|_1 |W|_inf), which bounds the spectral norm."""
        size = jnp.abs(self.weight)
        return jnp.sqrt(jnp.max(jnp.sum(size, 0)) * jnp.max(jnp.sum(size, 1)))


def edge(parent: str, child: str) -> str:
    """The name of the synapse from `parent` to `child`, as in saved weights."""
    return f"{parent}->{child}"


def edges(nodes: Iterable[Node]) -> tuple[tuple[str, str], ...]:
    """All (parent, child) pairs, in the order of `nodes`."""
    return tuple((parent, node.name) for node in nodes for parent in node.parents)


def check_nodes(nodes: Sequence[Node]) -> None:
    """Raises `InputError` unless names are unique and parents come before their children.

    Parents-first order makes the graph acyclic by construction and is the order of the sweep.
    """
    seen: set[str] = set()
    for node in nodes:
        if node.name in seen:
            raise InputError(f"two nodes are called {node.name!r}: names must be unique")
        for parent in node.parents:
            if parent not in seen:
                raise InputError(
                    f"node {node.name!r} has parent {parent!r}, which does not come before it: "
                    "list nodes parents first (the graph must be acyclic)"
                )
        seen.add(node.name)


def chain(
    sizes: Sequence[int | tuple[int, ...]], activation: Activation, output: Activation
) -> tuple[Node, ...]:
    """The nodes `input`, `h1`, `h2`, ..., `output` of a multilayer circuit, each fed by the last.

    **Arguments:** `sizes`, at least two positive integers (or shapes of them), input first;
    `activation` for hidden nodes; `output` for the output node. The input node's is the identity.
    """
    sizes = list(sizes)
    shapes = [size if isinstance(size, tuple) else (size,) for size in sizes]
    if len(sizes) < 2 or any(not isinstance(n, int) or n < 1 for shape in shapes for n in shape):
        raise InputError(f"sizes {sizes} must be at least two positive integers, input first")
    names = ["input", *(f"h{i}" for i in range(1, len(sizes) - 1)), "output"]
    functions = [identity, *[activation] * (len(sizes) - 2), output]
    parents: list[tuple[str, ...]] = [(), *((name,) for name in names[:-1])]
    return tuple(
        Node(name, shape, above, function)
        for name, shape, above, function in zip(names, shapes, parents, functions, strict=True)
    )


def draw(nodes: Sequence[Node], sample, *, key: PRNGKeyArray) -> dict[str, AbstractSynapse]:
    """Dense synapses for every edge, each weight from `sample(key, (pre, post))`."""
    shapes = {node.name: math.prod(node.shape) for node in nodes}
    pairs = edges(nodes)
    keys = jax.random.split(key, max(len(pairs), 1))
    return {
        edge(p, c): Dense(sample(k, (shapes[p], shapes[c])))
        for (p, c), k in zip(pairs, keys, strict=False)
    }


def colouring(nodes: Sequence[Node], *, moral: bool) -> tuple[tuple[str, ...], ...]:
    """Groups of nodes that do not touch, so that a whole group can move at once.

    Two nodes touch when one drives the other and, if `moral`, when they drive a common child
    (in a directed energy such parents explain the child together). A chain gets two groups: the
    even and the odd layers.
    """
    touching: dict[str, set[str]] = {node.name: set() for node in nodes}
    for node in nodes:
        family = (*node.parents, node.name)
        for one in family:
            others = family if moral else ((node.name,) if one != node.name else node.parents)
            touching[one].update(other for other in others if other != one)
    colour: dict[str, int] = {}
    for node in nodes:
        taken = {colour[other] for other in touching[node.name] if other in colour}
        colour[node.name] = min(set(range(len(nodes))) - taken)
    return tuple(
        tuple(name for name, c in colour.items() if c == k) for k in range(max(colour.values()) + 1)
    )
