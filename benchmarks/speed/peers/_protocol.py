"""The line protocol every speed worker speaks.

A worker is one process in one peer's own environment. It stays blocked on standard input while
others are timed, so a driver can alternate between peers in time: on a shared machine only figures
taken turn by turn may be compared. Only the standard library and NumPy are used here, because this
file runs in every environment.

Each line on stdin is a command, each answer is one JSON object on one line of the real stdout
(whatever a peer prints goes to stderr):

    (start)  {"ready": true, "peer", "version", "first_call_seconds", "note", ...}
    go N     {"steps": N, "seconds", "cpu_seconds", "samples"}    N training steps, waited for
    loss     {"loss": value}    1/2 |target - output|^2, mean over the batch, never timed
    stop     {"peak_memory_mb": value}    and the process ends
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol


@dataclass(frozen=True)
class Job:
    """What to train: the same numbers for every peer."""

    task: str
    sizes: tuple[int, ...]
    batch: int
    steps: int
    nudged: int
    threads: int
    variant: str
    seed: int


class Trainer(Protocol):
    """One model with its data. `step` may return before the work is done; `wait` may not."""

    version: str
    note: str

    def step(self) -> None: ...

    def wait(self) -> None: ...

    def loss(self) -> float: ...


def parse_job(arguments: list[str] | None = None) -> Job:
    """Read a job from command-line flags."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=("predictive", "eqprop"), required=True)
    parser.add_argument("--sizes", required=True, help="comma separated, input first")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True, help="settling steps (free phase)")
    parser.add_argument("--nudged", type=int, default=10, help="steps of each nudged phase")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", default="", help="another form of the same peer")
    parser.add_argument("--seed", type=int, default=0)
    flags = vars(parser.parse_args(arguments))
    flags["sizes"] = tuple(int(size) for size in flags["sizes"].split(","))
    return Job(**flags)


def make_data(job: Job) -> tuple[Any, Any]:
    """One fixed batch: inputs uniform on [0, 1], random one-hot labels, both float32."""
    import numpy as np

    generator = np.random.default_rng(job.seed)
    inputs = generator.random((job.batch, job.sizes[0]), dtype=np.float32)
    labels = generator.integers(0, job.sizes[-1], job.batch)
    return inputs, np.eye(job.sizes[-1], dtype=np.float32)[labels]


def make_weights(job: Job) -> list[Any]:
    """Matrices (inputs x outputs) drawn from U(+-1/sqrt(inputs)), for peers that take their own."""
    import numpy as np

    generator = np.random.default_rng(job.seed + 1)
    bounds = [(shape, np.float32(shape[0] ** -0.5)) for shape in pairwise(job.sizes)]
    return [(generator.random(s, dtype=np.float32) * 2 - 1) * bound for s, bound in bounds]


def peak_memory_mb() -> float:
    """Largest resident set of this process, in MiB.

    Linux keeps the parent's mark in `ru_maxrss` across `exec`, so the mark of the address space
    itself (VmHWM) is read where there is one.
    """
    try:
        with open("/proc/self/status") as status:
            marks = [line.split()[1] for line in status if line.startswith("VmHWM")]
        return int(marks[0]) / 1024
    except (OSError, IndexError):
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def timed(trainer: Trainer, steps: int) -> tuple[float, float]:
    """Wall and CPU seconds (all threads) of `steps` training steps, to the end of the last."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        trainer.step()
    trainer.wait()
    return time.perf_counter() - wall, time.process_time() - cpu


def private_stdout() -> Any:
    """Keep the real stdout for answers, and send everything else printed to stderr."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return channel


def converse(
    channel: Any, answer: dict[str, Any], commands: dict[str, Callable[[str], dict[str, Any]]]
) -> None:
    """Send `answer`, then obey commands until `stop` or the end of input."""
    while True:
        print(json.dumps(answer), file=channel, flush=True)
        word, _, rest = sys.stdin.readline().strip().partition(" ")
        if word not in commands:
            print(json.dumps({"peak_memory_mb": peak_memory_mb()}), file=channel, flush=True)
            return
        answer = commands[word](rest)


def serve(peer: str, build: Callable[[Job, Any, Any], Trainer]) -> None:
    """Build the peer's trainer, time its first call, and answer until told to stop."""
    channel, job = private_stdout(), parse_job()
    inputs, labels = make_data(job)
    memory = peak_memory_mb()
    begun = time.perf_counter()
    trainer = build(job, inputs, labels)
    built = time.perf_counter() - begun
    first, _ = timed(trainer, 1)
    second, _ = timed(trainer, 1)
    ready = {
        "ready": True,
        "peer": peer,
        "variant": job.variant,
        "version": trainer.version,
        "build_seconds": built,
        "first_call_seconds": first,
        "second_call_seconds": second,
        "import_memory_mb": memory,
        "note": trainer.note,
    }

    def go(count: str) -> dict[str, Any]:
        seconds, cpu_seconds = timed(trainer, int(count))
        samples = int(count) * job.batch
        times = {"seconds": seconds, "cpu_seconds": cpu_seconds}
        return {"steps": int(count), **times, "samples": samples}

    converse(channel, ready, {"go": go, "loss": lambda _: {"loss": float(trainer.loss())}})
