"""What each assigner costs: samples a second beside backprop's, and the operations that explain it.

    python -m benchmarks.credit_cost

One learning step of a 784-256-256-10 circuit on batches of 128, plain SGD, every assigner with 20
settling steps (equilibrium propagation 20 + 2 x 10), timed in turns within one process. Operations
are those of the matrix products that the step's own program does, counted by interpreting it.
Writes `benchmarks/results/credit-cost.json`.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core as jex

import anima
from anima.core.files import write_atomically
from anima.core.types import State
from anima.learn.assigners import AbstractAssigner

PATH = Path(__file__).parent / "results" / "credit-cost.json"
SIZES, BATCH, T = (784, 256, 256, 10), 128, 20
FAMILIES = {"Predictive": anima.Predictive, "Hopfield": anima.Hopfield, "NGC": anima.NGC}
RULES: dict[str, tuple[str, AbstractAssigner]] = {
    "Backprop": ("Predictive", anima.Backprop()),
    "ZIL": ("Predictive", anima.ZIL()),
    "FixedPrediction": ("Predictive", anima.FixedPrediction(max_steps=T)),
    "PredictiveCoding": ("Predictive", anima.PredictiveCoding(max_steps=T)),
    "PredictiveCoding, EvenOdd": (
        "Predictive",
        anima.PredictiveCoding(max_steps=T, solver=anima.EvenOdd()),
    ),
    "IncrementalPC": ("Predictive", anima.IncrementalPC(count=T)),
    "EquilibriumPropagation, predictive": (
        "Predictive",
        anima.EquilibriumPropagation(free_steps=1, nudged_steps=T),
    ),
    "NGCRule": ("NGC", anima.NGCRule(max_steps=T)),
    "EquilibriumPropagation": (
        "Hopfield",
        anima.EquilibriumPropagation(free_steps=T, nudged_steps=T // 2),
    ),
}


def learner(name: str) -> anima.Learner:
    """The learner of one row."""
    family, rule = RULES[name]
    circuit = FAMILIES[family].mlp(SIZES, key=jax.random.key(0))
    return anima.Learner(circuit, rule, anima.SquaredError(), optax.sgd(0.01))


def batch(size: int) -> tuple[State, jax.Array]:
    images = jax.random.uniform(jax.random.key(1), (size, SIZES[0]))
    labels = jax.random.randint(jax.random.key(2), (size,), 0, SIZES[-1])
    return {"input": images}, jax.nn.one_hot(labels, SIZES[-1])


def operations(function, *args) -> int:
    """Matrix-product operations (a multiply and an add are two) that `function(*args)` does.

    Its program is interpreted, so a loop counts as often as it really turns, and what was computed
    before from the same values does not count again: a compiler would not repeat it.
    """
    closed = jax.make_jaxpr(function)(*args)
    _KNOWN.clear()
    return _run(closed.jaxpr, closed.consts, jax.tree.leaves(args))[1]


_KNOWN: dict[Any, tuple[list, list]] = {}
"""What one call of `operations` has computed: an operation and its inputs -> both ends' values."""


def _once(eqn: Any, inputs: list) -> tuple[list, int]:
    """The outputs of an operation, and what it costs if it was not done before."""
    scalar = lambda x: (str(jnp.result_type(x)), x.item()) if isinstance(x, np.generic) else id(x)
    key = (eqn.primitive.name, str(eqn.params), *map(scalar, inputs))
    if key in _KNOWN:
        return _KNOWN[key][1], 0
    found = eqn.primitive.bind(*inputs, **eqn.params)
    found = list(found) if eqn.primitive.multiple_results else [found]
    _KNOWN[key] = inputs, found  # the inputs are held, so that an id stays theirs
    return found, _products(eqn)


