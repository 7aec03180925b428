"""Predictive coding with pcx: a Module with value nodes, one jitted function for a training step.

Built the way its tutorials build it: energy of one example, mapped over the batch with a mask,
T inference steps written as a Python loop inside the jitted function. Variant `scan` runs the same
step inside the library's own `scan`, which keeps compile time flat in T.
"""

from __future__ import annotations

from importlib.metadata import version
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pcx.functional as pxf
import pcx.nn as pxnn
import pcx.predictive_coding as pxc
import pcx.utils as pxu
from _protocol import Job, make_weights, serve

RATE, LEARNING_RATE = 0.1, 1e-3
NOTE = (
    "one pxf.jit function: forward start, T inference steps ({loop}), each value_and_grad of the "
    "vmapped Gaussian energy (means act(z W + b), tanh hidden, linear output frozen to the label) "
    "and an optax.sgd step (.1) on the value nodes; then gradients of the layers, scaled by 1/B, "
    "and an optax.adam step (1e-3). A forward call before the first training step fills the value "
    "nodes, as its tutorial advises, and counts as build time."
)
PER_EXAMPLE = pxu.M(pxc.VodeParam | pxc.VodeParam.Cache).to((None, 0))
CACHE = pxc.VodeParam.Cache


class Net(pxc.EnergyModule):
    """Linear layers with a value node after each."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = [pxnn.Linear(below, above) for below, above in pairwise(sizes)]
        self.vodes = [pxc.Vode() for _ in self.layers]
        self.vodes[-1].h.frozen = True

    def __call__(self, x: jax.Array, y: jax.Array | None) -> jax.Array:
        for layer, vode in zip(self.layers[:-1], self.vodes[:-1], strict=True):
            x = vode(jnp.tanh(layer(x)))
        self.vodes[-1](self.layers[-1](x))
        if y is not None:
            self.vodes[-1].set("h", y)
        return self.vodes[-1].get("u")


@pxf.vmap(PER_EXAMPLE, in_axes=(0, 0), out_axes=0)
def forward(x: jax.Array, y: jax.Array | None, *, model: Net) -> jax.Array:
    return model(x, y)


@pxf.vmap(PER_EXAMPLE, in_axes=(0,), out_axes=(None, 0), axis_name="batch")
def energy(x: jax.Array, *, model: Net) -> tuple[jax.Array, jax.Array]:
    output = model(x, None)
    return jax.lax.psum(model.energy(), "batch"), output


def infer(x: jax.Array, *, model: Net, states: pxu.Optim) -> None:
    """One descent step of the free value nodes."""
    free = pxu.M_hasnot(pxc.VodeParam, frozen=True).to([False, True])
    with pxu.step(model, clear_params=CACHE):
        _, gradient = pxf.value_and_grad(free, has_aux=True)(energy)(x, model=model)
    states.step(model, gradient["model"])


def settle_unrolled(steps: int, x: jax.Array, *, model: Net, states: pxu.Optim) -> None:
    for _ in range(steps):
        infer(x, model=model, states=states)


def settle_scanned(steps: int, x: jax.Array, *, model: Net, states: pxu.Optim) -> None:
    def body(_: Any, x: jax.Array, *, model: Net, states: pxu.Optim) -> tuple[jax.Array, None]:
        infer(x, model=model, states=states)
        return x, None

    model.clear_params(CACHE)
    pxf.scan(body, xs=None, length=steps)(x, model=model, states=states)


def make_train_step(settle: Any) -> Any:
    """One training step on a batch, jitted; the number of inference steps is static."""

    @pxf.jit(static_argnums=0)
    def train(
        steps: int, x: jax.Array, y: jax.Array, *, model: Net, states: pxu.Optim, layers: pxu.Optim
    ) -> None:
        model.train()
        with pxu.step(model, pxc.STATUS.INIT, clear_params=CACHE):
            forward(x, y, model=model)
        with pxu.step(model):
            states.init(pxu.M_hasnot(pxc.VodeParam, frozen=True)(model))
            settle(steps, x, model=model, states=states)
            states.clear()
        weights = pxu.M(pxnn.LayerParam).to([False, True])
        with pxu.step(model, clear_params=CACHE):
            _, gradient = pxf.value_and_grad(weights, has_aux=True)(energy)(x, model=model)
        layers.step(model, gradient["model"], scale_by=1.0 / len(x))

    return train


class PcxPredictive:
    """The model with its two optimisers, on one fixed batch."""

    version = f"{version('pcx')} (jax {jax.__version__})"

    def __init__(self, job: Job, inputs: Any, labels: Any) -> None:
        scan = job.variant == "scan"
        self.note = NOTE.format(loop="pxf.scan" if scan else "unrolled by a Python loop")
        self.inputs, self.labels = jnp.asarray(inputs), jnp.asarray(labels)
        self.steps, self.model = job.steps, Net(job.sizes)
        self.set_weights(job)
        self.predict()
        rule = pxu.M(pxnn.LayerParam)(self.model)
        self.layers = pxu.Optim(lambda: optax.adam(LEARNING_RATE), rule)
        self.states = pxu.Optim(lambda: optax.sgd(RATE))
        self.train = make_train_step(settle_scanned if scan else settle_unrolled)

    def set_weights(self, job: Job) -> None:
        """Start where every peer starts; pcx keeps matrices as outputs x inputs."""
        for layer, weight in zip(self.model.layers, make_weights(job), strict=True):
            layer.nn.weight.set(jnp.asarray(weight.T))
            layer.nn.bias.set(jnp.zeros(weight.shape[1]))

    def predict(self) -> jax.Array:
        with pxu.step(self.model, pxc.STATUS.INIT, clear_params=CACHE):
            output = forward(self.inputs, self.labels, model=self.model)
        with pxu.step(self.model):
            return output

    def step(self) -> None:
        options = {"model": self.model, "states": self.states, "layers": self.layers}
        self.train(self.steps, self.inputs, self.labels, **options)

    def wait(self) -> None:
        jax.block_until_ready([layer.nn.weight.get() for layer in self.model.layers])

    def loss(self) -> float:
        return 0.5 * float(((self.labels - self.predict()) ** 2).sum(-1).mean())


if __name__ == "__main__":
    serve("pcx", PcxPredictive)
