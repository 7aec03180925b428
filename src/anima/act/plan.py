"""Planning by lowest energy: imagine where actions lead, and do the first of the best of them.

    G(a_1 .. a_H) = sum_k gamma^(k-1) E(z_{k-1}, a_k, z_k),     z_k = imagine(z_{k-1}, a_k)

`imagine` is any model of a world, `E` what it costs to come to a state: how unlikely it is under
what is preferred, less what coming there would teach. Planners see actions as circuits do, as
codes (one-hot, or scaled to [-1, 1]), and are pure functions of one state: batch with `jax.vmap`.

`Exhaustive` looks at every sequence of a small set of actions and is the oracle of the others.
`CEM` and `MPPI` draw sequences around a plan and move the plan to the good ones. `Settling` lets
the actions themselves settle, under errors that each moment passes to the one before it.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anima.core.errors import InputError, check_fraction, check_positive, check_range
from anima.core.types import Scalar
from anima.world.env import ActionSpace, Discrete

Code = Float[Array, " m"]
"""An action as a circuit reads it."""

_MOST_SEQUENCES = 2**16
_MOST_STEPS = 1000


class Future(NamedTuple):
    """What can be imagined, and what it costs.

    - `imagine`: (state, action) -> next state; a state is any pytree.
    - `energy`: (state, action, next state) -> the energy of that one step.
    """

    imagine: Callable[[Any, Code], Any]
    energy: Callable[[Any, Code, Any], Scalar]


class Plan(eqx.Module):
    """What a planner found.

    - `actions`: one code for each of H decisions; the first is the one to act upon.
    - `candidates`, `energies`: the sequences that were imagined, and G of each.
    """

    actions: Float[Array, "H m"]
    candidates: Float[Array, "S H m"]
    energies: Float[Array, " S"]


def foresee(
    future: Future, state: Any, actions: Float[Array, "H m"], *, hold: int = 1, discount: float = 1
) -> tuple[Any, Float[Array, " steps"]]:
    """The states that a sequence leads to and the discounted energy of each, H x hold of them."""

    def step(loop, action):
        state, weight = loop
        following = future.imagine(state, action)
        energy = weight * future.energy(state, action, following)
        return (following, weight * discount), (following, energy)

    start = state, jnp.ones((), actions.dtype)
    return jax.lax.scan(step, start, jnp.repeat(actions, hold, axis=0))[1]


class AbstractPlanner(eqx.Module):
    """How to choose among imagined futures.

    - `space`: the actions there are. - `horizon`: decisions H ahead; `hold`: imagined steps that
      each lasts, so that the future seen is H x hold steps long. - `discount`: gamma, a step.
    """

    space: eqx.AbstractVar[ActionSpace]
    horizon: eqx.AbstractVar[int]
    hold: eqx.AbstractVar[int]
    discount: eqx.AbstractVar[float]

    def __check_init__(self):
        for name in ("horizon", "hold"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= _MOST_STEPS:
                raise InputError(f"plan.{name} is {value!r}: it must be from 1 to {_MOST_STEPS}")
        if self.horizon * self.hold > _MOST_STEPS:
            raise InputError(
                f"plan.horizon x hold is {self.horizon * self.hold} steps: at most {_MOST_STEPS}"
            )
        check_fraction("plan", discount=self.discount)

    @abstractmethod
    def begin(self) -> Any:
        """What is kept in mind when an episode begins, and between decisions: a warm start."""

    @abstractmethod
    def plan(self, future: Future, state: Any, kept: Any, *, key: PRNGKeyArray) -> tuple[Plan, Any]:
        """A plan from one state, and what to keep in mind for the next step's."""

    def total(self, future: Future, state: Any, actions: Float[Array, "H m"]) -> Scalar:
        """G of one sequence."""
        energies = foresee(future, state, actions, hold=self.hold, discount=self.discount)[1]
        return jnp.sum(energies)


