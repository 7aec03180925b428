"""Training: the loop over epochs around compiled chunks, and the folder that a run leaves behind.

Everything random is drawn from the seed and the step count, so a run that was interrupted and
resumed ends in the same bits as one that was not.
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import anima.run.config as configs
from anima.core.errors import DivergedError, InputError
from anima.core.types import Result
from anima.learn.assigners import Info
from anima.learn.learner import Learner, LearnerState
from anima.run import checkpoint
from anima.run.config import Config
from anima.run.evaluate import accuracy, as_inputs
from anima.run.interrupt import asked_to_stop
from anima.run.memory import check_dream, learn_memory, save_memory
from anima.run.metrics import MetricsLog, Row
from anima.run.weights import save_weights
from anima.world.augment import shifted
from anima.world.data import Data

LONGEST_CHUNK = 500  # steps between two looks at the clock, the signals and the numbers
_MOST_STEPS = 2**31 - 1  # what the step counter holds


class Lives(eqx.Module):
    """The states of the circuit and, if there is one, of its backprop twin."""

    circuit: LearnerState
    twin: LearnerState | None


@dataclasses.dataclass(frozen=True)
class Tick:
    """What a progress display needs, after every chunk."""

    epoch: int
    epochs: int
    step: int
    steps: int
    cost: float
    accuracy: float
    energy: float
    residual: float
    steps_per_second: float
    rows: list[Row]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a training left: states, all metrics rows, seconds, and whether it was interrupted."""

    lives: Lives
    rows: list[Row]
    seconds: float
    interrupted: bool


