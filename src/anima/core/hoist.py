"""What does not move is computed once.

While a circuit settles, everything that depends only on clamped nodes and synapses (the drive of
the pixels on the first layer, above all) is the same at every step. XLA does not reliably move
such work out of a loop, and asking every circuit to do it by hand would put the same special case
in each. `hoist` does it for any function: it splits the traced program by dependence on the
argument, runs the constant part at once, and returns a function that runs the rest.
"""

from collections.abc import Callable
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
    now, later = _split(jaxpr)
    defined = [*jaxpr.constvars, *(v for equation in now for v in equation.outvars)]
    wanted = {v for equation in later for v in _variables(equation.invars)}
    wanted |= set(_variables(jaxpr.outvars))
    crossing = [v for v in defined if v in wanted]

    values = _call(jaxpr, jaxpr.constvars, now, crossing, closed.consts)

    def rest(argument: Any) -> Any:
        inputs = [*crossing, *jaxpr.invars]
        given = [*values, *jax.tree.leaves(argument)]
        out = _call(jaxpr, inputs, later, jaxpr.outvars, given)
        return jax.tree.unflatten(jax.tree.structure(out_shape), out)

    return rest


def _split(jaxpr: Jaxpr) -> tuple[list[JaxprEqn], list[JaxprEqn]]:
    """The equations that do not depend on the program's argument, and those that do."""
    moving, now, later = set(jaxpr.invars), [], []
    for equation in jaxpr.eqns:
        if moving.isdisjoint(_variables(equation.invars)):
            now.append(equation)
        else:
            moving.update(equation.outvars)
            later.append(equation)
    return now, later


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
