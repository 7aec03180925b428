"""Predictive circuits against F = sum 1/2 eps Pi eps + 1/2 log|2 pi Sigma|, in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima import InputError, Predictive
from anima.circuit.graph import Dense, Node
from anima.circuit.precision import largest, surprise, weigh


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def predictions(circuit, z):
    w = {name: np.asarray(s.weight) for name, s in circuit.synapses.items()}
    b = {name: np.asarray(value) for name, value in circuit.biases.items()}
    return {
        "a": z["input"] @ w["input->a"] + b["a"],
        "b": np.tanh(z["input"] @ w["input->b"] + b["b"]),
        "c": np.tanh(z["a"]) @ w["a->c"] + sigmoid(z["b"]) @ w["b->c"] + b["c"],
        "output": np.tanh(
            np.tanh(z["c"]) @ w["c->output"] + z["input"] @ w["input->output"] + b["output"]
        ),
    }


def matrices(circuit):
    """Each node's precision as a full matrix."""
    full = lambda p, n: p if np.ndim(p) == 2 else np.diag(np.broadcast_to(p, (n,)))
    return {
        name: full(np.asarray(p), circuit.node(name).shape[0])
        for name, p in circuit.precision.items()
    }


def test_energy_on_a_graph_with_every_precision(diamond, getkey):
    state = {n.name: jax.random.normal(getkey(), n.shape) for n in diamond.nodes}
    z = {name: np.asarray(value) for name, value in state.items()}
    total, mu = 0.0, predictions(diamond, z)
    for name, pi in matrices(diamond).items():
        eps, covariance = z[name] - mu[name], np.linalg.inv(pi)
        total += eps @ pi @ eps / 2 + np.linalg.slogdet(2 * np.pi * covariance)[1] / 2
    np.testing.assert_allclose(diamond.energy(state), total, rtol=1e-12)


def test_plasticity_is_minus_the_rate_times_the_weighted_error(diamond, getkey):
    """dF/dW = -phi(z_parent)^T (eps Pi g'), dF/db = -eps Pi g'."""
    state = {n.name: jax.random.normal(getkey(), n.shape) for n in diamond.nodes}
    z = {name: np.asarray(value) for name, value in state.items()}
    mu, pi = predictions(diamond, z), matrices(diamond)
    slope = {"a": 1, "b": 1 - mu["b"] ** 2, "c": 1, "output": 1 - mu["output"] ** 2}
    rate = {"input": z["input"], "a": np.tanh(z["a"]), "b": sigmoid(z["b"]), "c": np.tanh(z["c"])}
    change = diamond.plasticity(state)
    for name in mu:
        passed = (z[name] - mu[name]) @ pi[name] * slope[name]
        np.testing.assert_allclose(change.biases[name], -passed, rtol=1e-10, atol=1e-13)
        for parent in diamond.node(name).parents:
            got = change.synapses[f"{parent}->{name}"].weight
            np.testing.assert_allclose(got, -np.outer(rate[parent], passed), rtol=1e-9, atol=1e-13)


def test_start_is_the_forward_sweep_where_errors_vanish(diamond, getkey):
    state = diamond.start({"input": jax.random.normal(getkey(), (3,))})
    mu = predictions(diamond, jax.tree.map(np.asarray, state))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
        {name: state[name] for name in mu},
        mu,
    )
    assert max(float(jnp.max(jnp.abs(f))) for n, f in diamond.force(state).items()) < 1e-14


def test_the_prior_of_the_input_is_a_standard_normal_around_its_bias():
    circuit = Predictive.mlp([3, 2], prior=True, key=jax.random.key(0))
    mean = jnp.asarray([0.3, -1.0, 2.0])
    circuit = Predictive(
        circuit.nodes, circuit.synapses, circuit.biases | {"input": mean}, circuit.precision
    )
    state = circuit.start({})
    np.testing.assert_array_equal(state["input"], mean)
    moved = state | {"input": mean + 1.0, "output": circuit.start({"input": mean + 1.0})["output"]}
    np.testing.assert_allclose(circuit.energy(moved) - circuit.energy(state), 1.5, rtol=1e-12)


@pytest.mark.parametrize("kind", ["scalar", "diagonal", "full"])
def test_surprise_is_the_gaussian_log_density(kind, getkey):
    from scipy.stats import multivariate_normal

    root = np.asarray(jax.random.normal(getkey(), (3, 3)))
    precision = {
        "scalar": np.asarray(1.7),
        "diagonal": np.asarray([0.5, 1.0, 2.5]),
        "full": root @ root.T + np.eye(3),
    }[kind]
    matrix = precision if kind == "full" else np.diag(np.broadcast_to(precision, (3,)))
    error = np.asarray(jax.random.normal(getkey(), (3,)))
    want = -multivariate_normal(np.zeros(3), np.linalg.inv(matrix)).logpdf(error)
    np.testing.assert_allclose(surprise(error, jnp.asarray(precision)), want, rtol=1e-10)
    np.testing.assert_allclose(weigh(error, jnp.asarray(precision)), error @ matrix, rtol=1e-12)
    top = np.linalg.eigvalsh(matrix).max()
    assert top - 1e-12 <= float(largest(jnp.asarray(precision))) <= 2 * top


def test_curvature_bounds_the_second_derivative_at_the_forward_sweep(diamond, getkey):
    """There errors vanish, and Gauss-Newton is the second derivative."""
    state, bound = diamond.start({"input": jax.random.normal(getkey(), (3,))}), diamond.curvature()
    quiet = diamond.silence({"a": 0.5, "c": 0.3}, key=jax.random.key(2))
    for circuit in (diamond, quiet):
        state, bound = circuit.start({"input": state["input"]}), circuit.curvature()
        slopes = eqx.filter_jit(lambda c, z: jax.jacfwd(c.force)(z))(circuit, state)
        for name in state:
            top = np.linalg.eigvalsh(-np.asarray(slopes[name][name])).max()
            assert top <= float(jnp.max(bound[name])) * (1 + 1e-12), name


def test_a_child_without_precision_is_refused():
    nodes = (Node("input", (2,)), Node("output", (2,), ("input",)))
    with pytest.raises(InputError, match="'output' has parents but no precision"):
        Predictive(nodes, {"input->output": Dense(jnp.ones((2, 2)))}, {}, {})