class Exhaustive(AbstractPlanner):
    """Every sequence of n actions, as a tree: futures share what they have in common.

    The lowest G there is, exactly; n^H leaves.
    """

    space: ActionSpace = eqx.field(static=True)
    horizon: int = eqx.field(static=True, default=7)
    hold: int = eqx.field(static=True, default=2)
    discount: float = eqx.field(static=True, default=1.0)

    def __check_init__(self):
        if not isinstance(self.space, Discrete):
            raise InputError(
                f"the exhaustive planner needs a set of actions, not {self.space}: use cem, mppi "
                "or settling"
            )
        if self.horizon * math.log(self.space.n) > math.log(_MOST_SEQUENCES) + 1e-9:
            raise InputError(
                f"plan.horizon is {self.horizon}: {self.space.n}^{self.horizon} sequences are too "
                f"many (at most {_MOST_SEQUENCES}): lower it and raise plan.hold, or use cem or "
                "mppi"
            )

    def begin(self) -> None:
        return None

    def plan(
        self, future: Future, state: Any, kept: None, *, key: PRNGKeyArray
    ) -> tuple[Plan, None]:
        count = self.space.size
        tips = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], state)
        total, weight = jnp.zeros(1), 1.0
        for depth in range(self.horizon):
            actions = jnp.tile(jnp.eye(count), (count**depth, 1))
            tips = jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), tips)
            tips, energies = self._grow(future, tips, actions)
            total = jnp.repeat(total, count) + weight * energies
            weight *= self.discount**self.hold
        candidates = jnp.eye(count)[_digits(count, self.horizon)]
        return Plan(candidates[jnp.argmin(total)], candidates, total), None

    def _grow(self, future: Future, tips: Any, actions: Float[Array, "S m"]):
        """Each tip further by one held action, and the energy of getting there."""

        def one(state, action):
            last = lambda path: jax.tree.map(lambda leaf: leaf[-1], path)
            held = dict(hold=self.hold, discount=self.discount)
            path, energies = foresee(future, state, action[None], **held)  # type: ignore[arg-type]
            return last(path), jnp.sum(energies)

        return jax.vmap(one)(tips, actions)


class Warm(eqx.Module):
    """The plan that is left for the next step, and how long its first action has been held."""

    mean: Float[Array, "H m"]
    held: Int[Array, ""]


class CEM(AbstractPlanner):
    """The cross-entropy method: draw around the plan, keep the elite, fit the plan to it, again.

    - `samples` sequences in each of `iterations`; `elite`, the share of them that is kept.
    - `spread`: for continuous actions the first standard deviation, in halves of their range;
      for discrete ones the share of draws that disregard the plan.
    - `persist`: how much of its noise (or: how often its action) a step has from the one before.
    - `warm`: whether the last step's plan, one step on, is the next one's first.

    Rubinstein (1999); for planning with learnt models, Chua et al. (2018).
    """

    space: ActionSpace = eqx.field(static=True)
    horizon: int = eqx.field(static=True, default=15)
    hold: int = eqx.field(static=True, default=1)
    discount: float = eqx.field(static=True, default=1.0)
    samples: int = eqx.field(static=True, default=64)
    iterations: int = eqx.field(static=True, default=3)
    elite: float = eqx.field(static=True, default=0.125)
    spread: float = eqx.field(static=True, default=0.5)
    persist: float = eqx.field(static=True, default=0.7)
    warm: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        _check_drawing(self)
        check_positive("plan", elite=self.elite)
        check_fraction("plan", elite=self.elite)

    def begin(self) -> Warm:
        return Warm(_anything(self.space, self.horizon), jnp.zeros((), jnp.int32))

    def plan(
        self, future: Future, state: Any, kept: Warm, *, key: PRNGKeyArray
    ) -> tuple[Plan, Warm]:
        best = max(1, round(self.elite * self.samples))

        def improve(loop, key):
            mean, spread = loop
            drawn = _draw(self.space, mean, spread, self.persist, self.samples, key=key)
            energies = jax.vmap(lambda actions: self.total(future, state, actions))(drawn)
            elite = drawn[jax.lax.top_k(-energies, best)[1]]
            return _fit(self.space, elite, self.spread), (drawn, energies)

        start = kept.mean, jnp.full_like(kept.mean, self.spread)
        keys = jax.random.split(key, self.iterations)
        (mean, _), (drawn, energies) = jax.lax.scan(improve, start, keys)
        return _found(self, kept, mean, _flat(drawn), energies.ravel())


