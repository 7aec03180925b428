"""Memory without data: what is kept of what was seen, so that it can be dreamt again.

A circuit *reads* an image into a code, a generative circuit *writes* a code back into pixels, and
*concepts*, a few Gaussians a class over the code, are all that is remembered. A concept is a prior
on the writer's root, so everything is one question each to the same circuit:

- clamp a concept, let code and pixels settle with noise: a dream;
- clamp half of the pixels, let the rest settle under every concept: a completion;
- clamp all pixels, compare how well the concepts explain them: a perception.

No image is kept. Every piece is learnt by rules that read the two ends of a synapse: Oja's
subspace rule (1989; here: predictive coding in one settling step), competitive learning
(MacQueen, 1967), Hebbian co-activations, and a Hebbian / anti-Hebbian factorisation of these
(similarity matching: Pehlevan and Chklovskii, 2015).
"""

import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.predictive import Predictive
from anima.circuit.prior import Prior
from anima.core.errors import DivergedError, InputError
from anima.core.types import Equilibrium, Number, Scalar, State
from anima.learn.assigners import AbstractAssigner, PredictiveCoding
from anima.learn.costs import SquaredError
from anima.learn.learner import Learner
from anima.learn.optimisers import optimiser
from anima.settle.settle import settle, trace
from anima.settle.solvers import AbstractSolver, Anderson, Euler, Langevin

Images = Float[Array, "examples pixels"]
Codes = Float[Array, "examples code"]

_AT_ONCE = 500  # examples side by side
_LIGHT = 0.02  # what free pixels weigh: they pull on nobody, and light ones settle with the code
_CALM = 0.2  # Langevin's dt, in units of 1 / the largest curvature
_LEAST = 1e-4  # variance that a concept keeps in every direction


class Reader(eqx.Module):
    """How an image becomes a code: clamp it on one node, settle, read another.

    - `circuit`; `clamp` and `read`, names of its nodes; `solver`, `steps`: how it settles
      (0 steps: the sweep).
    """

    circuit: AbstractCircuit
    clamp: str = eqx.field(static=True)
    read: str = eqx.field(static=True)
    solver: AbstractSolver = Euler(1.0)
    steps: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        for name in (self.clamp, self.read):
            self.circuit.node(name)

    def __call__(self, pixels: Float[Array, " pixels"]) -> Float[Array, " code"]:
        """The code of one image, which the circuit may take in another shape."""
        seen = {self.clamp: pixels.reshape(self.circuit.node(self.clamp).shape)}
        found = settle(self.circuit, seen, solver=self.solver, tol=0, max_steps=self.steps)
        return found.state[self.read].ravel()


