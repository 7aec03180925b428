"""Solvers: how one step of settling is taken.

A solver sees a `Landscape`: the total force on the free nodes (circuit plus nudged cost), their
bounds, how stiff each is, and which of them can move together. `step` also reports the largest
projected force it met, so that the loop knows when to stop without evaluating it again.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Int, PRNGKeyArray

from anima.core.errors import check_positive, check_range, pick
from anima.core.types import Number, Scalar, State


class Landscape(NamedTuple):
    """What a solver may ask of the thing that settles. All functions are of the free nodes.

    - `force`: free state -> force on each free node.
    - `project`: free state -> the nearest allowed one.
    - `curvature`: free state -> per node, an upper bound on its own second derivative.
    - `blocks`: groups of free nodes that do not influence each other directly.
    """

    force: Callable[[State], State]
    project: Callable[[State], State]
    curvature: Callable[[State], State]
    blocks: tuple[tuple[str, ...], ...]


class AbstractSolver(eqx.Module):
    """`init` once, then `step` until settled. Solvers hold no state of their own."""

    rolls_on: ClassVar[bool] = False
    """Whether the step that meets no force still moves: `settle` then takes that step back."""

    @abstractmethod
    def init(self, landscape: Landscape, free: State) -> Any:
        """What the solver carries from step to step (a pytree, possibly empty)."""

    @abstractmethod
    def step(self, landscape: Landscape, free: State, carry: Any) -> tuple[State, Any, Scalar]:
        """One step: the new free state, the new carry, the largest projected force met."""


def residual(project: Callable[[State], State], free: State, force: State) -> Scalar:
    """max_i |project(z + force)_i - z_i|: the largest force that the bounds do not cancel."""
    moved = project({name: free[name] + force[name] for name in free})
    gaps = [jnp.max(jnp.abs(moved[name] - free[name])) for name in free]
    return jnp.max(jnp.stack(gaps)) if gaps else jnp.zeros(())


class Euler(AbstractSolver):
    """z <- project(z + dt force): gradient flow in steps of `dt` (in units of the time constant).

    Stable for dt < 2 / (largest curvature). The biologically plainest solver and the slowest.
    """

    dt: Number = 0.1

    def __check_init__(self):
        check_positive("Euler", dt=self.dt)

    def init(self, landscape: Landscape, free: State) -> None:
        return None

    def step(self, landscape: Landscape, free: State, carry: None) -> tuple[State, None, Scalar]:
        force = landscape.force(free)
        moved = landscape.project({n: free[n] + self.dt * force[n] for n in free})
        return moved, None, residual(landscape.project, free, force)


class Momentum(AbstractSolver):
    """v <- decay v + dt force; z <- project(z + v): Polyak's heavy ball (1964)."""

    rolls_on: ClassVar[bool] = True

    dt: Number = 0.1
    decay: Number = 0.5

    def __check_init__(self):
        check_positive("Momentum", dt=self.dt)
        check_range("Momentum", 0, 1, decay=self.decay)

    def init(self, landscape: Landscape, free: State) -> State:
        return jax.tree.map(jnp.zeros_like, free)

    def step(self, landscape: Landscape, free: State, carry: State) -> tuple[State, State, Scalar]:
        force = landscape.force(free)
        velocity = {n: self.decay * carry[n] + self.dt * force[n] for n in free}
        moved = landscape.project({n: free[n] + velocity[n] for n in free})
        # what a bound took from the motion is taken from the velocity too
        velocity = {n: moved[n] - free[n] for n in free}
        return moved, velocity, residual(landscape.project, free, force)


class Langevin(AbstractSolver):
    """z <- project(z + dt force + sqrt(2 dt T) n), n ~ N(0, 1): settling that never comes to rest.

    Where the others find the lowest energy, this visits every state in proportion to
    exp(-E / T): a dream, not an answer. The steps bias that a little: a direction of curvature c
    ends with the variance T / (c (1 - dt c / 2)), T / c as dt -> 0. Ask for a number of steps
    (`tol=0`), since the force never dies. Temperature 0 is Euler. Langevin (1908); as a sampler,
    Parisi (1981).

    - `key`: all of its noise. A batch wants one solver, so one key, an example.
    - `dt`, `temperature`: T = 1 samples the density that the energy is the -log of.
    """

    rolls_on: ClassVar[bool] = True

    key: PRNGKeyArray
    dt: Number = 0.01
    temperature: Number = 1.0

    def __check_init__(self):
        check_positive("Langevin", dt=self.dt)
        check_range("Langevin", 0, float("inf"), temperature=self.temperature)

    def init(self, landscape: Landscape, free: State) -> Int[Array, ""]:
        return jnp.zeros((), jnp.int32)

    def step(self, landscape: Landscape, free: State, carry: Any) -> tuple[State, Any, Scalar]:
        force, key = landscape.force(free), jax.random.fold_in(self.key, carry)
        spread = jnp.sqrt(2 * self.dt * self.temperature)
        moved = {}
        for index, (name, z) in enumerate(free.items()):
            noise = jax.random.normal(jax.random.fold_in(key, index), z.shape, z.dtype)
            moved[name] = z + self.dt * force[name] + spread.astype(z.dtype) * noise
        return landscape.project(moved), carry + 1, residual(landscape.project, free, force)


