"""How strong a nudge may be: below the bound a circuit settles on the nudged cost, above it not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.act.heads import Categorical, Gaussian
from anima.act.objectives import Deed, PolicyGradient
from anima.act.stability import policy_bend
from anima.circuit.predictive import Predictive
from anima.core.types import Result
from anima.learn.assigners import bend, nudge_bound, response
from anima.learn.costs import Huber
from anima.settle.settle import settle
from anima.settle.solvers import Euler


@pytest.fixture
def circuit(getkey):
    """A linear circuit 2-3-2, whose energy is a quadratic form."""
    return Predictive.mlp([2, 3, 2], activation="identity", key=getkey())


@pytest.fixture
def clamp(getkey):
    return {"input": jax.random.normal(getkey(), (2,))}


def weights(circuit, name):
    return jax.tree.leaves(circuit.synapses[name])[0]


def test_the_response_of_a_linear_circuit_is_its_output_covariance(circuit, clamp):
    """S = Sigma_out + W^T Sigma_hidden W, and so does the output move under a force."""
    free = circuit.start(clamp)
    found = jax.jit(partial(response, circuit))(clamp, free)
    last = weights(circuit, "h1->output")
    assert np.allclose(found, np.eye(2) + last.T @ last)
    force = jnp.asarray([0.3, -0.2])
    rules = dict(nudge=1.0, solver=Euler(0.1), tol=1e-10, max_steps=2000)
    pulled = jax.jit(lambda clamp: settle(circuit, clamp, cost=lambda y: -y @ force, **rules))(
        clamp
    )
    assert np.allclose(pulled.state["output"] - free["output"], force @ found, atol=1e-8)


@pytest.mark.parametrize(("factor", "result"), [(0.9, Result.CONVERGED), (1.3, Result.NONFINITE)])
def test_a_gaussian_policy_settles_below_the_bound_and_diverges_above(
    circuit, clamp, factor, result
):
    head, advantage = Gaussian(2, log_std=-0.2), jnp.asarray(-0.8)
    cost = partial(PolicyGradient(head), Deed(jnp.asarray([1.0, 0.5]), advantage))
    answer = jax.jit(lambda clamp: response(circuit, clamp, circuit.start(clamp)))(clamp)
    bound = nudge_bound(policy_bend(head, advantage), answer)
    known = np.exp(-0.4) / (0.8 * np.linalg.eigvalsh(np.asarray(answer))[-1])
    assert float(bound) == pytest.approx(known)
    rules = dict(nudge=factor * bound, solver=Euler(0.2), tol=1e-6, max_steps=200_000)
    ended = jax.jit(lambda clamp: settle(circuit, clamp, cost=cost, **rules))(clamp)
    assert int(ended.result) == result


def test_the_bend_of_a_policy_bounds_the_bend_of_its_cost(getkey):
    for head in (Gaussian(2, log_std=0.4), Categorical(3)):

        @jax.jit
        @jax.vmap
        def bends(params, key, advantage, head=head):
            deed = Deed(head.sample(params, key), advantage)
            return bend(partial(PolicyGradient(head), deed), params), policy_bend(head, advantage)

        advantages = jnp.asarray([-1.5, 1.5] * 10)
        params = 2 * jax.random.normal(getkey(), (20, head.width))
        here, most = bends(params, jax.random.split(getkey(), 20), advantages)
        assert jnp.all(here <= most + 1e-12)
        assert jnp.array_equal(most > 0, advantages < 0)


def test_the_categorical_bend_is_reached_between_two_equal_choices():
    deed = Deed(jnp.asarray(0), jnp.asarray(-3.0))
    here = jax.jit(partial(bend, partial(PolicyGradient(Categorical(2)), deed)))(jnp.zeros(2))
    assert float(here) == pytest.approx(1.5)
    assert float(policy_bend(Categorical(2), deed.advantage)) == pytest.approx(1.5)


def test_convex_costs_may_nudge_as_they_like(getkey):
    """Huber TD, and any policy of a positive advantage or none."""
    unit = jnp.eye(2)
    huber = jax.jit(partial(bend, partial(Huber(), jnp.zeros(2))))
    assert float(nudge_bound(huber(3 * jnp.ones(2)), unit)) == np.inf
    assert float(nudge_bound(huber(jnp.ones(2) / 3), unit)) == np.inf
    assert float(nudge_bound(policy_bend(Categorical(2), jnp.asarray(2.0)), unit)) == np.inf
    assert float(nudge_bound(policy_bend(Gaussian(2), jnp.asarray(0.0)), unit)) == np.inf


@pytest.mark.parametrize("advantage", [-0.1, 0.1])
def test_no_nudge_is_safe_where_sigma_depends_on_the_state(advantage):
    assert float(nudge_bound(policy_bend(Gaussian(2), jnp.asarray(advantage)), jnp.eye(2))) == 0
