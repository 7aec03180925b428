"""Estimators: what an action was worth, from one trajectory. Pure functions; batch with `vmap`.

Time is the leading axis. Entry t of every array belongs to one transition: the state acted in, the
action, the reward it brought and the state it led to. A trajectory may hold several episodes, one
after the other. Where one *terminated*, nothing follows and the future is worth nothing; where it
was *truncated*, or where the trajectory stops, the future is cut off and its worth is V of the
state that was reached.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anima.core.errors import InputError, check_fraction, check_positive, pick
from anima.core.types import Number, Scalar

Series = Float[Array, " time"]
"""One number per transition."""


class Trajectory(eqx.Module):
    """Successive transitions of one environment, oldest first: every field (time,).

    The functions of this module read one trajectory. Many side by side (leading axes, the same on
    every field) are a value to carry about and to `jax.vmap` over.

    - `r_t`: the reward of each transition.
    - `v_tm1`: V of the state acted in.
    - `v_t`: V of the state *reached*, before any reset: what `truncated` bootstraps from.
    - `terminated`, `truncated`: how the transition ended its episode, if it did. Where both are
      set, the episode terminated.
    """

    r_t: Float[Array, "*batch time"]
    v_tm1: Float[Array, "*batch time"]
    v_t: Float[Array, "*batch time"]
    terminated: Bool[Array, "*batch time"]
    truncated: Bool[Array, "*batch time"]

    def __check_init__(self):
        lengths = {name: jnp.shape(value) for name, value in vars(self).items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"Trajectory: lengths differ: {lengths}: give one entry a transition")

    @property
    def ended(self) -> Bool[Array, " time"]:
        """Whether the next entry, if any, belongs to another episode."""
        return self.terminated | self.truncated

    @property
    def cut(self) -> Bool[Array, " time"]:
        """Whether the future is unseen: at a truncation and at the end of the trajectory."""
        return self.truncated.at[-1].set(True)

    @property
    def continues(self) -> Series:
        """1, and 0 where the episode terminated."""
        return 1 - self.terminated.astype(self.r_t.dtype)


def td_errors(trajectory: Trajectory, discount: Number) -> Series:
    """delta_t = r_t + gamma V(s_{t+1}) - V(s_t), without the middle term at a termination."""
    return td_targets(trajectory, discount) - trajectory.v_tm1


def td_targets(trajectory: Trajectory, discount: Number) -> Series:
    """G^(1)_t = r_t + gamma V(s_{t+1})."""
    check_fraction("td_targets", discount=discount)
    return _backup(trajectory, discount, trajectory.v_t)


def discounted_returns(trajectory: Trajectory, discount: Number) -> Series:
    """G_t = sum_k gamma^k r_{t+k} to the end of the episode, plus gamma^n V where it is cut off."""
    check_fraction("discounted_returns", discount=discount)

    def back(future, now):
        reward, value, cut, continues = now
        future = reward + discount * continues * jnp.where(cut, value, future)
        return future, future

    steps = (trajectory.r_t, trajectory.v_t, trajectory.cut, trajectory.continues)
    return jax.lax.scan(back, jnp.zeros((), trajectory.r_t.dtype), steps, reverse=True)[1]


def n_step_returns(trajectory: Trajectory, discount: Number, steps: int) -> Series:
    """G^(n)_t = r_t + .. + gamma^{n-1} r_{t+n-1} + gamma^n V(s_{t+n}), n = `steps` or to a cut."""
    check_positive("n_step_returns", steps=steps)

    def extend(_, returns):
        following = jnp.roll(returns, -1)
        return _backup(trajectory, discount, jnp.where(trajectory.cut, trajectory.v_t, following))

    return jax.lax.fori_loop(1, steps, extend, td_targets(trajectory, discount))


def gae(
    trajectory: Trajectory,
    discount: Number,
    decay: Number,
    *,
    tail: str = "longest",
) -> Series:
    """Generalised advantage estimation: A^(n) = G^(n) - V averaged over n with weights lambda^n.

    Over an episode that terminates this is sum_l (gamma lambda)^l delta_{t+l} (Schulman et al.,
    2016). Where the future is cut off after N transitions the weight of all n > N must go
    somewhere:

    - `tail="longest"`: to A^(N), which leaves the same sum. It is what PPO computes.
    - `tail="renormalise"`: to all n <= N alike, (1 - lambda)/(1 - lambda^N) sum_n lambda^(n-1)
      A^(n), that is sum_l gamma^l (lambda^l - lambda^N)/(1 - lambda^N) delta_{t+l}; at lambda = 1
      the mean of A^(1) .. A^(N). Near a cut the two differ much: lambda^N is .77 at N = 5 for .95.

    **Arguments:** `discount`, gamma; `decay`, lambda; both in [0, 1].
    """
    check_fraction("gae", discount=discount, decay=decay)
    share = pick("tail", tail, TAILS)(trajectory, decay)

    def back(following, now):
        error, share, ended = now
        advantage = error + discount * share * jnp.where(ended, 0.0, following)
        return advantage, advantage

    steps = (td_errors(trajectory, discount), share, trajectory.ended)
    return jax.lax.scan(back, jnp.zeros((), trajectory.r_t.dtype), steps, reverse=True)[1]


def lambda_returns(
    trajectory: Trajectory,
    discount: Number,
    decay: Number,
    *,
    tail: str = "longest",
) -> Series:
    """G(lambda)_t = A(lambda)_t + V(s_t), the target of TD(lambda): the G^(n) averaged as in `gae`.

    lambda = 0 gives `td_targets`, lambda = 1 (with the longest tail) `discounted_returns`.
    """
    return gae(trajectory, discount, decay, tail=tail) + trajectory.v_tm1


def eligibility_traces(
    trajectory: Trajectory,
    gradients: Float[Array, "time ..."],
    discount: Number,
    decay: Number,
) -> Float[Array, "time ..."]:
    """e_t = gamma lambda e_{t-1} + gradients_t, from zero at the start of every episode.

    With gradients dV(s_t)/dtheta, sum_t delta_t e_t (the backward view of TD(lambda)) equals
    sum_t A(lambda)_t dV(s_t)/dtheta (the forward view) if V is held meanwhile (Sutton, 1988).
    """
    check_fraction("eligibility_traces", discount=discount, decay=decay)

    def forth(trace, now):
        gradient, ended = now
        trace = discount * decay * trace + gradient
        return jnp.where(ended, jnp.zeros_like(trace), trace), trace

    return jax.lax.scan(forth, jnp.zeros_like(gradients[0]), (gradients, trajectory.ended))[1]


def optimal_baseline(returns: Series, norms: Series) -> Scalar:
    """b = E[G |grad log pi|^2] / E[|grad log pi|^2]: the constant of least gradient variance.

    **Arguments:** `norms`, the squared norm of each transition's grad log pi (Williams, 1992;
    Peters and Schaal, 2008).
    """
    return jnp.sum(returns * norms) / jnp.sum(norms)


def elapsed(trajectory: Trajectory) -> Int[Array, " time"]:
    """Transitions since the episode began, or since the trajectory did."""

    def forth(count, ended):
        return jnp.where(ended, 0, count + 1), count

    return jax.lax.scan(forth, jnp.zeros((), jnp.int32), trajectory.ended)[1]


def phi(
    choice: int,
    trajectory: Trajectory,
    discount: Number,
    *,
    q_tm1: Series | None = None,
    steps: int = 1,
    discount_state_distribution: bool = False,
) -> Series:
    """The weight Phi of each transition in grad V = sum_tau E[Phi_tau grad log pi(a_tau|s_tau)].

    1. the return from the start of the episode, for every transition of it;
    2. the return from the transition on, G_tau;
    3. G_tau - b(s_tau), the baseline being `v_tm1`;
    4. Q(s_tau, a_tau), given as `q_tm1`;
    5. Q - V;
    6. r_tau + .. + gamma^n V(s_{tau+n}) - V(s_tau), with n = `steps`.

    **Arguments:** `discount_state_distribution`: choices 2-6 are the gradient of the discounted V
    only if transition tau counts gamma^(tau - t), tau - t the transitions since the episode began.
    By custom that factor is dropped (the default), which learns from late states as much as from
    early ones and follows no gradient of V. Choice 1 holds the factor already.

    **Raises:** `InputError` for an unknown choice, or for 4 and 5 without `q_tm1`.
    """
    check_fraction("phi", discount=discount)
    if choice in (4, 5) and q_tm1 is None:
        raise InputError(f"phi: choice {choice} weighs by Q: give q_tm1")
    if choice not in PHI:
        raise InputError(f"phi: there is no choice {choice}: give one of {list(PHI)}")
    weights = PHI[choice](trajectory, discount, q_tm1, steps)
    if choice == 1 or not discount_state_distribution:
        return weights
    return weights * discount ** elapsed(trajectory).astype(weights.dtype)


def _backup(trajectory: Trajectory, discount: Number, future: Series) -> Series:
    return trajectory.r_t + discount * trajectory.continues * future


def _total(trajectory, discount, q_tm1, steps):
    returns, age = discounted_returns(trajectory, discount), elapsed(trajectory)
    return returns[jnp.arange(age.size, dtype=age.dtype) - age]


PHI: dict[int, Callable] = {
    1: _total,
    2: lambda trajectory, discount, q_tm1, steps: discounted_returns(trajectory, discount),
    3: lambda trajectory, discount, q_tm1, steps: (
        discounted_returns(trajectory, discount) - trajectory.v_tm1
    ),
    4: lambda trajectory, discount, q_tm1, steps: q_tm1,
    5: lambda trajectory, discount, q_tm1, steps: q_tm1 - trajectory.v_tm1,
    6: lambda trajectory, discount, q_tm1, steps: (
        n_step_returns(trajectory, discount, steps) - trajectory.v_tm1
    ),
}


def _longest(trajectory: Trajectory, decay) -> Series:
    return jnp.full_like(trajectory.r_t, decay)


def _renormalised(trajectory: Trajectory, decay) -> Series:
    """lambda_t = 1 - w_t with w_t = w_{t+1}/(w_{t+1} + lambda): the weight of A^(1) among its N.

    w = 1/(1 + lambda + .. + lambda^(N-1)) is 1 at a cut and 1 - lambda for a terminating episode,
    whose N is endless. The renormalised mean then obeys A_t = delta_t + gamma lambda_t A_{t+1}.
    """

    def back(following, now):
        terminated, cut = now
        weight = jnp.where(cut, 1.0, following / (following + decay))
        weight = jnp.where(terminated, 1 - decay, weight).astype(following.dtype)
        return weight, weight

    start = jnp.ones((), trajectory.r_t.dtype)
    return 1 - jax.lax.scan(back, start, (trajectory.terminated, trajectory.cut), reverse=True)[1]


TAILS: dict[str, Callable] = {"longest": _longest, "renormalise": _renormalised}
