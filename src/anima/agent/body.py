"""From the name of an assigner to the circuit that it teaches: the bodies agents are built of."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.hopfield import Hopfield
from anima.circuit.ngc import NGC
from anima.circuit.predictive import Predictive
from anima.core.errors import InputError, nearest, pick
from anima.learn.assigners import (
    ZIL,
    AbstractAssigner,
    Backprop,
    EquilibriumPropagation,
    FixedPrediction,
    NGCRule,
    PredictiveCoding,
)
from anima.settle.solvers import Euler, EvenOdd, Momentum, with_solvers

Build = Callable[..., AbstractCircuit]


@dataclasses.dataclass(frozen=True)
class Form:
    """What an assigner needs: the circuit it serves, and how agents use both.

    - `build`: a builder `mlp(sizes, *, key, ...)`; `circuit`, the arguments agents give it.
    - `assigner`: its class; `credit`, the arguments agents give it.
    """

    build: Build
    circuit: Mapping[str, Any]
    assigner: Callable[..., AbstractAssigner]
    credit: Mapping[str, Any]


_TANH = dict(activation="tanh")
_SETTLING = dict(solver=Euler(0.1), max_steps=20)
# With momentum 16 steps bring credit to the input; under a small force it is the cost's own slope.
_FORCED = dict(teach="corrected", step=0.1, solver=Momentum(0.1, 0.7), max_steps=16)
_ERROR_SYNAPSES = dict(sigma=None, bias=True, leak=0.0, rate_error=False, gate=True)
# linearised: the cost of a policy with a negative advantage bends downwards
_PHASES = dict(
    beta=0.5, scheme="centred", solver=EvenOdd(), free_steps=8, nudged_steps=4, linearise=True
)
# errors are free of force at rest, so the free phase is the prediction itself: nothing to settle
_FROM_PREDICTION = dict(
    beta=0.1, scheme="centred", solver=EvenOdd(), free_steps=1, nudged_steps=8, linearise=True
)

FORMS: dict[str, Form] = {
    "backprop": Form(Predictive.mlp, _TANH, Backprop, {}),
    "fixed-prediction": Form(Predictive.mlp, _TANH, FixedPrediction, {}),
    "predictive": Form(Predictive.mlp, _TANH, PredictiveCoding, _FORCED),
    "zil": Form(Predictive.mlp, _TANH, ZIL, {}),
    "ngc": Form(NGC.mlp, _ERROR_SYNAPSES, NGCRule, _SETTLING),
    "eqprop": Form(Hopfield.mlp, {}, EquilibriumPropagation, _PHASES),
    "eqprop-predictive": Form(Predictive.mlp, _TANH, EquilibriumPropagation, _FROM_PREDICTION),
}


def body(
    assigner: str | AbstractAssigner,
    sizes: Sequence[int],
    circuit: Mapping[str, Any] | None = None,
    credit: Mapping[str, Any] | None = None,
) -> tuple[Callable[[PRNGKeyArray], AbstractCircuit], AbstractAssigner]:
    """How to draw a circuit of these sizes, and the assigner that is to teach it.

    **Arguments:** `assigner`, a name of `FORMS` or an assigner; `sizes`, input first; `circuit`,
    arguments for the circuit's builder beyond the usual ones, and `credit`, for the named
    assigner: a solver among them may be a table that names it.

    **Raises:** `InputError` for an unknown assigner, and for arguments that are refused.
    """
    form = pick("assigner", assigner, FORMS) if isinstance(assigner, str) else _form_of(assigner)
    if credit and not isinstance(assigner, str):
        raise InputError("credit holds arguments of a named assigner: give the assigner its own")
    given = dict(form.circuit) | dict(circuit or {})

    def draw(key: PRNGKeyArray) -> AbstractCircuit:
        return form.build(tuple(sizes), **settings, key=key)

    try:
        settings = with_solvers(given)
        made = assigner
        if isinstance(made, str):
            made = form.assigner(**with_solvers(dict(form.credit) | dict(credit or {})))
        draw(jax.random.key(0))  # what cannot be built is said now
    except TypeError as error:
        raise InputError(f"{assigner}: {error}") from error
    return draw, made


def _form_of(assigner: AbstractAssigner) -> Form:
    for form in FORMS.values():
        if form.assigner is type(assigner):
            return form
    raise InputError(
        f"assigner {type(assigner).__name__} teaches no circuit that agents know: "
        f"{nearest(type(assigner).__name__, FORMS)}"
    )
