"""A world model that is learnt while it is used: any circuit, any assigner, one step at a time.

Clamp what is seen and what is done, and let the *change* settle; reality then nudges it, and the
synapses move at once:

    [normal(o_t), code(a_t)] -> normal(o_{t+1} - o_t)

Observations and changes are normalised by their running moments. An ensemble of K circuits, each
from its own draw and its own batches, tells what it does not know yet by where it disagrees.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anima.act.plan import Code, information_gain
from anima.circuit.circuit import AbstractCircuit
from anima.core.types import Scalar
from anima.learn.assigners import AbstractAssigner, Info
from anima.learn.costs import SquaredError
from anima.learn.learner import Learner, LearnerState
from anima.world.env import Moments, Spec, Transition


class Belief(eqx.Module):
    """An imagined state: what would be seen, and what coming there would teach (nats)."""

    seen: Float[Array, " n"]
    gain: Scalar


class ModelState(eqx.Module):
    """K circuits and their optimiser's memories, and the moments of what was seen and of how it
    changed."""

    circuits: AbstractCircuit
    memory: optax.OptState
    seen: Moments
    moved: Moments


class WorldModel(eqx.Module):
    """How changes of one world are foreseen and learnt.

    - `draw`: makes a circuit from a key; `assigner`, `optimiser`: what learns it.
    - `boldness`: what the synapses that lead to the output are multiplied with at birth. What
      a newborn circuit says of states that it never sees it says forever; so it should say little.
    - `members`: K. - `noise`: the standard deviation, in that of the changes, of what would
      remain unpredictable: disagreement well below it teaches nothing.
    """

    spec: Spec = eqx.field(static=True)
    draw: Callable[[PRNGKeyArray], AbstractCircuit] = eqx.field(static=True)
    assigner: AbstractAssigner
    optimiser: optax.GradientTransformation = eqx.field(static=True)
    boldness: float = eqx.field(static=True)
    members: int = eqx.field(static=True)
    noise: float = eqx.field(static=True)

    def init(self, key: PRNGKeyArray) -> ModelState:
        """K newborn circuits that have seen nothing."""
        draw = lambda key: _modest(self.draw(key), self.boldness)
        circuits = jax.vmap(draw)(jax.random.split(key, self.members))
        memory = jax.vmap(lambda circuit: self.optimiser.init(circuit.parameters()[0]))(circuits)
        none = Moments.empty(self.spec.observation)
        return ModelState(circuits, memory, none, none)

    def foresee(
        self, state: ModelState, seen: Float[Array, " n"], code: Code
    ) -> Float[Array, "K n"]:
        """The normalised change that each member settles on."""
        question = self._question(state, seen, code)
        return jax.vmap(self._change, (0, None))(state.circuits, question)

    def imagine(self, state: ModelState, belief: Belief, code: Code) -> Belief:
        """Where an action leads: the members' mean, and what they would learn from seeing it."""
        changes = self.foresee(state, belief.seen, code)
        seen = belief.seen + state.moved.restore(jnp.mean(changes, 0))
        gain = information_gain(changes, self.noise) if self.members > 1 else jnp.zeros(())
        return Belief(seen, gain)

    def surprise(self, state: ModelState, past: Transition) -> Scalar:
        """1/2 |change - foreseen|^2 of one transition, the members' mean: the energy that reality
        adds to what they settled on."""
        code = self.spec.action.code(past.action)
        changes = self.foresee(state, past.observation, code)
        target = state.moved.normalise(past.following - past.observation)
        return jnp.mean(jax.vmap(lambda change: SquaredError()(target, change))(changes))

    def noticed(self, state: ModelState, past: Transition) -> ModelState:
        """With the moments of one transition more."""
        change = past.following - past.observation
        return ModelState(
            state.circuits,
            state.memory,
            state.seen.seen(past.observation[None]),
            state.moved.seen(change[None]),
        )

    def learnt(
        self, state: ModelState, past: Transition, clock: Int[Array, ""], key: PRNGKeyArray
    ) -> tuple[ModelState, Info]:
        """One update of every member.

        **Arguments:** `past`, transitions with leading axes (K, batch); `clock`, for schedules.

        **Returns:** the state, and an `Info` with a leading axis of K.
        """
        inputs, targets = self.examples(state, past)

        def one(circuit, memory, inputs, targets):
            before = LearnerState(circuit, memory, clock, key)
            after, info = self.learner(circuit).step(before, ({"input": inputs}, targets))
            return after.circuit, after.optimiser, info

        circuits, memory, info = jax.vmap(one)(state.circuits, state.memory, inputs, targets)
        return ModelState(circuits, memory, state.seen, state.moved), info

    def believed(
        self, state: ModelState, seen: Float[Array, "K count n"], code: Float[Array, "K count m"]
    ) -> Float[Array, "K count n"]:
        """Where each member believes that actions lead, each from places of its own."""
        question = self._question(state, seen, code)
        changes = jax.vmap(jax.vmap(self._change, (None, 0)))(state.circuits, question)
        return seen + state.moved.restore(changes)

    def examples(
        self, state: ModelState, past: Transition
    ) -> tuple[Float[Array, "*batch i"], Float[Array, "*batch n"]]:
        """What circuits read of transitions, and what they should have settled on."""
        code = self.spec.action.code(past.action)
        target = state.moved.normalise(past.following - past.observation)
        return self._question(state, past.observation, code), target

    def ahead(
        self, state: ModelState, seen: Float[Array, "k n"], past: Transition
    ) -> Float[Array, "k n"]:
        """Imagined states moved on by what was done in one transition, each at most 1000 standard
        deviations from what then was seen."""
        code, most = self.spec.action.code(past.action), 1e3 * state.seen.deviation
        move = lambda seen: self.imagine(state, Belief(seen, jnp.zeros(())), code).seen
        return jnp.clip(jax.vmap(move)(seen), past.following - most, past.following + most)

    def learner(self, circuit: AbstractCircuit) -> Learner:
        """What updates one member."""
        return Learner(circuit, self.assigner, SquaredError(), self.optimiser)

    def _change(self, circuit: AbstractCircuit, question: Float[Array, " i"]) -> Float[Array, " n"]:
        """The normalised change that one member settles on."""
        return self.assigner.predict(circuit, {"input": question}).state["output"]

    def _question(
        self, state: ModelState, seen: Float[Array, "*batch n"], code: Float[Array, "*batch m"]
    ) -> Float[Array, "*batch i"]:
        return jnp.concatenate([state.seen.normalise(seen), code], -1)


def _modest(circuit: AbstractCircuit, share: float) -> AbstractCircuit:
    """The circuit with `share` of the synapses that lead to its output."""
    synapses = {
        name: jax.tree.map(lambda w: share * w, synapse) if name.endswith("->output") else synapse
        for name, synapse in circuit.synapses.items()  # type: ignore[attr-defined]
    }
    return dataclasses.replace(circuit, synapses=synapses)