class MPPI(AbstractPlanner):
    """Model predictive path integral: the plan moves to the mean of what was drawn around it,
    weighted by exp(-(G - min G) / (temperature x the standard deviation of G)).

    `samples`, `iterations`, `spread`, `persist`, `warm`: as in `CEM`. The noise is AR(1) with the
    coefficient `persist`. Williams et al. (2017).
    """

    space: ActionSpace = eqx.field(static=True)
    horizon: int = eqx.field(static=True, default=20)
    hold: int = eqx.field(static=True, default=1)
    discount: float = eqx.field(static=True, default=1.0)
    samples: int = eqx.field(static=True, default=64)
    iterations: int = eqx.field(static=True, default=1)
    temperature: float = eqx.field(static=True, default=0.1)
    spread: float = eqx.field(static=True, default=0.5)
    persist: float = eqx.field(static=True, default=0.7)
    warm: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        _check_drawing(self)
        check_positive("plan", temperature=self.temperature)

    def begin(self) -> Warm:
        return Warm(_anything(self.space, self.horizon), jnp.zeros((), jnp.int32))

    def plan(
        self, future: Future, state: Any, kept: Warm, *, key: PRNGKeyArray
    ) -> tuple[Plan, Warm]:
        def improve(mean, key):
            spread = jnp.full_like(mean, self.spread)
            drawn = _draw(self.space, mean, spread, self.persist, self.samples, key=key)
            energies = jax.vmap(lambda actions: self.total(future, state, actions))(drawn)
            scale = self.temperature * jnp.maximum(jnp.std(energies), 1e-9)
            weights = jax.nn.softmax((jnp.min(energies) - energies) / scale)
            return jnp.tensordot(weights, drawn, 1), (drawn, energies)

        keys = jax.random.split(key, self.iterations)
        mean, (drawn, energies) = jax.lax.scan(improve, kept.mean, keys)
        return _found(self, kept, mean, _flat(drawn), energies.ravel())


