"""Memory: its statistics are what they say, and its dreams come from them."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from anima import NGC, Hopfield, InputError, NGCRule
from anima.circuit.graph import Dense
from anima.learn.memory import (
    Concepts,
    Reader,
    factorise,
    learn_code,
    learn_concepts,
    learn_generator,
    learn_writer,
    remember,
)

pytestmark = pytest.mark.promotes  # optax


def blobs(count=240, pixels=12, seed=0):
    """Three classes of images on a plane of two styles, within [0, 1]."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = np.random.default_rng(7).uniform(0.3, 0.7, (3, pixels))
    styles = np.random.default_rng(8).normal(size=(2, pixels)) / 15
    images = centres[labels] + draw.normal(size=(count, 2)) @ styles
    images = images + draw.normal(size=images.shape) / 25
    return jnp.asarray(images), labels


@pytest.fixture(scope="module")
def memory():
    with jax.enable_x64(True):
        images, labels = blobs()
        code = learn_code(images, 4, epochs=60, batch=8, rate=1.0, key=jax.random.key(0))
        return remember(
            Reader(code, "output", "input"),
            code,
            images,
            labels,
            concepts=2,
            rank=2,
            key=jax.random.key(1),
        )


def test_the_code_is_the_principal_subspace(memory):
    images, _ = blobs()
    weight = memory.writer.synapses["input->output"].weight
    np.testing.assert_allclose(weight @ weight.T, np.eye(4), atol=0.02)
    centred = np.asarray(images - images.mean(0))
    best = (np.linalg.svd(centred, compute_uv=False)[4:] ** 2).sum() / centred.size
    left = float(jnp.mean((memory.see(images) - images) ** 2))
    assert left < 1.1 * best < 0.3 * float(jnp.var(centred))


def test_factorise_is_probabilistic_pca():
    root = np.random.default_rng(0).normal(size=(6, 6))
    values, vectors = np.linalg.eigh(root @ root.T)
    values = np.asarray([0.1, 0.15, 0.2, 1.0, 2.0, 4.0])
    covariance = jnp.asarray(vectors * values @ vectors.T)
    factor, floor = factorise(covariance, 3, iterations=3000)
    np.testing.assert_allclose(floor, 0.15, rtol=1e-6)
    top = vectors[:, 3:] * (values[3:] - 0.15) @ vectors[:, 3:].T
    np.testing.assert_allclose(factor.T @ factor, top, atol=1e-6)


@pytest.fixture
def concepts():
    draw = np.random.default_rng(3)
    return Concepts(
        jnp.asarray([4, 4, 7], jnp.int32),
        jnp.asarray([30.0, 10.0, 20.0]),
        jnp.asarray(draw.normal(size=(3, 4))),
        jnp.asarray(draw.normal(size=(3, 2, 4))),
        jnp.asarray([0.1, 0.3, 0.2]),
    )


def covariance(concepts, k):
    return np.asarray(concepts.factor[k].T @ concepts.factor[k] + concepts.floor[k] * np.eye(4))


@pytest.mark.slow
def test_a_concept_is_the_gaussian_it_says(concepts):
    code = np.asarray([0.3, -1.0, 0.5, 2.0])
    want = [
        np.log(concepts.count[k])
        + stats.multivariate_normal(concepts.mean[k], covariance(concepts, k)).logpdf(code)
        for k in range(3)
    ]
    found = np.asarray(concepts.joint(jnp.asarray(code)))
    np.testing.assert_allclose(found - found[0], np.asarray(want) - want[0], rtol=1e-9)
    for k in range(3):
        precision = concepts.precision(jnp.asarray(k))
        np.testing.assert_allclose(precision @ covariance(concepts, k), np.eye(4), atol=1e-9)


def test_draws_have_a_concepts_moments(concepts):
    noise = jax.random.normal(jax.random.key(0), (20_000, 6)) * np.sqrt(0.5)
    found = np.asarray(jax.jit(jax.vmap(lambda n: concepts.draw(jnp.asarray(1), n)))(noise))
    np.testing.assert_allclose(found.mean(0), concepts.mean[1], atol=0.05)
    np.testing.assert_allclose(np.cov(found.T), covariance(concepts, 1) / 2, atol=0.1)


def test_concepts_come_to_mind_as_often_as_they_were_met(concepts):
    labels = jnp.where(jnp.arange(4000) < 3990, 4, 7)
    picked = np.asarray(concepts.pick(labels, key=jax.random.key(0)))
    assert set(picked[3990:]) == {2}
    shares = np.bincount(picked[:3990], minlength=3) / 3990
    np.testing.assert_allclose(shares, [0.75, 0.25, 0], atol=0.03)


