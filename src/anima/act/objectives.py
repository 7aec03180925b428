"""Objectives: what one example's output is worth to an agent, as costs that any assigner takes.

Each class follows `learn/costs.py`: its fields are its settings, its `target` is what is known of
one transition, and `functools.partial(cost, target)` is a function of the output alone. Targets are
data: nothing is differentiated through them. Critics in actor costs are any differentiable
function of an action.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from anima.act.heads import AbstractHead, Categorical
from anima.core.errors import InputError, check_range
from anima.core.types import Number, Scalar
from anima.learn.costs import AbstractCost, Huber

Critic = Callable[[Any, Float[Array, " size"]], Scalar]
"""Q(observation, action), differentiable in the action."""


class Deed(eqx.Module):
    """What was done in one state and what came of it; of many states, with leading axes.

    - `action`: as the policy's head draws it. - `advantage`, (): its worth, of either sign.
    - `log_prob`, (): log pi(action) under the policy that acted; `ClippedSurrogate` needs it.
    """

    action: Shaped[Array, "..."]
    advantage: Float[Array, "*batch"]
    log_prob: Float[Array, "*batch"] | None = None


class PolicyGradient(AbstractCost):
    """C = -A log pi(a) - `entropy` H[pi], whose gradient is REINFORCE's and the actor-critic's.

    With A < 0 it can be unbounded below: see `learn.assigners.nudge_bound` before nudging by it.
    """

    head: AbstractHead
    entropy: float = 0.0

    def __check_init__(self):
        check_range("PolicyGradient", 0, float("inf"), entropy=self.entropy)

    def __call__(self, target: Deed, output: Float[Array, " width"]) -> Scalar:
        gain = target.advantage * self.head.log_prob(output, target.action)
        return -gain - _bonus(self.entropy, self.head, output)


class ClippedSurrogate(AbstractCost):
    """C = -min(rho A, clip(rho, 1 - eps, 1 + eps) A) - `entropy` H[pi], rho = pi(a)/pi_old(a).

    PPO (Schulman et al., 2017). Its gradient vanishes where the ratio has left the interval on the
    side that A pushes to. One ratio per action is a surrogate for the change of the whole
    trajectory's probability: it is the gradient of V only at pi = pi_old.
    """

    head: AbstractHead
    clip: float = 0.2
    entropy: float = 0.0

    def __check_init__(self):
        check_range("ClippedSurrogate", 0, 1, clip=self.clip)
        check_range("ClippedSurrogate", 0, float("inf"), entropy=self.entropy)

    def __call__(self, target: Deed, output: Float[Array, " width"]) -> Scalar:
        if target.log_prob is None:
            raise InputError("ClippedSurrogate compares with the policy that acted: give log_prob")
        # The min, taken on log rho: no exponential overflows on the side that is clipped away.
        log_ratio = self.head.log_prob(output, target.action) - target.log_prob
        above = jnp.minimum(log_ratio, jnp.log1p(self.clip))
        below = jnp.maximum(log_ratio, jnp.log1p(-self.clip))
        ratio = jnp.exp(jnp.where(target.advantage >= 0, above, below))
        return -ratio * target.advantage - _bonus(self.entropy, self.head, output)


class Chosen(eqx.Module):
    """The worth that an action, by its index, should have had."""

    action: Int[Array, ""]
    value: Scalar


class ActionValue(AbstractCost):
    """`cost` at the chosen action's value only; the other outputs are left alone (DQN, ANGC)."""

    cost: AbstractCost = Huber()

    def __call__(self, target: Chosen, output: Float[Array, " actions"]) -> Scalar:
        return self.cost(target.value, output[target.action])


class DeterministicActor(AbstractCost):
    """C = -Q(s, mode): DDPG's actor (Lillicrap et al., 2016). The target is the observation s."""

    head: AbstractHead
    critic: Critic

    def __call__(self, target: Any, output: Float[Array, " width"]) -> Scalar:
        return -self.critic(target, self.head.mode(output))


class Drawn(eqx.Module):
    """An observation, and the key of the one action that is drawn there."""

    observation: Any
    key: PRNGKeyArray


