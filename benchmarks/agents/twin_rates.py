"""Each twin's learning rate, swept over lives that no row is made of.

    python -m benchmarks.agents.twin_rates [cartpole-dqn-backprop ...] [--seeds 5]

The rates of a body and of a critic keep their ratios to the actor's. Seeds from 100 on are lived
side by side and judged as the rows are. Writes `benchmarks/results/agents-twin-rates.json`; a rate
that is there with as many seeds is not lived again, so begin without a preset's entry after
changing it. The best belongs in the preset; this script does not write it there.
"""

import argparse
import contextlib
import json
import tempfile
from pathlib import Path

from anima.core.errors import DivergedError
from anima.core.files import write_atomically
from anima.run import agents
from anima.run.live import Living
from anima.run.statistics import iqm

PATH = Path(__file__).parents[1] / "results" / "agents-twin-rates.json"
RATES = (0.0003, 0.001, 0.003)
FIRST_SEED = 100


def twins() -> list[str]:
    """The presets that learn by backpropagation."""
    return [name for name in agents.preset_names() if name.endswith("-backprop")]


def at_rate(preset: str, rate: float) -> tuple[dict[str, float], agents.LiveConfig]:
    """The preset at a rate, and what its rates then are."""
    table = agents.read_preset(preset)
    told = agents.resolve(table).agent
    names = [name for name in ("rate", "body_rate", "critic_rate") if name in told]
    both = {name: told[name] / told["rate"] for name in names}
    rates = {name: float(f"{rate * ratio:.3g}") for name, ratio in both.items()}
    changed = agents.override(table, [f"agent.{name}={rate!r}" for name, rate in rates.items()])
    return rates, agents.resolve(changed)


def return_of(config: agents.LiveConfig, seeds: int) -> float | None:
    """The interquartile mean of greedy returns; `None` if a life diverges."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        living = stack.enter_context(contextlib.closing(Living(config, FIRST_SEED, seeds, folder)))
        try:
            outcome = living.run()
        except DivergedError:
            return None
        if outcome.interrupted:
            raise KeyboardInterrupt
        return float(iqm(living.judge()))


def main() -> None:
    """Sweeps the twins that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("presets", nargs="*", default=twins())
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    options = parser.parse_args()
    found = json.loads(PATH.read_text()) if PATH.exists() else {"presets": {}}
    found["command"] = "python -m benchmarks.agents.twin_rates [PRESET] [--rates RATE ...]"
    found["first_seed"] = FIRST_SEED
    for preset in options.presets:
        tried = found["presets"].setdefault(preset, [])
        for rate in options.rates:
            rates, config = at_rate(preset, rate)
            row = {"rates": rates, "seeds": options.seeds}
            if any(row.items() <= other.items() for other in tried):
                continue
            score = return_of(config, options.seeds)
            tried.append(row | {"return_iqm": score})
            write_atomically(PATH, json.dumps(found, indent=1) + "\n")
            print(preset, rates, score, flush=True)


if __name__ == "__main__":
    main()