class Concepts(eqx.Module):
    """What is remembered: per concept a Gaussian of the code, N(mean, factor^T factor + floor I).

    - `label`: the class of each concept. - `count`: how many examples it stands for.
    - `mean` (K, d); `factor` (K, r, d), its strongest directions; `floor` (K,), the variance in
      all others (probabilistic PCA: Tipping and Bishop, 1999).
    """

    label: Int[Array, " concepts"]
    count: Float[Array, " concepts"]
    mean: Float[Array, "concepts code"]
    factor: Float[Array, "concepts rank code"]
    floor: Float[Array, " concepts"]

    @property
    def size(self) -> int:
        """How many numbers are kept."""
        return sum(leaf.size for leaf in (self.count, self.mean, self.factor, self.floor))

    def precision(self, concept: Int[Array, ""]) -> Float[Array, "code code"]:
        """(factor^T factor + floor I)^-1, by Woodbury's identity."""
        factor, floor = self.factor[concept], self.floor[concept]
        inner = factor @ factor.T + floor * jnp.eye(factor.shape[0], dtype=factor.dtype)
        unit = jnp.eye(factor.shape[1], dtype=factor.dtype)
        return (unit - factor.T @ jnp.linalg.solve(inner, factor)) / floor

    def draw(
        self, concept: Int[Array, ""], noise: Float[Array, " rank_and_code"]
    ) -> Float[Array, " code"]:
        """mean + style F + sqrt(floor) rest, for `noise` = (style, rest) of rank + code numbers.

        With noise from N(0, T) that is a code from N(mean, T x covariance): one that `Langevin`
        would come by, without the wandering.
        """
        factor, floor = self.factor[concept], self.floor[concept]
        style, rest = noise[: factor.shape[0]], noise[factor.shape[0] :]
        return self.mean[concept] + style @ factor + jnp.sqrt(floor) * rest

    def pick(self, labels: Int[Array, " n"], *, key: PRNGKeyArray) -> Int[Array, " n"]:
        """Which concept comes to mind for each label: each as often as it was met."""
        names = labels[:, None].astype(self.label.dtype)
        mine = (self.label[None] == names) & (self.count[None] > 0)
        return jax.random.categorical(key, jnp.where(mine, jnp.log(self.count)[None], -jnp.inf))

    def joint(self, code: Float[Array, " code"]) -> Float[Array, " concepts"]:
        """log p(code, concept) for every concept, up to one constant."""

        def one(mean, factor, floor):
            error, rank = code - mean, factor.shape[0]
            inner = factor @ factor.T + floor * jnp.eye(rank, dtype=factor.dtype)
            along = factor @ error
            quadratic = (error @ error - along @ jnp.linalg.solve(inner, along)) / floor
            logdet = (code.size - rank) * jnp.log(floor) + jnp.linalg.slogdet(inner)[1]
            return -(quadratic + logdet) / 2

        return jnp.log(self.count) + jax.vmap(one)(self.mean, self.factor, self.floor)

    def join(self, other: "Concepts") -> "Concepts":
        """Both together: learning something new leaves what is there untouched."""
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), self, other)


