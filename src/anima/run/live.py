"""Living: the loop over chunks of life, and the folder that it leaves behind.

A life is cut into chunks for the sake of progress, signals and checkpoints only: the numbers do
not depend on where. A run that was interrupted and resumed, on as many devices, ends in the same
bits.
"""

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

import anima.run.config as configs
from anima.agent.agent import AbstractAgent, check_finite
from anima.agent.life import AbstractLives, CompiledLives, lives, longest, offer_cores
from anima.agent.living import LivingMind
from anima.core.errors import DivergedError, InputError
from anima.core.files import write_atomically
from anima.run import agents, checkpoint, folder
from anima.run.agents import LiveConfig
from anima.run.config import Table
from anima.run.interrupt import asked_to_stop
from anima.run.metrics import MetricsLog, Row
from anima.run.statistics import interval, iqm
from anima.world.classic import altered
from anima.world.env import make

_ON_THE_WAY, _AT_THE_END, _LATER = 1, 2, 3  # streams of seeds for judging


@dataclasses.dataclass(frozen=True)
class LiveHeader:
    """What a run of agents is of: the `[run]` section of its `config.toml`."""

    preset: str
    seed: int
    seeds: int
    version: str


@dataclasses.dataclass(frozen=True)
class Pulse:
    """What a progress display needs, after every chunk."""

    step: int
    steps: int
    seeds: int
    chart: dict[str, float]
    steps_per_second: float
    rows: list[Row]
    judged: bool


@dataclasses.dataclass(frozen=True)
class Lived:
    """What a run left: its lives, all metrics rows, seconds, and whether it was interrupted."""

    lives: AbstractLives
    rows: list[Row]
    seconds: float
    interrupted: bool


