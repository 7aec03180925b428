"""Replay: the last transitions in a ring, sampled alike or by surprise. A pytree, so it resumes.

The ring holds rows; a row is one step of the E worlds that an agent lives in at once. Rows of one
world follow each other in time, which is what returns over several steps read.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anima.core.errors import InputError
from anima.core.types import Scalar
from anima.world.env import Spec, Transition, blank


class Sample(eqx.Module):
    """Transitions drawn from a ring.

    - `transition`: with a leading axis of the batch. For returns over several steps its `reward`
      is their discounted sum, its `following` and `terminated` those of the last, and
      `discount` what the value of `following` is to be multiplied with: gamma^k, k the steps.
    - `place`: (row, world) of each, for `Replay.surprised`.
    - `weight`: how much each should count, so that drawing by surprise does not bias what is
      learnt (1 where all were drawn alike).
    """

    transition: Transition
    discount: Float[Array, " batch"]
    place: Int[Array, "batch 2"]
    weight: Float[Array, " batch"]


class Replay(eqx.Module):
    """The ring.

    - `rows`: transitions with leading axes (rows, worlds). - `surprise`: one number each, > 0;
      `peak`, the largest yet, which new rows are given.
    - `head`: the row to be written next. - `filled`: rows that hold something.
    """

    rows: Transition
    surprise: Float[Array, "rows worlds"]
    peak: Scalar
    head: Int[Array, ""]
    filled: Int[Array, ""]

    @classmethod
    def empty(cls, spec: Spec, capacity: int, worlds: int = 1, chunk: int = 1) -> "Replay":
        """A ring for about `capacity` transitions: whole multiples of `chunk` rows.

        **Arguments:** `chunk`, how many rows every `push` brings.

        **Raises:** `InputError` for a capacity that cannot hold one chunk.
        """
        rows = capacity // worlds // chunk * chunk
        if rows < 1:
            raise InputError(
                f"replay capacity is {capacity}: it must hold {worlds * chunk} transitions at least"
            )
        zero = jnp.zeros((), jnp.int32)
        return cls(blank(spec, rows, worlds), jnp.zeros((rows, worlds)), jnp.ones(()), zero, zero)

    def push(self, chunk: Transition) -> "Replay":
        """With a chunk of rows more, over the oldest. New rows are as surprising as any yet."""
        size, count = self.surprise.shape[0], chunk.reward.shape[0]

        def write(ring, new):
            start = (self.head, *[0] * (ring.ndim - 1))
            return jax.lax.dynamic_update_slice(ring, new.astype(ring.dtype), start)

        return Replay(
            rows=jax.tree.map(write, self.rows, chunk),
            surprise=write(self.surprise, jnp.full_like(chunk.reward, self.peak)),
            peak=self.peak,
            head=(self.head + count) % size,
            filled=jnp.minimum(self.filled + count, size),
        )

    def sample(
        self,
        key: PRNGKeyArray,
        batch: int,
        *,
        discount: float = 1.0,
        steps: int = 1,
        alpha: float = 0.0,
        beta: float = 0.4,
    ) -> Sample:
        """A batch, drawn with replacement.

        **Arguments:** `discount`, gamma; `steps`, over how many steps returns reach (they stop
        where the episode does); `alpha`: the probability of a transition is proportional to
        surprise^alpha (0: all alike); `beta`: the exponent of the weights that undo it (Schaul et
        al., 2016), the largest of a batch being 1.
        """
        worlds = self.surprise.shape[1]
        usable = jnp.maximum(self.filled - (steps - 1), 1)  # whole returns only
        drawn = jax.random.uniform(key, (batch,))
        if alpha == 0:
            count = usable * worlds
            flat = jnp.minimum(jnp.floor(drawn * count).astype(jnp.int32), count - 1)
            age, world = flat // worlds, flat % worlds
            weight = jnp.ones(batch)
        else:
            age, world, weight = self._by_surprise(drawn, usable, alpha, beta)
        row = (self._oldest() + age) % self.surprise.shape[0]
        transition, factor = self._returns(row, world, discount, steps)
        return Sample(transition, factor, jnp.stack([row, world], -1), weight)

    def back(self, age: Int[Array, "*batch"]) -> Transition:
        """The first world's transitions of so many rows ago; 0 is the newest."""
        row = (self.head - 1 - age) % self.surprise.shape[0]
        return jax.tree.map(lambda ring: ring[row, 0], self.rows)

    def surprised(self, place: Int[Array, "batch 2"], surprise: Float[Array, " batch"]) -> "Replay":
        """With the surprise of some places updated."""
        new = jnp.abs(surprise) + 1e-3
        ring = self.surprise.at[place[:, 0], place[:, 1]].set(new)
        peak = jnp.maximum(self.peak, jnp.max(new))
        return Replay(self.rows, ring, peak, self.head, self.filled)

    def _oldest(self) -> Int[Array, ""]:
        return (self.head - self.filled) % self.surprise.shape[0]

    def _by_surprise(self, drawn, usable, alpha: float, beta: float):
        size, worlds = self.surprise.shape
        ages = (jnp.arange(size) - self._oldest()) % size
        mass = jnp.where((ages < usable)[:, None], self.surprise**alpha, 0).ravel()
        total = jnp.cumsum(mass)
        flat = jnp.searchsorted(total, drawn * total[-1], side="right")
        flat = jnp.minimum(flat, size * worlds - 1)
        weight = (mass[flat] / total[-1] * usable * worlds + 1e-9) ** -beta
        return ages[flat // worlds], flat % worlds, weight / jnp.max(weight)

    def _returns(
        self, row, world, discount: float, steps: int
    ) -> tuple[Transition, Float[Array, " batch"]]:
        """Transitions over several steps: rewards summed until the episode ends."""
        size = self.surprise.shape[0]
        first = jax.tree.map(lambda ring: ring[row, world], self.rows)
        last, total, factor = first, first.reward, jnp.full(first.reward.shape, discount)
        for k in range(1, steps):
            on = ~last.ended
            next_ = jax.tree.map(lambda ring, k=k: ring[(row + k) % size, world], self.rows)
            total = total + jnp.where(on, factor * next_.reward, 0)
            factor = jnp.where(on, factor * discount, factor)
            last = jax.tree.map(
                lambda new, old, on=on: jnp.where(_like(on, new), new, old), next_, last
            )
        return last._replace(
            observation=first.observation, action=first.action, reward=total
        ), factor


def _like(mask: Array, array: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))