class Memory(eqx.Module):
    """A reader, a writer and the concepts between them.

    - `reader`: image to code. - `writer`: a generative circuit, Predictive or NGC, whose node
      `input` is the code and whose `output` the pixels.
    - `concepts`. - `residual`: mean squared error of a pixel written from the code that was read.
    """

    reader: Reader
    writer: AbstractCircuit
    concepts: Concepts
    residual: Float[Array, ""]

    @property
    def labels(self) -> list[int]:
        """The classes it knows (not under `jit`)."""
        known = np.asarray(self.concepts.label)[np.asarray(self.concepts.count) > 0]
        return sorted({int(label) for label in known})

    def check_label(self, label: int) -> None:
        """Raises `InputError` for a class that was never learnt."""
        if label not in self.labels:
            known = ", ".join(map(str, self.labels))
            raise InputError(f"label {label} was never learnt: choose one of {known}")

    def read(self, images: Images) -> Codes:
        """The codes of many images."""
        return _read(self.reader, images)

    @eqx.filter_jit
    def write(self, codes: Codes) -> Images:
        """The images of many codes: the writer's sweep, in [0, 1]."""
        return _write(self.writer, codes)

    def see(self, images: Images) -> Images:
        """Images as the memory could keep them: read, then written."""
        return self.write(self.read(images))

    def recall(self, concept: Int[Array, ""], trust: Number = _LIGHT) -> Prior:
        """The writer with a concept as the prior of its code: settle it, and it dreams.

        **Arguments:** `concept`, an index; `trust`, what errors of the pixels weigh.
        """
        mean, precision = self.concepts.mean[concept], self.concepts.precision(concept)
        return Prior(  # pyright: ignore[reportCallIssue]
            circuit=self.writer, name="input", mean=mean, precision=precision, trust=trust
        )

    @eqx.filter_jit
    def imagine(
        self, labels: Int[Array, " dreams"], *, temperature: float = 1.0, key: PRNGKeyArray
    ) -> Images:
        """Dreams drawn at once from where `dream` would settle: for replay, where many are needed.

        With nothing clamped below it the code's equilibrium is its prior, which can be drawn from:
        exactly where the writer's force descends an energy, nearly with learnt error synapses.
        """
        which, how = jax.random.split(key)
        concepts = self.concepts.pick(labels, key=which)
        size = sum(self.concepts.factor.shape[1:])
        noise = jax.random.normal(how, (labels.shape[0], size), self.concepts.mean.dtype)
        heat = jnp.sqrt(jnp.asarray(temperature, noise.dtype))
        return _write(self.writer, jax.vmap(self.concepts.draw)(concepts, heat * noise))

    def dream(
        self,
        label: Int[Array, ""],
        *,
        steps: int = 400,
        temperature: float = 1.0,
        key: PRNGKeyArray,
    ) -> Float[Array, " pixels"]:
        """One dream: a concept of the label is clamped, code and pixels settle with noise.

        **Arguments:** `steps` of `Langevin`, from the average of all codes; `temperature` of the
        noise: less is more typical and less various. **Returns:** the pixels, in [0, 1].
        """
        circuit, solver, start = self._asleep(label, temperature, key)
        found = settle(circuit, {}, solver=solver, tol=0, max_steps=steps, start=start)
        return _written(self.writer, found.state["input"])

    def film(
        self,
        label: Int[Array, ""],
        *,
        steps: int = 400,
        temperature: float = 1.0,
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, "steps pixels"], Equilibrium]:
        """The dream that `dream` gives for the same key, with every step of its settling."""
        circuit, solver, start = self._asleep(label, temperature, key)
        path = trace(circuit, {}, solver=solver, steps=steps, start=start)
        return _write(self.writer, path.state["input"]), path

    def complete(
        self,
        pixels: Float[Array, " pixels"],
        seen: Bool[Array, " pixels"],
        *,
        label: Int[Array, ""] | None = None,
        steps: int = 60,
    ) -> tuple[Float[Array, " pixels"], Int[Array, ""]]:
        """What the unseen pixels may be: clamp the others, settle under every concept.

        The concept in which all settles to the least energy (its own rarity included) is the
        answer. **Arguments:** `seen`, which pixels are clamped; `label`, if it is known too;
        `steps` of Anderson-accelerated settling. **Returns:** the whole image, the seen pixels
        as given, and the label of the concept.
        """

        def under(concept):
            circuit = self.recall(concept, 1 / self.residual)
            start = circuit.start({})
            solver = Anderson(Euler(1 / stiffest(circuit, start)))
            clamp, only = {"output": pixels}, {"output": seen}
            found = settle(
                circuit, clamp, only=only, solver=solver, tol=0, max_steps=steps, start=start
            )
            rarity = -jnp.log(self.concepts.count[concept])
            return found.energy + rarity, _pixels(self.writer, found.state)

        energy, written = jax.lax.map(under, jnp.arange(self.concepts.label.shape[0]))
        if label is not None:
            energy = jnp.where(
                self.concepts.label == jnp.asarray(label, jnp.int32), energy, jnp.inf
            )
        best = jnp.argmin(energy)
        return jnp.where(seen, pixels, written[best]), self.concepts.label[best]

    @eqx.filter_jit
    def density(self, images: Images, classes: int) -> Float[Array, "examples classes"]:
        """log p(code, label) of images: what the stored statistics alone make of them."""
        names = jnp.arange(classes, dtype=self.concepts.label.dtype)
        member = self.concepts.label[:, None] == names[None, :]

        def one(code):
            joint = jnp.where(member, self.concepts.joint(code)[:, None], -jnp.inf)
            return jax.nn.logsumexp(joint, 0)

        return jax.lax.map(one, self.read(images), batch_size=_AT_ONCE)

    def learn(self, concepts: Concepts) -> "Memory":
        """The memory with further concepts."""
        return dataclasses.replace(self, concepts=self.concepts.join(concepts))

    def _asleep(self, label, temperature, key) -> tuple[Prior, Langevin, State]:
        which, noise = jax.random.split(key)
        circuit = self.recall(self.concepts.pick(jnp.reshape(label, (1,)), key=which)[0])
        share = self.concepts.count / jnp.sum(self.concepts.count)
        start = circuit.start({"input": share @ self.concepts.mean})
        return circuit, Langevin(noise, _CALM / stiffest(circuit, start), temperature), start


