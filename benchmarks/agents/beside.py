"""Greedy returns of Stable-Baselines3's and sbx's DQN and SAC, with the settings of their zoo.

    python -m benchmarks.agents.beside sb3 CartPole-v1 --seeds 10

The rows that anima's are read beside. Every seed is a process of its own in the peers' environment
(`benchmarks/speed/environments.py rl`), on one core. Results go to
`benchmarks/results/agents-peers/<who>-<world>.json`, seed by seed; a seed that is there is not run
again: after another release of a peer, begin without the file.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from anima.core.files import write_atomically
from anima.run import agents
from anima.run.statistics import interval, iqm
from benchmarks.agents.lives import THRESHOLDS

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "agents-peers"
sys.path.insert(0, str(HERE.parent / "speed"))

from environments import ensure  # noqa: E402  (a script that is no package)


def one_seed(python: Path, who: str, world: str, seed: int) -> dict:
    """What one seed of a peer learnt; raises `CalledProcessError` if it failed."""
    worker = HERE / "peers" / "returns_worker.py"
    ours = agents.resolve(agents.choose(world)[1]).live  # judged as often
    judging = ["--every", str(ours.judge_every), "--threshold", str(THRESHOLDS[world])]
    command = [str(python), str(worker), who, world, str(seed), *judging]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Runs the seeds that are not there yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("who", choices=("sb3", "sbx"))
    parser.add_argument("world")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    python, reason = ensure("rl")
    if python is None:
        raise SystemExit(f"the peers cannot be installed: {reason}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{options.who}-{options.world}.json"
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])  # as the races: one core
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    for seed in sorted(set(range(options.seeds)) - {run["seed"] for run in runs}):
        try:
            runs.append(one_seed(python, options.who, options.world, seed))
        except subprocess.CalledProcessError as error:  # the worker has said why
            raise SystemExit(f"{options.who} failed on {options.world}, seed {seed}") from error
        print(runs[-1], flush=True)
        returns = np.array([[run["return"]] for run in runs])
        found = {
            "agent": runs[-1]["agent"],
            "who": options.who,
            "version": runs[-1]["version"],
            "environment": options.world,
            "environment_steps": runs[-1]["steps"],
            "threshold": THRESHOLDS[options.world],
            "return_iqm": iqm(returns),
            "ci95": list(interval(returns)),
            "command": f"python -m benchmarks.agents.beside {options.who} {options.world}"
            f" --seeds {len(runs)}",
            "runs": runs,
        }
        write_atomically(path, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
