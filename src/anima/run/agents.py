"""Configuration of lives: TOML tables that name an agent and the arguments of its recipe.

`[agent] name = "dqn", rate = 0.001` is `DQN(world, rate=0.001)`. What a table may hold is read from
the recipe's signature, as in `anima.run.config`, whose machinery this uses.
"""

import dataclasses
import inspect
import tomllib
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import tomli_w

import anima.run.config as configs
from anima.act.plan import PLANNERS
from anima.agent.agent import AbstractAgent
from anima.agent.angc import ANGC
from anima.agent.body import FORMS
from anima.agent.classic import DDPG, DQN, PPO, REINFORCE, SAC, SVG0, Synapse
from anima.agent.living import Living
from anima.agent.mind import AbstractMind
from anima.core.errors import InputError, nearest, pick
from anima.learn.gate import GATES
from anima.run.config import Table
from anima.world.classic import altered
from anima.world.env import Discrete, Spec, make

AGENTS: dict[str, type[AbstractAgent]] = {
    agent.name: agent for agent in (DQN, ANGC, REINFORCE, PPO, SAC, DDPG, SVG0, Synapse, Living)
}
DEFAULT, CONTINUOUS = "dqn", "sac"
"""Who lives where no agent is named and no preset is at hand, by the world's actions."""

_MOST_STEPS = 2**31 - 1
_MOST_SEEDS = 256


@dataclasses.dataclass(frozen=True)
class Live:
    """How long to live, and when to look.

    - `steps`: of each life, in its environment; schedules of the agent span them.
    - `judge_every`, `judge_episodes`: how often, and by how many greedy episodes, a life is
      judged on the way; `episodes`, by how many at its end. All in worlds it never lived in.
    - `keep`: how many checkpoints to keep.
    """

    steps: int = 50_000
    judge_every: int = 5_000
    judge_episodes: int = 10
    episodes: int = 100
    keep: int = 1

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 1 <= value <= _MOST_STEPS:
                raise InputError(
                    f"live.{field.name} is {value}: it must be from 1 to {_MOST_STEPS}"
                )


@dataclasses.dataclass(frozen=True)
class LiveConfig:
    """All that a life depends on, beside its seed.

    `world` names the environment, and may say how its physics change (`{ change = { at = 400,
    motor = -1.0 } }`, after that many steps of the life); `agent` names the agent and holds the
    arguments of its recipe.
    """

    world: Table
    agent: Table
    live: Live


def preset_names() -> list[str]:
    """The presets for agents that ship with the package."""
    return sorted(entry.name[:-5] for entry in _zoo().iterdir() if entry.name.endswith(".toml"))


def read_preset(name: str) -> Table:
    """The raw table of a preset; raises `InputError` naming the nearest for an unknown one."""
    known = preset_names()
    if name not in known:
        raise InputError(f"unknown preset {name!r}: {nearest(name, known)}")
    return tomllib.loads((_zoo() / f"{name}.toml").read_text())


def choose(
    world: str, *, agent: str | None = None, preset: str | None = None, assigner: str | None = None
) -> tuple[str, Table]:
    """The preset's name and the table that a command asks for.

    Without a preset's name, the first of those for this world, agent and assigner is taken; where
    there is none for the assigner, that of another with this assigner's usual settings; where
    there is none at all, the agent's own defaults (and the name is empty).

    **Raises:** `InputError` for unknown names, or a preset of another world, agent or assigner.
    """
    if agent is not None:
        pick("agent", agent, AGENTS)
    if assigner is not None:
        pick("assigner", assigner, FORMS)
    wanted = {"world": world, "agent": agent, "assigner": assigner}
    if preset is not None:
        table = read_preset(preset)
        for kind, want in wanted.items():
            found = _of(table)[kind]
            if want is not None and want != found:
                raise InputError(f"preset {preset!r} is for {kind} {found!r}, not {want!r}")
        return preset, table
    return _nearest_preset(wanted)


