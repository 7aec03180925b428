"""How hard an output may be nudged before the nudged energy loses its minimum.

Around a free minimum the output of a settling circuit answers a force f by S f, where S^-1 is the
energy's curvature in the output with the hidden nodes following. A nudge lambda C leaves a minimum
there as long as S^-1 + lambda C'' is positive definite; a cost that bends downwards by at most b
is therefore safe for lambda < 1/(b lambda_max(S)). Policy costs of a negative advantage do bend
downwards.
"""

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import InputError
from anima.core.types import Clamp, Cost, Result, Scalar, State


def response(circuit: AbstractCircuit, clamp: Clamp, state: State) -> Float[Array, "n n"]:
    """S: how far the settled output (flattened) moves per unit of force on it.

    The output's block of the inverse Hessian of the energy in the free nodes; for a linear
    predictive circuit Sigma_out + sum_k J_k Sigma_k J_k^T, the covariance it ascribes to its
    output. Bounds on activities are ignored, and can only make the response smaller. A diagnosis,
    not a local rule: it costs one Hessian and its inverse.

    **Arguments:** `clamp`, what is held; `state`, a full state, best a settled one.
    """
    clamped = circuit.check_clamp(clamp)
    free = {name: value for name, value in state.items() if name not in clamp}
    hidden = {name: value for name, value in free.items() if name != "output"}
    flat, unravel = ravel_pytree((hidden, free["output"]))

    def energy(flat):
        hidden, output = unravel(flat)
        return circuit.energy({**clamped, **hidden, "output": output})

    size = free["output"].size
    return jnp.linalg.inv(jax.hessian(energy)(flat))[-size:, -size:]


def bend(cost: Cost, output: Float[Array, "..."]) -> Scalar:
    """How far `cost` bends downwards at `output`: max(0, -smallest eigenvalue of C''). Local."""
    flat, unravel = ravel_pytree(output)
    hessian = jax.hessian(lambda y: cost(unravel(y)))(flat)
    return jnp.maximum(-jnp.linalg.eigvalsh(hessian)[0], 0.0)


def nudge_bound(bend: Scalar, response: Float[Array, "n n"]) -> Scalar:
    """Nudges lambda below 1/(bend lambda_max(S)) keep a minimum; infinite if the cost is convex.

    **Arguments:** `bend`, from `policy_bend` (holds everywhere) or `bend` (holds at one output);
    `response`, S. At A = 0 and an unbounded head the bound is infinite too: there is no cost.
    """
    return 1 / (bend * jnp.linalg.eigvalsh(response)[-1])


def refuse_unstable(
    assigner, circuit: AbstractCircuit, clamp: Clamp, cost: Cost, result: Int[Array, ""]
) -> None:
    """Raises `InputError`, if the result is at hand and says that a nudge ran away.

    With the bound, where one of the rule's `nudges` is beyond it. A phase that left the finite
    numbers though none is, or for want of a finite cost, is a result and no error. Under `jax.jit`
    the result is not at hand: there `Info.result` carries the same news.
    """
    if isinstance(result, Tracer) or int(result) not in (Result.UNSTABLE, Result.NONFINITE):
        return
    free = assigner.predict(circuit, clamp).state
    if not all(bool(jnp.all(jnp.isfinite(z))) for z in (*free.values(), cost(free["output"]))):
        return
    name, answer = type(assigner).__name__, response(circuit, clamp, free)
    for nudge in assigner.nudges:
        along = cost if nudge > 0 else lambda y: -cost(y)
        bound = float(nudge_bound(bend(along, free["output"]), answer))
        if abs(nudge) > bound:
            raise InputError(
                f"{name}: the nudge ran away; this cost on this circuit is stable up to "
                f"{bound:.3g}: nudge less, or linearise the cost"
            )
    if int(result) == Result.UNSTABLE:
        raise InputError(
            f"{name}: a nudged phase ran away, though no nudge is beyond what the free answer "
            "bears: take shorter steps, nudge less, or linearise the cost"
        )
