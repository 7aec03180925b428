"""Policy heads: how the activity of an output node is read as a distribution over actions.

A head owns no synapses. Its `params` are the output node's activity for ONE example, so that a
policy is any circuit and its cost any function of a head: no assigner has to know about actions.
"""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anima.core.errors import InputError, check_positive
from anima.core.types import Scalar

Action = Float[Array, " size"] | Int[Array, ""]
"""One action: a vector for continuous heads, an index for a categorical one."""


class AbstractHead(eqx.Module):
    """A distribution over actions, parametrised by an output node's activity."""

    @property
    @abstractmethod
    def width(self) -> int:
        """How many units the output node must have."""

    @abstractmethod
    def draw(self, params: Float[Array, " width"], key: PRNGKeyArray) -> tuple[Action, Scalar]:
        """An action and its log-probability, in nats. Continuous actions are reparameterised:

        a = f(params, xi) with noise xi that does not depend on `params`, so that derivatives in
        `params` pass through the action (Kingma and Welling, 2014; Heess et al., 2015).
        """

    @abstractmethod
    def log_prob(self, params: Float[Array, " width"], action: Action) -> Scalar:
        """log pi(action), in nats."""

    @abstractmethod
    def entropy(self, params: Float[Array, " width"]) -> Scalar:
        """-E[log pi], in nats."""

    @abstractmethod
    def mode(self, params: Float[Array, " width"]) -> Action:
        """The greedy action, without noise."""

    @abstractmethod
    def curvature(self) -> tuple[Scalar, Scalar]:
        """Bounds (low, high) on every eigenvalue of d2(-log pi)/dparams2, whatever the action.

        They say how strong a nudge by this policy may be: see `stability.policy_bend`.
        """

    def sample(self, params: Float[Array, " width"], key: PRNGKeyArray) -> Action:
        """An action drawn from the policy, reparameterised where the action is continuous."""
        return self.draw(params, key)[0]


class Categorical(AbstractHead):
    """pi(a) = softmax(params)_a over `actions` choices. A logit of -inf forbids its action."""

    actions: int = eqx.field(static=True)

    def __check_init__(self):
        check_positive("Categorical", actions=self.actions)

    @property
    def width(self) -> int:
        return self.actions

    def draw(
        self, params: Float[Array, " width"], key: PRNGKeyArray
    ) -> tuple[Int[Array, ""], Scalar]:
        action = jax.random.categorical(key, params)
        return action, self.log_prob(params, action)

    def log_prob(self, params: Float[Array, " width"], action: Int[Array, ""]) -> Scalar:
        return jax.nn.log_softmax(params)[action]

    def entropy(self, params: Float[Array, " width"]) -> Scalar:
        return -self.mean(params, jax.nn.log_softmax(params))

    def mode(self, params: Float[Array, " width"]) -> Int[Array, ""]:
        return jnp.argmax(params)

    def curvature(self) -> tuple[Scalar, Scalar]:
        """diag(p) - p p^T is positive semidefinite and nowhere above 1/2."""
        return jnp.zeros(()), jnp.asarray(0.5)

    def probabilities(self, params: Float[Array, " width"]) -> Float[Array, " width"]:
        """pi(a) for every action."""
        return jax.nn.softmax(params)

    def mean(self, params: Float[Array, " width"], values: Float[Array, " width"]) -> Scalar:
        """sum_a pi(a) values_a, where a forbidden action counts nothing, even if infinite."""
        chance = self.probabilities(params)
        return jnp.sum(chance * jnp.where(chance > 0, values, 0.0))


class Gaussian(AbstractHead):
    """pi(a) = N(a; mu, diag sigma^2), a of `size` numbers.

    - `log_std`: a number or (size,) makes sigma the same in every state, and `params` is mu. With
      `None` sigma depends on the state: `params` is [mu, log sigma], twice as wide.
    - `bounds`: log sigma is held within them. Outside, its gradient is zero.
    """

    size: int = eqx.field(static=True)
    log_std: float | Float[Array, " size"] | None = None
    bounds: tuple[float, float] = eqx.field(static=True, default=(-10.0, 2.0))

    def __check_init__(self):
        check_positive("Gaussian", size=self.size)
        if not self.bounds[0] < self.bounds[1]:
            raise InputError(f"Gaussian: bounds of log sigma are {self.bounds}: give (low, high)")
        if self.log_std is not None and jnp.shape(self.log_std) not in ((), (self.size,)):
            raise InputError(
                f"Gaussian: log_std has shape {jnp.shape(self.log_std)}: give a number or one for "
                f"each of the {self.size} dimensions"
            )

    @property
    def width(self) -> int:
        return self.size * (2 if self.log_std is None else 1)

    def moments(
        self, params: Float[Array, " width"]
    ) -> tuple[Float[Array, " size"], Float[Array, " size"]]:
        """(mu, log sigma)."""
        mean = params[: self.size]
        log_std = params[self.size :] if self.log_std is None else self.log_std
        log_std = jnp.asarray(log_std, params.dtype)
        return mean, jnp.broadcast_to(jnp.clip(log_std, *self.bounds), mean.shape)

    def draw(
        self, params: Float[Array, " width"], key: PRNGKeyArray
    ) -> tuple[Float[Array, " size"], Scalar]:
        mean, log_std = self.moments(params)
        action = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)
        return action, self.log_prob(params, action)

    def log_prob(self, params: Float[Array, " width"], action: Float[Array, " size"]) -> Scalar:
        mean, log_std = self.moments(params)
        surprise = (action - mean) * jnp.exp(-log_std)
        return -jnp.sum(surprise**2 / 2 + log_std + jnp.log(2 * jnp.pi) / 2)

    def entropy(self, params: Float[Array, " width"]) -> Scalar:
        return jnp.sum(self.moments(params)[1] + (1 + jnp.log(2 * jnp.pi)) / 2)

    def mode(self, params: Float[Array, " width"]) -> Float[Array, " size"]:
        return self.moments(params)[0]

    def curvature(self) -> tuple[Scalar, Scalar]:
        """1/sigma^2 if sigma is fixed. If not, there is no bound: it grows with the surprise."""
        if self.log_std is None:
            return -jnp.asarray(jnp.inf), jnp.asarray(jnp.inf)
        precision = jnp.exp(-2 * jnp.clip(jnp.asarray(self.log_std), *self.bounds))
        return jnp.min(precision), jnp.max(precision)


