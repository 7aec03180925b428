"""Preferences: priors on imagined states. What is preferred is what has a low energy.

    E(z) = sum_i 1/2 precision_i (z_i - target_i)^2           a Gaussian prior, by name
    E(z) = weight where z_i < above (or > below), else 0      a goal, and nothing on the way to it

Names are those of a world's observation, or of a quantity read off it (an angle from its cosine
and sine), or an index. In TOML: `angle = { target = 0.0, precision = 20.0 }`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from anima.core.errors import InputError, check_positive, nearest
from anima.core.types import Scalar
from anima.world.env import Spec

Reading = Callable[[Float[Array, " n"]], Scalar]
"""A quantity of an observation."""


def _at(index: int) -> Reading:
    return lambda seen: seen[index]


READINGS: dict[str, dict[str, Reading]] = {
    "CartPole-v1": {"position": _at(0), "velocity": _at(1), "angle": _at(2), "spin": _at(3)},
    "CartPoleSwingUp-v0": {
        "position": _at(0),
        "velocity": _at(1),
        "cosine": _at(2),
        "spin": _at(4),
        "angle": lambda seen: jnp.arctan2(seen[3], seen[2]),
    },
    "Pendulum-v1": {
        "cosine": _at(0),
        "sine": _at(1),
        "spin": _at(2),
        "angle": lambda seen: jnp.arctan2(seen[1], seen[0]),
    },
    "MountainCar-v0": {"position": _at(0), "velocity": _at(1)},
    "MountainCarContinuous-v0": {"position": _at(0), "velocity": _at(1)},
    "Acrobot-v1": {
        "first_spin": _at(4),
        "second_spin": _at(5),
        # of the tip above the shoulder, in lengths of a link: -cos a - cos(a + b)
        "height": lambda seen: -seen[0] - (seen[0] * seen[2] - seen[1] * seen[3]),
    },
    "InvertedPendulum-v5": {
        "position": _at(0),
        "angle": _at(1),
        "velocity": _at(2),
        "spin": _at(3),
    },
    # of the fingertip from the target, in metres
    "Reacher-v5": {"aside": _at(8), "ahead": _at(9)},
    "HalfCheetah-v5": {"height": _at(0), "pitch": _at(1), "speed": _at(8)},
}
"""What can be read off an observation, by world; an index can be read off any."""


WISHES: dict[str, dict[str, dict[str, float]]] = {
    "CartPole-v1": {
        "position": {"target": 0.0, "precision": 0.2},
        "velocity": {"target": 0.0, "precision": 0.02},
        "angle": {"target": 0.0, "precision": 20.0},
        "spin": {"target": 0.0, "precision": 0.2},
    },
    "Pendulum-v1": {
        "angle": {"target": 0.0, "precision": 2.0},
        "spin": {"target": 0.0, "precision": 0.2},
    },
    "CartPoleSwingUp-v0": {
        "position": {"target": 0.0, "precision": 0.5},
        "cosine": {"target": 1.0, "precision": 2.0},
        "spin": {"target": 0.0, "precision": 0.02},
    },
    "MountainCar-v0": {"position": {"above": 0.5, "weight": 1.0}},
    "MountainCarContinuous-v0": {"position": {"above": 0.45, "weight": 1.0}},
    "Acrobot-v1": {"height": {"above": 1.0, "weight": 1.0}},
}
"""What each classic task rewards, said as a preference (of a cart-pole: to stand in the middle)."""


class Preference(eqx.Module):
    """What is preferred of a state.

    - `near`: (name, reading, target, precision). - `goals`: (name, reading, bound, weight, whether
      to be above it).
    - `effort`: what acting costs, times the squared size of a continuous action's code.
    """

    near: tuple[tuple[str, Reading, float, float], ...] = eqx.field(static=True)
    goals: tuple[tuple[str, Reading, float, float, bool], ...] = eqx.field(static=True)
    effort: float = eqx.field(static=True)

    def __call__(self, action: Float[Array, " m"], state: Float[Array, " n"]) -> Scalar:
        """The energy of having come to a state by an action."""
        total = self.effort * jnp.sum(action**2)
        for _, read, target, precision in self.near:
            total += 0.5 * precision * (read(state) - target) ** 2
        for _, read, bound, weight, above in self.goals:
            short = read(state) < bound if above else read(state) > bound
            total += jnp.where(short, weight, 0.0)
        return total

    @property
    def wanted(self) -> dict[str, tuple[Reading, float]]:
        """Each quantity that matters: how it is read and where it should be, dearest first."""
        near = sorted(self.near, key=lambda wish: -wish[3])
        return {name: (read, target) for name, read, target, *_ in [*near, *self.goals]}


def preference(
    spec: Spec, table: Mapping[str, Mapping[str, Any]], effort: float = 0.0
) -> Preference:
    """The preference that a table describes, for one world.

    **Raises:** `InputError` for a state that the world lacks, an unknown key, or numbers that
    cannot be.
    """
    readings = READINGS.get(spec.name, {}) | {str(i): _at(i) for i in range(spec.observation)}
    near, goals = [], []
    for name, wish in table.items():
        if name not in readings:
            raise InputError(
                f"prefer.{name}: {spec.name} shows no such state: {nearest(name, readings)}"
            )
        kind = next((kind for kind in _KINDS if isinstance(wish, Mapping) and kind in wish), None)
        if kind is None or set(wish) - {kind, _KINDS[kind]}:
            raise InputError(
                f"prefer.{name} is {wish!r}: give target and precision, or above (or below) and "
                "weight"
            )
        goal = _number(name, kind, wish[kind])
        strength = _number(name, _KINDS[kind], wish.get(_KINDS[kind], 1.0))
        check_positive(f"prefer.{name}", **{_KINDS[kind]: strength})
        if kind == "target":
            near.append((name, readings[name], goal, strength))
        else:
            goals.append((name, readings[name], goal, strength, kind == "above"))
    return Preference(tuple(near), tuple(goals), effort)


_KINDS = {"target": "precision", "above": "weight", "below": "weight"}


def _number(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise InputError(f"prefer.{name}.{key} is {value!r}: it must be a number")
    return float(value)
