"""A run's memory on disk, and one that reads the run's own hidden layer, here of maps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import anima.run.config as configs
from anima.core.errors import InputError
from anima.run.memory import check_dream, learn_memory, load_memory, save_memory
from anima.run.train import Training

TABLE = {
    "circuit": {"hidden": [{"channels": 2, "kernel": 3}]},
    "train": {"epochs": 1, "batch": 20},
    "twin": {"enabled": False},
    "dream": {"concepts": 2, "rank": 2, "read": "h1", "passes": 8},
}


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs, tmp_path_factory):
    with quick_programs(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def training(data, tmp_path_factory):
    return Training(configs.resolve(TABLE), data, 1, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def learn(training, data, quick):
    dream, learner, images = training.config.dream, training.learner, training.inputs
    return lambda: learn_memory(dream, learner, images, data.train_labels, key=jax.random.key(1))


@pytest.fixture(scope="module")
def memory(learn):
    return learn()


@pytest.mark.slow
def test_images_of_any_shape_are_read_and_written_flat(memory, training, data):
    assert training.inputs.shape[1:] == (5, 7, 1) and memory.writer.node("output").shape == (35,)
    assert memory.labels == [0, 1, 2]
    images = jnp.asarray(data.test_images.reshape(20, -1))
    seen = memory.see(images)
    assert float(jnp.mean((seen - images) ** 2)) < 0.7 * float(jnp.var(images))
    named = np.asarray(memory.density(images, 3)).argmax(-1)
    assert np.mean(named == data.test_labels) > 0.9


def test_what_is_loaded_is_what_was_learnt(memory, learn, training, tmp_path):
    path = tmp_path / "memory.safetensors"
    save_memory(path, memory)
    loaded = load_memory(path, training.config.dream, training.learner, 35)
    for name in ("label", "count", "mean", "factor", "floor"):
        kept = getattr(memory.concepts, name)
        np.testing.assert_array_equal(getattr(loaded.concepts, name), kept)
    ask = dict(labels=jnp.asarray([0, 2, 1], jnp.int32), key=jax.random.key(0))
    np.testing.assert_array_equal(loaded.imagine(**ask), memory.imagine(**ask))
    again = learn()  # as a run does that is resumed when it is over
    np.testing.assert_array_equal(again.concepts.factor, memory.concepts.factor)
    with pytest.raises(InputError, match=r"is of another run"):
        load_memory(path, training.config.dream, training.learner, 99)


def test_a_dream_that_does_not_fit_is_refused(training):
    dream, circuit = training.config.dream, training.learner.circuit
    fits = lambda dream: check_dream(dream, circuit, training.inputs, training.targets)
    with pytest.raises(InputError, match=r"dream.read: no hidden node"):
        fits(dataclasses.replace(dream, read="h7"))
    with pytest.raises(InputError, match=r"dream.code is 36: images of 35 pixels"):
        fits(configs.Dream(code=36))
    with pytest.raises(InputError, match=r"dream.rank is 30: it must be less than the code's 30"):
        fits(dataclasses.replace(dream, rank=30))
    with pytest.raises(InputError, match=r"dream.blend is 2"):
        dataclasses.replace(dream, blend=2.0)
