"""Every family passes the battery: a new implementation is one line here."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima import NGC, Hopfield, Predictive
from anima.circuit.graph import Dense, Node, edge, edges
from anima.circuit.image import Convolution
from anima.core.functions import activation
from anima.testing import check_circuit

SIZES = [3, 5, 4, 2]
KEY = jax.random.key(3)


def loop() -> Hopfield:
    """A symmetric circuit with a triangle, so that blocks are more than even and odd."""
    clip = activation("hard_sigmoid")
    nodes = (
        Node("input", (3,)),
        Node("a", (4,), ("input",), clip),
        Node("b", (2,), ("input", "a"), clip),
        Node("output", (2,), ("a", "b")),
    )
    size, keys = {n.name: n.shape[0] for n in nodes}, iter(jax.random.split(KEY, 9))
    weight = lambda p, n: jax.random.normal(next(keys), (size[p], size[n])) / 3
    return Hopfield(
        nodes=nodes,
        synapses={edge(p, n): Dense(weight(p, n)) for p, n in edges(nodes)},
        biases={name: jax.random.normal(next(keys), (n,)) for name, n in size.items()},
    )


def test_hopfield():
    check_circuit(Hopfield.mlp(SIZES, key=KEY), directed=False)


@pytest.mark.slow
def test_hopfield_with_a_triangle():
    check_circuit(loop(), directed=False)


def test_predictive():
    check_circuit(Predictive.mlp(SIZES, activation="relu", output="tanh", prior=True, key=KEY))


def test_predictive_graph(diamond):
    check_circuit(diamond)


@pytest.mark.parametrize("family", [pytest.param(Hopfield, marks=pytest.mark.slow), Predictive])
def test_convolutional(family):
    """A max pool, then a mean of windows that overlap."""
    layers = [Convolution(2, 3, padding=1, pool="max"), Convolution(2, 2, 1, 1, "average", 2, 1), 2]
    circuit = family.conv((6, 6, 1), layers, key=KEY)
    check_circuit(circuit, directed=family is Predictive)


def test_ngc_in_the_papers_form():
    everything = dict(group=1, modulate=True, bound=1.0, laplace=0.01, bias=True)
    check_circuit(NGC.mlp(SIZES, sigma=None, **everything, key=KEY), conservative=False)


def test_ngc_with_the_error_on_z(diamond):
    """On a graph; the derivative gate, no transpose: not a gradient, but local."""
    ngc = NGC(diamond.nodes, diamond.synapses, mirrored(diamond), {}, rate_error=False, gate=True)
    check_circuit(ngc, conservative=False)


@pytest.mark.slow
@pytest.mark.parametrize("rate_error", [True, False], ids=["error-on-rates", "error-on-z"])
def test_gated_tied_ngc_descends_its_energy(rate_error, diamond):
    """phi' and g' on, E = W^T, leak and Laplace prior: the force is exactly -dE/dz."""
    ngc = NGC(
        nodes=diamond.nodes,
        synapses=diamond.synapses,
        feedback={},
        biases=diamond.biases,
        beta_e=0.7,
        leak=0.1,
        laplace=0.05,
        rate_error=rate_error,
        gate=True,
    )
    check_circuit(ngc)


def mirrored(circuit) -> dict[str, Dense]:
    """Feedback synapses unlike the transposes."""
    flip = lambda s: Dense(jnp.flip(s.weight.T) + 0.1)
    return {name: flip(synapse) for name, synapse in circuit.synapses.items()}


@pytest.mark.parametrize("family", [Hopfield, Predictive, NGC])
def test_silence_keeps_the_mean_drive(family):
    """E[gain] = 1: the survivors send 1 / (1 - rate) of their rate."""
    circuit = family.mlp([400, 2], key=KEY)
    gain = np.asarray(circuit.silence({"input": 0.75}, key=KEY).gain["input"])
    assert set(np.unique(gain)) == {0.0, 4.0}
    assert abs(gain.mean() - 1) < 4 * np.sqrt(3 / 400)  # four standard deviations


def test_silence_is_drawn_per_node_and_per_key():
    circuit = Hopfield.mlp([50, 50, 2], key=KEY)
    rates = {"input": 0.5, "h1": 0.5}
    gain = circuit.silence(rates, key=KEY).gain
    other = circuit.silence(rates, key=jax.random.key(4)).gain
    assert not np.array_equal(gain["input"], gain["h1"])
    assert not np.array_equal(gain["input"], other["input"])


@pytest.mark.slow
@pytest.mark.float32
def test_the_battery_holds_in_float32_too():
    check_circuit(Predictive.mlp([3, 4, 2], key=KEY))


def test_what_learns_and_what_does_not(diamond):
    """Gains, precisions, lateral synapses and swept coefficients are arrays but no parameters."""
    swept = eqx.tree_at(lambda c: c.beta_e, NGC.mlp(SIZES, group=1, key=KEY), jnp.asarray(0.5))
    for circuit, learnt in (
        (Hopfield.mlp(SIZES, key=KEY), {"synapses", "biases"}),
        (diamond, {"synapses", "biases"}),
        (swept, {"synapses", "feedback"}),
    ):
        quiet = circuit.silence({"input": 0.5}, key=KEY)
        paths = jax.tree_util.tree_leaves_with_path(quiet.parameters()[0])
        assert {path[0].name for path, _ in paths} == learnt
