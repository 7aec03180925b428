"""Every classic agent on the five probes: what is broken would be named."""

import pytest

from anima.agent import ANGC, DDPG, DQN, PPO, REINFORCE, SAC, SVG0, Synapse
from anima.testing import check_agent
from anima.world.env import Discrete
from anima.world.probes import STEER

DISCOUNT = 0.8
SHARED = dict(hidden=[16], discount=DISCOUNT, schedule="constant")
REPLAY = dict(every=4, updates=4, batch=32, capacity=1000, warmup=80, polyak=0.05, steps=1000)
STEERED = dict(rate=3e-3, critic_rate=1e-2, worlds=2) | REPLAY
ROLLOUT = dict(rate=1e-2, critic_rate=1e-2, every=4, worlds=16)
CASES = {
    "dqn": (DQN, dict(rate=1e-2, epsilon_end=0.5) | REPLAY, 100, Discrete(2)),
    "angc": (
        ANGC,
        dict(rate=1e-2, epsilon_end=0.5, fade=0.9, epistemic=0.0) | REPLAY,
        200,
        Discrete(2),
    ),
    "reinforce": (REINFORCE, ROLLOUT, 200, Discrete(2)),
    "ppo": (PPO, ROLLOUT | dict(epochs=4), 100, Discrete(2)),
    "ddpg": (DDPG, dict(noise=0.3) | STEERED, 250, STEER),
    "svg0": (SVG0, STEERED | dict(rate=1e-3), 1000, STEER),
    "sac": (SAC, dict(temperature=0.01, adapt=False) | STEERED, 400, STEER),
    "synapse": (Synapse, ROLLOUT | dict(std=0.3, rate=0.1, body_rate=3e-3), 200, STEER),
}
LOOSE = {"svg0": 0.25, "sac": 0.25, "synapse": 0.3}  # they never stop exploring, which costs


SLOW = (
    "angc",
    "ppo",
    "reinforce",
    "ddpg",
    "svg0",
    "sac",
    "synapse",
)  # their programs take long to compile
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES]


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_passes_the_probes(name):
    agent, settings, cycles, action = CASES[name]
    build = lambda world: agent(world, **SHARED, **settings)
    tolerance = LOOSE.get(name, 0.15)
    check_agent(build, cycles=cycles, discount=DISCOUNT, action=action, tolerance=tolerance)


@pytest.mark.slow
def test_the_battery_names_the_part_that_is_broken():
    """A wrong discount is seen by the probe of discounting; credit that stops at the output, by
    the probe of credit."""
    agent, settings, cycles, action = CASES["dqn"]
    build = lambda world: agent(world, **SHARED | dict(discount=0.5), **settings)
    with pytest.raises(AssertionError, match="discounting: the value at") as failed:
        check_agent(build, cycles=cycles, discount=DISCOUNT, action=action)
    assert "; policy:" not in str(failed.value) and "credit:" not in str(failed.value)
