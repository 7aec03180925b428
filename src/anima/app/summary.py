"""What a finished run shows: its result, its figures, its report."""

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import anima.run.config as configs
from anima.agent.living import LivingMind
from anima.app import figures
from anima.app.film import played
from anima.app.futures import living_figures
from anima.app.report import write_report
from anima.circuit.circuit import AbstractCircuit
from anima.circuit.image import Conv, Pool
from anima.learn.assigners import EquilibriumPropagation
from anima.learn.learner import Learner
from anima.run import agents
from anima.run.evaluate import accuracy, as_inputs, confusion
from anima.run.folder import Header, load, read
from anima.run.live import Lived, LiveHeader, Living, result
from anima.run.train import Outcome, Training
from anima.run.weights import save_weights
from anima.settle.settle import trace
from anima.world.data import Data


def write_summary(
    out: Path, header: Header, training: Training, outcome: Outcome, data: Data
) -> tuple[dict[str, Any], Path]:
    """Judges the run on the test set and writes its figures and `report.html`.

    **Returns:** the result (the keys of the command's JSON) and the report's path.
    """
    circuit = outcome.lives.circuit.answering
    images = as_inputs(circuit, data.test_images)
    right = accuracy(training.learner, circuit, images, data.test_labels)
    twin = None
    if training.twin is not None and outcome.lives.twin is not None:
        twin = accuracy(training.twin, outcome.lives.twin.answering, images, data.test_labels)
    result = {
        "run": str(out),
        "seed": header.seed,
        "epochs": training.config.train.epochs,
        "test_accuracy": right,
        "test_error": 1 - right,
        "twin_accuracy": twin,
        "seconds": outcome.seconds,
    }
    drawn = _figures(training, outcome, data, images, header) | _dreams(out)
    report = write_report(
        out,
        title=f"{header.data} by {header.preset}",
        facts=_facts(result, header, training, outcome),
        figures=drawn,
        config_text=(out / "config.toml").read_text(),
    )
    return result, report


def write_life(
    out: Path, header: LiveHeader, living: Living, outcome: Lived
) -> tuple[dict[str, Any], Path]:
    """Judges the finished lives and writes their weights, figures, film and `report.html`.

    **Returns:** the result (the keys of the command's JSON) and the report's path.
    """
    scores = living.judge()
    found = result(out, living, scores, outcome.seconds)
    first = outcome.lives.one(0).mind
    for name, circuit in living.mind.circuits(first).items():
        stem = "weights" if name == "actor" else name
        save_weights(out / f"{stem}.safetensors", circuit)
    mind, name = living.mind, living.config.world["name"]
    drawn = _life_figures(living, first, outcome)
    films = {"policy": played(mind, first, name, seed=living.seed, physics=living.physics)}
    if isinstance(mind, LivingMind) and films["policy"]:  # MuJoCo dies of being asked twice
        born = jax.jit(mind.init)(jax.random.key(living.seed))
        before = played(mind, born, name, seed=living.seed, physics={})
        films = {"newborn": before and (before[0], f"Newborn, at random. {before[1]}")} | films
    report = write_report(
        out,
        title=f"{living.config.agent['name']} in {living.config.world['name']}",
        facts=_life_facts(found, header, living, outcome),
        figures=drawn,
        config_text=(out / "config.toml").read_text(),
        headlines=2,
        films={key: film for key, film in films.items() if film},
    )
    return found, report


def _life_figures(living: Living, first: Any, outcome: Lived):
    """The life's curve; of an agent that imagines, what it imagines as well."""
    mind, name = living.mind, living.config.world["name"]
    caption = "Return and surprise as the life goes on; a judged agent does not explore."
    changed = living.changed
    if changed is not None:
        caption += " At the dashed line the physics of the world changed."
    if not isinstance(mind, LivingMind):
        return {"life": (figures.life_curve(outcome.rows, changed=changed), caption)}
    added = "energy that reality adds to what was foreseen"
    curve = figures.life_curve(outcome.rows, added, changed)
    physics = living.physics
    more = living_figures(mind, first, name, outcome.rows, seed=living.seed, physics=physics)
    return {"life": (curve, caption)} | more