def resolve(table: Table) -> LiveConfig:
    """A checked configuration with every default made explicit; see `anima.run.config.resolve`.

    **Raises:** `InputError` for an unknown section, key, name or a value of the wrong type.
    """
    sections = [field.name for field in dataclasses.fields(LiveConfig)]
    for name, value in table.items():
        if name not in sections:
            raise InputError(
                f"unknown section {name!r} in the configuration: {nearest(name, sections)}"
            )
        if not isinstance(value, dict):
            raise InputError(f"{name} must be a section with keys, not {value!r}")
    world = _world(table.get("world", {}))
    live = Live(**configs.arguments("live", Live, table.get("live", {})))
    config = LiveConfig(
        world=world,
        agent=_agent(table.get("agent", {"name": DEFAULT})),
        live=live,
    )
    _refuse_negative(config)
    return config


def override(table: Table, assignments: Sequence[str]) -> Table:
    """`configs.override`; where it names another planner or gate, that has the settings it shares
    with the one before, and the others are left behind.

    **Raises:** `InputError` as there.
    """
    names = {f"{section}{name}" for name, _, _ in _IMAGINED for section in ("", "agent.")}
    naming = [text for text in assignments if text.partition("=")[0].strip() in names]
    found = configs.override(table, naming, resolve)
    agent = found.get("agent", {})
    for name, settings, classes in _IMAGINED:
        named = agent.get(name)
        if settings not in agent or named == table["agent"].get(name):
            continue
        if not named:
            del agent[settings]
        elif isinstance(named, str) and named in classes:
            known = [field.name for field in dataclasses.fields(classes[named])]
            agent[settings] = {k: v for k, v in agent[settings].items() if k in known}
    rest = [text for text in assignments if text not in naming]
    return configs.override(found, rest, resolve)


def dump(config: LiveConfig, header: Table) -> str:
    """The configuration as TOML text, after a `[run]` section with `header`."""
    return tomli_w.dumps({"run": header} | configs.as_table(config))


def build_mind(config: LiveConfig, spec: Spec) -> AbstractMind:
    """The mind that the configuration describes, for a world."""
    return AGENTS[config.agent["name"]].recipe(spec, **settings_of(config))


def settings_of(config: LiveConfig) -> Table:
    """What the configuration says to the agent that it names, as Python says it."""
    settings = {key: value for key, value in config.agent.items() if key != "name"}
    return settings | {"steps": config.live.steps}


def build_agent(config: LiveConfig, seed: int, world: Any = None) -> AbstractAgent:
    """The agent that the configuration describes, newly born, in its world (or in another)."""
    world = config.world["name"] if world is None else world
    return AGENTS[config.agent["name"]](world, seed=seed, **settings_of(config))


def check_seeds(count: int) -> int:
    """Raises `InputError` for a number of seeds that cannot live side by side."""
    if not 1 <= count <= _MOST_SEEDS:
        raise InputError(f"--seeds is {count}: it must be from 1 to {_MOST_SEEDS}")
    return count


def _agent(table: Table) -> Table:
    rest = dict(table)
    if "name" not in rest:
        raise InputError(f"agent needs a name: one of {', '.join(sorted(AGENTS))}")
    name = configs.check_value("agent.name", str, rest.pop("name"))
    recipe = pick("agent.name", name, AGENTS).recipe
    found = configs.arguments("agent", recipe, rest, skip=("spec", "steps"), also=("name",))
    found = {key: value for key, value in found.items() if value is not None}
    form = pick("agent.assigner", found["assigner"], FORMS)
    given = dict(form.credit) | found.get("credit", {})
    found["credit"] = configs.arguments("agent.credit", form.assigner, given)
    found["circuit"] = _circuit(form.build, dict(form.circuit) | found.get("circuit", {}))
    return {"name": name} | found | _imagining(found)


