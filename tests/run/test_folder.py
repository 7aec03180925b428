"""A folder is taken only if it is free, and read back only if it is a run, whole and unedited."""

import dataclasses
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import anima
import anima.run.config as configs
from anima.core.errors import InputError
from anima.run import folder, metrics
from anima.run.interrupt import asked_to_stop, terminated_is_interrupted
from anima.run.weights import load_weights, save_weights


def begin(path, small, data, seed=0):
    about = dict(name="small", data_dir="", preset="digits-eqprop", seed=seed)
    return folder.begin(path, small, data, **about)


def circuit(hidden=6, key=0):
    return anima.Hopfield.mlp([35, hidden, 3], key=jax.random.key(key))


@pytest.mark.parametrize("seed", [0, folder.LARGEST_SEED])
def test_what_is_begun_is_read_back(tmp_path, small, data, seed):
    header = begin(tmp_path / "a" / "b c", small, data, seed)
    assert folder.read(tmp_path / "a" / "b c") == (header, small)
    assert (header.shape, header.classes, header.seed) == ([5, 7], 3, seed)


def test_an_empty_folder_is_taken_and_a_used_one_is_not(tmp_path, small, data):
    (tmp_path / "empty").mkdir()
    begin(tmp_path / "empty", small, data)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match=r"holds files already \(not an anima run\)"):
        begin(tmp_path / "mine", small, data)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="is a file"):
        begin(tmp_path / "mine" / "thesis.txt", small, data)
    with pytest.raises(InputError, match="cannot be written"):
        begin(tmp_path / "mine" / "thesis.txt" / "sub", small, data)
    with pytest.raises(InputError, match="cannot be written"):
        begin(tmp_path / ("x" * 300), small, data)
    os.symlink(tmp_path / "nowhere", tmp_path / "link")
    with pytest.raises(InputError, match="cannot be written"):
        begin(tmp_path / "link", small, data)


def test_a_run_is_named_as_one_with_the_command_to_go_on(tmp_path, small, data):
    path = tmp_path / "a b"
    begin(path, small, data)
    (path / "checkpoints").mkdir()
    with pytest.raises(InputError) as caught:
        folder.check_free(path)
    assert f"anima resume '{path}'" in str(caught.value)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "old, new, message",
    [
        ("[run]", "[ran]", "lacks a whole"),
        ("seed = 0\n", "", "lacks a whole"),
        ("seed = 0", "seed = -1", "run.seed is -1"),
        ("seed = 0", 'seed = "0"', "run.seed is '0'"),
        ("seed = 0", "seed = true", "run.seed is True"),
        ("classes = 3", "classes = 0", "run.classes cannot be"),
        ("classes = 3", 'classes = "3"', "run.classes is '3'"),
        ("    5,", "", "run.shape"),
        ('data = "small"', "data = 3", "run.data is 3"),
        ("[circuit]", "[circuits]", "did you mean 'circuit'"),
        ("epochs = 2", "epochs = 0", "train.epochs is 0"),
        ("epochs = 2", "epochs = ", "cannot read"),
    ],
)
def test_an_edited_configuration_is_refused_by_name(tmp_path, small, data, old, new, message):
    begin(tmp_path, small, data)
    text = (tmp_path / "config.toml").read_text()
    assert text.count(old) == 1
    (tmp_path / "config.toml").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        folder.read(tmp_path)


def test_what_is_no_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"not an anima run \(no config.toml\)"):
            anima.load(path)


def test_loading_gives_the_weights_that_were_saved(tmp_path, small, data):
    begin(tmp_path, small, data)
    with pytest.raises(InputError, match="no weights yet: finish it with `anima resume"):
        anima.load(tmp_path)
    learnt = configs.build_circuit(small, (5, 7), 3, jax.random.key(9))
    save_weights(tmp_path / "weights.safetensors", learnt)
    trained = anima.load(str(tmp_path))
    assert eqx.tree_equal(trained.circuit, learnt) and trained.twin is None
    save_weights(tmp_path / "twin.safetensors", learnt)
    twin = anima.load(tmp_path).twin
    assert twin is not None and eqx.tree_equal(twin.circuit, learnt)


