"""Wiring: who touches whom, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima import NGC, Hopfield, Predictive
from anima.circuit.graph import Dense, Node, chain, check_nodes, colouring, edges
from anima.core.errors import InputError
from anima.core.functions import identity

KEY = jax.random.key(0)


def wired(**parents):
    return tuple(Node(name, (1,), tuple(above)) for name, above in parents.items())


def test_a_chain_is_named_and_fed_in_order():
    nodes = chain([5, 4, 3, 2], jnp.tanh, identity)
    assert [n.name for n in nodes] == ["input", "h1", "h2", "output"]
    assert [n.shape for n in nodes] == [(5,), (4,), (3,), (2,)]
    assert edges(nodes) == (("input", "h1"), ("h1", "h2"), ("h2", "output"))
    assert [n.activation for n in nodes] == [identity, jnp.tanh, jnp.tanh, identity]


@pytest.mark.parametrize("moral", [False, True])
def test_a_chain_has_even_and_odd_layers(moral):
    nodes = chain([1] * 5, identity, identity)
    assert colouring(nodes, moral=moral) == (("input", "h2", "output"), ("h1", "h3"))


def test_parents_of_one_child_touch_only_in_a_directed_circuit():
    vee = wired(a="", b="", c="ab")
    assert colouring(vee, moral=False) == (("a", "b"), ("c",))
    assert colouring(vee, moral=True) == (("a",), ("b",), ("c",))


def test_colouring_of_a_diamond_with_a_skip(diamond):
    assert colouring(diamond.nodes, moral=True) == (
        ("input",),
        ("a", "output"),
        ("b",),
        ("c",),
    )


def test_dense_norm_bounds_the_spectral_norm(getkey):
    for shape in ((3, 5), (4, 4), (6, 2)):
        weight = jax.random.normal(getkey(), shape)
        spectral = np.linalg.norm(weight, 2)
        assert spectral <= float(Dense(weight).norm()) <= np.sqrt(max(shape)) * spectral + 1e-12


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (wired(a="") * 2, "two nodes are called 'a'"),
        (wired(a="b", b="a"), "'a' has parent 'b', which does not come before it"),
        (wired(a="a"), "acyclic"),
        (wired(a="", b="x"), "'b' has parent 'x'"),
    ],
)
def test_bad_graphs_are_refused(nodes, message):
    with pytest.raises(InputError, match=message):
        check_nodes(nodes)


@pytest.mark.unchecked
@pytest.mark.parametrize("shape", [(), (0,), (3, -1), (2.0,)])
def test_bad_shapes_are_refused(shape):
    with pytest.raises(InputError, match="must hold positive integers"):
        Node("a", shape)


@pytest.mark.unchecked
@pytest.mark.parametrize("family", [Hopfield, Predictive, NGC])
@pytest.mark.parametrize("sizes", [[], [3], [3, 0], [3, -1, 2], [3, 2.0]])
def test_bad_sizes_are_refused(family, sizes):
    with pytest.raises(InputError, match="at least two positive integers"):
        family.mlp(sizes, key=KEY)


@pytest.mark.parametrize("family", [Hopfield, Predictive, NGC])
def test_an_unknown_activation_is_refused(family):
    with pytest.raises(InputError, match="did you mean 'tanh'"):
        family.mlp([3, 2], activation="tanhh", key=KEY)


@pytest.mark.parametrize("family", [Hopfield, Predictive, NGC])
def test_every_circuit_checks_its_graph(family):
    nodes = (Node("a", (2,), ("b",)), Node("b", (2,)))
    with pytest.raises(InputError, match="does not come before it"):
        if family is NGC:
            family(nodes=nodes, synapses={}, feedback={}, biases={})
        elif family is Predictive:
            family(nodes=nodes, synapses={}, biases={}, precision={"a": 1.0})
        else:
            family(nodes=nodes, synapses={}, biases={})


@pytest.mark.parametrize("family", [Hopfield, Predictive, NGC])
def test_an_unknown_node_is_named_with_the_nearest(family):
    with pytest.raises(InputError, match="no node 'outptu': did you mean 'output'"):
        family.mlp([3, 2], key=KEY).node("outptu")
