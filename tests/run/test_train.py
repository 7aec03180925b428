"""A run ends in the same bits however often it was stopped, and never costs what it had saved."""

import contextlib
import dataclasses
import json
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import anima.run.config as configs
import anima.run.train as train
from anima.core.errors import DivergedError, InputError
from anima.run import checkpoint
from anima.run.evaluate import accuracy
from anima.run.train import Training
from anima.run.weights import load_weights
from anima.world.data import load_data

SEED = 5
WEIGHTS = ("weights.safetensors", "twin.safetensors")


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def same(one, other):
    assert rows(one) == rows(other)
    for name in WEIGHTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def stop_after(monkeypatch, chunks):
    """The user asks to stop while chunk number `chunks` is running."""
    count = iter(range(1, 1000))

    @contextlib.contextmanager
    def asked():
        yield lambda: next(count) >= chunks

    monkeypatch.setattr(train, "asked_to_stop", asked)


def start(small, data, folder, **options):
    folder.mkdir(exist_ok=True)
    return Training(small, data, SEED, folder).run(**options)


@pytest.fixture(scope="module")
def whole(small, data, tmp_path_factory):
    """A run of two epochs of two chunks each that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "LONGEST_CHUNK", 3)
        outcome = start(small, data, folder)
    assert not outcome.interrupted
    return folder


def test_a_run_leaves_its_metrics_checkpoints_and_weights(whole):
    got = rows(whole)
    assert [(row["who"], row["epoch"], row["step"]) for row in got] == [
        ("circuit", 1, 6),
        ("twin", 1, 6),
        ("circuit", 2, 12),
        ("twin", 2, 12),
    ]
    keys = {"cost", "train_accuracy", "validation_accuracy", "energy", "residual", "settling_steps"}
    assert all(keys <= set(row) for row in got) and "test_accuracy" not in got[0]
    assert all(-1 <= row["alignment"] <= 1 for row in got if row["who"] == "circuit")
    assert not any("alignment" in row for row in got if row["who"] == "twin")
    assert {path.name for path in (whole / "checkpoints").iterdir()} == {
        "6",
        "6.json",
        "12",
        "12.json",
    }
    assert all((whole / name).is_file() for name in WEIGHTS)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(whole, small, data, tmp_path):
    outcome = start(small, data, tmp_path / "again")
    same(tmp_path / "again", whole)
    other = Training(small, data, SEED + 1, tmp_path).init()
    born = Training(small, data, SEED, tmp_path).init()
    assert not eqx.tree_equal(other.circuit.circuit, born.circuit.circuit)
    assert not eqx.tree_equal(outcome.lives.circuit.circuit, born.circuit.circuit)


@pytest.mark.parametrize(
    "chunks",
    [1, 2, pytest.param(3, marks=pytest.mark.slow)],
    ids=["mid epoch 1", "between epochs", "mid epoch 2"],
)
def test_resumed_it_ends_in_the_same_bits(whole, small, data, tmp_path, monkeypatch, chunks):
    stop_after(monkeypatch, chunks)
    outcome = start(small, data, tmp_path)
    assert outcome.interrupted
    assert checkpoint.newest(tmp_path / "checkpoints") == 3 * chunks
    assert (tmp_path / "weights.safetensors").is_file()
    monkeypatch.undo()
    monkeypatch.setattr(train, "LONGEST_CHUNK", 3)
    ticks = []
    outcome = start(small, data, tmp_path, resume=True, progress=ticks.append)
    assert not outcome.interrupted and ticks[0].step == 3 * (chunks + 1)
    same(tmp_path, whole)
    kept = json.loads((tmp_path / "checkpoints" / "12.json").read_text())["notes"]["rows"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert kept == [json.loads(line) for line in lines]


def test_resuming_a_finished_run_changes_nothing(whole, small, data, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "weights.safetensors").unlink()
    outcome = start(small, data, tmp_path, resume=True, progress=pytest.fail)
    assert not outcome.interrupted
    same(tmp_path, whole)


def test_it_is_judged_and_kept_by_averaged_synapses(whole, small, data, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    training = Training(small, data, SEED, tmp_path)
    outcome = training.run(resume=True)
    state = outcome.lives.circuit
    kept = configs.build_circuit(small, data.shape, data.classes, jax.random.key(0))
    kept = load_weights(tmp_path / "weights.safetensors", kept)
    weights = lambda circuit: np.asarray(circuit.synapses["input->h1"].weight)
    np.testing.assert_array_equal(weights(kept), weights(state.answering))
    assert not np.allclose(weights(kept), weights(state.circuit), rtol=1e-3)
    right = accuracy(training.learner, state.answering, training.judged, training.judged_labels)
    last = [row for row in outcome.rows if row["who"] == "circuit"][-1]
    assert last[f"{training.judge}_accuracy"] == right


def test_a_setting_that_is_newer_than_a_checkpoint_had_its_default(small, data, tmp_path):
    table = configs.as_table(small)
    table["optimiser"].pop("average")
    notes = {"config": table, "seed": SEED}
    training = Training(small, data, SEED, tmp_path)
    notes["data"] = training.fingerprint
    with pytest.raises(InputError, match=r"optimiser\.average"):
        training._check_unchanged(notes)
    latest = configs.as_table(small)
    latest["optimiser"]["average"] = 0.0
    Training(configs.resolve(latest), data, SEED, tmp_path)._check_unchanged(notes)


def test_a_finished_run_may_be_given_another_memory(whole, small, data, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    table = configs.as_table(small) | {"dream": {"code": 3, "rank": 1, "concepts": 1}}
    again = Training(configs.resolve(table), data, SEED, tmp_path)
    assert not again.run(resume=True, progress=pytest.fail).interrupted
    assert (tmp_path / "memory.safetensors").is_file()


def test_a_damaged_checkpoint_costs_an_epoch_and_not_the_run(whole, small, data, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoints" / "12.json").write_text("{}")
    told = []
    start(small, data, tmp_path, resume=True, warn=told.append)
    assert len(told) == 1 and "checkpoint 12 is damaged" in told[0]
    same(tmp_path, whole)


@pytest.mark.parametrize(
    "section, change, named",
    [
        ("train", {"epochs": 3}, "train.epochs"),
        ("circuit", {"hidden": [7]}, "circuit.hidden"),
        ("twin", {"enabled": False}, "twin.enabled"),
    ],
)
def test_a_changed_configuration_is_named(whole, small, data, section, change, named):
    table = configs.as_table(small)
    table[section] |= change
    training = Training(configs.resolve(table), data, SEED, whole)
    with pytest.raises(InputError, match=f"^{named} in .*config.toml is not what"):
        training.run(resume=True, warn=pytest.fail)


def test_another_seed_or_data_set_cannot_resume(whole, small, data):
    with pytest.raises(InputError, match=r"run\.seed"):
        Training(small, data, SEED + 1, whole).run(resume=True, warn=pytest.fail)
    other = dataclasses.replace(data, train_labels=data.train_labels[::-1].copy())
    with pytest.raises(InputError, match=r"data set .* is not the one"):
        Training(small, other, SEED, whole).run(resume=True, warn=pytest.fail)


@pytest.mark.slow
def test_a_full_disk_costs_only_what_was_not_saved(whole, small, data, tmp_path, monkeypatch):
    real = checkpoint._check_room

    def full(folder, arrays):
        raise OSError(28, "No space left on device")

    def progress(tick):
        if tick.step == 12:
            monkeypatch.setattr(checkpoint, "_check_room", full)

    with pytest.raises(InputError, match=r"checkpoint 12 .*disk is full; checkpoint 6 is intact"):
        start(small, data, tmp_path, progress=progress)
    monkeypatch.setattr(checkpoint, "_check_room", real)
    start(small, data, tmp_path, resume=True, warn=pytest.fail)
    same(tmp_path, whole)


def poisoned(monkeypatch, who, at):
    """From step `at` on, the weights of one of the two are not numbers after a chunk."""
    real = train.Training._advance

    def advance(self, lives):
        if int(lives.circuit.step) >= at:
            state = getattr(lives, who)
            bad = jax.tree.map(lambda leaf: leaf * jnp.nan, state.circuit.parameters()[0])
            bad = eqx.combine(bad, state.circuit.parameters()[1])
            lives = eqx.tree_at(lambda lives: getattr(lives, who).circuit, lives, bad)
        return real(self, lives)

    monkeypatch.setattr(train.Training, "_advance", advance)


@pytest.mark.parametrize(
    "who, remedy, said",
    [
        ("circuit", "optimiser.rate", "residual nan"),
        ("twin", "twin.rate", "residual 0, cost nan"),  # it settles nothing
    ],
)
def test_a_divergence_stops_and_the_good_checkpoint_stays(
    small, data, tmp_path, monkeypatch, who, remedy, said
):
    poisoned(monkeypatch, who, 6)
    with pytest.raises(DivergedError) as caught:
        start(small, data, tmp_path)
    text = str(caught.value)
    assert text.startswith(f"the {who} diverged at step 6 ({said}") and remedy in text
    assert "checkpoint 6 is good and kept" in text
    assert checkpoint.newest(tmp_path / "checkpoints") == 6
    assert len(rows(tmp_path)) == 2


def test_weights_that_left_the_numbers_in_the_last_step_are_not_saved(
    small, data, tmp_path, monkeypatch
):
    training = Training(small, data, SEED, tmp_path)
    real = training._sweep

    def sweep(learner, state, *rest):
        state, info = real(learner, state, *rest)
        if int(state.step) == 6:
            state = eqx.tree_at(
                lambda s: s.circuit.biases["output"], state, replace_fn=lambda b: b * jnp.inf
            )
        return state, info

    monkeypatch.setattr(training, "_sweep", sweep)
    with pytest.raises(DivergedError, match=r"diverged at step 5 .*nothing was saved"):
        training.run()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    "section, change, message",
    [
        ("train", {"batch": 61}, "train.batch is 61 but 60 training examples are left"),
        ("train", {"validation": 80}, "but 0 training examples"),
        ("train", {"shift": 5}, r"train.shift is 5: .* 5x7"),
        ("train", {"epochs": 2**31 - 1}, r"train.epochs is \d+: \d+ steps are more"),
        ("optimiser", {"rate": [1.0]}, "1 rates for 2 layers"),
        ("optimiser", {"rate": [0.1, 0.0]}, "rate of output is 0.0"),
        ("optimiser", {"rule": "adamm"}, "did you mean 'adam'"),
        ("noise", {"h9": 0.1}, "noise.h9"),
        ("circuit", {"family": "ngc", "activation": "tanh"}, "EquilibriumPropagation needs"),
        ("assigner", {"scheme": "centered"}, "did you mean 'centred'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(
    small, data, tmp_path, section, change, message
):
    table = configs.as_table(small)
    if "family" in change:
        table[section] = {"hidden": [6]}
    table[section] |= change
    with pytest.raises(InputError, match=message):
        Training(configs.resolve(table), data, SEED, tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "steps, longest, chunk", [(50, 500, 50), (1875, 500, 375), (1873, 500, 500), (1, 500, 1)]
)
def test_chunks_divide_an_epoch_or_are_long(monkeypatch, steps, longest, chunk):
    monkeypatch.setattr(train, "LONGEST_CHUNK", longest)
    assert train._chunk(steps) == chunk


def test_a_prime_number_of_batches_is_read_to_its_end(data, tmp_path, monkeypatch):
    table = {
        "circuit": {"hidden": []},
        "assigner": {"name": "backprop"},
        "train": {"batch": 12, "epochs": 1, "validation": 12},  # 5 steps, in chunks of 2, 2 and 1
        "twin": {"enabled": False},
    }
    monkeypatch.setattr(train, "_chunk", lambda steps: 2)
    training = Training(configs.resolve(table), data, SEED, tmp_path)
    ticks = []
    outcome = training.run(progress=ticks.append)
    assert [tick.step for tick in ticks] == [2, 4, 5] and not outcome.interrupted
    assert [row["epoch"] for row in rows(tmp_path)] == [1]
    order = np.concatenate([np.asarray(training.order(step)) for step in (0, 2, 4)])
    assert sorted(order.ravel()) == list(range(60))
    assert not (tmp_path / "twin.safetensors").exists()


def test_every_epoch_reads_every_example_in_another_order(small, data, tmp_path):
    training = Training(small, data, SEED, tmp_path)
    epochs = [np.concatenate([training.order(e * 6), training.order(e * 6 + 3)]) for e in (0, 1)]
    for order in epochs:
        assert sorted(order.ravel()) == list(range(60))  # and none of those held out
    assert not (epochs[0] == epochs[1]).all()


@pytest.mark.parametrize("rule", ["eqprop", pytest.param("zil", marks=pytest.mark.slow)])
def test_colour_images_are_learnt_by_convolutions(rule, real, tmp_path):
    """A smoke test: the first images of CIFAR-10, in batches of ten, are learnt by heart."""
    data = load_data(str(real("cifar10-subset")))
    few = dict(train_images=data.train_images[:30], train_labels=data.train_labels[:30])
    few |= dict(test_images=data.test_images[:10], test_labels=data.test_labels[:10])
    data = dataclasses.replace(data, **few)
    settings = ["train.epochs=12", "train.batch=10", "noise.hidden=0.0"]
    if rule == "zil":
        settings += ["optimiser.rule=adam", "optimiser.rate=0.003", "circuit.family=predictive"]
        settings += ["assigner={name='zil'}", "cost.kappa=1.0", "circuit.activation=relu"]
    preset = configs.read_preset("cifar10-conv-eqprop")
    config = configs.resolve(configs.override(preset, settings))
    config = dataclasses.replace(config, twin=dataclasses.replace(config.twin, enabled=False))
    outcome = Training(config, data, SEED, tmp_path).run()
    assert outcome.rows[0]["train_accuracy"] < 0.5 < outcome.rows[-1]["train_accuracy"]
    assert np.isfinite(outcome.rows[-1]["residual"])
