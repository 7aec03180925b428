"""Every solver passes the battery: a new one is one line here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima import Anderson, Euler, EvenOdd, InputError, Langevin, Momentum
from anima.settle.solvers import Landscape
from anima.testing import check_solver

SOLVERS = [
    Euler(0.5),
    Momentum(0.3, 0.9),
    EvenOdd(),
    Anderson(EvenOdd()),
    Anderson(Euler(0.3), depth=3),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_battery(solver):
    check_solver(solver)


def quadratic(matrix, drive) -> Landscape:
    """E(z) = 1/2 z A z - b z over two nodes of two units; curvature: A's own blocks."""
    split = lambda flat: {"a": flat[:2], "b": flat[2:]}
    force = lambda z: split(drive - matrix @ jnp.concatenate([z["a"], z["b"]]))
    stiff = lambda z: split(jnp.diagonal(matrix))
    return Landscape(force, lambda z: z, stiff, (("a",), ("b",)))


MATRIX = np.diag([2.0, 3.0, 1.0, 4.0])
MATRIX[:2, 2:] = [[0.5, 0.3], [0.1, 0.7]]
MATRIX[2:, :2] = MATRIX[:2, 2:].T
DRIVE = np.asarray([1.0, -2.0, 0.5, 3.0])


def steps(solver, count):
    landscape = quadratic(jnp.asarray(MATRIX), jnp.asarray(DRIVE))
    z = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    carry, path = solver.init(landscape, z), []
    for _ in range(count):
        z, carry, met = solver.step(landscape, z, carry)
        path.append(np.concatenate([z["a"], z["b"]]))
    return path, float(met)


def test_euler_by_hand():
    z, want = np.zeros(4), []
    for _ in range(3):
        z = z + 0.2 * (DRIVE - MATRIX @ z)
        want.append(z)
    np.testing.assert_allclose(steps(Euler(0.2), 3)[0], want, rtol=1e-13)


def test_momentum_by_hand():
    z, v, want = np.zeros(4), np.zeros(4), []
    for _ in range(3):
        v = 0.7 * v + 0.2 * (DRIVE - MATRIX @ z)
        z = z + v
        want.append(z)
    np.testing.assert_allclose(steps(Momentum(0.2, 0.7), 3)[0], want, rtol=1e-13)


def test_even_odd_by_hand():
    """Block Gauss-Seidel: the second block sees where the first has moved."""
    z, want = np.zeros(4), []
    for _ in range(3):
        for block in (slice(0, 2), slice(2, 4)):
            z = z.copy()
            z[block] += ((DRIVE - MATRIX @ z) / np.diagonal(MATRIX))[block]
        want.append(z)
    np.testing.assert_allclose(steps(EvenOdd(), 3)[0], want, rtol=1e-13)


def test_anderson_solves_a_linear_problem_in_as_many_steps_as_unknowns():
    """On a linear problem it is a Krylov method: four unknowns, five steps."""
    path, _ = steps(Anderson(Euler(0.2), depth=5, ridge=1e-14), 5)
    np.testing.assert_allclose(path[-1], np.linalg.solve(MATRIX, DRIVE), atol=1e-5)
    plain = steps(Euler(0.2), 5)[0][-1]
    assert np.max(np.abs(plain - np.linalg.solve(MATRIX, DRIVE))) > 0.05


def test_momentum_takes_from_the_velocity_what_a_bound_takes_from_the_motion():
    """Pushed against a wall and then called back, it leaves at once."""
    force = lambda z: {"a": jnp.asarray([1.0])}
    wall = Landscape(force, lambda z: {"a": jnp.minimum(z["a"], 1.0)}, lambda z: z, (("a",),))
    back = wall._replace(force=lambda z: {"a": jnp.asarray([-1.0])})
    solver, z = Momentum(0.5, 0.9), {"a": jnp.zeros(1)}
    carry = solver.init(wall, z)
    for _ in range(20):
        z, carry, _ = solver.step(wall, z, carry)
    assert float(z["a"][0]) == 1.0
    z, carry, _ = solver.step(back, z, carry)
    z, carry, _ = solver.step(back, z, carry)
    assert float(z["a"][0]) < 1.0


@pytest.mark.parametrize(
    "build",
    [
        lambda: Euler(0),
        lambda: Euler(-0.1),
        lambda: EvenOdd(0.0),
        lambda: Momentum(dt=0),
        lambda: Momentum(decay=1.0),
        lambda: Momentum(decay=-0.1),
        lambda: Anderson(depth=0),
        lambda: Anderson(ridge=0.0),
    ],
)
def test_bad_numbers_are_refused(build):
    with pytest.raises(InputError, match="it must be"):
        build()


def test_a_step_size_can_be_swept():
    """Floats are leaves: vmap runs over them."""
    landscape = quadratic(jnp.asarray(MATRIX), jnp.asarray(DRIVE))
    z = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    run = lambda dt: Euler(dt).step(landscape, z, None)[0]["a"]
    np.testing.assert_allclose(jax.vmap(run)(jnp.asarray([0.1, 0.2])), [[0.1, -0.2], [0.2, -0.4]])


def test_langevin_without_heat_is_euler():
    cold, met = steps(Langevin(jax.random.key(0), 0.2, temperature=0.0), 3)
    want, left = steps(Euler(0.2), 3)
    np.testing.assert_allclose(cold, want, rtol=1e-13)
    assert met == left


def test_langevin_visits_what_the_energy_says():
    """Stationary variance T / (c (1 - dt c / 2)) for a curvature c, mean at the minimum."""
    stiff, dt, heat = jnp.asarray([0.5, 4.0]), 0.2, 0.7
    landscape = Landscape(
        lambda z: {"a": stiff * (1.0 - z["a"])}, lambda z: z, lambda z: {"a": stiff}, (("a",),)
    )

    @jax.vmap
    def wander(key):
        solver = Langevin(key, dt, heat)

        def step(carry, _):
            free, count, _ = solver.step(landscape, *carry)
            return (free, count), None

        begin = {"a": jnp.ones(2)}
        return jax.lax.scan(step, (begin, solver.init(landscape, begin)), length=60)[0][0]["a"]

    found = np.asarray(jax.jit(wander)(jax.random.split(jax.random.key(1), 4000)))
    want = heat / (np.asarray(stiff) * (1 - dt * np.asarray(stiff) / 2))
    np.testing.assert_allclose(found.mean(0), 1, atol=0.06)
    np.testing.assert_allclose(found.var(0), want, rtol=0.1)


def test_langevin_refuses_what_cannot_be():
    with pytest.raises(InputError, match=r"temperature is -1"):
        Langevin(jax.random.key(0), temperature=-1)
    with pytest.raises(InputError, match=r"dt is 0"):
        Langevin(jax.random.key(0), dt=0)
