"""What agents are made of: a circuit that learns, and how it sees its world."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from anima.agent.body import body
from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import InputError, check_positive
from anima.learn.assigners import AbstractAssigner, Info
from anima.learn.costs import AbstractCost
from anima.learn.learner import Learner, LearnerState
from anima.learn.optimisers import optimiser
from anima.world.env import Continuous, Moments, Spec


class Faculty(eqx.Module):
    """A circuit that learns: how it is drawn from a key, what teaches it, how its synapses move.

    Inputs and targets are batches; costs are chosen at each use, so that one circuit may be a
    policy, a value or anything else.
    """

    draw: Callable[[PRNGKeyArray], AbstractCircuit] = eqx.field(static=True)
    assigner: AbstractAssigner
    optimiser: optax.GradientTransformation = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        assigner: str | AbstractAssigner,
        sizes: Sequence[int],
        circuit: dict[str, Any] | None,
        credit: dict[str, Any] | None,
        **learning: Any,
    ) -> "Faculty":
        """**Arguments:** as for `body`; `learning`, those of `anima.optimiser`."""
        draw, made = body(assigner, sizes, circuit, credit)
        return cls(draw, made, optimiser(draw(jax.random.key(0)), **learning))

    def init(self, key: PRNGKeyArray) -> LearnerState:
        """A circuit at birth, with the memory of its optimiser."""
        drawn, learning = jax.random.split(key)
        return Learner(self.draw(drawn), self.assigner, _NOTHING, self.optimiser).init(learning)

    def ask(self, circuit: AbstractCircuit, inputs: Float[Array, "batch n"]) -> Array:
        """The circuit's answers, (batch, outputs)."""
        predict = lambda x: self.assigner.predict(circuit, {"input": x}).state["output"]
        return jax.vmap(predict)(inputs)

    def learn(
        self, state: LearnerState, cost: AbstractCost, inputs: Float[Array, "batch n"], targets: Any
    ) -> tuple[LearnerState, Info]:
        """One update by the mean cost of a batch; `targets` is what the cost takes."""
        learner = Learner(state.circuit, self.assigner, cost, self.optimiser)
        return learner.step(state, ({"input": inputs}, targets))

    def pressure(
        self, circuit: AbstractCircuit, inputs: Float[Array, "batch n"], key: PRNGKeyArray
    ) -> Float[Array, "batch n"]:
        """d output / d input for each input of a circuit with one output, as its assigner tells."""
        keys = jax.random.split(key, inputs.shape[0])
        worth = lambda output: jnp.sum(output)

        def one(x: Array, key: PRNGKeyArray) -> Array:
            return self.assigner.pressure(circuit, {"input": x}, worth, key=key)["input"]

        return jax.vmap(one)(inputs, keys)


class Senses(eqx.Module):
    """Observations as circuits read them: divided by `scale`, and normalised if they are to be.

    `normalise`: whether the running mean and deviation are taken out as well.
    """

    scale: tuple[float, ...] = eqx.field(static=True)
    normalise: bool = eqx.field(static=True)

    @classmethod
    def of(cls, spec: Spec, scale: Sequence[float], normalise: bool) -> "Senses":
        """**Arguments:** `scale`, one divisor per number of an observation (none: 1).

        **Raises:** `InputError` for another number of them, or one that is not positive.
        """
        scale = tuple(map(float, scale)) or (1.0,) * spec.observation
        if len(scale) != spec.observation:
            raise InputError(
                f"scale has {len(scale)} numbers, {spec.name} shows {spec.observation}: give one "
                "each"
            )
        check_positive("scale", **{f"number {i + 1}": value for i, value in enumerate(scale)})
        return cls(scale, normalise)

    def look(self, moments: Moments, observation: Float[Array, "*rows n"]) -> Array:
        """What the circuits read."""
        scaled = observation / jnp.asarray(self.scale)
        return moments.normalise(scaled) if self.normalise else scaled

    def seen(self, moments: Moments, observation: Float[Array, "*rows n"]) -> Moments:
        """The moments with some observations more."""
        scaled = observation / jnp.asarray(self.scale)
        return moments.seen(scaled.reshape(-1, observation.shape[-1]))


class _Nothing(AbstractCost):
    """Costs nothing. A circuit is born before it is known what it will be judged by."""

    def __call__(self, target: Any, output: Array) -> Array:
        return jnp.zeros(())


_NOTHING = _Nothing()


def check_counts(least: int = 1, /, **numbers: Any) -> None:
    """Raises `InputError` unless all are whole numbers from `least` on."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            raise InputError(f"{name} is {value!r}: it must be a whole number from {least} on")


def steered(agent: str, spec: Spec) -> Continuous:
    """The box of actions of a world of continuous control.

    **Raises:** `InputError` for a world of finitely many actions.
    """
    if not isinstance(spec.action, Continuous):
        raise InputError(
            f"{agent} steers by continuous actions, {spec.name} takes {spec.action}: use dqn, ppo, "
            "reinforce or angc"
        )
    return spec.action
