"""Each preset's backprop twin, its learning rate swept on a validation split of the training data.

    python -m benchmarks.twin_rates PRESET ... --data-dir DIR

Writes `benchmarks/results/twin-rates.json`, beside what was swept with as many epochs before. The
best rate belongs in the preset's `[twin]`; this script does not write it there.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

from anima.core.errors import DivergedError
from anima.core.files import write_atomically
from anima.run import config as configs
from anima.run.train import Training
from anima.world.data import load_data
from benchmarks.accuracy import data_of

PATH = Path(__file__).parent / "results" / "twin-rates.json"
RATES = {"sgd": (0.1, 0.3, 1.0, 3.0), "adam": (0.0003, 0.001, 0.003, 0.01)}
HELD_OUT = {"digits": 250, "mnist": 10_000, "fashion-mnist": 10_000}
SEED = 1000


def validation_error(preset: str, rate: float, epochs: int, data_dir: str | None) -> float:
    """The twin's error on held-out training data after its last epoch; 1 if it diverges."""
    base = configs.resolve(configs.read_preset(preset))
    twin = configs.as_twin(
        dataclasses.replace(base, twin=dataclasses.replace(base.twin, rate=rate))
    )
    name = data_of(preset)
    train = dataclasses.replace(base.train, validation=HELD_OUT[name], epochs=epochs)
    off = dataclasses.replace(twin.twin, enabled=False)
    config = dataclasses.replace(twin, train=train, twin=off)
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome = Training(config, load_data(name, data_dir), SEED, Path(folder)).run()
        except DivergedError:
            return 1.0
    if outcome.interrupted:
        raise KeyboardInterrupt
    return 1 - outcome.rows[-1]["validation_accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=configs.preset_names())
    parser.add_argument("--epochs", type=int, help="fewer than the preset's, to save time")
    parser.add_argument(
        "--rates", type=float, nargs="+", help="which; by default those of its rule"
    )
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    found = json.loads(PATH.read_text()) if PATH.exists() else {"presets": {}}
    for preset in options.presets:
        config = configs.resolve(configs.read_preset(preset))
        epochs = options.epochs or config.train.epochs
        before = found["presets"].get(preset, {})
        errors = before["errors"] if before.get("epochs") == epochs else {}
        for rate in options.rates or RATES[config.optimiser["rule"]]:
            errors[str(rate)] = validation_error(preset, rate, epochs, options.data_dir)
            print(preset, rate, f"{100 * errors[str(rate)]:.2f}%", flush=True)
        found["presets"][preset] = {
            "errors": errors,
            "epochs": epochs,
            "seed": SEED,
            "taken": min(errors, key=lambda rate: errors[rate]),
        }
        PATH.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(PATH, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
