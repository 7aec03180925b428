"""A compiled program asks the host, and waits for the answer.

JAX's own callbacks put every argument on a device and take it down again before the host sees it,
which costs several times what a small question does. Here NumPy arrays go in and come out, and
what Python sets up for a foreign thread is set up once.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir  # if its callback goes: `jax.experimental`'s, slower

Answer = Callable[..., Sequence[np.ndarray]]


def ask(answer: Answer, like: Sequence[jax.ShapeDtypeStruct], *question: Any) -> list[jax.Array]:
    """What `answer(*question)` returns on the host, when the program comes to it.

    **Arguments:** `answer`, a function that stays the same (it is part of what is compiled), from
    NumPy arrays to as many as `like` has; `like`, their shapes and types; `question`, arrays.

    Under `vmap` it is asked once for all: the question and the answer then have the axes that were
    mapped over in front, those of the question all of them.

    What it answers is copied at once: it may use the same memory again.

    Where each question depends on the answer before it, they are asked one after another, each
    once. An answer that nobody needs may not be asked for, and a question that does not depend on
    the loop that it is in may be asked before it. `answer` runs in any thread. What it raises ends
    the program, and JAX raises an error of its own.
    """
    kinds = tuple((tuple(one.shape), np.dtype(one.dtype)) for one in like)
    return _ask_p.bind(*map(jnp.asarray, question), answer=answer, kinds=kinds, axes=())


def _shapes(*question: Any, answer: Answer, kinds: tuple, axes: tuple) -> list[ShapedArray]:
    return [ShapedArray((*axes, *shape), dtype) for shape, dtype in kinds]


def _batch(question: Sequence, mapped: Sequence, *, answer: Answer, kinds: tuple, axes: tuple):
    count = next(q.shape[at] for q, at in zip(question, mapped, strict=True) if at is not None)
    whole = [
        jnp.broadcast_to(q, (count, *q.shape)) if at is None else jnp.moveaxis(q, at, 0)
        for q, at in zip(question, mapped, strict=True)
    ]
    found = _ask_p.bind(*whole, answer=answer, kinds=kinds, axes=(count, *axes))
    return found, [0] * len(found)


def _lower(context: Any, *question: Any, answer: Answer, kinds: tuple, axes: tuple) -> Any:
    hear = _hearing(answer, [((*axes, *shape), dtype) for shape, dtype in kinds])
    found, _, theirs = mlir.emit_python_callback(
        context,
        hear,
        None,
        list(question),
        context.avals_in,
        context.avals_out,
        has_side_effect=True,
    )
    # JAX wraps what it calls in checks that cost as much as the crossing: ours will do
    called = getattr(context.module_context, "host_callbacks", [])
    called[:] = [hear if one is theirs else one for one in called]
    return found


def _hearing(answer: Answer, forms: list[tuple[tuple[int, ...], np.dtype]]) -> Answer:
    """`answer`, from a thread that stays known to Python, and in the form that was promised."""

    def hear(*question: np.ndarray) -> tuple[np.ndarray, ...]:
        _stay()
        found = tuple(map(np.asarray, answer(*question)))
        told = [(one.shape, one.dtype) for one in found]
        if told != forms:
            raise TypeError(f"ask: the host answered {_said(told)}: it must be {_said(forms)}")
        return found

    return hear


def _said(forms: list[tuple[tuple[int, ...], np.dtype]]) -> str:
    return ", ".join(f"{dtype}{list(shape)}" for shape, dtype in forms)


_known = threading.local()


def _stay() -> None:
    """Lets Python keep what it has set up for this thread.

    A thread of XLA's own is unknown to Python between calls: for each, it would map memory for its
    frames and unmap it again, which takes longer than small answers do. One hold that is never let
    go of keeps it, for as long as the process lives.
    """
    if not hasattr(_known, "held"):
        ctypes.pythonapi.PyGILState_Ensure()
        _known.held = True


_ask_p = Primitive("ask")
_ask_p.multiple_results = True
_ask_p.def_abstract_eval(_shapes)
_ask_p.def_impl(lambda *question, **how: jax.jit(lambda *q: _ask_p.bind(*q, **how))(*question))
batching.primitive_batchers[_ask_p] = _batch
mlir.register_lowering(_ask_p, _lower)
