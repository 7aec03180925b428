"""The command as people use it: what it prints, where, with which exit code, and what it leaves."""

import contextlib
import errno
import gzip
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import anima
import anima.run.config as configs
import anima.run.train as train
from anima.app import cli
from anima.app.progress import display, downloads, learning
from anima.run import checkpoint

TINY = [
    *("--set", "circuit.hidden=[8]"),
    *("--set", "train.batch=200"),
    *("--set", "assigner.solver=euler"),
    *("--set", "optimiser.rate=1"),
    *("--set", "noise={}"),
    *("--set", "optimiser.schedule=constant"),
    *("--epochs", "2"),
]
KEYS = {"run", "seed", "epochs", "test_accuracy", "test_error", "twin_accuracy"}


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """A compilation cache for this process and those it starts."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    settings = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.05,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield {name.upper(): str(value) for name, value in settings.items()}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    """Every test works in an empty folder of its own, without a data folder set."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
    monkeypatch.delenv("ANIMA_DATA", raising=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, compiled):
    """A finished run on digits: its folder, and what the command said."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["learn", "digits", *TINY, "--seed", "3", "--out", str(folder), "--json"])
    return types.SimpleNamespace(folder=folder, code=code, out=out.getvalue(), err=err.getvalue())


@pytest.fixture
def copy(finished, tmp_path):
    """That run again, to be mistreated."""
    return Path(shutil.copytree(finished.folder, tmp_path / "run"))


@pytest.fixture
def unbegun(monkeypatch):
    """Training would begin here; the tests that use this are over before or at it."""
    monkeypatch.setattr(cli, "_train", lambda *args, **kwargs: 99)


def refused(capsys, *arguments, code=cli.BAD_INPUT):
    """Runs the command and returns its one line of complaint."""
    assert cli.main([str(argument) for argument in arguments]) == code
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("anima: ")
    return said.err.removeprefix("anima: ").rstrip("\n")


def write_idx(path, values):
    values = np.asarray(values)
    kind = {"uint8": 0x08, ">f4": 0x0D, "float32": 0x0D}[str(values.dtype)]
    sizes = np.asarray(values.shape, ">u4").tobytes()
    body = bytes([0, 0, kind, values.ndim]) + sizes + values.astype(values.dtype).tobytes()
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)


def idx_folder(path, shape=(5, 7), train=30, test=12):
    """Three classes, told apart by their brightness."""
    path.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 3).astype(np.uint8)
        images = draw.integers(0, 60, (count, *shape)) + 90 * labels.reshape(-1, *[1] * len(shape))
        write_idx(path / f"{part}-images-idx{1 + len(shape)}-ubyte", images.astype(np.uint8))
        write_idx(path / f"{part}-labels-idx1-ubyte.gz", labels)
    return path


# A run, and what can be done with it.


def test_json_is_one_object_on_stdout_and_progress_is_on_stderr(finished):
    assert finished.code == 0
    result = json.loads(finished.out)
    assert finished.out.count("\n") == 1 and set(result) >= KEYS
    assert (result["run"], result["seed"], result["epochs"]) == (str(finished.folder), 3, 2)
    assert result["test_error"] == 1 - result["test_accuracy"]
    assert 0.1 < result["test_accuracy"] < 1 and 0.1 < result["twin_accuracy"] < 1
    lines = finished.err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    for word in ("cost", "accuracy", "energy", "residual", "steps/s", "test", "twin"):
        assert word in lines[0]


def test_a_run_is_a_folder(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {
        "config.toml",
        "metrics.jsonl",
        "checkpoints",
        "figures",
        "report.html",
        "weights.safetensors",
        "twin.safetensors",
    }
    assert {path.suffix for path in (finished.folder / "figures").iterdir()} == {".png"}


def test_load_predicts_what_the_run_reported(finished):
    trained = anima.load(finished.folder)
    data = trained.data()
    outputs = np.asarray(trained.predict(data.test_images.reshape(-1, 64)))
    accuracy = float(np.mean(outputs.argmax(-1) == data.test_labels))
    assert accuracy == json.loads(finished.out)["test_accuracy"]
    with pytest.raises(anima.InputError, match="shape"):
        trained.predict(np.zeros((2, 63), np.float32))


def test_evaluate_says_the_same_and_can_write_it(finished, capsys, tmp_path):
    out = tmp_path / "new" / "judged"
    assert cli.main(["evaluate", f"{finished.folder}/", "--json", "--out", str(out)]) == 0
    said = capsys.readouterr()
    result, reported = json.loads(said.out), json.loads(finished.out)
    assert said.err == "" and {key: result[key] for key in KEYS} == {
        key: reported[key] for key in KEYS
    }
    assert json.loads((out / "evaluate.json").read_text()) == result
    assert cli.main(["evaluate", str(finished.folder)]) == 0
    assert "% of 797 test examples" in capsys.readouterr().out
    assert cli.main(["evaluate", str(finished.folder), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert "holds files already" in refused(capsys, "evaluate", finished.folder, "--out", out)


def test_resuming_a_finished_run_is_harmless(finished, copy, capsys):
    assert cli.main(["resume", str(copy), "--json", "--seed", "3", "--out", f"{copy}/"]) == 0
    said = capsys.readouterr()
    result, before = json.loads(said.out), json.loads(finished.out)
    assert said.err == ""
    assert {key: result[key] for key in KEYS - {"run"}} == {
        key: before[key] for key in KEYS - {"run"}
    }
    for name in ("weights.safetensors", "twin.safetensors", "metrics.jsonl", "config.toml"):
        assert (copy / name).read_bytes() == (finished.folder / name).read_bytes(), name


@pytest.mark.unchecked
def test_the_report_names_a_command_that_makes_the_run_again(finished):
    from anima.app.summary import _command
    from anima.run import folder

    header, config = folder.read(finished.folder)
    text = _command(header, types.SimpleNamespace(config=config))
    words = shlex.split(text)
    assert words[0] == "anima"
    options = cli._parse(words[1:])
    again = configs.resolve(configs.override(configs.read_preset(options.preset), options.set))
    assert (options.data, options.seed, again) == ("digits", 3, config)
    table = configs.as_table(config) | {"assigner": {"name": "backprop"}}
    table["cost"] = {"name": "squared"}
    table["circuit"]["hidden"] = [{"channels": 2, "kernel": 3, "pool": "max"}, 5]
    config = configs.resolve(table)
    options = cli._parse(shlex.split(_command(header, types.SimpleNamespace(config=config)))[1:])
    assert (
        configs.resolve(configs.override(configs.read_preset(header.preset), options.set)) == config
    )


def test_interrupted_and_resumed_it_ends_the_same(finished, tmp_path, capsys, monkeypatch):
    @contextlib.contextmanager
    def at_once():
        yield lambda: True

    run = tmp_path / "stop go"
    monkeypatch.setattr(train, "asked_to_stop", at_once)
    arguments = ["learn", "digits", *TINY, "--seed", "3", "--out", str(run)]
    assert cli.main([*arguments, "--quiet"]) == cli.INTERRUPTED
    said = capsys.readouterr()
    command = f"anima resume '{run}'"
    assert said.out == "" and said.err.count("\n") == 1
    assert "interrupted at step 5 and saved" in said.err and command in said.err
    assert not (run / "report.html").exists()
    assert command in refused(capsys, *arguments)
    monkeypatch.undo()
    assert cli.main(["resume", str(run), "--json"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("epoch 2/2") and said.err.count("\n") == 1
    assert json.loads(said.out)["test_accuracy"] == json.loads(finished.out)["test_accuracy"]
    for name in ("weights.safetensors", "twin.safetensors"):
        assert (run / name).read_bytes() == (finished.folder / name).read_bytes()


def test_a_damaged_checkpoint_is_a_warning_and_none_an_error(finished, copy, capsys):
    for path in (copy / "checkpoints" / "10").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    assert cli.main(["resume", str(copy), "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("anima: checkpoint 10 is damaged")
    weights = "weights.safetensors"
    assert (copy / weights).read_bytes() == (finished.folder / weights).read_bytes()
    for path in (copy / "checkpoints").glob("*.json"):
        path.write_text("")
    assert cli.main(["resume", str(copy)]) == cli.BAD_INPUT
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 3 and "no good checkpoint" in warned[-1]
    assert (copy / weights).read_bytes() == (finished.folder / weights).read_bytes()
    shutil.rmtree(copy / "checkpoints")
    assert "no good checkpoint" in refused(capsys, "resume", copy)


def test_a_run_goes_on_as_it_began_or_not_at_all(copy, capsys):
    text = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(text.replace("beta = 0.2", "beta = 0.25"))
    assert refused(capsys, "resume", copy).startswith("assigner.beta in ")
    (copy / "config.toml").write_text(text.replace("\nseed = 3", "\nseed = 4"))
    assert refused(capsys, "resume", copy).startswith("run.seed in ")
    (copy / "config.toml").write_text(text.replace("epochs = 2", "epocs = 2"))
    assert "did you mean 'epochs'" in refused(capsys, "resume", copy)
    (copy / "config.toml").write_text(text)
    for command in ("resume", "evaluate"):
        assert "the run's is 3" in refused(capsys, command, copy, "--seed", "4")
    assert "leave --out away" in refused(capsys, "resume", copy, "--out", copy / "more")
    (copy / "weights.safetensors").write_bytes(b"none")
    assert "cannot read the weights" in refused(capsys, "evaluate", copy)


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path, capsys, monkeypatch):
    import orbax.checkpoint as ocp

    real = ocp.StandardCheckpointer.save

    def save(self, path, *args, **kwargs):
        if path.name == "10":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, path, *args, **kwargs)

    monkeypatch.setattr(ocp.StandardCheckpointer, "save", save)
    run = tmp_path / "run"
    line = refused(capsys, "learn", "digits", *TINY, "--out", run, "--quiet")
    assert "the disk is full; checkpoint 5 is intact: make room, then resume" in line
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"5", "5.json"}


def test_a_full_disk_while_the_report_is_drawn_is_bad_input_too(copy, capsys, monkeypatch):
    import anima.app.summary as summary

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(summary, "write_summary", full)
    assert "the run itself is saved: make room" in refused(capsys, "resume", copy)


def test_a_really_full_disk_takes_no_run(tmp_path, capsys, unbegun):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here (needs root)")
    try:
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        line = refused(capsys, "learn", "digits", *TINY, "--out", disk / "run")
        assert "No space left on device" in line
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_disk_takes_no_run(tmp_path, capsys, unbegun):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here (needs root)")
    try:
        line = refused(capsys, "learn", "digits", *TINY, "--out", disk / "run")
        assert "cannot be written (Read-only file system)" in line
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_absurd_rate_stops_with_step_residual_and_remedy(tmp_path, capsys):
    small = ["--set", "circuit.hidden=[]", "--set", "noise={}", "--set", "twin.enabled=false"]
    absurd = ["--set", "assigner={name='backprop'}", "--set", "optimiser.rate=1e38"]
    run = tmp_path / "run"
    line = refused(capsys, "learn", "digits", *small, *absurd, "--out", run, "--quiet", code=1)
    assert line.startswith("the circuit diverged at step ") and "(residual " in line
    assert "reduce optimiser.rate" in line and "nothing was saved" in line
    assert not (run / "weights.safetensors").exists()


CONVOLUTION = pytest.param("[{channels=2, kernel=3, pool='max'}, 6]", marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["[6]", CONVOLUTION])
def test_images_of_any_shape_from_a_folder_that_moves(hidden, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    idx_folder(tmp_path / "my data" / "colour", (5, 7, 3))
    options = [
        *("--set", f"circuit.hidden={hidden}"),
        *("--set", "assigner={name='backprop'}"),
        *("--set", "train.batch=30"),
        *("--set", "noise={}"),
        *("--set", "twin.enabled=false"),
        *("--epochs", "1"),
    ]
    where = ["learn", "colour/", "--data-dir", "my data/"]
    assert cli.main([*where, *options, "--json", "--quiet"]) == 0
    said = capsys.readouterr()
    run = tmp_path / json.loads(said.out)["run"]
    assert said.err == "" and run == tmp_path / "runs" / "colour-mnist-eqprop-0"
    header = anima.load(run).header
    assert (header.shape, header.classes) == ([5, 7, 3], 3)
    assert header.data == str(tmp_path / "my data" / "colour") and header.data_dir == ""

    monkeypatch.chdir(tmp_path / "my data")
    assert cli.main(["evaluate", str(run), "--quiet"]) == 0
    shutil.move(tmp_path / "my data" / "colour", tmp_path / "moved")
    monkeypatch.setattr(cli, "_train", lambda *args, **kwargs: 99)
    for command, code in (("evaluate", 0), ("resume", 99)):
        assert "no folder" in refused(capsys, command, run)
        assert cli.main([command, str(run), "--data-dir", "../moved", "--quiet"]) == code
    idx_folder(tmp_path / "grey")
    assert "shape (5, 7), the run" in refused(capsys, "evaluate", run, "--data-dir", "../grey")


# Bad input.


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        ([], "name a command: learn, live, resume, evaluate, dream, bench"),
        (["lern"], "unknown command 'lern': did you mean 'learn'"),
        (["--quiet"], "name a command"),
        (["learn"], "arguments are required: DATA"),
        (["learn", "digits", "--epoch", "3"], "did you mean '--epochs'"),
        (["learn", "digits", "--epoch=3"], "'--epoch': did you mean '--epochs'"),
        (["--json", "learn", "digits"], "write it after the command"),
        (["learn", "digits", "more"], "'more': it is one argument too many"),
        (["learn", "digits", "--epochs"], "expected one argument"),
        (["learn", "digits", "--epochs", "two"], "invalid int value: 'two'"),
        (["learn", "digits", "--epochs", "1.5"], "invalid int value: '1.5'"),
        (["learn", "digits", "--epochs", "0"], "train.epochs is 0: it must be at least 1"),
        (["learn", "digits", "--epochs", "-3"], "train.epochs is -3"),
        (["learn", "digits", "--seed", "-1"], "'-1' is not a whole number"),
        (["learn", "digits", "--seed", "1.5"], "'1.5' is not a whole number"),
        (["learn", "digits", "--seed", "nan"], "'nan' is not a whole number"),
        (["learn", "digits", "--seed", "4294967296"], "'4294967296' is not a whole number"),
        (["learn", "digits", "--preset", "digit-eqprop"], "did you mean 'digits-eqprop'"),
        (["learn", "digits", "--set", "train.batch=0"], "train.batch is 0"),
        (["learn", "digits", "--set", "train.batch=-5"], "train.batch is -5"),
        (["learn", "digits", "--set", "train.batch=1001"], "train.batch is 1001 but 1000"),
        (["learn", "digits", "--set", "train.bach=3"], "did you mean 'batch'"),
        (["learn", "digits", "--set", "train.batch='many'"], "must be a whole number"),
        (["learn", "digits", "--set", "train.shift=8"], "train.shift is 8"),
        (["learn", "digits", "--set", "optimiser.rate=nan"], "optimiser.rate is nan"),
        (["learn", "digits", "--set", "optimiser.rate=0"], "rate of h1 is 0.0"),
        (["learn", "digits", "--set", "assigner.beta=0"], "beta is 0.0: it must be positive"),
        (["learn", "digits", "--set", "assigner.beta=inf"], "assigner.beta is inf"),
        (["learn", "digits", "--set", "assigner.free_steps=0"], "free_steps is 0"),
        (["learn", "digits", "--set", "assigner.tol=-1"], "assigner.tol is -1"),
        (["learn", "digits", "--set", "circuit.hidden=[0]"], "sizes must be positive"),
        (["learn", "digits", "--set", "circuit.hidden=[8,-8]"], "sizes must be positive"),
        (
            ["learn", "digits", "--set", "circuit.hidden=[{channels=2,kernel=9}]"],
            "window of 9 does",
        ),
        (["learn", "digits", "--set", "circuit.activation=tahn"], "did you mean 'tanh'"),
        (["learn", "digits", "--set", "noise.hiden=0.1"], "did you mean 'hidden'"),
        (["learn", "digits", "--set", "noise.hidden=1"], "silence rate"),
        (["learn", "digits", "--set", "twin.rate=0"], "twin.rate is 0.0"),
        (["learn", "digit"], "did you mean 'digits'"),
        (["learn", "fashion"], "fashion-mnist"),
        (["learn", ""], "unknown data set ''"),
        (["learn", "./none"], "no folder"),
        (["learn", "mnist", "--data-dir", "none"], "no folder 'none' (data_dir)"),
        (["resume", "none"], "is not an anima run"),
        (["evaluate", "none"], "is not an anima run"),
        (["bench", "eqprop-11"], "did you mean 'eqprop-1'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, unbegun, arguments, wanted):
    if arguments[:2] == ["learn", "digits"]:
        arguments = ["learn", "digits", "--set", "circuit.hidden=[8]", *arguments[2:]]
    assert wanted in refused(capsys, *arguments)
    assert os.listdir() == []


def test_what_no_memory_holds_is_bad_input(tmp_path, capsys, monkeypatch):
    """What XLA says of `agent.batch=1000000000`; a machine that overcommits would try it."""
    text = "RESOURCE_EXHAUSTED: Out of memory allocating 2628000029120 bytes."

    def exhausted(*words, **more):
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr("anima.run.live.Living.run", exhausted)
    said = refused(capsys, "live", "CartPole-v1", "--out", tmp_path / "run", "--quiet")
    assert "an array of 2,447.5 GiB does not fit into memory: reduce a size" in said
    assert not (tmp_path / "run").exists()


def test_an_occupied_out_is_refused_before_data_are_read(tmp_path, capsys, finished, monkeypatch):
    import anima.world.data

    monkeypatch.setattr(anima.world.data, "load_data", lambda *a, **k: pytest.fail("read"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    learn = ["learn", "digits", "--out"]
    assert "not an anima run" in refused(capsys, *learn, tmp_path / "mine")
    assert "is a file" in refused(capsys, *learn, tmp_path / "mine" / "thesis.txt")
    assert f"anima resume '{finished.folder}'" in refused(capsys, *learn, finished.folder)
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


def test_an_out_that_cannot_be_made_is_refused(tmp_path, capsys, unbegun):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        assert "cannot be written" in refused(capsys, "learn", "digits", *TINY, "--out", out)


def _without(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()


def _truncated(folder):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])


def _broken_gzip(folder):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])


def _mislabelled(folder):
    images = (folder / "train-images-idx3-ubyte").read_bytes()
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(images))


def _other_count(folder):
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.zeros(11, np.uint8))


def _label_too_large(folder):
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.full(12, 3, np.uint8))


def _not_a_number(folder):
    (folder / "train-images-idx3-ubyte").unlink()
    images = np.full((30, 5, 7), 0.5, np.float32)
    images[4, 1, 2] = np.nan
    write_idx(folder / "train-images-idx3-float", images.astype(">f4"))


@pytest.mark.parametrize(
    "damage, wanted",
    [
        (_without, "lacks t10k-labels-idx1-ubyte.gz"),
        (_truncated, "truncated"),
        (_broken_gzip, "corrupt or truncated gzip"),
        (_mislabelled, "mislabelled"),
        (_other_count, "11 labels for 12 images"),
        (_label_too_large, "label 3 at position 0 is outside 0..2"),
        (_not_a_number, "the value nan at (4, 1, 2) is not finite"),
    ],
)
def test_a_bad_data_folder_is_one_line_and_leaves_nothing(
    tmp_path, capsys, unbegun, damage, wanted
):
    folder = idx_folder(tmp_path / "my data")
    small = ["--set", "circuit.hidden=[6]", "--set", "train.batch=10", "--out", tmp_path / "run"]
    damage(folder)
    assert wanted in refused(capsys, "learn", f"{folder}/", *small)
    assert os.listdir(tmp_path) == ["my data"]


@pytest.mark.parametrize("arguments", [["--help"], ["learn", "--help"], ["--version"]])
def test_help_and_version(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    said = capsys.readouterr()
    assert stopped.value.code in (0, None) and said.err == ""
    assert said.out.startswith(("usage: anima", "anima 0"))


def test_debug_adds_the_traceback_and_keeps_the_code(capsys):
    assert cli.main(["learn", "digits", "--epochs", "0", "--debug"]) == cli.BAD_INPUT
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Traceback (most recent call last):"
    assert said[-1].startswith("anima: train.epochs is 0")


def test_what_nobody_foresaw_exits_1_in_one_line(capsys, monkeypatch):
    def broken(name):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(configs, "read_preset", broken)
    line = refused(capsys, "learn", "digits", code=cli.FAILED)
    assert line == "RuntimeError: two lines (--debug shows the traceback)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_outside_training_exits_130(capsys, monkeypatch, number):
    monkeypatch.setattr(configs, "read_preset", lambda name: os.kill(os.getpid(), number))
    # were SIGTERM not handled, it would end the tests and not only this one; and a shell that runs
    # them in the background has them ignore SIGINT
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *args: pytest.fail("not handled")),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    try:
        assert refused(capsys, "learn", "digits", code=cli.INTERRUPTED) == "interrupted"
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def test_a_run_without_out_gets_a_free_name(unbegun):
    for _ in range(3):
        assert cli.main(["learn", "digits", *TINY, "--seed", "7"]) == 99
    assert sorted(os.listdir("runs")) == [
        "digits-eqprop-7",
        "digits-eqprop-7.2",
        "digits-eqprop-7.3",
    ]


# Progress.


def tick(step, rows=()):
    numbers = dict(cost=0.5, accuracy=0.25, energy=3.0, residual=1e-3, steps_per_second=7.0)
    return train.Tick(epoch=-(-step // 4), epochs=2, step=step, steps=8, rows=list(rows), **numbers)


ROWS = [
    {"who": "circuit", "epoch": 1, "validation_accuracy": 0.5},
    {"who": "twin", "epoch": 1, "validation_accuracy": 0.75},
]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, quiet=False):
    with display(quiet, stream, learning()) as (progress, warn):
        for now in (tick(2), tick(4, ROWS), tick(6, ROWS)):
            progress(now)
        warn("careful")
    return stream.getvalue()


def test_plain_progress_is_a_line_an_epoch_even_after_resuming():
    first, second = shown(io.StringIO()).splitlines()
    assert first.startswith("epoch 1/2  cost 0.5000  accuracy 25.0%  energy 3.00  residual 1.0e-03")
    assert (
        first.endswith("7 steps/s  validation 50.00%  twin 75.00%") and second == "anima: careful"
    )


def test_quiet_progress_is_warnings_only():
    assert shown(Terminal(), quiet=True) == shown(io.StringIO(), quiet=True) == "anima: careful\n"


def test_live_progress_shows_all_that_matters_and_the_time_left(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    text = shown(Terminal())
    for word in ("epoch 2/2", "75%", "cost 0.5000", "energy 3.00", "residual 1.0e-03", "7 steps/s"):
        assert word in text
    assert re.search(r"\d\d:\d\d|--:--", text)


def test_a_download_shows_a_bar_and_its_absence_nothing():
    stream = io.StringIO()
    with downloads(False, stream):
        pass
    assert stream.getvalue() == ""
    for quiet in (True, False):
        with downloads(quiet, stream) as progress:
            progress("train-images", 5, 10)
            progress("train-images", 10, 10)
            progress("labels", 1, None)
        assert ("train-images" in stream.getvalue()) is not quiet


# A real process.


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_signal_saves_exits_130_and_can_be_resumed(
    tmp_path, compiled, finished, capsys, monkeypatch, number
):
    run = tmp_path / "run"
    command = [sys.executable, "-W", "error", "-m", "anima", "learn", "digits", *TINY]
    command += ["--epochs", "100000", "--out", str(run), "--json", "--set", "twin.enabled=false"]
    environment = os.environ | compiled
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        first = process.stderr.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=100)
    assert first.startswith("epoch 1/100000"), first + err
    assert process.returncode == cli.INTERRUPTED and out == ""
    assert "interrupted at step" in err.splitlines()[-1] and "Traceback" not in err
    step = checkpoint.newest(run / "checkpoints")
    assert step is not None and (run / "weights.safetensors").is_file()

    @contextlib.contextmanager
    def at_once():
        yield lambda: True

    monkeypatch.setattr(train, "asked_to_stop", at_once)
    assert cli.main(["resume", str(run), "--quiet"]) == cli.INTERRUPTED
    assert f"interrupted at step {step + 5} and saved" in capsys.readouterr().err


@pytest.mark.slow
def test_output_that_nobody_reads_is_no_traceback(finished, compiled):
    command = f"{shlex.quote(sys.executable)} -m anima evaluate {shlex.quote(str(finished.folder))}"
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true"],
        capture_output=True,
        text=True,
        env=os.environ | compiled | {"PYTHONUNBUFFERED": ""},
    )
    assert ran.stderr == "" and ran.returncode in (0, 1)
