"""Greedy returns of the presets for agents, over seeds that nothing was tuned on.

    python -m benchmarks.agents.lives cartpole-dqn-predictive cartpole-dqn-backprop --seeds 10
    python -m benchmarks.agents.lives mountaincar-angc --steps 120000    # longer than it ships
    python -m benchmarks.agents.lives mountaincar-angc --set agent.epistemic=0    # an ablation
    python -m benchmarks.agents.lives --all --seeds 10

Each preset is lived as it ships (or for `--steps`, or with what is `--set`), seeds 0 to N-1 side
by side, and judged by 100 greedy episodes a seed in fresh worlds. Results go to
`benchmarks/results/agents/<preset>.json` (`<preset>-<steps>-<setting>.json` where they were given)
with the command that made them; a preset that is there with as many seeds is not lived again.
Presets were tuned on seeds from 100 on.
"""

import argparse
import json
import platform
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from anima.core.errors import InputError
from anima.run import agents
from anima.run.live import Living, result
from anima.run.statistics import interval, iqm

RESULTS = Path(__file__).parents[1] / "results" / "agents"
_STEPS = "live.steps="
THRESHOLDS = {
    "CartPole-v1": 475.0,
    "MountainCar-v0": -110.0,
    "Acrobot-v1": -100.0,
    "LunarLander-v3": 200.0,
    "Pendulum-v1": -200.0,
    "MountainCarContinuous-v0": 90.0,
}


def lived(preset: str, seeds: int, sets: Sequence[str] = ()) -> dict[str, Any]:
    """One preset over seeds 0 .. seeds - 1, with `sets` changed in it ("agent.epistemic=0")."""
    table = agents.override(agents.read_preset(preset), sets)
    config = agents.resolve(table)
    with tempfile.TemporaryDirectory() as folder:
        living = Living(config, 0, seeds, Path(folder))
        outcome = living.run(progress=_say)
        if outcome.interrupted:
            raise KeyboardInterrupt
        found = result(Path(folder), living, living.judge(), outcome.seconds)
    found.pop("run")
    threshold = THRESHOLDS.get(config.world["name"])
    first = _reached(outcome.rows, threshold)
    return found | {
        "preset": preset,
        "command": f"python -m benchmarks.agents.lives {preset} --seeds {seeds}" + _options(sets),
        "sets": [setting for setting in sets if not setting.startswith(_STEPS)],
        "curve": _curve(outcome.rows),
        "threshold": threshold,
        "steps_to_threshold": [row and row["step"] for row in first],
        "seconds_to_threshold": [row and row["seconds"] for row in first],
        "machine": {"jax": jax.__version__, "python": platform.python_version()},
    }


def _curve(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The judged return at each step: interquartile mean and interval over seeds."""
    steps = sorted({row["step"] for row in rows})
    curve = []
    for step in steps:
        returns = np.array([[row["judged_return"]] for row in rows if row["step"] == step])
        curve.append({"step": step, "iqm": iqm(returns), "ci95": list(interval(returns))})
    return curve


def _reached(rows: list[dict[str, Any]], threshold: float | None) -> list[dict[str, Any] | None]:
    """For each seed, the first row whose judged return was at the threshold."""
    if threshold is None:
        return []
    there = [row for row in rows if row["judged_return"] >= threshold]
    seeds = sorted({row["seed"] for row in rows})
    return [next((row for row in there if row["seed"] == seed), None) for seed in seeds]


def _options(sets: Sequence[str]) -> str:
    """The options that say what was changed."""
    steps = [f" --steps {s.removeprefix(_STEPS)}" for s in sets if s.startswith(_STEPS)]
    return "".join(steps + [f" --set {shlex.quote(s)}" for s in sets if not s.startswith(_STEPS)])


def _say(pulse: Any) -> None:
    if pulse.judged:
        judged = np.mean([row["judged_return"] for row in pulse.rows[-pulse.seeds :]])
        speed = f"{pulse.steps_per_second:.0f} steps/s"
        print(f"  {pulse.step}/{pulse.steps}  greedy {judged:.1f}  {speed}", file=sys.stderr)


def main() -> None:
    """Lives the presets that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("presets", nargs="*")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    sets = [f"{_STEPS}{options.steps}"] * (options.steps is not None) + options.set
    changed = "".join(f"-{setting.removeprefix(_STEPS)}" for setting in sets)
    changed = re.sub(r"[^\w.=-]+", "_", changed)  # a part of a file's name
    RESULTS.mkdir(parents=True, exist_ok=True)
    for preset in agents.preset_names() if options.all else options.presets:
        path = RESULTS / f"{preset}{changed}.json"
        if path.exists() and json.loads(path.read_text())["seeds"] >= options.seeds:
            continue
        print(preset, file=sys.stderr)
        try:
            found = lived(preset, options.seeds, sets)
        except InputError as error:
            if not options.all:
                raise
            print(
                f"  left out: {error}", file=sys.stderr
            )  # it needs an extra, or has no such setting
            continue
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"  IQM {found['return_iqm']:.1f} {found['ci95']}", file=sys.stderr)


if __name__ == "__main__":
    main()
