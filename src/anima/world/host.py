"""gymnasium's environments, several side by side, each a world of its own on the host.

Every episode begins from a seed that is a function of the world's own seed and the episode's
number, and the actions of the present episode are kept: so the state of any deterministic
environment can be saved as a few numbers and found again by acting it out, whether or not it can
be copied.
"""

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from anima.core.errors import InputError
from anima.world.env import LONGEST, ActionSpace, Continuous, Discrete, Spec, Transition


@dataclasses.dataclass(frozen=True)
class Hosted:
    """An environment of gymnasium: its spec, and how to open worlds of it."""

    spec: Spec

    def open(self, seeds: Sequence[int], **arguments: Any) -> "Host":
        """One world per seed, each at the start of its first episode.

        `arguments` go to gymnasium's `make`.
        """
        return Host(self.spec, seeds, **arguments)


def registered() -> list[str]:
    """All names in gymnasium's registry, those of our own worlds among them."""
    return list(_gymnasium().registry)


def _gymnasium() -> Any:
    """gymnasium, with our own worlds in its registry."""
    import gymnasium

    from anima.world.export import offer

    offer()
    return gymnasium


@cache
def hosted(name: str) -> Hosted:
    """An environment by gymnasium's name.

    **Raises:** `InputError` if it is unknown, cannot be made, or has spaces that no circuit reads.
    """
    environment = build(name)
    with _silence(), _blame(name, "be closed"):
        environment.close()
    limit = environment.spec.max_episode_steps if environment.spec else None
    observation = _observation(name, environment.observation_space)
    action = _action(name, environment.action_space)
    return Hosted(Spec(name, observation, action, limit or LONGEST))


def build(name: str, **arguments: Any) -> Any:
    """A gymnasium environment, in silence; raises `InputError` if that fails."""
    gymnasium = _gymnasium()
    with _silence(), _blame(name, "be made"):
        try:
            return gymnasium.make(name, disable_env_checker=True, **arguments)
        except gymnasium.error.UnregisteredEnv as error:
            raise InputError(
                f"unknown environment {name!r}: {str(error).strip()}".replace("\n", " ")
            ) from error
        except gymnasium.error.DependencyNotInstalled as error:
            raise InputError(f"{name} needs more than is installed: {error}") from error