class StochasticActor(AbstractCost):
    """C = alpha log pi(a) - Q(s, a), a = f(output, xi) reparameterised.

    `temperature` alpha = 0 is SVG(0) (Heess et al., 2015), alpha > 0 is SAC, whose optimum is
    pi(a) ~ exp(Q/alpha) (Haarnoja et al., 2018): its entropy is over actions. For continuous heads.
    """

    head: AbstractHead
    critic: Critic
    temperature: Number = 0.0

    def __check_init__(self):
        check_range("StochasticActor", 0, float("inf"), temperature=self.temperature)
        if isinstance(self.head, Categorical):
            raise InputError(
                "StochasticActor differentiates through the action, which a Categorical head does "
                "not allow: use ExpectedActor"
            )

    def __call__(self, target: Drawn, output: Float[Array, " width"]) -> Scalar:
        action, log_prob = self.head.draw(output, target.key)
        return self.temperature * log_prob - self.critic(target.observation, action)


class ExpectedActor(AbstractCost):
    """C = sum_a pi(a) (alpha log pi(a) - Q(a)): SAC's actor over finitely many actions, exactly.

    The target is Q of every action (Christodoulou, 2019).
    """

    head: Categorical
    temperature: Number = 0.0

    def __check_init__(self):
        check_range("ExpectedActor", 0, float("inf"), temperature=self.temperature)

    def __call__(
        self, target: Float[Array, " actions"], output: Float[Array, " actions"]
    ) -> Scalar:
        return -self.head.mean(output, target) - self.temperature * self.head.entropy(output)


def temperature_cost(log_temperature: Scalar, log_prob: Scalar, target_entropy: Number) -> Scalar:
    """C = -alpha (log pi(a) + H*), with log pi held: alpha grows while the entropy is below H*."""
    surplus = jax.lax.stop_gradient(log_prob) + target_entropy
    return -jnp.exp(log_temperature) * surplus


def td_target(r_t: Scalar, terminated: Bool[Array, ""], discount: Number, v_t: Scalar) -> Scalar:
    """r + gamma v, and r alone where the episode terminated (not where it was truncated).

    With v = Q(s', a') of the next action this is SARSA's and SVG(0)'s target, with v = Q(s', mode)
    DDPG's.
    """
    return r_t + discount * (1 - terminated.astype(r_t.dtype)) * v_t


def q_target(
    r_t: Scalar,
    terminated: Bool[Array, ""],
    discount: Number,
    q_t: Float[Array, " actions"],
    selector: Float[Array, " actions"] | None = None,
) -> Scalar:
    """DQN's target r + gamma max_a q_t(a).

    **Arguments:** `q_t`, the next state's values, of the target network if there is one;
    `selector`, values that choose the action instead, those of the online network for the double
    estimate (van Hasselt et al., 2016).
    """
    best = jnp.argmax(q_t if selector is None else selector)
    return td_target(r_t, terminated, discount, q_t[best])


def soft_target(
    r_t: Scalar,
    terminated: Bool[Array, ""],
    discount: Number,
    q_t: Float[Array, " critics"],
    log_prob: Scalar,
    temperature: Number,
) -> Scalar:
    """SAC's target r + gamma (min_i q_i(s', a') - alpha log pi(a'|s')) for one drawn a'.

    **Arguments:** `q_t`, the value that each critic gives that action; two make it the twin form.
    """
    return td_target(r_t, terminated, discount, jnp.min(q_t) - temperature * log_prob)


def improved_policy(
    policy: Float[Array, " actions"], q: Float[Array, " actions"], beta: Number
) -> Float[Array, " actions"]:
    """pi* = pi_old/(nu - beta Q), nu such that it sums to 1, found by bisection.

    It maximises beta E_pi[Q] + E_old[log pi], preference against drift from what was done. As
    beta -> 0 it is pi_old (1 + beta A). A cross-entropy towards pi* is convex in the logits, so it
    has none of the instability of a negative advantage.

    **Arguments:** `policy`, pi_old: probabilities, of which a zero stays zero; `beta` >= 0.
    """
    check_range("improved_policy", 0, float("inf"), beta=beta)
    possible = policy > 0
    worth = jnp.where(possible, beta * q, -jnp.inf)
    short = jnp.where(possible, jnp.max(worth) - worth, 1.0)  # from the best action's worth

    # In x = nu - max beta Q: no term may exceed 1, and at x = 1 the terms are below pi_old.
    def halve(_, interval):
        low, high = interval
        middle = (low + high) / 2
        above = jnp.sum(policy / (middle + short)) > 1
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    start = (jnp.max(policy - short), jnp.ones((), policy.dtype))
    low, high = jax.lax.fori_loop(0, 64, halve, start)
    improved = policy / ((low + high) / 2 + short)
    return improved / jnp.sum(improved)


def _bonus(weight: float, head: AbstractHead, output: Float[Array, " width"]) -> Scalar:
    return weight * head.entropy(output)
