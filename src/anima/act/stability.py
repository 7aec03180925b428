"""How far a policy's cost bends downwards: what `learn.nudge_bound` needs to know of it."""

import jax.numpy as jnp

from anima.act.heads import AbstractHead
from anima.core.types import Scalar


def policy_bend(head: AbstractHead, advantage: Scalar) -> Scalar:
    """How far -A log pi bends downwards at most, whatever the output and the action.

    For A < 0: |A|/sigma^2 for a Gaussian of fixed sigma, |A|/2 for a categorical head. Infinite
    where sigma depends on the state: then only a linearised target is safe.
    """
    low, high = head.curvature()
    worst = jnp.where(advantage < 0, high, jnp.maximum(-low, 0.0))
    return jnp.where((worst == 0) | (advantage == 0), 0.0, jnp.abs(advantage) * worst)