class Training:
    """One run of a configuration on a data set from a seed, in a folder.

    **Arguments:** `config`; `data`; `seed`; `folder`, which must exist and be this run's own by
    the time of `run`: making a `Training` touches no disk.

    **Raises:** `InputError` if configuration and data do not fit each other.
    """

    def __init__(self, config: Config, data: Data, seed: int, folder: Path):
        train = config.train
        count = len(data.train_labels) - train.validation
        if count < train.batch:
            raise InputError(
                f"train.batch is {train.batch} but {max(count, 0)} training examples are left "
                f"after train.validation = {train.validation}: make the batch smaller"
            )
        if train.shift >= min(data.shape[:2]):
            raise InputError(
                f"train.shift is {train.shift}: it must be less than the images' "
                f"{data.shape[0]}x{data.shape[1]}"
            )
        self.config, self.seed, self.folder = config, seed, folder
        self.per_epoch = count // train.batch
        if self.steps > _MOST_STEPS:
            raise InputError(
                f"train.epochs is {train.epochs}: {self.steps} steps are more than {_MOST_STEPS}"
            )
        self.chunk = _chunk(self.per_epoch)
        self.fingerprint = _fingerprint(data)
        key = jax.random.key(seed)
        self.keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(_STREAMS)}
        circuit = configs.build_circuit(config, data.shape, data.classes, self.keys["circuit"])
        self.inputs = as_inputs(circuit, data.train_images)
        self.targets = jax.nn.one_hot(jnp.asarray(data.train_labels), data.classes)
        self.labels = data.train_labels
        self.judged, self.judged_labels, self.judge = self._judged(data, count)
        self.learner = configs.build_learner(config, circuit, self.per_epoch)
        twin = configs.as_twin(config)
        self.twin = (
            configs.build_learner(twin, circuit, self.per_epoch) if config.twin.enabled else None
        )
        check_dream(config.dream, circuit, self.inputs, self.targets)
        self.augment = shifted(data.shape, train.shift) if train.shift else None
        for learner in (self.learner, self.twin):
            if learner is not None:  # a circuit that an assigner cannot serve shows now, not later
                eqx.filter_eval_shape(learner.predict, circuit, {"input": self.inputs[:1]})
        self._sweep = eqx.filter_jit(Learner.sweep)

    def run(
        self,
        *,
        progress: Callable[[Tick], None] = lambda tick: None,
        warn: Callable[[str], None] = lambda message: None,
        resume: bool = False,
        tensorboard: bool = False,
    ) -> Outcome:
        """Trains to the end, or to an interruption, saving a checkpoint after every epoch.

        **Raises:** `DivergedError` with the step, the residual and a remedy (the last good
        checkpoint stays); `InputError` if nothing can be saved or resumed.
        """
        lives, rows, sums, seconds = self._begin(resume, warn)
        log = MetricsLog(self.folder, tensorboard=tensorboard, rows=rows)
        started = time.monotonic() - seconds
        try:
            stopping = False
            with asked_to_stop() as stop:
                while int(lives.circuit.step) < self.steps and not stopping:
                    lives, infos = self._advance(lives)
                    _accumulate(sums, infos)
                    step, elapsed = int(lives.circuit.step), time.monotonic() - started
                    ended = step % self.per_epoch == 0
                    if ended:
                        new = self._rows(lives, sums, elapsed)
                        rows += new
                        for row in new:
                            log.add(row)
                    progress(self._tick(step, sums, elapsed, rows))
                    if ended:
                        sums = {}
                    stopping = stop()
                    if ended or stopping:
                        self._save(lives, rows, sums, elapsed)
        finally:
            log.close()
        interrupted = int(lives.circuit.step) < self.steps
        save_weights(self.folder / "weights.safetensors", lives.circuit.answering)
        if lives.twin is not None:
            save_weights(self.folder / "twin.safetensors", lives.twin.answering)
        if self.config.dream.enabled and not interrupted:
            self._remember(lives)
        return Outcome(lives, rows, time.monotonic() - started, interrupted)

    def _remember(self, lives: Lives) -> None:
        """What is kept for dreams: made anew from the same bits whenever the run is complete."""
        memory = learn_memory(
            self.config.dream,
            dataclasses.replace(self.learner, circuit=lives.circuit.answering),
            self.inputs,
            np.asarray(self.targets).argmax(-1),
            key=self.keys["memory"],
        )
        save_memory(self.folder / "memory.safetensors", memory)

    @property
    def steps(self) -> int:
        """Learning steps of the whole run."""
        return self.per_epoch * self.config.train.epochs

    def init(self) -> Lives:
        """The states before the first step."""
        twin = self.twin.init(self.keys["learning"]) if self.twin else None
        return Lives(self.learner.init(self.keys["learning"]), twin)

    def order(self, step: int) -> jax.Array:
        """Which examples the chunk from `step` reads: (chunk, batch), fresh order every epoch.

        The last chunk of an epoch may be shorter.
        """
        epoch, within = divmod(step, self.per_epoch)
        batch = self.config.train.batch
        key = jax.random.fold_in(self.keys["order"], epoch)
        order = jax.random.permutation(key, len(self.targets))[: self.per_epoch * batch]
        return order.reshape(self.per_epoch, batch)[within : within + self.chunk]

    def _judged(self, data: Data, count: int):
        """The images that are judged every epoch: validation where held out, else test."""
        if self.config.train.validation:
            held = self.inputs[count:], self.labels[count:], "validation"
            self.inputs, self.targets = self.inputs[:count], self.targets[:count]
            return held
        return jnp.asarray(data.test_images), data.test_labels, "test"

    def _begin(self, resume: bool, warn: Callable[[str], None]):
        if not resume:
            return self.init(), [], {}, 0.0
        found = checkpoint.restore(
            self.folder / "checkpoints", self.init(), warn=warn, check=self._check_unchanged
        )
        notes = found.notes
        return found.state, notes["rows"], notes["sums"], notes["seconds"]

    def _check_unchanged(self, notes: dict[str, Any]) -> None:
        here = self.folder / "config.toml"
        # resolved again: a setting that is newer than the checkpoint has its default there
        before = configs.as_table(configs.resolve(notes["config"]))
        now = configs.as_table(self.config)
        # the memory is made when all is learnt, so another may be wanted until then
        changed = configs.changed(before | {"dream": now["dream"]}, now)
        if notes["seed"] != self.seed:
            changed = "run.seed"
        if changed:
            raise InputError(
                f"{changed} in {here} is not what the checkpoint was made with: put it back to "
                "resume, or start a new run"
            )
        if notes["data"] != self.fingerprint:
            raise InputError(
                f"the data set that {here} names is not the one this run began with: bring it "
                "back to resume, or start a new run"
            )

    def _save(self, lives: Lives, rows: list[Row], sums: dict, seconds: float) -> None:
        notes = {
            "config": configs.as_table(self.config),
            "seed": self.seed,
            "data": self.fingerprint,
            "rows": rows,
            "sums": sums,
            "seconds": seconds,
        }
        step, keep = int(lives.circuit.step), self.config.train.keep
        checkpoint.save(self.folder / "checkpoints", step, lives, notes, keep=keep)

    def _advance(self, lives: Lives) -> tuple[Lives, dict[str, Info]]:
        """One chunk of each learner, over the same examples in the same order."""
        order = self.order(int(lives.circuit.step))
        states, infos = {}, {}
        for who, learner, state in self._who(lives):
            states[who], infos[who] = self._sweep(
                learner, state, self.inputs, self.targets, order, self.augment
            )
            self._check_finite(who, int(lives.circuit.step), states[who], infos[who])
        return Lives(states["circuit"], states.get("twin")), infos

    def _check_finite(self, who: str, step: int, state: LearnerState, info: Info) -> None:
        bad = (np.asarray(info.result) == Result.NONFINITE) | ~np.isfinite(np.asarray(info.cost))
        learnt = jax.tree.leaves(state.circuit.parameters()[0])
        if not bad.any() and all(bool(jnp.isfinite(leaf).all()) for leaf in learnt):
            return
        first = int(np.argmax(bad)) if bad.any() else len(bad) - 1
        raise DivergedError(
            f"the {who} diverged at step {step + first} (residual "
            f"{float(info.residual[first]):.3g}, cost {float(info.cost[first]):.3g}): "
            f"{_REMEDIES[who]} and start a new run; {checkpoint.kept(self.folder)}"
        )

    def _who(self, lives: Lives) -> list[tuple[str, Learner, LearnerState]]:
        both = [("circuit", self.learner, lives.circuit)]
        if self.twin is not None and lives.twin is not None:
            both.append(("twin", self.twin, lives.twin))
        return both

    def _rows(self, lives: Lives, sums: dict, seconds: float) -> list[Row]:
        step = int(lives.circuit.step)
        rows = []
        for who, learner, state in self._who(lives):
            right = accuracy(learner, state.answering, self.judged, self.judged_labels)
            seen = sums[who]
            rows.append(
                {
                    "who": who,
                    "epoch": step // self.per_epoch,
                    "step": step,
                    "cost": seen["cost"] / seen["steps"],
                    "train_accuracy": seen["accuracy"] / seen["steps"],
                    f"{self.judge}_accuracy": right,
                    "energy": seen["energy"] / seen["steps"],
                    "residual": seen["residual"],
                    "settling_steps": seen["settling_steps"],
                    "seconds": seconds,
                }
                | _gated(state)
                | {name: seen[name] / seen["steps"] for name in ("alignment",) if name in seen}
            )
        return rows

    def _tick(self, step: int, sums: dict, seconds: float, rows: list[Row]) -> Tick:
        seen = sums["circuit"]
        return Tick(
            epoch=math.ceil(step / self.per_epoch),
            epochs=self.config.train.epochs,
            step=step,
            steps=self.steps,
            cost=seen["cost"] / seen["steps"],
            accuracy=seen["accuracy"] / seen["steps"],
            energy=seen["energy"] / seen["steps"],
            residual=seen["residual"],
            steps_per_second=step / max(seconds, 1e-9),
            rows=rows,
        )


