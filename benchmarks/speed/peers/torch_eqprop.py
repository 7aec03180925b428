"""Equilibrium propagation as a first PyTorch script does it: eager, a Python loop, no autograd.

Every settling step computes every product again, the clamped input's x W1 included; all layers move
at once from the old state. Variant `hoisted` is the same script with x W1 computed once a training
step, to show how much of a ratio is only that.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from _protocol import Job, make_weights, serve

RATE, NUDGE, LEARNING_RATE = 0.5, 0.2, 0.05
NOTE = (
    "T free steps from zero, then K steps at +beta and K at -beta (centred: two nudged phases, "
    "beta .2, both from the free state); synchronous Euler steps (dt .5), hidden units clipped to "
    "[0, 1], linear output, cost 1/2 |s - y|^2, x W1 computed {drive}; then one SGD step "
    "(.05) on weights and biases from the contrast of the two nudged states."
)


class NaiveEqProp:
    """A layered symmetric network on one fixed batch."""

    version = torch.__version__

    def __init__(self, job: Job, inputs: Any, labels: Any) -> None:
        torch.set_num_threads(job.threads)
        self.inputs, self.labels = torch.from_numpy(inputs), torch.from_numpy(labels)
        self.weights = [torch.from_numpy(weight) for weight in make_weights(job)]
        self.biases = [torch.zeros(size) for size in job.sizes[1:]]
        self.free_steps, self.nudged_steps = job.steps, job.nudged
        self.hoisted, self.drive = job.variant == "hoisted", None
        self.note = NOTE.format(drive="once" if self.hoisted else "at every step")

    def bottom_up(self, layer: int, below: Any) -> Any:
        if layer == 0 and self.drive is not None:
            return self.drive
        return below @ self.weights[layer] + self.biases[layer]

    def relax(self, states: list[Any], steps: int, nudge: float) -> list[Any]:
        last = len(states) - 1
        for _ in range(steps):
            below = [self.inputs, *states[:-1]]
            moved = []
            for layer, state in enumerate(states):
                force = self.bottom_up(layer, below[layer]) - state
                if layer < last:
                    force = force + states[layer + 1] @ self.weights[layer + 1].T
                    moved.append((state + RATE * force).clamp(0.0, 1.0))
                else:
                    if nudge:
                        force = force + nudge * (self.labels - state)
                    moved.append(state + RATE * force)
            states = moved
        return states

    def free(self) -> list[Any]:
        self.drive = None
        if self.hoisted:
            self.drive = self.bottom_up(0, self.inputs)
        zeros = [torch.zeros(len(self.inputs), len(bias)) for bias in self.biases]
        return self.relax(zeros, self.free_steps, 0.0)

    @torch.no_grad()
    def step(self) -> None:
        free = self.free()
        up = [self.inputs, *self.relax(free, self.nudged_steps, NUDGE)]
        down = [self.inputs, *self.relax(free, self.nudged_steps, -NUDGE)]
        scale = LEARNING_RATE / (2 * NUDGE * len(self.inputs))
        pairs = zip(pairwise(up), pairwise(down), self.weights, self.biases, strict=True)
        for (up_in, up_out), (down_in, down_out), weight, bias in pairs:
            weight += scale * (up_in.T @ up_out - down_in.T @ down_out)
            bias += scale * (up_out - down_out).sum(0)

    def wait(self) -> None:
        """Eager PyTorch on a processor is never late."""

    @torch.no_grad()
    def loss(self) -> float:
        return 0.5 * float(((self.labels - self.free()[-1]) ** 2).sum(1).mean())


if __name__ == "__main__":
    serve("torch", NaiveEqProp)
