"""A life of five tasks, two digits each: what is learnt later undoes what came before, unless it is
dreamt of. No image is kept: of each digit a few Gaussians over a code of 30 numbers remain.

python examples/tasks_without_images.py
"""

import jax
import jax.numpy as jnp

import anima
from anima.learn.memory import Concepts, Memory, Reader, learn_code
from anima.run.continual import Dreams, Rhythm, live

CODE, RANK, CONCEPTS = 30, 8, 3
data = anima.load_data("digits")
images = jnp.asarray(data.train_images.reshape(-1, data.pixels))
tests = jnp.asarray(data.test_images.reshape(-1, data.pixels))
groups = [data.train_labels // 2 == task for task in range(5)]

# How images are seen: through a linear code, learnt on the first task by Oja's rule.
writer = learn_code(images[groups[0]], CODE, epochs=200, key=jax.random.key(0))
none = jnp.zeros(0)
concepts = Concepts(none.astype(int), none, jnp.zeros((0, CODE)), jnp.zeros((0, RANK, CODE)), none)
memory = Memory(Reader(writer, "output", "input"), writer, concepts, jnp.asarray(0.01))
tasks = [(memory.see(images[group]), data.train_labels[group]) for group in groups]


def make(circuit, steps, batch):
    """What learns in each phase of the life: equilibrium propagation, by plain SGD."""
    return anima.Learner(
        circuit,
        anima.EquilibriumPropagation(beta=0.2, free_steps=15, nudged_steps=6),
        anima.CrossEntropy(kappa=10.0),
        anima.optimiser(circuit, rate=0.1, schedule="cosine", per_epoch=steps),
    )


rhythm = Rhythm(fresh=10, replayed=5, wake=10, sleep=20, asleep=50)
for name, replay in (("naive", None), ("dreams", Dreams(memory, CONCEPTS, RANK))):
    circuit = anima.Hopfield.mlp([data.pixels, 128, data.classes], key=jax.random.key(1))
    circuit, _ = live(
        circuit, make, tasks, replay, rhythm, classes=data.classes, key=jax.random.key(2)
    )
    answers = make(circuit, 1, 1).predict(circuit, {"input": memory.see(tests)}).argmax(-1)
    print(f"{name}: accuracy {jnp.mean(answers == data.test_labels):.3f} among all ten digits")
