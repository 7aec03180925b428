"""How hard an output may be nudged: E + beta C must stay convex where the circuit settled."""

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import InputError
from anima.core.types import Cost, Result, State


def nudge_bound(circuit: AbstractCircuit, state: State, clamp: State, cost: Cost) -> float:
    """The largest beta for which S^-1 + beta C'' is positive definite at a free equilibrium.

    S = [(d2E/dz2)^-1]_output,output is the covariance that the circuit ascribes to its output (for
    predictive circuits Sigma_out + sum_k J_k Sigma_k J_k^T). A cost that is concave in some
    direction, such as a policy's log-probability times a negative advantage, pushes the output
    away without limit beyond 1 / lambda_max(-S C''). It builds whole Hessians: a diagnostic.

    **Arguments:** `state`, where the free phase ended; `clamp`, what was clamped in it.

    **Returns:** the bound for beta > 0; infinite for convex costs, 0 where E itself is not convex.
    """
    covariance = ascribed(circuit, state, clamp)
    if not bool(jnp.all(jnp.linalg.eigvalsh(covariance) > 0)):
        return 0.0
    output = state["output"]
    bend = jax.hessian(lambda y: cost(y.reshape(output.shape)))(output.ravel())
    root = jnp.linalg.cholesky(covariance)
    steepest = -float(jnp.min(jnp.linalg.eigvalsh(root.T @ bend @ root)))
    return 1 / steepest if steepest > 0 else float("inf")


def ascribed(circuit: AbstractCircuit, state: State, clamp: State) -> Float[Array, "n n"]:
    """S: how far the output gives way to a force on it, everything else following."""
    free = {name: value for name, value in state.items() if name not in clamp}
    flat, unravel = ravel_pytree(free)
    stiff = jax.hessian(lambda flat: circuit.energy({**clamp, **unravel(flat)}))(flat)
    which = {name: jnp.full(jnp.shape(z), name == "output") for name, z in free.items()}
    (index,) = jnp.nonzero(ravel_pytree(which)[0])
    return jnp.linalg.inv(stiff)[jnp.ix_(index, index)]


def refuse_unstable(
    assigner, circuit: AbstractCircuit, clamp: State, cost: Cost, result: Int[Array, ""]
) -> None:
    """Raises `InputError` with the bound, if the result is at hand and says that a nudge ran away.

    Under `jax.jit` it is not at hand: there `Info.result` carries the same news.
    """
    if isinstance(result, Tracer) or int(result) != Result.UNSTABLE:
        return
    free = assigner.predict(circuit, clamp)
    bound = nudge_bound(circuit, free.state, clamp, cost)
    raise InputError(
        f"{type(assigner).__name__}: the nudge ran away; this cost on this circuit is stable up to "
        f"{bound:.3g} (and more steps may be needed near it): nudge less, or linearise the cost"
    )
