"""By name: a run, whatever it is of, from its folder; an agent, from its preset."""

from pathlib import Path
from typing import Any

from anima.core.errors import InputError
from anima.run import folder


def load(run: str | Path, *, seed: int | None = None) -> Any:
    """What a run became: of data, a `Trained`; of lives, the agent as the run left it.

    >>> trained = anima.load("runs/digits-eqprop-0")
    >>> trained.predict(images).argmax(-1)
    >>> agent = anima.load("runs/CartPole-v1-cartpole-angc-0")
    >>> action, _ = agent.predict(observation)

    **Arguments:** `seed`, of lives, which (none: the first).

    **Raises:** `InputError` if the folder is not a run, holds no such life, or what it holds is
    missing or does not fit.
    """
    from anima.run import live  # agents are heavier than circuits

    path = Path(run)
    if live.is_life(path):
        return live.load(path, seed)
    trained = folder.load(path)
    if seed is not None:
        raise InputError(f"load: seed is {seed}: {run} learnt data, and only lives are told by it")
    return trained


def preset(name: str, *, seed: int = 0) -> Any:
    """The agent of a preset, newly born in the preset's world.

    >>> agent = anima.preset("cartpole-dqn-predictive", seed=0).learn(50_000)

    **Raises:** `InputError` for an unknown preset, or a world that is not installed.
    """
    from anima.run import agents

    return agents.build_agent(agents.resolve(agents.read_preset(name)), seed)
