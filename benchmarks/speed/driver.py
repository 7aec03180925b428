"""The speed benchmark: every peer in its own environment, timed turn by turn on the same cores.

On a shared machine a figure means little and a ratio taken at another time means less. So all
workers of a case are started first and then wait on their input; in each round one after another is
told to train for about `--round-seconds`, in an order that rotates, and the machine's
matrix-product rate is measured in the same rounds. What is reported is the ratio of medians over
rounds, beside it spread, first call, peak memory and the distance from the floor (`floor.py`).

    python benchmarks/speed/driver.py --out results.json
    python benchmarks/speed/driver.py predictive-t8 --threads 1 --peers anima numpy pcx --rounds 3

Standard library only: the driver's own memory and threads stay out of the way.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import environments
import floor

HERE = Path(__file__).resolve().parent
ANSWER_SECONDS = 300.0
BUSY_SHARE = 0.5
UNITS = ("samples_per_second", "samples_per_cpu_second")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")
DROPPED_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS", "PYTHONPATH", "PYTHONHOME")


@dataclass(frozen=True)
class Case:
    """One thing to train."""

    name: str
    task: str
    sizes: tuple[int, ...]
    batch: int
    steps: int
    nudged: int = 0


@dataclass(frozen=True)
class Entrant:
    """One row of the table: a worker, its environment ("" is anima's own) and a variant of it.

    `target` is the least ratio anima / this row that the project asks for.
    """

    label: str
    worker: str
    environment: str
    variant: str = ""
    target: float | None = None


CASES = (
    Case("predictive-t8", "predictive", (784, 256, 256, 10), 256, 8),
    Case("predictive-t20", "predictive", (784, 256, 256, 10), 256, 20),
    Case("eqprop-1", "eqprop", (784, 512, 10), 128, 20, 10),
    Case("eqprop-2", "eqprop", (784, 512, 512, 10), 128, 20, 10),
)

ANIMA = Entrant("anima", "anima_worker.py", "")
PREDICTIVE = (
    ANIMA,
    Entrant("numpy", "numpy_pc.py", "numpy"),
    Entrant("pcx", "pcx_pc.py", "pcx", target=1.0),
    Entrant("pcx:scan", "pcx_pc.py", "pcx", "scan", target=1.0),
    Entrant("pcx-newest", "pcx_pc.py", "pcx-newest", target=1.0),
    Entrant("fabricpc", "fabricpc_pc.py", "fabricpc", target=1.0),
    Entrant("fabricpc:explicit", "fabricpc_pc.py", "fabricpc", "explicit", target=1.0),
    Entrant("ngclearn", "ngclearn_pc.py", "ngclearn", target=5.0),
    Entrant("ngclearn:scan", "ngclearn_pc.py", "ngclearn", "scan"),
)
EQPROP = (
    ANIMA,
    Entrant("torch", "torch_eqprop.py", "torch"),
    Entrant("torch:hoisted", "torch_eqprop.py", "torch", "hoisted"),
)
EQPROP_TARGETS = {"eqprop-1": 10.0, "eqprop-2": 5.0}


def entrants_of(case: Case) -> tuple[Entrant, ...]:
    """The rows of a case, with the targets that hold for it."""
    if case.task == "predictive":
        return PREDICTIVE
    target = EQPROP_TARGETS.get(case.name)
    return tuple(replace(row, target=target) if row.label == "torch" else row for row in EQPROP)


class WorkerError(Exception):
    """A worker that cannot go on, with the reason."""


class Worker:
    """A process that speaks the protocol of `peers/_protocol.py`; idle unless asked."""

    def __init__(self, command: Sequence[str], threads: int) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the process)
        begun = time.perf_counter()
        with pinned(threads):
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                env=worker_environment(threads),
            )
        try:
            self.ready = self.answer()
        except (WorkerError, ValueError):
            self.end()
            raise
        self.ready["startup_seconds"] = time.perf_counter() - begun

    def answer(self) -> dict[str, Any]:
        """Wait for one line; a worker silent for too long is ended."""
        timer = threading.Timer(ANSWER_SECONDS, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline() if self.process.stdout else ""
        finally:
            timer.cancel()
        if not line:
            raise WorkerError(self.last_words())
        return json.loads(line)

    def ask(self, command: str) -> dict[str, Any]:
        if self.process.stdin is None:
            raise WorkerError("no standard input")
        try:
            print(command, file=self.process.stdin, flush=True)
        except OSError as error:
            raise WorkerError(self.last_words()) from error
        return self.answer()

    def last_words(self) -> str:
        self.errors.seek(0)
        lines = [line for line in self.errors.read().splitlines() if line.strip()]
        return lines[-1] if lines else "it ended without a word, or was silent for too long"

    def end(self) -> None:
        """Close the process, which is this one and no other."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


def available_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Children started inside inherit the first `threads` cores, from their first instruction."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(available_cores()[:threads]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def worker_environment(threads: int) -> dict[str, str]:
    """This process's environment, with thread limits and without what would help one worker."""
    kept = {key: value for key, value in os.environ.items() if key not in DROPPED_VARIABLES}
    limits = dict.fromkeys(THREAD_VARIABLES, str(threads))
    return {**kept, **limits, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}


def flags_of(case: Case, threads: int, variant: str = "") -> list[str]:
    sizes = ",".join(str(size) for size in case.sizes)
    shape = ["--task", case.task, "--sizes", sizes, "--batch", str(case.batch)]
    phases = ["--steps", str(case.steps), "--nudged", str(case.nudged)]
    return [*shape, *phases, "--threads", str(threads), f"--variant={variant}"]


def start(entrant: Entrant, case: Case, threads: int, anima_python: str) -> Worker:
    """Start a row's worker and wait until its first training step is done."""
    path = HERE / "peers" / entrant.worker
    if not path.exists():
        raise WorkerError(f"peers/{entrant.worker} does not exist")
    python, reason = Path(anima_python), ""
    if entrant.environment:
        made, reason = environments.ensure(entrant.environment)
        if made is None:
            raise WorkerError(reason)
        python = made
    return Worker([str(python), str(path), *flags_of(case, threads, entrant.variant)], threads)


def calibrate(worker: Worker, seconds: float) -> int:
    """How many steps take about `seconds`; also warms the worker up."""
    steps = 1
    while True:
        spent = worker.ask(f"go {steps}")["seconds"]
        if spent > seconds / 3 or steps >= 2**16:
            return max(1, round(steps * seconds / spent))
        steps *= 2


class Race:
    """All rows of one case at one thread count, from start to summary."""

    def __init__(self, case: Case, threads: int, options: argparse.Namespace) -> None:
        self.case, self.threads, self.options = case, threads, options
        self.workers: dict[str, Worker] = {}
        self.counts: dict[str, int] = {}
        self.losses: dict[str, float] = {}
        self.turns: dict[str, list[dict[str, Any]]] = {}
        self.skipped: dict[str, str] = {}
        self.gemm: Worker | None = None
        self.rates: list[dict[str, tuple[float, float]]] = []

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self.workers.values(), self.gemm]:
            if worker is not None:
                worker.end()

    def drop(self, label: str, error: Exception) -> None:
        self.skipped[label] = str(error)
        say(f"  {label}: skipped, {error}")
        worker = self.workers.pop(label, None)
        if worker is not None:
            worker.end()

    def enter(self, entrant: Entrant) -> None:
        """Start one worker while all others wait, so that first calls are measured alone."""
        label = entrant.label
        try:
            worker = start(entrant, self.case, self.threads, self.options.anima_python)
            self.workers[label] = worker
            self.losses[label] = worker.ask("loss")["loss"]
            self.counts[label] = calibrate(worker, self.options.round_seconds)
            self.turns[label] = []
            say(f"  {label}: first call {worker.ready['first_call_seconds']:.2f} s")
        except (WorkerError, OSError, ValueError, KeyError) as error:
            self.drop(label, error)

    def enter_gemm(self) -> None:
        command = [self.options.anima_python, str(HERE / "gemm.py")]
        try:
            self.gemm = Worker([*command, *flags_of(self.case, self.threads)], self.threads)
        except (WorkerError, OSError, ValueError) as error:
            self.skipped["gemm"] = str(error)

    def round(self, number: int) -> None:
        """One turn each, in an order that rotates from round to round."""
        labels = list(self.workers)
        shift = number % max(1, len(labels))
        for label in labels[shift:] + labels[:shift]:
            try:
                self.turns[label].append(self.workers[label].ask(f"go {self.counts[label]}"))
            except (WorkerError, ValueError) as error:
                self.drop(label, error)
        if self.gemm is not None:
            with contextlib.suppress(WorkerError, ValueError):
                self.rates.append(self.gemm.ask("go 1")["gflops"])

    def summary(self) -> dict[str, Any]:
        bound = summarise_floor(self.case, self.rates)
        rows = {label: self.row(label, bound) for label in list(self.workers)}
        rows = {label: row for label, row in rows.items() if row is not None}
        targets = {row.label: row.target for row in entrants_of(self.case)}
        for label, row in rows.items():
            row["target"] = targets[label]
            row["reference_over_this"] = compare(rows.get(self.options.reference), row)
        return {
            "case": asdict(self.case),
            "threads": self.threads,
            "reference": self.options.reference,
            "floor": bound,
            "rows": rows,
            "skipped": self.skipped,
        }

    def row(self, label: str, bound: dict[str, Any]) -> dict[str, Any] | None:
        worker = self.workers[label]
        try:
            final, memory = worker.ask("loss")["loss"], worker.ask("stop")["peak_memory_mb"]
        except (WorkerError, ValueError) as error:
            self.drop(label, error)
            return None
        turns = self.turns[label]
        row = {**worker.ready, "peak_memory_mb": memory}
        row["loss"] = {"first": self.losses[label], "last": final}
        row["learns"] = final < self.losses[label]
        for unit, clock in zip(UNITS, ("seconds", "cpu_seconds"), strict=True):
            row[unit] = spread([turn["samples"] / turn[clock] for turn in turns])
        row["turns"] = turns
        if turns and self.rates:
            row["times_floor"] = {unit: bound[unit] / row[unit]["median"] for unit in UNITS}
        return row


def spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarise_floor(case: Case, rates: Sequence[dict[str, tuple[float, float]]]) -> dict[str, Any]:
    """FLOPs a sample, the best median matrix-product rate of the run, and what they allow."""
    names = list(rates[0]) if rates else []
    wall, cpu = (
        {name: statistics.median(rate[name][unit] for rate in rates) for name in names}
        for unit in range(2)
    )
    count = {
        kind: floor.flops(case.task, case.sizes, case.steps, case.nudged, hoisted=hoisted)
        for kind, hoisted in (("hoisted", True), ("recomputed", False))
    }
    peaks = [max(medians.values(), default=0.0) for medians in (wall, cpu)]
    return {
        "flops_per_sample": count,
        "gflops_median": {"wall": wall, "cpu": cpu},
        "gflops_peak": peaks[0],
        "peak_shape": max(wall, key=lambda name: wall[name], default=""),
        **{unit: peak * 1e9 / count["hoisted"] for unit, peak in zip(UNITS, peaks, strict=True)},
    }


def compare(reference: dict[str, Any] | None, row: dict[str, Any]) -> dict[str, Any] | None:
    """Ratio of medians, and the lowest and highest ratio of turns of the same round."""
    if reference is None or not reference["turns"] or not row["turns"]:
        return None

    def speed(turn: dict[str, Any]) -> float:
        return turn["samples"] / turn["seconds"]

    pairs = zip(reference["turns"], row["turns"], strict=False)
    same_round = [speed(ours) / speed(theirs) for ours, theirs in pairs]
    wall, cpu = (reference[unit]["median"] / row[unit]["median"] for unit in UNITS)
    return {
        "wall": wall,
        "cpu": cpu,
        "wall_min": min(same_round),
        "wall_max": max(same_round),
    }


