"""`anima live`: from the command to the report, and what it refuses in one line."""

import io
import json
import sys
import types

import gymnasium
import numpy as np
import pytest
from PIL import Image, ImageSequence

import anima
from anima.agent import DQN
from anima.app import figures, film
from anima.app.cli import main
from anima.core.errors import InputError
from anima.run import folder

TINY = ["--set=agent.hidden=[4]", "--set=agent.every=2", "--set=agent.updates=1"]
TINY += ["--set=agent.batch=4", "--set=agent.capacity=40", "--set=agent.warmup=4"]
AT_9, AT_65 = (["--set", f"world.change={{at={at}, motor=-1.0}}"] for at in (9, 65))
TINY += ["--set=live.judge_every=10", "--set=live.judge_episodes=1", "--set=live.episodes=2"]


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs, tmp_path_factory):
    with quick_programs(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, quick):
    """A life of 20 steps, its folder and its JSON."""
    place = tmp_path_factory.mktemp("life") / "run"
    words = ["live", "CartPole-v1", "--assigner", "backprop", "--steps", "20", "--seeds", "2"]
    assert main([*words, "--quiet", "--out", str(place), *TINY]) == 0
    return place


def test_a_life_leaves_a_whole_folder(run):
    kept = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    wanted = {"config.toml", "metrics.jsonl", "report.html", "weights.safetensors"}
    assert wanted | {"figures/life.png", "figures/policy.gif"} <= kept
    report = (run / "report.html").read_text()
    assert "image/gif" in report and "anima live CartPole-v1" in report
    assert "--set" in report and "95% interval" in report
    assert (run / "figures" / "policy.gif").read_bytes()[:3] == b"GIF"


