"""The habits people have: `agent = DQN("CartPole-v1")`, then `learn`, `predict`, `save`, `load`.

An agent is a mind (pure, see `AbstractMind`) with one life in one world. `predict` takes what
Stable-Baselines3's `evaluate_policy` gives and returns what it expects.
"""

import inspect
import io
import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from anima.agent.life import AbstractLives, decided, lives, longest
from anima.agent.mind import AbstractMind
from anima.core.errors import DivergedError, InputError, nearest
from anima.core.files import write_bytes_atomically
from anima.world.env import AbstractWorld, Discrete, make
from anima.world.host import Hosted

Progress = Callable[[int, dict[str, float]], None]
"""Told, now and then, of the steps lived and of what a chart needs."""


class AbstractAgent:
    """An agent in a world.

    **Arguments:** `world`, a name (see `anima.world.env.make`) or a world; `seed`; the others are
    those of the class's `recipe`, which makes the mind.

    **Raises:** `InputError` for an unknown world or setting, or an agent that cannot act there.

    >>> agent = DQN("CartPole-v1", seed=0).learn(50_000)
    >>> action, _ = agent.predict(observation, deterministic=True)
    """

    name: ClassVar[str]

    recipe: ClassVar[Callable[..., AbstractMind]]
    """The mind that settings describe, for a world's spec."""

    def __init__(self, world: str | AbstractWorld | Hosted, *, seed: int = 0, **settings: Any):
        self.world = make(world) if isinstance(world, str) else world
        self._named = world if isinstance(world, str) else self.world.spec.name
        self.seed, self.settings = _check_seed(seed), settings
        known = [name for name in inspect.signature(type(self).recipe).parameters if name != "spec"]
        for setting in settings:
            if setting not in known:
                raise InputError(
                    f"{type(self).__name__}: unknown setting {setting!r}: {nearest(setting, known)}"
                )
        self.mind = type(self).recipe(self.world.spec, **settings)
        self._lives: AbstractLives | None = None
        self._decide = jax.jit(partial(decided, self.mind), static_argnames="explore")
        self._asked = 0

    @property
    def lives(self) -> AbstractLives:
        """The agent's one life, begun when first needed."""
        if self._lives is None:
            self._lives = lives(self.mind, self.world, [self.seed])
        return self._lives

    @property
    def steps(self) -> int:
        """Environment steps lived so far."""
        return self.lives.steps

    @property
    def state(self) -> Any:
        """The mind's present state."""
        return self.lives.one(0).mind

    def learn(self, total_steps: int, *, progress: Progress | None = None) -> "AbstractAgent":
        """Lives on for so many environment steps (whole cycles), learning all the while.

        **Raises:** `InputError` if there is no step to take; `DivergedError` if learning diverged.
        """
        if not isinstance(total_steps, int | np.integer) or total_steps < 1:
            raise InputError(
                f"learn: total_steps is {total_steps!r}: it must be a whole number of at least 1"
            )
        cycles = -(-int(total_steps) // self.mind.cycle)
        chunk = longest(self.mind)
        for begun in range(0, cycles, chunk):
            charts, endings = self.lives.advance(min(chunk, cycles - begun))
            check_finite(self.lives, charts)
            if progress is not None:
                progress(self.steps, summarise(charts, endings))
        return self

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray | np.integer, Any]:
        """What to do, for one observation or for a batch of them, and what is in mind then.

        **Arguments:** `observation`, real numbers of shape (n,) or (batch, n), or whole ones as
        gymnasium shows them (of one of n things: () or (batch,)); `deterministic`, whether not to
        explore. `episode_start`, where episodes begin: agents that carry a thought from step to
        step then return it beside the action, to be given back as `state`. Without either it is
        `None`.

        **Returns:** the action as gymnasium calls it, () or (m,), or (batch,) or (batch, m).

        **Raises:** `InputError` for an observation of another shape or kind, or not finite.
        """
        hosted = self.world if isinstance(self.world, Hosted) else None
        try:
            seen = np.asarray(observation)
            if hosted and not np.issubdtype(seen.dtype, np.floating):
                seen = hosted.reads(seen)
            seen = np.asarray(seen, np.float32)
        except (TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"predict: no observation of {self.mind.spec.name}: {observation!r}"
            ) from error
        if seen.ndim not in (1, 2) or seen.shape[-1] != self.mind.spec.observation:
            raise InputError(
                f"predict: an observation of shape {seen.shape} where {self.mind.spec.name} shows "
                f"{self.mind.spec.observation} numbers"
            )
        if not np.isfinite(seen).all():
            raise InputError("predict: the observation holds a number that is not finite")
        batch, alone = jnp.asarray(np.atleast_2d(seen)), state is None and episode_start is None
        begun = np.zeros(len(batch), bool) if episode_start is None else np.asarray(episode_start)
        state = self.mind.afresh(len(batch)) if state is None else state
        self._asked += not deterministic
        key = jax.random.fold_in(jax.random.key(self.seed + 1), self._asked)
        action, state = self._decide(
            self.state, state, batch, begun.reshape(-1), key, explore=not deterministic
        )
        action = np.asarray(self.mind.spec.action.clip(action))
        if isinstance(self.mind.spec.action, Discrete):
            action = action.astype(np.int64) + (hosted.first if hosted else 0)
        return (action if seen.ndim == 2 else action[0]), None if alone else state

    def save(self, path: str | Path) -> None:
        """Writes the agent to one file: its settings, and all its life, replay included.

        **Raises:** `InputError` for settings that are not plain values, or when the disk refuses.
        """
        leaves = jax.tree_util.tree_leaves_with_path(self.lives.state)
        header = {
            "agent": self.name,
            "world": self._named,
            "seed": self.seed,
            "settings": _plain(self.settings),
        }
        held: dict[str, Any] = {f"/{jax.tree_util.keystr(at)}": _numbers(x) for at, x in leaves}
        content = io.BytesIO()
        np.savez(content, header=np.array(json.dumps(header)), **held)
        write_bytes_atomically(Path(path), content.getvalue())

    def close(self) -> None:
        """Gives back what its worlds hold."""
        if self._lives is not None:
            self._lives.close()

    @classmethod
    def load(cls, path: str | Path, world: str | AbstractWorld | Hosted | None = None):
        """The agent that `save` wrote, to live on in its world (or in another of its spaces).

        **Raises:** `InputError` if the file is not of this kind of agent, or does not fit `world`.
        """
        header, held = _read(path)
        if header["agent"] != cls.name:
            raise InputError(f"{path} holds a {header['agent']!r} agent, not {cls.name!r}")
        agent = cls(
            header["world"] if world is None else world, seed=header["seed"], **header["settings"]
        )
        like = agent.lives.state
        leaves, tree = jax.tree_util.tree_flatten_with_path(like)
        names = [f"/{jax.tree_util.keystr(at)}" for at, _ in leaves]
        fits = set(names) == set(held) and all(
            held[name].shape == _numbers(leaf).shape
            for name, (_, leaf) in zip(names, leaves, strict=True)
        )
        if not fits:
            raise InputError(
                f"{path} is of {header['world']} and does not fit {agent._named} "
                f"({agent.mind.spec.observation} numbers seen, {agent.mind.spec.action}): load it "
                "for its own world, with the version of anima that saved it"
            )
        filled = [_like(leaf, held[name]) for name, (_, leaf) in zip(names, leaves, strict=True)]
        agent.lives.restore(jax.tree.unflatten(tree, filled))
        return agent