def race(case: Case, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run one case at one thread count."""
    say(f"{case.name}, {threads} core(s)")
    load = load_average()
    with Race(case, threads, options) as contest:
        for entrant in entrants_of(case):
            if not options.peers or entrant.label in options.peers:
                contest.enter(entrant)
        contest.enter_gemm()
        for number in range(options.rounds):
            contest.round(number)
        return {**contest.summary(), "load_before": load, "load_after": load_average()}


def load_average() -> float:
    """Processes that wanted a core over the last minute; 0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


HEADER = (
    *("", "samples/s", "min", "max", "per CPU-s", "ratio", "by CPU", "target"),
    *("call 1 s", "build s", "peak MB", "x floor", "by CPU", "loss"),
)


def table_row(label: str, row: dict[str, Any]) -> tuple[str, ...]:
    wall, cpu = (row[unit] for unit in UNITS)
    ratio, target = row["reference_over_this"], row["target"]
    above = row.get("times_floor")
    rates = [f"{wall[key]:,.0f}" if wall else "-" for key in ("median", "min", "max")]
    met = "" if not ratio or target is None else " yes" if ratio["wall"] >= target else " NO"
    return (
        label,
        *rates,
        f"{cpu['median']:,.0f}" if cpu else "-",
        *(f"{ratio[unit]:.2f}" if ratio else "-" for unit in ("wall", "cpu")),
        f">={target:g}{met}" if target is not None else "",
        f"{row['first_call_seconds']:.2f}",
        f"{row['build_seconds']:.2f}",
        f"{row['peak_memory_mb']:,.0f}",
        *(f"{above[unit]:.2f}" if above else "-" for unit in UNITS),
        f"{row['loss']['first']:.3f} > {row['loss']['last']:.3f}" + ("" if row["learns"] else " !"),
    )


def title(result: dict[str, Any]) -> str:
    case, bound = result["case"], result["floor"]
    sizes = "-".join(str(size) for size in case["sizes"])
    steps = f"T {case['steps']}" + (f" + 2 x {case['nudged']}" if case["nudged"] else "")
    head = f"{case['name']}: {sizes}, batch {case['batch']}, {steps}, {result['threads']} core(s)"
    megaflops = {kind: count / 1e6 for kind, count in bound["flops_per_sample"].items()}
    counts = f"{megaflops['hoisted']:.2f} MFLOP a sample ({megaflops['recomputed']:.2f} unhoisted)"
    busy = busy_note(result)
    peak = f"{bound['gflops_peak']:.1f} GFLOP/s ({bound['peak_shape']})"
    reach = f"floor: {counts} at {peak} = {bound['samples_per_second']:,.0f} samples/s"
    return "\n".join(line for line in (head, reach, busy) if line)


def busy_note(result: dict[str, Any]) -> str:
    """A warning when other work was running at the start: spinning threads then lose most."""
    load, cores = result["load_before"], len(available_cores())
    if load <= BUSY_SHARE * cores:
        return ""
    return f"the load was {load:.1f} on {cores} cores before this: trust the ratios by CPU, if any"


def render(result: dict[str, Any]) -> str:
    """A table for people; `ratio` is the reference row over this one, "by CPU" in CPU time."""
    rows = [HEADER, *(table_row(label, row) for label, row in result["rows"].items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [title(result)]
    for row in rows:
        cells = zip(row[1:], widths[1:], strict=True)
        lines.append("  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in cells)]))
    lines += [f"{label}: skipped, {reason}" for label, reason in result["skipped"].items()]
    return "\n".join(lines)


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": len(available_cores()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(names)}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--peers", nargs="+", default=[], help="rows to run (default: all)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--round-seconds", type=float, default=0.75)
    parser.add_argument("--steps", type=int, help="settling steps, in place of the case's own")
    parser.add_argument("--reference", default="anima", help="the row the ratios are over")
    parser.add_argument("--anima-python", default=sys.executable, help="anima's interpreter")
    parser.add_argument("--out", type=Path, help="where to write JSON")
    options = parser.parse_args(arguments)
    labels = {row.label for row in (*PREDICTIVE, *EQPROP)}
    for given, known in ((options.cases, names), ([*options.peers, options.reference], labels)):
        for name in given:
            if name not in known:
                parser.error(f"unknown name {name!r}; choose from {', '.join(sorted(known))}")
    return options


def chosen_cases(options: argparse.Namespace) -> list[Case]:
    cases = [case for case in CASES if not options.cases or case.name in options.cases]
    return [replace(case, steps=options.steps) if options.steps else case for case in cases]


def main() -> None:
    options = parse()
    results: dict[str, Any] = {"machine": machine(), "rounds": options.rounds, "results": []}
    for case in chosen_cases(options):
        for threads in options.threads:
            if threads > len(available_cores()):
                say(f"{case.name}: skipped at {threads} cores, only {len(available_cores())} here")
                continue
            results["results"].append(race(case, threads, options))
            if options.out:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(results, indent=1) + "\n")
    print("\n\n".join(render(result) for result in results["results"]))


if __name__ == "__main__":
    main()
