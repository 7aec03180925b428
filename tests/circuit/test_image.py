"""Convolution and pooling against the matrices that they are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima import Hopfield, Predictive
from anima.circuit.graph import Dense, Node
from anima.circuit.image import Conv, Convolution, Pool, spectral
from anima.core.errors import InputError

KEY = jax.random.key(0)
CASES = [
    (3, 1, 0),
    (3, 1, 1),
    (2, 2, 0),
    (3, 2, 2),
    (1, 3, 0),
    (5, 1, 2),
]  # kernel, stride, padding


def drawn(getkey, kernel=3, stride=1, padding=1, channels=(2, 3)):
    return Conv(jax.random.normal(getkey(), (kernel, kernel, *channels)), stride, padding)


def toeplitz(conv, shape):
    """The dense (pre, post) matrix of a convolution, entry by entry from its definition."""
    kernel, step, around = np.asarray(conv.weight), conv.stride, conv.padding
    (kh, kw, _, channels), (h, w, inward) = kernel.shape, shape
    rows, columns = ((n + 2 * around - k) // step + 1 for n, k in ((h, kh), (w, kw)))
    matrix = np.zeros((h, w, inward, rows, columns, channels))
    for p, q, u, v in itertools.product(*map(range, (rows, columns, kh, kw))):
        y, x = p * step + u - around, q * step + v - around
        if 0 <= y < h and 0 <= x < w:
            matrix[y, x, :, p, q, :] += kernel[u, v]
    return matrix.reshape(h * w * inward, -1), (rows, columns, channels)


def pooled(image, kind, size, stride):
    """Each window's largest or mean value, window by window."""
    rows, columns = ((n - size) // stride + 1 for n in image.shape[:2])
    join = {"max": np.max, "average": np.mean}[kind]
    out = np.empty((rows, columns, image.shape[2]))
    for p, q in itertools.product(range(rows), range(columns)):
        window = image[p * stride : p * stride + size, q * stride : q * stride + size]
        out[p, q] = join(window, (0, 1))
    return out


@pytest.mark.parametrize(("kernel", "stride", "padding"), CASES)
def test_a_convolution_is_its_matrix_and_feedback_the_transpose(kernel, stride, padding, getkey):
    shape = (6, 5, 2)
    conv = drawn(getkey, kernel, stride, padding)
    matrix, after = toeplitz(conv, shape)
    image, back = jax.random.normal(getkey(), shape), jax.random.normal(getkey(), after)
    drive, pull = jax.vjp(conv, image)
    assert drive.shape == after
    np.testing.assert_allclose(drive.ravel(), image.ravel() @ matrix, atol=1e-12)
    np.testing.assert_allclose(pull(back)[0].ravel(), matrix @ back.ravel(), atol=1e-12)
    true = np.linalg.norm(matrix, 2)
    assert true <= float(conv.norm()) <= np.sqrt(kernel) * 1.5 * true


def test_a_convolutional_circuit_is_the_dense_one_with_its_matrix(getkey):
    """Energy and every force, of both families."""
    conv = drawn(getkey)
    matrix, after = toeplitz(conv, (4, 4, 2))
    state = {"input": jax.random.normal(getkey(), (4, 4, 2))}
    state["output"] = jax.random.normal(getkey(), after)
    flat = {name: value.ravel() for name, value in state.items()}
    bias = jax.random.normal(getkey(), after)

    def circuit(family, synapse, values, bias):
        nodes = (
            Node("input", values["input"].shape),
            Node("output", values["output"].shape, ("input",)),
        )
        more = {"precision": {"output": 2.0}} if family is Predictive else {}
        biases = {"input": jnp.zeros_like(values["input"]), "output": bias}
        return family(nodes, {"input->output": synapse}, biases, **more)

    for family in (Hopfield, Predictive):
        image = circuit(family, conv, state, bias)
        dense = circuit(family, Dense(jnp.asarray(matrix)), flat, bias.ravel())
        np.testing.assert_allclose(image.energy(state), dense.energy(flat), rtol=1e-12)
        want = dense.force(flat)
        for name, got in image.force(state).items():
            np.testing.assert_allclose(got.ravel(), want[name], atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (2, 1), (2, 3)])
def test_a_pool_reads_its_windows(kind, size, stride, getkey):
    conv, image = drawn(getkey), jax.random.normal(getkey(), (7, 6, 2))
    pool = Pool(conv, kind, size, stride)
    want = pooled(np.asarray(conv(image)), kind, size, stride)
    np.testing.assert_allclose(pool(image), want, atol=1e-13)
    other = image + jax.random.normal(getkey(), image.shape)
    moved = np.linalg.norm(pool(other) - pool(image)) / np.linalg.norm(other - image)
    steepest = np.linalg.norm(jax.jacobian(pool)(image).reshape(want.size, image.size), 2)
    assert max(moved, steepest) <= float(pool.norm())
    assert float(pool.norm()) / float(conv.norm()) == pytest.approx(
        np.ceil(size / stride) / (size if kind == "average" else 1)
    )


