"""The tables of the docs, generated from `benchmarks/results/`.

python -m benchmarks.tables           # writes the pages of docs/ and the block in README.md
python -m benchmarks.tables --check   # fails if they are not what the results say
"""

import argparse
import json
import statistics
import sys
import tomllib
from pathlib import Path

from anima.run import agents
from anima.run.statistics import iqm
from benchmarks.living import AT_THE_END, CURVES, SLEEPER, SLEEPS, WORLDS, asked_by
from benchmarks.memory_page import interval as _interval
from benchmarks.memory_page import memory_page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SEEDS = 5
NOTES = tomllib.loads((ROOT / "benchmarks" / "notes.toml").read_text())
OPEN, CLOSE = "<!-- results -->", "<!-- /results -->"

ASKED = {
    "digits-eqprop": "accuracy >= 95%",
    "digits-predictive": "accuracy >= 95%",
    "digits-ngc": "accuracy >= 93%",
    "mnist-eqprop": "error <= 1.40% (aim 1.25%)",
    "mnist-eqprop-shift": "error <= 1.00% (aim 0.85%)",
    "mnist-predictive": "error <= 1.50%",
    "mnist-ngc": "-",
    "mnist-conv-eqprop": "error <= 0.70%",
    "mnist-conv-predictive": "error <= 0.70%",
    "fashion-mnist-eqprop": "-",
    "fashion-mnist-predictive": "-",
    "fashion-mnist-conv-eqprop": "-",
    "fashion-mnist-conv-predictive": "-",
}
LIMITS = {
    "digits-eqprop": 5.0,
    "digits-predictive": 5.0,
    "digits-ngc": 7.0,
    "mnist-eqprop": 1.40,
    "mnist-eqprop-shift": 1.00,
    "mnist-predictive": 1.50,
    "mnist-conv-eqprop": 0.70,
    "mnist-conv-predictive": 0.70,
}


