"""Worlds: one protocol over compiled dynamics and over environments that live on the host.

A compiled world is three pure functions of one world's state (`reset`, `observe`, `step`); `begin`
and `proceed` add what every world shares: the time limit, and the start of a new episode in the
same step. An episode may end in two ways that learning must not confuse: it *terminates* (there is
no future to value) or is *truncated* (the clock stopped it; its last observation still has one).
`Transition.following` is always the observation that the action led to, never the first one of the
next episode.
"""

import dataclasses
import math
import operator
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from anima.core.errors import InputError, nearest
from anima.core.types import Given, Keys, Scalar

LONGEST = 10_000  # steps after which an episode without a limit of its own is cut


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Actions 0 .. n-1."""

    n: int

    def clip(self, action: Int[Array, "*batch"]) -> Int[Array, "*batch"]:
        """The action itself: there is nothing outside."""
        return action

    @property
    def size(self) -> int:
        """How many numbers `code` gives."""
        return self.n

    def code(self, action: Int[Array, "*batch"]) -> Float[Array, "*batch n"]:
        """The action as a circuit reads it: one-hot."""
        return jax.nn.one_hot(action, self.n)

    def decode(self, code: Float[Array, "*batch n"]) -> Int[Array, "*batch"]:
        """The action whose code is nearest."""
        return jnp.argmax(code, -1).astype(jnp.int32)

    def spread(self, uniform: Float[Array, "*batch size"]) -> Int[Array, "*batch"]:
        """Any action, all alike, of numbers drawn from U(0, 1)."""
        return jnp.minimum(jnp.floor(uniform[..., 0] * self.n).astype(jnp.int32), self.n - 1)

    def __str__(self) -> str:
        return f"{self.n} actions"


@dataclasses.dataclass(frozen=True)
class Continuous:
    """Actions in a box, `low` <= a <= `high`, in the world's own units."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def size(self) -> int:
        """How many numbers an action has."""
        return len(self.low)

    def code(self, action: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """The action as a circuit reads it: scaled to [-1, 1]."""
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        return 2 * (action - low) / (high - low) - 1

    def decode(self, code: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """The action of a `code`: its inverse, outside of [-1, 1] too."""
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        return low + (code + 1) / 2 * (high - low)

    def clip(self, action: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """The nearest action inside the box."""
        return jnp.clip(action, jnp.asarray(self.low), jnp.asarray(self.high))

    def spread(self, uniform: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """Any action, all alike, of numbers drawn from U(0, 1)."""
        return self.decode(2 * uniform - 1)

    def __str__(self) -> str:
        return f"{self.size} continuous actions"


ActionSpace = Discrete | Continuous


def box(name: str, low: Iterable[Any], high: Iterable[Any]) -> Continuous:
    """The bounds that the world `name` gives its actions.

    **Raises:** `InputError` for bounds that are not finite, or leave nothing to choose.
    """
    space = Continuous(tuple(map(float, low)), tuple(map(float, high)))
    if not all(map(math.isfinite, space.low + space.high)):
        raise InputError(
            f"{name} takes actions without bounds: wrap it, so that they have some (in gymnasium: "
            "ClipAction)"
        )
    if not space.low or any(map(operator.ge, space.low, space.high)):
        raise InputError(
            f"{name} takes actions from {list(space.low)} to {list(space.high)}, where there is "
            "nothing to choose in some number, or no number: wrap it, so that only choices are left"
        )
    return space


@dataclasses.dataclass(frozen=True)
class Spec:
    """What an agent must know of a world.

    - `name`; `observation`, how many numbers it shows; `action`, the space of what can be done.
    - `limit`: the step at which an episode is truncated.
    """

    name: str
    observation: int
    action: ActionSpace
    limit: int


class Transition(NamedTuple):
    """What happened in one step, or in many: every field may have the same leading axes.

    `action` is what the agent drew. What moved the world is the nearest to it inside the box of a
    continuous space, so that a policy can be credited with exactly what it did.
    """

    observation: Float[Array, "*batch n"]
    action: Array
    reward: Float[Array, "*batch"]
    following: Float[Array, "*batch n"]
    terminated: Bool[Array, "*batch"]
    truncated: Bool[Array, "*batch"]

    @property
    def ended(self) -> Bool[Array, "*batch"]:
        """Whether the episode ended here, one way or the other."""
        return jnp.logical_or(self.terminated, self.truncated)


def blank(spec: Spec, *shape: int) -> Transition:
    """Transitions of a world that hold zeros, with the given leading axes."""
    discrete = isinstance(spec.action, Discrete)
    return Transition(
        observation=jnp.zeros((*shape, spec.observation)),
        action=jnp.zeros(shape, jnp.int32) if discrete else jnp.zeros((*shape, spec.action.size)),
        reward=jnp.zeros(shape),
        following=jnp.zeros((*shape, spec.observation)),
        terminated=jnp.zeros(shape, bool),
        truncated=jnp.zeros(shape, bool),
    )


class AbstractWorld(eqx.Module):
    """A world whose dynamics compile. All methods are of ONE world; batch with `jax.vmap`."""

    spec: eqx.AbstractVar[Spec]

    @abstractmethod
    def reset(self, key: PRNGKeyArray) -> Any:
        """The hidden state in which an episode begins."""

    @abstractmethod
    def observe(self, state: Any) -> Float[Array, " n"]:
        """What an agent sees of a state."""

    @abstractmethod
    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Scalar, Bool[Array, ""]]:
        """(next state, reward, terminated); the time limit is not its business."""


class Moment(eqx.Module):
    """Where an episode stands: the hidden state, its age in steps, and what is seen of it; or
    where several do, with a leading axis.

    Of a world on the host the state is `None`: it stays there.
    """

    state: Any
    age: Int[Array, "*worlds"]
    observation: Float[Array, "*worlds n"]


def begin(world: AbstractWorld, key: PRNGKeyArray) -> Moment:
    """The first moment of an episode."""
    state = world.reset(key)
    return Moment(state, jnp.zeros((), jnp.int32), world.observe(state))


def proceed(
    world: AbstractWorld, moment: Moment, action: Array, keys: Keys
) -> tuple[Moment, Transition]:
    """One step of one world, and a new episode at once where this one ended.

    **Arguments:** `keys`, two: one to move by, and one to begin anew by.

    **Returns:** the moment to act upon next, and what happened.
    """
    move, again = keys
    state, reward, terminated = world.step(moment.state, world.spec.action.clip(action), move)
    next_ = Moment(state, moment.age + 1, world.observe(state))
    truncated = (next_.age >= world.spec.limit) & ~terminated
    happened = Transition(
        moment.observation, action, reward, next_.observation, terminated, truncated
    )
    fresh = begin(world, again)
    return jax.tree.map(lambda a, b: jnp.where(happened.ended, a, b), fresh, next_), happened


class AbstractWorlds:
    """Worlds side by side, as one mind lives in them; both methods can be traced."""

    @abstractmethod
    def begin(self, keys: Keys) -> Moment:
        """Where they stand at first, with an axis of worlds: a key each."""

    @abstractmethod
    def proceed(
        self, moments: Moment, actions: Array, keys: Key[Array, "worlds 2"]
    ) -> tuple[Moment, Transition]:
        """One step of each, as `proceed` has it."""


class Compiled(AbstractWorlds):
    """Worlds whose dynamics compile."""

    def __init__(self, world: AbstractWorld):
        self.world = world

    def begin(self, keys: Keys) -> Moment:
        return jax.vmap(lambda key: begin(self.world, key))(keys)

    def proceed(
        self, moments: Moment, actions: Array, keys: Key[Array, "worlds 2"]
    ) -> tuple[Moment, Transition]:
        return jax.vmap(lambda m, a, k: proceed(self.world, m, a, k))(moments, actions, keys)


class Moments(eqx.Module):
    """Running mean and variance of observations, one number a component (Welford, 1962)."""

    count: Scalar
    mean: Float[Array, " n"]
    squares: Float[Array, " n"]

    @classmethod
    def empty(cls, size: int) -> "Moments":
        """Of nothing seen yet: `normalise` is then the identity."""
        return cls(jnp.zeros(()), jnp.zeros(size), jnp.zeros(size))

    def seen(self, observations: Float[Array, "batch n"]) -> "Moments":
        """With a batch more."""
        mean = jnp.mean(observations, 0)
        squares = jnp.sum((observations - mean) ** 2, 0)
        return self.joined(Moments(jnp.asarray(float(observations.shape[0])), mean, squares))

    def joined(self, other: "Moments") -> "Moments":
        """Of both, as if all had been seen by one: Chan's parallel form of Welford's update."""
        total, gap = self.count + other.count, other.mean - self.mean
        share = other.count / jnp.maximum(total, 1)
        return Moments(
            total,
            self.mean + gap * share,
            self.squares + other.squares + gap**2 * self.count * share,
        )

    def normalise(self, observation: Float[Given, "*batch n"]) -> Float[Array, "*batch n"]:
        """(o - mean) / standard deviation, kept within +-10."""
        return jnp.clip((observation - self.mean) / self.deviation, -10, 10)

    def restore(self, normal: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
        """What `normalise` made `normal` of."""
        return self.mean + normal * self.deviation

    @property
    def deviation(self) -> Float[Array, " n"]:
        """The standard deviation, 1 before there is one."""
        variance = jnp.where(self.count > 1, self.squares / jnp.maximum(self.count, 1), 1.0)
        return jnp.sqrt(variance + 1e-8)


def make(name: str) -> Any:
    """A world by name: an `AbstractWorld` where its dynamics compile, else a `Hosted` one.

    The classic-control tasks compile; any other name is looked up in gymnasium's registry and then
    among gymnax's environments, if that is installed. `gymnasium:NAME` and `gymnax:NAME` insist.

    **Raises:** `InputError` for an unknown name, or spaces that no circuit here can read.
    """
    from anima.world.classic import COMPILED
    from anima.world.host import hosted, registered

    source, _, rest = name.partition(":")
    if source == "gymnasium" and rest:
        return hosted(rest)
    if source == "gymnax" and rest:
        return _gymnax(rest)
    if name in COMPILED:
        return COMPILED[name]()
    if name in registered() or ":" in name or "/" in name:
        return hosted(name)
    if name in gymnax_names():
        return _gymnax(name)
    known = {*COMPILED, *registered(), *gymnax_names()}
    raise InputError(f"unknown environment {name!r}: {_hint(name, known)}")


def gymnax_names() -> list[str]:
    """What gymnax offers; nothing if it is not installed."""
    try:
        from anima.world.gymnax import names
    except ImportError:
        return []
    return names()


def _gymnax(name: str) -> AbstractWorld:
    try:
        from anima.world.gymnax import adapt
    except ImportError as error:
        raise InputError(
            f"gymnax:{name} needs the gymnax extra ({error}): pip install 'anima[gymnax]'"
        ) from error
    return adapt(name)


def _hint(name: str, known: set[str]) -> str:
    """The nearest name only: a registry is too long to list in one line."""
    hint = nearest(name, known).split("(known")[0].strip()
    return hint or "gymnasium.pprint_registry() lists what there is"