class Host:
    """Worlds of one environment on the host, acted upon together.

    **Arguments:** `spec`; `seeds`, one per world; `arguments`, for gymnasium's `make`.
    """

    def __init__(self, spec: Spec, seeds: Sequence[int], **arguments: Any):
        self.spec, self.seeds = spec, list(seeds)
        made = dict(max_episode_steps=spec.limit, **arguments)
        self._worlds = [build(spec.name, **made) for _ in self.seeds]
        single = self._worlds[0].observation_space
        self._reads: Callable = _one_hot(single) if _is_discrete(single) else _as_float
        action = self._worlds[0].action_space
        self._first = int(action.start) if _is_discrete(action) else 0  # type: ignore[union-attr]
        self._acts = np.int64 if isinstance(spec.action, Discrete) else np.float32
        width = () if isinstance(spec.action, Discrete) else (spec.action.size,)
        self._done = np.zeros((len(self.seeds), spec.limit, *width), self._acts)
        self._episode = np.zeros(len(self.seeds), np.int64)
        self._age = np.zeros(len(self.seeds), np.int64)
        self.observation: np.ndarray = self._reset(np.ones(len(self.seeds), bool))

    def step(self, action: np.ndarray) -> Transition:
        """One step of every world; those whose episode ended stand at the start of the next."""
        happened = self._step(np.asarray(action, self._acts))
        ended = np.asarray(happened.terminated) | np.asarray(happened.truncated)
        following = np.asarray(happened.following)
        if ended.any():
            self._episode += ended
            self._age[ended] = 0
            following = np.where(ended[:, None], self._reset(ended), following)
        self.observation = following
        return happened

    @property
    def begun(self) -> np.ndarray:
        """Which worlds stand at the start of an episode."""
        return self._age == 0

    def snapshot(self) -> dict[str, np.ndarray]:
        """What `restore` needs: each world's episode, its age, and what was done in it."""
        acts = np.where(
            np.arange(self.spec.limit).reshape(1, -1, *[1] * (self._done.ndim - 2))
            < self._age.reshape(-1, *[1] * (self._done.ndim - 1)),
            self._done,
            0,
        )
        numbers = {"episode": self._episode, "age": self._age, "acts": acts}
        return {  # 32 bits, as JAX keeps them
            name: value.astype(np.float32 if value.dtype == np.float32 else np.int32)
            for name, value in numbers.items()
        }

    def restore(self, snapshot: dict[str, np.ndarray]) -> None:
        """Back to where `snapshot` was taken, by acting out each world's present episode.

        **Raises:** `InputError` if an episode now ends earlier than it did: the environment is
        not a function of its seed and the actions.
        """
        self._episode = np.asarray(snapshot["episode"], np.int64).copy()
        ages, acts = np.asarray(snapshot["age"], np.int64), np.asarray(snapshot["acts"])
        self._age = np.zeros_like(ages)
        self.observation = self._reset(np.ones(len(ages), bool))
        for index, age in enumerate(ages):  # each by itself: they stand at different ages
            for action in acts[index, :age]:
                self.observation[index] = self._act_out(index, action)
        self._age, self._done = ages.copy(), acts.astype(self._acts).copy()

    def render(self) -> Any:
        """A picture of the first world, if it was made to draw itself."""
        with _silence(), _blame(self.spec.name, "be drawn"):
            return self._worlds[0].render()

    @property
    def rate(self) -> float:
        """Pictures a second, for a film at the world's own speed."""
        return self._worlds[0].metadata.get("render_fps") or 30

    def close(self) -> None:
        """Closes all worlds."""
        with _blame(self.spec.name, "be closed"):
            for world in self._worlds:
                world.close()

    def _step(self, action: np.ndarray) -> Transition:
        done = action
        if isinstance(self.spec.action, Continuous):
            box = self.spec.action
            done = np.clip(action, np.asarray(box.low, "f4"), np.asarray(box.high, "f4"))
        self._done[np.arange(len(action)), self._age] = done
        with _blame(self.spec.name, f"take action {done.tolist()}"):
            told = [w.step(a) for w, a in zip(self._worlds, done + self._first, strict=True)]
            seen, rewards, terminations, truncations, _ = zip(*told, strict=True)
            flat = lambda values, kind: np.array(values, kind).reshape(len(told))
            reward = flat(rewards, np.float32)
            terminated, truncated = flat(terminations, bool), flat(truncations, bool)
        self._age += 1
        following = self._read(seen)
        if not np.isfinite(reward).all():
            raise InputError(f"{self.spec.name} gave the reward {reward.tolist()}: mend it")
        truncated = (truncated | (self._age >= self.spec.limit)) & ~terminated
        return Transition(self.observation, action, reward, following, terminated, truncated)  # type: ignore[arg-type]

    def _reset(self, which: np.ndarray) -> np.ndarray:
        """What is seen as episodes begin in those worlds; 0 for the others."""
        seen = np.zeros((len(self.seeds), self.spec.observation), np.float32)
        with _silence(), _blame(self.spec.name, "be reset"):
            first = [
                self._worlds[i].reset(seed=_seed(self.seeds[i], int(self._episode[i])))[0]
                for i in np.flatnonzero(which)
            ]
        seen[which] = self._read(first)
        return seen

    def _read(self, seen: Any) -> np.ndarray:
        """The observations as float32 vectors, checked."""
        with _blame(self.spec.name, "be understood"):
            read = self._reads(seen)
        want = (len(seen), self.spec.observation)
        if read.shape != want:
            raise InputError(
                f"{self.spec.name} showed {read.shape[1:]} numbers where its space says "
                f"{want[1:]}: mend the environment"
            )
        if not np.isfinite(read).all():
            raise InputError(
                f"{self.spec.name} showed a number that is not finite at steps "
                f"{self._age.tolist()} of its episodes: mend the environment"
            )
        return read

    def _act_out(self, index: int, action: np.ndarray | np.integer) -> np.ndarray:
        environment = self._worlds[index]
        with _blame(self.spec.name, f"take action {action}"):
            seen, _, terminated, truncated, _ = environment.step(action + self._first)
        if terminated or truncated:
            raise InputError(
                f"{self.spec.name} cannot be resumed: the same seed and actions no longer lead to "
                "the same place; start a new run"
            )
        return self._reads([seen])[0]


def _seed(seed: int, episode: int) -> int:
    """The seed of a world's episode."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


def _is_discrete(space: Any) -> bool:
    import gymnasium

    return isinstance(space, gymnasium.spaces.Discrete)


def _as_float(seen: Any) -> np.ndarray:
    return np.array(seen, np.float32)


def _one_hot(space: Any) -> Callable[[Any], np.ndarray]:
    return lambda seen: np.eye(int(space.n), dtype=np.float32)[np.asarray(seen) - int(space.start)]


def _observation(name: str, space: Any) -> int:
    import gymnasium

    if _is_discrete(space):
        return int(space.n)
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        return int(space.shape[0])
    kind = type(space).__name__
    if isinstance(space, gymnasium.spaces.Box):
        kind = f"images or grids of shape {space.shape}"
    raise InputError(
        f"{name} shows {kind}: circuits here read a vector of numbers (a Box of one axis) or a "
        "Discrete state; wrap it, e.g. in gymnasium's FlattenObservation"
    )


def _action(name: str, space: Any) -> ActionSpace:
    import gymnasium

    if _is_discrete(space):
        return Discrete(int(space.n))
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        low, high = map(float, space.low), map(float, space.high)
        bounds = Continuous(tuple(low), tuple(high))
        if all(math.isfinite(bound) for bound in (*bounds.low, *bounds.high)):
            return bounds
        raise InputError(f"{name} takes actions without bounds: wrap it in gymnasium's ClipAction")
    raise InputError(
        f"{name} takes {type(space).__name__} actions: agents here give one of n (Discrete) or a "
        "bounded vector (a Box of one axis)"
    )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What an environment warns of is its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _blame(name: str, what: str) -> Iterator[None]:
    """Whatever an environment raises is bad input to us, in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300] or "no message"
        raise InputError(f"{name} could not {what}: {type(error).__name__}: {text}") from error
