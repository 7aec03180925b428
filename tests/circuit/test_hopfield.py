"""The symmetric circuit against its formulas, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from anima import EvenOdd, Hopfield, settle

SIZES = [3, 5, 4, 2]
EDGES = ["input->h1", "h1->h2", "h2->output"]


def drawn(getkey):
    circuit = Hopfield.mlp(SIZES, key=getkey())
    biases = {n.name: jax.random.normal(getkey(), n.shape) / 3 for n in circuit.nodes}
    circuit = Hopfield(circuit.nodes, circuit.synapses, biases)
    state = {n.name: jax.random.normal(getkey(), n.shape) for n in circuit.nodes}
    return circuit, state


def arrays(circuit, state):
    names = [n.name for n in circuit.nodes]
    weights = [np.asarray(circuit.synapses[name].weight) for name in EDGES]
    return (
        [np.asarray(state[n]) for n in names],
        weights,
        [np.asarray(circuit.biases[n]) for n in names],
    )


def test_energy_force_and_plasticity(getkey):
    circuit, state = drawn(getkey)
    s, w, b = arrays(circuit, state)
    pairs = list(zip(s, w, s[1:], strict=False))
    energy = sum(x @ x / 2 - c @ x for x, c in zip(s, b, strict=True))
    energy -= sum(x @ weight @ y for x, weight, y in pairs)
    np.testing.assert_allclose(circuit.energy(state), energy, rtol=1e-12)
    force, change = circuit.force(state), circuit.plasticity(state)
    for i, node in enumerate(circuit.nodes):
        drive = b[i] + (s[i - 1] @ w[i - 1] if i else 0) + (s[i + 1] @ w[i].T if i < 3 else 0)
        np.testing.assert_allclose(force[node.name], drive - s[i], rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(change.biases[node.name], -s[i])
    for name, (x, _, y) in zip(EDGES, pairs, strict=True):
        np.testing.assert_allclose(change.synapses[name].weight, -np.outer(x, y))


def test_hidden_units_are_bounded_and_the_ends_are_not():
    circuit = Hopfield.mlp(SIZES, key=jax.random.key(0))
    wild = {n.name: jnp.linspace(-3.0, 3.0, n.shape[0]) for n in circuit.nodes}
    held = circuit.project(wild)
    for name in ("h1", "h2"):
        np.testing.assert_array_equal(held[name], np.clip(wild[name], 0, 1))
    for name in ("input", "output"):
        np.testing.assert_array_equal(held[name], wild[name])


def test_start_is_the_forward_pass_from_pixels_and_the_way_back_from_a_label(getkey):
    circuit, state = drawn(getkey)
    s, w, b = arrays(circuit, state)
    clip = lambda x: np.clip(x, 0, 1)
    h1 = clip(s[0] @ w[0] + b[1])
    h2 = clip(h1 @ w[1] + b[2])
    want = {"h1": h1, "h2": h2, "output": h2 @ w[2] + b[3]}
    got = circuit.start({"input": state["input"]})
    jax.tree.map(np.testing.assert_allclose, {n: got[n] for n in want}, want)
    h2 = clip(s[3] @ w[2].T + b[2])
    h1 = clip(h2 @ w[1].T + b[1])
    want = {"h2": h2, "h1": h1, "input": h1 @ w[0].T + b[0]}
    got = circuit.start({"output": state["output"]})
    jax.tree.map(np.testing.assert_allclose, {n: got[n] for n in want}, want)


def test_the_initial_weights_are_uniform_in_the_recipes_range():
    circuit = Hopfield.mlp([400, 300, 10], key=jax.random.key(0))
    weight = np.asarray(circuit.synapses["input->h1"].weight)
    bound = 0.7 / np.sqrt(400)
    assert bound * 0.999 < np.abs(weight).max() <= bound
    np.testing.assert_allclose(weight.std(), bound / np.sqrt(3), rtol=0.01)
    assert all(not np.any(b) for b in circuit.biases.values())


def test_silenced_units_leave_the_network(getkey):
    """Survivors at gain g are the network without the silent units, its drives times g."""
    circuit, _ = drawn(getkey)
    quiet = circuit.silence({"h1": 0.5}, key=jax.random.key(1))
    kept = np.asarray(quiet.gain["h1"]) > 0
    assert 0 < kept.sum() < kept.size
    x = jax.random.normal(getkey(), (3,))
    found = settle(quiet, {"input": x}, solver=EvenOdd(), tol=1e-12, max_steps=500)
    s, w, b = arrays(circuit, found.state)
    clip = lambda x: np.clip(x, 0, 1)
    h1 = clip(s[0] @ w[0] + b[1] + s[2] @ w[1].T)
    h2 = clip(2 * (s[1] * kept) @ w[1] + b[2] + s[3] @ w[2].T)
    np.testing.assert_allclose(s[1][kept], h1[kept], atol=1e-10)
    np.testing.assert_allclose(s[2], h2, atol=1e-10)
    change = quiet.plasticity(found.state)
    assert not np.any(np.asarray(change.synapses["input->h1"].weight)[:, ~kept])
    assert not np.any(np.asarray(change.synapses["h1->h2"].weight)[~kept])
    assert not np.any(np.asarray(change.biases["h1"])[~kept])
