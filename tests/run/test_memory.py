"""A run's memory on disk, and one that reads the run's own hidden layer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import anima.run.config as configs
from anima.core.errors import InputError
from anima.run import folder
from anima.run.memory import check_dream, learn_memory, load_memory
from anima.run.train import Training


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs, tmp_path_factory):
    with quick_programs(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    table = {
        "circuit": {"hidden": [8]},
        "train": {"epochs": 1, "batch": 20},
        "twin": {"enabled": False},
        "dream": {"concepts": 2, "rank": 2, "read": "h1"},
    }
    config, path = configs.resolve(table), tmp_path_factory.mktemp("run") / "run"
    folder.begin(path, config, data, name="small", data_dir="", preset="digits-dream", seed=1)
    training = Training(config, data, 1, path)
    training.run()
    return training, folder.load(path)


def test_what_is_loaded_is_what_was_learnt(trained, data):
    training, loaded = trained
    memory = loaded.memory
    assert memory.labels == [0, 1, 2]
    images = jnp.asarray(data.test_images.reshape(20, -1))
    seen = memory.see(images)
    assert float(jnp.mean((seen - images) ** 2)) < float(jnp.var(images))
    first = np.asarray(memory.imagine(jnp.zeros(4, jnp.int32), key=jax.random.key(0)))
    training.run(resume=True)  # a finished run remembers anew, to the same bits
    again = folder.load(training.folder).memory
    np.testing.assert_array_equal(again.concepts.mean, memory.concepts.mean)
    second = np.asarray(again.imagine(jnp.zeros(4, jnp.int32), key=jax.random.key(0)))
    np.testing.assert_array_equal(first, second)


def test_a_memory_of_another_run_is_refused(trained):
    training, _ = trained
    path = training.folder / "memory.safetensors"
    with pytest.raises(InputError, match=r"is of another run"):
        load_memory(path, training.config.dream, training.learner, 99)


def test_a_circuit_of_images_is_read_like_any_other(data):
    """Its nodes have the shapes of images and maps; images and codes of a memory are flat."""
    table = {
        "circuit": {"hidden": [{"channels": 2, "kernel": 3}]},
        "dream": {"concepts": 2, "rank": 2, "read": "h1"},
    }
    config = configs.resolve(table)
    circuit = configs.build_circuit(config, data.shape, 3, jax.random.key(0))
    learner = configs.build_learner(config, circuit, 1)
    images = jnp.asarray(data.train_images)[..., None]
    check_dream(config.dream, circuit, images, jax.nn.one_hot(data.train_labels, 3))
    memory = learn_memory(config.dream, learner, images, data.train_labels, key=jax.random.key(1))
    assert memory.writer.node("output").shape == (35,)
    found = np.asarray(memory.density(images.reshape(-1, 35), 3)).argmax(-1)
    assert np.mean(found == data.train_labels) > 0.9


def test_a_dream_of_no_hidden_node_is_refused(trained):
    training, _ = trained
    dream = configs.Dream(read="h7")
    with pytest.raises(InputError, match=r"dream.read: no hidden node"):
        check_dream(dream, training.learner.circuit, training.inputs, training.targets)
    with pytest.raises(InputError, match=r"dream.blend is 2"):
        dataclasses.replace(dream, blend=2.0)
