"""What does not move is computed once: outside the loop, and to the same numbers."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from anima import Anderson, Euler, EvenOdd, Hopfield, Predictive, settle
from anima.circuit.image import Convolution
from anima.core.hoist import hoist, scan

SIZES = [17, 5, 4, 2]  # 17: a size no other dimension has


def program(weight):
    """Constant, moving, nested, unused and passed-through parts."""

    def function(z):
        drive = jnp.tanh(weight @ weight.T)
        held = jax.jit(lambda w: jnp.sum(w, 0))(weight)
        moved = jax.nn.relu(z["a"] @ drive) + held[: z["a"].size]
        return {"moved": moved, "held": held, "same": z["b"], "number": 3.0 * z["b"][0]}

    return function


def example(getkey):
    return {"a": jax.random.normal(getkey(), (3,)), "b": jax.random.normal(getkey(), (2,))}


def test_equal_to_the_function(getkey):
    weight, z = jax.random.normal(getkey(), (3, 4)), example(getkey)
    other = jax.tree.map(lambda x: 2 * x + 1, z)
    want = program(weight)(other)
    for got in (
        hoist(program(weight), z)(other),
        jax.jit(lambda w, z, other: hoist(program(w), z)(other))(weight, z, other),
    ):
        assert jax.tree.structure(got) == jax.tree.structure(want)
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_under_vmap_of_constants_and_argument(getkey):
    weights = jax.random.normal(getkey(), (5, 3, 4))
    zs = jax.vmap(lambda k: {"a": jax.random.normal(k, (3,)), "b": jnp.ones(2)})(
        jax.random.split(getkey(), 5)
    )
    got = jax.vmap(lambda w, z: hoist(program(w), z)(z))(weights, zs)
    want = jax.vmap(lambda w, z: program(w)(z))(weights, zs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), got, want)


def test_gradient_passes_through_constants_and_argument(getkey):
    weight, z = jax.random.normal(getkey(), (3, 4)), example(getkey)
    total = lambda out: jnp.sum(out["moved"] ** 2) + jnp.sum(out["held"])
    got = jax.grad(lambda w, z: total(hoist(program(w), z)(z)), argnums=(0, 1))(weight, z)
    want = jax.grad(lambda w, z: total(program(w)(z)), argnums=(0, 1))(weight, z)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), got, want)


def test_an_empty_argument_and_a_constant_function(getkey):
    weight = jax.random.normal(getkey(), (3, 4))
    assert hoist(lambda z: {}, {})({}) == {}
    np.testing.assert_array_equal(hoist(lambda z: weight * 2, {})({}), weight * 2)


def walk(weight, loop=jax.lax.scan, rows=4, lives=None):
    """A loop whose step has parts that never change, are of its row, or of what it carries."""

    def step(carry, row):
        key, push = row
        drive = jnp.tanh(weight @ weight.T)
        noise = jax.random.normal(key, (3,))
        carry = {"at": jnp.tanh(drive @ carry["at"]) + noise + push, "count": carry["count"] + 1}
        return carry, {
            "at": carry["at"],
            "noise": noise,
            "still": drive,
            "push": push,
            "number": 1.0,
        }

    def run(seed):
        keys = jax.random.split(jax.random.key(seed), rows)
        start = {"at": jnp.zeros(3), "count": jnp.zeros((), jnp.int32)}
        return loop(step, start, (keys, jnp.arange(float(rows))))

    return run(0) if lives is None else jax.vmap(run)(jnp.arange(lives))


@pytest.mark.parametrize("rows", [4, 1, 0])
@pytest.mark.parametrize("lives", [None, 3])
def test_a_loop_over_rows_equals_that_of_jax(rows, lives, getkey):
    weight = jax.random.normal(getkey(), (3, 4))
    want = jax.jit(lambda w: walk(w, jax.lax.scan, rows, lives))(weight)
    got = jax.jit(lambda w: walk(w, scan, rows, lives))(weight)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), got, want)


def drawn(jaxpr, inside=False) -> list[bool]:
    """Of each draw of random bits, whether it is within a loop."""
    found = []
    for equation in jaxpr.eqns:
        within = inside or equation.primitive.name in ("while", "scan")
        found += [inside] * (equation.primitive.name == "random_bits")
        for inner in jaxprs_in_params(equation.params):
            found += drawn(inner, within)
    return found


def test_chance_is_drawn_for_all_rows_at_once(getkey):
    weight = jax.random.normal(getkey(), (3, 4))
    assert drawn(jax.make_jaxpr(lambda w: walk(w, scan))(weight).jaxpr) == [False]
    assert drawn(jax.make_jaxpr(lambda w: walk(w, jax.lax.scan))(weight).jaxpr) == [True]


def contractions(jaxpr, inside=False) -> list[int]:
    """The sizes over which matrix products inside `while` loops sum."""
    found = []
    for equation in jaxpr.eqns:
        within = inside or equation.primitive.name in ("while", "scan")
        if equation.primitive.name == "dot_general" and inside:
            (left, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            found.append(int(np.prod([shape[axis] for axis in left])))
        for inner in jaxprs_in_params(equation.params):
            found += contractions(inner, within)
    return found


def in_the_loop(circuit, solver, batch: bool) -> list[int]:
    run = lambda x: settle(circuit, {"input": x, "output": jnp.ones(2)}, solver=solver).state["h1"]
    shape = (3, SIZES[0]) if batch else (SIZES[0],)
    jitted = jax.jit(jax.vmap(run) if batch else run)
    return contractions(jax.make_jaxpr(jitted)(jnp.ones(shape)).jaxpr)


@pytest.mark.parametrize("solver", [Euler(), EvenOdd(), Anderson()], ids=repr)
@pytest.mark.parametrize("family", [Hopfield, Predictive])
@pytest.mark.parametrize("batch", [False, True], ids=["one", "batch"])
def test_the_drive_of_clamped_nodes_is_outside_the_loop(family, solver, batch, getkey):
    found = in_the_loop(family.mlp(SIZES, key=getkey()), solver, batch)
    assert found, "no matrix product in the loop: this test sees nothing"
    assert SIZES[0] not in found


@pytest.mark.parametrize("family", [Hopfield, Predictive])
def test_without_hoisting_the_drive_would_be_inside(family, getkey, monkeypatch):
    """The test above can fail."""
    module = sys.modules[settle.__module__]  # `anima.settle` is the function
    monkeypatch.setattr(module, "hoist", lambda function, example: function)
    assert SIZES[0] in in_the_loop(family.mlp(SIZES, key=getkey()), Euler(), False)


def images_read(jaxpr, inside=False) -> set[tuple[int, ...]]:
    """The shapes, without batches, of what is convolved inside `while` loops."""
    found = set()
    for equation in jaxpr.eqns:
        within = inside or equation.primitive.name in ("while", "scan")
        if equation.primitive.name == "convolve" and inside:
            found.add(equation.invars[0].aval.shape[1:])
        for inner in jaxprs_in_params(equation.params):
            found |= images_read(inner, within)
    return found


@pytest.mark.parametrize("family", [Hopfield, Predictive])
def test_clamped_pixels_are_convolved_outside_the_loop(family, getkey):
    layers = [Convolution(3, 2, pool="max"), Convolution(2, 3), 2]
    circuit = family.conv((7, 7, 1), layers, key=getkey())
    run = lambda x: settle(circuit, {"input": x}, solver=EvenOdd()).state["h1"]
    found = images_read(jax.make_jaxpr(jax.vmap(run))(jnp.ones((4, 7, 7, 1))).jaxpr)
    assert (3, 3, 3) in found, "the convolution of h1 is not seen: this test sees nothing"
    assert (7, 7, 1) not in found
