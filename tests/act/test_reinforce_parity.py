"""Parity with ngc-learn's REINFORCE synapse: its recorded numbers, and itself where present."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.act.reinforce_parity import ReinforceParity
from anima.core.functions import activation

pytestmark = pytest.mark.float32

RECORDED = json.loads((Path(__file__).parent / "reinforce_parity.json").read_text())["cases"]
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "parity" / "reinforce.py"
SPEC = importlib.util.spec_from_file_location("parity_reinforce", SCRIPT)
parity = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(parity)

NAMES = {"eta": "rate", "w_bound": "bound", "mu_out_min": "low", "mu_out_max": "high"}
NAMES |= {"scalar_stddev": "std", "decay": "decay"}


def ours(name):
    """The same rows as the script's `trace`, computed here."""
    case, given = parity.CASES[name], parity.numbers(list(parity.CASES).index(name))
    rule = ReinforceParity(
        activation=activation(case.get("act_fx", "identity")),
        transfer=activation(case.get("mu_act_fx", "identity")),
        **{NAMES[key]: value for key, value in case.items() if key in NAMES},
    )
    state = rule.init(jnp.asarray(given["weights"]), jax.random.PRNGKey(case["seed"]))
    step = jax.jit(rule.step)
    for learn, inputs, rewards in zip(parity.MASK, given["inputs"], given["rewards"], strict=True):
        state, info = step(state, jnp.asarray(inputs), jnp.asarray(rewards), learn)
        yield {
            "weights": state.weights,
            "actions": info.actions,
            "objective": info.objective,
            "gradient": info.gradient,
            "accumulated": state.accumulated,
            "steps": state.steps,
        }


def agree(rows, known):
    for step, (row, truth) in enumerate(zip(rows, known, strict=True)):
        for what, value in truth.items():
            assert np.allclose(row[what], value, rtol=2e-5, atol=1e-7), f"step {step}: {what}"


@pytest.mark.parametrize("name", parity.CASES)
def test_recorded_numbers(name):
    agree(ours(name), RECORDED[name])


def test_the_recorded_cases_reach_every_branch():
    """Weights at both bounds, clipped actions, a mask of both kinds, an idle half."""
    rows = {
        name: [{k: np.asarray(v) for k, v in row.items()} for row in RECORDED[name]]
        for name in RECORDED
    }
    assert any(np.any(row["weights"] == 0) for row in rows["learnt"])
    assert any(np.any(row["weights"] == np.float32(0.6)) for row in rows["bounded"])
    assert any(np.any(np.abs(row["actions"]) == 0.5) for row in rows["bounded"])
    assert {float(row["steps"]) for row in rows["learnt"]} == {0.0, 1.0}
    assert all(np.all(row["gradient"][:, 2:] == 0) for row in rows["fixed"])
    assert any(np.any(row["gradient"][:, 2:] != 0) for row in rows["learnt"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", parity.CASES)
def test_the_library_itself(name):
    reason = "ngclearn is not installed: the recorded numbers stand for it"
    pytest.importorskip("ngclearn", reason=reason)
    agree(ours(name), parity.trace(name))