def check_finite(lived: AbstractLives, charts: Any) -> None:
    """Raises `DivergedError` if a life's numbers left the finite ones."""
    for name, values in charts.items():
        bad = ~np.isfinite(np.asarray(values))
        if bad.any():
            life = int(np.argwhere(bad)[0][0])
            raise DivergedError(
                f"the life of seed {lived.seeds[life]} diverged ({name}) before step "
                f"{lived.steps}: reduce rate, or the solver's dt"
            )


def summarise(charts: Any, endings: Any) -> dict[str, float]:
    """Means over lives and cycles, and the mean return of the episodes that ended."""
    means = {name: float(np.mean(np.asarray(values))) for name, values in charts.items()}
    scores = np.asarray(endings.score)[np.asarray(endings.ended)]
    return means | ({"return": float(scores.mean())} if scores.size else {})


def _check_seed(seed: Any) -> int:
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed!r}: it must be a whole number from 0 to {2**32 - 1}")
    return int(seed)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(settings))
    except TypeError as error:
        raise InputError(
            f"save: a setting is not a plain value ({error}): name the assigner, and give its "
            "arguments in `credit`"
        ) from error


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return json.loads(str(file["header"])), {
                k: file[k] for k in file.files if k != "header"
            }
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read the agent {path}: {str(error) or 'it is empty'}") from error


def _numbers(leaf: Any) -> np.ndarray:
    is_key = jnp.issubdtype(
        jnp.asarray(leaf).dtype if not hasattr(leaf, "dtype") else leaf.dtype, jax.dtypes.prng_key
    )
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _like(leaf: Any, numbers: np.ndarray) -> Any:
    is_key = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return (
        jax.random.wrap_key_data(jnp.asarray(numbers))
        if is_key
        else jnp.asarray(numbers, leaf.dtype)
    )