def stiffest(circuit: AbstractCircuit, state: State, iterations: int = 20) -> Scalar:
    """The largest curvature of the energy around a state: the power method on its force."""

    def turn(vector, _):
        bent = jax.jvp(circuit.force, (state,), (vector,))[1]
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(bent)))
        return jax.tree.map(lambda leaf: leaf / norm, bent), norm

    names = sorted(state)
    noise = lambda i, z: jax.random.normal(jax.random.key(i), z.shape, z.dtype)
    first = {name: noise(i, state[name]) for i, name in enumerate(names)}
    return jax.lax.scan(turn, first, length=iterations)[1][-1]


def learn_code(
    images: Images,
    size: int,
    *,
    epochs: int = 5,
    batch: int = 20,
    rate: float = 2.0,
    key: PRNGKeyArray,
) -> Predictive:
    """A linear generative circuit, `size` code units to the pixels, that learns to reconstruct.

    Predictive coding with one settling step is Oja's subspace rule: from code 0 a step of size 1
    reaches z = (x - b) W^T, and the plasticity is z^T (x - z W - b), pre times post. W ends with
    orthonormal rows that span the strongest directions of the images.

    **Arguments:** `images` in any order; `size` of the code; `epochs`, `batch`, `rate` of plain
    SGD on a cosine schedule, the rate in units of 1 / (1 + variance of an image); `key`.
    """
    pixels = images.shape[1]
    if not 1 <= size <= pixels:
        raise InputError(f"a code of {size} units for {pixels} pixels: give 1 to {pixels}")
    first, order = jax.random.split(key)
    circuit = Predictive.mlp([size, pixels], activation="identity", key=first)
    # rows of about unit length to begin with, and the average of the first images as bias
    shrink = lambda leaf: leaf * jnp.sqrt(size / pixels).astype(leaf.dtype)
    circuit = dataclasses.replace(
        circuit,
        synapses=jax.tree.map(shrink, circuit.synapses),
        biases={"output": jnp.mean(images[:batch], 0)},
    )
    rule = PredictiveCoding(solver=Euler(1.0), max_steps=1)
    pace = rate / (1 + float(jnp.sum(jnp.var(images, 0))))
    return _descend(circuit, rule, images, None, epochs, batch, order, rate=pace)


def learn_writer(
    codes: Codes,
    images: Images,
    *,
    epochs: int = 5,
    batch: int = 20,
    rate: float = 0.5,
    key: PRNGKeyArray,
) -> Predictive:
    """Top-down synapses from a code to the pixels, by the delta rule: both ends are clamped.

    For codes that another circuit reads, such as the hidden layer of a symmetric circuit, whose
    own synapses do not draw. The rate is in units of 1 / (1 + mean square of a code) (Widrow and
    Hoff, 1960, normalised).
    """
    first, order = jax.random.split(key)
    circuit = Predictive.mlp([codes.shape[1], images.shape[1]], activation="identity", key=first)
    circuit = dataclasses.replace(circuit, synapses=jax.tree.map(jnp.zeros_like, circuit.synapses))
    rule = PredictiveCoding(solver=Euler(1.0), max_steps=1)
    power = float(jnp.mean(jnp.sum(codes**2, -1)))
    pace = rate / (1 + power)
    return _descend(circuit, rule, images, codes, epochs, batch, order, rate=pace)


def learn_generator(
    circuit: AbstractCircuit,
    assigner: AbstractAssigner,
    images: Images,
    codes: Codes | None = None,
    *,
    epochs: int = 5,
    batch: int = 20,
    key: PRNGKeyArray,
    **descent: Any,
) -> AbstractCircuit:
    """A generative circuit of any family and depth, learnt to write images.

    Clamp the pixels, and the codes where they are given; let all else settle; learn. A code that
    is not given starts from 0 and is what the circuit itself makes of the image (Rao and Ballard,
    1999; with learnt error synapses: Ororbia and Kifer, 2022).

    **Arguments:** `circuit`, whose node `input` is the code and whose `output` the pixels;
    `assigner`, one that settles to learn; `images` in any order; `epochs`, `batch`, `key`;
    `descent`, arguments of `anima.optimiser` (default: plain SGD on a cosine schedule).
    """
    return _descend(circuit, assigner, images, codes, epochs, batch, key, **descent)


