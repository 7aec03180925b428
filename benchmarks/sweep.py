"""Many circuits at once: seeds and settings of a preset as one compiled program.

    python -m benchmarks.sweep digits-eqprop --over optimiser.rate=0.1,0.3 assigner.beta=0.1,0.5

Every member is a circuit of its own seed with its own settings; `jax.vmap` lets all of them learn
side by side, so K members compile once and share the cost of each step's overhead. What can be
swept is what a compiled program takes as a number (a rate, a nudge, a step size), not what shapes
it (sizes, counts of steps). Judged on held-out training data, never on the test set.
"""

import argparse
import dataclasses
import itertools
import json
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from anima.core.errors import InputError
from anima.run import config as configs
from anima.world.augment import shifted
from anima.world.data import Data, load_data
from benchmarks.accuracy import summarise

VALIDATION = 0.25  # the share of the training examples that judges


def members(table: configs.Table, over: dict[str, list[float]], data: Data, examples: int):
    """`life(settings, seed) -> validation error` of one member, traceable in both.

    **Arguments:** `table`, a preset's; `over`, the keys that `settings` fills; `examples`, how
    many of the training examples are learnt from or judged.
    """
    config = configs.resolve(table)
    judged = int(examples * VALIDATION)
    count, batch = examples - judged, config.train.batch
    per_epoch = count // batch
    if per_epoch < 1:
        raise InputError(f"{count} examples are left to learn from: give at least {batch}")
    probe = configs.build_circuit(config, data.shape, data.classes, jax.random.key(0))
    images = jnp.asarray(data.train_images[:examples])
    images = images.reshape(examples, *probe.node("input").shape)
    labels = jnp.asarray(data.train_labels[:examples])
    wanted = jax.nn.one_hot(labels, data.classes)
    augment = shifted(data.shape, config.train.shift) if config.train.shift else None

    def life(settings: list[jax.Array], seed: jax.Array) -> jax.Array:
        born, order, learning = jax.random.split(jax.random.key(seed), 3)
        swept = config
        for key, value in zip(over, settings, strict=True):
            swept = put(swept, key, value)
        circuit = configs.build_circuit(swept, data.shape, data.classes, born)
        learner = configs.build_learner(swept, circuit, per_epoch)

        def epoch(arrays, key):
            rows = jax.random.permutation(key, count)[: per_epoch * batch]
            state = eqx.combine(arrays, still)
            state, _ = learner.sweep(state, images, wanted, rows.reshape(per_epoch, -1), augment)
            return eqx.filter(state, eqx.is_array), None

        arrays, still = eqx.partition(learner.init(learning), eqx.is_array)
        arrays, _ = jax.lax.scan(epoch, arrays, jax.random.split(order, config.train.epochs))
        circuit = eqx.combine(arrays, still).answering
        answer = learner.predict(circuit, {"input": images[count:]})
        return jnp.mean(jnp.argmax(answer, -1) != labels[count:])

    return life


def put(config: configs.Config, key: str, value: Any) -> configs.Config:
    """The configuration with the number at `key`, such as `assigner.solver.dt`, replaced."""
    section, *path = key.split(".")
    table = getattr(config, section, None)
    if not isinstance(table, dict) or not path:
        raise InputError(f"--over {key}: sweep a number of circuit, assigner, cost or optimiser")
    if section == "optimiser" and path[0] in ("average", "decay"):
        raise InputError(f"--over {key}: its 0 leaves out a part of the optimiser: use --set")
    return dataclasses.replace(config, **{section: _put(table, path, value, key)})


def _put(table: dict, path: list[str], value: Any, key: str) -> dict:
    if path[0] not in table:
        raise InputError(f"--over {key}: no such key")
    if len(path) > 1:
        return table | {path[0]: _put(table[path[0]], path[1:], value, key)}
    if isinstance(table[path[0]], bool) or not isinstance(table[path[0]], float):
        raise InputError(
            f"--over {key}: it is {table[path[0]]!r}, which shapes the program: only numbers that "
            "need not be whole can be swept"
        )
    return table | {path[0]: value}


def read(text: str) -> tuple[str, list[float]]:
    """`key=1,2,3` as a key and its numbers."""
    key, _, values = text.partition("=")
    try:
        return key, [float(value) for value in values.split(",")]
    except ValueError:
        raise InputError(f"--over {text}: write key=number,number,...") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--over", nargs="+", default=[], metavar="KEY=V,V")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=V")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int, help="of the training set; default: all")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", help="write the table as JSON to this file")
    options = parser.parse_args()
    over = dict(read(text) for text in options.over)
    data = load_data(options.preset.rpartition("-")[0], options.data_dir)
    examples = min(options.examples or len(data.train_labels), len(data.train_labels))
    table = configs.override(configs.read_preset(options.preset), options.set)
    life = members(table, over, data, examples)
    grid = list(itertools.product(*over.values()))
    columns = [jnp.repeat(jnp.asarray(c), options.seeds) for c in zip(*grid, strict=True)]
    seeds = jnp.tile(jnp.arange(1000, 1000 + options.seeds), max(len(grid), 1))
    begun = time.perf_counter()
    errors = np.asarray(jax.jit(jax.vmap(life))(columns, seeds)).reshape(-1, options.seeds)
    seconds = time.perf_counter() - begun
    rows = [
        {"settings": dict(zip(over, values, strict=True)), "validation_error_percent": summary}
        for values, summary in zip(grid, map(summarise, errors.tolist()), strict=True)
    ]
    for row in rows:
        said = ", ".join(f"{key} {value:g}" for key, value in row["settings"].items())
        print(f"{said or 'as it is'}: {row['validation_error_percent']['mean']:.2f}%")
    print(f"{errors.size} members in {seconds:.1f} s")
    if options.out:
        with open(options.out, "w") as file:
            json.dump({"preset": options.preset, "seeds": options.seeds, "rows": rows}, file)


if __name__ == "__main__":
    main()
