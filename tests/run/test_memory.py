"""A run's memory on disk, and one that reads the run's own hidden layer, here of maps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import anima.run.config as configs
from anima.core.errors import DivergedError, InputError
from anima.run.memory import check_dream, learn_memory, load_memory, save_memory
from anima.run.train import Training
from anima.run.weights import read_arrays, write_arrays

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
    with pytest.raises(InputError, match=r"\(30, 35\), the circuit wants .*99"):
        load_memory(path, training.config.dream, training.learner, 99)


WRITTEN = {
    "circuit": {"family": "ngc", "hidden": [8], "bias": True},
    "assigner": {"solver": {"name": "euler", "dt": 0.2}},
    "optimiser": {"rate": 0.01},
}


@pytest.mark.parametrize(
    "own",
    [
        pytest.param({"code": 6}, id="code"),
        pytest.param({"read": "h1"}, id="read", marks=pytest.mark.slow),
    ],
)
def test_a_circuit_with_error_synapses_writes(own, training, data, tmp_path):
    dream = configs.resolve({"dream": TABLE["dream"] | {"read": ""} | WRITTEN | own}).dream
    dream = dataclasses.replace(dream, passes=90)
    labels, key = data.train_labels, jax.random.key(1)
    memory = learn_memory(dream, training.learner, training.inputs, labels, key=key)
    assert [node.name for node in memory.writer.nodes] == ["input", "h1", "output"]
    images = jnp.asarray(data.test_images.reshape(20, -1))
    assert float(jnp.mean((memory.see(images) - images) ** 2)) < 0.6 * float(jnp.var(images))
    named = np.asarray(memory.density(images, 3)).argmax(-1)
    assert np.mean(named == data.test_labels) > 0.9
    labels = jnp.asarray([0, 1, 2] * 4)
    dreams = jax.vmap(lambda label, key: memory.dream(label, key=key))(
        labels, jax.random.split(key, 12)
    )
    assert np.mean(np.asarray(memory.density(dreams, 3)).argmax(-1) == labels) > 0.8
    upper = jnp.arange(35) < 20
    known = [int(memory.complete(image, upper)[1]) for image in images[:6]]
    assert np.mean(known == data.test_labels[:6]) > 0.6
    path = tmp_path / "memory.safetensors"
    save_memory(path, memory)
    loaded = load_memory(path, dream, training.learner, 35)
    ask = dict(labels=jnp.asarray([0, 2, 1], jnp.int32), key=jax.random.key(0))
    np.testing.assert_array_equal(loaded.imagine(**ask), memory.imagine(**ask))
    np.testing.assert_array_equal(loaded.read(images), memory.read(images))


@pytest.mark.parametrize(
    ("dream", "said"),
    [
        ({"circuit": {"family": "hopfield"}}, "unknown dream.circuit.family"),
        ({"circuit": {"hidden": [0]}}, r"dream.circuit.hidden is \[0\]"),
        ({"circuit": {"family": "ngc", "beta": 1.0}}, "unknown key dream.circuit.beta"),
        ({"circuit": {"family": "ngc"}, "assigner": {"name": "zil"}}, "is learnt by 'ngc'"),
        (
            {"circuit": {"family": "ngc"}, "assigner": {"step": 0.1}},
            "unknown key dream.assigner.step",
        ),
        ({"circuit": {"family": "ngc"}, "code": 0}, "no code that it could write"),
        ({"circuit": {"family": "ngc"}, "pace": 1.0}, "dream.optimiser.rate"),
        ({"assigner": {"max_steps": 3}}, "without a dream.circuit"),
        ({"optimiser": {"rate": 0.1}}, "without a dream.circuit"),
        ({"portion": 0}, "dream.portion is 0"),
    ],
)
def test_a_dream_that_makes_no_sense_is_refused(dream, said):
    with pytest.raises(InputError, match=said):
        configs.resolve({"dream": {"code": 4} | dream})


def test_a_dream_is_made_whole_and_survives_its_file():
    whole = configs.resolve({"dream": {"code": 4, "circuit": {"family": "ngc"}}})
    assert whole.dream.assigner["name"] == "ngc" and whole.dream.optimiser["rule"] == "adam"
    assert whole.dream.circuit["hidden"] == [128]
    assert configs.resolve(configs.as_table(whole)) == whole
    table = configs.override(configs.read_preset("digits-dream-ngc"), ["dream.circuit.hidden=[9]"])
    assert configs.resolve(table).dream.circuit["hidden"] == [9]


def test_a_writer_that_diverges_says_so(training, data):
    dream = configs.resolve({"dream": TABLE["dream"] | {"pace": 1e30, "passes": 3}}).dream
    with pytest.raises(DivergedError, match="lower their rate"):
        learn_memory(
            dream, training.learner, training.inputs, data.train_labels, key=jax.random.key(1)
        )


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
    whole = configs.resolve({"dream": {"code": 6, "rank": 2, "concepts": 2} | WRITTEN}).dream
    fits(whole)
    for given, said in (({"rule": "sdg"}, "unknown rule 'sdg'"), ({"rate": [1.0] * 5}, "rate")):
        with pytest.raises(InputError, match=said):
            fits(dataclasses.replace(whole, optimiser=whole.optimiser | given))


def test_the_pace_is_1_unless_it_is_given(training, data):
    dream = configs.resolve({"dream": TABLE["dream"] | {"passes": 1}}).dream
    learnt = lambda dream: (
        learn_memory(
            dream, training.learner, training.inputs, data.train_labels, key=jax.random.key(1)
        )
        .writer.synapses["input->output"]
        .weight
    )
    same = learnt(dataclasses.replace(dream, pace=1.0))
    np.testing.assert_array_equal(learnt(dream), same)
    assert not np.allclose(learnt(dataclasses.replace(dream, pace=0.5)), same)


def test_a_memory_of_before_still_loads(memory, training, tmp_path):
    path, dream = tmp_path / "memory.safetensors", training.config.dream
    save_memory(path, memory)
    arrays = read_arrays(path)
    for now, before in (("synapses.input->output.weight", "weight"), ("biases.output", "bias")):
        arrays[f"writer.{before}"] = arrays.pop(f"writer.{now}")
    write_arrays(path, arrays)
    loaded = load_memory(path, dream, training.learner, 35)
    ask = dict(labels=jnp.asarray([0, 2, 1], jnp.int32), key=jax.random.key(0))
    np.testing.assert_array_equal(loaded.imagine(**ask), memory.imagine(**ask))