def _world(table: Table) -> Table:
    """A world's name; and its constants that change, `at` a step of the life."""
    if not {"name"} <= set(table) <= {"name", "change"}:
        raise InputError('[world] must hold a name, and may hold a change: name = "CartPole-v1"')
    world: Table = {"name": configs.check_value("world.name", str, table["name"])}
    if "change" in table:
        change = configs.check_value("world.change", dict, table["change"])
        change = {k: configs.check_value(f"world.change.{k}", float, v) for k, v in change.items()}
        if change.get("at", 0) < 1 or change["at"] % 1:
            raise InputError(f"world.change needs at, the step it happens after: {change}")
        altered(world["name"], constants(change))
        world["change"] = change
    return world


def constants(change: Table) -> dict[str, float]:
    """What a `world.change` alters: all of it but when."""
    return {name: value for name, value in change.items() if name != "at"}


_IMAGINED = (("planner", "plan", PLANNERS), ("gate", "gating", GATES))
"""What an agent may name, the table of its settings, and what there is."""


def _imagining(agent: Table) -> Table:
    """The settings of an agent that plans, those of its planner and its gate complete."""
    found: Table = {}
    for name, table, classes in _IMAGINED:
        if agent.get(name):
            made = pick(f"agent.{name}", agent[name], classes)
            given = agent.get(table, {})
            found[table] = configs.arguments(f"agent.{table}", made, given, skip=("space",))
        elif agent.get(table):
            raise InputError(f"agent.{table} is of a {name} that nobody named: give agent.{name}")
    return found


def _refuse_negative(config: LiveConfig) -> None:
    """Of all numbers only physics and what is preferred may be below zero."""
    table = configs.as_table(config)
    table.pop("world")
    table["agent"].pop("prefer", None)
    configs.refuse_negative(table)


def _circuit(build: Callable, given: Table) -> Table:
    found = configs.arguments("agent.circuit", build, given, skip=("sizes", "key"))
    return {key: value for key, value in found.items() if value is not None}


def _nearest_preset(wanted: dict[str, str | None]) -> tuple[str, Table]:
    zoo = {name: read_preset(name) for name in preset_names()}
    fits = lambda table, kinds: all(wanted[kind] in (None, _of(table)[kind]) for kind in kinds)
    order = sorted(zoo, key=lambda name: (*_unusual(zoo[name]), name))
    for name in order:
        if fits(zoo[name], ("world", "agent", "assigner")):
            return name, zoo[name]
    for name in order:
        if fits(zoo[name], ("world", "agent")) and _of(zoo[name])["assigner"]:
            table = zoo[name]
            rest = {k: v for k, v in table["agent"].items() if k not in ("credit", "circuit")}
            return name, table | {"agent": rest | {"assigner": wanted["assigner"]}}
    chooses = lambda: isinstance(make(str(wanted["world"])).spec.action, Discrete)
    agent: Table = {"name": wanted["agent"] or (DEFAULT if chooses() else CONTINUOUS)}
    if "normalise" in inspect.signature(AGENTS[agent["name"]].recipe).parameters:
        agent["normalise"] = True
    if wanted["assigner"]:
        agent["assigner"] = wanted["assigner"]
    return "", {"world": {"name": wanted["world"]}, "agent": agent}


def _unusual(table: Table) -> tuple[bool, int, bool]:
    """Whether it is a twin, how late its agent comes in `AGENTS`, an assigner not the usual one."""
    found = _of(table)
    known = inspect.signature(AGENTS[str(found["agent"])].recipe).parameters
    usual = known["assigner"].default if "assigner" in known else None
    assigner = found["assigner"]
    return assigner == "backprop", list(AGENTS).index(str(found["agent"])), assigner != usual


def _of(table: Table) -> dict[str, str | None]:
    """The world, agent and assigner of a preset."""
    agent = table["agent"]
    return {
        "world": table["world"]["name"],
        "agent": agent["name"],
        "assigner": agent.get("assigner"),
    }


def _zoo():
    return resources.files("anima.run") / "presets" / "agents"
