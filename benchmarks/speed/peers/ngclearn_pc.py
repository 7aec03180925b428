"""Predictive coding with ngc-learn: cells and synapses wired into a circuit, advanced by processes.

The circuit is the one of the library's museum (its discriminative predictive coding exhibit): a
generative chain of rate cells, error cells, Hebbian synapses and feedback synapses, and beside it a
projection chain that shares the weights and gives the starting point. The default drives it as the
exhibit does, one compiled call for each settling step. Variant `scan` runs the T steps through the
process's own `scan`, as other exhibits do.
"""

from __future__ import annotations

from importlib.metadata import version
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from _protocol import Job, make_weights, serve
from ngclearn import Context, MethodProcess
from ngclearn.components import GaussianErrorCell, HebbianSynapse, RateCell, StaticSynapse
from ngclearn.utils.distribution_generator import DistributionGenerator as Draw
from ngcsimlib.global_state import stateManager

TIME_CONSTANT, LEARNING_RATE = 10.0, 1e-3
NOTE = (
    "reset; copy the weights to the projection and (transposed) to the feedback synapses; one "
    "projection pass; T steps of the advance process ({loop}; dt 1, tau 10, so rate .1; means "
    "tanh(z) W + b, every product computed again); then the evolve process: Hebbian updates "
    "through the synapses' own Adam (1e-3), gradients summed over the batch. The exhibit's "
    "clipping of labels, its energy read-out and its saving to disk are left out."
)


class Circuit:
    """The museum's circuit for any chain of sizes."""

    def __init__(self, job: Job) -> None:
        self.key = jax.random.PRNGKey(job.seed)
        # The exhibit leaves the cells' batch size at 1 and lets the arrays grow, which is also the
        # faster form; `scan` needs shapes that do not change.
        self.batch = job.batch if job.variant == "scan" else 1
        inner = job.sizes[1:-1]
        with Context("speed"):
            self.cells = [self.rate("z0", job.sizes[0], 0.0, "identity")]
            self.cells += [
                self.rate(f"z{i}", size, TIME_CONSTANT, "tanh") for i, size in enumerate(inner, 1)
            ]
            last = len(job.sizes) - 1
            self.cells.append(self.rate(f"z{last}", job.sizes[-1], 0.0, "identity"))
            self.mirror = [
                self.rate(f"q{i}", size, 0.0, "tanh" if 0 < i < last else "identity")
                for i, size in enumerate(job.sizes)
            ]
            self.errors = [
                GaussianErrorCell(f"e{i}", n_units=size, batch_size=self.batch)
                for i, size in enumerate(job.sizes[1:], 1)
            ]
            shapes = list(pairwise(job.sizes))
            self.synapses = [self.plastic(f"W{i}", shape) for i, shape in enumerate(shapes, 1)]
            self.feedback = [
                self.static(f"E{i}", shape[::-1]) for i, shape in enumerate(shapes[1:], 2)
            ]
            self.projections = [self.static(f"Q{i}", shape) for i, shape in enumerate(shapes, 1)]
            self.wire()
            self.compose()
        for synapse, weight in zip(self.synapses, make_weights(job), strict=True):
            synapse.weights.set(jnp.asarray(weight))

    def rate(self, name: str, size: int, tau: float, activation: str) -> RateCell:
        options = {"prior": ("gaussian", 0.0), "integration_type": "euler"}
        shape = {"n_units": size, "batch_size": self.batch}
        return RateCell(name, tau_m=tau, act_fx=activation, **shape, **options)

    def plastic(self, name: str, shape: tuple[int, int]) -> HebbianSynapse:
        start = {"weight_init": Draw.uniform(low=-0.1, high=0.1), "bias_init": Draw.constant(0.0)}
        rule = {"eta": LEARNING_RATE, "optim_type": "adam", "sign_value": -1.0, "w_bound": 0.0}
        return HebbianSynapse(
            name, shape=shape, batch_size=self.batch, key=self.key, **start, **rule
        )

    def static(self, name: str, shape: tuple[int, int]) -> StaticSynapse:
        start = {"weight_init": Draw.uniform(low=-0.1, high=0.1), "bias_init": Draw.constant(0.0)}
        return StaticSynapse(name, shape=shape, batch_size=self.batch, key=self.key, **start)

    def wire(self) -> None:
        for index, synapse in enumerate(self.synapses):
            error = self.errors[index]
            self.cells[index].zF >> synapse.inputs
            synapse.outputs >> error.mu
            self.cells[index + 1].z >> error.target
            self.cells[index].zF >> synapse.pre
            error.dmu >> synapse.post
        for index, synapse in enumerate(self.feedback, start=1):
            self.errors[index].dmu >> synapse.inputs
            synapse.outputs >> self.cells[index].j
            self.errors[index - 1].dtarget >> self.cells[index].j_td
        for index, synapse in enumerate(self.projections):
            self.mirror[index].zF >> synapse.inputs
            synapse.outputs >> self.mirror[index + 1].j

    def compose(self) -> None:
        chain = [self.mirror[0]]
        for synapse, cell in zip(self.projections, self.mirror[1:], strict=True):
            chain += [synapse, cell]
        moving = [*self.feedback, *self.cells, *self.synapses, *self.errors]
        self.advance = process("advance", moving, "advance_state")
        self.project = process("project", chain, "advance_state")
        self.evolve = process("evolve", self.synapses, "evolve")
        self.reset = process("reset", [*self.mirror, *self.cells, *self.errors], "reset")


