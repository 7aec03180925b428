"""Predictive coding with fabricpc: its graph, its jitted training step, a loop of our own.

`fabricpc.training.make_train_step` is the library's door for custom loops; `train` would compile
anew at every call. Variants: the default uses `Linear` nodes, as its examples do (local gradients
by autodiff); `explicit` uses its hand-differentiated `LinearExplicitGrad`.
"""

from __future__ import annotations

from importlib.metadata import version
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax
from _protocol import Job, make_weights, serve
from fabricpc.core.activations import IdentityActivation, TanhActivation
from fabricpc.core.inference import InferenceSGD
from fabricpc.core.initializers import XavierInitializer
from fabricpc.core.topology import Edge
from fabricpc.graph_assembly import TaskMap, graph
from fabricpc.graph_initialization import initialize_params
from fabricpc.nodes import IdentityNode, Linear
from fabricpc.nodes.linear_explicit_grad import LinearExplicitGrad
from fabricpc.training import make_train_step

RATE, LEARNING_RATE = 0.1, 1e-3
NOTE = (
    "make_train_step: forward start, T steps of InferenceSGD (rate .1) in a fori_loop over {kind} "
    "nodes with means act(z W + b), tanh hidden, identity output with Gaussian energy clamped to "
    "the label; local weight gradients, one optax.adam step (1e-3). Also returns two energies and "
    "the final state; parameters are not donated."
)


def build_graph(job: Job) -> Any:
    """A chain of nodes, input first."""
    node = LinearExplicitGrad if job.variant == "explicit" else Linear
    chain = [IdentityNode(shape=(job.sizes[0],), name="input")]
    for index, size in enumerate(job.sizes[1:], start=1):
        last = index == len(job.sizes) - 1
        activation = IdentityActivation() if last else TanhActivation()
        options = {"activation": activation, "weight_init": XavierInitializer()}
        chain.append(node(shape=(size,), name=f"layer{index}", **options))
    return graph(
        nodes=chain,
        edges=[Edge(source=below, target=above.slot("in")) for below, above in pairwise(chain)],
        task_map=TaskMap(x=chain[0], y=chain[-1]),
        inference=InferenceSGD(eta_infer=RATE, infer_steps=job.steps),
    )


def with_weights(parameters: Any, job: Job) -> Any:
    """The same parameters with every peer's starting matrices (biases start at zero already)."""
    nodes = dict(parameters.nodes)
    for index, weight in enumerate(make_weights(job), start=1):
        node = nodes[f"layer{index}"]
        matrices = {edge: jnp.asarray(weight) for edge in node.weights}
        nodes[f"layer{index}"] = node._replace(weights=matrices)
    return parameters._replace(nodes=nodes)


class FabricPredictive:
    """The library's step with its parameters and optimiser state, on one fixed batch."""

    version = f"{version('fabricpc')} (jax {jax.__version__})"

    def __init__(self, job: Job, inputs: Any, labels: Any) -> None:
        self.note = NOTE.format(kind="LinearExplicitGrad" if job.variant else "Linear")
        self.structure = build_graph(job)
        self.batch = {"x": jnp.asarray(inputs), "y": jnp.asarray(labels)}
        self.key = jax.random.key(job.seed)
        self.parameters = with_weights(initialize_params(self.structure, self.key), job)
        optimiser = optax.adam(LEARNING_RATE)
        self.memory = optimiser.init(self.parameters)
        self.train = make_train_step(self.structure, optimiser)

    def step(self) -> None:
        answer = self.train(self.parameters, self.memory, self.batch, self.key)
        self.parameters, self.memory = answer[0], answer[1]

    def wait(self) -> None:
        jax.block_until_ready((self.parameters, self.memory))

    def loss(self) -> float:
        """A plain forward pass through the learnt parameters."""
        activity = self.batch["x"]
        names = [name for name in self.structure.nodes if name != "input"]
        for name in sorted(names):
            node = self.parameters.nodes[name]
            activity = activity @ next(iter(node.weights.values())) + node.biases["b"]
            activity = activity if name == f"layer{len(names)}" else jnp.tanh(activity)
        return 0.5 * float(((self.batch["y"] - activity) ** 2).sum(-1).mean())


if __name__ == "__main__":
    serve("fabricpc", FabricPredictive)