def test_concepts_are_found_where_examples_are():
    draw = np.random.default_rng(0)
    means = np.asarray([[0.0, 5.0, 0.0], [8.0, 0.0, 0.0]])
    side = draw.integers(0, 2, 400)
    codes = means[side] + draw.normal(size=(400, 3)) * [1.0, 0.5, 0.1]
    labels = np.where(np.arange(400) < 390, 0, 1)  # a small class beside a large one
    found = learn_concepts(
        jnp.asarray(codes), labels, concepts=2, rank=1, blend=0.0, key=jax.random.key(0)
    )
    np.testing.assert_array_equal(found.label, [0, 0, 1, 1])
    assert float(jnp.sum(found.count[:2])) == 390 and float(jnp.sum(found.count[2:])) == 10
    order = np.argsort(found.mean[:2, 0])
    np.testing.assert_allclose(np.asarray(found.mean)[:2][order], means, atol=0.3)
    for k in range(2):
        mine = codes[:390][side[:390] == np.flatnonzero(order == k)[0]]
        total = jnp.sum(found.factor[k] ** 2) + 3 * found.floor[k]
        np.testing.assert_allclose(total, np.trace(np.cov(mine.T, bias=True)), rtol=1e-6)


def moments(memory, label):
    """Mean and covariance of the pixels that a memory holds of a label, worked out exactly."""
    concepts, weight = memory.concepts, memory.writer.synapses["input->output"].weight
    mine = np.flatnonzero(np.asarray(concepts.label) == label)
    share = np.asarray(concepts.count)[mine] / np.asarray(concepts.count)[mine].sum()
    means, unit = np.asarray(concepts.mean)[mine], np.eye(concepts.mean.shape[1])
    inner = [concepts.factor[k].T @ concepts.factor[k] + concepts.floor[k] * unit for k in mine]
    mean, second = share @ means, np.einsum("k,kij->ij", share, inner)
    spread = second + np.einsum("k,ki,kj->ij", share, means - mean, means - mean)
    return mean @ weight + memory.writer.biases["output"], weight.T @ spread @ weight


def test_what_is_remembered_are_the_moments_of_what_was_seen(memory):
    images, labels = blobs()
    weight, bias = memory.writer.synapses["input->output"].weight, memory.writer.biases["output"]
    for label in range(3):
        seen = np.asarray(memory.read(images[labels == label]) @ weight + bias)  # before clipping
        mean, spread = moments(memory, label)
        np.testing.assert_allclose(mean, seen.mean(0), rtol=1e-9)
        # two directions and a floor of four, a fifth of them shared: not the covariance itself
        np.testing.assert_allclose(np.sqrt(np.diag(spread)), seen.std(0), atol=0.015)


def test_a_dream_settles_where_memory_says(memory):
    """Langevin's moments, and those of the draw, are the memory's own.

    Not those of fresh images of the class: eighty examples were remembered, whose own mean is off
    by a standard error of .017, and no dream knows better.
    """
    keys = jax.random.split(jax.random.key(0), 600)
    dream = eqx.filter_jit(jax.vmap(lambda key: memory.dream(jnp.asarray(1), steps=400, key=key)))
    settled = np.asarray(dream(keys))
    drawn = np.asarray(memory.imagine(jnp.ones(600, jnp.int32), key=jax.random.key(1)))
    mean, spread = moments(memory, 1)
    deviation = np.sqrt(np.diag(spread))
    for found in (settled, drawn):
        # four standard errors, and what clipping to [0, 1] takes away
        four = 4 * deviation / np.sqrt(600)
        assert np.all(np.abs(found.mean(0) - mean) < four + 2e-3)
        assert np.all(np.abs(found.std(0) - deviation) < four / np.sqrt(2) + 2e-3)
    taken = np.asarray(memory.density(jnp.asarray(settled), 3)).argmax(-1)
    assert np.mean(taken == 1) > 0.99
    frames, path = eqx.filter_jit(memory.film)(jnp.asarray(1), steps=400, key=keys[7])
    np.testing.assert_allclose(frames[-1], settled[7], rtol=1e-9)
    assert frames.shape == (401, 12) and path.energy.shape == (401,)


@pytest.mark.slow
def test_the_unseen_half_is_completed(memory):
    images, labels = blobs(30, seed=9)
    seen = jnp.arange(12) < 6
    done, named = eqx.filter_jit(jax.vmap(partial(memory.complete, seen=seen)))(images)
    np.testing.assert_array_equal(done[:, :6], images[:, :6])
    np.testing.assert_array_equal(named, labels)
    off = float(jnp.mean(jnp.abs(done - images)[:, 6:]))
    assert off < 0.5 * float(jnp.mean(jnp.abs(images - images.mean(0))[:, 6:]))
    as_told = memory.complete(images[0], seen, label=jnp.asarray(2, jnp.int32))
    assert int(as_told[1]) == 2


