"""A run of agents: rows, checkpoints, and resuming to the same bits with the replay included."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import anima
import anima.run.config as configs
from anima.agent import DQN
from anima.core.errors import DivergedError, InputError
from anima.run import agents, live
from anima.run.metrics import read_rows

TINY = [
    "agent.hidden=[4]",
    "agent.assigner=backprop",
    "agent.credit={}",
    "agent.every=2",
    "agent.updates=1",
    "agent.batch=4",
    "agent.capacity=40",
    "agent.warmup=4",
    "live.steps=24",
    "live.judge_every=8",
    "live.judge_episodes=1",
    "live.episodes=2",
]


def _living(folder, *settings, seeds=2, world=None):
    table = agents.read_preset("cartpole-dqn-predictive")
    if world:
        table = table | {"world": {"name": world}}
    config = agents.resolve(configs.override(table, [*TINY, *settings], agents.resolve))
    if not (folder / "config.toml").exists():
        live.begin(folder, config, preset="", seed=3, seeds=seeds)
    return live.Living(config, 3, seeds, folder)


def _stop_after(living, monkeypatch, chunks):
    """A signal during the given chunk."""
    import contextlib

    asked = []

    @contextlib.contextmanager
    def asked_to_stop():
        yield lambda: asked.append(1) or len(asked) == chunks

    monkeypatch.setattr(live, "asked_to_stop", asked_to_stop)
    return living


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs, tmp_path_factory):
    with quick_programs(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick):
    """A run that nothing disturbed, and what it left."""
    living = _living(tmp_path_factory.mktemp("life"))
    return living, living.run()


HOSTED = pytest.param("gymnasium:CartPole-v1", marks=pytest.mark.slow)


@pytest.mark.parametrize("world", ["CartPole-v1", HOSTED])
def test_an_interrupted_life_ends_as_one_that_was_not(tmp_path, monkeypatch, world):
    """One `Living` plays all parts, since each would compile anew; the disk is what joins them."""
    (tmp_path / "a").mkdir()
    monkeypatch.setattr("anima.agent.life._AT_ONCE", 4)
    living = _living(tmp_path / "a", world=world)
    start = jax.tree.map(lambda leaf: leaf.copy(), living.lives.state)
    ended = living.run()
    judged = living.judge()
    replay = np.array(living.lives.one(1).mind.replay.rows.observation)

    live.begin(tmp_path / "b", living.config, preset="", seed=3, seeds=2)
    living.folder = tmp_path / "b"
    living.lives.restore(start)
    with monkeypatch.context() as patch:
        cut = _stop_after(living, patch, 3).run()
    assert cut.interrupted and not ended.interrupted and living.lives.steps == 12
    living.lives.restore(start)  # as a new process would begin
    rest = living.run(resume=True)

    np.testing.assert_array_equal(living.judge(), judged)
    np.testing.assert_array_equal(living.lives.one(1).mind.replay.rows.observation, replay)
    strip = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    assert strip(rest.rows) == strip(ended.rows)
    assert strip(read_rows(tmp_path / "b" / "metrics.jsonl")) == strip(ended.rows)
    assert [(row["seed"], row["step"]) for row in ended.rows] == [
        (seed, step) for step in (8, 16, 24) for seed in (3, 4)
    ]


@pytest.mark.parametrize("preset", agents.preset_names())
def test_every_agents_state_can_be_kept(preset, mind_of):
    """A checkpoint refuses arrays of no numbers, and so may not be asked to keep one."""
    mind = mind_of(agents.resolve(agents.read_preset(preset)))
    state = jax.eval_shape(lambda: mind.init(jax.random.key(0)))
    assert all(np.prod(leaf.shape, dtype=int) > 0 for leaf in jax.tree.leaves(state))


def test_what_a_run_finds_is_json_with_the_promised_keys(finished):
    living, outcome = finished
    found = live.result(living.folder, living, living.judge(), outcome.seconds)
    promised = {"run", "seed", "return_mean", "return_iqm", "ci95", "episodes"}
    assert promised | {"environment_steps", "seconds"} <= set(json.loads(json.dumps(found)))
    assert found["episodes"] == 2 and found["environment_steps"] == 24
    assert found["ci95"][0] <= found["return_iqm"] <= found["ci95"][1]
    header, config = live.read(living.folder)
    assert header.seeds == 2 and config == living.config and live.is_life(living.folder)
    assert living.judge(later=True, episodes=2).shape == (2, 2)


@pytest.mark.parametrize("world", ["CartPole-v1", HOSTED])
def test_an_agent_is_loaded_from_a_run_as_the_run_left_it(tmp_path, world):
    """Of two lives the second; a solver's table in its settings does not keep it from a file."""
    solver = "agent.credit={solver={name='euler', dt=0.2}, max_steps=2}"
    living = _living(tmp_path / "run", "agent.assigner=ngc", solver, world=world)
    living.run()
    agent = anima.load(tmp_path / "run", seed=4)
    agent.save(tmp_path / "kept")
    again = DQN.load(tmp_path / "kept")
    told = lambda lived: [
        np.asarray(
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        )
        for leaf in jax.tree.leaves(lived)
    ]
    for one in (agent, again):
        assert one.steps == 24 and one.world.spec.name == living.world.spec.name
        for leaf, same in zip(told(one.lives.one(0)), told(living.lives.one(1)), strict=True):
            np.testing.assert_array_equal(leaf, same)
    charts, _ = agent.lives.advance(4)
    lived, _ = again.lives.advance(4)
    np.testing.assert_array_equal(lived["surprise"], charts["surprise"])
    with pytest.raises(InputError, match="3 to 4"):
        anima.load(tmp_path / "run", seed=5)


