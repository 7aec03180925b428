"""Synapses for images: convolution, pooling, and circuits that begin with layers of them.

Images are (height, width, channels), channels last, as data sets store them. A convolution moves
one small kernel over its image; a pool wraps any synapse whose drive is an image and keeps the
largest or the mean of each window. Both act *inside* the interaction of two nodes, which in a
symmetric circuit is <s_j, P(K * s_i)>: what j sends back to i is the transposed convolution of
the unpooling, with each value routed to where its maximum was (Ernoult et al., 2019; Laborieux et
al., 2021). Nothing here says so: it is the gradient of the energy.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import reduce

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from anima.circuit.graph import AbstractSynapse, Dense, Node, chain, edge
from anima.core.convolve import convolve
from anima.core.errors import InputError, pick
from anima.core.functions import Activation
from anima.core.types import Scalar

Sample = Callable[[PRNGKeyArray, tuple[int, ...]], Float[Array, "..."]]
"""Initial weights of a shape whose last axis is the receiving one."""


class Conv(AbstractSynapse):
    """K * s: y[p, q, o] = sum_{u, v, c} K[u, v, c, o] s[p stride + u, q stride + v, c].

    - `weight`: the kernel K, (height, width, in, out).
    - `stride`: pixels from one window to the next. - `padding`: zeros put around the image, on
      each side. Both hold for rows and columns alike.

    **Raises:** `InputError` for a stride below 1, a negative padding, and, when it is called, for
    an image of other channels or smaller than the kernel.
    """

    weight: Float[Array, "kh kw in out"]
    stride: int = eqx.field(static=True, default=1)
    padding: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        _check_steps("Conv", stride=self.stride, padding=self.padding)

    def __call__(self, rate: Float[Array, "..."]) -> Float[Array, "h w out"]:
        *kernel, inward, _ = self.weight.shape
        if rate.ndim != 3 or rate.shape[2] != inward:
            raise InputError(
                f"a convolution of {inward} channels was given a rate of shape {rate.shape}: "
                f"it must be (height, width, {inward})"
            )
        for size, window in zip(rate.shape, kernel, strict=False):
            windows(size, window, self.stride, self.padding)
        return convolve(rate[None], self.weight, self.stride, self.padding)[0]

    def norm(self) -> Scalar:
        """The norm over all frequencies of the kernel's Fourier transform, from above.

        On an image without borders the singular values are those of the (in, out) matrices
        sum_uv K[u, v] exp(-i (u a + v b)); borders and strides only take values away. A
        trigonometric polynomial of degree d that reaches M is at least M cos(d t) at a distance t
        (M. Riesz, 1914), so N frequencies along an axis miss at most a factor 1 / cos(d pi / N).
        """
        kernel, grid = self.weight.shape[:2], [4 * k for k in self.weight.shape[:2]]
        symbol = jnp.fft.rfft2(self.weight, grid, axes=(0, 1))
        missed = math.prod(
            math.cos(math.pi * (k // 2) / n) for k, n in zip(kernel, grid, strict=True)
        )
        return jnp.max(spectral(symbol)) / missed


class Pool(AbstractSynapse):
    """The largest or the mean of each window of the drive that `inner` sends, channel by channel.

    - `inner`: any synapse whose drive is an image (h, w, c).
    - `kind`: `"max"` or `"average"`. Where several are the largest, they share what comes back.
    - `size`, `stride`: of the windows, in pixels, for rows and columns alike. Rows and columns
      that fill no window are left out.

    **Raises:** `InputError` for an unknown kind, a size or a stride below 1, and, when it is
    called, for a drive that is no image or smaller than a window.
    """

    inner: AbstractSynapse
    kind: str = eqx.field(static=True, default="max")
    size: int = eqx.field(static=True, default=2)
    stride: int = eqx.field(static=True, default=2)

    def __check_init__(self):
        pick("pool", self.kind, _POOLS)
        _check_steps("Pool", size=self.size, stride=self.stride)

    def __call__(self, rate: Float[Array, "..."]) -> Float[Array, "h w c"]:
        drive = self.inner(rate)
        if drive.ndim != 3:
            raise InputError(
                f"a pool was given a drive of shape {drive.shape}: it must be (height, width, "
                "channels)"
            )
        join, share, _ = _POOLS[self.kind]
        for axis in (0, 1):  # a window's rows, then its columns: 2 size values and not size^2
            count = windows(drive.shape[axis], self.size, self.stride, 0)
            reach = self.stride * (count - 1) + 1
            taken = [
                lax.slice_in_dim(drive, first, first + reach, self.stride, axis)
                for first in range(self.size)
            ]
            drive = reduce(join, taken) * share(self.size)
        return drive

    def norm(self) -> Scalar:
        """How far apart two drives can end, at most, for two rates a distance 1 apart.

        A pixel lies in at most m = ceil(size / stride)^2 windows, so that taking the largest has
        the Lipschitz constant sqrt(m), and taking the mean sqrt(m) / size.
        """
        _, _, shrink = _POOLS[self.kind]
        return self.inner.norm() * math.ceil(self.size / self.stride) * shrink(self.size)


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A layer of a circuit on images, as `Hopfield.conv` and `Predictive.conv` read it.

    - `channels`: how many kernels. - `kernel`: their height and width.
    - `stride`, `padding`: see `Conv`. With an odd kernel, stride 1 and padding = kernel // 2 the
      image keeps its size.
    - `pool`: `"max"`, `"average"`, or nothing; `pool_size` and `pool_stride` (default: as
      `pool_size`) are those of its windows.

    **Raises:** `InputError` for sizes or strides below 1, negative padding, an unknown pool.
    """

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pool: str | None = None
    pool_size: int = 2
    pool_stride: int | None = None

    def __post_init__(self):
        given = {name: getattr(self, name) for name in _WHOLE}
        _check_steps("Convolution", **given, padding=self.padding)
        if self.pool is not None:
            pick("pool", self.pool, _POOLS)
        if self.pool_stride is not None:
            _check_steps("Convolution", pool_stride=self.pool_stride)

    def shape(self, image: tuple[int, ...]) -> tuple[int, int, int]:
        """The shape of the node that this layer drives from an image of shape `image`.

        **Raises:** `InputError` if that is no image, or smaller than a kernel or a window.
        """
        if len(image) != 3:
            raise InputError(
                f"a convolution cannot read a node of shape {image}: it must be an image (height, "
                "width, channels), so put convolutions before dense layers"
            )
        rows, columns = (windows(n, self.kernel, self.stride, self.padding) for n in image[:2])
        if self.pool is not None:
            step = self.pool_stride or self.pool_size
            rows, columns = (windows(n, self.pool_size, step, 0) for n in (rows, columns))
        return rows, columns, self.channels

    def synapse(self, channels: int, sample: Sample, *, key: PRNGKeyArray) -> AbstractSynapse:
        """The synapse from an image of so many channels, its kernel drawn by `sample`."""
        weight = sample(key, (self.kernel, self.kernel, channels, self.channels))
        conv = Conv(weight, self.stride, self.padding)
        if self.pool is None:
            return conv
        return Pool(conv, self.pool, self.pool_size, self.pool_stride or self.pool_size)


