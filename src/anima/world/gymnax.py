"""gymnax's environments as compiled worlds. Importing this imports gymnax, which takes seconds."""

from typing import Any

import equinox as eqx
import gymnax
import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from anima.core.errors import InputError, nearest
from anima.core.types import Scalar
from anima.world.env import LONGEST, AbstractWorld, Continuous, Discrete, Spec, box
from anima.world.host import blame


class GymnaxWorld(AbstractWorld):
    """A gymnax environment. Its state is gymnax's, with the observation that came with it."""

    spec: Spec = eqx.field(static=True)
    environment: Any = eqx.field(static=True)
    parameters: Any

    def reset(self, key: PRNGKeyArray) -> Any:
        return jax.tree.map(jnp.asarray, self.environment.reset_env(key, self.parameters))

    def observe(self, state: Any) -> Float[Array, " n"]:
        return jnp.asarray(state[0], float)

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Scalar, Bool[Array, ""]]:
        seen, inner, reward, terminated, _ = self.environment.step_env(
            key, state[1], action, self.parameters
        )
        return (seen, inner), jnp.asarray(reward, float), jnp.asarray(terminated, bool)


def names() -> list[str]:
    """All that gymnax offers."""
    return list(gymnax.registered_envs)


def adapt(name: str) -> GymnaxWorld:
    """A gymnax environment by name; raises `InputError` if unknown or of unsupported spaces."""
    if name not in names():
        raise InputError(f"unknown gymnax environment {name!r}: {nearest(name, names())}")
    with blame(f"gymnax:{name}", "be made"):
        environment, parameters = gymnax.make(name)
    seen = environment.observation_space(parameters)
    if not isinstance(seen, spaces.Box) or len(seen.shape) != 1:
        raise InputError(
            f"gymnax:{name} shows {_kind(seen)}: circuits here read a vector of numbers"
        )
    limit = int(getattr(parameters, "max_steps_in_episode", LONGEST))
    action = _action(name, environment.action_space(parameters))
    spec = Spec(f"gymnax:{name}", int(seen.shape[0]), action, limit)
    return GymnaxWorld(spec, environment, parameters)


def _action(name: str, space: Any) -> Discrete | Continuous:
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        low, high = (jnp.broadcast_to(bound, space.shape) for bound in (space.low, space.high))
        return box(f"gymnax:{name}", low, high)
    raise InputError(f"gymnax:{name} takes {_kind(space)}: agents give a number or a vector")


def _kind(space: Any) -> str:
    return f"{type(space).__name__} of shape {getattr(space, 'shape', '?')}"
