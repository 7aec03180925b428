"""Changes of an image that keep its meaning."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def shifted(
    shape: tuple[int, ...], reach: int
) -> Callable[[Float[Array, "*n"], PRNGKeyArray], Float[Array, "*n"]]:
    """A function that moves an image, flat or not, by up to `reach` pixels, zeros coming in.

    **Arguments:** `shape`, of the image: (height, width) or (height, width, channels); `reach`,
    the largest shift; rows and columns shift independently and uniformly over -reach ... reach.
    """
    margins = [(reach, reach), (reach, reach), *[(0, 0)] * (len(shape) - 2)]

    def shift(pixels: Float[Array, "*n"], key: PRNGKeyArray) -> Float[Array, "*n"]:
        padded = jnp.pad(pixels.reshape(shape), margins)
        row, column = jax.random.randint(key, (2,), 0, 2 * reach + 1)
        begin = (row, column, *[jnp.zeros_like(row)] * (len(shape) - 2))
        return jax.lax.dynamic_slice(padded, begin, shape).reshape(pixels.shape)

    return shift