_STREAMS = ("circuit", "learning", "order", "memory")

_REMEDIES = {
    "circuit": "reduce optimiser.rate, assigner.beta or the solver's dt",
    "twin": "reduce twin.rate (or set twin.enabled=false)",
}


def _gated(state: LearnerState) -> Row:
    """What a gate did so far: the share of updates that were skipped, and its threshold now."""
    if state.waiting is None:
        return {}
    skipped = 1 - int(state.waiting.updates) / int(state.step)
    return {"skipped": skipped, "threshold": float(state.waiting.threshold)}


def _fingerprint(data: Data) -> str:
    """Tells one data set from another by its shapes and its training labels, in order."""
    total = hashlib.sha256(f"{data.train_images.shape} {data.classes}".encode())
    total.update(np.ascontiguousarray(data.train_labels).tobytes())
    return total.hexdigest()


def _chunk(steps: int) -> int:
    """The longest chunk that divides an epoch evenly, so that one program serves all chunks.

    Where that is a small one (a prime number of steps), a shorter last chunk is compiled instead.
    """
    even = max(d for d in range(1, min(steps, LONGEST_CHUNK) + 1) if steps % d == 0)
    return even if even >= min(steps, LONGEST_CHUNK) / 10 else min(steps, LONGEST_CHUNK)


def _accumulate(sums: dict[str, Any], infos: dict[str, Info]) -> None:
    """Adds a chunk to the running sums of the epoch, as plain numbers that JSON keeps exactly."""
    for who, info in infos.items():
        seen = sums.setdefault(who, dict(residual=0.0, settling_steps=0, steps=0))
        seen["steps"] += int(info.cost.shape[0])
        means = {"cost": info.cost, "accuracy": info.output, "energy": info.energy}
        if info.alignment is not None:
            means["alignment"] = info.alignment
        for name, values in means.items():
            seen[name] = seen.get(name, 0.0) + float(np.sum(np.asarray(values, np.float64)))
        seen["residual"] = max(seen["residual"], float(jnp.max(info.residual)))
        seen["settling_steps"] = max(seen["settling_steps"], int(jnp.max(info.steps)))
