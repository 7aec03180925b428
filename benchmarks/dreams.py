"""Dreams judged by others: does a judge see the label, do they differ, do they teach?

    python -m benchmarks.dreams --seeds 10 --data-dir DIR
    python -m benchmarks.dreams --preset mnist-dream-ngc --seeds 10 --data-dir DIR

A run of a preset (`mnist-dream`) learns; its dreams settle by Langevin steps from clamped labels,
as `anima dream` has them. Then, per seed, all by networks that share nothing with the run (a
multilayer perceptron of scikit-learn, learnt by backpropagation on other data than it judges):

- agreement: how many of 5,000 dreams a judge learnt on the real training images takes for what
  they were meant to be;
- spread: the standard deviation of a pixel within a label, averaged (and of real images);
- teaching: the accuracy on the real test set of a classifier learnt on the 5,000 dreams alone
  (and, as a ceiling, on 5,000 real images; and on the same dreams drawn without settling).

Nothing is chosen by these numbers: presets were tuned with `--validation 5000`, which judges on the
last training images instead of the test set.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.neural_network import MLPClassifier

from anima.app.dreams import Dreaming, dreams
from anima.run import config as configs
from anima.run.memory import learn_memory, load_memory
from anima.run.train import Training
from anima.world.data import load_data
from benchmarks.accuracy import summarise
from benchmarks.continual import command, earlier, held_out, known, save

RESULTS = Path(__file__).parent / "results"
DREAMS = 5000


def remembered(config: configs.Config, data, seed: int):
    """The memory of one run of a configuration, without the epochs of its perceiving half.

    A code of its own does not depend on the circuit, so only a `[dream]` that reads one needs it.
    """
    with tempfile.TemporaryDirectory() as folder:
        training = Training(config, data, seed, Path(folder))
        if config.dream.read:
            training.run()
            path = Path(folder) / "memory.safetensors"
            return load_memory(path, config.dream, training.learner, data.pixels)
        labels = np.asarray(training.targets).argmax(-1)
        key = training.keys["memory"]
        return learn_memory(config.dream, training.learner, training.inputs, labels, key=key)


def taught(images: np.ndarray, labels: np.ndarray, seed: int, epochs: int) -> MLPClassifier:
    """A perceptron of 256 hidden units, learnt by backpropagation."""
    import warnings

    warnings.filterwarnings("ignore", module="sklearn")  # that it could go on learning
    batch = 64 if len(images) <= DREAMS else 128
    pupil = MLPClassifier((256,), max_iter=epochs, batch_size=batch, random_state=seed)
    return pupil.fit(images, labels)


def spread(images: np.ndarray, labels: np.ndarray) -> float:
    """Standard deviation of a pixel within a label: the mean over pixels and labels."""
    return float(np.mean([images[labels == k].std(0).mean() for k in np.unique(labels)]))


def one_run(config: configs.Config, data, judge: MLPClassifier, seed: int) -> dict:
    """All measures of one seed."""
    begun = time.time()
    memory = remembered(config, data, seed)
    labels = np.repeat(np.arange(data.classes, dtype=np.int32), DREAMS // data.classes)
    keys = jax.random.split(jax.random.key(seed), len(labels))
    settled = dreams(memory, labels, keys, Dreaming())
    drawn = np.asarray(memory.imagine(jnp.asarray(labels), key=jax.random.key(seed)))
    test = data.test_images.reshape(len(data.test_images), -1)
    real = data.train_images.reshape(len(data.train_images), -1)
    some = np.random.default_rng(seed).choice(len(real), DREAMS, replace=False)
    pupils = {
        "settled": taught(settled, labels, seed, 25),
        "drawn": taught(drawn, labels, seed, 25),
        "real": taught(real[some], data.train_labels[some], seed, 25),
    }
    return {
        "seed": seed,
        "agreement": float(np.mean(judge.predict(settled) == labels)),
        "agreement_drawn": float(np.mean(judge.predict(drawn) == labels)),
        "spread": spread(settled, labels),
        "spread_drawn": spread(drawn, labels),
        "teaching": {
            name: float(pupil.score(test, data.test_labels)) for name, pupil in pupils.items()
        },
        "numbers_kept": memory.concepts.size
        + sum(x.size for x in jax.tree.leaves(memory.writer) if hasattr(x, "size")),
        "seconds": time.time() - begun,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=configs.preset_names(), default="mnist-dream")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--validation", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    usual = options.preset == "mnist-dream"
    out = options.out or RESULTS / ("dreams.json" if usual else f"dreams-{options.preset}.json")
    config = configs.resolve(configs.override(configs.read_preset(options.preset), options.set))
    config = dataclasses.replace(config, twin=dataclasses.replace(config.twin, enabled=False))
    data = load_data(options.data, options.data_dir)
    if options.validation:
        data = held_out(data, options.validation)
    real = data.train_images.reshape(len(data.train_images), -1)
    test = data.test_images.reshape(len(data.test_images), -1)
    judge = taught(real, data.train_labels, 0, 12)
    settings = {"config": configs.as_table(config), "judged": len(test)}
    runs: list[dict] = earlier(out, settings).get("runs", [])
    for seed in range(options.seeds):
        if known({"runs": runs}, seed):
            continue
        runs.append(one_run(config, data, judge, seed))
        print(json.dumps(runs[-1]), flush=True)
        result = {
            "command": command("dreams"),
            "judge_accuracy": float(judge.score(test, data.test_labels)),
            "spread_real": spread(real, data.train_labels),
            "agreement_percent": summarise([run["agreement"] for run in runs]),
            "spread": summarise([run["spread"] / 100 for run in runs]),
            "teaching_percent": {
                name: summarise([run["teaching"][name] for run in runs])
                for name in runs[0]["teaching"]
            },
            "runs": runs,
        }
        save(out, result | settings)


if __name__ == "__main__":
    main()
