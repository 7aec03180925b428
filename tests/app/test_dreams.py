"""`anima dream`: what it writes, what it says, and what it refuses."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import anima
from anima.app import cli
from anima.app.dreams import gif, upper_half

LEARN = [
    *("learn", "digits", "--preset", "digits-dream", "--epochs", "1", "--quiet"),
    *("--set", "circuit.hidden=[8]", "--set", "train.batch=200", "--set", "noise={}"),
    *("--set", "assigner.solver=euler"),
    *("--set", "dream.code=10", "--set", "dream.passes=4", "--set", "dream.rank=3"),
]


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs, tmp_path_factory):
    with quick_programs(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    gate = ["--set", "gate.name=quantile", "--set", "gate.share=0.5"]
    assert cli.main([*LEARN, *gate, "--out", str(folder)]) == cli.DONE
    return folder


def said(capsys, *arguments):
    capsys.readouterr()
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_label_is_dreamt(run, tmp_path, capsys):
    ask = ["dream", run, "--label", 3, "--count", 6, "--steps", 60, "--json"]
    code, out, _ = said(capsys, *ask, "--out", tmp_path / "a")
    result = json.loads(out)
    assert code == 0 and result["labels"] == [3] and result["count"] == 6
    found = np.load(result["images"])
    assert found["images"].shape == (6, 64) and set(found["labels"]) == {3}
    assert found["images"].min() >= 0 and found["images"].max() <= 1
    judged = anima.load(run).memory.density(found["images"], 10)
    assert np.mean(np.asarray(judged).argmax(-1) == 3) > 0.6
    with Image.open(result["film"]) as film, Image.open(result["figure"]) as figure:
        assert film.size == (64, 64) and film.n_frames > 20 and figure.width > 800
    other = said(capsys, *ask, "--seed", 5, "--out", tmp_path / "c")[1]
    assert not np.array_equal(np.load(json.loads(other)["images"])["images"], found["images"])


def test_halves_are_completed(run, tmp_path, capsys):
    code, out, _ = said(
        capsys,
        "dream",
        run,
        "--complete",
        "--count",
        5,
        "--label",
        0,
        "--json",
        "--out",
        tmp_path / "d",
    )
    result = json.loads(out)
    found = np.load(result["images"])
    seen = upper_half((8, 8))
    assert code == 0 and result["count"] == 5 and result["recognised"] > 0.5
    np.testing.assert_array_equal(found["images"][:, seen], found["truth"][:, seen])
    assert np.abs(found["images"] - found["truth"])[:, ~seen].max() > 0.01


def test_the_report_shows_dreams_and_the_metrics_the_gate(run):
    assert (run / "figures" / "dreams.png").exists()
    (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert 0 < row["skipped"] < 1 and row["threshold"] > 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--label", "11"], "label 11 was never learnt: choose one of 0, 1, 2"),
        (["--count", "0"], "--count is 0: it must be from 1 to 10000"),
        (["--count", "10001"], "--count is 10001"),
        (["--steps", "0"], "--steps is 0"),
        (["--temperature", "-1"], "--temperature is -1.0"),
        (["--temperature", "nan"], "--temperature is nan"),
        (["--complete", "--count", "0"], "--count is 0"),
        (["--complete", "--count", "9999"], "there are"),
        (["--complete", "--steps", "0"], "--steps is 0"),
        (["--complete", "--temperature", "1"], "a completion settles without noise"),
        (["--complete", "--label", "-1"], "label -1 was never learnt"),
    ],
)
def test_bad_dreams_are_refused_in_a_line(run, capsys, extra, message):
    code, out, err = said(capsys, "dream", run, *extra)
    assert code == cli.BAD_INPUT and out == "" and err.count("\n") == 1 and message in err


def test_a_run_without_a_memory_says_how_to_get_one(run, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / "memory.safetensors").unlink()
    code, _, err = said(capsys, "dream", copy)
    assert code == cli.BAD_INPUT and "has no memory yet: finish it with `anima resume" in err
    text = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(text.replace("code = 10", "code = 0"))
    code, _, err = said(capsys, "dream", copy)
    assert code == cli.BAD_INPUT and "--preset digits-dream" in err and "--set dream.code=64" in err


def test_a_life_of_agents_is_told_what_dreams(tmp_path, capsys):
    (tmp_path / "config.toml").write_text("[agent]\nname = 'dqn'\n")
    code, _, err = said(capsys, "dream", tmp_path)
    assert code == cli.BAD_INPUT and "is a life of agents" in err and "mnist-dream" in err


def test_a_damaged_memory_is_refused(run, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / "memory.safetensors").write_bytes(b"no")
    code, _, err = said(capsys, "dream", copy)
    assert code == cli.BAD_INPUT and "memory.safetensors" in err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dream.code=65", "dream.code is 65: images of 64 pixels"),
        ("dream.rank=10", "dream.rank is 10: it must be less than the code's 10"),
        ("dream.concepts=500", "dream.concepts is 500: a class of"),
        ("dream.read=h1", "give one of them"),
        ("gate={name='quantile', share=2.0}", "share is 2.0"),
        ("gate={name='quantil'}", "did you mean 'quantile'"),
    ],
)
def test_bad_settings_are_refused(setting, message, tmp_path, capsys):
    code, _, err = said(capsys, *LEARN, "--set", setting, "--out", tmp_path / "x")
    assert code == cli.BAD_INPUT and message in err


def test_a_film_of_colours_keeps_them():
    frames = np.zeros((3, 4 * 4 * 3))
    frames[:, ::3] = 1.0  # red ink: white paper without it
    film = Image.open(io.BytesIO(gif(frames, (4, 4, 3))))
    red, green, blue = film.convert("RGB").getpixel((1, 1))
    assert red < 20 and green > 230 and blue > 230
