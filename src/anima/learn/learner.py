"""The learner: a circuit, an assigner, a cost and an optimiser become a step over batches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit, gradient
from anima.core.types import State, worst
from anima.learn.assigners import AbstractAssigner, Info
from anima.learn.costs import AbstractCost

Augment = Callable[[Float[Array, "..."], PRNGKeyArray], Float[Array, "..."]]
"""A random change of one input that keeps its meaning."""

_AUGMENT = 0x5EED  # keeps the stream of augmentation apart from the streams of the steps


class LearnerState(eqx.Module):
    """What resuming needs: the circuit, the optimiser's memory, the step count and the key."""

    circuit: AbstractCircuit
    optimiser: optax.OptState
    step: Int[Array, ""]
    key: PRNGKeyArray


class Learner(eqx.Module):
    """Learns a circuit from batches of (clamp, target).

    - `circuit`: as it is at birth.
    - `assigner`: turns the cost into credit. - `cost`: an `AbstractCost`.
    - `optimiser`: an optax transformation. Adam, batch means and norm clipping are not
      neuron-local; plain SGD is.
    - `noise`: node name -> probability that a unit falls silent, drawn per example and step and
      the same in all phases.

    >>> learner = Learner(circuit, EquilibriumPropagation(), SquaredError(), optax.sgd(0.1))
    >>> state = learner.init(jax.random.key(0))
    >>> step = learner.compiled()
    >>> state, info = step(state, ({"input": images}, targets))
    """

    circuit: AbstractCircuit
    assigner: AbstractAssigner
    cost: AbstractCost
    optimiser: optax.GradientTransformation = eqx.field(static=True)
    noise: tuple[tuple[str, float], ...] = eqx.field(static=True, default=())

    def __check_init__(self):
        self.circuit.silence(dict(self.noise), key=jax.random.key(0))

    def init(self, key: PRNGKeyArray) -> LearnerState:
        """The state before the first step, in memory of its own."""
        circuit, key = jax.tree.map(_copied, (self.circuit, key))
        learnt: Any = circuit.parameters()[0]
        return LearnerState(circuit, self.optimiser.init(learnt), jnp.zeros((), jnp.int32), key)

    def step(
        self, state: LearnerState, batch: tuple[State, Float[Array, "batch ..."]]
    ) -> tuple[LearnerState, Info]:
        """One update from one batch.

        **Arguments:** `batch`: a clamp whose arrays have a leading batch axis, and the targets.

        **Returns:** the new state, and an `Info`: batch means, the largest residual and steps,
        the worst result, and the outputs (batch, ...).
        """
        clamp, target = batch
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), target.shape[0])
        credit: Any  # a circuit, which is a pytree as optax wants
        learnt: Any
        credit, infos = self.gradient(state.circuit, clamp, target, keys)
        learnt, rest = state.circuit.parameters()
        updates, memory = self.optimiser.update(credit, state.optimiser, learnt)
        circuit = eqx.combine(eqx.apply_updates(learnt, updates), rest).normalise()
        return LearnerState(circuit, memory, state.step + 1, state.key), summary(infos)

    def compiled(self) -> Callable[[LearnerState, Any], tuple[LearnerState, Info]]:
        """`step`, compiled at its first call, writing each new state where the old one was.

        The state that is passed in is used up: keep the one that comes back. Fresh memory for
        every state would cost as much time as settling a small circuit.
        """
        still = eqx.filter(self.init(jax.random.key(0)), eqx.is_array, inverse=True)

        @partial(jax.jit, donate_argnums=0)
        def advance(moving, batch):
            state, info = self.step(eqx.combine(moving, still), batch)
            return eqx.filter(state, eqx.is_array), info

        def step(state, batch):
            moving, info = advance(eqx.filter(state, eqx.is_array), batch)
            return eqx.combine(moving, still), info

        return step

    def gradient(
        self,
        circuit: AbstractCircuit,
        clamp: State,
        target: Float[Array, "batch ..."],
        keys: PRNGKeyArray,
    ) -> tuple[AbstractCircuit, Info]:
        """The mean credit of a batch and each example's `Info`."""

        def one(circuit, clamp, target, key):
            silence, credit = jax.random.split(key)
            circuit = circuit.silence(dict(self.noise), key=silence)
            return self.assigner.objective(circuit, clamp, partial(self.cost, target), key=credit)

        def mean(circuit):
            values, infos = jax.vmap(partial(one, circuit))(clamp, target, keys)
            return jnp.mean(values), infos

        return gradient(mean, circuit)

    def sweep(
        self,
        state: LearnerState,
        inputs: Float[Array, "examples ..."],
        targets: Float[Array, "examples ..."],
        order: Int[Array, "steps batch"],
        augment: Augment | None = None,
    ) -> tuple[LearnerState, Info]:
        """One step per row of `order`, in one compiled scan: no transfer to the host within.

        **Arguments:** `inputs` of the input node's shape and `targets` of the output's, whole
        data sets; `order`, which examples each step reads; `augment`, a function of one input and
        a key, applied afresh at every reading.

        **Returns:** the new state, and an `Info` of one entry per step, whose `output` is instead
        the accuracy: the share of examples whose largest output is where their target's is.
        """

        def advance(state, rows):
            seen, wanted = inputs[rows], targets[rows]
            if augment is not None:
                key = jax.random.fold_in(jax.random.fold_in(state.key, _AUGMENT), state.step)
                seen = jax.vmap(augment)(seen, jax.random.split(key, rows.shape[0]))
            state, info = self.step(state, ({"input": seen}, wanted))
            hits = jnp.argmax(info.output, -1) == jnp.argmax(wanted, -1)
            return state, eqx.tree_at(lambda i: i.output, info, jnp.mean(hits))

        return jax.lax.scan(advance, state, order)

    def predict(self, circuit: AbstractCircuit, clamp: State) -> Float[Array, "batch ..."]:
        """The outputs for a batch of clamps, without noise and without a teacher."""
        return jax.vmap(lambda clamp: self.assigner.predict(circuit, clamp).state["output"])(clamp)


def _copied(leaf: Any) -> Any:
    return jnp.copy(leaf) if eqx.is_array(leaf) else leaf


def summary(infos: Info) -> Info:
    """A batch's `Info` in one: means, but the largest residual and steps and the worst result."""
    return Info(
        cost=jnp.mean(infos.cost),
        output=infos.output,
        energy=jnp.mean(infos.energy),
        residual=jnp.max(infos.residual),
        steps=jnp.max(infos.steps),
        result=worst(infos.result),
    )