class EvenOdd(AbstractSolver):
    """Block Gauss-Seidel: all even layers move at once, then all odd ones (any graph: a colouring).

    Each node goes to project(z + dt force / curvature). For Hopfield circuits curvature is 1 and
    dt = 1 jumps to the node's exact minimiser given its neighbours; a nudge adds a bound on its
    own curvature, so the quadratic cost |s - y|^2 is minimised exactly as well, at
    (drive + 2 beta y) / (1 + 2 beta). For other circuits the curvature is a bound and every block
    step descends.
    """

    dt: Number = 1.0

    def __check_init__(self):
        check_positive("EvenOdd", dt=self.dt)

    def init(self, landscape: Landscape, free: State) -> None:
        return None

    def step(self, landscape: Landscape, free: State, carry: None) -> tuple[State, None, Scalar]:
        met = []
        for block in landscape.blocks:
            force, stiff = landscape.force(free), landscape.curvature(free)
            moved = landscape.project({n: free[n] + self.dt * force[n] / stiff[n] for n in block})
            near = {n: free[n] for n in block}
            met.append(residual(landscape.project, near, force))
            free = free | moved
        return free, None, jnp.max(jnp.stack(met)) if met else jnp.zeros(())


class Anderson(AbstractSolver):
    """Anderson acceleration (1965) of another solver's step, mixing the last `depth` iterates.

    With step G(z) and differences r_i = G(z_i) - z_i, the next iterate is sum_i a_i G(z_i) where
    the a_i, summing to one, minimise |sum_i a_i r_i|^2 + ridge. On trained symmetric networks
    around EvenOdd this takes a third of the steps.
    """

    inner: AbstractSolver = EvenOdd()
    depth: int = eqx.field(static=True, default=5)
    ridge: Number = 1e-8

    def __check_init__(self):
        check_positive("Anderson", depth=self.depth, ridge=self.ridge)

    def init(self, landscape: Landscape, free: State) -> Any:
        flat, _ = ravel_pytree(free)
        history = jnp.zeros((self.depth, flat.size), flat.dtype)
        return self.inner.init(landscape, free), history, history, jnp.zeros((), jnp.int32)

    def step(self, landscape: Landscape, free: State, carry: Any) -> tuple[State, Any, Scalar]:
        inner, images, gaps, count = carry
        stepped, inner, met = self.inner.step(landscape, free, inner)
        flat, unravel = ravel_pytree(free)
        image, _ = ravel_pytree(stepped)
        slot = count % self.depth
        images, gaps = images.at[slot].set(image), gaps.at[slot].set(image - flat)
        mixed = self._weights(gaps, count + 1) @ images
        return landscape.project(unravel(mixed)), (inner, images, gaps, count + 1), met

    def _weights(self, gaps, count):
        """argmin_a |a gaps|^2 + ridge, sum a = 1, over the slots filled so far."""
        filled = jnp.arange(self.depth, dtype=count.dtype) < count
        gram = gaps @ gaps.T
        scale = self.ridge * jnp.trace(gram) + jnp.finfo(gaps.dtype).tiny
        gram = jnp.where(filled[:, None] & filled[None, :], gram, 0) + jnp.diag(
            jnp.where(filled, scale, 1)
        )
        weights = jnp.linalg.solve(gram, filled.astype(gaps.dtype))
        return weights / jnp.sum(weights)


SOLVERS: dict[str, Callable[..., AbstractSolver]] = {
    "euler": Euler,
    "momentum": Momentum,
    "even_odd": EvenOdd,
    "anderson": Anderson,
}
"""Solvers by the names that tables of settings give them."""


def with_solvers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with every solver's table, `{ name = "euler", dt = 0.1 }`, made the solver.

    **Raises:** `InputError` for a table that names no solver; `TypeError` for one with settings
    that its solver does not have.
    """
    return {
        key: _solver(key, value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
    }


def _solver(key: str, table: Mapping[str, Any]) -> AbstractSolver:
    made = pick(f"{key}.name", table.get("name", ""), SOLVERS)
    return made(**with_solvers({k: v for k, v in table.items() if k != "name"}))