def learn_concepts(
    codes: Codes,
    labels: Int[np.ndarray, " examples"],
    *,
    concepts: int = 10,
    rank: int = 20,
    blend: float = 0.2,
    passes: int = 3,
    key: PRNGKeyArray,
) -> Concepts:
    """Concepts of the classes in `labels`, `concepts` of them each.

    Within a class concepts compete for examples and the winner moves towards what it won;
    co-activations of its code units are averaged (Hebb), `blend` of them shared with its siblings
    and compressed to `rank` directions and a floor.

    **Raises:** `InputError` for a class with fewer examples than concepts, or a rank that is not
    below the code's size.
    """
    size = codes.shape[1]
    if not 1 <= rank < size:
        raise InputError(f"rank {rank} of a code of {size} units: give 1 to {size - 1}")
    names, counts = np.unique(labels, return_counts=True)
    if not 1 <= concepts <= counts.min():
        raise InputError(
            f"{concepts} concepts of a class: the smallest of {len(names)} classes has "
            f"{counts.min()} examples, so give no more"
        )
    found = []
    for label in names:
        # every class as a list of the same length, so that one program serves all
        mine = np.flatnonzero(labels == label)
        rows, there = np.resize(mine, counts.max()), np.arange(counts.max()) < len(mine)
        key, own = jax.random.split(key)
        mean, count, covariance = _compete(codes, rows, there, concepts, passes, own)
        factor, floor = _compress(covariance, count, rank, blend)
        named = jnp.full(concepts, int(label), jnp.int32)
        found.append(Concepts(named, count, mean, factor, floor))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def remember(
    reader: Reader,
    writer: AbstractCircuit,
    images: Images,
    labels: Int[np.ndarray, " examples"],
    *,
    concepts: int = 10,
    rank: int = 20,
    blend: float = 0.2,
    key: PRNGKeyArray,
) -> Memory:
    """The memory of labelled images, given how they are read and written (see the module)."""
    codes = _read(reader, images)
    residual = _missed(writer, codes, images)
    kept = learn_concepts(codes, labels, concepts=concepts, rank=rank, blend=blend, key=key)
    return Memory(reader, writer, kept, residual)


def factorise(
    covariance: Float[Array, "code code"], rank: int, iterations: int = 600
) -> tuple[Float[Array, "rank code"], Float[Array, ""]]:
    """F and f such that F^T F + f I is nearest to a covariance C, without an eigenvector.

    F moves by F (C - f I) - (F F^T) F, which is Hebb's rule for units that inhibit each other by
    their own co-activations F F^T, averaged over the inputs that C sums up; f is what is left of
    the trace. At rest these are the probabilistic-PCA solution of C.
    """
    size, kind = covariance.shape[0], covariance.dtype
    total, pace = jnp.trace(covariance), 0.5 / jnp.linalg.norm(covariance)
    first = jax.random.normal(jax.random.key(0), (rank, size), kind)
    first = first * jnp.sqrt(total / size / size)

    def step(_, factor):
        floor = (total - jnp.sum(factor**2)) / size
        hebb = factor @ covariance - floor * factor
        return factor + pace * (hebb - (factor @ factor.T) @ factor)

    factor = jax.lax.fori_loop(0, iterations, step, first)
    return factor, jnp.maximum((total - jnp.sum(factor**2)) / size, _LEAST)


