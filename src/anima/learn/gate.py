"""The surprise gate, simulated dopamine: learn from what was not expected, and only from that.

Every example is looked at: the circuit answers, and what reality would add to its energy, the cost
of that answer, is its surprise. Below the threshold, sharp or blurred, nothing is learnt or even
computed. Above it the example waits until enough others have surprised to fill a batch, which is
then learnt at `gain` times the learning rate. So a step that learns nothing costs a look, and
skipped work is skipped, not multiplied by zero. (`lax.cond` keeps that promise under `scan`, not
under `vmap`.)

`Random` admits blindly, at the same rate: the control that any claim for surprise must beat.
"""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anima.core.errors import check_positive, check_range
from anima.core.types import Number, Scalar


class Waiting(eqx.Module):
    """Examples that surprised and were not learnt yet, and what the gate counted so far.

    - `inputs`, `targets`: room for 2 x batch of them; `count`: how many are there.
    - `threshold`: the gate's. - `updates`: how many batches were learnt.
    """

    inputs: Float[Array, "room ..."]
    targets: Float[Array, "room ..."]
    count: Int[Array, ""]
    threshold: Scalar
    updates: Int[Array, ""]

    @property
    def batch(self) -> int:
        """How many make an update."""
        return self.targets.shape[0] // 2

    def add(
        self,
        inputs: Float[Array, "batch ..."],
        targets: Float[Array, "batch ..."],
        admitted: Bool[Array, " batch"],
        threshold: Scalar,
    ) -> "Waiting":
        """With the admitted ones of a batch behind those that wait."""
        rank = jnp.cumsum(admitted, dtype=self.count.dtype)
        place = jnp.where(admitted, self.count + rank - 1, self.targets.shape[0])
        return Waiting(
            self.inputs.at[place].set(inputs, mode="drop"),
            self.targets.at[place].set(targets, mode="drop"),
            self.count + rank[-1],
            threshold,
            self.updates,
        )

    def served(self) -> "Waiting":
        """Without the first batch, which was learnt."""
        return Waiting(
            jnp.roll(self.inputs, -self.batch, 0),
            jnp.roll(self.targets, -self.batch, 0),
            self.count - self.batch,
            self.threshold,
            self.updates + 1,
        )


class AbstractGate(eqx.Module):
    """Which examples are let through to learning."""

    gain: eqx.AbstractVar[float]

    @abstractmethod
    def admit(
        self,
        surprise: Float[Array, " batch"],
        threshold: Scalar,
        first: Bool[Array, ""],
        *,
        key: PRNGKeyArray,
    ) -> tuple[Bool[Array, " batch"], Scalar]:
        """Who is let through, and the threshold from now on.

        **Arguments:** `surprise`, at least 0; `threshold`, as it was left; `first`, whether
        nothing was seen before; `key`, for gates that draw.
        """


class Threshold(AbstractGate):
    """Lets through what surprises more than a fixed `threshold`; learns it at `gain` x the rate."""

    threshold: Number = 0.05
    gain: Number = 1.0

    def __check_init__(self):
        check_range("Threshold", 0, float("inf"), threshold=self.threshold)
        check_positive("Threshold", gain=self.gain)

    def admit(
        self,
        surprise: Float[Array, " batch"],
        threshold: Scalar,
        first: Bool[Array, ""],
        *,
        key: PRNGKeyArray,
    ) -> tuple[Bool[Array, " batch"], Scalar]:
        fixed = jnp.asarray(self.threshold, threshold.dtype)
        return surprise > fixed, fixed


_SOFTEST = 5  # beyond, the threshold that keeps a share leaves the numbers of a float32


class Quantile(AbstractGate):
    """Lets through the most surprising `share`: the threshold runs after its quantile.

        log theta <- log theta + pace (share admitted - share)

    which needs no memory of past surprises, and rests where just `share` of them are larger. It
    begins at the quantile of the first batch.

    With `softness` s > 0 the threshold is blurred: surprise S passes with the chance
    S^(1/s) / (S^(1/s) + theta^(1/s)). Where examples are ambiguous or mislabelled the most
    surprising of all teach little; blurred, they do not come alone.
    """

    share: Number = 0.2
    pace: Number = 0.1
    gain: Number = 1.0
    softness: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        check_positive("Quantile", share=self.share, pace=self.pace, gain=self.gain)
        check_range("Quantile", 0, 1, share=self.share)
        check_range("Quantile", 0, _SOFTEST, softness=self.softness)

    def admit(
        self,
        surprise: Float[Array, " batch"],
        threshold: Scalar,
        first: Bool[Array, ""],
        *,
        key: PRNGKeyArray,
    ) -> tuple[Bool[Array, " batch"], Scalar]:
        least = jnp.finfo(threshold.dtype).tiny
        begin = jnp.maximum(jnp.quantile(surprise, 1 - self.share), least)
        threshold = jnp.where(first, begin, threshold)
        admitted = surprise > threshold
        if self.softness:
            above = jnp.log(jnp.maximum(surprise, least) / threshold)
            admitted = jax.random.bernoulli(key, jax.nn.sigmoid(above / self.softness))
        over = jnp.mean(admitted, dtype=threshold.dtype) - self.share
        return admitted, jnp.maximum(threshold * jnp.exp(self.pace * over), least)


class Random(AbstractGate):
    """Lets through `share` of the examples whatever they are: what surprise must be better than."""

    share: Number = 0.2
    gain: Number = 1.0

    def __check_init__(self):
        check_positive("Random", share=self.share, gain=self.gain)
        check_range("Random", 0, 1, share=self.share)

    def admit(
        self,
        surprise: Float[Array, " batch"],
        threshold: Scalar,
        first: Bool[Array, ""],
        *,
        key: PRNGKeyArray,
    ) -> tuple[Bool[Array, " batch"], Scalar]:
        return jax.random.bernoulli(key, self.share, surprise.shape), threshold


GATES = {"threshold": Threshold, "quantile": Quantile, "random": Random}