def test_weights_are_named_arrays_that_anyone_can_read(tmp_path):
    learnt = circuit()
    save_weights(tmp_path / "w.safetensors", learnt)
    found = load_file(tmp_path / "w.safetensors")
    assert set(found) == {
        "synapses.input->h1.weight",
        "synapses.h1->output.weight",
        "biases.input",
        "biases.h1",
        "biases.output",
    }
    np.testing.assert_array_equal(found["biases.h1"], learnt.biases["h1"])
    assert eqx.tree_equal(load_weights(tmp_path / "w.safetensors", circuit(key=1)), learnt)


def _edited(path, **changes):
    found = load_file(path)
    for name, change in changes.items():
        key = next(key for key in found if key.endswith(name))
        found[key] = change(found[key])
    save_file(found, path)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, circuit(hidden=7))
    with pytest.raises(InputError, match=r"has shape \(.*7.*\), the circuit wants \(.*6.*\)"):
        load_weights(path, circuit())
    save_weights(path, anima.Hopfield.mlp([35, 6, 6, 3], key=jax.random.key(0)))
    with pytest.raises(InputError, match="does not fit the circuit: parameter"):
        load_weights(path, circuit())
    save_weights(path, circuit())
    _edited(path, output=lambda array: array.astype(np.int64))
    with pytest.raises(InputError, match="holds int64, the circuit wants floats"):
        load_weights(path, circuit())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot read the weights"):
        load_weights(path, circuit())
    with pytest.raises(InputError, match="cannot read the weights"):
        load_weights(tmp_path / "none", circuit())


def test_weights_of_another_precision_or_of_no_dimension_come_back_as_they_were(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, circuit())
    _edited(path, output=lambda array: array.astype(np.float64))
    assert eqx.tree_equal(load_weights(path, circuit(key=1)), circuit())
    scalar = dataclasses.replace(circuit(), biases={"h1": jnp.ones(())})
    save_weights(path, scalar)
    assert load_weights(path, scalar).biases["h1"].shape == ()


def test_metrics_keep_every_whole_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert metrics.read_rows(path) == []
    log = metrics.MetricsLog(tmp_path, rows=[{"epoch": 1}])
    log.add({"epoch": 2, "cost": 0.1 + 0.2})
    log.close()
    assert metrics.read_rows(path) == [{"epoch": 1}, {"epoch": 2, "cost": 0.1 + 0.2}]
    path.write_bytes(path.read_bytes() + b'{"epoch": 3, "co\xff')
    assert len(metrics.read_rows(path)) == 2


def test_metrics_say_so_when_the_disk_refuses(tmp_path):
    log = metrics.MetricsLog(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*the last checkpoint is intact"):
        log.add({"epoch": 1})


def test_tensorboard_is_an_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"pip install 'anima\[tensorboard\]'"):
        metrics.check_tensorboard()


def test_tensorboard_gets_the_numbers_by_who_they_are_of(tmp_path, monkeypatch):
    import sys
    import types

    written = []

    class Writer:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, *scalar):
            written.append(scalar)

        flush = close = lambda self: None

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    log = metrics.MetricsLog(tmp_path, tensorboard=True)
    log.add({"who": "twin", "epoch": 1, "step": 6, "cost": 0.5})
    log.close()
    assert written == [str(tmp_path / "tensorboard"), ("twin/cost", 0.5, 6)]


def test_the_first_signal_is_a_question_and_a_second_ctrl_c_an_end():
    import signal

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with asked_to_stop() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
    with asked_to_stop() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        os.kill(os.getpid(), signal.SIGINT)
    with terminated_is_interrupted(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_off_the_main_thread_nothing_is_handled_and_nothing_breaks():
    import threading

    said = []

    def work():
        with terminated_is_interrupted(), asked_to_stop() as stop:
            said.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert said == [False]
