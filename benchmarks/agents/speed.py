"""Environment steps per second of a learning agent: beside its peers in gymnasium, and compiled.

    python -m benchmarks.agents.speed
    python -m benchmarks.agents.speed --only gymnasium    # or compiled: the other is kept as it was

DQN, 64-64, batch 64, one update every 4 steps; predictive coding settles as briefly as in its
preset for CartPole. In gymnasium's own CartPole anima, by backprop, by zero-divergence inference
and by predictive coding, lives turn by turn with Stable-Baselines3 (PyTorch) and sbx (JAX), each in
a process of its own on the same core (`peers/dqn_worker.py`): what is reported are medians over
rounds and their ratios. In compiled worlds 1 and 16 seeds live as one program, 16 on all cores
there are. Results go to `benchmarks/results/agents-speed.json`.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from anima.agent.classic import dqn
from anima.agent.life import lives, offer_cores
from anima.world.env import make

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "agents-speed.json"
sys.path[:0] = [str(HERE / "peers"), str(HERE.parent / "speed")]

from dqn_worker import briefly  # noqa: E402  (scripts that are no package)
from driver import Worker, WorkerError, spread  # noqa: E402
from environments import ensure  # noqa: E402

ENTRANTS = {  # and their environments
    "anima-predictive": "",
    "anima-zil": "",
    "anima-backprop": "",
    "sbx": "rl",
    "sb3": "rl",
}
CYCLES, REPEATS = 500, 5  # of compiled lives
STEPS, ROUNDS = 2000, 7  # of the race


def compiled(world: str, assigner: str, seeds: int) -> dict[str, Any]:
    """The median rate of some chunks of compiled lives, after a first that compiles."""
    made = make(world)
    mind = dqn(
        made.spec,
        assigner=assigner,
        credit=briefly(assigner),
        reward_scale=0.02,
        scale=(2.4, 3.0, 0.21, 3.0),
    )
    life = lives(mind, made, range(seeds))
    begun = time.perf_counter()
    life.advance(CYCLES)
    first, rates = time.perf_counter() - begun, []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        life.advance(CYCLES)
        rates.append(seeds * CYCLES * mind.cycle / (time.perf_counter() - begun))
    life.close()
    row = {"world": world, "assigner": assigner, "seeds": seeds, "first_seconds": first}
    return row | {"steps_per_second": spread(rates)}


def race() -> dict[str, Any]:
    """All entrants in gymnasium's CartPole on one core, one after another in every round."""
    workers: dict[str, Worker] = {}
    rates: dict[str, list[float]] = {}
    skipped: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for who, environment in ENTRANTS.items():
            python, reason = ensure(environment) if environment else (Path(sys.executable), "")
            try:
                if python is None:
                    raise WorkerError(reason)
                command = [str(python), str(HERE / "peers" / "dqn_worker.py"), who]
                workers[who], rates[who] = Worker(command, 1), []
                stack.callback(workers[who].end)
            except WorkerError as error:
                skipped[who] = str(error)
        for number in range(ROUNDS):
            names = list(rates)
            shift = number % max(len(names), 1)
            for who in names[shift:] + names[:shift]:
                try:
                    turn = workers[who].ask(f"go {STEPS}")
                    rates[who].append(turn["steps"] / turn["seconds"])
                except WorkerError as error:
                    skipped[who] = str(error)
                    del rates[who]
    rows = {
        who: {key: workers[who].ready[key] for key in ("version", "first_seconds")}
        | {"steps_per_second": spread(values)}
        for who, values in rates.items()
    }
    median = {who: statistics.median(values) for who, values in rates.items()}
    ratios = {
        f"{ours} / {peer}": median[ours] / median[peer]
        for ours in median
        if ours.startswith("anima")
        for peer in median
        if not peer.startswith("anima")
    }
    return {"rows": rows, "ratios": ratios, "skipped": skipped}


def all_compiled() -> list[dict[str, Any]]:
    """Compiled lives in both worlds."""
    offer_cores()
    return [
        compiled(world, assigner, seeds)
        for world in ("CartPole-v1", "gymnax:CartPole-v1")
        for assigner in ("backprop", "predictive")
        for seeds in (1, 16)
    ]


def main() -> None:
    """Times what is asked for and writes the file."""
    parts = {"gymnasium": race, "compiled": all_compiled}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=parts, help="the other is kept as it was")
    only = parser.parse_args().only
    found = json.loads(RESULTS.read_text()) if only else {}
    found["command"] = "python -m benchmarks.agents.speed"
    for part in [only] if only else parts:
        found[part] = parts[part]()
        if part == "compiled":  # the race is on one
            found["cores"] = len(os.sched_getaffinity(0))
        print(json.dumps(found[part], indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