def _life_facts(
    found: dict[str, Any], header: LiveHeader, living: Living, outcome: Lived
) -> list[tuple[str, str]]:
    last = outcome.rows[-1]
    seeds = f"{living.seeds[0]}" + (f" to {living.seeds[-1]}" if len(living.seeds) > 1 else "")
    numbers = [
        (name.replace("_", " ").capitalize(), f"{last[name]:.3g}")
        for name in ("alignment", "generator_alignment", "residual")
        if name in last
    ]
    return [
        ("Return (interquartile mean)", f"{found['return_iqm']:.1f}"),
        ("95% interval", f"{found['ci95'][0]:.1f} to {found['ci95'][1]:.1f}"),
        ("Mean return", f"{found['return_mean']:.1f}"),
        ("Judged by", f"{found['episodes']} greedy episodes a seed, in fresh worlds"),
        ("Credit", _credit(str(found["assigner"]), last.get("alignment"))),
        ("Environment steps", str(found["environment_steps"])),
        *numbers,
        *([("Note", found["note"])] if "note" in found else []),
        ("Seconds", f"{outcome.seconds:.1f}"),
        ("Seeds", seeds),
        ("Reproduce", _life_command(header, living)),
    ]


def _life_command(header: LiveHeader, living: Living) -> str:
    config = living.config
    world, agent = config.world["name"], config.agent["name"]
    parts = ["anima live", shlex.quote(world), f"--agent {agent}"]
    if header.preset:
        parts.append(f"--preset {header.preset}")
    if "assigner" in config.agent and not header.preset:
        parts.append(f"--assigner {config.agent['assigner']}")
    assigner = None if header.preset else config.agent.get("assigner")
    _, table = agents.choose(world, agent=agent, preset=header.preset or None, assigner=assigner)
    before, now = configs.as_table(agents.resolve(table)), configs.as_table(config)
    changes = [
        f"--set {shlex.quote(f'{path}={_toml(value)}')}"
        for section, values in now.items()
        for path, value in _changes(section, before[section], values)
    ]
    return " ".join([*parts, f"--seed {header.seed} --seeds {header.seeds}", *changes])


def _credit(assigner: str, alignment: float | None) -> str:
    """An assigner's name, and whether what it gave is what a backward pass would have."""
    exact = assigner in ("fixed-prediction", "zil") and (alignment or 0) > 1 - 1e-4
    return f"{assigner}, by local errors that equal backpropagation's" if exact else assigner


def _facts(result, header: Header, training: Training, outcome: Outcome) -> list[tuple[str, str]]:
    last = [row for row in outcome.rows if row["who"] == "circuit"][-1]
    facts = [("Test accuracy", f"{100 * result['test_accuracy']:.2f}%")]
    if result["twin_accuracy"] is not None:
        facts.append(("Backprop twin, equal size", f"{100 * result['twin_accuracy']:.2f}%"))
    config = training.config
    nodes = training.learner.circuit.nodes
    sizes = ["x".join(map(str, node.shape)) for node in nodes]
    return [
        *facts,
        ("Circuit", f"{config.circuit['family']} {'-'.join(sizes)}"),
        ("Credit", config.assigner["name"]),
        ("Epochs", str(config.train.epochs)),
        ("Last residual", f"{last['residual']:.2g}"),
        ("Settling steps per example", str(last["settling_steps"])),
        ("Seconds", f"{outcome.seconds:.1f}"),
        ("Seed", str(header.seed)),
        ("Reproduce", _command(header, training)),
    ]


def _command(header: Header, training: Training) -> str:
    preset = configs.as_table(configs.resolve(configs.read_preset(header.preset)))
    now = configs.as_table(training.config)
    changes = [
        f"--set {shlex.quote(f'{path}={_toml(value)}')}"
        for section, values in now.items()
        for path, value in _changes(section, preset[section], values)
    ]
    parts = ["anima learn", shlex.quote(header.data), f"--preset {header.preset}"]
    if header.data_dir:
        parts.append(f"--data-dir {shlex.quote(header.data_dir)}")
    return " ".join([*parts, f"--seed {header.seed}", *changes])


