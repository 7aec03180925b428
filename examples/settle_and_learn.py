"""Settle a circuit, look at what is left unsettled, and learn digits by equilibrium propagation.

python examples/settle_and_learn.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp

import anima

data = anima.load_data("digits")
images = jnp.asarray(data.train_images.reshape(-1, data.pixels))
targets = jax.nn.one_hot(data.train_labels, data.classes)

# What settles: 64 pixels, 128 hidden units and 10 outputs, with symmetric synapses between them.
circuit = anima.Hopfield.mlp([data.pixels, 128, data.classes], key=jax.random.key(0))
settle = eqx.filter_jit(anima.settle)


def show(circuit):
    """Clamps one image and lets the rest settle: the residual is what still moves at the end."""
    answer = settle(circuit, {"input": images[0]}, solver=anima.EvenOdd(), tol=1e-4)
    print(f"{answer.steps} steps, energy {answer.energy:.3f}, residual {answer.residual:.1e}")


show(circuit)

# How it changes: by the contrast of two nudged phases, in plain gradient descent.
learner = anima.Learner(
    circuit,
    anima.EquilibriumPropagation(beta=0.2, free_steps=15, nudged_steps=8),
    anima.CrossEntropy(kappa=10.0),
    anima.optimiser(circuit, rate=0.3, schedule="cosine", epochs=20, per_epoch=50),
)
state = learner.init(jax.random.key(1))
sweep = eqx.filter_jit(learner.sweep)
for epoch in range(20):
    order = jax.random.permutation(jax.random.key(epoch), len(images)).reshape(-1, 20)
    state, info = sweep(state, images, targets, order)
show(state.circuit)

tests = jnp.asarray(data.test_images.reshape(-1, data.pixels))
answers = eqx.filter_jit(learner.predict)(state.circuit, {"input": tests}).argmax(-1)
print(f"test accuracy {jnp.mean(answers == data.test_labels):.3f}")