def process(name: str, components: list[Any], method: str) -> MethodProcess:
    """A process that calls one method of each component in turn."""
    chain = MethodProcess(name=name)
    for component in components:
        chain = chain >> getattr(component, method)
    return chain


class NgcPredictive:
    """The circuit driven through projection, settling and plasticity on one fixed batch."""

    version = f"{version('ngclearn')} (ngcsimlib {version('ngcsimlib')}, jax {jax.__version__})"

    def __init__(self, job: Job, inputs: Any, labels: Any) -> None:
        self.scan = job.variant == "scan"
        self.note = NOTE.format(loop="one process.scan" if self.scan else "one compiled call each")
        self.inputs, self.labels = jnp.asarray(inputs), jnp.asarray(labels)
        self.steps = job.steps
        self.circuit = Circuit(job)
        rows = self.circuit.advance.pack_rows(job.steps, t=lambda tick: tick, dt=1.0)
        self.rows = jnp.asarray(rows)

    def begin(self) -> None:
        """Tie the copies of the weights, project, and start settling from the projection."""
        circuit = self.circuit
        circuit.reset.run()
        for plastic, copy in zip(circuit.synapses, circuit.projections, strict=True):
            copy.weights.set(plastic.weights.get())
            copy.biases.set(plastic.biases.get())
        for plastic, copy in zip(circuit.synapses[1:], circuit.feedback, strict=True):
            copy.weights.set(jnp.transpose(plastic.weights.get()))
        circuit.cells[0].j.set(self.inputs)
        circuit.mirror[0].j.set(self.inputs)
        circuit.project.run(t=0.0, dt=1.0)
        for cell, copy in zip(circuit.cells[1:-1], circuit.mirror[1:-1], strict=True):
            cell.z.set(copy.z.get())
        error = self.labels - circuit.mirror[-1].z.get()
        circuit.errors[-1].dmu.set(error)
        circuit.errors[-1].dtarget.set(-error)

    def step(self) -> None:
        circuit = self.circuit
        self.begin()
        circuit.cells[-1].j.set(self.labels)
        if self.scan:
            state, _ = circuit.advance.scan(self.rows)
            stateManager.set_state(state)
        else:
            for tick in range(self.steps):
                circuit.cells[0].j.set(self.inputs)
                circuit.cells[-1].j.set(self.labels)
                circuit.advance.run(t=tick, dt=1.0)
        circuit.evolve.run(t=self.steps, dt=1.0)

    def wait(self) -> None:
        jax.block_until_ready([synapse.weights.get() for synapse in self.circuit.synapses])

    def loss(self) -> float:
        self.begin()
        output = self.circuit.mirror[-1].z.get()
        return 0.5 * float(((self.labels - output) ** 2).sum(-1).mean())


if __name__ == "__main__":
    serve("ngclearn", NgcPredictive)
