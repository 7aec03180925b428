"""A convolution whose derivatives are convolutions of the same plain form.

XLA's CPU backend runs a convolution fast where images are (batch, height, width, channels) and
kernels (height, width, in, out) as they lie in memory. JAX's own derivative of a convolution
relabels axes instead of moving them; XLA puts that right, but not inside a loop, where everything
here happens: there it falls back on code some thirty times slower (jax-ml/jax#12868). So this
primitive moves the axes itself. It is bilinear like JAX's and has the same rules, to any order.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

Pairs = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    images: Float[Array, "n h w in"], kernel: Float[Array, "kh kw in out"], stride: int, pad: int
) -> Float[Array, "n h2 w2 out"]:
    """y[n, p, q, o] = sum_{u, v, c} kernel[u, v, c, o] images[n, p stride + u, q stride + v, c].

    **Arguments:** `pad`, zeros put around each image beforehand, on each side.
    """
    return _bind(images, kernel, (stride, stride), ((pad, pad), (pad, pad)), (1, 1), (1, 1))


def _bind(images, kernel, strides, padding: Pairs, spread, holes):
    """`spread`: gaps between pixels, `holes`: gaps between the kernel's entries (1 is none)."""
    return _convolve_p.bind(
        images, kernel, strides=strides, padding=padding, spread=spread, holes=holes
    )


def _plain(images, kernel, *, strides, padding, spread, holes):
    return lax.conv_general_dilated(
        images,
        kernel,
        window_strides=strides,
        padding=padding,
        lhs_dilation=spread,
        rhs_dilation=holes,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _to_images(back, images, kernel, *, strides, padding, spread, holes):
    """What pulls back to the images: the spread output, convolved with the kernel turned round."""
    turned = jnp.transpose(lax.rev(kernel, (0, 1)), (0, 1, 3, 2))
    size, after = images.aval.shape[1:3], back.shape[1:3]
    margins = []
    for i in range(2):
        reach = holes[i] * (kernel.shape[i] - 1)
        low = reach - padding[i][0]
        have = strides[i] * (after[i] - 1) + 1
        want = spread[i] * (size[i] - 1) + 1
        margins.append((low, want - have - low + reach))
    return _bind(back, turned, spread, tuple(margins), strides, holes)


def _to_kernel(back, images, kernel, *, strides, padding, spread, holes):
    """What pulls back to the kernel: images and output convolved, examples summed as channels."""
    swapped, window = jnp.transpose(images, (3, 1, 2, 0)), jnp.transpose(back, (1, 2, 0, 3))
    size, after = kernel.aval.shape[:2], back.shape[1:3]
    margins = []
    for i in range(2):
        low = padding[i][0]
        have = spread[i] * (images.shape[1 + i] - 1) + 1 + low
        want = strides[i] * (after[i] - 1) + 1 + holes[i] * (size[i] - 1)
        margins.append((low, want - have))
    found = _bind(swapped, window, holes, tuple(margins), spread, strides)
    return jnp.transpose(found, (1, 2, 0, 3))


def _batch(arguments, axes, **how):
    """A batch of images is more images, a batch of kernels more channels out; both: JAX's own."""
    (images, kernel), (first, last) = arguments, axes
    if first is not None and last is not None:
        return jax.vmap(partial(_plain, **how), axes)(images, kernel), 0
    if first is not None:
        images = jnp.moveaxis(images, first, 0)
        found = _convolve_p.bind(images.reshape(-1, *images.shape[2:]), kernel, **how)
        return found.reshape(*images.shape[:2], *found.shape[1:]), 0
    kernel = jnp.moveaxis(kernel, last or 0, 3)
    found = _convolve_p.bind(images, kernel.reshape(*kernel.shape[:3], -1), **how)
    return found.reshape(*found.shape[:3], *kernel.shape[3:]), 3


def _shape(images, kernel, **how) -> Any:
    found = jax.eval_shape(partial(_plain, **how), images, kernel)
    return images.update(shape=found.shape, dtype=found.dtype)


_convolve_p = Primitive("convolve")
_convolve_p.def_impl(jax.jit(_plain, static_argnames=("strides", "padding", "spread", "holes")))
_convolve_p.def_abstract_eval(_shape)
ad.defbilinear(_convolve_p, _to_images, _to_kernel)
batching.primitive_batchers[_convolve_p] = _batch
mlir.register_lowering(_convolve_p, mlir.lower_fun(_plain, multiple_results=False))