def _changes(section: str, before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any]]:
    """What to set; a section that names another class has other keys, so it is set as a whole."""
    if any(before.get(key) != now.get(key) for key in ("name", "family")) or set(before) - set(now):
        return [(section, now)]
    return [(f"{section}.{key}", v) for key, v in now.items() if before.get(key) != v]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else str(value)


def _figures(training: Training, outcome: Outcome, data: Data, images: Array, header: Header):
    circuit: Any = outcome.lives.circuit.answering
    judge = training.judge
    of = lambda who: [row for row in outcome.rows if row["who"] == who]
    target = np.eye(data.classes, dtype=np.float32)[data.test_labels[0]]
    counts = confusion(training.learner, circuit, images, data.test_labels, data.classes)
    drawn = {
        "learning-curve": (
            figures.learning_curve(of("circuit"), of("twin"), judged=judge),
            f"Error on the {judge} set and training cost, epoch by epoch.",
        ),
        "settling": (
            figures.settling(_settling(training.learner, circuit, images[0], target)),
            "One test image settling: the energy falls, the largest free force dies away.",
        ),
        "confusion": (
            figures.confusion(counts, [str(k) for k in range(data.classes)]),
            "Test examples by true class (rows) and answer (columns).",
        ),
    }
    if training.config.gate:
        caption = "What the surprise gate let be skipped so far, and its threshold, epoch by epoch."
        drawn["gate"] = (figures.gating(of("circuit")), caption)
    first = circuit.synapses[f"input->{circuit.nodes[1].name}"]
    drawn["receptive-fields"] = (
        figures.receptive_fields(*_fields(first, tuple(header.shape))),
        "The synapses of first-layer units, as images: what each looks for.",
    )
    return drawn


def _fields(synapse: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, Any]:
    """The weights that each unit looks through, (pixels, units), and the shape of what it sees."""
    if isinstance(synapse, Pool):
        return _fields(synapse.inner, shape)
    weight = np.asarray(synapse.weight)
    if not isinstance(synapse, Conv):
        return weight, shape
    *window, channels, units = weight.shape
    return weight.reshape(-1, units), (*window, channels) if channels > 1 else tuple(window)


def _dreams(out: Path):
    """Dreams of every class, where the run remembers any."""
    memory = load(out).memory
    if memory is None:
        return {}
    labels = np.repeat(np.asarray(memory.labels, np.int32), 10)
    images = memory.imagine(jnp.asarray(labels), key=jax.random.key(0))
    shape = tuple(read(out)[0].shape)
    return {
        "dreams": (
            figures.dreams(np.asarray(images), labels, shape),
            "What the run dreams of when a label is clamped; more with `anima dream`.",
        )
    }


def _settling(learner: Learner, circuit: AbstractCircuit, image: Array, wanted: np.ndarray):
    """Energies and residuals of the phases of one test image, phase by phase."""
    clamp, target = {"input": jnp.asarray(image)}, jnp.asarray(wanted)
    assigner = learner.assigner
    path = eqx.filter_jit(partial(trace, steps=30))
    if isinstance(assigner, EquilibriumPropagation):
        cost = lambda output: learner.cost(target, output)
        free = path(circuit, clamp, solver=assigner.solver)
        settled = jax.tree.map(lambda a: a[-1], free.state)
        phases = {"free": free} | {
            name: path(
                circuit,
                clamp,
                cost=cost,
                nudge=jnp.asarray(sign * assigner.beta),
                solver=assigner.solver,
                start=settled,
            )
            for name, sign in (("nudged +", 1), ("nudged -", -1))
        }
    else:
        begin = circuit.start(clamp)
        held = {**clamp, "output": target}
        solver = getattr(assigner, "solver", None)
        kwargs = {} if solver is None else {"solver": solver}
        phases = {"clamped": path(circuit, held, start=begin, **kwargs)}
    return {
        name: (np.asarray(phase.energy), np.asarray(phase.residual))
        for name, phase in phases.items()
    }
