"""Writes what ngc-learn's REINFORCE synapse computes, step by step, for the test of parity.

It runs in an environment of its own that has ngclearn (`benchmarks/speed/environments.py` makes
one) and needs nothing of anima:

    benchmarks/.environments/ngclearn/bin/python benchmarks/parity/reinforce.py

The numbers are facts about that library; `tests/act/test_reinforce_parity.py` reads them, and calls
`trace` itself where ngclearn can be imported.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

OUT = Path(__file__).parents[2] / "tests" / "act" / "reinforce_parity.json"
BATCH, INPUTS, ACTIONS = 4, 3, 2
MASK = (0.0, 1.0, 1.0, 0.0, 1.0)

CASES = {
    "learnt": dict(seed=7, eta=0.5, decay=0.9, w_bound=1.0, mu_act_fx="tanh", act_fx="sigmoid"),
    "bounded": dict(seed=8, eta=0.2, w_bound=0.6, mu_out_min=-0.5, mu_out_max=0.5),
    "fixed": dict(seed=9, eta=0.3, mu_act_fx="tanh", scalar_stddev=0.4),
}
"""Arguments of the synapse: they cover each branch of its update."""


def numbers(case: int) -> dict[str, np.ndarray]:
    """Weights of both signs, inputs and rewards: made up, the same everywhere."""
    draw = np.random.default_rng(case)
    return {
        "weights": draw.uniform(-0.2, 0.8, (INPUTS, 2 * ACTIONS)).astype(np.float32),
        "inputs": draw.normal(size=(len(MASK), BATCH, INPUTS)).astype(np.float32),
        "rewards": draw.normal(size=(len(MASK), BATCH)).astype(np.float32),
    }


def trace(name: str) -> list[dict[str, np.ndarray]]:
    """Every compartment of interest after every step of one case."""
    import jax.numpy as jnp
    from ngclearn import Context, MethodProcess
    from ngclearn.components.synapses.modulated.REINFORCESynapse import REINFORCESynapse

    given = numbers(list(CASES).index(name))
    with Context(f"parity_{name}"):
        synapse = REINFORCESynapse(
            "synapse", shape=(INPUTS, ACTIONS), batch_size=BATCH, **CASES[name]
        )
        process = MethodProcess("evolve") >> synapse.evolve
    synapse.weights.set(jnp.asarray(given["weights"]))
    rows = []
    for learn, inputs, rewards in zip(MASK, given["inputs"], given["rewards"], strict=True):
        synapse.inputs.set(jnp.asarray(inputs))
        synapse.rewards.set(jnp.asarray(rewards))
        synapse.learning_mask.set(jnp.asarray(learn))
        process.run(dt=1.0)
        rows.append(
            {
                "weights": np.asarray(synapse.weights.get()),
                "actions": np.asarray(synapse.outputs.get()),
                "objective": np.asarray(synapse.objective.get()),
                "gradient": np.asarray(synapse.dWeights.get()),
                "accumulated": np.asarray(synapse.accumulated_gradients.get()),
                "steps": np.asarray(synapse.step_count.get()),
            }
        )
    return rows


def main() -> None:
    """Writes all cases to `OUT`, a line for each step."""
    cases = []
    for name in CASES:
        rows = [{key: value.tolist() for key, value in row.items()} for row in trace(name)]
        cases.append(f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "]")
    body = ",\n".join(cases)
    OUT.write_text(f'{{"ngclearn": "{version("ngclearn")}", "cases": {{\n{body}}}}}\n')
    print(f"{OUT.name}: {', '.join(CASES)} from ngclearn {version('ngclearn')}")


if __name__ == "__main__":
    main()
