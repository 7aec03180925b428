"""What arrives at a clamped node is d cost / d clamp: autodiff's where the rule is exact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima import NGC, Euler, EvenOdd, Hopfield, InputError, Predictive
from anima.learn.assigners import (
    ZIL,
    AbstractAssigner,
    Backprop,
    EquilibriumPropagation,
    FixedPrediction,
    IncrementalPC,
    NGCRule,
    PredictiveCoding,
    swept,
)
from anima.learn.costs import SquaredError

SIZES = (4, 6, 5, 2)
LONG = dict(solver=Euler(0.2), max_steps=600)


def _predictive():
    return Predictive.mlp(SIZES, key=jax.random.key(1))


def _ngc():
    tied = dict(tied=True, gate=True, rate_error=False, leak=0.0, sigma=None, bias=True)
    return NGC.mlp(SIZES, **tied, key=jax.random.key(1))


def _question():
    random = np.random.default_rng(0)
    return {"input": jnp.asarray(random.normal(size=4))}, jnp.asarray(random.normal(size=2))


def _felt(assigner, circuit):
    clamp, target = _question()
    cost = partial(SquaredError(), target)
    key = jax.random.key(0)
    found = jax.jit(lambda c: assigner.pressure(circuit, c, cost, key=key))(clamp)
    return found["input"], jax.grad(lambda c: cost(assigner.answer(circuit, c)))(clamp)["input"]


@pytest.mark.parametrize(
    ("assigner", "build", "gap"),
    [
        (Backprop(), _predictive, 1e-12),
        (FixedPrediction(), _predictive, 1e-12),
        (ZIL(), _predictive, 1e-12),
        (PredictiveCoding(step=1e-4, **LONG), _predictive, 1e-6),
        (PredictiveCoding(step=1e-4, teach="energy", **LONG), _predictive, 1e-6),
        (IncrementalPC(step=1e-4, solver=Euler(0.2), count=600), _predictive, 1e-6),
        (NGCRule(step=1e-4, **LONG), _ngc, 1e-6),
    ],
)
def test_pressure_is_autodiffs_slope(assigner, build, gap):
    found, true = _felt(assigner, build())
    np.testing.assert_allclose(found, true, atol=gap, rtol=0)
    assert np.abs(true).max() > 0.1


@pytest.mark.parametrize(
    "scheme",
    ["centred", *(pytest.param(s, marks=pytest.mark.slow) for s in ("one_sided", "random_sign"))],
)
def test_pressure_of_equilibria_is_the_slope_at_the_fixed_point(scheme):
    circuit = Hopfield.mlp(SIZES, key=jax.random.key(2))
    settled = dict(solver=EvenOdd(), free_steps=200, nudged_steps=200)
    rule = EquilibriumPropagation(beta=1e-4, scheme=scheme, **settled)
    found, true = _felt(rule, circuit)
    np.testing.assert_allclose(found, true, rtol=0, atol=1e-3 if scheme != "centred" else 1e-7)
    assert np.abs(true).max() > 1e-2


def test_the_error_of_predictive_coding_falls_as_the_step_squared():
    gaps = []
    for step in (0.2, 0.1, 0.05):
        found, true = _felt(PredictiveCoding(step=step, **LONG), _predictive())
        gaps.append(np.abs(found - true).max())
    np.testing.assert_allclose(np.asarray(gaps[:-1]) / gaps[1:], 4, rtol=0.1)


def test_a_rule_that_has_no_pressure_says_so():
    class Mute(AbstractAssigner):
        def predict(self, circuit, clamp):
            return swept(circuit, clamp)

        def objective(self, circuit, clamp, cost, *, key):
            raise NotImplementedError

    with pytest.raises(InputError, match="Mute tells clamped nodes nothing"):
        Mute().pressure(_predictive(), {}, lambda y: jnp.sum(y), key=jax.random.key(0))
