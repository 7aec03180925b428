"""How a settling can end, and activations by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.core.errors import InputError
from anima.core.functions import ACTIVATIONS, activation, identity
from anima.core.types import Result, worst


def test_every_result_has_a_message_and_they_differ():
    messages = {result.message for result in Result}
    assert len(messages) == len(Result) == 4
    assert "dt" in Result.NONFINITE.message and "max_steps" in Result.MAX_STEPS.message


def test_worst_is_the_gravest():
    codes = [Result.CONVERGED, Result.NONFINITE, Result.MAX_STEPS]
    one, *rest = (jnp.asarray(code, jnp.int32) for code in codes)
    assert int(worst(one, jnp.stack(rest))) == Result.NONFINITE
    assert int(worst(one, rest[1])) == Result.MAX_STEPS
    assert int(worst(one)) == Result.CONVERGED


def test_activations_by_name_and_by_function():
    assert activation("identity") is identity
    assert activation(jnp.sin) is jnp.sin
    at = jnp.asarray([-1.5, -0.5, 0.0, 0.5, 1.5])
    by_hand = {
        "identity": at,
        "hard_sigmoid": np.clip(at, 0, 1),
        "tanh": np.tanh(at),
        "sigmoid": 1 / (1 + np.exp(-at)),
        "relu": np.maximum(at, 0),
        "leaky_relu": np.where(at > 0, at, 0.01 * at),
        "silu": at / (1 + np.exp(-at)),
        "softplus": np.log1p(np.exp(at)),
        "gelu": jax.nn.gelu(at),
    }
    assert set(by_hand) == set(ACTIVATIONS)
    for name, want in by_hand.items():
        np.testing.assert_allclose(activation(name)(at), want, rtol=1e-12, atol=1e-15)


@pytest.mark.unchecked
def test_unknown_activations_are_refused():
    with pytest.raises(InputError, match="unknown activation 'tahn': did you mean 'tanh'"):
        activation("tahn")
    with pytest.raises(InputError, match="must be a name or a function, not 3"):
        activation(3)