def _descend(
    circuit: AbstractCircuit,
    assigner: AbstractAssigner,
    images: Images,
    codes: Codes | None,
    epochs: int,
    batch: int,
    key: PRNGKeyArray,
    **descent: Any,
) -> Any:
    """Learns a generative circuit from images in a fresh order every epoch."""
    batch = min(batch, images.shape[0])
    per_epoch = images.shape[0] // batch
    descent = {"schedule": "cosine"} | descent | {"epochs": epochs, "per_epoch": per_epoch}
    learner = Learner(circuit, assigner, SquaredError(), optimiser(circuit, **descent))
    orders = [
        jax.random.permutation(jax.random.fold_in(key, epoch), images.shape[0])
        for epoch in range(epochs)
    ]
    order = jnp.concatenate([o[: per_epoch * batch].reshape(per_epoch, batch) for o in orders])
    clamp = lambda rows: {} if codes is None else {"input": codes[rows]}

    @eqx.filter_jit
    def sweep(state):
        step = lambda state, rows: learner.step(state, (clamp(rows), images[rows]))
        return jax.lax.scan(lambda s, rows: (step(s, rows)[0], None), state, order)[0]

    learnt = sweep(learner.init(jax.random.fold_in(key, epochs))).answering
    numbers = jax.tree.leaves(eqx.filter(learnt, eqx.is_inexact_array))
    if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in numbers):
        raise DivergedError(
            "the synapses from code to pixels diverged: lower their rate (in a run's config.toml "
            "dream.pace, or dream.optimiser.rate), and learn them anew (`anima resume`)"
        )
    return learnt


@partial(jax.jit, static_argnums=(3, 4))
def _compete(codes: Codes, rows, there, concepts: int, passes: int, key: PRNGKeyArray):
    """Means, counts and co-activations of a class's concepts, online, example by example.

    `rows` are the class's examples, of which those not `there` only fill up the list.
    """
    codes, there = codes[rows], there.astype(codes.dtype)
    shuffle = lambda p: jax.random.permutation(jax.random.fold_in(key, p), rows.shape[0])
    order = jnp.concatenate([shuffle(p) for p in range(passes)])
    first = order[jnp.argsort(-there[order[: rows.shape[0]]], stable=True)[:concepts]]

    def win(loop, row):
        mean, won = loop
        winner = jnp.argmin(jnp.sum((mean - codes[row][None]) ** 2, -1))
        won = won.at[winner].add(there[row])
        step = there[row] * (codes[row] - mean[winner]) / won[winner]
        return (mean.at[winner].add(step), won), None

    begin = codes[first], jnp.ones(concepts, codes.dtype)
    (mean, _), _ = jax.lax.scan(win, begin, order)
    # the last pass, as the averages that its online form ends with
    near = jnp.argmin(jax.vmap(lambda m: jnp.sum((codes - m[None]) ** 2, -1))(mean), 0)
    mine = jax.nn.one_hot(near, concepts, dtype=codes.dtype) * there[:, None]
    won = jnp.sum(mine, 0)
    mean = jnp.where(won[:, None] > 0, mine.T @ codes / jnp.maximum(won, 1)[:, None], mean)

    def together(k):
        error = codes - mean[k][None]
        return (error * mine[:, k, None]).T @ error / jnp.maximum(won[k], 1)

    return mean, won, jax.lax.map(together, jnp.arange(concepts))


@partial(jax.jit, static_argnums=(2,))
def _compress(covariance, count, rank: int, blend):
    """Each concept's factor and floor, a part of its covariance shared with its siblings."""
    shared = jnp.einsum("k,kij->ij", count, covariance) / jnp.sum(count)
    own = jnp.where(count[:, None, None] > 1, covariance, shared)
    mixed = (1 - blend) * own + blend * shared
    return jax.vmap(partial(factorise, rank=rank))(mixed)


@eqx.filter_jit
def _read(reader: Reader, images: Images) -> Codes:
    return jax.lax.map(reader, images, batch_size=_AT_ONCE)


@eqx.filter_jit
def _missed(writer: AbstractCircuit, codes: Codes, images: Images) -> Scalar:
    """Mean squared error of a pixel."""
    return jnp.maximum(jnp.mean((_write(writer, codes) - images) ** 2), _LEAST)


def _write(writer: AbstractCircuit, codes: Codes) -> Images:
    return jax.vmap(partial(_written, writer))(codes)


def _written(writer: AbstractCircuit, code: Float[Array, " code"]) -> Float[Array, " pixels"]:
    """What the writer makes of a code, in [0, 1]: its sweep, free of the noise of other nodes."""
    return jnp.clip(writer.start({"input": code})["output"], 0, 1)


def _pixels(writer, state: State) -> Float[Array, " pixels"]:
    """What the writer predicts of the pixels where all nodes have settled, in [0, 1]."""
    return jnp.clip(writer.prediction("output", state), 0, 1)
