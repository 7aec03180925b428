"""Activation functions by name, so that a TOML file and a Python caller mean the same thing."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from anima.core.errors import InputError, pick

Activation = Callable[[Inexact[Array, "..."]], Inexact[Array, "..."]]


def identity(z: Inexact[Array, "*n"]) -> Inexact[Array, "*n"]:
    """z"""
    return z


def hard_sigmoid(z: Inexact[Array, "*n"]) -> Inexact[Array, "*n"]:
    """min(max(z, 0), 1): the projection onto [0, 1]."""
    return jnp.clip(z, 0, 1)


def tanh(z: Inexact[Array, "*n"]) -> Inexact[Array, "*n"]:
    """tanh z"""
    return jnp.tanh(z)


def sigmoid(z: Inexact[Array, "*n"]) -> Inexact[Array, "*n"]:
    """1 / (1 + exp(-z))"""
    return jax.nn.sigmoid(z)


def relu(z: Inexact[Array, "*n"]) -> Inexact[Array, "*n"]:
    """max(z, 0)"""
    return jnp.maximum(z, 0)


def leaky_relu(z: Inexact[Array, "*n"]) -> Inexact[Array, "*n"]:
    """max(z, z / 100)"""
    return jnp.maximum(z, z / 100)


def gelu(z: Inexact[Array, "*n"]) -> Inexact[Array, "*n"]:
    """z Phi(z), Phi the normal distribution function, in its tanh form"""
    return jax.nn.gelu(z)


def silu(z: Inexact[Array, "*n"]) -> Inexact[Array, "*n"]:
    """z / (1 + exp(-z))"""
    return jax.nn.silu(z)


def softplus(z: Inexact[Array, "*n"]) -> Inexact[Array, "*n"]:
    """log(1 + exp(z))"""
    return jax.nn.softplus(z)


# Functions of our own rather than JAX's: those cannot be pickled, and a circuit must be.
ACTIVATIONS: dict[str, Activation] = {
    function.__name__: function
    for function in (
        identity,
        hard_sigmoid,
        tanh,
        sigmoid,
        relu,
        leaky_relu,
        gelu,
        silu,
        softplus,
    )
}


def is_analytic(function: Activation) -> bool:
    """Whether a function extends to complex numbers: all but those with a corner."""
    return function not in (hard_sigmoid, relu, leaky_relu)


def activation(given: str | Activation) -> Activation:
    """Returns an activation from its name or from itself.

    **Raises:** `InputError` for an unknown name or something that cannot be called.
    """
    if isinstance(given, str):
        return pick("activation", given, ACTIVATIONS)
    if not callable(given):
        raise InputError(f"activation must be a name or a function, not {given!r}")
    return given
