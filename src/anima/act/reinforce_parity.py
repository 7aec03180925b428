"""ngc-learn's REINFORCE synapse, number for number: for comparison, not for use.

It shares the policy and the score of `Reinforce` and departs from it in what a user would not
expect. Every call draws a *new* action and credits the given reward to that one, not to the action
that earned the reward. Weights are clipped into [0, bound] at every step, learning or not: no
mean weight can be negative, and sigma is at least 1 for non-negative inputs. A clipped action is
scored with the density of an unclipped one. The objective is scaled by 1/100. What is called a
moving average decays twice, and nothing reads it. A reset forgets the seed.

Laid down against `REINFORCESynapse` of ngclearn 3.2 (Ororbia et al.), on PyPI.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from anima.act.reinforce import Reinforce, Weights
from anima.core.functions import Activation, identity
from anima.core.types import Number, Scalar

SCALE = 1e-2
RESET_SEED = 42


class ParityState(eqx.Module):
    """What resuming needs: weights, the running average, the step count and the key."""

    weights: Weights
    accumulated: Weights
    steps: Scalar
    key: PRNGKeyArray


class ParityInfo(eqx.Module):
    """One step seen from outside: the actions drawn, the objective, the gradient that was applied.

    The gradient is of minus the objective, as the weights ascend it.
    """

    actions: Float[Array, "batch actions"]
    objective: Scalar
    gradient: Weights


class ReinforceParity(eqx.Module):
    """The published synapse, over a batch; `std` > 0 fixes sigma and [.. | W_sigma] stays idle.

    The fields mean what they do in `Reinforce`; `decay` is of the running average.
    """

    activation: Activation = eqx.field(static=True, default=identity)
    transfer: Activation = eqx.field(static=True, default=identity)
    std: float = eqx.field(static=True, default=-1.0)
    low: float = -jnp.inf
    high: float = jnp.inf
    rate: float = 1e-4
    decay: float = 0.99
    bound: float = 1.0

    def init(self, weights: Weights, key: PRNGKeyArray) -> ParityState:
        """**Arguments:** `weights`, [W_mu | W_sigma], which the first step clips; `key`."""
        return ParityState(weights, jnp.zeros_like(weights), jnp.zeros((), weights.dtype), key)

    def reset(self, state: ParityState) -> ParityState:
        """Forgets all but the weights, the seed included."""
        return self.init(state.weights, jax.random.PRNGKey(RESET_SEED))

    def step(
        self,
        state: ParityState,
        inputs: Float[Array, "batch inputs"],
        rewards: Float[Array, " batch"],
        learn: Number,
    ) -> tuple[ParityState, ParityInfo]:
        """Draws actions, credits `rewards` to them; `learn` is the mask, 1 or 0."""
        key, draw = jax.random.split(state.key)
        info = self._assess(state.weights, inputs, rewards, draw)
        weights = state.weights + self.rate * learn * info.gradient
        count = state.steps + 1
        kept = (count - 1) / count * self.decay * state.accumulated
        state = dataclasses.replace(
            state,
            weights=jnp.clip(weights, 0.0, self.bound),
            accumulated=kept + info.gradient / count,
            steps=count * (1 - learn),
            key=key,
        )
        return state, info

    def _assess(
        self,
        weights: Weights,
        inputs: Float[Array, "batch inputs"],
        rewards: Float[Array, " batch"],
        key: PRNGKeyArray,
    ) -> ParityInfo:
        synapse = self._synapse(weights)
        mean, std = jax.vmap(synapse.policy)(inputs)
        drawn = mean + std * jax.random.normal(key, mean.shape, mean.dtype)
        actions = jnp.clip(drawn, self.low, self.high)
        log_probs = jax.vmap(synapse.log_prob)(inputs, actions)
        scores = jax.vmap(synapse.score)(inputs, actions)[0]
        gradient = SCALE * jnp.mean(rewards[:, None, None] * scores, axis=0)
        idle = weights.shape[1] - gradient.shape[1]
        return ParityInfo(
            actions=actions,
            objective=-SCALE * jnp.mean(log_probs * rewards),
            gradient=jnp.pad(gradient, ((0, 0), (0, idle))),
        )

    def _synapse(self, weights: Weights) -> Reinforce:
        fixed = self.std > 0
        used = weights[:, : weights.shape[1] // 2] if fixed else weights
        return Reinforce(used, self.activation, self.transfer, self.std if fixed else None)