def _run(jaxpr: Any, consts: list, args: list, wanted: Any = None) -> tuple[list, int]:
    """The `wanted` outputs of a jaxpr (all), and the operations of the products they need."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read = lambda atom: atom.val if isinstance(atom, jex.Literal) else values.get(atom)
    total = 0
    for eqn, asked in _needed(jaxpr, wanted or [True] * len(jaxpr.outvars)):
        inputs, name = [read(atom) for atom in eqn.invars], eqn.primitive.name
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
        if name == "while":
            found, count = _while(eqn.params, inputs)
        elif name == "scan":
            found, count = _scan(eqn.params, inputs)
        elif name == "cond":
            branch = eqn.params["branches"][int(inputs[0])]
            found, count = _run(branch.jaxpr, branch.consts, inputs[1:], asked)
        elif inner is not None:
            held = getattr(inner, "consts", [])
            found, count = _run(getattr(inner, "jaxpr", inner), held, inputs, asked)
        else:
            found, count = _once(eqn, inputs)
        total += count
        values |= dict(zip(eqn.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars], total


def _needed(jaxpr: Any, wanted: list[bool]) -> list[tuple[Any, list[bool]]]:
    """The equations that the wanted outputs need, in order, and which of their own outputs."""
    pairs = zip(jaxpr.outvars, wanted, strict=True)
    needed = {atom for atom, asked in pairs if asked and not isinstance(atom, jex.Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        asked = [var in needed for var in eqn.outvars]
        if any(asked):
            kept.append((eqn, asked))
            needed |= {atom for atom in eqn.invars if not isinstance(atom, jex.Literal)}
    return kept[::-1]


def _while(params: dict, inputs: list) -> tuple[list, int]:
    cond, body, first = params["cond_jaxpr"], params["body_jaxpr"], params["cond_nconsts"]
    split = first + params["body_nconsts"]
    carry, total = inputs[split:], 0
    while True:
        (going,), count = _run(cond.jaxpr, cond.consts, [*inputs[:first], *carry])
        total += count
        if not bool(going):
            return carry, total
        carry, count = _run(body.jaxpr, body.consts, [*inputs[first:split], *carry])
        total += count


def _scan(params: dict, inputs: list) -> tuple[list, int]:
    """A scan without reversal, its outputs stacked."""
    consts, carried = params["num_consts"], params["num_carry"]
    fixed, carry = inputs[:consts], inputs[consts : consts + carried]
    rows, total, body = [], 0, params["jaxpr"]
    for i in range(params["length"]):
        row = [x[i] for x in inputs[consts + carried :]]
        found, count = _run(body.jaxpr, body.consts, [*fixed, *carry, *row])
        carry, total = found[:carried], total + count
        rows.append(found[carried:])
    return [*carry, *(jnp.stack(column) for column in zip(*rows, strict=True))], total


def _products(eqn: Any) -> int:
    if eqn.primitive.name != "dot_general":
        return 0
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)


def timed(rounds: int, burst: int) -> dict[str, list[float]]:
    """Samples a second of every row, in turns."""
    steps, states, data = {}, {}, batch(BATCH)
    for name in RULES:
        made = learner(name)
        steps[name] = made.compiled()
        states[name], info = steps[name](made.init(jax.random.key(0)), data)
        jax.block_until_ready(info.cost)
    rates: dict[str, list[float]] = {name: [] for name in RULES}
    for _ in range(rounds):
        for name, step in steps.items():
            begun = time.perf_counter()
            for _ in range(burst):
                states[name], info = step(states[name], data)
            jax.block_until_ready(info.cost)
            rates[name].append(burst * BATCH / (time.perf_counter() - begun))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--burst", type=int, default=20, help="steps of a row in one turn")
    options = parser.parse_args()
    rates = timed(options.rounds, options.burst)
    rows = {}
    for name, (family, _) in RULES.items():
        made = learner(name)
        state = made.init(jax.random.key(0))
        arrays, still = eqx.partition(state, eqx.is_array)

        def step(arrays, batch, made=made, still=still):
            return eqx.filter(made.step(eqx.combine(arrays, still), batch), eqx.is_array)

        rows[name] = {
            "circuit": family,
            "samples_per_second": statistics.median(rates[name]),
            "operations_per_sample": operations(step, arrays, batch(2)) / 2,
        }
        print(name, rows[name], flush=True)
    result = {
        "command": "python -m benchmarks.credit_cost",
        "sizes": SIZES,
        "batch": BATCH,
        "steps": T,
        "rows": rows,
    }
    write_atomically(PATH, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