class Settling(AbstractPlanner):
    """The actions settle: each moves against the error that the future passes back to it.

    The imagined future is a chain of moments. From its end backwards each moment hands the one
    before it an error, e_{k-1} = e_k dz_k/dz_{k-1} + dE/dz_{k-1}, and puts the pressure
    p_k = e_k dz_k/da_k + dE/da_k on its own action: the settled errors of a predictive chain
    whose predictions are held (`learn.FixedPrediction`, along time), so p is dG/da exactly, and
    nothing is read beyond a neighbouring moment. Then a <- project(a - rate p / rms(p)); a choice
    among n actions moves on the simplex, a <- a exp(-rate p / rms(p)) / Z. The rate falls to 0
    over `steps`; the lowest of all that was visited is the plan (of choices: the lowest of the
    sequences nearest to what was visited).
    """

    space: ActionSpace = eqx.field(static=True)
    horizon: int = eqx.field(static=True, default=20)
    hold: int = eqx.field(static=True, default=1)
    discount: float = eqx.field(static=True, default=1.0)
    steps: int = eqx.field(static=True, default=10)
    rate: float = eqx.field(static=True, default=0.3)
    warm: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        check_positive("plan", steps=self.steps, rate=self.rate)

    def begin(self) -> Warm:
        return Warm(_anything(self.space, self.horizon), jnp.zeros((), jnp.int32))

    def plan(
        self, future: Future, state: Any, kept: Warm, *, key: PRNGKeyArray
    ) -> tuple[Plan, Warm]:
        def move(actions, rate):
            energy, pressure = self.pressure(future, state, actions)
            size = jnp.sqrt(jnp.mean(pressure**2)) + 1e-12
            return _moved(self.space, actions, -rate * pressure / size), (actions, energy)

        rates = self.rate * (1 - jnp.arange(self.steps) / self.steps)
        last, (visited, energies) = jax.lax.scan(move, kept.mean, rates)
        visited = jnp.concatenate([visited, last[None]])
        energies = jnp.append(energies, self.total(future, state, last))
        mean = visited[jnp.argmin(energies)]
        if isinstance(self.space, Discrete):  # what counts is what can be done
            visited = _decided(self.space, visited)
            energies = jax.vmap(lambda actions: self.total(future, state, actions))(visited)
        return _found(self, kept, mean, visited, energies)

    def pressure(
        self, future: Future, state: Any, actions: Float[Array, "H m"]
    ) -> tuple[Scalar, Float[Array, "H m"]]:
        """G of a sequence and p = dG/da, by errors passed from each moment to the one before."""
        start, unravel = ravel_pytree(state)

        def moment(flat, action):
            before = unravel(flat)
            after = future.imagine(before, action)
            return ravel_pytree(after)[0], future.energy(before, action, after)

        def forward(flat, action):
            after, energy = moment(flat, action)
            return after, (energy, jax.jacfwd(moment, argnums=(0, 1))(flat, action))

        def backward(error, near):
            weight, ((along, push), (rise, cost)) = near
            pressure = error @ push + weight * cost
            return error @ along + weight * rise, pressure

        held = jnp.repeat(actions, self.hold, axis=0)
        weights = self.discount ** jnp.arange(held.shape[0], dtype=actions.dtype)
        _, (energies, near) = jax.lax.scan(forward, start, held)
        none = jnp.zeros_like(start)
        _, pressure = jax.lax.scan(backward, none, (weights, near), reverse=True)
        pressure = jnp.sum(pressure.reshape(self.horizon, self.hold, -1), 1)
        return jnp.sum(weights * energies), pressure


PLANNERS: dict[str, type[AbstractPlanner]] = {
    "exhaustive": Exhaustive,
    "cem": CEM,
    "mppi": MPPI,
    "settling": Settling,
}


def information_gain(members: Float[Array, "K n"], noise: float) -> Scalar:
    """What seeing the answer would tell of which member of an ensemble is right, in nats.

    1/2 sum_i log(1 + Var_k mu_ki / noise^2): the entropy of the members' mixture less that of
    each, bounded by Gaussians with independent components. Never negative, 0 where all agree:
    what cannot be learnt is never interesting, however noisy. `noise` is the standard deviation
    of what remains unpredictable.
    """
    return jnp.sum(jnp.log1p(jnp.var(members, axis=0) / noise**2)) / 2


# Sequences of actions: where they begin, how they are drawn, fitted and moved.


def _anything(space: ActionSpace, horizon: int) -> Float[Array, "H m"]:
    """The plan of one who knows nothing: rest, or every action alike."""
    if isinstance(space, Discrete):
        return jnp.full((horizon, space.n), 1 / space.n)
    return jnp.zeros((horizon, space.size))


def _draw(
    space: ActionSpace,
    mean: Float[Array, "H m"],
    spread: Float[Array, "H m"],
    persist: float,
    samples: int,
    *,
    key: PRNGKeyArray,
) -> Float[Array, "S H m"]:
    """Sequences around a plan, the plan itself first."""
    horizon, width = mean.shape
    if isinstance(space, Discrete):
        chance = (1 - spread) * mean + spread / width
        fresh, again = jax.random.split(key)
        logits = jnp.log(chance + 1e-12)
        drawn = jax.random.categorical(fresh, logits, shape=(samples, horizon))
        kept = jax.random.bernoulli(again, persist, (samples, horizon))
        since = jnp.where(kept, 0, jnp.arange(horizon)[None])  # the step that chose last
        chosen = jnp.take_along_axis(drawn, jax.lax.cummax(since, axis=1), axis=1)
        sequences = jax.nn.one_hot(chosen, width, dtype=mean.dtype)
    else:
        noise = jax.random.normal(key, (samples, horizon, width), mean.dtype)
        noise = jnp.einsum("kh,shm->skm", jnp.asarray(_ar1(horizon, persist), mean.dtype), noise)
        sequences = jnp.clip(mean[None] + spread[None] * noise, -1, 1)
    return sequences.at[0].set(_decided(space, mean))


