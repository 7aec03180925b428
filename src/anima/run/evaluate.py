"""Evaluation: what a learnt circuit answers, example by example."""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import InputError
from anima.learn.learner import Learner

_AT_ONCE = 1000  # examples settled side by side

Images = Float[Array, "examples ..."] | Float[np.ndarray, "examples ..."]


def as_inputs(circuit: AbstractCircuit, images: Images) -> Float[Array, "examples ..."]:
    """The images, flat or not, in the shape of the circuit's input node."""
    shape, held = circuit.node("input").shape, images.shape[1:]
    if math.prod(held) != math.prod(shape):
        raise InputError(f"images of shape {held} do not fit an input node of shape {shape}")
    return jnp.asarray(images).reshape(len(images), *shape)


def outputs(
    learner: Learner, circuit: AbstractCircuit, inputs: Images
) -> Float[Array, "examples classes"]:
    """The free output for every input, without noise."""
    return _outputs(learner, circuit, as_inputs(circuit, inputs))


def accuracy(
    learner: Learner,
    circuit: AbstractCircuit,
    inputs: Images,
    labels: Int[np.ndarray, " examples"],
) -> float:
    """The share of examples whose largest output is their label's."""
    return float(np.mean(np.asarray(outputs(learner, circuit, inputs)).argmax(-1) == labels))


def confusion(
    learner: Learner,
    circuit: AbstractCircuit,
    inputs: Images,
    labels: Int[np.ndarray, " examples"],
    classes: int,
) -> Int[np.ndarray, "classes classes"]:
    """Counts of examples by true label (rows) and answer (columns)."""
    answers = np.asarray(outputs(learner, circuit, inputs)).argmax(-1)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, answers), 1)
    return counts


@eqx.filter_jit
def _outputs(learner: Learner, circuit: AbstractCircuit, inputs: Images) -> jax.Array:
    return jax.lax.map(partial(_answer, learner, circuit), inputs, batch_size=_AT_ONCE)


def _answer(learner: Learner, circuit: AbstractCircuit, one: jax.Array) -> jax.Array:
    return learner.assigner.predict(circuit, {"input": one}).state["output"]
