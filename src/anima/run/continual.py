"""A life of tasks: classes come in groups, one after the other, and what came before is gone.

Awake, each step sees new examples beside replays of the old classes; asleep, replays alone, of
all classes. What is replayed is a `Replay`'s business: dreams from a memory, or images from a
buffer as the control of equal size. Shin et al. (2017) for generative replay; van de Ven and
Tolias (2019) for the scenarios.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import InputError
from anima.learn.learner import Learner, LearnerState
from anima.learn.memory import Memory, learn_concepts

MakeLearner = Callable[[AbstractCircuit, int, int], Learner]
"""A learner for a circuit and a phase of so many steps with so many examples each."""


@dataclasses.dataclass(frozen=True)
class Rhythm:
    """How a life is divided.

    - `fresh` new examples a step awake, and `replayed` replays of every old class beside them;
      `wake` epochs a task.
    - `sleep` epochs of replays after the last task, in steps of `asleep` examples; an epoch is as
      many examples as were ever met.
    """

    fresh: int = 32
    replayed: int = 16
    wake: int = 4
    sleep: int = 10
    asleep: int = 64

    def __post_init__(self):
        for name in ("fresh", "wake", "asleep"):
            if getattr(self, name) < 1:
                raise InputError(f"Rhythm: {name} is {getattr(self, name)}: it must be at least 1")
        for name in ("replayed", "sleep"):
            if getattr(self, name) < 0:
                raise InputError(f"Rhythm: {name} is {getattr(self, name)}: not negative")


class AbstractReplay(eqx.Module):
    """Where examples of old classes come from."""

    @abstractmethod
    def keep(
        self, images: Float[Array, "n pixels"], labels: Int[np.ndarray, " n"], *, key: PRNGKeyArray
    ) -> "AbstractReplay":
        """What is left once a task is over and its images are gone."""

    @abstractmethod
    def sample(self, labels: Int[Array, " n"], *, key: PRNGKeyArray) -> Float[Array, "n pixels"]:
        """One example of each label, all of classes that were kept."""


class Dreams(AbstractReplay):
    """Replays dreams; keeps concepts (see `learn/memory.py`), `concepts` a class of `rank`."""

    memory: Memory
    concepts: int = eqx.field(static=True, default=20)
    rank: int = eqx.field(static=True, default=14)
    blend: float = 0.2
    temperature: float = 1.0

    def keep(
        self, images: Float[Array, "n pixels"], labels: Int[np.ndarray, " n"], *, key: PRNGKeyArray
    ) -> "Dreams":
        found = learn_concepts(
            self.memory.read(images),
            labels,
            concepts=self.concepts,
            rank=self.rank,
            blend=self.blend,
            key=key,
        )
        return dataclasses.replace(self, memory=self.memory.learn(found))

    def sample(self, labels: Int[Array, " n"], *, key: PRNGKeyArray) -> Float[Array, "n pixels"]:
        return self.memory.imagine(labels, temperature=self.temperature, key=key)


class Buffer(AbstractReplay):
    """Replays images that it kept, `each` a class: the control that has data.

    - `kept`, (classes, each, pixels).
    """

    kept: Float[Array, "classes each pixels"]

    @classmethod
    def empty(cls, classes: int, each: int, pixels: int) -> "Buffer":
        """Room for `each` images of every class."""
        return cls(jnp.zeros((classes, each, pixels)))

    def keep(
        self, images: Float[Array, "n pixels"], labels: Int[np.ndarray, " n"], *, key: PRNGKeyArray
    ) -> "Buffer":
        kept = self.kept
        for label in sorted({int(label) for label in labels}):
            mine = np.flatnonzero(labels == label)
            draw = jax.random.fold_in(key, label)
            chosen = jax.random.choice(draw, mine, (kept.shape[1],), replace=False)
            kept = kept.at[label].set(images[chosen])
        return Buffer(kept)

    def sample(self, labels: Int[Array, " n"], *, key: PRNGKeyArray) -> Float[Array, "n pixels"]:
        which = jax.random.randint(key, labels.shape, 0, self.kept.shape[1])
        return self.kept[labels, which]


def forgetful(memory: Memory) -> Memory:
    """The memory's reader and writer without any concept: how a life begins."""
    none = jax.tree.map(lambda leaf: leaf[:0], memory.concepts)
    return dataclasses.replace(memory, concepts=none)


