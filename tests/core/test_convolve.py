"""The convolution against JAX's own: values, derivatives to second order, batches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from anima.core.convolve import convolve

CASES = [(6, 3, 1, 1), (8, 3, 2, 0), (6, 2, 3, 1), (5, 5, 2, 3), (5, 1, 2, 0)]


def reference(images, kernel, stride, pad):
    layout = ("NHWC", "HWIO", "NHWC")
    around = [(pad, pad)] * 2
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), around, dimension_numbers=layout
    )


def drawn(getkey, size, kernel):
    """The width is not the height, so that a confusion of axes shows."""
    images = jax.random.normal(getkey(), (2, size, size + 1, 2))
    return images, jax.random.normal(getkey(), (kernel, kernel, 2, 3))


def same(one, other):
    close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11)
    jax.tree.map(close, one, other)


@pytest.mark.parametrize(("size", "kernel", "stride", "pad"), CASES)
def test_values_and_derivatives_are_those_of_jax(size, kernel, stride, pad, getkey):
    """Reverse mode, forwards over it and reverse over it, along one direction."""
    at, way = drawn(getkey, size, kernel), drawn(getkey, size, kernel)

    @partial(jax.jit, static_argnums=0)
    def look(one, at, way):
        f = lambda images, kernel: jnp.sum(jnp.tanh(one(images, kernel, stride, pad)) ** 3)
        slope = jax.grad(f, (0, 1))
        along = lambda *at: sum(jnp.vdot(a, b) for a, b in zip(slope(*at), way, strict=True))
        twice = jax.jvp(slope, at, way)[1], jax.grad(along, (0, 1))(*at)
        return one(*at, stride, pad), slope(*at), twice

    same(look(convolve, at, way), look(reference, at, way))


@pytest.mark.parametrize("axes", [(1, None), (None, 2), (1, 0)])
def test_batches_of_images_of_kernels_and_of_both(axes, getkey):
    many = [drawn(getkey, 5, 3) for _ in range(4)]
    images, kernels = ([pair[i] for pair in many] for i in (0, 1))
    stacked = [
        jnp.stack(each, axis) if axis is not None else each[0]
        for each, axis in zip((images, kernels), axes, strict=True)
    ]
    got = jax.vmap(lambda *at: convolve(*at, 2, 1), axes)(*stacked)
    for i in range(4):
        at = [e[i] if a is not None else e[0] for e, a in zip((images, kernels), axes, strict=True)]
        same(got[i], reference(*at, 2, 1))
