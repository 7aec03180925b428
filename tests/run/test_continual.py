"""Lives of tasks: without replay the old is forgotten, with dreams of it it is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anima import Backprop, InputError, Learner, Predictive, SquaredError
from anima.learn.memory import Reader, learn_code, remember
from anima.run.continual import Buffer, Dreams, Rhythm, forgetful, live

RHYTHM = Rhythm(fresh=10, replayed=5, wake=8, sleep=4, asleep=20)
OPTIMISER = optax.sgd(0.2)


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs, tmp_path_factory):
    with quick_programs(tmp_path_factory.mktemp("compiled")):
        yield


def make(circuit, steps, batch):
    return Learner(circuit, Backprop(), SquaredError(), OPTIMISER)


@functools.cache
def world():
    draw = np.random.default_rng(0)
    centres = draw.uniform(0.1, 0.9, (4, 16))
    labels = np.arange(240) % 4
    images = np.clip(centres[labels] + draw.normal(size=(240, 16)) / 12, 0, 1).astype(np.float32)
    return jnp.asarray(images), labels


def tasks():
    """The two tasks, seen through a code that knows the first only."""
    images, labels = world()
    images = memory().see(images)
    return [(images[labels // 2 == t], labels[labels // 2 == t]) for t in (0, 1)]


@functools.cache
def memory():
    images, labels = world()
    images, labels = images[labels < 2], labels[labels < 2]
    code = learn_code(images, 8, epochs=20, batch=10, key=jax.random.key(0))
    made = remember(
        Reader(code, "output", "input"),
        code,
        images,
        labels,
        concepts=1,
        rank=2,
        key=jax.random.key(1),
    )
    return forgetful(made)


def lived(replay):
    circuit = Predictive.mlp([16, 12, 4], key=jax.random.key(2))
    told = []
    circuit, kept = live(
        circuit,
        make,
        tasks(),
        replay,
        RHYTHM,
        classes=4,
        key=jax.random.key(3),
        after=lambda task, state: told.append((task, int(state.step))),
    )
    images, labels = world()
    answers = make(circuit, 1, 1).predict(circuit, {"input": memory().see(images)})
    right = np.asarray(answers).argmax(-1) == labels
    return right[labels < 2].mean(), right[labels > 1].mean(), kept, told


@pytest.mark.slow
def test_dreams_keep_what_a_life_without_forgets():
    old, new, kept, told = lived(None)
    assert old < 0.7 and new > 0.9 and kept is None and told == [(0, 96), (1, 96)]
    old, new, kept, told = lived(Dreams(memory(), concepts=2, rank=2))
    assert old > 0.9 and new > 0.9 and told == [(0, 96), (1, 96), (2, 48)]
    assert kept.memory.labels == [0, 1, 2, 3] and kept.memory.concepts.label.size == 8


def test_a_buffer_keeps_images_of_every_class():
    images, labels = world()
    kept = Buffer.empty(4, 5, 16)
    for half in (labels < 2, labels > 1):
        kept = kept.keep(images[half], labels[half], key=jax.random.key(0))
    for k in range(4):
        mine = np.asarray(images)[labels == k]
        found = [np.flatnonzero((mine == image).all(-1)) for image in np.asarray(kept.kept[k])]
        assert len({int(row) for (row,) in found}) == 5
    one = kept.sample(jnp.asarray([3, 0]), key=jax.random.key(0))
    assert any(np.array_equal(one[0], image) for image in np.asarray(kept.kept[3]))


def test_a_rhythm_that_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"wake is 0: it must be at least 1"):
        Rhythm(wake=0)
    with pytest.raises(InputError, match=r"sleep is -1"):
        Rhythm(sleep=-1)
    few = [(x[:5], y[:5]) for x, y in tasks()]
    circuit = Predictive.mlp([16, 12, 4], key=jax.random.key(2))
    with pytest.raises(InputError, match=r"a task of 5 examples, 10 a step"):
        live(circuit, make, few, None, RHYTHM, classes=4, key=jax.random.key(0))
