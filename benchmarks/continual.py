"""Memory without data: classes come in tasks, and dreams keep the old ones.

    python -m benchmarks.continual --seeds 10 --data-dir DIR
    python -m benchmarks.continual --data fashion-mnist --surprise-rate 0.05 --data-dir DIR
    python -m benchmarks.continual --data mnist+fashion-mnist --seeds 3 --data-dir DIR
    python -m benchmarks.continual --curve --seeds 3 --data-dir DIR

Rows, for the same network, images seen through the same code, and the same number of steps:

- `dreams`: replay of dreams, learnt by equilibrium propagation; no image is kept;
- `twin`: the same dreams and network, learnt by backpropagation at its own rate;
- `buffer`: replay of as many raw images as the memory's numbers would hold (784 numbers each);
- `naive`: no replay. `joint`: all data at once, asleep on real images;
- `surprise`, `random`: as `dreams`, but a gate lets only the most surprising fifth of what is
  seen and dreamt through to learning, or a fifth at random; `blurred`: what surprises more passes
  with a higher chance (softness 2), a fifth in all;
- statistics: what the stored concepts alone make of the test images, as a density.

Each has a rate of its own, chosen on held-out training images (`--validation 5000`): raw images
want half of what dreams do. Fashion-MNIST has those of MNIST, but for
`surprise`; `blurred` has on both what was best on Fashion-MNIST.

Both scenarios are read from one life: class-incremental (which of all classes) and
task-incremental (which of the task's own). Every phase is local but for what `LOCAL` says.
"""

import argparse
import dataclasses
import itertools
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anima.app import figures
from anima.app.report import as_png
from anima.circuit.circuit import AbstractCircuit
from anima.circuit.hopfield import Hopfield
from anima.core.files import write_atomically, write_bytes_atomically
from anima.learn.assigners import Backprop, EquilibriumPropagation
from anima.learn.costs import CrossEntropy
from anima.learn.gate import Quantile, Random
from anima.learn.learner import Learner, LearnerState
from anima.learn.memory import Concepts, Memory, Reader, learn_code
from anima.learn.optimisers import optimiser
from anima.run.continual import Buffer, Dreams, Rhythm, live
from anima.run.evaluate import outputs
from anima.world.data import Data, load_data
from benchmarks.accuracy import summarise