def live(
    circuit: AbstractCircuit,
    make: MakeLearner,
    tasks: Sequence[tuple[Float[Array, "n pixels"], Int[np.ndarray, " n"]]],
    replay: AbstractReplay | None,
    rhythm: Rhythm,
    *,
    classes: int,
    key: PRNGKeyArray,
    after: Callable[[int, LearnerState], None] = lambda task, state: None,
) -> tuple[AbstractCircuit, AbstractReplay | None]:
    """Learns tasks one after the other; sleeps at the end if there is anything to replay.

    **Arguments:** `circuit`, at birth; `make`, a learner for each phase; `tasks`, the images and
    labels of each; `replay`, `None` for a life without; `classes`, how many outputs there are;
    `after`, told how the learner ended each task, and the sleep as one task more.

    **Returns:** the circuit and what is kept.
    """
    old: list[int] = []
    for number, (images, labels) in enumerate(tasks):
        key, awake, keeping = jax.random.split(key, 3)
        past = jnp.asarray(old if replay is not None else [], jnp.int32)
        state = wake(
            circuit, make, images, labels, replay, past, rhythm, classes=classes, key=awake
        )
        circuit = state.circuit
        if replay is not None:
            replay = replay.keep(images, labels, key=keeping)
        old += sorted({int(label) for label in labels} - set(old))
        after(number, state)
    if replay is not None and rhythm.sleep:
        met = sum(len(labels) for _, labels in tasks)
        known = jnp.asarray(old, jnp.int32)
        steps = rhythm.sleep * met // rhythm.asleep
        state = sleep(circuit, make, replay, known, steps, rhythm.asleep, classes=classes, key=key)
        circuit = state.circuit
        after(len(tasks), state)
    return circuit, replay


def wake(
    circuit: AbstractCircuit,
    make: MakeLearner,
    images: Float[Array, "n pixels"],
    labels: Int[np.ndarray, " n"],
    replay: AbstractReplay | None,
    old: Int[Array, " old"],
    rhythm: Rhythm,
    *,
    classes: int,
    key: PRNGKeyArray,
) -> LearnerState:
    """Learns one task's examples, each step beside replays of the `old` classes."""
    per_epoch = len(labels) // rhythm.fresh
    if per_epoch < 1:
        raise InputError(f"a task of {len(labels)} examples, {rhythm.fresh} a step: lower fresh")
    shuffle = lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), len(labels))
    order = jnp.concatenate(
        [shuffle(epoch)[: per_epoch * rhythm.fresh] for epoch in range(rhythm.wake)]
    ).reshape(-1, rhythm.fresh)
    past = jnp.repeat(old, rhythm.replayed)
    learner = make(circuit, order.shape[0], rhythm.fresh + past.size)
    state = learner.init(key)
    replay = replay if past.size else None  # a first task is the same whatever is kept of it
    return _awake(learner, state, images, jnp.asarray(labels), replay, past, order, classes)


def sleep(
    circuit: AbstractCircuit,
    make: MakeLearner,
    replay: AbstractReplay,
    known: Int[Array, " known"],
    steps: int,
    batch: int,
    *,
    classes: int,
    key: PRNGKeyArray,
) -> LearnerState:
    """Learns from replays alone, of all `known` classes alike."""
    learner = make(circuit, steps, batch)
    return _asleep(learner, learner.init(key), replay, known, steps, batch, classes)


@eqx.filter_jit
def _awake(learner, state, images, labels, replay, past, order, classes: int):
    def advance(state, rows):
        seen, wanted = images[rows], labels[rows]
        if past.size:
            dreamt = replay.sample(past, key=jax.random.fold_in(state.key, 2 * state.step))
            seen, wanted = jnp.concatenate([seen, dreamt]), jnp.concatenate([wanted, past])
        targets = jax.nn.one_hot(wanted, classes, dtype=seen.dtype)
        return learner.step(state, ({"input": seen}, targets))[0], None

    return jax.lax.scan(advance, state, order)[0]


@eqx.filter_jit
def _asleep(learner, state, replay, known, steps: int, batch: int, classes: int):
    def advance(state, _):
        which, how = jax.random.split(jax.random.fold_in(state.key, 2 * state.step + 1))
        labels = jax.random.choice(which, known, (batch,))
        seen = replay.sample(labels, key=how)
        targets = jax.nn.one_hot(labels, classes, dtype=seen.dtype)
        return learner.step(state, ({"input": seen}, targets))[0], None

    return jax.lax.scan(advance, state, length=steps)[0]
