"""Environment steps per second of a learning agent: compiled lives, and gymnasium on the host.

    python -m benchmarks.agents.speed

DQN, 64-64, batch 64, one update every 4 steps, by backprop and by predictive coding. Compiled
lives of 1, 4 and 16 seeds, and one life in gymnasium's own CartPole; the first call (compilation)
is timed apart. Results go to `benchmarks/results/agents/speed.json`.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from anima.agent.classic import dqn
from anima.agent.life import lives
from anima.world.env import make

RESULTS = Path(__file__).parents[1] / "results" / "agents"
CYCLES = 500
REPEATS = 5


def timed(world: str, assigner: str, seeds: int) -> dict[str, Any]:
    """The median rate of some chunks, after a first that compiles."""
    made = make(world)
    scale = (2.4, 3.0, 0.21, 3.0)
    mind = dqn(made.spec, assigner=assigner, reward_scale=0.02, scale=scale)
    life = lives(mind, made, range(seeds))
    begun = time.perf_counter()
    life.advance(CYCLES)
    first = time.perf_counter() - begun
    rates = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        life.advance(CYCLES)
        rates.append(seeds * CYCLES * mind.cycle / (time.perf_counter() - begun))
    life.close()
    return {
        "world": world,
        "assigner": assigner,
        "seeds": seeds,
        "first_seconds": first,
        "steps_per_second": sorted(rates)[REPEATS // 2],
    }


def main() -> None:
    """Times all and writes the file."""
    rows = [
        timed("CartPole-v1", assigner, seeds)
        for assigner in ("backprop", "predictive")
        for seeds in (1, 4, 16)
    ]
    rows += [timed("gymnasium:CartPole-v1", a, 1) for a in ("backprop", "predictive")]
    for row in rows:
        print(row)
    RESULTS.mkdir(parents=True, exist_ok=True)
    found = {
        "command": "python -m benchmarks.agents.speed",
        "cores": len(os.sched_getaffinity(0)),
        "rows": rows,
    }
    (RESULTS / "speed.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
