"""The classic-control tasks in JAX, so that a whole life compiles into one program.

All but the swing-up, which is ours, follow gymnasium's equations, constants, order of integration
and order of tests: from the same state the same action leads to the same place (a test steps both
side by side). Only the random numbers of a reset come from another generator.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from anima.core.errors import InputError, nearest
from anima.core.types import Scalar
from anima.world.env import AbstractWorld, Continuous, Discrete, Spec


class CartPole(AbstractWorld):
    """A pole hinged on a cart (Barto, Sutton and Anderson, 1983): +1 a step until it falls.

    State and observation: position (m), velocity, angle (rad), angular velocity. `motor`
    multiplies the force of the push: at -1 left is right.
    """

    motor: float = 1.0
    spec: Spec = eqx.field(static=True, default=Spec("CartPole-v1", 4, Discrete(2), 500))

    def reset(self, key: PRNGKeyArray) -> Float[Array, "4"]:
        return jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)

    def observe(self, state: Float[Array, "4"]) -> Float[Array, "4"]:
        return state

    def step(
        self, state: Float[Array, "4"], action: Array, key: PRNGKeyArray
    ) -> tuple[Float[Array, "4"], Scalar, Bool[Array, ""]]:
        state = state + 0.02 * _cart_slope(state, self.motor * jnp.where(action == 1, 10.0, -10.0))
        fallen = (jnp.abs(state[0]) > 2.4) | (jnp.abs(state[2]) > 12 * 2 * math.pi / 360)
        return state, jnp.ones(()), fallen


class CartPoleSwingUp(AbstractWorld):
    """The cart-pole whose pole hangs at first: (1 + cos angle) / 2 (1 - (position / 2.4)^2) a step.

    Ours: gymnasium has none. Equations and constants are `CartPole`'s, with any force of up to
    10 N; an episode is 5 s long, in Runge-Kutta steps of .05 s, and ends at the ends of the rail.
    Deisenroth and Rasmussen (2011, PILCO) learnt such a swing-up in about 11 episodes.

    State: position (m), velocity, angle (rad, 0 is upright), angular velocity. Observation:
    position, velocity, cosine, sine, angular velocity.
    """

    spec: Spec = eqx.field(
        static=True, default=Spec("CartPoleSwingUp-v0", 5, Continuous((-10.0,), (10.0,)), 100)
    )

    def reset(self, key: PRNGKeyArray) -> Float[Array, "4"]:
        hanging = jnp.asarray([0.0, 0.0, math.pi, 0.0])
        return hanging + jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)

    def observe(self, state: Float[Array, "4"]) -> Float[Array, "5"]:
        position, velocity, angle, spin = state
        return jnp.stack([position, velocity, jnp.cos(angle), jnp.sin(angle), spin])

    def step(
        self, state: Float[Array, "4"], action: Float[Array, "1"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "4"], Scalar, Bool[Array, ""]]:
        force = jnp.clip(action[0], -10, 10)
        state = _runge_kutta(lambda state: _cart_slope(state, force), state, 0.05)
        away = state[0] / 2.4
        upright = (1 + jnp.cos(state[2])) / 2
        return state, upright * jnp.maximum(1 - away**2, 0), jnp.abs(away) > 1

    def sketch(self, state: Float[np.ndarray, "4"]) -> list[tuple[list[tuple[float, float]], str]]:
        """Rail, cart and pole as lines (m) and their colours, to be drawn."""
        x, angle = float(state[0]), float(state[2])
        cart = [(x - 0.2, -0.1), (x - 0.2, 0.1), (x + 0.2, 0.1), (x + 0.2, -0.1), (x - 0.2, -0.1)]
        pole = [(x, 0.0), (x + math.sin(angle), math.cos(angle))]
        return [([(-2.4, 0.0), (2.4, 0.0)], "silver"), (cart, "black"), (pole, "chocolate")]


class Pendulum(AbstractWorld):
    """Swing a pendulum up and hold it: -(angle^2 + .1 speed^2 + .001 torque^2) a step.

    State: angle from upright (rad), angular velocity. Observation: cosine, sine, velocity.
    `gravity` multiplies that of the Earth (10 m/s^2 here).
    """

    gravity: float = 1.0
    spec: Spec = eqx.field(
        static=True, default=Spec("Pendulum-v1", 3, Continuous((-2.0,), (2.0,)), 200)
    )

    def reset(self, key: PRNGKeyArray) -> Float[Array, "2"]:
        return jax.random.uniform(key, (2,), minval=-1.0) * jnp.asarray([math.pi, 1.0])

    def observe(self, state: Float[Array, "2"]) -> Float[Array, "3"]:
        return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])

    def step(
        self, state: Float[Array, "2"], action: Float[Array, "1"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "2"], Scalar, Bool[Array, ""]]:
        angle, spin = state
        torque, dt = jnp.clip(action[0], -2, 2), 0.05
        from_upright = jnp.mod(angle + math.pi, 2 * math.pi) - math.pi
        cost = from_upright**2 + 0.1 * spin**2 + 0.001 * torque**2
        pull = 15 * self.gravity * jnp.sin(angle)
        spin = jnp.clip(spin + (pull + 3 * torque) * dt, -8, 8)
        return jnp.stack([angle + spin * dt, spin]), -cost, jnp.zeros((), bool)


class MountainCar(AbstractWorld):
    """A car too weak for its hill (Moore, 1990): -1 a step until the top. 3 actions: -1, 0, 1."""

    spec: Spec = eqx.field(static=True, default=Spec("MountainCar-v0", 2, Discrete(3), 200))

    def reset(self, key: PRNGKeyArray) -> Float[Array, "2"]:
        return _valley(key)

    def observe(self, state: Float[Array, "2"]) -> Float[Array, "2"]:
        return state

    def step(
        self, state: Float[Array, "2"], action: Array, key: PRNGKeyArray
    ) -> tuple[Float[Array, "2"], Scalar, Bool[Array, ""]]:
        state = _roll(state, (action - 1) * 0.001)
        return state, -jnp.ones(()), (state[0] >= 0.5) & (state[1] >= 0)


class MountainCarContinuous(AbstractWorld):
    """The same hill with a throttle in [-1, 1]: 100 at the top, less .1 throttle^2 a step."""

    spec: Spec = eqx.field(
        static=True,
        default=Spec("MountainCarContinuous-v0", 2, Continuous((-1.0,), (1.0,)), 999),
    )

    def reset(self, key: PRNGKeyArray) -> Float[Array, "2"]:
        return _valley(key)

    def observe(self, state: Float[Array, "2"]) -> Float[Array, "2"]:
        return state

    def step(
        self, state: Float[Array, "2"], action: Float[Array, "1"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "2"], Scalar, Bool[Array, ""]]:
        state = _roll(state, jnp.clip(action[0], -1, 1) * 0.0015)
        there = (state[0] >= 0.45) & (state[1] >= 0)
        return state, jnp.where(there, 100.0, 0.0) - 0.1 * action[0] ** 2, there


class Acrobot(AbstractWorld):
    """Two links, torque (-1, 0, 1) at the elbow only (Sutton, 1996): -1 a step until a link high.

    State: both angles (rad, 0 hangs down) and both velocities; one Runge-Kutta step of .2 s.
    Observation: cosine and sine of each angle, then the velocities.
    """

    spec: Spec = eqx.field(static=True, default=Spec("Acrobot-v1", 6, Discrete(3), 500))

    def reset(self, key: PRNGKeyArray) -> Float[Array, "4"]:
        return jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)

    def observe(self, state: Float[Array, "4"]) -> Float[Array, "6"]:
        one, two, *speeds = state
        return jnp.stack([jnp.cos(one), jnp.sin(one), jnp.cos(two), jnp.sin(two), *speeds])

    def step(
        self, state: Float[Array, "4"], action: Array, key: PRNGKeyArray
    ) -> tuple[Float[Array, "4"], Scalar, Bool[Array, ""]]:
        torque = (action - 1).astype(state.dtype)
        state = _runge_kutta(lambda state: _acrobot_slope(state, torque), state, 0.2)
        angles = jnp.mod(state[:2] + math.pi, 2 * math.pi) - math.pi
        fastest = jnp.asarray([4 * math.pi, 9 * math.pi], state.dtype)
        state = jnp.concatenate([angles, jnp.clip(state[2:], -fastest, fastest)])
        high = -jnp.cos(state[0]) - jnp.cos(state[0] + state[1]) > 1
        return state, jnp.where(high, 0.0, -1.0), high


def _runge_kutta(
    slope: Callable[[Float[Array, " n"]], Float[Array, " n"]], state: Float[Array, " n"], dt: float
) -> Float[Array, " n"]:
    """One step of the fourth order."""
    first = slope(state)
    second = slope(state + dt / 2 * first)
    third = slope(state + dt / 2 * second)
    fourth = slope(state + dt * third)
    return state + dt / 6 * (first + 2 * second + 2 * third + fourth)


def _cart_slope(state: Float[Array, "4"], force: Scalar) -> Float[Array, "4"]:
    """d state/dt of a pole of .1 kg and 1 m on a cart of 1 kg, without friction."""
    _, velocity, angle, spin = state
    mass, pole, half = 1.1, 0.1, 0.5  # both, pole alone, half its length
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    push = (force + pole * half * spin**2 * sine) / mass
    inertia = half * (4 / 3 - pole * cosine**2 / mass)
    angular = (9.8 * sine - cosine * push) / inertia
    linear = push - pole * half * angular * cosine / mass
    return jnp.stack([velocity, linear, spin, angular])


def _acrobot_slope(state: Float[Array, "4"], torque: Scalar) -> Float[Array, "4"]:
    """d state/dt for two links of mass 1, length 1, centre .5, moment of inertia 1."""
    one, two, speed, turn = state
    g, c, s = 9.8, jnp.cos(two), jnp.sin(two)
    whole = 0.25 + (1.25 + c) + 2  # inertia of both about the shoulder
    coupling = 0.25 + 0.5 * c + 1
    weight = 0.5 * g * jnp.cos(one + two - math.pi / 2)
    load = -0.5 * s * turn**2 - s * turn * speed + 1.5 * g * jnp.cos(one - math.pi / 2) + weight
    elbow = torque + coupling / whole * load - 0.5 * speed**2 * s - weight
    elbow = elbow / (1.25 - coupling**2 / whole)
    return jnp.stack([speed, turn, -(coupling * elbow + load) / whole, elbow])


def _valley(key: PRNGKeyArray) -> Float[Array, "2"]:
    return jnp.stack([jax.random.uniform(key, (), minval=-0.6, maxval=-0.4), jnp.zeros(())])


def _roll(state: Float[Array, "2"], push: Scalar) -> Float[Array, "2"]:
    """One step of the car on the hill sin(3 x), stopped dead by the wall on the left."""
    position, velocity = state
    velocity = jnp.clip(velocity + push - 0.0025 * jnp.cos(3 * position), -0.07, 0.07)
    position = jnp.clip(position + velocity, -1.2, 0.6)
    velocity = jnp.where((position <= -1.2) & (velocity < 0), 0, velocity)
    return jnp.stack([position, velocity])


CLASSIC: dict[str, Callable[[], AbstractWorld]] = {
    world.spec.name: world
    for world in (CartPole, Pendulum, MountainCar, MountainCarContinuous, Acrobot)
}
"""Those that gymnasium has as well."""

OURS = {CartPoleSwingUp.spec.name: CartPoleSwingUp}
"""Those that it has not, until `anima.world.export` offers them."""

COMPILED = CLASSIC | OURS


def altered(name: str, physics: Mapping[str, float]) -> AbstractWorld:
    """A classic world whose physics are not the usual ones, e.g. `altered("CartPole-v1",
    {"motor": -1.0})`.

    **Raises:** `InputError` for a world that does not compile here, or has no such constant.
    """
    if name not in COMPILED:
        raise InputError(
            f"the physics of {name!r} cannot be changed here: {nearest(name, COMPILED)}"
        )
    usual = COMPILED[name]()
    known = [field.name for field in dataclasses.fields(usual) if field.name != "spec"]
    for key in physics:
        if key not in known:
            raise InputError(f"{name} has no constant {key!r}: {nearest(key, known)}")
    return dataclasses.replace(usual, **physics)
