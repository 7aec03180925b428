"""Our compiled worlds, offered to gymnasium: others' agents can live there, and films be made.

>>> import gymnasium
>>> from anima.world.export import offer
>>> offer()
>>> gymnasium.make("CartPoleSwingUp-v0", render_mode="rgb_array")

Those that gymnasium has too are offered as `anima/NAME`, for their physics can be altered here;
gymnax's worlds are entered one by one:

>>> gymnasium.make("anima/CartPole-v1", physics={"motor": -1.0})
>>> gymnasium.make(enter("gymnax:Pendulum-v1"))
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import gymnasium
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from anima.core.errors import InputError
from anima.world.classic import CLASSIC, COMPILED, OURS, altered
from anima.world.env import AbstractWorld, ActionSpace, Discrete, make

WIDTH, HEIGHT, METRES, LINE = 480, 280, 5.2, 5
_GYMNAX = "gymnax:"


class Exported(gymnasium.Env):
    """A compiled world, stepped on the host: the same equations, compiled one step at a time.

    **Arguments:** `name`, as for `anima.world.env.make`; `render_mode`, `"rgb_array"` or `None`;
    `physics`, constants to alter.

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
        drawn = name.removeprefix(_GYMNAX)
        if render_mode is not None and drawn in CLASSIC:
            self._painter = gymnasium.make(drawn, render_mode=render_mode)
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
        """A picture of where it stands, (height, width, 3), if it was made to draw itself and can:
        of gymnax's worlds those that gymnasium has too."""
        if self.render_mode is None:
            return None
        if self._painter is not None:
            size = len(self._painter.unwrapped.state)
            self._painter.unwrapped.state = _pose(self.state)[:size]
            return self._painter.render()
        if not hasattr(self.world, "sketch"):
            return None
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
    for name in COMPILED:
        enter(name)


def enter(name: str) -> str:
    """Enters one compiled world, of ours or gymnax's, and says what gymnasium then calls it.

    **Raises:** `InputError` for an unknown world, or one that does not compile.
    """
    world = make(name)
    if not isinstance(world, AbstractWorld):
        raise InputError(f"{name} is gymnasium's own: there is nothing to enter")
    source, _, rest = world.spec.name.rpartition(":")
    own = rest if rest in OURS else f"{source or 'anima'}/{rest}"
    if own not in gymnasium.registry:
        gymnasium.register(
            id=own,
            entry_point="anima.world.export:Exported",
            kwargs={"name": world.spec.name},
            max_episode_steps=world.spec.limit,
            disable_env_checker=True,
        )
    return own


@cache
def _compiled(
    name: str, physics: tuple[tuple[str, float], ...]
) -> tuple[AbstractWorld, Callable, Callable]:
    """A world, and its beginning and its step with what is then seen: compiled once for all."""
    world = altered(name, dict(physics)) if physics else make(name)

    def begin(key: PRNGKeyArray):
        state = world.reset(key)
        return state, world.observe(state)

    def move(state: Any, action: jax.Array, key: PRNGKeyArray):
        state, reward, ended = world.step(state, action, key)
        return state, world.observe(state), reward, ended

    return world, jax.jit(begin), jax.jit(move)


def _pose(state: Any) -> np.ndarray:
    """A state's numbers, in the order in which gymnasium keeps them."""
    if not isinstance(state, tuple):
        return np.asarray(state)
    inner = vars(state[1])  # gymnax's: what was seen, and the state with a clock
    return np.asarray([value for name, value in inner.items() if name != "time"])


def _space(action: ActionSpace) -> gymnasium.Space:
    if isinstance(action, Discrete):
        return gymnasium.spaces.Discrete(action.n)
    return gymnasium.spaces.Box(np.asarray(action.low, "f4"), np.asarray(action.high, "f4"))
