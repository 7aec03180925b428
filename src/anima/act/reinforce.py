"""The REINFORCE synapse: three factors change it, what went in, how surprising the act was, reward.

A stochastic synapse is a policy by itself, and learns from a scalar that everyone hears:

    mu = f(a W_mu),  log sigma = clip(a W_sigma, -10, 2),  a = phi(x),  o = mu + sigma xi
    d log p(o)/dW_mu    = a^T ((o - mu)/sigma^2 f'(a W_mu))
    d log p(o)/dW_sigma = a^T (((o - mu)/sigma)^2 - 1)          (0 where log sigma is clipped)

(Williams, 1992). `act` draws an action and writes its score into an eligibility trace;
`reinforce` multiplies the trace by the reward whenever that comes. So the reward credits the action
that was carried out, and with a trace that decays by gamma every action is credited with its own
discounted return. `reinforce_parity.py` has the published synapse that departs from this.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anima.core.errors import InputError, check_fraction, check_positive
from anima.core.functions import Activation, identity
from anima.core.types import Number, Scalar

LOG_STD = (-10.0, 2.0)
"""Where log sigma is held."""

Weights = Float[Array, "inputs outputs"]
"""[W_mu | W_sigma], inputs x 2 actions; with a fixed sigma W_mu alone, inputs x actions."""


class ReinforceState(eqx.Module):
    """What the synapse remembers between an act and its reward.

    - `eligibility`: e = decay e + score, shaped like the weights.
    - `accumulated`: the sum of reward x eligibility since the last change of weights, and
      `steps`, the number of rewards in it.
    - `pressure`: d log p/dx of the last act: which input would have made it likelier.
    """

    eligibility: Weights
    accumulated: Weights
    steps: Int[Array, ""]
    pressure: Float[Array, " inputs"]


class Reinforce(eqx.Module):
    """A synapse from `inputs` to a Gaussian action, for ONE example.

    - `weights`: signed; [W_mu | W_sigma], or W_mu alone where `std` fixes sigma.
    - `activation` phi of the input, `transfer` f of the mean.
    - `low`, `high`: the world's bounds on an action. What is carried out is clipped to them, what
      is scored is what was drawn: the clipping belongs to the world, and the estimate stays that of
      the policy's gradient.
    - `rate`: the learning rate. - `decay`: of the trace, gamma or gamma lambda; 0 for a bandit.
    - `bound`: a soft bound on |W|: a change shrinks with the room left, by 1 - |W|/bound outwards
      and 1 + |W|/bound inwards (Kistler and van Hemmen, 2000). Infinite: no bound.
    """

    weights: Weights
    activation: Activation = eqx.field(static=True, default=identity)
    transfer: Activation = eqx.field(static=True, default=identity)
    std: Number | None = None
    low: Number = -jnp.inf
    high: Number = jnp.inf
    rate: Number = 1e-2
    decay: Number = 0.0
    bound: Number = jnp.inf

    def __check_init__(self):
        check_positive("Reinforce", rate=self.rate, bound=self.bound)
        check_fraction("Reinforce", decay=self.decay)
        if self.std is not None:
            check_positive("Reinforce", std=self.std)
        numbers = all(isinstance(end, int | float) for end in (self.low, self.high))
        if numbers and not self.low < self.high:
            raise InputError(f"Reinforce: low is {self.low}, high {self.high}: give low < high")
        if self.std is None and self.weights.shape[-1] % 2:
            raise InputError(
                f"Reinforce: weights of shape {self.weights.shape} cannot hold [W_mu | W_sigma]: "
                "give an even number of columns, or a fixed std"
            )

    @classmethod
    def dense(
        cls, inputs: int, actions: int, *, key: PRNGKeyArray, std: float | None = None, **settings
    ) -> "Reinforce":
        """W_mu ~ N(0, 1/inputs) and W_sigma = 0, so that sigma = 1 everywhere at birth.

        **Arguments:** `settings`, any other field. **Raises:** `InputError` for bad sizes.
        """
        check_positive("Reinforce", inputs=inputs, actions=actions)
        weights = jax.random.normal(key, (inputs, actions)) / jnp.sqrt(inputs)
        if std is None:
            weights = jnp.concatenate([weights, jnp.zeros((inputs, actions))], axis=1)
        return cls(weights, std=std, **settings)

    def init(self) -> ReinforceState:
        """Nothing eligible, nothing accumulated: before the first act, and after a reset."""
        zero = jnp.zeros_like(self.weights)
        return ReinforceState(zero, zero, jnp.zeros((), jnp.int32), zero[:, 0])

    def policy(
        self, inputs: Float[Array, " inputs"]
    ) -> tuple[Float[Array, " actions"], Float[Array, " actions"]]:
        """(mu, sigma) of the action."""
        drive, log_std = self._drives(self.activation(inputs))
        return self.transfer(drive), self._std(log_std)

    def log_prob(self, inputs: Float[Array, " inputs"], drawn: Float[Array, " actions"]) -> Scalar:
        """log N(drawn; mu, sigma^2), in nats."""
        mean, std = self.policy(inputs)
        surprise = (drawn - mean) / std
        return -jnp.sum(surprise**2 / 2 + jnp.log(std) + jnp.log(2 * jnp.pi) / 2)

    def score(
        self, inputs: Float[Array, " inputs"], drawn: Float[Array, " actions"]
    ) -> tuple[Weights, Float[Array, " inputs"]]:
        """d log p(drawn) / d weights, and d log p(drawn) / d inputs, the drawn action held."""
        active, slope = _with_slope(self.activation, inputs)
        drive, log_std = self._drives(active)
        mean, bent = _with_slope(self.transfer, drive)
        std = self._std(log_std)
        surprise = (drawn - mean) / std
        post = surprise / std * bent
        if self.std is None:
            held = (log_std < LOG_STD[0]) | (log_std > LOG_STD[1])
            post = jnp.concatenate([post, jnp.where(held, 0.0, surprise**2 - 1)])
        return jnp.outer(active, post), slope * (self.weights @ post)

    def act(
        self, state: ReinforceState, inputs: Float[Array, " inputs"], key: PRNGKeyArray
    ) -> tuple[ReinforceState, Float[Array, " actions"]]:
        """Draws an action and makes the synapse eligible for its reward.

        **Returns:** the new state and the action, inside [low, high].
        """
        drawn = self.draw(inputs, key)
        return self.eligible(state, inputs, drawn), jnp.clip(drawn, self.low, self.high)

    def draw(self, inputs: Float[Array, " inputs"], key: PRNGKeyArray) -> Float[Array, " actions"]:
        """An action as it is scored, before it is clipped; nothing becomes eligible by it alone."""
        mean, std = self.policy(inputs)
        return mean + std * jax.random.normal(key, mean.shape, mean.dtype)

    def eligible(
        self,
        state: ReinforceState,
        inputs: Float[Array, " inputs"],
        drawn: Float[Array, " actions"],
    ) -> ReinforceState:
        """The synapse eligible for the reward of an action that it drew."""
        score, pressure = self.score(inputs, drawn)
        trace = self.decay * state.eligibility + score
        return dataclasses.replace(state, eligibility=trace, pressure=pressure)

    def reinforce(
        self,
        state: ReinforceState,
        reward: Number,
        *,
        learn: bool | Bool[Array, ""] = True,
        ended: bool | Bool[Array, ""] = False,
    ) -> tuple["Reinforce", ReinforceState]:
        """Credits a reward to what is eligible.

        **Arguments:** `reward`, best less a baseline (an advantage or a TD error will do); `learn`,
        the learning mask: while it is false the gradient is only accumulated, and when it is true
        the mean of what was accumulated changes the weights; `ended`, whether the episode is over,
        so that nothing before stays eligible.

        **Returns:** the synapse and its state.
        """
        learn, ended = jnp.asarray(learn), jnp.asarray(ended)
        total, steps = state.accumulated + reward * state.eligibility, state.steps + 1
        mean = total / steps.astype(total.dtype)
        weights = jnp.where(learn, self._bounded(self.rate * mean), self.weights)
        state = ReinforceState(
            eligibility=jnp.where(ended, jnp.zeros_like(total), state.eligibility),
            accumulated=jnp.where(learn, jnp.zeros_like(total), total),
            steps=jnp.where(learn, 0, steps),
            pressure=state.pressure,
        )
        return dataclasses.replace(self, weights=weights), state

    def target(
        self, state: ReinforceState, inputs: Float[Array, " inputs"], reward: Number
    ) -> Float[Array, " inputs"]:
        """x + reward d log p/dx: what whatever lies below should have sent for the last act.

        This is how synapses stack: a circuit below that learns 1/2 |x - target|^2, by any assigner,
        follows the gradient of -reward log p. Another `Reinforce` below needs no target: its own
        trace and the same reward serve it.
        """
        return inputs + reward * state.pressure

    def _drives(
        self, active: Float[Array, " inputs"]
    ) -> tuple[Float[Array, " actions"], Float[Array, " actions"]]:
        """(a W_mu, a W_sigma); where sigma is fixed nothing reads the second."""
        drive = active @ self.weights
        if self.std is not None:
            return drive, drive
        mean, log_std = jnp.split(drive, 2)
        return mean, log_std

    def _std(self, log_std: Float[Array, " actions"]) -> Float[Array, " actions"]:
        if self.std is not None:
            return jnp.full_like(log_std, self.std)
        return jnp.exp(jnp.clip(log_std, *LOG_STD))

    def _bounded(self, change: Weights) -> Weights:
        room = 1 - jnp.sign(change) * self.weights / self.bound
        return jnp.clip(self.weights + change * room, -self.bound, self.bound)


def _with_slope(function: Activation, z: Float[Array, " n"]):
    return jax.jvp(function, (z,), (jnp.ones_like(z),))
