"""The conformance matrix, measured: every cost on every assigner on every circuit.

    python -m benchmarks.conformance [--data-dir DIR]

Writes `benchmarks/results/conformance.json`; `python -m benchmarks.tables` makes the page of it.
The laws are in `anima/laws.py`, the rules that are wrong in `tests/test_laws.py`. With MNIST at
hand the exact rules also train a network on it for 100 steps beside backprop, in float64.
"""

import argparse
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from anima import ZIL, Backprop, CrossEntropy, FixedPrediction, InputError, Learner, Predictive
from anima.core.files import write_atomically
from anima.laws import Measured, measure, rows
from anima.world.data import load_data
from tests.test_laws import MUTANTS, TWO

PATH = Path(__file__).parent / "results" / "conformance.json"
SIZES, STEPS, BATCH = [784, 64, 64, 10], 100, 32


def described(measured: Measured) -> dict:
    """A row of the matrix, as JSON keeps it."""
    row = measured.row
    return {
        "assigner": row.assigner,
        "circuit": row.circuit,
        "law": row.law,
        "order": row.order,
        "numbers": row.numbers,
        "errors": measured.errors,
        "orders": measured.orders,
        "cosines": measured.cosines,
        "holds": {cost: measured.verdict(cost) for cost in measured.errors},
    }


def trajectories(data_dir: str | None) -> dict[str, float]:
    """By exact rule, the largest distance of any weight from backprop's after `STEPS` steps."""
    data = load_data("mnist", data_dir)
    inputs = jnp.asarray(data.train_images.reshape(-1, data.pixels), float)
    targets = jax.nn.one_hot(jnp.asarray(data.train_labels), data.classes, dtype=float)
    order = np.random.default_rng(0).integers(0, len(inputs), (STEPS, BATCH))
    circuit = Predictive.mlp(SIZES, key=jax.random.key(0))

    def trained(rule) -> np.ndarray:
        learner = Learner(circuit, rule, CrossEntropy(), optax.adam(1e-3))
        sweep = eqx.filter_jit(learner.sweep)
        state, _ = sweep(learner.init(jax.random.key(1)), inputs, targets, jnp.asarray(order))
        return np.asarray(ravel_pytree(eqx.filter(state.circuit, eqx.is_array))[0])

    want = trained(Backprop())
    rules = {"FixedPrediction": FixedPrediction(), "ZIL": ZIL()}
    return {name: float(np.max(np.abs(trained(rule) - want))) for name, rule in rules.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    with jax.enable_x64(True):
        table = []
        for row in rows():
            table.append(described(measure(row)))
            kept = all(table[-1]["holds"].values())
            print(f"{'holds' if kept else 'FAILS'}: {row.assigner} on {row.circuit}", flush=True)
        mutants = [
            {"mutant": name} | described(measure(row, only=TWO)) for name, row in MUTANTS.items()
        ]
        found = {"command": "python -m benchmarks.conformance", "rows": table, "mutants": mutants}
        try:
            found["trajectories"] = {
                "steps": STEPS,
                "batch": BATCH,
                "sizes": SIZES,
                "distance": trajectories(options.data_dir),
            }
        except InputError as error:
            print(f"no trajectories on MNIST: {error}")
    write_atomically(PATH, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
