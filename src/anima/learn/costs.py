"""Costs: what an output is worth, for one example. Any differentiable function will do."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from anima.core.errors import check_positive
from anima.core.types import Scalar


class AbstractCost(eqx.Module):
    """A cost with a target. `functools.partial(cost, target)` is what assigners take."""

    @abstractmethod
    def __call__(self, target: Any, output: Float[Array, "..."]) -> Scalar:
        """The cost of `output` given `target`: what was wanted there, of the output's shape.

        An agent's cost takes another target: what is known of one transition (`act/objectives.py`).
        """


class SquaredError(AbstractCost):
    """C = 1/2 |y - t|^2."""

    def __call__(self, target: Float[Array, "..."], output: Float[Array, "..."]) -> Scalar:
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

    def __call__(self, target: Float[Array, " k"], output: Float[Array, " k"]) -> Scalar:
        return -jnp.sum(target * jax.nn.log_softmax(self.kappa * output)) / self.kappa


COSTS = {"squared": SquaredError, "cross_entropy": CrossEntropy}
