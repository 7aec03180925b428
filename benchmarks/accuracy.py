"""Test accuracy of the presets over seeds, each beside its backprop twin.

    python -m benchmarks.accuracy mnist-eqprop --seeds 5 --data-dir DIR
    python -m benchmarks.accuracy mnist-eqprop --seeds 5 --data-dir DIR --who twin

Every run is the preset as it ships; what is reported is the last epoch's. Results go to
`benchmarks/results/accuracy/<preset>-<who>.json`, run by run; a run that is there is not repeated.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import stats

from anima.core.files import write_atomically
from anima.run import config as configs
from anima.run.train import Training
from anima.world.data import load_data

RESULTS = Path(__file__).parent / "results" / "accuracy"


def data_of(preset: str) -> str:
    """The data set that a preset is for: its name begins with it."""
    two_words = "fashion-mnist"
    return two_words if preset.startswith(two_words) else preset.partition("-")[0]


def one_run(preset: str, who: str, seed: int, data_dir: str | None) -> dict:
    """Trains one seed of a preset, or of its twin in its place, and returns the last epoch."""
    config = configs.resolve(configs.read_preset(preset))
    if who == "twin":
        config = configs.as_twin(config)
    config = dataclasses.replace(config, twin=dataclasses.replace(config.twin, enabled=False))
    data = load_data(data_of(preset), data_dir)
    begun = time.time()
    with tempfile.TemporaryDirectory() as folder:
        outcome = Training(config, data, seed, Path(folder)).run(progress=say)
    if outcome.interrupted:
        raise KeyboardInterrupt
    last = outcome.rows[-1]
    return {
        "seed": seed,
        "test_error": 1 - last["test_accuracy"],
        "train_accuracy": last["train_accuracy"],
        "residual": last["residual"],
        "epochs": last["epoch"],
        "seconds": time.time() - begun,
    }


def summarise(errors: list[float]) -> dict:
    """Mean, interquartile mean and its bootstrap 95% interval, in per cent."""
    percent = 100 * np.asarray(errors)
    summary = {"mean": float(percent.mean()), "iqm": float(stats.trim_mean(percent, 0.25))}
    if len(percent) > 1 and percent.std() > 0:
        interval = stats.bootstrap(
            (percent,),
            lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        summary["ci95"] = [float(interval.low), float(interval.high)]
    return summary


def say(tick) -> None:
    if tick.step % max(tick.steps // tick.epochs, 1) == 0:
        last = tick.rows[-1]
        print(
            f"  epoch {tick.epoch}/{tick.epochs} test error "
            f"{100 * (1 - last['test_accuracy']):.2f}% residual {last['residual']:.2g}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", choices=configs.preset_names())
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--who", choices=("circuit", "twin"), default="circuit")
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    path = RESULTS / f"{options.preset}-{options.who}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    config = configs.as_table(configs.resolve(configs.read_preset(options.preset)))
    if options.who == "circuit":
        del config["twin"]
    found = json.loads(path.read_text()) if path.exists() else {}
    runs = found["runs"] if found.get("config") == config else []
    for seed in range(options.seeds):
        if any(run["seed"] == seed for run in runs):
            continue
        print(f"{options.preset} {options.who} seed {seed}", flush=True)
        runs.append(one_run(options.preset, options.who, seed, options.data_dir))
        result = {
            "preset": options.preset,
            "who": options.who,
            "command": f"python -m benchmarks.accuracy {options.preset} --who {options.who} "
            f"--seeds {len(runs)} --data-dir DIR",
            "test_error_percent": summarise([run["test_error"] for run in runs]),
            "runs": runs,
            "config": config,
        }
        write_atomically(path, json.dumps(result, indent=1) + "\n")
    print(path.read_text().split('"runs"')[0])


if __name__ == "__main__":
    main()
