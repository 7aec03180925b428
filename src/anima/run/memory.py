"""A run's memory: learnt when the run has ended, kept in `memory.safetensors`, loaded to dream."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import equinox as eqx
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
    learn_writer,
    remember,
)
from anima.run.weights import read_arrays, write_arrays

if TYPE_CHECKING:
    from anima.run.config import Dream

_CONCEPTS = ("label", "count", "mean", "factor", "floor")


def check_dream(
    dream: "Dream",
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
    if dream.concepts > fewest:
        raise InputError(
            f"dream.concepts is {dream.concepts}: a class of {fewest} examples has no more"
        )


def learn_memory(
    dream: "Dream",
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
    how = dict(epochs=dream.passes, rate=dream.pace)
    if dream.read:
        reader = circuit_reader(learner, dream.read)
        codes = jax.lax.map(reader, images, batch_size=500)
        writer = learn_writer(codes, images, **how, key=first)  # type: ignore[arg-type]
    else:
        writer = learn_code(images, dream.code, **how, key=first)  # type: ignore[arg-type]
        reader = Reader(writer, "output", "input")
    kept = dict(concepts=dream.concepts, rank=dream.rank, blend=dream.blend)
    return remember(reader, writer, images, labels, **kept, key=second)  # type: ignore[arg-type]


def circuit_reader(learner: Learner, node: str) -> Reader:
    """A learnt circuit as a reader: what `node` does when the assigner asks for an answer."""
    assigner = learner.assigner
    if isinstance(assigner, EquilibriumPropagation):
        return Reader(learner.circuit, "input", node, assigner.solver, int(assigner.free_steps))
    return Reader(learner.circuit, "input", node, steps=0)


def save_memory(path: Path, memory: Memory) -> None:
    """Writes concepts and writer; the reader is the writer itself or the run's own circuit."""
    arrays = {f"concepts.{name}": getattr(memory.concepts, name) for name in _CONCEPTS}
    arrays |= {
        "residual": memory.residual,
        "writer.weight": memory.writer.synapses["input->output"].weight,  # type: ignore
        "writer.bias": memory.writer.biases["output"],  # type: ignore
    }
    write_arrays(path, {name: np.asarray(array) for name, array in arrays.items()})


def load_memory(path: Path, dream: "Dream", learner: Learner, pixels: int) -> Memory:
    """The memory in a file; raises `InputError` if it is damaged or of another run."""
    found = read_arrays(path)
    try:
        concepts = Concepts(*(jnp.asarray(found[f"concepts.{name}"]) for name in _CONCEPTS))
        weight, bias = jnp.asarray(found["writer.weight"]), jnp.asarray(found["writer.bias"])
        residual = jnp.asarray(found["residual"])
    except KeyError as error:
        raise InputError(
            f"{path} lacks {error}: finish the run again with `anima resume`"
        ) from error
    if weight.shape != (concepts.mean.shape[1], pixels) or bias.shape != (pixels,):
        raise InputError(f"{path} is of another run: its writer has shape {weight.shape}")
    writer = written(weight, bias)
    if dream.read:
        reader = circuit_reader(learner, dream.read)
    else:
        reader = Reader(writer, "output", "input")
    return Memory(reader, writer, concepts, residual)


def written(weight: Float[Array, "code pixels"], bias: Float[Array, " pixels"]) -> Predictive:
    """The linear generative circuit with these synapses."""
    blank = Predictive.mlp(list(weight.shape), activation="identity", key=jax.random.key(0))
    where = lambda c: (c.synapses["input->output"].weight, c.biases["output"])
    return eqx.tree_at(where, blank, (weight, bias))
