"""Costs: what an output is worth, for one example. Any differentiable function will do."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from anima.core.errors import InputError, check_positive
from anima.core.types import Cost, Given, Scalar


class AbstractCost(eqx.Module):
    """A cost with a target. `functools.partial(cost, target)` is what assigners take."""

    @abstractmethod
    def __call__(self, target: Any, output: Inexact[Given, "..."]) -> Scalar:
        """The cost of `output` given `target`: what was wanted there, of the output's shape.

        An agent's cost takes another target: what is known of one transition (`act/objectives.py`).
        """


class SquaredError(AbstractCost):
    """C = 1/2 |y - t|^2."""

    def __call__(self, target: Float[Given, "..."], output: Inexact[Given, "..."]) -> Scalar:
        return jnp.sum((output - target) ** 2) / 2


class CrossEntropy(AbstractCost):
    """C = -sum_k t_k log softmax(kappa y)_k / kappa, with inverse temperature kappa.

    Its gradient is softmax(kappa y) - t whatever kappa is. A large kappa lets small logits be
    decisive: with kappa = 1 the logits must grow, and the weights of a symmetric network with
    them, until its energy is bistable and learning collapses.
    """

    kappa: float = 1.0

    def __check_init__(self):
        check_positive("CrossEntropy", kappa=self.kappa)

    def __call__(self, target: Float[Given, " k"], output: Inexact[Given, " k"]) -> Scalar:
        logits = self.kappa * output
        highest = jax.lax.stop_gradient(jnp.max(jnp.real(logits)))
        total = highest + jnp.log(jnp.sum(jnp.exp(logits - highest)))
        return -jnp.sum(target * (logits - total)) / self.kappa


class Huber(AbstractCost):
    """C = sum_i h(y_i - t_i), h(d) = d^2/2 up to |d| = delta, delta (|d| - delta/2) beyond.

    A squared error whose pull is bounded, as temporal differences want it (Huber, 1964).
    """

    delta: float = 1.0

    def __check_init__(self):
        check_positive("Huber", delta=self.delta)

    def __call__(self, target: Float[Given, "..."], output: Inexact[Given, "..."]) -> Scalar:
        size = jnp.abs(output - target)
        inner = jnp.minimum(size, self.delta)
        return jnp.sum(inner * (size - inner / 2))


def check_cost(cost: Cost, output: Inexact[Array, "..."]) -> None:
    """Raises `InputError` unless `cost` is a differentiable scalar of an output like this one."""
    name = getattr(cost, "__name__", type(cost).__name__)
    try:
        value = jax.eval_shape(cost, output)
        shape, kind = jnp.shape(value), jnp.result_type(value)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the cost {name} failed on an output of shape {output.shape}: {error}. A cost is a "
            "function of the output node's activity alone, written in jax.numpy"
        ) from error
    if shape != ():
        raise InputError(f"the cost {name} gives shape {shape}: it must be a scalar (sum it)")
    if not jnp.issubdtype(kind, jnp.inexact):
        raise InputError(f"the cost {name} gives {kind}: it must be a differentiable float")


COSTS = {"squared": SquaredError, "cross_entropy": CrossEntropy, "huber": Huber}