RESULTS = Path(__file__).parent / "results"
LOCAL = {
    "code (pixels to code and back)": "local: Oja's subspace rule, W^T back shares W's weights",
    "concepts' means": "local: the winner moves towards what it won; who wins is a competition",
    "concepts' covariances": "local: Hebbian co-activations of code units, averaged",
    "their compression": "local: Hebb with inhibition by the factors' own co-activations",
    "a dream for replay": "local: noise through the factors, added to the winner's mean",
    "the network": "local: equilibrium propagation with plain SGD, but means over a batch",
    "cross-entropy's softmax": "not local: it sums over the outputs",
    "which concept is dreamt": "not local: a draw in proportion to counts",
}
RHYTHM = Rhythm(wake=3, asleep=32)
HIDDEN = 256
NOISE = ()
GATES = {
    "surprise": Quantile(share=0.2),
    "blurred": Quantile(share=0.2, softness=2.0),
    "random": Random(share=0.2),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a memory is: units of the code, concepts a class, directions of each."""

    code: int = 80
    concepts: int = 20
    rank: int = 14

    def numbers(self, classes: int, pixels: int) -> int:
        """All that is kept: the code's synapses and biases, and the concepts."""
        each = self.code * (self.rank + 1) + 2
        return (self.code + 1) * pixels + classes * self.concepts * each


CURVE = (
    Size(),
    Size(64, 14, 12),
    Size(56, 8, 12),
    Size(48, 5, 10),
    Size(40, 3, 8),
    Size(32, 3, 6),
)


@dataclasses.dataclass(frozen=True)
class Seen:
    """A data set as one seed sees it: through a code that was learnt on the first task alone.

    - `memory`, without a concept; `tasks`, images and labels of each; `test`, images.
    """

    memory: Memory
    tasks: list[tuple[jax.Array, np.ndarray]]
    test: jax.Array


def look(data: Data, groups: list[tuple[int, ...]], code: int, seed: int) -> Seen:
    """Learns a code of `code` units on the first task, and sees everything through it."""
    flat = data.train_images.reshape(len(data.train_images), -1)
    rows = [np.flatnonzero(np.isin(data.train_labels, group)) for group in groups]
    memory = begin(flat[rows[0]], code, seed)
    tasks = [(memory.see(jnp.asarray(flat[row])), data.train_labels[row]) for row in rows]
    test = memory.see(jnp.asarray(data.test_images.reshape(len(data.test_images), -1)))
    return Seen(memory, tasks, test)


def begin(images: np.ndarray, code: int, seed: int) -> Memory:
    """A memory that knows how to read and write, and nothing else."""
    visits = 20 * 12_000  # however small the first task is
    epochs = max(1, round(visits / len(images)))
    writer = learn_code(jnp.asarray(images), code, epochs=epochs, key=jax.random.key(seed))
    blank = Concepts(
        jnp.zeros(0, jnp.int32),
        jnp.zeros(0),
        jnp.zeros((0, code)),
        jnp.zeros((0, 1, code)),
        jnp.zeros(0),
    )
    return Memory(Reader(writer, "output", "input"), writer, blank, jnp.asarray(0.01))


def maker(method: str, rate: float):
    """How each phase of a method learns."""
    assigner: Any = EquilibriumPropagation(0.2, "centred", free_steps=15, nudged_steps=6)
    cost, gate = CrossEntropy(10.0), GATES.get(method)
    if method == "twin":
        assigner, cost = Backprop(), CrossEntropy(1.0)

    def make(circuit: AbstractCircuit, steps: int, batch: int) -> Learner:
        optimiser = schedule(circuit, rate, steps)
        return Learner(circuit, assigner, cost, optimiser, NOISE, gate=gate, batch=batch)

    return make


def schedule(circuit, rate, steps, made={}):  # noqa: B006
    """SGD with a cosine to 0; the same object for the same phase, so that it compiles once."""
    return made.setdefault(
        (rate, steps), optimiser(circuit, rate=rate, schedule="cosine", per_epoch=steps)
    )


def scores(learner: Learner, circuit, test, labels, groups) -> dict[str, Any]:
    """Accuracy among all classes, for each task's images too, and among those of its own task."""
    answers = np.asarray(outputs(learner, circuit, test))
    own = np.stack([np.isin(np.arange(answers.shape[1]), group) for group in groups])
    task = np.asarray([next(t for t, g in enumerate(groups) if k in g) for k in labels])
    right = answers.argmax(-1) == labels
    masked = np.where(own[task], answers, -np.inf).argmax(-1)
    return {
        "class": float(np.mean(right)),
        "task": float(np.mean(masked == labels)),
        "each": [float(np.mean(right[task == t])) for t in range(len(groups))],
    }


def forgotten(path: list[dict[str, Any]], tasks: int) -> float:
    """Accuracy on a task's images when it had just been learnt less that in the end, averaged.

    The last task has had no time to be forgotten and is left out.
    """
    lost = [path[t]["each"][t] - path[-1]["each"][t] for t in range(min(tasks, len(path)) - 1)]
    return float(np.mean(lost)) if lost else 0.0


def one_life(
    method: str, data: Data, seen: Seen, groups, size: Size, rate: float, seed: int
) -> dict[str, Any]:
    """One method, one seed: learns all tasks in order and is judged on the test set."""
    begun = time.time()
    life, birth = jax.random.split(jax.random.key(1000 + seed))
    circuit = Hopfield.mlp([data.pixels, HIDDEN, data.classes], key=birth)
    make, replay = maker(method, rate), replays(method, data, seen.memory, size)
    tasks, rhythm = seen.tasks, RHYTHM
    if method == "joint":
        tasks = [(jnp.concatenate([x for x, _ in tasks]), np.concatenate([y for _, y in tasks]))]
        rhythm = dataclasses.replace(RHYTHM, wake=RHYTHM.wake + RHYTHM.sleep)
    judge, path, made = make(circuit, 1, 1), [], []

    def after(task: int, state: LearnerState) -> None:
        path.append(scores(judge, state.circuit, seen.test, data.test_labels, groups))
        made.append((int(state.step), None if not state.waiting else int(state.waiting.updates)))

    _, kept = live(
        circuit, make, tasks, replay, rhythm, classes=data.classes, key=life, after=after
    )
    result = {"seed": seed, "rate": rate, "class": path[-1]["class"], "task": path[-1]["task"]}
    result |= {"forgotten": forgotten(path, len(tasks)), "seconds": time.time() - begun}
    if made[0][1] is not None:
        result["skipped"] = 1 - sum(done for _, done in made) / sum(shown for shown, _ in made)
    if isinstance(kept, Dreams):
        log = np.asarray(kept.memory.density(seen.test, data.classes))
        result["statistics"] = float(np.mean(log.argmax(-1) == data.test_labels))
    return result | {"path": path}


def replays(method: str, data: Data, memory: Memory, size: Size) -> Dreams | Buffer | None:
    """What a method keeps of the past, none of it yet."""
    if method in ("naive", "joint"):
        return None
    if method == "buffer":
        each = max(1, size.numbers(data.classes, data.pixels) // data.pixels // data.classes)
        return Buffer.empty(data.classes, each, data.pixels)
    concepts = memory.concepts
    room = dataclasses.replace(concepts, factor=jnp.zeros((0, size.rank, size.code)))
    return Dreams(dataclasses.replace(memory, concepts=room), size.concepts, size.rank)


def load(name: str, data_dir: str | None, validation: int) -> tuple[Data, list[tuple[int, ...]]]:
    """A data set, or several in one life, and its tasks: pairs of classes, or whole sets."""
    parts = [load_data(part, data_dir) for part in name.split("+")]
    if validation:
        parts = [held_out(part, validation) for part in parts]
    if len(parts) == 1:
        return parts[0], [(k, k + 1) for k in range(0, parts[0].classes, 2)]
    starts = np.cumsum([0, *(part.classes for part in parts)])
    join = lambda what: np.concatenate([getattr(part, what) for part in parts])
    shift = lambda what: np.concatenate(
        [getattr(p, what) + np.int32(s) for p, s in zip(parts, starts, strict=False)]
    )
    whole = Data(
        name,
        join("train_images"),
        shift("train_labels"),
        join("test_images"),
        shift("test_labels"),
        int(starts[-1]),
    )
    groups = [tuple(range(a, b)) for a, b in itertools.pairwise(starts)]
    return whole, groups


def held_out(data: Data, count: int) -> Data:
    """The last training images in place of the test set, for choosing settings."""
    return Data(
        data.name,
        data.train_images[:-count],
        data.train_labels[:-count],
        data.train_images[-count:],
        data.train_labels[-count:],
        data.classes,
    )


def command(name: str) -> str:
    """The command that is running, but for where its data and its result lie."""
    told = iter(sys.argv[1:])
    said = [f"python -m benchmarks.{name}"]
    for word in told:
        if word in ("--data-dir", "--out"):
            next(told)
        if word == "--data-dir":
            said += [word, "DIR"]
        elif word != "--out":
            said.append(shlex.quote(word))
    return " ".join(said)


def command_of(options: argparse.Namespace, rows: dict[str, Any], usual: tuple[str, ...]) -> str:
    """What makes all rows of a file, be they of one run or of several with the same rates."""
    said = ["python -m benchmarks.continual"]
    for name, value in (("data", "mnist"), *RATES.items(), ("validation", 0)):
        if getattr(options, name) != value:
            said.append(f"--{name.replace('_', '-')} {getattr(options, name)}")
    said += ["--curve"] if options.curve else []
    said.append(f"--seeds {max(len(row['runs']) for row in rows.values())}")
    made = [method for method in METHODS if any(row["method"] == method for row in rows.values())]
    said += [f"--only {method}" for method in made] if set(made) != set(usual) else []
    return " ".join([*said, "--data-dir DIR"])


METHODS = ("dreams", "naive", "buffer", "twin", "joint", *GATES)
DRAWN = ("dreams", "naive", "buffer", "twin")
RATES = {
    "rate": 0.2,
    "twin_rate": 0.3,
    "image_rate": 0.1,
    "blurred_rate": 0.1,
    "surprise_rate": 0.2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", choices=METHODS, action="append")
    parser.add_argument("--curve", action="store_true", help="several sizes of memory")
    for name, rate in RATES.items():
        whose = "of buffer and joint" if name == "image_rate" else None
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=rate, help=whose)
    parser.add_argument("--validation", type=int, default=0)
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    data, groups = load(options.data, options.data_dir, options.validation)
    rates = dict.fromkeys(METHODS, options.rate) | {"twin": options.twin_rate}
    rates |= {"blurred": options.blurred_rate, "surprise": options.surprise_rate}
    rates |= dict.fromkeys(("buffer", "joint"), options.image_rate)
    usual = ("dreams", "buffer") if options.curve else METHODS
    methods = options.only or usual
    name = f"continual-{options.data}{'-curve' if options.curve else ''}.json"
    out = options.out or RESULTS / name
    settings = {
        "tasks": [list(map(int, group)) for group in groups],
        "hidden": HIDDEN,
        "noise": NOISE,
        "rhythm": dataclasses.asdict(RHYTHM),
        "local": LOCAL,
    }
    rows = earlier(out, settings).get("rows", {})
    for seed in range(options.seeds):
        for size in CURVE if options.curve else CURVE[:1]:
            missing = [m for m in methods if not known(rows.get(label(m, size)), seed)]
            seen = look(data, groups, size.code, seed) if missing else None
            for method in missing:
                found = one_life(method, data, seen, groups, size, rates[method], seed)
                print(method, json.dumps(found | {"path": None}), flush=True)
                row = rows.setdefault(label(method, size), {"method": method, "runs": []})
                row["runs"].append(found)
                row |= summary(row["runs"], size, data)
                told = command_of(options, rows, usual)
                save(out, {"command": told, **settings, "rows": rows})
    if not options.curve:
        draw(rows, out.with_suffix(".png"))


def draw(rows: dict[str, Any], path: Path) -> None:
    """The picture of the lives that are in the file, of those ways that come task by task."""

    def lived(run: dict[str, Any]) -> list[list[float]]:
        each = [after["each"] for after in run["path"]]
        return each[: len(each[0]) - 1] + each[-1:]  # the end is after the last sleep

    chosen = [row for row in rows.values() if row["method"] in DRAWN]
    ways = {row["method"]: np.array([lived(run) for run in row["runs"]]) for row in chosen}
    if ways:
        write_bytes_atomically(path, as_png(figures.tasks(ways)))


def label(method: str, size: Size) -> str:
    """The name of a row."""
    return f"{method} {size.code}x{size.concepts}x{size.rank}"


def known(row: dict[str, Any] | None, seed: int) -> bool:
    """Whether a row has a seed already."""
    return row is not None and any(run["seed"] == seed for run in row["runs"])


def earlier(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What an interrupted run of the same settings left: seeds that it has are not run again."""
    found = json.loads(out.read_text()) if out.exists() else {}
    same = json.loads(json.dumps(settings))
    return found if all(found.get(name) == value for name, value in same.items()) else {}


def save(out: Path, result: dict[str, Any]) -> None:
    """Writes a result, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, json.dumps(result, indent=1) + "\n")


def summary(runs: list[dict], size: Size, data: Data) -> dict[str, Any]:
    """Means and intervals over seeds, in per cent, and what the memory holds."""
    numbers = size.numbers(data.classes, data.pixels)
    said = {
        "size": dataclasses.asdict(size),
        "numbers": numbers,
        "images_worth": numbers / data.pixels,
        "class_percent": summarise([run["class"] for run in runs]),
        "task_percent": summarise([run["task"] for run in runs]),
    }
    for name in ("forgotten", "statistics", "skipped"):
        if name in runs[0]:
            said[f"{name}_percent"] = summarise([run[name] for run in runs])
    return said


if __name__ == "__main__":
    main()