def test_evaluate_plays_on_in_fresh_worlds(run, capsys):
    assert main(["evaluate", str(run), "--episodes", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["episodes"] == 3 and found["seeds"] == 2 and found["environment_steps"] == 20
    assert found["assigner"] == "backprop" and len(found["return_by_seed"]) == 2


def test_a_life_is_loaded_as_the_agent_that_it_became(run):
    agent = anima.load(run, seed=1)
    assert agent.steps == 20 and agent.seed == 1
    action, _ = agent.predict(np.zeros(4))
    assert action in (0, 1)


def test_a_life_is_no_trained_circuit(run):
    with pytest.raises(InputError, match="is the life of an agent"):
        folder.load(run)


def test_resume_of_a_finished_life_ends_at_once_with_the_same_numbers(run, capsys):
    assert main(["resume", str(run), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["environment_steps"] == 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["live", "CartPol-v1"], "CartPole-v1"),
        (["live", "Pendulum-v1", "--agent", "dqn"], "continuous"),
        (["live", "CartPole-v1", "--agent", "sacc"], "unknown agent 'sacc'"),
        (["live", "CartPole-v1", "--assigner", "eqpro"], "did you mean 'eqprop'"),
        (["live", "Acrobot-v1", "--preset", "cartpole-dqn-predictive"], "for world 'CartPole-v1'"),
        (["live", "CartPole-v1", "--steps", "0"], "live.steps is 0"),
        (["live", "CartPole-v1", "--seeds", "0"], "--seeds is 0"),
        (["live", "CartPole-v1", "--steps", "9", *AT_9], "it would never be lived"),
        (["live", "CartPole-v1", "--steps", "70", "--agent", "ppo", *AT_65], "never be lived"),
        (["live", "CartPole-v1", "--seeds", "9", "--seed", "4294967295"], "too large"),
        (["live", "CartPole-v1", "--set", "agent.hidden=[0]"], "positive"),
        (["live"], "ENV"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err
    assert not list(tmp_path.iterdir())


def test_evaluate_refuses_what_it_cannot_do(run, capsys):
    assert main(["evaluate", str(run), "--episodes", "0"]) == 2
    assert "--episodes is 0" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--data-dir", "x"]) == 2
    assert "--data-dir" in capsys.readouterr().err


def test_the_life_curve_says_what_it_shows():
    rows = [
        {"seed": seed, "step": step, "judged_return": step + seed, "surprise": 1 / step}
        for seed in range(3)
        for step in (10, 20, 30)
    ]
    figure = figures.life_curve(rows)
    words = figures.alt_text(figure)
    assert "3 seed(s) over 30" in words and "31.0" in words and "95% interval" in words
    line = figure.axes[0].lines[-1]
    np.testing.assert_allclose(line.get_ydata(), [11, 21, 31])
    with pytest.raises(InputError, match="lacks"):
        figures.life_curve([{"seed": 0, "step": 1}])
    with pytest.raises(InputError, match="no row"):
        figures.life_curve([])


def _broken(self):
    raise ZeroDivisionError("no brush")


@pytest.mark.parametrize("drawn", [_broken, lambda self: np.full((4, 4, 3), 0.5)])
def test_a_film_that_fails_is_told_and_costs_no_life(monkeypatch, drawn):
    agent = DQN("CartPole-v1", assigner="backprop", hidden=[4])
    monkeypatch.setattr("gymnasium.envs.classic_control.CartPoleEnv.render", drawn)
    with pytest.warns(UserWarning, match="no film of CartPole-v1"):
        assert film.played(agent.mind, agent.state, "CartPole-v1", seed=0, physics={}) is None


def test_a_world_of_gymnax_is_filmed_as_gymnasium_draws_it():
    pytest.importorskip("gymnax")
    agent = DQN("gymnax:MountainCar-v0", assigner="backprop", hidden=[4])
    gif, told = film.played(agent.mind, agent.state, "gymnax:MountainCar-v0", seed=0, physics={})
    assert "200 steps" in told and "no pictures" not in told
    with Image.open(io.BytesIO(gif)) as shown:
        colours = [frame.convert("RGB").getcolors(10**6) for frame in ImageSequence.Iterator(shown)]
    assert len(colours) == 100 and all(len(found) > 4 for found in colours)
    assert colours[0] != colours[-1]  # and the car moves


class Blind(gymnasium.Env):
    """A world without pictures, which knows of no way to draw itself."""

    observation_space = gymnasium.spaces.Box(-9, 9, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.asarray([self.time, -self.time], np.float32), 1.0, self.time == 9, False, {}


class Blank(Blind):
    """Another, whose pictures are `None`."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        return None


@pytest.mark.parametrize("made", [Blind, Blank])
def test_a_world_that_draws_nothing_is_filmed_by_what_it_shows(made):
    name = f"{made.__name__}-v0"
    gymnasium.register(name, made, max_episode_steps=50)
    agent = DQN(name, assigner="backprop", hidden=[4])
    gif, told = film.played(agent.mind, agent.state, name, seed=0, physics={})
    assert "9 steps: return 9.0. The world draws no pictures" in told
    ink = []
    with Image.open(io.BytesIO(gif)) as shown:
        for frame in ImageSequence.Iterator(shown):
            pixels = np.asarray(frame.convert("RGB"), int)
            ink.append(int((pixels[..., 2] - pixels[..., 0] > 80).sum()))
    assert len(ink) == 9 and ink[-1] > 2 * ink[1] > 0  # more of each line as time goes on


def test_long_films_are_of_some_frames_and_of_the_end(monkeypatch):
    monkeypatch.setattr(film, "_MOST_FRAMES", 4)
    gymnasium.register("Blind-v1", Blind, max_episode_steps=50)
    agent = DQN("Blind-v1", assigner="backprop", hidden=[4])
    gif, _ = film.played(agent.mind, agent.state, "Blind-v1", seed=0, physics={})
    with Image.open(io.BytesIO(gif)) as shown:
        assert shown.n_frames == 3  # of steps 2, 5 and 8


def test_worlds_named_with_their_module_are_looked_at_as_well(monkeypatch):
    """gymnasium imports the module, which registers them."""
    module = types.ModuleType("anima_test_worlds")
    monkeypatch.setitem(sys.modules, "anima_test_worlds", module)
    gymnasium.register("Blind-v2", Blind, max_episode_steps=50)
    host = film.stage("anima_test_worlds:Blind-v2", 0, {})
    assert host is not None and host.spec.observation == 2
    assert film.stage("NoSuchWorld-v0", 0, {}) is None


def test_a_change_of_physics_is_marked_and_filmed(tmp_path):
    """What is filmed is the world as it has become."""
    words = ["live", "CartPole-v1", "--agent", "dqn", "--steps", "20", "--quiet"]
    words += ["--assigner", "fixed-prediction", "--out", str(tmp_path / "run"), *TINY]
    words += ["--set", "world.change={at=10, motor=0.0}"]
    opened, stage = [], film.stage
    spy = lambda name, seed, physics, **more: (
        opened.append(physics) or stage(name, seed, physics, **more)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(film, "stage", spy)
        assert main(words) == 0
    assert opened == [{"motor": 0.0}]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "physics of the world changed" in report
    assert "fixed-prediction, by local errors that equal backpropagation&#x27;s" in report
    worlds = [film.stage("CartPole-v1", 0, {"motor": motor}) for motor in (0.0, -1.0)]
    still, pulled = [host.step(np.ones(1, np.int64)).following[0, 1] for host in worlds]
    assert abs(still) < 0.06 and pulled < -0.1
