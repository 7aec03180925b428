"""The learner: a circuit, an assigner, a cost and an optimiser become a step over batches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from anima.circuit.circuit import AbstractCircuit, gradient
from anima.core.errors import InputError
from anima.core.types import Clamp, Given, Keys, State, worst
from anima.learn.assigners import AbstractAssigner, Info
from anima.learn.costs import AbstractCost
from anima.learn.gate import AbstractGate, Waiting
from anima.learn.optimisers import averaged

Augment = Callable[[Float[Array, "..."], PRNGKeyArray], Float[Array, "..."]]
"""A random change of one input that keeps its meaning."""

_AUGMENT = 0x5EED  # keeps the stream of augmentation apart from the streams of the steps
_GATE = 0x6A7E  # and the stream of the gate


class LearnerState(eqx.Module):
    """What resuming needs: the circuit, the optimiser's memory, the step count and the key.

    `waiting`: with a gate, the examples that it let through and that were not learnt yet.
    """

    circuit: AbstractCircuit
    optimiser: optax.OptState
    step: Int[Array, ""]
    key: PRNGKeyArray
    waiting: Waiting | None = None

    @property
    def answering(self) -> AbstractCircuit:
        """The circuit to judge it by: with averaged parameters, if the optimiser averages."""
        return averaged(self.circuit, self.optimiser)


class Learner(eqx.Module):
    """Learns a circuit from batches of (clamp, target).

    - `circuit`: as it is at birth.
    - `assigner`: turns the cost into credit. - `cost`: an `AbstractCost`.
    - `optimiser`: an optax transformation. Adam, batch means and norm clipping are not
      neuron-local; plain SGD is. If it averages (`anima.optimiser(average=...)`), predict with
      `state.answering` in place of `state.circuit`.
    - `noise`: node name -> probability that a unit falls silent, drawn per example and step and
      the same in all phases.
    - `align`: whether to report the cosine between each batch's credit and the true gradient,
      which costs a backward pass.
    - `gate`: lets only some examples through to learning (`learn/gate.py`); `batch` of those make
      an update. Clamps are then of the node `input` alone.

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
    align: bool = eqx.field(static=True, default=False)
    gate: AbstractGate | None = None
    batch: int = eqx.field(static=True, default=32)

    def __check_init__(self):
        self.circuit.silence(dict(self.noise), key=jax.random.key(0))

    def init(self, key: PRNGKeyArray) -> LearnerState:
        """The state before the first step, in memory of its own."""
        circuit, key = jax.tree.map(_copied, (self.circuit, key))
        learnt: Any = circuit.parameters()[0]
        memory, none = self.optimiser.init(learnt), jnp.zeros((), jnp.int32)
        waiting = self._nobody() if self.gate is not None else None
        return LearnerState(circuit, memory, none, key, waiting)

    def step(
        self, state: LearnerState, batch: tuple[State, PyTree[Array]]
    ) -> tuple[LearnerState, Info]:
        """One update from one batch.

        **Arguments:** `batch`: a clamp whose arrays have a leading batch axis, and the targets:
        what the cost takes, an array or a tree of them, with the same axis.

        **Returns:** the new state, and an `Info`: batch means, the largest residual and steps,
        the worst result, and the outputs (batch, ...).
        """
        if self.gate is not None:
            return self._look(self.gate, state, batch)
        state, info = self._learn(state, batch)
        return eqx.tree_at(lambda s: s.step, state, state.step + 1), info

    def _learn(self, state: LearnerState, batch, gain: Any = None) -> tuple[LearnerState, Info]:
        """The update from one batch, and its `Info`; the clock stands still."""
        clamp, target = batch
        examples = jax.tree.leaves(target)[0].shape[0]
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), examples)
        begin = self._each(
            lambda circuit, cost, clamp, key: self.assigner.begin(circuit, clamp, cost)
        )
        carry = begin(state.circuit, clamp, target, keys)
        moving, still = eqx.partition(state.circuit, eqx.is_array)

        def turn(loop, _):
            moving, memory, carry = loop
            circuit = eqx.combine(moving, still)
            credit, (infos, carry) = self._credit(circuit, clamp, target, keys, carry)
            clock = dict(step=state.step, examples=examples)
            circuit, memory = self._moved(circuit, credit, memory, clock, gain)
            return (eqx.filter(circuit, eqx.is_array), memory, carry), infos

        turns = self.assigner.turns
        (moving, memory, _), infos = jax.lax.scan(
            turn, (moving, state.optimiser, carry), length=turns, unroll=turns == 1
        )
        info = summary(jax.tree.map(lambda x: x[-1], infos))
        info = eqx.tree_at(
            lambda i: i.steps, info, jnp.max(jnp.sum(infos.steps, 0, dtype=infos.steps.dtype))
        )
        circuit = eqx.combine(moving, still)
        return LearnerState(circuit, memory, state.step, state.key, state.waiting), info

    def _moved(
        self,
        circuit: AbstractCircuit,
        credit: Any,
        memory: optax.OptState,
        clock: dict[str, Any],
        gain: Any,
    ) -> tuple[AbstractCircuit, optax.OptState]:
        """The circuit after one step of the optimiser, and its memory; it is told the `clock`."""
        learnt: Any  # a circuit, which is a pytree as optax wants
        learnt, rest = circuit.parameters()
        update = optax.with_extra_args_support(self.optimiser).update
        updates, memory = update(credit, memory, learnt, **clock)
        if gain is not None:
            updates = jax.tree.map(lambda u: gain * u, updates)
        return eqx.combine(eqx.apply_updates(learnt, updates), rest).normalise(), memory

    def compiled(self) -> Callable[[LearnerState, Any], tuple[LearnerState, Info]]:
        """`step`, compiled at its first call, writing each new state where the old one was.

        The state that is passed in is used up: keep the one that comes back. Fresh memory for
        every state would cost as much time as settling a small circuit.
        """
        leaves, shape = jax.tree.flatten(self.init(jax.random.key(0)))
        places = [place for place, leaf in enumerate(leaves) if eqx.is_array(leaf)]

        def joined(arrays):
            return jax.tree.unflatten(shape, _put(leaves, places, arrays))

        @partial(jax.jit, donate_argnums=0)
        def advance(arrays, batch):
            state, info = self.step(joined(arrays), batch)
            return [jax.tree.leaves(state)[place] for place in places], info

        def step(state, batch):
            given = jax.tree.leaves(state)
            arrays, info = advance([given[place] for place in places], batch)
            return joined(arrays), info

        return step

    def _look(self, gate: AbstractGate, state: LearnerState, batch) -> tuple[LearnerState, Info]:
        """Looks at a batch, and learns one of those that surprised once there are enough."""
        clamp, target = batch
        shown = jax.tree.leaves(target)[0].shape[0]
        if set(clamp) != {"input"} or shown > self.batch:
            raise InputError(
                f"a gated learner was shown {shown} examples with clamps of "
                f"{sorted(clamp)}: it takes clamps of input alone, at most batch = {self.batch}"
            )
        answer = jax.vmap(partial(self.assigner.predict, state.circuit))(clamp)
        output = answer.state["output"]
        surprise = jax.vmap(self.cost)(target, output)
        key = jax.random.fold_in(jax.random.fold_in(state.key, _GATE), state.step)
        waiting: Any = state.waiting
        admitted, threshold = gate.admit(surprise, waiting.threshold, state.step == 0, key=key)
        waiting = waiting.add(clamp["input"], target, admitted, threshold)
        state = LearnerState(state.circuit, state.optimiser, state.step, state.key, waiting)
        state, (residual, steps, result) = self._learn_if_enough(gate, state)
        return eqx.tree_at(lambda s: s.step, state, state.step + 1), Info(
            cost=jnp.mean(surprise),
            output=output,
            energy=jnp.mean(answer.energy),
            energies=jax.tree.map(jnp.mean, jax.vmap(state.circuit.energies)(answer.state)),
            residual=jnp.maximum(jnp.max(answer.residual), residual),
            steps=jnp.max(answer.steps) + steps,
            result=worst(answer.result, result),
        )

    def _learn_if_enough(self, gate: AbstractGate, state: LearnerState) -> tuple[LearnerState, Any]:
        """Learns the first batch that waits, if there is one; how that settled, else zeros."""
        moving, still = eqx.partition(state, eqx.is_array)

        def learn(moving):
            state = eqx.combine(moving, still)
            waiting, rows = state.waiting, slice(0, self.batch)
            first = {"input": waiting.inputs[rows]}, waiting.targets[rows]
            state, info = self._learn(state, first, gate.gain)
            state = eqx.tree_at(lambda s: s.waiting, state, waiting.served())
            said = info.residual, info.steps, info.result
            return eqx.filter(state, eqx.is_array), said

        def skip(moving):
            none = jax.eval_shape(learn, moving)[1]
            return moving, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), none)

        enough = moving.waiting.count >= self.batch
        moving, said = jax.lax.cond(enough, learn, skip, moving)
        return eqx.combine(moving, still), said

    def _nobody(self) -> Waiting:
        room = lambda name: jnp.zeros((2 * self.batch, *self.circuit.node(name).shape))
        none = lambda: jnp.zeros((), jnp.int32)
        return Waiting(room("input"), room("output"), none(), jnp.zeros(()), none())

    def gradient(
        self,
        circuit: AbstractCircuit,
        clamp: Clamp,
        target: PyTree[Array],
        keys: Keys,
    ) -> tuple[AbstractCircuit, Info]:
        """The mean credit of a batch and each example's `Info`, all turns at synapses held."""

        def one(circuit, cost, clamp, key):
            return self.assigner.objective(circuit, clamp, cost, key=key)

        return self._mean(one)(circuit, clamp, target, keys)

    def _credit(
        self, circuit: AbstractCircuit, clamp: Clamp, target: Any, keys: Keys, carry: Any
    ) -> tuple[Any, tuple[Info, Any]]:
        """One turn's mean credit, each example's `Info`, and what their next turns start from."""

        def one(circuit, cost, clamp, key, carry):
            return self.assigner.turn(circuit, clamp, cost, carry, key=key)

        credit, (infos, carry) = self._mean(one)(circuit, clamp, target, keys, carry)
        if self.align:
            infos = eqx.tree_at(
                lambda i: i.alignment,
                infos,
                jnp.full(keys.shape[0], self._alignment(credit, circuit, clamp, target, keys)),
                is_leaf=lambda x: x is None,
            )
        return credit, (infos, carry)

    def _alignment(self, credit, circuit, clamp, target, keys) -> Float[Array, ""]:
        """The cosine between a credit and the gradient of the mean cost of the answers."""

        def one(circuit, cost, clamp, key):
            return cost(self.assigner.answer(circuit, clamp)), None

        truth, _ = self._mean(one)(circuit, clamp, target, keys)
        one_, other = ravel_pytree(credit)[0], ravel_pytree(truth)[0]
        size = jnp.linalg.norm(one_) * jnp.linalg.norm(other)
        return one_ @ other / jnp.maximum(size, jnp.finfo(size.dtype).tiny)

    def _each(self, function: Callable) -> Callable:
        """`function(circuit, cost, clamp, key, *more)` of one example, for a batch of them."""

        def one(circuit, clamp, target, key, *more):
            silence, credit = jax.random.split(key)
            circuit = circuit.silence(dict(self.noise), key=silence)
            return function(circuit, partial(self.cost, target), clamp, credit, *more)

        return lambda circuit, *batch: jax.vmap(partial(one, circuit))(*batch)

    def _mean(self, function: Callable) -> Callable:
        """The gradient of the batch mean of an objective of one example, and its extras."""

        def graded(circuit, *batch):
            def mean(circuit):
                values, extras = self._each(function)(circuit, *batch)
                return jnp.mean(values), extras

            return gradient(mean, circuit)

        return graded

    def sweep(
        self,
        state: LearnerState,
        inputs: Float[Given, "examples ..."],
        targets: Float[Given, "examples ..."],
        order: Int[Given, "steps batch"],
        augment: Augment | None = None,
    ) -> tuple[LearnerState, Info]:
        """One step per row of `order`, in one compiled scan: no transfer to the host within.

        **Arguments:** `inputs` of the input node's shape and `targets` of the output's, whole
        data sets; `order`, which examples each step reads; `augment`, a function of one input and
        a key, applied afresh at every reading.

        **Returns:** the new state, and an `Info` of one entry per step, whose `output` is instead
        the accuracy: the share of examples whose largest output is where their target's is.
        """
        moving, still = eqx.partition(state, eqx.is_array)
        inputs, targets = jnp.asarray(inputs), jnp.asarray(targets)

        def advance(moving, rows):
            state = eqx.combine(moving, still)
            seen, wanted = inputs[rows], targets[rows]
            if augment is not None:
                key = jax.random.fold_in(jax.random.fold_in(state.key, _AUGMENT), state.step)
                seen = jax.vmap(augment)(seen, jax.random.split(key, rows.shape[0]))
            state, info = self.step(state, ({"input": seen}, wanted))
            hits = jnp.argmax(info.output, -1) == jnp.argmax(wanted, -1)
            info = eqx.tree_at(lambda i: i.output, info, jnp.mean(hits))
            return eqx.filter(state, eqx.is_array), info

        moving, infos = jax.lax.scan(advance, moving, order)
        return eqx.combine(moving, still), infos

    def predict(self, circuit: AbstractCircuit, clamp: Clamp) -> Float[Array, "batch ..."]:
        """The outputs for a batch of clamps, without noise and without a teacher."""
        return jax.vmap(lambda clamp: self.assigner.predict(circuit, clamp).state["output"])(clamp)


def _put(leaves: list, places: list[int], arrays: list) -> list:
    """The leaves with those at `places` replaced."""
    new = dict(zip(places, arrays, strict=True))
    return [new.get(place, leaf) for place, leaf in enumerate(leaves)]


def _copied(leaf: Any) -> Any:
    return jnp.copy(leaf) if eqx.is_array(leaf) else leaf


def summary(infos: Info) -> Info:
    """A batch's `Info` in one: means, but the largest residual and steps and the worst result."""
    return Info(
        cost=jnp.mean(infos.cost),
        output=infos.output,
        energy=jnp.mean(infos.energy),
        energies=jax.tree.map(jnp.mean, infos.energies),
        residual=jnp.max(infos.residual),
        steps=jnp.max(infos.steps),
        result=worst(infos.result),
        alignment=None if infos.alignment is None else jnp.mean(infos.alignment),
    )