def test_what_is_new_leaves_the_old_as_it_was(memory):
    more = jax.tree.map(lambda leaf: leaf[:1], memory.concepts)
    more = eqx.tree_at(lambda c: c.label, more, jnp.asarray([9], jnp.int32))
    both = memory.learn(more)
    assert memory.labels == [0, 1, 2] and both.labels == [0, 1, 2, 9]
    np.testing.assert_array_equal(both.concepts.mean[:-1], memory.concepts.mean)
    assert both.concepts.size == memory.concepts.size + 4 + 2 * 4 + 2
    with pytest.raises(InputError, match=r"label 5 was never learnt: choose one of 0, 1, 2, 9"):
        both.check_label(5)


def test_error_synapses_come_to_carry_what_transposes_would():
    """What they were born as is noise: they learn it away if it is small and decays."""
    images, _ = blobs()

    def cosine(sigma_e, decay):
        blank = NGC.mlp(
            [4, 32, 12], bias=True, sigma_e=sigma_e, rate_error=False, key=jax.random.key(0)
        )
        how = dict(epochs=4, batch=8, key=jax.random.key(1), rule="adam", rate=0.003, decay=decay)
        writer = learn_generator(blank, NGCRule(), images, None, **how)
        down, up = (getattr(writer, f)["h1->output"].weight for f in ("synapses", "feedback"))
        return float(jnp.sum(down.T * up) / jnp.linalg.norm(down) / jnp.linalg.norm(up))

    both, small, decaying, neither = (cosine(s, d) for s in (0.01, None) for d in (2.0, 0.0))
    assert both > small > neither and both > decaying > neither and both > 0.88


@pytest.mark.slow
def test_an_ngc_circuit_dreams():
    """Its root is read by settling under the pixels, and recalled as a prior."""
    images, labels = blobs()
    shift = images.mean(0)
    weight = np.linalg.svd(np.asarray(images - shift))[2][:5]
    circuit = NGC.mlp(
        [5, 12], activation="identity", tied=True, bias=True, leak=0.0, key=jax.random.key(0)
    )
    circuit = eqx.tree_at(
        lambda c: (c.synapses["input->output"], c.biases["output"]),
        circuit,
        (Dense(jnp.asarray(weight)), shift),
    )
    memory = remember(
        Reader(circuit, "output", "input"),
        circuit,
        images,
        labels,
        concepts=1,
        rank=2,
        key=jax.random.key(1),
    )
    keys = jax.random.split(jax.random.key(0), 40)
    found = eqx.filter_jit(jax.vmap(lambda key: memory.dream(jnp.asarray(0), steps=150, key=key)))(
        keys
    )
    assert np.mean(np.asarray(memory.density(found, 3)).argmax(-1) == 0) == 1
    assert 0.02 < float(found.std(0).mean()) < 0.15


@pytest.mark.slow
def test_a_symmetric_circuit_dreams_by_learnt_top_down_synapses():
    images, labels = blobs()
    circuit = Hopfield.mlp([12, 20, 3], key=jax.random.key(0))
    reader = Reader(circuit, "input", "h1", steps=20)
    codes = eqx.filter_jit(lambda x: jax.vmap(reader)(x))(images)
    writer = learn_writer(codes, images, epochs=60, batch=8, rate=1.0, key=jax.random.key(1))
    memory = remember(reader, writer, images, labels, concepts=1, rank=4, key=jax.random.key(2))
    assert float(memory.residual) < 0.1 * float(jnp.mean(jnp.var(images, 0)))
    labels = jnp.arange(3, dtype=jnp.int32).repeat(50)
    found = memory.imagine(labels, key=jax.random.key(3))
    nearest = jnp.stack([images[np.asarray(blobs()[1]) == k].mean(0) for k in range(3)])
    gap = jnp.sum((found[:, None] - nearest[None]) ** 2, -1)
    assert float(jnp.mean(jnp.argmin(gap, -1) == labels)) > 0.97


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(rank=5), r"rank 5 of a code of 5 units: give 1 to 4"),
        (dict(concepts=50), r"the smallest of 3 classes has 40 examples"),
    ],
)
def test_what_cannot_be_remembered_is_refused(change, message):
    codes, labels = jnp.zeros((120, 5)), np.arange(120) % 3
    with pytest.raises(InputError, match=message):
        learn_concepts(codes, labels, **(dict(concepts=2, rank=2) | change), key=jax.random.key(0))


def test_a_code_larger_than_its_images_is_refused():
    with pytest.raises(InputError, match=r"a code of 13 units for 12 pixels"):
        learn_code(jnp.zeros((10, 12)), 13, key=jax.random.key(0))
