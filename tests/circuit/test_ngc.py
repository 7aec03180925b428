"""Neural generative coding against the papers' formulas, written out in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima import NGC, InputError, Predictive
from anima.circuit.graph import Dense, Node
from anima.circuit.ngc import lateral, modulation
from anima.core.functions import activation

SIZES = [3, 4, 6, 2]
NAMES = ["input", "h1", "h2", "output"]
EDGES = ["input->h1", "h1->h2", "h2->output"]
COEFFICIENTS = dict(beta_e=0.7, leak=0.03, gamma_e=0.9, laplace=0.02)
OPTIONS = [
    dict(),
    dict(gate=True),
    dict(rate_error=False),
    dict(rate_error=False, gate=True),
    dict(tied=True),
    dict(group=2),
    dict(modulate=True),
    dict(gate=True, modulate=True, group=2, bias=True),
]


def drawn(getkey, **options):
    circuit = NGC.mlp(SIZES, sigma=None, output="sigmoid", key=getkey(), **COEFFICIENTS, **options)
    state = {n.name: jax.random.normal(getkey(), n.shape) for n in circuit.nodes}
    return circuit, state


def by_hand(circuit, state, options):
    """Errors, forces, dW and dE of SPEC section 3, layer by layer."""
    z = [np.asarray(state[name]) for name in NAMES]
    w = [np.asarray(circuit.synapses[e].weight) for e in EDGES]
    e_back = [a.T for a in w]
    if circuit.feedback:
        e_back = [np.asarray(circuit.feedback[e].weight) for e in EDGES]
    tanh, one = np.tanh, np.ones_like
    phi = [z[0], tanh(z[1]), tanh(z[2]), z[3]]
    slope = [one(z[0]), 1 - tanh(z[1]) ** 2, 1 - tanh(z[2]) ** 2, one(z[3])]
    last = 1 / (1 + np.exp(-(phi[2] @ w[2])))
    zbar = [None, phi[0] @ w[0], phi[1] @ w[1], last]
    g_slope = [None, 1, 1, last * (1 - last)]
    represented = phi if options.get("rate_error", True) else z
    errors = [None] + [(represented[i] - zbar[i]) / (2 * 0.7) for i in (1, 2, 3)]
    gate = options.get("gate", False)
    passed = [None] + [errors[i] * (g_slope[i] if gate else 1) for i in (1, 2, 3)]
    forces = []
    for i in range(4):
        own = -errors[i] if i else 0 * z[0]
        heard = passed[i + 1] @ e_back[i] if i < 3 else 0 * z[3]
        if gate:
            heard = heard * slope[i]
            own = own * slope[i] if options.get("rate_error", True) else own
        force = own + heard - 0.03 * z[i] - 0.02 * np.sign(z[i])
        if "group" in options and i in (1, 2):
            groups = np.arange(len(z[i])) // 2
            v = np.where(groups[:, None] == groups, 0.1, 0) + np.eye(len(z[i])) * (0.15 - 0.1)
            force = force - phi[i] @ v
        forces.append(force)

    def scaled(a):
        if not options.get("modulate"):
            return 1
        mass = np.abs(a).sum(0)
        return np.minimum(2 * mass / mass.max(), 1)

    dw = [np.outer(phi[i], passed[i + 1]) * scaled(w[i]) for i in range(3)]
    de = [0.9 * np.outer(passed[i + 1], phi[i]) * scaled(e_back[i]) for i in range(3)]
    return errors[1:], forces, dw, de


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "paper")
def test_errors_forces_and_plasticity(options, getkey):
    circuit, state = drawn(getkey, **options)
    errors, forces, dw, de = by_hand(circuit, state, options)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    look = lambda c, z: (c.errors(z), c.force(z), c.plasticity(z), c.discrepancy(z))
    found, force, change, discrepancy = eqx.filter_jit(look)(circuit, state)
    assert set(found) == set(NAMES[1:])
    for name, error in zip(NAMES[1:], errors, strict=True):
        close(found[name], error)
    for name, want in zip(NAMES, forces, strict=True):
        close(force[name], want)
    for name, want in zip(EDGES, dw, strict=True):
        close(change.synapses[name].weight, -want)
    assert set(change.feedback) == set(() if options.get("tied") else EDGES)
    for name, want in zip(EDGES if change.feedback else (), de, strict=False):
        close(change.feedback[name].weight, -want)
    close(discrepancy, sum(np.sum(e**2) for e in errors))


def test_energy_is_the_discrepancy_and_the_priors(getkey):
    circuit, state = drawn(getkey)
    z = np.concatenate([np.asarray(value) for value in state.values()])
    want = 0.7 * float(circuit.discrepancy(state))
    want += 0.03 * z @ z / 2 + 0.02 * np.abs(z).sum()
    np.testing.assert_allclose(circuit.energy(state), want, rtol=1e-12)


def test_biases_learn_the_error_at_their_node(getkey):
    circuit, state = drawn(getkey, bias=True)
    errors = circuit.errors(state)
    for name, change in circuit.plasticity(state).biases.items():
        np.testing.assert_allclose(change, -errors[name], rtol=1e-12)


@pytest.mark.parametrize("output", ["identity", "sigmoid"])
def test_equals_predictive_coding_when_tied_gated_and_without_leak(output, getkey):
    """E = W^T, 2 beta_e = 1, gate, no leak, error on z: force and plasticity of F at Sigma = I."""
    pc = Predictive.mlp(SIZES, output=output, key=getkey())
    ngc = NGC(pc.nodes, pc.synapses, {}, pc.biases, leak=0.0, rate_error=False, gate=True)
    state = {n.name: jax.random.normal(getkey(), n.shape) for n in pc.nodes}
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)
    jax.tree.map(close, ngc.force(state), pc.force(state))
    for field in ("synapses", "biases"):
        got, want = (getattr(c.plasticity(state), field) for c in (ngc, pc))
        jax.tree.map(close, got, want)
    constant = 0.5 * np.log(2 * np.pi) * sum(SIZES[1:])
    close(ngc.energy(state) + constant, pc.energy(state))
    clamp = {"input": state["input"]}
    jax.tree.map(close, ngc.start(clamp), pc.start(clamp))


def test_columns_are_clipped_to_the_bound_and_only_shrunk(getkey):
    circuit, _ = drawn(getkey, bound=0.5)
    for before, after in (
        (circuit.synapses, circuit.normalise().synapses),
        (circuit.feedback, circuit.normalise().feedback),
    ):
        for name, synapse in before.items():
            norm = np.linalg.norm(synapse.weight, axis=0)
            want = np.asarray(synapse.weight) * np.minimum(1, 0.5 / norm)
            np.testing.assert_allclose(after[name].weight, want, rtol=1e-12)
    norms = [np.linalg.norm(s.weight, axis=0) for s in circuit.synapses.values()]
    assert any((n > 0.5).any() for n in norms), "nothing was clipped: this test sees nothing"
    free, _ = drawn(getkey)
    assert free.normalise() is free


def test_clipping_a_zero_column_gives_zeros():
    nodes = (Node("input", (2,)), Node("output", (2,), ("input",)))
    circuit = NGC(nodes, {"input->output": Dense(jnp.zeros((2, 2)))}, {}, {}, bound=1.0)
    np.testing.assert_array_equal(circuit.normalise().synapses["input->output"].weight, 0)


def test_modulation_of_zero_weights_is_finite():
    assert np.all(np.isfinite(modulation(jnp.zeros((3, 2)))))


def test_lateral_synapses_are_blocks():
    got = lateral(Node("h", (6,)), 3, 0.15, 0.1)
    block = [[0.15, 0.1, 0.1], [0.1, 0.15, 0.1], [0.1, 0.1, 0.15]]
    want = np.zeros((6, 6))
    want[:3, :3] = want[3:, 3:] = block
    np.testing.assert_allclose(got, want, rtol=1e-15)


def test_a_silent_unit_settles_at_its_prediction_and_does_not_learn(getkey):
    """Nobody hears it and it hears of nobody's error, gated or not."""
    for gate in (False, True):
        circuit, state = drawn(getkey, gate=gate, rate_error=False)
        quiet = circuit.silence({"h1": 0.5}, key=jax.random.key(1))
        dead = np.asarray(quiet.gain["h1"]) == 0
        assert 0 < dead.sum() < dead.size
        state = state | {"h1": quiet.prediction("h1", state)}
        heard = np.asarray(quiet.force(state)["h1"])
        leak = -0.03 * state["h1"] - 0.02 * jnp.sign(state["h1"])
        np.testing.assert_allclose(heard[dead], leak[dead], atol=1e-15)
        assert not np.any(np.isclose(heard[~dead], leak[~dead], atol=1e-6))
        change = quiet.plasticity(state)
        assert not np.any(np.asarray(change.synapses["input->h1"].weight)[:, dead])
        assert not np.any(np.asarray(change.synapses["h1->h2"].weight)[dead])


