"""A prior wraps any circuit: it is one, and it moves the equilibrium where Bayes says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima import NGC, Euler, InputError, Predictive, Prior, Result, settle
from anima.testing import check_circuit


def test_battery():
    circuit = Predictive.mlp([3, 4, 2], key=jax.random.key(0))
    covariance = jnp.asarray([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])
    check_circuit(Prior(circuit, "input", jnp.ones(3), jnp.linalg.inv(covariance), 0.5))


def test_the_posterior_of_a_linear_circuit():
    """trust (x - z W) W^T = Pi (z - m) at rest."""
    circuit = Predictive.mlp([2, 3], activation="identity", key=jax.random.key(1))
    weight = circuit.synapses["input->output"].weight
    mean, precision, trust = jnp.asarray([1.0, -1.0]), jnp.diag(jnp.asarray([2.0, 0.5])), 3.0
    seen = jnp.asarray([0.3, 1.0, -0.7])
    prior = Prior(circuit, "input", mean, precision, trust)
    found = settle(prior, {"output": seen}, solver=Euler(0.05), tol=1e-10, max_steps=5_000)
    assert int(found.result) == Result.CONVERGED
    want = jnp.linalg.solve(
        trust * weight @ weight.T + precision, trust * weight @ seen + precision @ mean
    )
    np.testing.assert_allclose(found.state["input"], want, rtol=1e-8)


def test_unclamped_it_settles_at_its_mean():
    circuit = NGC.mlp([2, 3], activation="identity", leak=0.0, key=jax.random.key(2))
    mean = jnp.asarray([0.5, 2.0])
    found = settle(Prior(circuit, "input", mean, 1.0), {}, tol=1e-9, max_steps=100)
    np.testing.assert_allclose(found.state["input"], mean, rtol=1e-6)
    weight = circuit.synapses["input->output"].weight
    np.testing.assert_allclose(found.state["output"], mean @ weight, rtol=1e-6)


def test_learning_sees_the_circuit_and_not_the_prior():
    circuit = Predictive.mlp([2, 3], key=jax.random.key(3))
    learnt, _ = Prior(circuit, "input", jnp.zeros(2), 1.0).parameters()
    inner, _ = circuit.parameters()
    assert len(jax.tree.leaves(learnt)) == len(jax.tree.leaves(inner))
    assert learnt.mean is None


def test_a_mean_of_another_shape_is_refused():
    circuit = Predictive.mlp([2, 3], key=jax.random.key(3))
    with pytest.raises(InputError, match=r"mean of shape \(3,\), the node has \(2,\)"):
        Prior(circuit, "input", jnp.zeros(3), 1.0)
