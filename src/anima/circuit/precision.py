"""Precision: the inverse covariance that weighs a node's prediction error."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from anima.core.types import Given, Scalar

Precision = float | Float[Given, "..."]
"""Sigma^-1: a number, a diagonal (n,), or a full symmetric (n, n)."""


def weigh(error: Inexact[Given, "..."], precision: Precision) -> Inexact[Array, "..."]:
    """eps Pi, for a scalar, a diagonal (n,) or a full (n, n) symmetric precision."""
    return (
        jnp.matmul(error, precision) if jnp.ndim(precision) == 2 else jnp.multiply(error, precision)
    )


def surprise(error: Inexact[Given, "..."], precision: Precision) -> Scalar:
    """1/2 eps Pi eps^T + 1/2 log|2 pi Sigma|: the Gaussian -log density of an error, in nats.

    **Arguments:** `error` of the node's shape; `precision` Pi = Sigma^-1, scalar, diagonal or full
    (the last only for one-dimensional nodes).
    """
    quadratic = jnp.sum(jnp.multiply(error, weigh(error, precision))) / 2
    if jnp.ndim(precision) == 2:
        logdet = jnp.linalg.slogdet(precision)[1]
    else:
        logdet = jnp.sum(jnp.broadcast_to(jnp.log(precision), jnp.shape(error)))
    return quadratic + (jnp.size(error) * jnp.log(2 * jnp.pi) - logdet) / 2


def largest(precision: Precision) -> Scalar:
    """An upper bound on the largest eigenvalue of a precision."""
    return (
        jnp.max(jnp.sum(jnp.abs(precision), -1)) if jnp.ndim(precision) == 2 else jnp.max(precision)
    )


def covariance_times(vector: Inexact[Array, "..."], precision: Precision) -> Inexact[Array, "..."]:
    """v Sigma, Sigma = Pi^-1."""
    if jnp.ndim(precision) == 2:
        return jnp.linalg.solve(precision, vector)
    return vector / precision
