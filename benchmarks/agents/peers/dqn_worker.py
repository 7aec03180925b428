"""One DQN on gymnasium's CartPole, told to live N environment steps at a time.

    python benchmarks/agents/peers/dqn_worker.py WHO

WHO is anima-predictive, anima-zil, anima-backprop, sb3 or sbx. The same algorithm for all: a net
of 64-64, Adam, batches of 64 from a replay of 50,000, one update every 4 steps after 1,000,
epsilon .05, plain targets from a slow copy of the net. What differs: that copy follows a little
at every update here and is taken every 500 steps by the peers, who also clip gradients. It speaks
the line protocol of `benchmarks/speed/peers/_protocol.py`.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "speed" / "peers"))

from _protocol import converse, private_stdout

WARMUP, EVERY, BATCH, CAPACITY, RATE = 1000, 4, 64, 50_000, 1e-3
EPSILON, DISCOUNT = 0.05, 0.98


def briefly(assigner: str) -> dict[str, Any] | None:
    """How predictive coding settles: as in its preset `cartpole-dqn-predictive`."""
    from anima.settle.solvers import Euler

    brief = dict(teach="clamp", max_steps=4, solver=Euler(0.05))
    return brief if assigner == "predictive" else None


class Anima:
    """A life in a hosted world."""

    def __init__(self, assigner: str):
        from importlib.metadata import version

        from anima.agent.classic import dqn
        from anima.agent.life import lives
        from anima.world.env import make

        world = make("gymnasium:CartPole-v1")
        settings = dict(warmup=WARMUP, every=EVERY, batch=BATCH, capacity=CAPACITY, rate=RATE)
        scale = (2.4, 3.0, 0.21, 3.0)
        settings |= dict(double=False, epsilon=EPSILON, epsilon_end=EPSILON, discount=DISCOUNT)
        settings |= dict(scale=scale, reward_scale=0.02, credit=briefly(assigner))
        mind = dqn(world.spec, assigner=assigner, **settings)
        self.life, self.cycle, self.version = lives(mind, world, [0]), mind.cycle, version("anima")

    def live(self, steps: int) -> None:
        self.life.advance(steps // self.cycle)


class Peer:
    """Stable-Baselines3 (PyTorch), or sbx, the same in JAX."""

    def __init__(self, name: str):
        import gymnasium
        import stable_baselines3
        import torch

        torch.set_num_threads(1)
        if name == "sbx":
            import sbx

            made, self.version = sbx.DQN, sbx.__version__
        else:
            made, self.version = stable_baselines3.DQN, stable_baselines3.__version__
        self.model: Any = made(
            "MlpPolicy",
            gymnasium.make("CartPole-v1", disable_env_checker=True),
            learning_rate=RATE,
            buffer_size=CAPACITY,
            learning_starts=WARMUP,
            batch_size=BATCH,
            train_freq=EVERY,
            gradient_steps=1,
            target_update_interval=500,
            gamma=DISCOUNT,
            exploration_initial_eps=EPSILON,
            exploration_final_eps=EPSILON,
            policy_kwargs={"net_arch": [64, 64]},
            device="cpu",
            seed=0,
        )
        self.begun = False

    def live(self, steps: int) -> None:
        self.model.learn(steps, reset_num_timesteps=not self.begun, log_interval=10**9)
        self.begun = True


def main() -> None:
    """Lives through the warm-up and a little more, then as told."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ours = ("anima-predictive", "anima-zil", "anima-backprop")
    parser.add_argument("who", choices=(*ours, "sb3", "sbx"))
    options = parser.parse_args()
    channel = private_stdout()
    begun = time.perf_counter()
    kind, _, assigner = options.who.partition("-")
    agent = Anima(assigner) if kind == "anima" else Peer(options.who)
    agent.live(WARMUP + 100 * EVERY)
    first = time.perf_counter() - begun

    def go(count: str) -> dict[str, Any]:
        steps, begun = int(count), time.perf_counter()
        agent.live(steps)
        return {"steps": steps, "seconds": time.perf_counter() - begun}

    ready = {"ready": True, "peer": kind, "version": agent.version, "first_seconds": first}
    converse(channel, ready, {"go": go})


if __name__ == "__main__":
    main()
