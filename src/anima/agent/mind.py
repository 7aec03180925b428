"""The protocol of an agent's mind: pure functions of its state, so that a whole life compiles."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit
from anima.core.types import Given, Scalar
from anima.learn.assigners import AbstractAssigner, Backprop
from anima.learn.costs import AbstractCost, SquaredError
from anima.learn.learner import Learner
from anima.world.env import Spec, Transition

Chart = dict[str, Scalar]
"""What a chart needs of one learning: numbers by name. `result` is the worst `Result` code."""

Charts = Mapping[str, Inexact[Given, "..."]]
"""Charts of several lives, or of one after another's learning, along leading axes."""


class AbstractMind(eqx.Module):
    """What an agent knows how to do, without its memories: those are the state.

    A mind lives in `worlds` worlds side by side. It acts for `every` steps in each and then
    learns from what happened, again and again. So an agent that replays old transitions and one
    that learns from whole rollouts are the same loop with another `every`.
    """

    spec: eqx.AbstractVar[Spec]
    every: eqx.AbstractVar[int]
    worlds: eqx.AbstractVar[int]

    @abstractmethod
    def init(self, key: PRNGKeyArray) -> Any:
        """The state at birth, a pytree of arrays."""

    @abstractmethod
    def act(self, state: Any, observation: Float[Array, "worlds n"], key: PRNGKeyArray) -> Array:
        """What to do in each world, exploring."""

    @abstractmethod
    def choose(self, state: Any, observation: Float[Array, "worlds n"]) -> Array:
        """The best action known in each world, without exploring."""

    def thought(self) -> Any:
        """What is on its mind as an episode begins, a pytree of arrays; none by default."""
        return None

    def afresh(self, worlds: int) -> Any:
        """What is on its mind in so many worlds whose episodes begin."""
        wide = lambda leaf: jnp.broadcast_to(leaf, (worlds, *jnp.shape(leaf)))
        return jax.tree.map(wide, self.thought())

    def decide(
        self,
        state: Any,
        thought: Any,
        observation: Float[Array, "worlds n"],
        key: PRNGKeyArray,
        *,
        explore: bool,
    ) -> tuple[Array, Any]:
        """What to do in each world, and what it has in mind from then on.

        A mind that plans, or that infers what it does not see, carries a thought from one moment
        of an episode to the next, one a world. Default: the present decides alone (`act` if it
        is to explore, else `choose`).
        """
        act = self.act(state, observation, key) if explore else self.choose(state, observation)
        return act, thought

    @abstractmethod
    def learn(self, state: Any, happened: Transition, key: PRNGKeyArray) -> tuple[Any, Chart]:
        """The state after `happened`, whose fields lead with (every, worlds)."""

    @abstractmethod
    def alignment(self, state: Any, key: PRNGKeyArray) -> Chart:
        """`alignment`, the cosine of the assigned credit and backprop's, on a batch remembered."""

    @abstractmethod
    def circuits(self, state: Any) -> dict[str, AbstractCircuit]:
        """What is learnt, by name; the one that acts is `actor`, as it is when it is judged."""

    def worth(
        self, state: Any, observation: Float[Array, "rows n"]
    ) -> Float[Array, " rows"] | None:
        """The return that it expects from each observation on, in the units in which it learns;
        `None` (the default) if it values no states."""
        return None

    @property
    def cycle(self) -> int:
        """Environment steps from one learning to the next."""
        return self.every * self.worlds


def alignment(
    circuit: AbstractCircuit,
    assigner: AbstractAssigner,
    inputs: Float[Array, "batch n"],
    targets: Any,
    key: PRNGKeyArray,
    cost: AbstractCost | None = None,
) -> Scalar:
    """The cosine of an assigner's credit for a batch and what backprop gives the same circuit.

    **Arguments:** `cost`, by default `SquaredError`; `targets`, what it takes.
    """
    keys = jax.random.split(key, inputs.shape[0])

    def credit(assigner: AbstractAssigner) -> AbstractCircuit:
        learner = Learner(circuit, assigner, cost or SquaredError(), optax.identity())
        return learner.gradient(circuit, {"input": inputs}, targets, keys)[0]

    return cosine(credit(assigner), credit(Backprop()))


def cosine(one: Any, other: Any) -> Scalar:
    """The cosine of the angle between two gradients, over the synapses and biases of both."""
    dot = lambda a, b: sum(
        (jnp.sum(x * y) for x, y in zip(_flat(a), _flat(b), strict=True)), jnp.zeros(())
    )
    size = jnp.sqrt(dot(one, one) * dot(other, other))
    return dot(one, other) / jnp.maximum(size, 1e-30)


def only_if(condition: Array, new: Any, old: Any) -> Any:
    """`new` where the condition holds, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def arrays(state: Any) -> Any:
    """A state whose plain numbers are arrays too, so that a loop finds it as it left it."""
    real = lambda leaf: isinstance(leaf, float) and not isinstance(leaf, bool)
    return jax.tree.map(lambda x: jnp.asarray(x, float) if real(x) else jnp.asarray(x), state)


def _flat(circuit: Any) -> list[Array]:
    return jax.tree.leaves((circuit.synapses, circuit.biases))