def test_what_comes_back_through_a_max_pool_goes_to_the_winner_only(getkey):
    """Feedback in the symmetric circuit is K^T of the unpooled activity."""
    conv = drawn(getkey)
    pool = Pool(conv)
    image, sent = jax.random.normal(getkey(), (4, 6, 2)), jax.random.normal(getkey(), (2, 3, 3))
    drive, unpooled = np.asarray(conv(image)), np.zeros((4, 6, 3))
    for p, q, c in itertools.product(range(2), range(3), range(3)):
        window = drive[2 * p : 2 * p + 2, 2 * q : 2 * q + 2, c]
        u, v = divmod(int(window.argmax()), 2)
        unpooled[2 * p + u, 2 * q + v, c] = sent[p, q, c]
    _, pull = jax.vjp(pool, image)
    want = toeplitz(conv, image.shape)[0] @ unpooled.ravel()
    np.testing.assert_allclose(pull(sent)[0].ravel(), want, atol=1e-12)


def test_equals_in_a_window_share_what_comes_back():
    image = jnp.zeros((2, 2, 1)).at[0].set(1.0)
    conv = Conv(jnp.ones((1, 1, 1, 1)))
    _, pull = jax.vjp(Pool(conv), image)
    np.testing.assert_allclose(pull(jnp.ones((1, 1, 1)))[0][..., 0], [[0.5, 0.5], [0, 0]])


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (2, 4, 4)])
def test_the_spectral_bound_is_close_and_above(shape, getkey):
    draw = lambda: jax.random.normal(getkey(), shape)
    matrix = jax.lax.complex(draw(), draw())
    true = np.linalg.norm(np.asarray(matrix), 2, (-2, -1))
    bound = np.asarray(spectral(matrix))
    assert np.all(true <= bound) and np.all(bound <= 4 ** (1 / 32) * true)
    assert float(jnp.max(spectral(jnp.zeros(shape)))) < 1e-100


def test_a_stack_has_the_shapes_of_its_layers():
    layers = [Convolution(3, 5, padding=2, pool="max"), Convolution(4, 3, 2), 7, 2]
    circuit = Hopfield.conv((12, 10, 1), layers, key=KEY)
    assert [(n.name, n.shape) for n in circuit.nodes] == [
        ("input", (12, 10, 1)),
        ("h1", (6, 5, 3)),
        ("h2", (2, 2, 4)),
        ("h3", (7,)),
        ("output", (2,)),
    ]
    weight = np.asarray(circuit.synapses["input->h1"].inner.weight)
    assert weight.shape == (5, 5, 1, 3)
    assert 0.9 * 0.7 / 5 < np.abs(weight).max() <= 0.7 / 5
    weight = np.asarray(Predictive.conv((12, 10, 1), layers, key=KEY).synapses["h1->h2"].weight)
    assert weight.std() == pytest.approx(1 / np.sqrt(27), rel=0.25)


def test_a_stack_of_dense_layers_is_the_multilayer_circuit():
    for family in (Hopfield, Predictive):
        dense = family.conv((3,), [4, 2], activation="tanh", key=KEY)
        again = family.mlp([3, 4, 2], activation="tanh", key=KEY)
        assert jax.tree.structure(dense) == jax.tree.structure(again)
        jax.tree.map(np.testing.assert_array_equal, dense, again)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Hopfield.conv((6, 6, 1), [Convolution(2, 7), 2], key=KEY), "window of 7 does"),
        (lambda: Hopfield.conv((6, 6, 1), [Convolution(2, 6, pool="max")], key=KEY), "window of 2"),
        (lambda: Hopfield.conv((6, 6, 1), [4, Convolution(2, 3)], key=KEY), "before dense layers"),
        (lambda: Predictive.conv((6, 6, 1), [0], key=KEY), "positive integers"),
        (lambda: Predictive.conv((6, 6, 1), [], key=KEY), "at least two"),
        (lambda: Convolution(0, 3), "channels is 0"),
        (lambda: Convolution(2, 3, stride=0), "stride is 0"),
        (lambda: Convolution(2, 3, padding=-1), "padding is -1"),
        (lambda: Convolution(2, 3, pool="maximum"), "did you mean 'max'"),
        (lambda: Convolution(2, 3, pool="max", pool_stride=0), "pool_stride is 0"),
        (lambda: Conv(jnp.ones((3, 3, 1, 2)), stride=0), "stride is 0"),
        (lambda: Conv(jnp.ones((3, 3, 1, 2)))(jnp.ones((5, 5, 2))), "1 channels was given"),
        (lambda: Conv(jnp.ones((3, 3, 1, 2)))(jnp.ones(25)), r"rate of shape \(25,\)"),
        (lambda: Conv(jnp.ones((3, 3, 1, 2)))(jnp.ones((2, 5, 1))), "does not fit on 2 pixels"),
        (lambda: Pool(Dense(jnp.ones((3, 2))), "sum"), "unknown pool 'sum'"),
        (lambda: Pool(Dense(jnp.ones((3, 2))), size=0), "size is 0"),
        (lambda: Pool(Dense(jnp.ones((3, 2))))(jnp.ones(3)), r"drive of shape \(2,\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
