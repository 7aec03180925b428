"""Activation functions by name, so that a TOML file and a Python caller mean the same thing."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from anima.core.errors import InputError, pick

Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def identity(z: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """z"""
    return z


def hard_sigmoid(z: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """min(max(z, 0), 1): the projection onto [0, 1]."""
    return jnp.clip(z, 0, 1)


ACTIVATIONS: dict[str, Activation] = {
    "identity": identity,
    "hard_sigmoid": hard_sigmoid,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
}


def activation(given: str | Activation) -> Activation:
    """Returns an activation from its name or from itself.

    **Raises:** `InputError` for an unknown name or something that cannot be called.
    """
    if isinstance(given, str):
        return pick("activation", given, ACTIVATIONS)
    if not callable(given):
        raise InputError(f"activation must be a name or a function, not {given!r}")
    return given
