"""Each twin's learning rate, swept over lives that no row is made of.

    python -m benchmarks.agents.twin_rates [cartpole-dqn-backprop ...] [--seeds 5]

All rates of a twin (an actor's and a critic's alike) are multiplied by each factor, and seeds from
100 on are lived side by side and judged as the rows are. Writes
`benchmarks/results/agents-twin-rates.json`; a factor that is there is not lived again, so begin
without a preset's entry after changing it. The best belongs in the preset; this script does not
write it there.
"""

import argparse
import json
import tempfile
from pathlib import Path

from anima.core.errors import DivergedError
from anima.core.files import write_atomically
from anima.run import agents
from anima.run.live import Living
from anima.run.statistics import iqm

PATH = Path(__file__).parents[1] / "results" / "agents-twin-rates.json"
FACTORS = (0.3, 1.0, 3.0)
RATES = ("rate", "critic_rate")
FIRST_SEED = 100


def twins() -> list[str]:
    """The presets that learn by backpropagation, and are no living agent's."""
    return [name for name in agents.preset_names() if name.endswith("-backprop")]


def scaled(preset: str, factor: float) -> tuple[dict[str, float], agents.LiveConfig]:
    """The preset with all its rates times `factor`, and what they then are."""
    table = agents.read_preset(preset)
    told = agents.resolve(table).agent
    rates = {name: float(f"{factor * told[name]:.3g}") for name in RATES if told.get(name)}
    changed = agents.override(table, [f"agent.{name}={rate!r}" for name, rate in rates.items()])
    return rates, agents.resolve(changed)


def return_of(config: agents.LiveConfig, seeds: int) -> float | None:
    """The interquartile mean of greedy returns; `None` if a life diverges."""
    with tempfile.TemporaryDirectory() as folder:
        living = Living(config, FIRST_SEED, seeds, Path(folder))
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
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS)
    options = parser.parse_args()
    found = json.loads(PATH.read_text()) if PATH.exists() else {"presets": {}}
    found["command"] = f"python -m benchmarks.agents.twin_rates --seeds {options.seeds}"
    found["first_seed"], found["seeds"] = FIRST_SEED, options.seeds
    for preset in options.presets:
        tried = found["presets"].setdefault(preset, [])
        for factor in options.factors:
            rates, config = scaled(preset, factor)
            if any(row["rates"] == rates for row in tried):
                continue
            score = return_of(config, options.seeds)
            tried.append({"rates": rates, "return_iqm": score, "seeds": options.seeds})
            write_atomically(PATH, json.dumps(found, indent=1) + "\n")
            print(preset, rates, score, flush=True)


if __name__ == "__main__":
    main()