def _ar1(horizon: int, persist: float) -> np.ndarray:
    """L with L n an AR(1) process of variance 1: e_k = persist e_{k-1} + sqrt(1 - persist^2) n."""
    lag = np.arange(horizon)[:, None] - np.arange(horizon)[None]
    fresh = np.where(np.arange(horizon) == 0, 1.0, np.sqrt(1 - persist**2))
    return np.where(lag >= 0, float(persist) ** np.maximum(lag, 0), 0.0) * fresh


def _fit(
    space: ActionSpace, elite: Float[Array, "E H m"], share: float
) -> tuple[Float[Array, "H m"], Float[Array, "H m"]]:
    """The elite's mean, and how far to look around it."""
    mean = jnp.mean(elite, 0)
    if isinstance(space, Discrete):
        return mean, jnp.full_like(mean, share)
    return mean, jnp.maximum(jnp.std(elite, 0), 0.05)


def _decided(space: ActionSpace, mean: Float[Array, "*H m"]) -> Float[Array, "*H m"]:
    """Actions that can be done."""
    if isinstance(space, Discrete):
        return jax.nn.one_hot(jnp.argmax(mean, -1), space.n, dtype=mean.dtype)
    return mean


def _moved(
    space: ActionSpace, actions: Float[Array, "H m"], by: Float[Array, "H m"]
) -> Float[Array, "H m"]:
    """Actions after a push, still in their box or on their simplex."""
    if isinstance(space, Discrete):
        return jax.nn.softmax(jnp.log(actions + 1e-12) + by, axis=-1)
    return jnp.clip(actions + by, -1, 1)


def _found(
    planner: "CEM | MPPI | Settling",
    kept: Warm,
    mean: Float[Array, "H m"],
    candidates: Float[Array, "S H m"],
    energies: Float[Array, " S"],
) -> tuple[Plan, Warm]:
    """The plan, and what to keep: of choices the best that was imagined, else the mean.

    Between good sequences of pushes lies a better one; between choices lies nothing.
    """
    discrete = isinstance(planner.space, Discrete)
    best = candidates[jnp.argmin(energies)] if discrete else mean
    plan = Plan(_decided(planner.space, best), candidates, energies)
    return plan, _next(planner, kept, mean) if planner.warm else kept


def _next(planner: AbstractPlanner, kept: Warm, mean: Float[Array, "H m"]) -> Warm:
    """The plan as the next step finds it: once its first action was held long enough, without it.

    The new last decision is open.
    """
    over = kept.held + 1 >= planner.hold
    shifted = jnp.concatenate([mean[1:], _anything(planner.space, 1).astype(mean.dtype)])
    held = jnp.where(over, 0, kept.held + 1)
    return Warm(jnp.where(over, shifted, mean), held.astype(kept.held.dtype))


def _digits(base: int, count: int) -> np.ndarray:
    """All sequences of `count` digits in lexical order, (base^count, count)."""
    return np.indices((base,) * count).reshape(count, -1).T


def _flat(drawn: Float[Array, "I S H m"]) -> Float[Array, "IS H m"]:
    return drawn.reshape(-1, *drawn.shape[2:])


def _check_drawing(planner: "CEM | MPPI") -> None:
    for name in ("samples", "iterations"):
        value = getattr(planner, name)
        if not isinstance(value, int) or not 1 <= value <= 100_000:
            raise InputError(f"plan.{name} is {value!r}: it must be from 1 to 100000")
    check_positive("plan", spread=planner.spread)
    check_range("plan", 0, 1, persist=planner.persist)
    if isinstance(planner.space, Discrete):
        check_fraction("plan", spread=planner.spread)
