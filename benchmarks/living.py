"""The living agent from scratch: steps until it solves a task, and what a change of physics costs.

    python -m benchmarks.living CartPole-v1 Pendulum-v1    # worlds; none: all of them
    python -m benchmarks.living pendulum-living-online     # another preset of a world
    python -m benchmarks.living --change                   # physics that change mid-life
    python -m benchmarks.living --sleep                    # what dreams are worth
    python -m benchmarks.living --speed

Seeds 20 to 29 live side by side in compiled worlds, judged by some greedy episodes each in fresh
worlds until all have come to the returns asked for (where curves are drawn, always), and at the
steps asked by; the end is judged by 100 greedy episodes a seed (of HalfCheetah 3) in gymnasium
itself. The twin (`backprop`) is the same agent whose model of equal size learns by backpropagation.
Settings were tuned on seeds from 100 on. Results go to `benchmarks/results/living.json`, one entry
a case; cases that are there are not run again unless `--again`. Curves of the worlds that have many
dimensions are drawn beside it.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from anima.agent.agent import check_finite
from anima.agent.life import AbstractLives, Ending, lives, offer_cores
from anima.agent.mind import AbstractMind
from anima.app import figures
from anima.app.report import as_png
from anima.core.errors import pick
from anima.core.files import write_atomically, write_bytes_atomically
from anima.run import agents
from anima.run.statistics import interval, iqm
from anima.world.classic import CartPole, Pendulum
from anima.world.env import make

RESULTS = Path(__file__).parent / "results" / "living.json"
SEEDS = range(20, 30)
ON_THE_WAY, AT_THE_END = 20, 100
_FIRST = 30  # episodes of each life whose returns are kept
JUDGE_SEED = 20_000

# world, or a preset that is not its first -> (return asked for -> by which environment step, of any
# model ("") or of one; steps of the life; steps between judgements; episodes of each)
WORLDS: dict[str, tuple[dict[float, dict[str, int]], int, int, int]] = {
    "CartPole-v1": ({500.0: {"": 250, "eqprop": 400, "eqprop-predictive": 400}}, 400, 25, 5),
    "Pendulum-v1": ({-200.0: {"": 500}, -160.0: {"": 3000}}, 3000, 250, 20),
    "CartPoleSwingUp-v0": ({70.0: {"": 1100}}, 1100, 100, 10),
    "MountainCar-v0": ({-199.0: {}, -110.0: {}}, 2000, 1000, 10),
    "MountainCarContinuous-v0": ({0.0: {}, 90.0: {}}, 2000, 1000, 5),
    "Acrobot-v1": ({-100.0: {"": 5000}}, 5000, 500, 10),
    "pendulum-living-online": ({-200.0: {}, -160.0: {}}, 20_000, 2500, 10),
    # last, as they need MuJoCo
    "InvertedPendulum-v5": ({1000.0: {"": 1000}}, 1000, 100, 5),
    "Reacher-v5": ({-10.0: {}}, 3000, 500, 10),
    "HalfCheetah-v5": ({0.0: {}, 300.0: {}}, 10_000, 2000, 1),
}
FEWER = {"HalfCheetah-v5": 3}  # episodes at the end, where one takes 1,000 plans
CURVES = ("Reacher-v5", "HalfCheetah-v5")  # drawn beside the results
MODELS = ("fixed-prediction", "predictive", "ngc", "eqprop", "eqprop-predictive", "backprop")
CHANGES = {
    "CartPole-v1": ("motor reversed", lambda: CartPole(motor=-1.0), 400),
    "Pendulum-v1": ("gravity x 1.5", lambda: Pendulum(gravity=1.5), 2000),
}
REACTIONS = {  # "alarm, slow" is what ships
    "alarm": ("agent.alarm=30.0", f"agent.lasting={10 / 3}"),
    "alarm, slow": (),
    "window of 200": ("agent.alarm=0", "agent.window=200"),
    "neither": ("agent.alarm=0",),
}
SLEEPS = {  # "dreams" is what ships; all remember the last 200 steps alone, but for the last
    "dreams": (),
    "replay": ("agent.dreams=0",),
    "none": ("agent.dreams=0", "agent.sleep=0"),
    "none, all is remembered": ("agent.dreams=0", "agent.sleep=0", "agent.capacity=50000"),
}
SLEEPER = "pendulum-living-dreams"


def mind_of(case: str, assigner: str, *settings: str) -> tuple[str, AbstractMind]:
    """The mind of the preset for a case and a way to learn, and the preset's name.

    The twin is the default preset's: the same circuit, learnt by backpropagation. A preset that is
    named is taken as it is, but for its assigner.
    """
    world = world_of(case)
    preset = case if case != world else None
    same = assigner == "backprop" or preset is not None
    name, table = agents.choose(
        world, agent="living", preset=preset, assigner=None if same else assigner
    )
    if same:
        table = table | {"agent": table["agent"] | {"assigner": assigner}}
    config = agents.resolve(agents.override(table, settings))
    return name, agents.build_mind(config, make(world).spec)


def world_of(case: str) -> str:
    """The world of a case, which is named by itself or by a preset."""
    return agents.read_preset(case)["world"]["name"] if case in agents.preset_names() else case


def learnt(case: str, assigner: str) -> dict[str, Any]:
    """Lives from scratch: when each seed reached the thresholds, and how good it is at the end."""
    thresholds, steps, every, episodes = WORLDS[case]
    asked = {asked_by(case, threshold, assigner) for threshold in thresholds}
    world, (name, mind) = world_of(case), mind_of(case, assigner)
    life = lives(mind, make(world), SEEDS)
    begun, curve, updates = time.perf_counter(), [], 0.0
    lived: list[list[float]] = [[] for _ in SEEDS]
    for _ in range(0, steps, every):
        charts, endings = life.advance(every)
        check_finite(life, charts)
        _note_episodes(lived, endings)
        updates += float(np.mean(np.sum(charts["updates"], 1)))
        row = {name: float(np.mean(charts[name])) for name in ("surprise", "error", "drift")}
        curve.append({"step": life.steps} | row)
        there = all(_reached(curve, i, max(thresholds)) for i in range(len(SEEDS)))
        if life.steps in asked or not there or case in CURVES:
            scores = life.judge(episodes, JUDGE_SEED).mean(1)
            curve[-1]["returns"] = scores.tolist()
            _say(f"{case} {assigner} {life.steps}: {np.sort(scores).round(1)} {row['error']:.3f}")
    seconds = time.perf_counter() - begun
    final = judged_in_gymnasium(life, world, FEWER.get(case, AT_THE_END))
    return {
        "world": world,
        "assigner": assigner,
        "preset": name,
        "steps": life.steps,
        "updates_a_step": updates / life.steps,
        "reached": {str(t): [_reached(curve, i, t) for i in range(len(SEEDS))] for t in thresholds},
        "curve": curve,
        "episodes": [row[:_FIRST] for row in lived],
        "final_episodes": final.shape[1],
        "return_by_seed": final.mean(1).tolist(),
        "return_iqm": iqm(final.mean(1)),
        "ci95": list(interval(final)),
        "seconds_all_seeds": seconds,
    }


def asked_by(case: str, threshold: float, assigner: str) -> int | None:
    """The step by which a model is asked to have come to a return, if it is."""
    by = WORLDS[case][0][threshold]
    return by.get(assigner, by.get(""))


def judged_in_gymnasium(life: AbstractLives, world: str, episodes: int) -> np.ndarray:
    """Greedy returns of every seed in gymnasium's world, (seeds, episodes); the swing-up's are our
    own equations there too."""
    hosted = lives(life.mind, make(f"gymnasium:{world}"), life.seeds)
    alive, *rest = hosted.state
    hosted.restore((eqx.tree_at(lambda alive: alive.mind, alive, life.alive.mind), *rest))
    scores = hosted.judge(episodes, JUDGE_SEED + 1)
    hosted.close()
    return scores


def slept(how: str) -> dict[str, Any]:
    """Lives that remember little: how good they are on the way, and at the end."""
    world, (name, mind) = world_of(SLEEPER), mind_of(SLEEPER, "fixed-prediction", *SLEEPS[how])
    life, curve = lives(mind, make(world), SEEDS), []
    steps = agents.read_preset(name)["live"]["steps"]
    while life.steps < steps:
        charts, _ = life.advance(500)
        check_finite(life, charts)
        scores = life.judge(ON_THE_WAY, JUDGE_SEED)
        row = {"return_iqm": iqm(scores.mean(1)), "ci95": list(interval(scores))}
        curve.append({"step": life.steps} | row)
        _say(f"{SLEEPER} {how} {life.steps}: {np.sort(scores.mean(1)).round(1)}")
    final = judged_in_gymnasium(life, world, AT_THE_END)
    return {
        "world": world,
        "preset": name,
        "sleep": how,
        "settings": list(SLEEPS[how]),
        "steps": life.steps,
        "curve": curve,
        "return_by_seed": final.mean(1).tolist(),
        "return_iqm": iqm(final.mean(1)),
        "ci95": list(interval(final)),
    }


def changed(world: str, assigner: str, reaction: str) -> dict[str, Any]:
    """Lives whose physics change: returns of the episodes they then live, and of a frozen model."""
    what, build, steps = CHANGES[world]
    _, mind = mind_of(world, assigner, *REACTIONS[reaction])
    life = lives(mind, make(world), SEEDS)
    life.advance(steps)
    before = life.judge(ON_THE_WAY, JUDGE_SEED).mean(1)
    other = lives(mind, build(), SEEDS)
    other.restore(life.state)
    frozen = other.judge(ON_THE_WAY, JUDGE_SEED).mean(1)
    returns = _episodes_lived(other, count=6, most=6 * mind.spec.limit)
    share = [
        [(score - frozen[i]) / (before[i] - frozen[i]) for score in row[1:]]
        for i, row in enumerate(returns)
    ]
    first = [next((k + 1 for k, s in enumerate(row) if s >= 0.9), None) for row in share]
    after = other.judge(ON_THE_WAY, JUDGE_SEED).mean(1)
    return {
        "world": world,
        "assigner": assigner,
        "change": what,
        "reaction": reaction,
        "at": steps,
        "before": before.tolist(),
        "frozen": frozen.tolist(),
        "returns": returns,
        "episodes_to_90_percent": first,
        "after_6_episodes": after.tolist(),
    }


def speed() -> dict[str, Any]:
    """Environment steps a second on gymnasium's CartPole: planning at every step, and learning at
    every step or as the gate that ships lets it."""
    learning_all = ("agent.recovery=1000000",)  # as if it were young, or had just been alarmed
    return _rate(*learning_all) | {"gated": _rate()}


def _rate(*settings: str) -> dict[str, Any]:
    name, mind = mind_of("CartPole-v1", "fixed-prediction", *settings)
    life = lives(mind, make("gymnasium:CartPole-v1"), [0])
    begun = time.perf_counter()
    life.advance(50)
    first = time.perf_counter() - begun
    life.advance(250)  # after which it is no longer young to the gate that ships
    rates, updates = [], []
    for _ in range(15):
        begun = time.perf_counter()
        charts, _ = life.advance(300)
        rates.append(300 / (time.perf_counter() - begun))
        updates.append(float(np.mean(charts["updates"])))
    return {
        "preset": name,
        "world": "gymnasium:CartPole-v1",
        "cores": len(os.sched_getaffinity(0)),
        "first_50_steps_seconds": first,
        "steps_per_second": sorted(rates)[7],
        "least_and_most": [min(rates), max(rates)],
        "updates_a_step": float(np.mean(updates)),
    }


def _episodes_lived(life: AbstractLives, count: int, most: int) -> list[list[float]]:
    """Returns of the episodes each seed lives through: that of the change, then `count` more."""
    scores: list[list[float]] = [[] for _ in life.seeds]
    while min(map(len, scores)) < count + 1 and most > 0:
        _, endings = life.advance(100)
        most -= 100
        _note_episodes(scores, endings)
    return [row[: count + 1] for row in scores]


def _note_episodes(scores: list[list[float]], endings: Ending) -> None:
    """Adds to each seed's list the returns of the episodes that its life has finished."""
    for index, row in enumerate(scores):
        ended = np.asarray(endings.ended)[index, :, 0]
        row += np.asarray(endings.score)[index, ended, 0].tolist()


