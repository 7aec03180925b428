"""gymnasium's environments, several side by side, each a world of its own on the host.

A compiled life asks the host for every step (`core.ask`), so that all the rest of it, acting and
learning, is one program here as in compiled worlds.

Every episode begins from a seed that is a function of the world's own seed and the episode's
number, and the actions of the present episode are kept: so the state of any deterministic
environment can be saved as a few numbers and found again by acting it out, whether or not it can
be copied.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from anima.core.ask import ask
from anima.core.errors import InputError
from anima.core.types import Keys
from anima.world.env import (
    LONGEST,
    AbstractWorlds,
    ActionSpace,
    Continuous,
    Discrete,
    Moment,
    Spec,
    Transition,
    box,
)


@dataclasses.dataclass(frozen=True)
class Hosted:
    """An environment of gymnasium: its spec, and how to open worlds of it.

    `reads` makes numbers of what gymnasium shows (one of n things is one-hot), `first` is what
    gymnasium calls the first of n actions.
    """

    spec: Spec
    reads: Callable[[Any], np.ndarray]
    first: int

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
    with _silence(), blame(name, "be closed"):
        environment.close()
    limit = environment.spec.max_episode_steps if environment.spec else None
    observation = _observation(name, environment.observation_space)
    action = _action(name, environment.action_space)
    reads, first = _reading(environment.observation_space), _first(environment.action_space)
    return Hosted(Spec(name, observation, action, limit or LONGEST), reads, first)


def build(name: str, **arguments: Any) -> Any:
    """A gymnasium environment, in silence; raises `InputError` if that fails."""
    gymnasium = _gymnasium()
    with _silence(), blame(name, "be made"):
        try:
            return gymnasium.make(name, disable_env_checker=True, **arguments)
        except gymnasium.error.UnregisteredEnv as error:
            raise InputError(
                f"unknown environment {name!r}: {str(error).strip()}".replace("\n", " ")
            ) from error
        except gymnasium.error.DependencyNotInstalled as error:
            raise InputError(f"{name} needs more than is installed: {error}") from error


class Lost(InputError):
    """An episode that cannot be found again."""

    def __init__(self, name: str):
        super().__init__(f"{name}: the same seed and actions no longer lead to the same place")


class Host(AbstractWorlds):
    """Worlds of one environment on the host, acted upon together.

    From Python by `step`; from a compiled program by `begin` and `proceed`, whose keys are not
    used: here chance is the environment's own.

    **Arguments:** `spec`; `seeds`, one per world; `arguments`, for gymnasium's `make`.
    """

    def __init__(self, spec: Spec, seeds: Sequence[int], **arguments: Any):
        self.spec, self.seeds = spec, list(seeds)
        made = dict(max_episode_steps=spec.limit, **arguments)
        self._worlds = [build(spec.name, **made) for _ in self.seeds]
        self._reads = _reading(self._worlds[0].observation_space)
        self._first = _first(self._worlds[0].action_space)
        self._box = None
        if isinstance(spec.action, Continuous):
            self._box = np.asarray(spec.action.low, "f4"), np.asarray(spec.action.high, "f4")
        # what there is to tell of a step, a row for each world: what is seen now, what the action
        # led to, the age of the episode, the reward, whether it was terminated, and truncated
        self._rows = np.zeros((len(self.seeds), 2 * spec.observation + 4), np.float32)
        self._seen = [row[:-4].reshape(2, -1) for row in self._rows]
        self._failure: BaseException | None = None
        self.restart(self.seeds)

    def restart(self, seeds: Sequence[int]) -> None:
        """As newly opened, from other seeds, as many as there are worlds; if a reset forgets."""
        self.seeds = list(seeds)
        self._episode = np.zeros(len(self.seeds), np.int64)
        self._done: list[list] = [[] for _ in self.seeds]  # in each world's present episode
        self._reset(range(len(self.seeds)))

    @property
    def observation(self) -> np.ndarray:
        """What is seen now, a row for each world."""
        return self._rows[:, : self.spec.observation].copy()

    def begin(self, keys: Keys) -> Moment:
        """What is seen as they stand, which is at the start if nothing was done yet."""
        many = keys.shape[0]
        like = (_like(np.float32, many, self.spec.observation), _like(np.int32, many))
        seen, age = ask(self._look, like, jax.random.key_data(keys))
        return Moment(None, age, seen)

    def proceed(
        self, moments: Moment, actions: Array, keys: Key[Array, "worlds 2"]
    ) -> tuple[Moment, Transition]:
        many, size = moments.age.shape[0], self.spec.observation
        # one array, as each that crosses takes its time; the ages are asked with, so that no step
        # is taken before the one before it
        like = (_like(np.float32, many, 2 * size + 4),)
        (told,) = ask(self._answer, like, actions, moments.age)
        seen, following, rest = told[:, :size], told[:, size : 2 * size], told[:, 2 * size :]
        age, ends = rest[:, 0].astype(jnp.int32), rest[:, 2:] > 0
        happened = Transition(
            moments.observation, actions, rest[:, 1], following, ends[:, 0], ends[:, 1]
        )
        return Moment(None, age, seen), happened

    @contextlib.contextmanager
    def attended(self) -> Iterator[None]:
        """Around compiled programs that act here: what fails here fails there as it is."""
        try:
            yield
        except BaseException:
            failure, self._failure = self._failure, None
            if failure is None:
                raise
            raise failure from None

    def _look(self, keys: np.ndarray) -> tuple[np.ndarray, ...]:
        shape = keys.shape[:-1]
        return self.observation.reshape(*shape, -1), self._ages.reshape(shape)

    def _answer(self, actions: np.ndarray, ages: np.ndarray) -> tuple[np.ndarray]:
        """One step, for worlds with any leading axes: what `_move` tells of each."""
        try:
            rows = self._move(actions.reshape(len(self.seeds), *actions.shape[ages.ndim :]))
        except BaseException as failure:  # an interrupt too may reach us here
            self._failure = failure
            raise
        return (rows.reshape(*ages.shape, -1),)

    def step(self, action: np.ndarray) -> Transition:
        """One step of every world; those whose episode ended stand at the start of the next.

        **Raises:** `InputError` for a world that fails; `restart`, `restore` or `skip` must follow.
        """
        size, before, action = self.spec.observation, self.observation, np.asarray(action)
        rows = self._move(action).copy()
        following, ends = rows[:, size : 2 * size], rows[:, -2:] > 0
        return Transition(before, action, rows[:, -3], following, ends[:, 0], ends[:, 1])  # type: ignore[arg-type]

    @property
    def begun(self) -> np.ndarray:
        """Which worlds stand at the start of an episode."""
        return self._ages == 0

    @property
    def _ages(self) -> np.ndarray:
        return np.array([len(done) for done in self._done], np.int32)

    def snapshot(self) -> dict[str, np.ndarray]:
        """What `restore` needs: each world's episode, its age, what was done in it, and is seen."""
        width, kind = ((), np.int32) if self._box is None else (self._box[0].shape, np.float32)
        acts = np.zeros((len(self.seeds), self.spec.limit, *width), kind)
        for kept, done in zip(acts, self._done, strict=True):
            kept[: len(done)] = np.reshape(done, (len(done), *width))
        episode = self._episode.astype(np.int32)  # 32 bits, as JAX keeps them
        return {"episode": episode, "age": self._ages, "acts": acts, "seen": self.observation}

    def restore(self, snapshot: dict[str, np.ndarray]) -> None:
        """Back to where `snapshot` was taken, by acting out each world's present episode.

        **Raises:** `Lost` if that leads elsewhere: the environment is not a function of its seed
        and the actions.
        """
        self._episode = np.asarray(snapshot["episode"], np.int64).copy()
        kept = zip(np.asarray(snapshot["acts"]), snapshot["age"], strict=True)
        done = [self._given(acts[:age]) for acts, age in kept]
        self._done = [[] for _ in self.seeds]
        self._reset(range(len(self.seeds)))
        for index, actions in enumerate(done):  # each by itself: they stand at different ages
            for action in actions:
                self._seen[index][...] = self._act_out(index, action)
        if not np.allclose(self.observation, snapshot["seen"], rtol=1e-3, atol=1e-5):
            raise Lost(self.spec.name)
        self._done = done

    def skip(self) -> None:
        """To the start of each world's next episode."""
        self._episode, self._done = self._episode + 1, [[] for _ in self.seeds]
        self._reset(range(len(self.seeds)))

    def render(self) -> Any:
        """A picture of the first world, if it was made to draw itself."""
        with _silence(), blame(self.spec.name, "be drawn"):
            return self._worlds[0].render()

    @property
    def rate(self) -> float:
        """Pictures a second, for a film at the world's own speed."""
        return self._worlds[0].metadata.get("render_fps") or 30

    def close(self) -> None:
        """Closes all worlds."""
        with blame(self.spec.name, "be closed"), contextlib.ExitStack() as stack:
            for world in self._worlds:
                stack.callback(world.close)

    def _move(self, action: np.ndarray) -> np.ndarray:
        """One step of every world, told in the rows: the same memory every time.

        It is what a life in a quick world spends its time on.
        """
        limit, first, acts, ended = self.spec.limit, self._first, self._given(action), []
        for i, world in enumerate(self._worlds):
            row, act, done = self._rows[i], acts[i], self._done[i]
            done.append(act)
            try:
                # a sum is an array of its own, which the environment may write into
                seen, reward, terminated, truncated, _ = world.step(act + first)
                row[-3] = reward if isinstance(reward, float) else np.asarray(reward, "f4").item()
                terminated, truncated = bool(terminated), bool(truncated)
            except Exception as error:
                raise _blamed(
                    self.spec.name, f"take action {np.asarray(act).tolist()}", error
                ) from error
            self._seen[i][...] = self._read(seen)
            truncated = (truncated or len(done) >= limit) and not terminated
            row[-4], row[-2], row[-1] = len(done), terminated, truncated
            if terminated or truncated:
                ended.append(i)
        if not np.isfinite(self._rows).all():
            self._check_seen()
            told = self._rows[:, -3].tolist()
            raise InputError(f"{self.spec.name} gave the reward {told}: mend the environment")
        if ended:
            self._episode[ended] += 1
            self._rows[ended, -4] = 0
            for i in ended:
                self._done[i] = []
            self._reset(ended)
        return self._rows

    def _reset(self, which: Iterable[int]) -> None:
        """Begins an episode in those worlds."""
        with _silence(), blame(self.spec.name, "be reset"):
            for i in which:
                seed = _seed(self.seeds[i], int(self._episode[i]))
                self._seen[i][0] = self._read(self._worlds[i].reset(seed=seed)[0])
        self._check_seen()

    def _given(self, actions: np.ndarray) -> list:
        """An action each, as it is kept: an integer from 0 on, or a vector inside the box."""
        if self._box is None:
            return list(actions.astype(np.int64))
        return list(np.clip(actions, *self._box).astype(np.float32))

    def _check_seen(self) -> None:
        if not np.isfinite(self.observation).all():
            raise InputError(
                f"{self.spec.name} showed a number that is not finite at steps "
                f"{self._ages.tolist()} of its episodes: mend the environment"
            )

    def _read(self, seen: Any) -> np.ndarray:
        """An observation as a vector of float32."""
        try:
            read = self._reads(seen)
        except Exception as error:
            raise _blamed(self.spec.name, "be understood", error) from error
        if read.shape != (self.spec.observation,):
            raise InputError(
                f"{self.spec.name} showed numbers of the shape {read.shape} where its space says "
                f"{(self.spec.observation,)}: mend the environment"
            )
        return read

    def _act_out(self, index: int, action: np.ndarray | np.integer) -> np.ndarray:
        environment = self._worlds[index]
        with blame(self.spec.name, f"take action {action}"):
            seen, _, terminated, truncated, _ = environment.step(action + self._first)
        if terminated or truncated:
            raise Lost(self.spec.name)
        return self._read(seen)


