"""The machine's float32 matrix-product rate, for the shapes a job multiplies and a large one.

A floor in seconds needs a peak in FLOP/s, and on a shared machine the peak moves: so this is also a
worker that speaks the peers' protocol (each `go` measures every shape once more), and is measured
turn by turn with them. Threads are limited from outside, by affinity and environment.

    python benchmarks/speed/gemm.py --task predictive --sizes 784,256,256,10 --batch 256 --steps 8
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent / "peers"))

from _protocol import Job, converse, parse_job, private_stdout

SQUARE = 1536
SECONDS_EACH = 0.08
Shape = tuple[int, int, int]


def shapes_of(job: Job) -> list[Shape]:
    """(batch, inner, outer) of each layer wide enough to matter, and a large square."""
    layers = [(job.batch, below, above) for below, above in pairwise(job.sizes) if above >= 64]
    return [*dict.fromkeys(layers), (SQUARE, SQUARE, SQUARE)]


def operands(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    rows, inner, columns = shape
    left = generator.standard_normal((rows, inner), dtype=np.float32)
    return left, generator.standard_normal((inner, columns), dtype=np.float32)


def numpy_product(shape: Shape) -> Callable[[], Any]:
    left, right = operands(shape)
    out = np.empty((shape[0], shape[2]), np.float32)
    return lambda: np.matmul(left, right, out=out)


def jax_product(shape: Shape) -> Callable[[], Any]:
    import jax

    left, right = (jax.device_put(side) for side in operands(shape))
    multiply = jax.jit(lambda a, b: a @ b)
    return lambda: multiply(left, right).block_until_ready()


BACKENDS = {"numpy": numpy_product, "jax": jax_product}


def rate(
    product: Callable[[], Any], shape: Shape, seconds: float = SECONDS_EACH
) -> tuple[float, float]:
    """GFLOP per wall second and per CPU second, over about `seconds` of calls, each waited for."""
    product()
    begun, cpu, count = time.perf_counter(), time.process_time(), 0
    while (wall := time.perf_counter() - begun) < seconds or count == 0:
        product()
        count += 1
    work = count * 2 * shape[0] * shape[1] * shape[2] / 1e9
    return work / wall, work / (time.process_time() - cpu)


def make_measure(job: Job) -> Callable[[], dict[str, tuple[float, float]]]:
    """A function that measures every backend and shape once; a missing JAX is left out."""
    calls: dict[str, tuple[Callable[[], Any], Shape]] = {}
    for backend, make in BACKENDS.items():
        for shape in shapes_of(job):
            name = f"{backend} {shape[0]}x{shape[1]} @ {shape[1]}x{shape[2]}"
            try:
                calls[name] = (make(shape), shape)
            except ImportError:
                continue
    return lambda: {name: rate(*call) for name, call in calls.items()}


def main() -> None:
    measure = make_measure(parse_job())
    if sys.stdin.isatty():
        for name, value in measure().items():
            print(f"{name}: {value[0]:.1f} GFLOP/s, {value[1]:.1f} a CPU second")
        return
    channel = private_stdout()
    measure()
    ready = {"ready": True, "peer": "gemm"}
    converse(channel, ready, {"go": lambda _: {"gflops": measure()}})


if __name__ == "__main__":
    main()
