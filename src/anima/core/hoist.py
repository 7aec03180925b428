"""What does not move is computed once.

While a circuit settles, everything that depends only on clamped nodes and synapses (the drive of
the pixels on the first layer, above all) is the same at every step. XLA does not reliably move
such work out of a loop, and asking every circuit to do it by hand would put the same special case
in each. `hoist` does it for any function: it splits the traced program by dependence on the
argument, runs the constant part at once, and returns a function that runs the rest. `scan` does it
for a loop over rows: what depends on its row alone is done for all rows side by side.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun


def hoist(function: Callable[[Any], Any], example: Any) -> Callable[[Any], Any]:
    """Returns a function equal to `function`, with all that does not depend on its argument done.

    **Arguments:** `function`, pure, from one pytree to another, free to close over traced values;
    `example`, a pytree with the shapes of its argument.

    Calls nested in the program (a `jit` inside a `jit`) are moved whole or not at all.
    """
    closed, out_shape = jax.make_jaxpr(function, return_shape=True)(example)
    jaxpr = closed.jaxpr
    now, later = _split(jaxpr.eqns, jaxpr.invars)
    crossing = _crossing([*jaxpr.constvars, *_made(now)], later, jaxpr.outvars)
    values = _call(jaxpr, jaxpr.constvars, now, crossing, closed.consts)

    def rest(argument: Any) -> Any:
        inputs = [*crossing, *jaxpr.invars]
        given = [*values, *jax.tree.leaves(argument)]
        out = _call(jaxpr, inputs, later, jaxpr.outvars, given)
        return jax.tree.unflatten(jax.tree.structure(out_shape), out)

    return rest


def scan(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, rows: Any) -> tuple[Any, Any]:
    """`jax.lax.scan`, with all of `step` that depends on its row alone done for all rows at once.

    Chance above all: what is drawn from a row's key is drawn in one call for all rows, where a
    loop on a CPU would spend most of its time on keys. Equal up to rounding, for a pure `step` and
    generators that draw the same under `vmap` (threefry, JAX's own). As in `hoist`, nested calls
    are moved whole or not at all; what was moved is held for all rows at once.
    """
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows)
    closed, out_shape = jax.make_jaxpr(step, return_shape=True)(carry, first)
    jaxpr, count = closed.jaxpr, len(jax.tree.leaves(carry))
    row = jaxpr.invars[count:]
    early, later = _split(jaxpr.eqns, jaxpr.invars[:count])
    still, now = _split(early, row)  # the same in every row; of each row

    fixed = _crossing([*jaxpr.constvars, *_made(still)], [*now, *later], jaxpr.outvars)
    values = _call(jaxpr, jaxpr.constvars, still, fixed, closed.consts)
    crossing = _crossing(_made(now), later, jaxpr.outvars)

    def ahead(leaves: list) -> list:
        return _call(jaxpr, [*fixed, *row], now, crossing, [*values, *leaves])

    def rest(carry: Any, loop: tuple[list, list]) -> Any:
        leaves, done = loop
        given = [*values, *jax.tree.leaves(carry), *leaves, *done]
        out = _call(jaxpr, [*fixed, *jaxpr.invars, *crossing], later, jaxpr.outvars, given)
        return jax.tree.unflatten(jax.tree.structure(out_shape), out)

    leaves = jax.tree.leaves(rows)
    return jax.lax.scan(rest, carry, (leaves, jax.vmap(ahead)(leaves)))


def _split(
    equations: Sequence[JaxprEqn], arguments: Sequence
) -> tuple[list[JaxprEqn], list[JaxprEqn]]:
    """The equations that do not depend on those arguments, and those that do."""
    moving, now, later = set(arguments), [], []
    for equation in equations:
        if moving.isdisjoint(_variables(equation.invars)):
            now.append(equation)
        else:
            moving.update(equation.outvars)
            later.append(equation)
    return now, later


def _made(equations: list[JaxprEqn]) -> list:
    return [variable for equation in equations for variable in equation.outvars]


def _crossing(defined: list, equations: list[JaxprEqn], outputs: Sequence) -> list:
    """Those of the variables that these equations or outputs ask for."""
    wanted = {v for equation in equations for v in _variables(equation.invars)}
    wanted |= set(_variables(outputs))
    return [variable for variable in defined if variable in wanted]


def _variables(atoms: Any) -> list:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _call(like: Jaxpr, inputs: list, equations: list, outputs: list, values: list) -> list:
    """Runs some of a program's equations as a program of its own."""
    part = like.replace(
        constvars=[],
        invars=list(inputs),
        eqns=list(equations),
        outvars=list(outputs),
        debug_info=like.debug_info.with_unknown_names(),
    )
    return jaxpr_as_fun(ClosedJaxpr(part, []))(*values)
