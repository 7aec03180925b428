"""A run's memory: learnt when the run has ended, kept in `memory.safetensors`, loaded to dream."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.predictive import Predictive
from anima.core.errors import InputError, nearest
from anima.learn.assigners import EquilibriumPropagation
from anima.learn.learner import Learner
from anima.learn.memory import (
    Concepts,
    Memory,
    Reader,
    learn_code,
    learn_generator,
    learn_writer,
    remember,
)
from anima.learn.optimisers import optimiser
from anima.run.config import Dream, build_writer, build_writing
from anima.run.weights import named_arrays, read_arrays, with_arrays, write_arrays

_WRITER = "writer."
_ONCE = {"weight": "synapses.input->output.weight", "bias": "biases.output"}  # names of before
_CONCEPTS = ("label", "count", "mean", "factor", "floor")


def check_dream(
    dream: Dream,
    circuit: AbstractCircuit,
    inputs: Float[Array, "examples ..."],
    targets: Float[Array, "examples classes"],
) -> None:
    """Raises `InputError` where a `[dream]` section does not fit a circuit and its data."""
    if not dream.enabled:
        return
    hidden = {node.name: math.prod(node.shape) for node in circuit.nodes[1:-1]}
    if dream.read and dream.read not in hidden:
        raise InputError(f"dream.read: no hidden node {nearest(dream.read, hidden)}")
    pixels, fewest = math.prod(inputs.shape[1:]), int(np.asarray(targets).sum(0).min())
    size = hidden[dream.read] if dream.read else dream.code
    if not dream.read and size > pixels:
        raise InputError(f"dream.code is {size}: images of {pixels} pixels have no more directions")
    if dream.rank >= size:
        raise InputError(f"dream.rank is {dream.rank}: it must be less than the code's {size}")
    if dream.circuit:
        optimiser(build_writer(dream, size, pixels, jax.random.key(0)), **dream.optimiser)
        build_writing(dream)
    if dream.concepts > fewest:
        raise InputError(
            f"dream.concepts is {dream.concepts}: a class of {fewest} examples has no more"
        )


def learn_memory(
    dream: Dream,
    learner: Learner,
    images: Float[Array, "examples ..."],
    labels: Int[np.ndarray, " examples"],
    *,
    key: PRNGKeyArray,
) -> Memory:
    """The memory that a `[dream]` section asks for, from the images that the run learnt.

    **Arguments:** `learner`, with the learnt circuit; `images`, flat or not, in [0, 1].
    """
    images = images.reshape(len(images), -1)
    first, second = jax.random.split(key)
    reader, writer = _pathways(dream, learner, images, first)
    kept = dict(concepts=dream.concepts, rank=dream.rank, blend=dream.blend)
    return remember(reader, writer, images, labels, **kept, key=second)  # type: ignore[arg-type]


def _pathways(
    dream: Dream, learner: Learner, images: Float[Array, "examples pixels"], key: PRNGKeyArray
) -> tuple[Reader, AbstractCircuit]:
    """How images are read, and the circuit that learnt to write them back."""
    reads = circuit_reader(learner, dream.read) if dream.read else None
    codes = None if reads is None else jax.lax.map(reads, images, batch_size=500)
    how = dict(epochs=dream.passes, batch=dream.portion)
    pace = 1.0 if dream.pace is None else dream.pace
    if dream.circuit:
        birth, key = jax.random.split(key)
        size = dream.code if codes is None else codes.shape[1]
        blank = build_writer(dream, size, images.shape[1], birth)
        rule = build_writing(dream)
        writer = learn_generator(blank, rule, images, codes, **how, key=key, **dream.optimiser)
    elif codes is None:
        writer = learn_code(images, dream.code, **how, rate=pace, key=key)
    else:
        writer = learn_writer(codes, images, **how, rate=pace, key=key)
    return reads or _own_reader(dream, writer), writer


def _own_reader(dream: Dream, writer: AbstractCircuit) -> Reader:
    """The writer as its own reader: clamp the pixels, and the code settles as it did to learn."""
    if not dream.circuit:
        return Reader(writer, "output", "input")
    rule: Any = build_writing(dream)
    return Reader(writer, "output", "input", rule.solver, int(rule.max_steps))


def circuit_reader(learner: Learner, node: str) -> Reader:
    """A learnt circuit as a reader: what `node` does when the assigner asks for an answer."""
    assigner = learner.assigner
    if isinstance(assigner, EquilibriumPropagation):
        return Reader(learner.circuit, "input", node, assigner.solver, int(assigner.free_steps))
    return Reader(learner.circuit, "input", node, steps=0)


def save_memory(path: Path, memory: Memory) -> None:
    """Writes concepts and writer; the reader is the writer itself or the run's own circuit."""
    arrays = {f"concepts.{name}": getattr(memory.concepts, name) for name in _CONCEPTS}
    arrays |= {f"{_WRITER}{name}": leaf for name, leaf in named_arrays(memory.writer).items()}
    arrays["residual"] = memory.residual
    write_arrays(path, {name: np.asarray(array) for name, array in arrays.items()})


def load_memory(path: Path, dream: Dream, learner: Learner, pixels: int) -> Memory:
    """The memory in a file; raises `InputError` if it is damaged or of another run."""
    found = read_arrays(path)
    try:
        concepts = Concepts(*(jnp.asarray(found[f"concepts.{name}"]) for name in _CONCEPTS))
        residual = jnp.asarray(found["residual"])
    except KeyError as error:
        raise InputError(
            f"{path} lacks {error}: finish the run again with `anima resume`"
        ) from error
    size, key = concepts.mean.shape[1], jax.random.key(0)
    blank = build_writer(dream, size, pixels, key) if dream.circuit else _linear(size, pixels)
    own = {k.removeprefix(_WRITER): v for k, v in found.items() if k.startswith(_WRITER)}
    own = {_ONCE.get(name, name): array for name, array in own.items()}
    writer = with_arrays(blank, own, path)
    reads = circuit_reader(learner, dream.read) if dream.read else _own_reader(dream, writer)
    return Memory(reads, writer, concepts, residual)


def _linear(code: int, pixels: int) -> Predictive:
    return Predictive.mlp([code, pixels], activation="identity", key=jax.random.key(0))
