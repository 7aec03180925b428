"""A compiled program asks the host: once a step, in order, and once for all that is mapped over."""

import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.core.ask import ask

ONE = jax.ShapeDtypeStruct((), np.float32)


def test_it_is_asked_once_a_step_and_in_order():
    heard = []

    def answer(value):
        assert isinstance(value, np.ndarray)
        heard.append(float(value))
        return (np.float32(value) + 1,)

    def step(value, _):
        (value,) = ask(answer, (ONE,), value)
        return value, value

    last, all_ = jax.jit(lambda value: jax.lax.scan(step, value, length=4))(jnp.float32(0))
    assert float(last) == 4 and all_.tolist() == [1, 2, 3, 4]
    assert heard == [0, 1, 2, 3]


def test_mapped_over_it_is_asked_once_for_all():
    shapes = []

    def answer(one, other):
        shapes.append((one.shape, other.shape))
        return one[..., None] * np.arange(3, dtype=np.float32), other

    def asked(one, other):
        like = jax.ShapeDtypeStruct((3,), np.float32), ONE
        return ask(answer, like, one, other)

    ones, others = jnp.arange(6, dtype="f4").reshape(3, 2), jnp.asarray([7, 8], "f4")
    both = jax.vmap(jax.vmap(asked, (0, None)), (1, 0))  # the lives' axis first, whatever its place
    rows, same = jax.jit(both)(ones, others)
    assert shapes == [((2, 3), (2, 3))]
    np.testing.assert_array_equal(rows, np.asarray(ones).T[..., None] * np.arange(3))
    np.testing.assert_array_equal(same, [[7, 7, 7], [8, 8, 8]])
    assert ask(lambda a: (a,), (ONE,), np.float32(2))[0] == 2  # outside of any program too


def test_what_it_raises_ends_the_program():
    heard = []

    def answer(value):
        heard.append(float(value))
        if value == 2:
            raise ValueError("the host is on fire")
        return (value + np.float32(1),)

    def step(value, _):
        return ask(answer, (ONE,), value)[0], None

    with pytest.raises(jax.errors.JaxRuntimeError, match="on fire"):
        jax.block_until_ready(jax.lax.scan(step, jnp.float32(0), length=9))
    assert heard == [0, 1, 2]


def test_an_answer_of_another_form_is_refused():
    one, two, integer = np.zeros((), "f4"), np.zeros(2, "f4"), np.zeros((), "i4")
    for wrong in ((two,), (integer,), (one, one)):
        with pytest.raises(jax.errors.JaxRuntimeError, match=r"must be float32\[\]"):
            jax.block_until_ready(jax.jit(lambda x, w=wrong: ask(lambda _: w, (ONE,), x))(1.0))


def test_nothing_of_jax_stands_between():
    """Its checks of every answer take as long as the crossing."""
    callers = []

    def answer(value):
        callers.extend(frame.filename for frame in traceback.extract_stack())
        return (value,)

    jax.block_until_ready(jax.jit(lambda x: ask(answer, (ONE,), x))(jnp.float32(1)))
    assert ask.__code__.co_filename in callers
    assert not [name for name in callers if Path(name).parts[-2:] == ("_src", "callback.py")]