def _reached(curve: list[dict[str, Any]], seed: int, threshold: float) -> int | None:
    judged = [row for row in curve if "returns" in row]
    return next((row["step"] for row in judged if row["returns"][seed] >= threshold), None)


def draw(case: dict[str, Any], path: Path) -> None:
    """The picture of judged returns and of surprise, on the way."""
    rows = [
        {"seed": seed, "step": row["step"], "judged_return": score, "surprise": row["surprise"]}
        for row in case["curve"]
        for seed, score in zip(SEEDS, row.get("returns", ()), strict=False)
    ]
    write_bytes_atomically(path, as_png(figures.life_curve(rows, "energy, mean of seeds")))


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _cases(options: argparse.Namespace) -> dict[str, Any]:
    """What is asked for: a key of the file -> how to make its entry."""
    if options.speed:
        return {"speed": speed}
    if options.sleep:
        return {f"sleep/{SLEEPER}/{how}": lambda how=how: slept(how) for how in SLEEPS}
    known = CHANGES if options.change else WORLDS
    for world in options.worlds:
        pick("world", world, known)
    worlds = options.worlds or list(known)
    models = options.model or list(MODELS)
    if options.change:
        return {
            f"change/{world}/{model}/{reaction}": lambda w=world, m=model, r=reaction: changed(
                w, m, r
            )
            for world in worlds
            for model in options.model or ["fixed-prediction"]
            for reaction in REACTIONS
        }
    return {
        f"{world}/{model}": lambda w=world, m=model: learnt(w, m)
        for world in worlds
        for model in models
    }


def _command(key: str) -> str:
    """What makes a case, by its key."""
    kind, _, rest = key.partition("/")
    words = {"speed": "--speed", "sleep": "--sleep", "change": f"{rest.partition('/')[0]} --change"}
    case, _, model = key.rpartition("/")
    return f"python -m benchmarks.living {words.get(kind, f'{case} --model {model}')}"


def main() -> None:
    """Runs the cases that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("worlds", nargs="*")
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--change", action="store_true")
    parser.add_argument("--sleep", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    offer_cores()
    for key, make_it in _cases(options).items():
        held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cases": {}}
        if key in held["cases"] and not options.again:
            continue
        held["cases"][key] = make_it() | {"command": _command(key)}
        held["machine"] = {"jax": jax.__version__, "python": platform.python_version()}
        held["command"] = (
            "python -m benchmarks.living [WORLD --model MODEL | --change | --sleep | --speed]"
        )
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(RESULTS, json.dumps(held, indent=1) + "\n")
    cases = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else {}
    for world in CURVES:
        if case := cases.get(f"{world}/fixed-prediction"):
            draw(case, RESULTS.with_name(f"living-{world}.png"))


if __name__ == "__main__":
    main()
