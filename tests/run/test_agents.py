"""Configurations of lives: presets, what a command chooses among them, what is refused."""

import jax.numpy as jnp
import pytest

import anima
import anima.run.config as configs
from anima.agent import ANGC
from anima.core.errors import InputError
from anima.run import agents
from anima.world.env import Continuous, Spec, make


def test_a_preset_is_an_agent_in_python_too():
    agent = anima.preset("acrobot-angc", seed=3)
    assert isinstance(agent, ANGC) and agent.seed == 3 and agent.world.spec.name == "Acrobot-v1"
    assert agent.mind.every == 4
    with pytest.raises(InputError, match="cartpole-angc"):
        anima.preset("cartpole-ange")


@pytest.mark.parametrize("name", agents.preset_names())
def test_every_preset_resolves_to_a_mind_for_its_own_world(name, mind_of):
    config = agents.resolve(agents.read_preset(name))
    assert agents.resolve(configs.as_table(config)) == config
    mind = mind_of(config)
    assert mind.spec.name == config.world["name"]


def test_a_command_finds_the_preset_of_its_world():
    name, table = agents.choose("CartPole-v1")
    assert name == "cartpole-dqn-predictive" and table["world"]["name"] == "CartPole-v1"
    assert agents.choose("CartPole-v1", preset=name) == (name, table)


def test_another_assigner_brings_its_own_settings():
    table = agents.read_preset("cartpole-dqn-predictive")
    _, ngc = agents.choose("CartPole-v1", agent="dqn", assigner="ngc")
    config = agents.resolve(ngc)
    assert config.agent["assigner"] == "ngc" and config.agent["rate"] == table["agent"]["rate"]
    assert config.agent["circuit"]["gate"] is True
    assert config.agent["credit"]["solver"] == {"name": "euler", "dt": 0.1}


@pytest.mark.parametrize(
    ("wanted", "preset"),
    [
        (dict(world="CartPole-v1"), "cartpole-dqn-predictive"),
        (dict(world="CartPole-v1", agent="ppo"), "cartpole-ppo-predictive"),
        (dict(world="CartPole-v1", agent="ppo", assigner="backprop"), "cartpole-ppo-backprop"),
        (dict(world="Pendulum-v1"), "pendulum-sac-predictive"),
        (dict(world="Pendulum-v1", agent="ddpg"), "pendulum-ddpg-predictive"),
        (dict(world="Pendulum-v1", agent="synapse"), "pendulum-synapse-predictive"),
        (dict(world="MountainCarContinuous-v0"), "mountaincarcontinuous-ddpg-predictive"),
        (
            dict(world="Pendulum-v1", assigner="eqprop-predictive"),
            "pendulum-sac-eqprop-predictive",
        ),
        (dict(world="Pendulum-v1", agent="living"), "pendulum-living"),
        (dict(world="LunarLander-v3"), "lunarlander-dqn-predictive"),
    ],
)
def test_the_usual_preset_is_taken_and_a_twin_only_if_asked_for(wanted, preset):
    assert agents.choose(**wanted)[0] == preset


def test_a_world_without_a_preset_gets_the_agents_defaults():
    name, table = agents.choose("Elsewhere-v0", agent="dqn", assigner="eqprop")
    assert name == "" and table["agent"]["assigner"] == "eqprop"
    assert agents.resolve(table).agent["normalise"] is True


@pytest.mark.parametrize(
    ("world", "agent"), [("gymnasium:CartPole-v1", "dqn"), ("gymnasium:Pendulum-v1", "sac")]
)
def test_where_no_agent_is_named_one_that_can_act_there_is_taken(world, agent):
    name, table = agents.choose(world)
    assert name == "" and table["agent"]["name"] == agent


def test_another_planner_takes_the_settings_that_it_shares():
    """Settings of the planner before are left behind; those that are given must be its own."""
    table = agents.read_preset("pendulum-living")
    for planner in ("cem", "settling"):
        plan = agents.resolve(agents.override(table, [f"agent.planner={planner}"])).agent["plan"]
        assert plan["horizon"] == table["agent"]["plan"]["horizon"]
    assert "samples" not in plan and plan["steps"] == 10
    given = ["agent.plan.steps=3", "agent.planner=settling"]
    assert agents.resolve(agents.override(table, given)).agent["plan"]["steps"] == 3
    ungated = agents.override(agents.read_preset("cartpole-living"), ["agent.gate="])
    assert agents.resolve(ungated).agent["gate"] == ""
    with pytest.raises(InputError, match=r"agent\.planner is \['cem'\]"):
        agents.resolve(agents.override(table, ["agent.planner=['cem']"]))
    with pytest.raises(InputError, match=r"agent\.plan\.temperature"):
        given = ["agent.planner=cem", "agent.plan.temperature=1.0"]
        agents.resolve(agents.override(table, given))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(agent="dqm"), "did you mean 'dqn'"),
        (dict(assigner="eqrop"), "did you mean 'eqprop'"),
        (dict(preset="cartpole-dqn-predictiv"), "cartpole-dqn-predictive"),
        (dict(preset="cartpole-dqn-predictive", assigner="ngc"), "for assigner 'predictive'"),
        (dict(preset="cartpole-dqn-predictive", agent="angc"), "for agent 'dqn'"),
    ],
)
def test_choices_that_cannot_be_are_refused(arguments, said):
    with pytest.raises(InputError, match=said):
        agents.choose("CartPole-v1", **arguments)