@pytest.mark.parametrize("gate", [False, True])
def test_curvature_bounds_the_stiffness_of_a_node(gate, getkey):
    """-d force_n / d z_n at rates of slope at most 1 (exactly so for identity rates)."""
    circuit = NGC.mlp(
        SIZES,
        activation="identity",
        sigma=None,
        beta_e=0.2,
        leak=0.1,
        group=2,
        gate=gate,
        key=getkey(),
    )
    state = {n.name: jax.random.normal(getkey(), n.shape) for n in circuit.nodes}
    look = lambda c, z: (jax.jacfwd(c.force)(z), c.curvature())
    slopes, bound = eqx.filter_jit(look)(circuit, state)
    for name in NAMES:
        stiffness = np.linalg.norm(slopes[name][name], 2)
        assert stiffness <= float(jnp.max(bound[name])) * (1 + 1e-12), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(beta_e=0.0), "beta_e is 0.0"),
        (dict(beta_e=-1.0), "beta_e is -1.0"),
        (dict(bound=0.0), "bound is 0.0"),
        (dict(group=4), "lateral group 4 must divide the 6 units of 'h2'"),
        (dict(group=-1), "lateral group -1"),
        (dict(output="sigmoyd"), "did you mean 'sigmoid'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        NGC.mlp(SIZES, key=jax.random.key(0), **options)


def test_feedback_must_name_every_synapse(getkey):
    circuit, _ = drawn(getkey)
    with pytest.raises(InputError, match="feedback must name every synapse"):
        NGC(circuit.nodes, circuit.synapses, {"h1->h2": circuit.feedback["h1->h2"]}, {})


def test_activation_names_reach_the_nodes(getkey):
    circuit, _ = drawn(getkey)
    assert circuit.node("h1").activation is activation("tanh")
    assert circuit.node("output").transfer is activation("sigmoid")
    assert circuit.node("output").activation is activation("identity")


@pytest.mark.parametrize(("sigma_e", "spread"), [(None, 1 / 10), (0.5, 0.5)])
def test_error_synapses_begin_at_the_scale_of_what_they_run_against(sigma_e, spread, getkey):
    circuit = NGC.mlp([100, 100, 2], sigma=None, sigma_e=sigma_e, key=getkey())
    back = circuit.feedback["h1->output"].weight
    assert back.shape == (2, 100)
    np.testing.assert_allclose(np.std(back), spread, rtol=0.2)