def read(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.exists() else None


def note(page: str, table: str) -> list[str]:
    """What is to be said of figures that were missed, as lines below a table."""
    text = NOTES.get(page, {}).get(table, "")
    return ["", *text.strip().splitlines()] if text else []


def accuracy_table() -> list[str]:
    """One row per preset: mean error, interval, twin."""
    lines = [
        "| preset | test error, mean of seeds | IQM [95%] | backprop twin | minutes a seed | asked "
        "| reached |",
        "|---|---|---|---|---|---|---|",
    ]
    folder = RESULTS / "accuracy"
    for preset, asked in ASKED.items():
        circuit = read(folder / f"{preset}-circuit.json")
        twin = read(folder / f"{preset}-twin.json")
        if circuit is None:
            continue
        error = circuit["test_error_percent"]
        minutes = statistics.median(run["seconds"] for run in circuit["runs"]) / 60
        lines.append(
            f"| `{preset}` | {error['mean']:.2f}% ({len(circuit['runs'])}) | {_interval(error)} | "
            f"{_twin(twin)} | {minutes:.1f} | {asked} | {_reached(preset, circuit)} |"
        )
    if missing := {path.stem.rpartition("-")[0] for path in folder.glob("*.json")} - set(ASKED):
        raise SystemExit(f"results of presets that no row is for: {sorted(missing)}")
    return lines


def _reached(preset: str, found: dict) -> str:
    """A figure counts once its seeds are there."""
    if preset not in LIMITS:
        return "-"
    if len(found["runs"]) < SEEDS:
        return f"not settled: {len(found['runs'])} of {SEEDS} seeds run"
    return "yes" if found["test_error_percent"]["mean"] <= LIMITS[preset] else "no"


def _twin(twin: dict | None) -> str:
    if twin is None:
        return "-"
    return f"{twin['test_error_percent']['mean']:.2f}% ({len(twin['runs'])})"


def sweep_table() -> list[str]:
    """The twins' learning rates, chosen on validation data."""
    found = read(RESULTS / "twin-rates.json")
    if found is None:
        return []
    lines = [
        "| preset | epochs | rate: validation error of the twin | taken |",
        "|---|---|---|---|",
    ]
    for preset, row in found["presets"].items():
        cells = ", ".join(f"{rate}: {100 * error:.2f}%" for rate, error in row["errors"].items())
        lines.append(f"| `{preset}` | {row['epochs']} | {cells} | {row['taken']} |")
    return lines


def speed_tables() -> list[str]:
    """One table per case and number of cores."""
    found = read(RESULTS / "speed.json")
    if found is None:
        return []
    lines = [f"On {found['machine']['processor']}, {found['machine']['cores']} cores, shared.", ""]
    for result in found["results"]:
        case, floor = result["case"], result["floor"]
        sizes = "-".join(map(str, case["sizes"]))
        steps = f"T = {case['steps']}" + (f" + {case['nudged']}" if case["nudged"] else "")
        lines += [
            f"**{case['name']}**: {sizes}, batch {case['batch']}, {steps}, "
            f"{result['threads']} core(s). Floor: {floor['flops_per_sample']['hoisted'] / 1e6:.2f} "
            f"MFLOP a sample at {floor['gflops_peak']:.0f} GFLOP/s (measured) = "
            f"{floor['samples_per_second']:,.0f} samples/s.",
            "",
            "| | samples/s (median) | per CPU second | anima / this | asked | first call s | "
            "peak MB | x floor |",
            "|---|---|---|---|---|---|---|---|",
            *(_speed_row(label, row) for label, row in result["rows"].items()),
            "",
        ]
        if result.get("warnings"):
            lines += [*(f"Note: {text}" for text in result["warnings"]), ""]
    return lines


def _speed_row(label: str, row: dict) -> str:
    wall, cpu, ratio = (
        row["samples_per_second"],
        row["samples_per_cpu_second"],
        row["reference_over_this"],
    )
    asked = f">= {row['target']:g}" if row.get("target") else ""
    return (
        f"| {label} | {wall['median']:,.0f} | {cpu['median']:,.0f} | "
        f"{ratio['wall']:.2f} (CPU {ratio['cpu']:.2f}) | {asked} | "
        f"{row['first_call_seconds']:.2f} | {row['peak_memory_mb']:,.0f} | "
        f"{row.get('times_floor', {}).get('samples_per_second', float('nan')):.2f} |"
    )


def cost_table() -> list[str]:
    """What credit costs, beside backprop's."""
    found = read(RESULTS / "credit-cost.json")
    if found is None:
        return []
    rows, sizes = found["rows"], "-".join(map(str, found["sizes"]))
    reference = rows["Backprop"]
    lines = [
        f"`{found['command']}`: {sizes}, batch {found['batch']}, {found['steps']} settling steps. "
        "Operations are those of the matrix products that a step's program really does.",
        "",
        "| assigner | circuit | samples/s | time / backprop's | MFLOP a sample | / backprop's |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        rate, count = row["samples_per_second"], row["operations_per_sample"]
        slower = reference["samples_per_second"] / rate
        more = count / reference["operations_per_sample"]
        lines.append(
            f"| {name} | {row['circuit']} | {rate:,.0f} | {slower:.1f} | {count / 1e6:.2f} | "
            f"{more:.1f} |"
        )
    return lines


def living_tables() -> list[str]:
    """Steps to solve a task from scratch, what a change of physics costs, and the speed."""
    found = read(RESULTS / "living.json")
    if found is None:
        return []
    cases, place = found["cases"], list(WORLDS).index
    lines = [
        f"`{found['command']}`. Steps to a return: the median and the worst of the seeds that came",
        "there, judged on the way by greedy episodes in fresh worlds; in brackets how many did.",
        "*Its own episodes*: which of those that the life itself lived through, learning and",
        "exploring, was the first at or above the lowest of these returns (of the mountain",
        "cars: the first to come to the top; asked is one of the first ten).",
        "",
        "| world | model | steps to a return | asked by | its own episodes | IQM on the way | "
        "100 greedy episodes at the end, IQM [95%] |",
        "|---|---|---|---|---|---|---|",
    ]
    lived = {name: case for name, case in cases.items() if "reached" in case}
    names = sorted(lived, key=lambda name: place(name.rpartition("/")[0]))
    lines += [_living_row(name, lived[name]) for name in names]
    lines += note("results", "living")
    drawn = [world for world in CURVES if (RESULTS / f"living-{world}.png").exists()]
    if drawn:
        lines += ["", "Higher dimensions, with their curves (interval and seeds; greedy episodes):"]
    for world in drawn:
        lines += ["", f"![{world}](../benchmarks/results/living-{world}.png)"]
    changes = [case for case in cases.values() if "change" in case]
    changes.sort(key=lambda case: place(case["world"]))
    if changes:
        lines += [
            "",
            "Physics that change mid-life. Episodes until the life itself is back at 90% of the",
            "gap between a model frozen at the change and what it reached before it (asked: 3),",
            "and what 20 greedy episodes bring in after six; means over seeds:",
            "",
            "| world | change | reaction | before | frozen | episodes: median, worst | after six |",
            "|---|---|---|---|---|---|---|",
            *(_change_row(case) for case in changes),
            *note("results", "change"),
        ]
    sleeps = [
        cases[f"sleep/{SLEEPER}/{how}"] for how in SLEEPS if f"sleep/{SLEEPER}/{how}" in cases
    ]
    if sleeps:
        lines += [
            "",
            f"What sleep is worth: `{SLEEPER}` remembers the last 200 steps alone. IQM [95%],",
            "on the way by 20 greedy episodes a seed, at the end by 100 in gymnasium:",
            "",
            "| asleep | "
            + " | ".join(f"step {row['step']}" for row in sleeps[0]["curve"])
            + " | end |",
            "|---" * (len(sleeps[0]["curve"]) + 2) + "|",
            *(_sleep_row(case) for case in sleeps),
            *note("results", "sleep"),
        ]
    if "speed" in cases:
        row = cases["speed"]
        told = lambda rate: "{:.0f} [{:.0f}, {:.0f}]".format(
            rate["steps_per_second"], *rate["least_and_most"]
        )
        lines += [
            "",
            f"Planning and learning at every step, {row['updates_a_step']:.0f} updates each: "
            f"{told(row)} steps a second on `{row['world']}`, {row['cores']} core(s) (asked: 400);",
            f"gated by surprise, as it ships, {row['gated']['updates_a_step']:.1f} updates a step: "
            f"{told(row['gated'])}. Median, least and most of 15 times 300 steps.",
        ]
    return lines


def _sleep_row(case: dict) -> str:
    told = lambda row: "{:.1f} [{:.1f}, {:.1f}]".format(row["return_iqm"], *row["ci95"])
    return f"| {case['sleep']} | " + " | ".join(map(told, [*case["curve"], case])) + " |"


def _living_row(key: str, case: dict) -> str:
    cells, asked = [], {}
    name, world = key.rpartition("/")[0], case["world"]
    shown = world if name == world else f"{world}, `{name}`"
    for threshold, steps in case["reached"].items():
        cells.append(f"{float(threshold):g}: {_arrivals(steps)}")
        asked[threshold] = asked_by(name, float(threshold), case["assigner"])
    met = {row["step"]: row["returns"] for row in case["curve"] if "returns" in row}
    way = [f"{step}: {iqm(met[step]):.1f}" for step in asked.values() if step in met]
    low, high = case["ci95"]
    episodes = case.get("final_episodes", AT_THE_END)
    fewer = f" ({episodes} episodes)" if episodes != AT_THE_END else ""
    return (
        f"| {shown} | {case['assigner']} | {'; '.join(cells)} | "
        f"{'; '.join(str(step or '-') for step in asked.values())} | {_own(case)} | "
        f"{'; '.join(way) or '-'} | "
        f"{case['return_iqm']:.1f} [{low:.1f}, {high:.1f}] after {case['steps']}{fewer} |"
    )


def _own(case: dict) -> str:
    """Which of its own episodes was the first at or above the lowest threshold."""
    if "episodes" not in case:
        return "-"
    least = min(map(float, case["reached"]))
    if case["steps"] < least:
        return "-"  # a life of 400 steps has no episode of 500
    first = lambda row: next((i + 1 for i, score in enumerate(row) if score >= least), None)
    return _arrivals([first(row) for row in case["episodes"]])


def _arrivals(steps: list[int | None]) -> str:
    """Median and worst of those that came there, and how many did."""
    there = [step for step in steps if step is not None]
    if not there:
        return f"- (0/{len(steps)})"
    return f"{statistics.median(there):g}, {max(there)} ({len(there)}/{len(steps)})"


def _change_row(case: dict) -> str:
    first = case["episodes_to_90_percent"]
    said, mean = _arrivals(first), lambda values: sum(values) / len(values)
    return (
        f"| {case['world']} | {case['change']} | {case['reaction']} | {mean(case['before']):.0f} | "
        f"{mean(case['frozen']):.0f} | {said} | {mean(case['after_6_episodes']):.0f} |"
    )


def conformance_page() -> str:
    """docs/conformance.md, whole: one row a law, one column a cost."""
    found = read(RESULTS / "conformance.json")
    if found is None:
        return "# Conformance\n\nRun `python -m benchmarks.conformance` first."
    costs = list(max((row["errors"] for row in found["rows"]), key=len))
    lines = [
        "# Conformance",
        "",
        f"Generated by `python -m benchmarks.tables` from `{found['command']}`.",
        "In float64, on small random circuits. *exactly*: the largest relative error, <= 1e-10.",
        "*to O(s)*, *to O(s^2)*: the order in which the relative error falls with the step or",
        "nudge, within .1 of 1 or 2, and in brackets the error at the smallest. *less than 90",
        "degrees*: the cosine. A dash: the rule serves no such cost. Every cell is a test",
        "(`tests/test_laws.py`), and every law is seen to fail on the wrong rules further down.",
        "",
        f"| assigner | circuit | its credit is | {' | '.join(costs)} |",
        "|---" * (3 + len(costs)) + "|",
    ]
    for row in found["rows"]:
        cells = " | ".join(_cell(row, cost) for cost in costs)
        lines.append(f"| {row['assigner']} | {row['circuit']} | {row['law']} | {cells} |")
    told = found.get("trajectories")
    if told:
        lines += ["", f"Beside backprop on MNIST, {'-'.join(map(str, told['sizes']))}, Adam:", ""]
        lines += [
            f"- {name}: after {told['steps']} steps no weight is further than {distance:.1e} away."
            for name, distance in told["distance"].items()
        ]
    lines += _mutants(found.get("mutants", []))
    return "\n".join(lines)


def _mutants(rows: list[dict]) -> list[str]:
    """The rules that are wrong, and what the laws see of them."""
    if not rows:
        return []
    costs = list(rows[0]["errors"])
    lines = [
        "",
        "## Rules that are wrong",
        "",
        "Each does what a careless implementation does, and must break the law that it is tried",
        "by, for either cost (what is shown is as above; where it is marked, the law is broken).",
        "",
        f"| what is wrong | circuit | the law it must break | {' | '.join(costs)} |",
        "|---" * (3 + len(costs)) + "|",
    ]
    for row in rows:
        cells = " | ".join(_cell(row, cost).replace("fails", "breaks it") for cost in costs)
        lines.append(f"| {row['mutant']} | {row['circuit']} | {row['law']} | {cells} |")
    return lines


def _cell(row: dict, cost: str) -> str:
    if cost not in row["errors"]:
        return "-"
    errors, mark = row["errors"][cost], "" if row["holds"][cost] else " **fails**"
    if row["order"] == 0:
        return f"{row['cosines'][cost]:.2f}{mark}"
    if row["order"] is None or max(errors) <= 1e-10:
        return f"{max(errors):.0e}{mark}"
    return f"{row['orders'][cost]:.2f} ({errors[-1]:.0e}){mark}"


RETURNS_ASKED = {  # of the interquartile mean of greedy returns, and by which step
    "CartPole-v1": "500 by 50,000 steps",
    "Acrobot-v1": "-80 by 100,000 steps",
    "MountainCar-v0": "-110 by 60,000 steps, -101 by 120,000",
    "LunarLander-v3": "200 by 200,000 steps",
    "Pendulum-v1": "-160 by 20,000 steps",
    "MountainCarContinuous-v0": "93",
}


def agents_page() -> str:
    """docs/agents.md, whole: one table an environment, one row a preset that was run."""
    lines = [
        "# Agents: results",
        "",
        "Generated by `python -m benchmarks.tables` from `benchmarks/results/agents/`. Each row",
        "is a preset of `src/anima/run/presets/agents/` as it ships (but for what its command",
        "says), lived from seeds 0 to N-1 side by side in one compiled program",
        "and judged by 100 greedy episodes a seed in fresh worlds. The interquartile mean and",
        "its 95% bootstrap interval are over seeds. Presets were tuned on seeds from 100 on.",
        "*backprop* is the twin of *predictive*: the same circuits, credit by reverse mode, at a",
        "rate of its own (see below; PPO's with its own epochs too). The circuits of *eqprop* have",
        "one hidden layer of 128 in place of 64-64, and its Q-learners see rewards ten times",
        "smaller; *eqprop-predictive* is the same rule in the circuits of *predictive*, whose free",
        "phase is their prediction; *zil* makes the updates of *backprop*, and has its settings.",
        "Seconds are of all seeds together, on one core that others shared; *to threshold* is the",
        "median over seeds of the first judging (10 episodes) at or above it, with how many seeds",
        "got there, and after how many seconds (of all seeds, compiling and judging included; not",
        "noted in older rows). Presets that set `average` (LunarLander's, MountainCar's, all of",
        "ANGC) are judged by averaged synapses. What has no row was not run. Below",
        "tables stands what was missed; its figures of tuning seeds and of where time goes are of",
        "runs not kept.",
    ]
    found = [json.loads(path.read_text()) for path in sorted((RESULTS / "agents").glob("*.json"))]
    peers = [
        json.loads(path.read_text()) for path in sorted((RESULTS / "agents-peers").glob("*.json"))
    ]
    if peers:
        whose = ", ".join(f"*{who}*" for who in sorted({row["who"] for row in peers}))
        lines += [
            f"{whose}: the libraries' own DQN and SAC (by backprop) with the settings of",
            "Stable-Baselines3's zoo, a process a seed on one core; their seconds to threshold are",
            "of one seed, without judging.",
        ]
    others = sorted({row["environment"] for row in found} - set(RETURNS_ASKED))
    for world, asked in (RETURNS_ASKED | dict.fromkeys(others, "")).items():
        rows = [_agent_row(row) for row in found if row["environment"] == world]
        rows += [_peer_row(row) for row in peers if row["environment"] == world]
        if rows:
            title = f"{world} (asked: {asked})" if asked else world
            lines += ["", f"## {title}", "", _AGENT_HEAD, "|---" * 8 + "|", *rows]
            lines += note("agents", world)
    return "\n".join([*lines, *agents_sweep_table(), *agents_speed_tables()])


def agents_sweep_table() -> list[str]:
    """The rates that were tried for twins of agents, on lives that no row is made of."""
    found = read(RESULTS / "agents-twin-rates.json")
    if found is None:
        return []
    lines = [
        "",
        "## The twins' rates",
        "",
        f"`{found['command']}`: seeds from {found['first_seed']} on, judged as the rows",
        "are, their IQM over the episodes of all of them. A critic's rate keeps its ratio to the",
        "actor's. Other twins have the rate of those that they are twins of.",
        "",
        "| twin | seeds | rate: return, IQM | ships |",
        "|---|---|---|---|",
    ]
    rate = lambda row: row["rates"]["rate"]
    for preset, tried in found["presets"].items():
        told = lambda row: "diverged" if row["return_iqm"] is None else f"{row['return_iqm']:.1f}"
        cells = [f"{rate(row):g}: {told(row)}" for row in sorted(tried, key=rate)]
        ships = agents.resolve(agents.read_preset(preset)).agent["rate"]
        count = ", ".join(sorted({str(row["seeds"]) for row in tried}))
        lines.append(f"| `{preset}` | {count} | {', '.join(cells)} | {ships:g} |")
    return lines + note("agents", "twins")


def agents_speed_tables() -> list[str]:
    """Environment steps per second of a learning Q-learner: beside peers, and compiled."""
    found = read(RESULTS / "agents-speed.json")
    if found is None:
        return []
    raced, ratios = found["gymnasium"], found["gymnasium"]["ratios"]
    peers = [who for who in raced["rows"] if not who.startswith("anima")]
    lines = [
        "",
        "## Speed",
        "",
        f"`{found['command']}`: DQN, 64-64, batches of 64, one update every 4 steps. In",
        "gymnasium's CartPole, turn by turn on one core, medians over rounds (asked: 3 times sbx,",
        "10 times Stable-Baselines3):",
        "",
        "| | steps a second, median [least, most] | "
        + " | ".join(f"over {p}" for p in peers)
        + " |",
        "|---|---|" + "---|" * max(len(peers), 1),
    ]
    for who, row in raced["rows"].items():
        over = [f"{ratios[f'{who} / {p}']:.1f}" if f"{who} / {p}" in ratios else "" for p in peers]
        lines.append(f"| {who} {row['version']} | {_spread(row)} | {' | '.join(over)} |")
    lines += [f"| {who} | skipped: {why} |" for who, why in raced["skipped"].items()]
    lines += [
        "",
        "Compiled lives on the same cores, all seeds as one program (asked: 20,000 for one seed,",
        "16 seeds in less than 6 times its time):",
        "",
        "| world | assigner | seeds | steps a second, of all seeds | times as long as one seed |",
        "|---|---|---|---|---|",
    ]
    rate = lambda row: row["steps_per_second"]["median"] / row["seeds"]
    alone = {(row["world"], row["assigner"]): rate(row) for row in found["compiled"][::-1]}
    lines += [
        f"| {row['world']} | {row['assigner']} | {row['seeds']} | {_spread(row)} | "
        f"{alone[row['world'], row['assigner']] / rate(row):.1f} |"
        for row in found["compiled"]
    ]
    return lines + note("agents", "Speed")


def _spread(row: dict) -> str:
    rate = row["steps_per_second"]
    return f"{rate['median']:,.0f} [{rate['min']:,.0f}, {rate['max']:,.0f}]"


_AGENT_HEAD = (
    "| agent | assigner | return, IQM [95%] | worst, best seed | seeds x steps | to threshold | "
    "seconds | command |"
)


def _agent_row(found: dict) -> str:
    low, high = found["ci95"]
    worst, best = min(found["return_by_seed"]), max(found["return_by_seed"])
    changed = "".join(f", `{setting}`" for setting in found.get("sets", []))
    return (
        f"| {found['agent']}{changed} | {found['assigner']} | "
        f"{found['return_iqm']:.1f} [{low:.1f}, {high:.1f}] | {worst:.1f}, {best:.1f} | "
        f"{found['seeds']} x {found['environment_steps']:,} | {_arrival(found)} | "
        f"{found['seconds']:.0f} | `{found['command']}` |"
    )


def _arrival(found: dict) -> str:
    """When the threshold was reached, in steps and (where they were noted) seconds: medians."""
    reached = sorted(step for step in found["steps_to_threshold"] if step is not None)
    if found["threshold"] is None:
        return "-"
    first, there = f"{found['threshold']:g}: ", f"{len(reached)} of {found['seeds']}"
    if 2 * len(reached) <= found["seeds"]:
        return first + there
    middle = (found["seeds"] - 1) // 2
    first += f"{reached[middle]:,} ({there})"
    seconds = sorted(s for s in found.get("seconds_to_threshold", []) if s is not None)
    return first + (f", {seconds[middle]:.0f} s" if seconds else "")


def _peer_row(found: dict) -> str:
    """A peer's row: its runs, seed by seed, put as a preset's results are."""
    column = lambda name: [run.get(name) for run in found["runs"]]
    return _agent_row(
        found
        | {
            "assigner": f"{found['who']} {found['version']}",
            "seeds": len(found["runs"]),
            "return_by_seed": column("return"),
            "seconds": sum(column("seconds")),
            "threshold": found.get("threshold"),
            "steps_to_threshold": column("steps_to_threshold"),
            "seconds_to_threshold": column("seconds_to_threshold"),
        }
    )


def results_page() -> str:
    """docs/results.md, whole."""
    return "\n".join(
        [
            "# Results",
            "",
            "Generated by `python -m benchmarks.tables` from `benchmarks/results/`.",
            "",
            "## Accuracy",
            "",
            "Error of the last epoch on the test set. Every setting was chosen on a validation",
            "split of the training set; the test set is read by these runs alone. A row is",
            "reproduced by `python -m benchmarks.accuracy PRESET --data-dir DIR` (add `--who twin`",
            "for the twin: the same circuit, noise, batches and optimiser, learnt by backprop at",
            "its own rate). `digits`: first 1,000 train, other 797 test. *Minutes a seed*: the",
            "circuit's, the median, on one or two cores shared with other work (of convolutions",
            "asked: an hour on two cores). Presets are in",
            "`src/anima/run/presets/`. Below tables stands what was missed; its figures of",
            "held-out images and of tuning seeds are of runs that were not kept.",
            "",
            *accuracy_table(),
            *note("results", "accuracy"),
            "",
            "The twins' rates (`python -m benchmarks.twin_rates`):",
            "",
            *sweep_table(),
            "",
            "## What credit costs",
            "",
            *cost_table(),
            "",
            "## The living agent",
            "",
            *living_tables(),
            "",
            "## Speed",
            "",
            "`make bench`: every library in its own environment, turn by turn on the same cores;",
            "ratios of medians over rounds. `pcx-newest` is pcx on the newest JAX, outside its",
            "declared bounds; `:scan`, `:explicit`, `:hoisted` are faster forms of the same peer",
            "that we wrote for it. EqProp's peer takes synchronous steps of .5, anima even-odd",
            "sweeps: equal T is not equal convergence (ours settles further).",
            "",
            *speed_tables(),
        ]
    )


def readme(text: str) -> str:
    """README.md with its block of results made anew."""
    before, rest = text.split(OPEN)
    after = rest.split(CLOSE)[1]
    return f"{before}{OPEN}\n" + "\n".join(accuracy_table()) + f"\n{CLOSE}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    made = {
        ROOT / "docs" / "results.md": results_page() + "\n",
        ROOT / "docs" / "conformance.md": conformance_page() + "\n",
        ROOT / "docs" / "memory.md": memory_page(RESULTS, NOTES["memory"]),
        ROOT / "docs" / "agents.md": agents_page() + "\n",
        ROOT / "README.md": readme((ROOT / "README.md").read_text()),
    }
    told = "".join(made.values())
    texts = {f"{page}.{table}": text for page in NOTES for table, text in NOTES[page].items()}
    if unsaid := [name for name, text in texts.items() if text.strip() not in told]:
        raise SystemExit(f"notes of tables that are not there: {unsaid}")
    stale = [
        path.name for path, text in made.items() if not path.exists() or path.read_text() != text
    ]
    if check:
        print(f"not what the results say: {', '.join(stale)}" if stale else "up to date")
        return 1 if stale else 0
    for path, text in made.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
