"""The surprise gate on MNIST: updates skipped against accuracy lost, beside random skipping.

    python -m benchmarks.gate --seeds 10 --data-dir DIR
    python -m benchmarks.gate --set "circuit.hidden=[256]" --set train.epochs=10 --data-dir DIR

A preset (`mnist-eqprop`), once without a gate, once with a gate that lets the most surprising share
through, once with one that lets as many through at random. Batches, epochs and schedule are the
same; only how many updates are made, and on what, differs. `--set train.validation=5000` judges on
held-out training images instead (for choosing settings).
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

from anima.run import config as configs
from anima.run.train import Training
from anima.world.data import load_data
from benchmarks.accuracy import summarise
from benchmarks.continual import command, earlier, known, save

RESULTS = Path(__file__).parent / "results"


def one_run(config: configs.Config, data, seed: int) -> dict:
    """Trains one seed and returns its last epoch; the first chunk's compiling is in the seconds."""
    begun = time.time()
    with tempfile.TemporaryDirectory() as folder:
        outcome = Training(config, data, seed, Path(folder)).run()
    if outcome.interrupted:
        raise KeyboardInterrupt
    last = outcome.rows[-1]
    judge = "validation_accuracy" if config.train.validation else "test_accuracy"
    return {
        "seed": seed,
        "error": 1 - last[judge],
        "skipped": last.get("skipped", 0.0),
        "threshold": last.get("threshold"),
        "seconds": time.time() - begun,
    }


def variants(config: configs.Config, share: float, gain: float) -> dict[str, configs.Config]:
    """The configuration without a gate, gated by surprise, and at random."""
    quantile = {"name": "quantile", "share": share, "pace": 0.1, "gain": gain}
    random = {"name": "random", "share": share, "gain": gain}
    with_gate = lambda gate: dataclasses.replace(config, gate=gate)
    return {"all": with_gate({}), "surprise": with_gate(quantile), "random": with_gate(random)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=configs.preset_names(), default="mnist-eqprop")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--gain", type=float, default=1.0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--only", choices=("all", "surprise", "random"), action="append")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, default=RESULTS / "gate.json")
    options = parser.parse_args()
    table = configs.override(configs.read_preset(options.preset), options.set)
    config = configs.resolve(table)
    config = dataclasses.replace(config, twin=dataclasses.replace(config.twin, enabled=False))
    data = load_data(options.preset.partition("-")[0], options.data_dir)
    settings = {"config": configs.as_table(config), "share": options.share, "gain": options.gain}
    runs: dict[str, list[dict]] = earlier(options.out, settings).get("runs", {})
    for seed in range(options.seeds):
        for name, gated in variants(config, options.share, options.gain).items():
            if known({"runs": runs.get(name, [])}, seed):
                continue
            if options.only and name not in options.only:
                continue
            runs.setdefault(name, []).append(one_run(gated, data, seed))
            print(name, json.dumps(runs[name][-1]), flush=True)
            save(options.out, {"command": command("gate"), **summary(runs), **settings})


def summary(runs: dict[str, list[dict]]) -> dict:
    """Means and intervals of each variant, in per cent, and seconds."""
    gather = lambda what: {n: summarise([run[what] for run in row]) for n, row in runs.items()}
    return {
        "error_percent": gather("error"),
        "skipped_percent": gather("skipped"),
        "seconds": {n: [run["seconds"] for run in row] for n, row in runs.items()},
        "runs": runs,
    }


if __name__ == "__main__":
    main()