def stack(
    shape: tuple[int, ...],
    layers: Sequence[Convolution | int],
    activation: Activation,
    output: Activation,
    sample: Sample,
    *,
    key: PRNGKeyArray,
) -> tuple[tuple[Node, ...], dict[str, AbstractSynapse]]:
    """Nodes and synapses of `input` -> `h1` -> ... -> `output`, as `layers` describe them.

    **Arguments:** `shape`, of the input node; `layers`, one for each later node: a `Convolution`,
    or a number of units, every one of which is joined to every one of the layer before; the rest
    as for `chain`; `sample`, for the initial weights.

    **Raises:** `InputError` if a layer does not fit on the one before, or there is none.
    """
    shapes: list[int | tuple[int, ...]] = [tuple(shape)]
    below = tuple(shape)
    for layer in layers:
        below = layer.shape(below) if isinstance(layer, Convolution) else (layer,)
        shapes.append(below)
    nodes = chain(shapes, activation, output)
    keys = jax.random.split(key, len(layers))
    synapses: dict[str, AbstractSynapse] = {}
    for parent, node, layer, one in zip(nodes, nodes[1:], layers, keys, strict=False):
        if isinstance(layer, Convolution):
            made = layer.synapse(parent.shape[-1], sample, key=one)
        else:
            made = Dense(sample(one, (math.prod(parent.shape), layer)))
        synapses[edge(parent.name, node.name)] = made
    return nodes, synapses


def windows(size: int, window: int, stride: int, padding: int) -> int:
    """How many windows fit along an axis; raises `InputError` if not even one does."""
    count = (size + 2 * padding - window) // stride + 1
    if count < 1:
        raise InputError(
            f"a window of {window} does not fit on {size} pixels with a padding of {padding}: "
            "make the kernel or the pool smaller, or the padding larger"
        )
    return count


def spectral(matrix: Float[Array, "..."] | jax.Array) -> Float[Array, "..."]:
    """An upper bound on the largest singular values of (..., n, m) real or complex matrices.

    With G the smaller of A A* and A* A, it is |G^8|_F^(1/16), at most rank^(1/32) too large
    (Gram iteration: Delattre et al., 2023). G is scaled first, so that its powers stay finite.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        matrix = jnp.swapaxes(matrix, -1, -2)
    real, imaginary = jnp.real(matrix), jnp.imag(matrix)
    rows = [jnp.concatenate(pair, -1) for pair in ((real, -imaginary), (imaginary, real))]
    twice = jnp.concatenate(rows, -2)  # a real matrix whose singular values are A's, each twice
    gram = twice @ jnp.swapaxes(twice, -1, -2)
    frobenius = lambda g: jnp.sqrt(jnp.sum(g * g, (-2, -1)) / 2)
    scale = jnp.maximum(frobenius(gram), jnp.finfo(gram.dtype).tiny)
    gram = gram / scale[..., None, None]
    for _ in range(3):
        gram = gram @ gram
    return jnp.sqrt(scale * frobenius(gram) ** (1 / 8))


_WHOLE = ("channels", "kernel", "stride", "pool_size")

_POOLS: dict[str, tuple[Callable, Callable[[int], float], Callable[[int], float]]] = {
    # kind: how two values join, what each counts for along an axis, the norm of a window's pool
    "max": (jnp.maximum, lambda size: 1.0, lambda size: 1.0),
    "average": (jnp.add, lambda size: 1 / size, lambda size: 1 / size),
}


def _check_steps(owner: str, **sizes: int) -> None:
    for name, value in sizes.items():
        least = 0 if name == "padding" else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(
                f"{owner}: {name} is {value!r}: it must be a whole number, at least {least}"
            )