def test_a_changed_configuration_is_not_resumed(finished):
    living, _ = finished
    with pytest.raises(InputError, match=r"config\.agent\.rate"):
        _living(living.folder, "agent.rate=0.5").run(resume=True)


def test_divergence_is_reported_with_the_last_good_checkpoint(finished, monkeypatch):
    living, _ = finished
    start = jax.tree.map(lambda leaf: leaf.copy(), living.lives.state)
    advance = living.lives.advance

    def diverge(cycles):
        charts, endings = advance(cycles)
        charts["surprise"] = np.full((2, cycles), np.nan)
        return charts, endings

    monkeypatch.setattr(living.lives, "advance", diverge)
    monkeypatch.setattr(living, "cycles", living.cycles + 2)
    with pytest.raises(DivergedError, match=r"seed 3 diverged .*; checkpoint 24 is good"):
        living.run()
    living.lives.restore(start)


def test_an_edited_run_is_named(tmp_path):
    _living(tmp_path)
    path = tmp_path / "config.toml"
    path.write_text(path.read_text().replace("seeds = 2", "seeds = 0"))
    with pytest.raises(InputError, match="seeds is 0"):
        live.read(tmp_path)


@pytest.mark.slow
def test_physics_change_when_they_are_to_and_stay_changed_when_resumed(finished, tmp_path):
    """From step 16 on the motor is reversed; who resumes later finds it so."""
    usual, undisturbed = finished
    (tmp_path / "a").mkdir()
    living = _living(tmp_path / "a", "world.change={at=16, motor=-1.0}")
    living.run()
    assert living.world.motor == -1 and usual.world.motor == 1
    rows = read_rows(tmp_path / "a" / "metrics.jsonl")
    before = undisturbed.rows
    drop = lambda row: {k: v for k, v in row.items() if k != "seconds"}
    assert [*map(drop, rows[:4])] == [*map(drop, before[:4])] and drop(rows[4]) != drop(before[4])
    again = _living(tmp_path / "a", "world.change={at=16, motor=-1.0}")
    again.run(resume=True)
    assert again.world.motor == -1
    np.testing.assert_array_equal(again.judge(), living.judge())
