"""How fast anima learns on this machine, beside the floor that its matrix products set.

The tasks are those of the comparison with other libraries in `benchmarks/speed`, which needs
their environments; this needs nothing.
"""

import dataclasses
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

from anima.circuit.hopfield import Hopfield
from anima.circuit.predictive import Predictive
from anima.learn.assigners import EquilibriumPropagation, PredictiveCoding
from anima.learn.costs import SquaredError
from anima.learn.learner import Learner
from anima.settle.solvers import Euler, EvenOdd


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing to train, and how long each phase settles."""

    kind: str
    sizes: tuple[int, ...]
    batch: int
    steps: int
    nudged: int = 0

    @property
    def flops(self) -> int:
        """Matrix-product operations of one example's training step, the input's drive once.

        Predictive: the sweep and the weight gradients, 4 S, and T steps up and down above the
        first layer, 4 T R. EqProp: 4 S and (T + 2 K) 4 R. S counts all weights, R all but the
        first layer's.
        """
        counts = [a * b for a, b in zip(self.sizes, self.sizes[1:], strict=False)]
        settling = self.steps + (2 * self.nudged if self.kind == "eqprop" else 0)
        return 4 * sum(counts) + 4 * settling * sum(counts[1:])


TASKS = {
    "predictive-t8": Task("predictive", (784, 256, 256, 10), 256, 8),
    "predictive-t20": Task("predictive", (784, 256, 256, 10), 256, 20),
    "eqprop-1": Task("eqprop", (784, 512, 10), 128, 20, 10),
    "eqprop-2": Task("eqprop", (784, 512, 512, 10), 128, 20, 10),
}


def learner(task: Task, seed: int = 0) -> Learner:
    """The learner that a task times: Adam 1e-3 for predictive coding, SGD .05 for EqProp."""
    key = jax.random.key(seed)
    if task.kind == "predictive":
        assigner = PredictiveCoding(solver=Euler(0.1), max_steps=task.steps)
        circuit = Predictive.mlp(task.sizes, activation="tanh", key=key)
        return Learner(circuit, assigner, SquaredError(), optax.adam(1e-3))
    assigner = EquilibriumPropagation(
        0.2, "centred", EvenOdd(), free_steps=task.steps, nudged_steps=task.nudged
    )
    circuit = Hopfield.mlp(task.sizes, key=key)
    return Learner(circuit, assigner, SquaredError(), optax.sgd(0.05))


def measure(name: str, *, seed: int = 0, seconds: float = 2.0) -> dict[str, Any]:
    """Times a task for about `seconds`: samples a second, first call, memory, share of the peak."""
    task = TASKS[name]
    made = learner(task, seed)
    images = jax.random.uniform(jax.random.key(seed + 1), (task.batch, task.sizes[0]))
    labels = jax.random.randint(jax.random.key(seed + 2), (task.batch,), 0, task.sizes[-1])
    batch = ({"input": images}, jax.nn.one_hot(labels, task.sizes[-1]))
    step = made.compiled()
    state = made.init(jax.random.key(seed))
    begun = time.perf_counter()
    state, info = jax.block_until_ready(step(state, batch))
    first = time.perf_counter() - begun
    count, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        state, info = step(state, batch)
        jax.block_until_ready(info.cost)
        count += 1
    rate = count * task.batch / spent
    peak = gemm_peak()
    return {
        "name": name,
        "samples_per_second": rate,
        "first_call_seconds": first,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "gemm_gflops": peak / 1e9,
        "floor_samples_per_second": peak / task.flops,
        "share_of_peak": rate * task.flops / peak,
    }


def gemm_peak(size: int = 1536, seconds: float = 0.5) -> float:
    """The machine's float32 matrix-product rate for a large square, in FLOP/s."""
    square = jnp.ones((size, size))
    multiply = jax.jit(jnp.matmul)
    multiply(square, square).block_until_ready()
    count, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        multiply(square, square).block_until_ready()
        count += 1
    return count * 2 * size**3 / spent
