"""Our compiled worlds, offered to gymnasium: others' agents can live there, and films be made.

>>> import gymnasium
>>> from anima.world.export import offer
>>> offer()
>>> gymnasium.make("CartPoleSwingUp-v0", render_mode="rgb_array")

Those that gymnasium has too are offered as `anima/NAME`, for their physics can be altered here:

>>> gymnasium.make("anima/CartPole-v1", physics={"motor": -1.0})
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import gymnasium
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from anima.world.classic import COMPILED, OURS, altered
from anima.world.env import AbstractWorld, ActionSpace, Discrete

WIDTH, HEIGHT, METRES, LINE = 480, 280, 5.2, 5


class Exported(gymnasium.Env):
    """A classic world, stepped on the host: the same equations, compiled one step at a time.

    **Arguments:** `name`; `render_mode`, `"rgb_array"` or `None`; `physics`, constants to alter.

    **Raises:** `InputError` for a constant that the world has not.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (gymnasium's)

    def __init__(
        self,
        name: str,
        render_mode: str | None = None,
        physics: Mapping[str, float] | None = None,
    ):
        constants = tuple(sorted((physics or {}).items()))
        self.world, self._reset, self._step = _compiled(name, constants)
        self.render_mode = render_mode
        self._painter: Any = None  # gymnasium's own, for those that it can draw
        if render_mode is not None and name not in OURS:
            self._painter = gymnasium.make(name, render_mode=render_mode)
            self._painter.reset()
            self.metadata = self._painter.metadata
        self.action_space = _space(self.world.spec.action)
        shape = (self.world.spec.observation,)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.state: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        begin, self._key = jax.random.split(jax.random.key(int(self.np_random.integers(2**31))))
        self.state, seen = self._reset(begin)
        return np.asarray(seen, np.float32), {}

    def step(self, action: Any):
        self._key, now = jax.random.split(self._key)
        self.state, seen, reward, ended = self._step(self.state, np.asarray(action), now)
        return np.asarray(seen, np.float32), float(reward), bool(ended), False, {}

    def render(self) -> np.ndarray | None:
        """A picture of where it stands, (height, width, 3), if it was made to draw itself."""
        if self.render_mode is None:
            return None
        if self._painter is not None:
            self._painter.unwrapped.state = np.asarray(self.state)
            return self._painter.render()
        from PIL import Image, ImageDraw

        scale = WIDTH / METRES
        image = Image.new("RGB", (WIDTH, HEIGHT), "white")
        draw = ImageDraw.Draw(image)
        sketch = self.world.sketch  # type: ignore[attr-defined]
        for points, colour in sketch(np.asarray(self.state)):
            dots = [(WIDTH / 2 + scale * x, HEIGHT / 2 - scale * y) for x, y in points]
            draw.line(dots, fill=colour, width=LINE, joint="curve")
        return np.asarray(image)

    def close(self) -> None:
        if self._painter is not None:
            self._painter.close()


def offer() -> None:
    """Enters our worlds in gymnasium's registry."""
    for name, world in COMPILED.items():
        own = name if name in OURS else f"anima/{name}"
        if own not in gymnasium.registry:
            gymnasium.register(
                id=own,
                entry_point="anima.world.export:Exported",
                kwargs={"name": name},
                max_episode_steps=world.spec.limit,
                disable_env_checker=True,
            )


@cache
def _compiled(
    name: str, physics: tuple[tuple[str, float], ...]
) -> tuple[AbstractWorld, Callable, Callable]:
    """A world, and its beginning and its step with what is then seen: compiled once for all."""
    world = altered(name, dict(physics))

    def begin(key: PRNGKeyArray):
        state = world.reset(key)
        return state, world.observe(state)

    def move(state: Any, action: jax.Array, key: PRNGKeyArray):
        state, reward, ended = world.step(state, action, key)
        return state, world.observe(state), reward, ended

    return world, jax.jit(begin), jax.jit(move)


def _space(action: ActionSpace) -> gymnasium.Space:
    if isinstance(action, Discrete):
        return gymnasium.spaces.Discrete(action.n)
    return gymnasium.spaces.Box(np.asarray(action.low, "f4"), np.asarray(action.high, "f4"))
