"""The vocabulary: what a state, a clamp and a cost are, and how a settling can end."""

import enum
from collections.abc import Callable, Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact, Int, Key

State = dict[str, Inexact[Array, "..."]]
"""Node name -> the activity of ONE example (batches come from `jax.vmap`).

Real, but for the complex nudges of holomorphic equilibrium propagation."""

Given = Array | np.ndarray
"""An array as users have it: JAX's or NumPy's."""

Clamp = Mapping[str, Inexact[Given, "..."]]
"""Node name -> the activity it is held at, for one example."""

Scalar = Inexact[Array, ""]

Number = float | Scalar
"""A setting: a number, or one that `jax.vmap` runs over."""

Count = int | Int[Array, ""]
"""A number of steps, known or traced."""

Keys = Key[Array, " keys"]
"""Several random keys, in the new style (`jax.random.key`)."""

Cost = Callable[[Inexact[Array, "..."]], Scalar]
"""Any differentiable function of the output node's activity, for one example."""


class Result(enum.IntEnum):
    """How a settling ended. `Equilibrium.result` holds one of these as an integer array."""

    CONVERGED = 0
    MAX_STEPS = 1
    UNSTABLE = 2
    NONFINITE = 3

    @property
    def message(self) -> str:
        """What happened and what to do about it, in one line."""
        return _MESSAGES[self]


_MESSAGES = {
    Result.CONVERGED: "settled: the largest free force is within tol",
    Result.MAX_STEPS: "still moving after max_steps: raise max_steps or tol, or change the solver",
    Result.UNSTABLE: "the nudge ran away: reduce it, or linearise the cost",
    Result.NONFINITE: "diverged: reduce the solver's dt, the nudge, or the size of the weights",
}


class Equilibrium(eqx.Module):
    """Where a circuit settled.

    - `state`: every node's activity, clamped ones included.
    - `energy`: the circuit's own energy there, without the cost.
    - `residual`: the largest free force, max_i |project(z + force)_i - z_i|. First-class: a
      contrast of phases estimates a gradient only where this is small.
    - `steps`: solver steps taken.
    - `result`: a `Result` code.
    """

    state: State
    energy: Scalar
    residual: Scalar
    steps: Int[Array, ""]
    result: Int[Array, ""]


def worst(*results: Int[Array, "..."]) -> Int[Array, ""]:
    """The most serious of several result codes (they are ordered by gravity)."""
    return jnp.max(jnp.stack([jnp.max(r) for r in results]))
