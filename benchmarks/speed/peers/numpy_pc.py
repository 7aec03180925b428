"""Predictive coding in plain NumPy: what one careful page of array code reaches.

Variants: the default computes the clamped input's drive once; `recompute` computes it again at
every settling step, as most first versions do.
"""

from __future__ import annotations

import numpy as np
from _protocol import Job, make_weights, serve

RATE = 0.1
LEARNING_RATE = 1e-3
NOTE = (
    "forward start; T Euler steps (rate .1) on the hidden activities of a Gaussian energy with "
    "means tanh(z W + b), last layer linear, output clamped to the label; then one Adam step "
    "(1e-3) on all weights and biases. {drive}"
)


class Adam:
    """Adam with its moments updated in place."""

    def __init__(self, parameters: list[np.ndarray]) -> None:
        self.parameters = parameters
        self.first = [np.zeros_like(value) for value in parameters]
        self.second = [np.zeros_like(value) for value in parameters]
        self.count = 0

    def step(self, gradients: list[np.ndarray]) -> None:
        self.count += 1
        root = (1 - 0.999**self.count) ** 0.5
        scale, floor = np.float32(LEARNING_RATE * root / (1 - 0.9**self.count)), 1e-8 * root
        moments = zip(self.parameters, gradients, self.first, self.second, strict=True)
        for value, gradient, first, second in moments:
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient * gradient - second)
            value -= scale * first / (np.sqrt(second) + np.float32(floor))


class NumpyPredictive:
    """A tanh perceptron trained by settling, on one fixed batch."""

    version = np.__version__

    def __init__(self, job: Job, inputs: np.ndarray, labels: np.ndarray) -> None:
        self.inputs, self.labels, self.steps = inputs, labels, job.steps
        self.weights = make_weights(job)
        self.biases = [np.zeros(size, np.float32) for size in job.sizes[1:]]
        self.adam = Adam([*self.weights, *self.biases])
        self.recompute = job.variant == "recompute"
        drive = "every step" if self.recompute else "once a training step"
        self.note = NOTE.format(drive=f"The input's drive x W1 is computed {drive}.")

    def mean(self, layer: int, below: np.ndarray) -> np.ndarray:
        drive = below @ self.weights[layer] + self.biases[layer]
        return drive if layer == len(self.weights) - 1 else np.tanh(drive)

    def forward(self) -> list[np.ndarray]:
        means = [self.mean(0, self.inputs)]
        for layer in range(1, len(self.weights)):
            means.append(self.mean(layer, means[-1]))
        return means

    def local_errors(
        self, states: list[np.ndarray], first_mean: np.ndarray
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Errors z - mean, and the same before the activation's slope was left out."""
        last = len(self.weights) - 1
        means = [self.mean(0, self.inputs) if self.recompute else first_mean]
        means += [self.mean(layer, states[layer - 1]) for layer in range(1, last + 1)]
        errors = [state - mean for state, mean in zip(states, means, strict=True)]
        hidden = zip(errors[:-1], means[:-1], strict=True)
        return errors, [error * (1 - mean * mean) for error, mean in hidden] + [errors[-1]]

    def step(self) -> None:
        start = self.forward()
        first_mean, states = start[0], [*start[:-1], self.labels]
        for _ in range(self.steps):
            errors, deltas = self.local_errors(states, first_mean)
            for layer in range(len(states) - 1):
                pull = deltas[layer + 1] @ self.weights[layer + 1].T
                states[layer] = states[layer] - RATE * (errors[layer] - pull)
        _, deltas = self.local_errors(states, first_mean)
        below = [self.inputs, *states[:-1]]
        scaled = [delta * np.float32(-1 / len(self.inputs)) for delta in deltas]
        slopes = [z.T @ delta for z, delta in zip(below, scaled, strict=True)]
        self.adam.step(slopes + [delta.sum(0) for delta in scaled])

    def wait(self) -> None:
        """NumPy is never late."""

    def loss(self) -> float:
        return 0.5 * float(((self.labels - self.forward()[-1]) ** 2).sum(1).mean())


if __name__ == "__main__":
    serve("numpy", NumpyPredictive)