class Living:
    """Lives of a configuration from `seeds` consecutive seeds, in a folder.

    **Arguments:** `folder`, which must exist and be this run's own by the time of `run`: making a
    `Living` touches no disk.

    **Raises:** `InputError` for an unknown environment, or an agent that cannot act in it.
    """

    def __init__(self, config: LiveConfig, seed: int, seeds: int, folder: Path):
        if seed + seeds - 1 > 2**32 - 1:
            raise InputError(f"--seed {seed} with --seeds {seeds}: the last seed is too large")
        if seeds > 1:
            offer_cores()
        self.config, self.seed, self.folder = config, seed, folder
        self.world = self.usual = make(config.world["name"])
        self.mind = agents.build_mind(config, self.world.spec)
        self.cycles = -(-config.live.steps // self.mind.cycle)
        self.period = max(1, min(config.live.judge_every // self.mind.cycle, self.cycles))
        self.chunk = _chunk(self.period, longest(self.mind))
        self.lives = lives(self.mind, self.world, range(seed, seed + seeds))
        at = config.world.get("change", {}).get("at", 0)
        self.changes = -(-int(at) // self.mind.cycle)
        if self.changes >= self.cycles:
            raise InputError(
                f"world.change happens after step {self.changed}, and the life ends after step "
                f"{self.cycles * self.mind.cycle}: it would never be lived"
            )

    def run(
        self,
        *,
        progress: Callable[[Pulse], None] = lambda pulse: None,
        warn: Callable[[str], None] = lambda message: None,
        resume: bool = False,
        tensorboard: bool = False,
    ) -> Lived:
        """Lives to the end, or to an interruption, saving a checkpoint at every judging.

        **Raises:** `DivergedError` (the last good checkpoint stays); `InputError` if the
        environment fails, or nothing can be saved or resumed.
        """
        rows, window, seconds = self.restore(warn) if resume else ([], Window(len(self.seeds)), 0.0)
        log = MetricsLog(self.folder, tensorboard=tensorboard, rows=rows)
        started, begun = time.monotonic() - seconds, self.lives.steps
        try:
            stopping = False
            with asked_to_stop() as stop:
                while self.done < self.cycles and not stopping:
                    window.add(*self._advance())
                    judged = self.done % self.period == 0 or self.done == self.cycles
                    if judged:
                        new = self._rows(window, time.monotonic() - started)
                        rows += new
                        for row in new:
                            log.add(row)
                    elapsed = time.monotonic() - started
                    speed = (self.lives.steps - begun) / max(elapsed - seconds, 1e-9)
                    progress(self._pulse(window, speed, rows, judged))
                    if judged:
                        window = Window(len(self.seeds))
                    stopping = stop()
                    if judged or stopping:
                        self._save(rows, window, elapsed)
        finally:
            log.close()
        return Lived(self.lives, rows, time.monotonic() - started, self.done < self.cycles)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the lives."""
        return self.lives.seeds

    @property
    def done(self) -> int:
        """Cycles lived so far."""
        return self.lives.steps // self.mind.cycle

    def judge(self, *, later: bool = False, episodes: int | None = None) -> np.ndarray:
        """Greedy returns of the finished lives, (seeds, episodes), in the world as it has become.

        **Arguments:** `later`: in other fresh worlds than at the run's end (`anima evaluate`).
        """
        self._change()
        stream = _LATER if later else _AT_THE_END
        return self.lives.judge(episodes or self.config.live.episodes, self._stream(stream))

    def close(self) -> None:
        """Gives back what the worlds hold."""
        self.lives.close()

    def restore(self, warn: Callable[[str], None]) -> tuple[list[Row], "Window", float]:
        """Takes up the lives at the last good checkpoint; returns rows, window and seconds."""
        found = checkpoint.restore(
            self.folder / "checkpoints", self.lives.state, warn=warn, check=self._check_unchanged
        )
        self.lives.restore(found.state)
        self._change()
        notes = found.notes
        before = notes.get("devices", 1)
        if before != self.lives.devices:
            warn(
                f"{before} devices shared these lives and now {self.lives.devices} do: "
                "they go on as they would have but for rounding"
            )
        return notes["rows"], Window.read(notes["window"]), notes["seconds"]

    def _advance(self):
        self._change()
        until_judged = min(self.period - self.done % self.period, self.cycles - self.done)
        until = min(until_judged, self.changes - self.done) if self.unchanged else until_judged
        charts, endings = self.lives.advance(min(self.chunk, until))
        try:
            check_finite(self.lives, charts)
        except DivergedError as error:
            kept = checkpoint.kept(self.folder)
            raise DivergedError(f"{error}, and start a new run; {kept}") from error
        return jax.tree.map(np.asarray, charts), jax.tree.map(np.asarray, endings)

    @property
    def changed(self) -> int | None:
        """The step after which the physics of the world change, if they do."""
        return self.changes * self.mind.cycle or None

    @property
    def unchanged(self) -> bool:
        """Whether the physics of the world are still to change."""
        return 0 <= self.done < self.changes

    @property
    def physics(self) -> dict[str, float]:
        """The constants of the world that are no longer the usual ones."""
        usual = self.world is self.usual
        return {} if usual else agents.constants(self.config.world["change"])

    def _change(self) -> None:
        """Lets the physics change if it is time, be it that the life was resumed after it."""
        if self.changes and not self.unchanged and self.world is self.usual:
            self.world = altered(
                self.config.world["name"], agents.constants(self.config.world["change"])
            )
            assert isinstance(self.lives, CompiledLives)  # as all worlds are that can change
            self.lives.enter(self.world)

    def _rows(self, window: "Window", seconds: float) -> list[Row]:
        step = self.lives.steps
        judged = self.lives.judge(self.config.live.judge_episodes, self._stream(_ON_THE_WAY, step))
        aligned = self.lives.alignment()
        rows = []
        for index, seed in enumerate(self.seeds):
            row = {"who": f"seed-{seed}", "seed": seed, "step": step}
            row |= window.row(index)
            row |= {name: float(values[index]) for name, values in aligned.items()}
            rows.append(row | {"judged_return": float(judged[index].mean()), "seconds": seconds})
        return rows

    def _pulse(self, window: "Window", speed: float, rows: list[Row], judged: bool) -> Pulse:
        return Pulse(
            step=self.lives.steps,
            steps=self.cycles * self.mind.cycle,
            seeds=len(self.seeds),
            chart=window.means(),
            steps_per_second=speed * len(self.seeds),
            rows=rows,
            judged=judged,
        )

    def _save(self, rows: list[Row], window: "Window", seconds: float) -> None:
        notes = {
            "config": configs.as_table(self.config),
            "seed": self.seed,
            "seeds": len(self.seeds),
            "rows": rows,
            "window": window.write(),
            "seconds": seconds,
            "devices": self.lives.devices,
        }
        folder_, keep = self.folder / "checkpoints", self.config.live.keep
        checkpoint.save(folder_, self.lives.steps, self.lives.state, notes, keep=keep)

    def _check_unchanged(self, notes: dict[str, Any]) -> None:
        now = {"config": configs.as_table(self.config), "seed": self.seed, "seeds": len(self.seeds)}
        # resolved again: a setting that is newer than the checkpoint has its default there
        before = {"config": configs.as_table(agents.resolve(notes["config"]))}
        changed = configs.changed({key: notes[key] for key in now} | before, now)
        if changed:
            raise InputError(
                f"{changed} in {self.folder / 'config.toml'} is not what the checkpoint was made "
                "with: put it back to resume, or start a new run"
            )

    def _stream(self, *words: int) -> int:
        """A seed for judging: of the run's seed, and of no life."""
        return int(np.random.SeedSequence([self.seed, *words]).generate_state(1)[0])


class Window:
    """What happened since the last judging, per life: sums that JSON keeps exactly."""

    def __init__(self, count: int):
        self.sums: list[dict[str, float]] = [{} for _ in range(count)]
        self.cycles = 0
        self.scores: list[list[float]] = [[] for _ in range(count)]

    def add(self, charts: Any, endings: Any) -> None:
        """Adds a chunk."""
        for life, sums in enumerate(self.sums):
            for name, values in charts.items():
                sums[name] = sums.get(name, 0.0) + float(np.sum(values[life], dtype=np.float64))
            self.scores[life] += map(float, endings.score[life][endings.ended[life]])
        self.cycles += next(iter(charts.values())).shape[1]

    def row(self, life: int) -> Row:
        """Means over the window of one life."""
        row: Row = {name: total / self.cycles for name, total in self.sums[life].items()}
        scores = self.scores[life]
        return row | {"episodes": len(scores), "return": float(np.mean(scores)) if scores else None}

    def means(self) -> dict[str, float]:
        """Means over all lives."""
        rows = [self.row(life) for life in range(len(self.sums))]
        names = {name for row in rows for name, value in row.items() if value is not None}
        return {
            name: float(np.mean([row[name] for row in rows if row[name] is not None]))
            for name in sorted(names)
        }

    def write(self) -> dict[str, Any]:
        """As plain values."""
        return {"sums": self.sums, "cycles": self.cycles, "scores": self.scores}

    @classmethod
    def read(cls, written: dict[str, Any]) -> "Window":
        """From what `write` gave."""
        window = cls(len(written["sums"]))
        window.sums, window.cycles = written["sums"], written["cycles"]
        window.scores = written["scores"]
        return window


def result(path: Path, living: Living, scores: np.ndarray, seconds: float) -> dict[str, Any]:
    """The keys of the command's JSON."""
    agent, mind = living.config.agent, living.mind
    unlearnt = isinstance(mind, LivingMind) and mind.ignorance(living.lives.steps)
    return ({"note": unlearnt} if unlearnt else {}) | {
        "run": str(path),
        "seed": living.seed,
        "seeds": len(living.seeds),
        "environment": living.config.world["name"],
        "agent": agent["name"],
        "assigner": agent.get("assigner"),
        "return_mean": float(scores.mean()),
        "return_iqm": iqm(scores.mean(1) if len(scores) > 1 else scores),
        "ci95": list(interval(scores)),
        "return_by_seed": scores.mean(1).tolist(),
        "episodes": int(scores.shape[1]),
        "environment_steps": living.lives.steps,
        "seconds": seconds,
    }


def begin(path: Path, config: LiveConfig, *, preset: str, seed: int, seeds: int) -> LiveHeader:
    """Makes a run's folder and writes its `config.toml`; raises `InputError` if it cannot."""
    folder.make(path)
    header = LiveHeader(preset=preset, seed=seed, seeds=seeds, version=version("anima"))
    write_atomically(path / "config.toml", agents.dump(config, dataclasses.asdict(header)))
    return header


def load(path: str | Path, seed: int | None = None) -> AbstractAgent:
    """The agent of a run, as it was at the last checkpoint, to act, to live on, to be saved.

    Where physics were to change it lives on in those of the checkpoint; a file that it is saved to
    knows their world by name alone, so give `load` the altered one.

    **Arguments:** `seed`, which of the run's lives (none: the first).

    **Raises:** `InputError` for a folder that holds no life, or not the life of that seed.
    """
    header, config = read(Path(path))
    last = header.seed + header.seeds - 1
    seed = header.seed if seed is None else seed
    if not header.seed <= seed <= last:
        held = f"{header.seed} to {last}" if header.seeds > 1 else f"{header.seed}"
        raise InputError(f"{path} holds no life of seed {seed}: it has {held}")
    with contextlib.closing(Living(config, header.seed, header.seeds, Path(path))) as living:
        living.restore(warnings.warn)
        changed = None if living.world is living.usual else living.world
        agent = agents.build_agent(config, seed, changed)
        agent.lives.restore(living.lives.only(seed - header.seed))
    return agent


def is_life(path: Path) -> bool:
    """Whether a folder holds a run of agents."""
    return (path / "config.toml").is_file() and "agent" in configs.read_file(path / "config.toml")


def read(path: Path) -> tuple[LiveHeader, LiveConfig]:
    """The header and the configuration of a run of agents; raises `InputError` if it is not one."""
    table: Table = configs.read_file(path / "config.toml")
    run = table.pop("run", None)
    fields = {field.name: field.type for field in dataclasses.fields(LiveHeader)}
    if not isinstance(run, dict) or set(run) != set(fields):
        raise InputError(f"{path / 'config.toml'} lacks a whole [run] section: it was edited")
    for name, value in run.items():
        if name != "seed":
            configs.check_value(f"run.{name}", fields[name], value)
    header = LiveHeader(**run)
    if type(header.seed) is not int or not 0 <= header.seed <= folder.LARGEST_SEED:
        raise InputError(f"run.seed is {header.seed!r}: it must be up to {folder.LARGEST_SEED}")
    agents.check_seeds(header.seeds)
    return header, agents.resolve(table)


def _chunk(period: int, most: int) -> int:
    """The longest chunk that divides a judging period, up to `most` or nearly."""
    even = max(d for d in range(1, min(period, most) + 1) if period % d == 0)
    return even if even >= min(period, most) / 10 else min(period, most)