def test_a_preset_for_another_world_is_refused():
    with pytest.raises(InputError, match="for world 'CartPole-v1', not 'Acrobot-v1'"):
        agents.choose("Acrobot-v1", preset="cartpole-dqn-predictive")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("agent.rat=1", "did you mean 'rate'"),
        ("agent.credit.max_step=3", "agent.credit.max_step"),
        ("agent.circuit.activaton=3", "agent.circuit.activaton"),
        ("agent.rate=-1", "must not be negative"),
        ("live.steps=0", "live.steps is 0"),
        ("live.episodes=many", "live.episodes is 'many'"),
        ("agent.name=nobody", "unknown agent.name"),
        ("world.name=3", "world.name is 3"),
        ("wold.name=3", "wold"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, said):
    table = agents.read_preset("cartpole-dqn-predictive")
    with pytest.raises(InputError, match=said):
        agents.resolve(configs.override(table, [setting], agents.resolve))


def test_settings_are_set_at_any_depth():
    table = agents.read_preset("cartpole-dqn-predictive")
    given = ["live.steps=99", "agent.credit.solver.dt=0.3", "agent.hidden=[8]"]
    config = agents.resolve(configs.override(table, given, agents.resolve))
    assert config.live.steps == 99 and config.agent["hidden"] == [8]
    assert config.agent["credit"]["solver"]["dt"] == 0.3


@pytest.mark.parametrize("count", [0, 257])
def test_seeds_out_of_range_are_refused(count):
    with pytest.raises(InputError, match="--seeds"):
        agents.check_seeds(count)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("{motor=-1.0}", "needs at"),
        ("{at=0, motor=-1.0}", "needs at"),
        ("{at=9, moter=-1.0}", "did you mean 'motor'"),
        ("{at=9, motor='x'}", "world.change.motor"),
        ("9", "world.change is 9"),
    ],
)
def test_a_change_of_physics_that_cannot_be_is_refused(change, said):
    table = agents.read_preset("cartpole-dqn-predictive")
    with pytest.raises(InputError, match=said):
        agents.resolve(configs.override(table, [f"world.change={change}"], agents.resolve))


def test_the_living_agent_has_presets_and_settings_of_its_own():
    name, table = agents.choose("CartPole-v1", agent="living")
    assert name == "cartpole-living"
    given = ["agent.prefer.position.target=-1.0", "agent.planner=cem", "agent.plan.samples=9"]
    given += ["agent.gate=quantile", "world.change={at=9, motor=-1.0}"]
    table["agent"]["plan"] = {}
    config = agents.resolve(configs.override(table, given, agents.resolve))
    assert config.agent["plan"]["samples"] == 9 and config.agent["plan"]["horizon"] == 15
    assert config.agent["gating"]["share"] == 0.2 and config.world["change"]["motor"] == -1.0
    mind = agents.build_mind(config, make("CartPole-v1").spec)
    assert mind.planner.samples == 9 and mind.wish.near[0][2] == -1.0
    name, table = agents.choose("Swimmer-v5", agent="living")
    assert name == "" and agents.resolve(table).agent["planner"] == ""
    table["agent"]["plan"] = {"horizon": 3}
    with pytest.raises(InputError, match=r"give agent\.planner"):
        agents.resolve(table)


@pytest.mark.parametrize(
    ("preset", "spec", "wanted"),
    [
        (
            "invertedpendulum-living",
            Spec("InvertedPendulum-v5", 4, Continuous((-3.0,), (3.0,)), 1000),
            {"position", "velocity", "angle", "spin"},
        ),
        (
            "reacher-living",
            Spec("Reacher-v5", 10, Continuous((-1.0, -1.0), (1.0, 1.0)), 50),
            {"aside", "ahead"},
        ),
        (
            "halfcheetah-living",
            Spec("HalfCheetah-v5", 17, Continuous((-1.0,) * 6, (1.0,) * 6), 1000),
            {"speed"},
        ),
    ],
)
def test_presets_for_mujocos_worlds_prefer_states_that_they_show(preset, spec, wanted):
    """Without MuJoCo: what the world would say of itself is all that a mind is built from."""
    mind = agents.build_mind(agents.resolve(agents.read_preset(preset)), spec)
    assert set(mind.wish.wanted) == wanted
    mind.wish(jnp.zeros(spec.action.size), jnp.zeros(spec.observation))
