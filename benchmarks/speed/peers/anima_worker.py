"""anima itself, as one more worker: `Learner.compiled`, the step that a user would call."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import jax
from _protocol import Job, serve

from anima.app.bench import Task, learner

NOTES = {
    "predictive": (
        "forward start; output clamped to the label; T Euler steps (.1) on the hidden activities; "
        "one Adam step (1e-3) on all weights and biases; all of Info (residual, energy) computed"
    ),
    "eqprop": (
        "T even-odd free steps, then K at +beta and K at -beta (.2) side by side; one SGD step "
        "(.05) on the centred contrast; all of Info (residual, energy) computed"
    ),
}


class AnimaTrainer:
    """One compiled learning step over a fixed batch."""

    version = version("anima")

    def __init__(self, job: Job, inputs: Any, labels: Any) -> None:
        made = learner(Task(job.task, job.sizes, job.batch, job.steps, job.nudged), job.seed)
        self.note = NOTES[job.task]
        self.batch = ({"input": jax.numpy.asarray(inputs)}, jax.numpy.asarray(labels))
        self.state = made.init(jax.random.key(job.seed))
        self.compiled = made.compiled()

    def step(self) -> None:
        self.state, self.info = self.compiled(self.state, self.batch)

    def wait(self) -> None:
        jax.block_until_ready(self.state)

    def loss(self) -> float:
        self.step()
        return float(self.info.cost)


def build(job: Job, inputs: Any, labels: Any) -> AnimaTrainer:
    return AnimaTrainer(job, inputs, labels)


if __name__ == "__main__":
    serve("anima", build)