class SquashedGaussian(AbstractHead):
    """a = middle + half tanh(u) with u from a `Gaussian`: actions inside (low, high).

    log pi(a) = log N(u) - sum log(da/du), where log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2u))
    stays finite for any u (Haarnoja et al., 2018, appendix C). Recovering u from an action at the
    very edge cannot be exact: `draw` gives the log-probability without that detour.

    - `gaussian`: the distribution of u. - `low`, `high`: a number, or one per dimension.
    """

    gaussian: Gaussian
    low: float | Float[Array, " size"] = -1.0
    high: float | Float[Array, " size"] = 1.0

    def __check_init__(self):
        for end in (self.low, self.high):
            if jnp.shape(end) not in ((), (self.gaussian.size,)):
                raise InputError(
                    f"SquashedGaussian: an end of the range has shape {jnp.shape(end)}: give a "
                    f"number or one for each of the {self.gaussian.size} dimensions"
                )
        traced = any(isinstance(end, Tracer) for end in (self.low, self.high))
        finite = traced or bool(jnp.all(jnp.isfinite(jnp.asarray(self.high) - self.low)))
        if not finite or not (traced or bool(jnp.all(jnp.asarray(self.low) < self.high))):
            raise InputError(
                f"SquashedGaussian: the range is {self.low} to {self.high}: give finite numbers, "
                "low < high (an unbounded action is a Gaussian's)"
            )

    @property
    def width(self) -> int:
        return self.gaussian.width

    def draw(
        self, params: Float[Array, " width"], key: PRNGKeyArray
    ) -> tuple[Float[Array, " size"], Scalar]:
        latent, log_prob = self.gaussian.draw(params, key)
        return self._squash(latent), log_prob - jnp.sum(self._log_slope(latent))

    def log_prob(self, params: Float[Array, " width"], action: Float[Array, " size"]) -> Scalar:
        middle, half = self._range(action)
        edge = 1 - jnp.finfo(action.dtype).epsneg
        latent = jnp.arctanh(jnp.clip((action - middle) / half, -edge, edge))
        return self.gaussian.log_prob(params, latent) - jnp.sum(self._log_slope(latent))

    def entropy(self, params: Float[Array, " width"]) -> Scalar:
        """H[u] + E[log da/du], the mean by the trapezoidal rule over +-8 sigma.

        The integrand's nearest pole is at i pi/2, so the error falls as exp(-pi^2/step): below
        1e-8 nats a dimension for log sigma <= 2.
        """
        mean, log_std = self.gaussian.moments(params)
        grid = jnp.linspace(-8, 8, 257, dtype=params.dtype)[:, None]
        weight = jnp.exp(-(grid**2) / 2)
        slopes = self._log_slope(mean[None] + jnp.exp(log_std)[None] * grid)
        return self.gaussian.entropy(params) + jnp.sum(slopes * weight / jnp.sum(weight))

    def mode(self, params: Float[Array, " width"]) -> Float[Array, " size"]:
        """The image of the Gaussian's mode: the squashed policy's median."""
        return self._squash(self.gaussian.mode(params))

    def curvature(self) -> tuple[Scalar, Scalar]:
        """The Gaussian's: for a given action, only N(u) depends on `params`."""
        return self.gaussian.curvature()

    def _range(self, like: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        low, high = jnp.asarray(self.low, like.dtype), jnp.asarray(self.high, like.dtype)
        shape = like.shape[-1:]
        middle, half = (low + high) / 2, (high - low) / 2
        return jnp.broadcast_to(middle, shape), jnp.broadcast_to(half, shape)

    def _squash(self, latent: Float[Array, " size"]) -> Float[Array, " size"]:
        middle, half = self._range(latent)
        return middle + half * jnp.tanh(latent)

    def _log_slope(self, latent: Float[Array, "*grid size"]) -> Float[Array, "*grid size"]:
        half = jnp.broadcast_to(self._range(latent)[1], latent.shape)
        return jnp.log(half) + 2 * (jnp.log(2.0) - latent - jax.nn.softplus(-2 * latent))