def _like(kind: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, kind)


def _seed(seed: int, episode: int) -> int:
    """The seed of a world's episode."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


def _is_discrete(space: Any) -> bool:
    import gymnasium

    return isinstance(space, gymnasium.spaces.Discrete)


def _reading(space: Any) -> Callable[[Any], np.ndarray]:
    return _one_hot(space) if _is_discrete(space) else _as_float


def _first(space: Any) -> int:
    return int(space.start) if _is_discrete(space) else 0


def _as_float(seen: Any) -> np.ndarray:
    return np.asarray(seen, np.float32)


def _one_hot(space: Any) -> Callable[[Any], np.ndarray]:
    first, rows = int(space.start), np.eye(int(space.n), dtype=np.float32)

    def read(seen: Any) -> np.ndarray:
        at = np.asarray(seen) - first
        if np.any(at < 0):
            raise IndexError(f"{seen} is less than {first}")
        return rows[at]

    return read


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
        return box(name, space.low, space.high)
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
def blame(name: str, what: str) -> Iterator[None]:
    """Whatever an environment raises is bad input to us, in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise _blamed(name, what, error) from error


def _blamed(name: str, what: str, error: Exception) -> InputError:
    text = " ".join(str(error).split())[:300] or "no message"
    return InputError(f"{name} could not {what}: {type(error).__name__}: {text}")
