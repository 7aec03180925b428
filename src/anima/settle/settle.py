"""The one loop: a circuit settles under clamps.

It is a `lax.while_loop`, through which JAX refuses reverse mode: that nothing here is
backpropagated is kept by the compiler. It is traced once whatever the number of steps.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import InputError
from anima.core.hoist import hoist
from anima.core.types import Clamp, Cost, Count, Equilibrium, Number, Result, State
from anima.settle.solvers import AbstractSolver, Euler, Landscape, residual

Mask = dict[str, Bool[Array, "..."]]
"""Node name -> which of its units."""


def settle(
    circuit: AbstractCircuit,
    clamp: Clamp,
    *,
    cost: Cost | None = None,
    nudge: Number = 0.0,
    solver: AbstractSolver = Euler(),
    tol: Number = 1e-4,
    max_steps: Count = 200,
    start: State | None = None,
    only: Mask | None = None,
) -> Equilibrium:
    """Lets the free nodes of one example settle on E(z) + nudge * cost(z_output).

    **Arguments:**

    - `circuit`: what settles.
    - `clamp`: node name -> activity, held. What is clamped is the question.
    - `cost`: a differentiable function of the output node's activity; `nudge`, its strength beta.
    - `solver`: takes the steps.
    - `tol`: stop once the largest projected free force is no larger. The Python number 0 means
      exactly `max_steps` steps, which is cheaper under `vmap` (no example waits for another).
    - `max_steps`: may be a traced integer; compile time does not depend on it.
    - `start`: a full state to start from (default: `circuit.start(clamp)`).
    - `only`: node name -> which of its units the clamp holds; its others settle. A picture of
      which half is seen is a clamp of half a node.

    **Returns:** an `Equilibrium`; a divergence is reported in its `result`, never silent.

    Batch with `jax.vmap`: an example that has settled stops moving whatever its neighbours do,
    so its answer does not depend on its batch.
    """
    clamp, landscape, free = _landscape(circuit, clamp, cost, nudge, start, only)
    fixed = isinstance(tol, int | float) and tol == 0

    def unsettled(loop):
        _, _, step, met = loop
        return (step < max_steps) if fixed else (step < max_steps) & (met > tol)

    def advance(loop):
        before, carry, step, _ = loop
        free, carry, met = solver.step(landscape, before, carry)
        if solver.rolls_on and not fixed:
            free = {name: jnp.where(met <= tol, before[name], free[name]) for name in free}
        return free, carry, step + 1, jnp.zeros_like(met) if fixed else met

    infinite = jnp.full((), jnp.inf, _dtype(free))
    first = (free, solver.init(landscape, free), jnp.zeros((), jnp.int32), infinite)
    free, _, steps, _ = lax.while_loop(unsettled, advance, first)
    return _equilibrium(circuit, clamp, landscape, free, steps, tol)


def trace(
    circuit: AbstractCircuit,
    clamp: Clamp,
    *,
    cost: Cost | None = None,
    nudge: Number = 0.0,
    solver: AbstractSolver = Euler(),
    steps: int = 50,
    start: State | None = None,
    only: Mask | None = None,
) -> Equilibrium:
    """Settles as `settle` does and keeps every step, for figures.

    **Arguments:** as `settle`; `steps`, how many to take and keep.

    **Returns:** an `Equilibrium` whose fields have a leading axis of `steps + 1`: the start and
    the state after each step (`steps` counts them from 0).
    """
    clamp, landscape, free = _landscape(circuit, clamp, cost, nudge, start, only)
    path = _path(landscape, solver, free, steps)
    look = jax.vmap(lambda free, step: _equilibrium(circuit, clamp, landscape, free, step, 0.0))
    return look(path, jnp.arange(steps + 1, dtype=jnp.int32))


def walk(
    circuit: AbstractCircuit,
    clamp: Clamp,
    *,
    solver: AbstractSolver,
    steps: int,
    start: State | None = None,
) -> tuple[State, Equilibrium]:
    """As `trace`, but only the end is looked at: for rules that learn on the way.

    **Returns:** the free nodes' activities with a leading axis of `steps + 1`, and the
    `Equilibrium` after the last step.
    """
    clamp, landscape, free = _landscape(circuit, clamp, None, 0.0, start, None)
    path = _path(landscape, solver, free, steps)
    last = jax.tree.map(lambda z: z[-1], path)
    taken = jnp.asarray(steps, jnp.int32)
    return path, _equilibrium(circuit, clamp, landscape, last, taken, 0.0)


def _path(landscape: Landscape, solver: AbstractSolver, free: State, steps: int) -> State:
    """The free state at the start and after each of so many steps: a leading axis."""

    def advance(loop, _):
        free, carry = loop
        moved, carry, _ = solver.step(landscape, free, carry)
        return (moved, carry), moved

    _, moved = lax.scan(advance, (free, solver.init(landscape, free)), length=steps)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), free, moved)


def _landscape(
    circuit: AbstractCircuit,
    clamp: Clamp,
    cost: Cost | None,
    nudge: Number,
    start: State | None,
    only: Mask | None,
) -> tuple[State, Landscape, State]:
    """The whole clamps and the total force on the free nodes, all that is constant computed."""
    given = circuit.check_clamp(clamp)
    if cost is not None:
        circuit.node("output")
    clamp, held = _partial(given, only or {})
    begin = circuit.start(clamp) if start is None else start | clamp
    free = _hold({name: value for name, value in begin.items() if name not in clamp}, held)
    if jnp.iscomplexobj(nudge):
        free = {name: jax.lax.complex(z, jnp.zeros_like(z)) for name, z in free.items()}

    def force(free: State) -> State:
        total = circuit.force({**clamp, **free})
        pull = {name: total[name] for name in free}
        if cost is not None and "output" in free:
            pull["output"] = pull["output"] - nudge * slope(cost, free["output"])
        return pull

    def curvature(free: State) -> State:
        stiff = {name: value for name, value in circuit.curvature().items() if name in free}
        if cost is not None and "output" in free:
            # a pull towards less cost stiffens the node; a push away must not look like it
            pulled = jnp.abs(nudge) if jnp.iscomplexobj(nudge) else jnp.maximum(nudge, 0)
            stiff["output"] = stiff["output"] + pulled * _stiffness(cost, free["output"])
        return stiff

    return (
        clamp,
        Landscape(
            force=hoist(force, free),
            project=lambda state: _hold(circuit.project(state), held),
            curvature=hoist(curvature, free),
            blocks=tuple(
                block
                for group in circuit.blocks()
                if (block := tuple(n for n in group if n in free))
            ),
        ),
        free,
    )


def _partial(clamp: State, only: Mask) -> tuple[State, dict[str, tuple[jax.Array, jax.Array]]]:
    """The clamps of whole nodes, and of part of a node: (values, which units)."""
    for name, mask in only.items():
        if name not in clamp or jnp.shape(mask) != jnp.shape(clamp[name]):
            raise InputError(
                f"only[{name!r}] says which units a clamp holds: clamp {name!r} as well, with a "
                "mask of the same shape"
            )
    whole = {name: value for name, value in clamp.items() if name not in only}
    return whole, {name: (clamp[name], jnp.asarray(mask)) for name, mask in only.items()}


def _hold(state: State, held: dict[str, tuple[jax.Array, jax.Array]]) -> State:
    """The state with the held units where they are held: a bound that some units never leave."""
    return state | {
        name: jnp.where(mask, value, state[name])
        for name, (value, mask) in held.items()
        if name in state
    }


def slope(cost: Cost, output: jax.Array) -> jax.Array:
    """dC/dy; of a complex output the complex derivative, for costs that are analytic."""
    return jax.grad(cost, holomorphic=jnp.iscomplexobj(output))(output)


def _stiffness(cost: Cost, output: jax.Array) -> jax.Array:
    """sum_j |d2C/dy_i dy_j| for every unit of the output: it bounds the whole Hessian."""
    flat = jax.jacfwd(
        lambda y: slope(cost, y.reshape(output.shape)).ravel(),
        holomorphic=jnp.iscomplexobj(output),
    )(output.ravel())
    return jnp.sum(jnp.abs(flat), -1).reshape(output.shape)


def _equilibrium(
    circuit: AbstractCircuit,
    clamp: State,
    landscape: Landscape,
    free: State,
    steps: jax.Array,
    tol: Any,
) -> Equilibrium:
    state = {**clamp, **free}
    energy = jnp.real(circuit.energy(state))
    left = residual(landscape.project, free, landscape.force(free))
    finite = jnp.isfinite(left) & jnp.isfinite(energy)
    code = jnp.where(left <= tol, Result.CONVERGED, Result.MAX_STEPS)
    return Equilibrium(
        state=state,
        energy=energy,
        residual=left,
        steps=steps,
        result=jnp.where(finite, code, Result.NONFINITE).astype(jnp.int32),
    )


def _dtype(free: State) -> Any:
    """The real type in which a residual of these nodes comes."""
    return jnp.finfo(jnp.result_type(*free.values()) if free else jnp.result_type(float)).dtype
