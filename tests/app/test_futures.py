"""The living agent's report: from the command to what it imagined; its figures."""

import json

import numpy as np
import pytest

from anima.app import figures, summary
from anima.app.cli import main
from anima.core.errors import InputError

TINY = ["--set=agent.hidden=[4]", "--set=agent.assigner=backprop", "--set=agent.credit={}"]
TINY += ["--set=agent.updates=1", "--set=agent.batch=4", "--set=agent.capacity=40"]
TINY += ["--set=agent.warmup=6", "--set=agent.plan.horizon=2", "--set=agent.plan.hold=1"]
TINY += ["--set=agent.lookahead=3", "--set=live.judge_every=10", "--set=live.judge_episodes=1"]
TINY += ["--set=live.episodes=1"]


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs, tmp_path_factory):
    with quick_programs(tmp_path_factory.mktemp("compiled")):
        yield


def test_a_life_is_reported_with_what_it_imagined(tmp_path, capsys):
    words = ["live", "CartPole-v1", "--agent", "living", "--steps", "20", "--json"]
    assert main([*words, "--out", str(tmp_path / "run"), *TINY]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["agent"] == "living" and found["environment_steps"] == 20
    assert "note" not in found and "model error" in err and "skipped 0%" in err
    drawn = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"life.png", "futures.png", "model.png", "dreams.png"} <= drawn
    assert {"newborn.gif", "policy.gif"} <= drawn
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Newborn, at random." in report and "4 futures of 2 imagined steps" in report
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "played", lambda *words, **more: asked.append(words))
        assert main(["resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert len(asked) == 1, "a world that could not be drawn was asked again"


@pytest.mark.slow
def test_a_life_too_short_to_learn_says_so(tmp_path, capsys):
    words = ["live", "CartPole-v1", "--agent", "living", "--steps", "20", "--quiet"]
    late = [word for word in TINY if "warmup" not in word] + ["--set=agent.warmup=99"]
    assert main([*words, "--out", str(tmp_path / "run"), *late]) == 0
    assert "acts at random" in capsys.readouterr().err
    assert "acts at random" in (tmp_path / "run" / "report.html").read_text()
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert "acts at random" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["CartPole-v1", "--set", "agent.prefer.height.target=1.0"], "shows no such state"),
        (["CartPole-v1", "--set", "agent.plan.horizon=40"], "too many"),
        (["CartPole-v1", "--set", "agent.planner=oracle"], "unknown agent.planner"),
        (["CartPole-v1", "--set", "world.change={at=9, wind=1.0}"], "no constant 'wind'"),
        (["LunarLander-v3"], "LunarLander-v3"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["live", *words, "--agent", "living"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err
    assert not list(tmp_path.iterdir())


def test_imagined_futures_mark_the_lowest_energy():
    paths = {"angle": np.linspace(0, [[1.0], [-1.0], [0.1]], 5)[:, :, 0].T}
    energies = np.array([3.0, 2.0, 0.5])
    one = {"angle": paths["angle"][2]}
    figure = figures.imagined_futures(
        paths, one, {"angle": np.zeros(9)}, {"angle": 0.0}, np.array([0, 1, 1]), energies
    )
    assert "3 imagined futures over 4 steps" in figures.alt_text(figure)
    left, right = figure.axes
    assert len(left.lines) == 3 + 3  # the futures, what is wanted, the plan, what came
    np.testing.assert_array_equal(left.lines[-2].get_ydata(), one["angle"])
    assert len(left.lines[-1].get_ydata()) == 5
    marked = right.collections[-1].get_offsets()[0]
    assert marked[1] == 0.5 and abs(marked[0] - 1) < 0.3
    with pytest.raises(InputError, match="no future"):
        figures.imagined_futures({}, {}, {}, {}, np.array([]), np.array([]))


def test_dreams_begin_where_life_was():
    lived = {"angle": np.arange(11.0), "spin": np.arange(11.0) ** 2}
    dreams = [(at, {name: values[at : at + 4] for name, values in lived.items()}) for at in (0, 5)]
    figure = figures.dreamt_states(lived, dreams)
    assert "2 dreams of 3 steps beside 10 lived" in figures.alt_text(figure)
    np.testing.assert_array_equal(figure.axes[1].lines[2].get_xdata(), [5, 6, 7, 8])
    with pytest.raises(InputError, match="no dream"):
        figures.dreamt_states(lived, [])


def test_an_angle_that_goes_round_is_drawn_with_a_gap():
    turning = {"angle": np.array([3.0, 3.1, -3.1, -3.0]), "spin": np.array([0.0, 9.0, 0.0, 0.0])}
    figure = figures.dreamt_states(turning, [(0, turning)])
    assert np.isnan(figure.axes[0].lines[0].get_ydata()).tolist() == [False, False, True, False]
    assert not np.isnan(figure.axes[1].lines[0].get_ydata()).any()


def test_model_errors_are_over_steps():
    rows = [{"seed": 0, "step": s, "error": 1 / s, "drift": 2.0 / s} for s in (10, 20, 40)]
    figure = figures.model_errors(rows, 10)
    assert "0.1 to 0.025" in figures.alt_text(figure) and "10 imagined" in figures.alt_text(figure)
    with pytest.raises(InputError, match="lacks"):
        figures.model_errors([{"seed": 0, "step": 1}], 10)
