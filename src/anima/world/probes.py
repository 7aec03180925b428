"""Five probes: worlds so small that a wrong answer says which part of an agent is broken.

An agent that fails one of them, and passes those before it, is wrong in what that one asks:

- `value`: one step, reward 1 whatever is done. Does the value find a constant?
- `discounting`: two steps, reward 1 at the second. Is the first worth gamma?
- `policy`: one step, and the reward depends on the action. Does the policy find the best?
- `credit`: the same, and the best depends on what is seen. Does credit reach the input?
- `off-policy`: two steps. An action at the first opens the second, where actions are bad on average
  and one is good. Is the greedy policy valued, and not the one that explored?

After probes that practitioners of reinforcement learning pass on to each other.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anima.core.types import Scalar
from anima.world.env import AbstractWorld, ActionSpace, Continuous, Discrete, Spec

PROBES = ("value", "discounting", "policy", "credit", "off-policy")
STEER = Continuous((-1.0,), (1.0,))

State = Float[Array, "3"]
"""(step, cue, how far the second step is open): all of it is seen."""


class Probe(AbstractWorld):
    """One of `PROBES`, by its place there: `which` is data, so that all five are one program.

    An action is u = -1 or 1 of two, or a continuous u in [-1, 1]. Where it matters, the reward is
    1 - ((u - best)/w)^2/2: 1 at the best and, of two actions, -1 at the other. `best` is w, or w
    times the cue, with w = 1 of two actions and 1/2 of continuous ones.
    """

    which: Int[Array, ""]
    spec: Spec = eqx.field(static=True, default=Spec("Probe", 3, Discrete(2), 4))

    @classmethod
    def of(cls, name: str, action: ActionSpace = Discrete(2)) -> "Probe":
        """A probe by name, for one kind of action."""
        return cls(which=jnp.asarray(PROBES.index(name)), spec=probe_spec(action))

    @property
    def best(self) -> float:
        """w."""
        return 0.5 if isinstance(self.spec.action, Continuous) else 1.0

    def reset(self, key: PRNGKeyArray) -> State:
        cue = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return jnp.stack([jnp.zeros(()), jnp.where(self.which == 3, cue, 0.0), jnp.zeros(())])

    def observe(self, state: State) -> State:
        return state

    def step(
        self, state: State, action: Array, key: PRNGKeyArray
    ) -> tuple[State, Scalar, Bool[Array, ""]]:
        step, cue, opened = state
        second = step > 0
        u = action[0] if isinstance(self.spec.action, Continuous) else 2.0 * action - 1
        match = lambda best: 1 - ((u - best) / self.best) ** 2 / 2
        opens = jnp.clip((1 + u) / 2, 0, 1)
        rewards: Sequence[Array] = (
            jnp.ones(()),
            jnp.where(second, 1.0, 0.0),
            match(self.best),
            match(cue * self.best),
            jnp.where(second, opened * match(self.best), 0.3 * (1 - opens)),
        )
        reward = jnp.stack([jnp.asarray(r, float) for r in rewards])[self.which]
        two_steps = (self.which == 1) | (self.which == 4)
        opened = jnp.where(self.which == 4, opens, 0.0)
        state = jnp.stack([jnp.ones(()), cue, opened])
        return state, reward, ~two_steps | second


def probe_spec(action: ActionSpace) -> Spec:
    """What an agent must know of all five."""
    return Spec("Probe", 3, action, 4)


def questions(which: int, discount: float) -> list[tuple[tuple[float, float, float], float]]:
    """(observation, its worth under the best policy) of what a probe's best policy meets."""
    start, cued = (0.0, 0.0, 0.0), lambda cue: (0.0, cue, 0.0)
    return [
        [(start, 1.0)],
        [(start, discount), ((1.0, 0.0, 0.0), 1.0)],
        [(start, 1.0)],
        [(cued(-1.0), 1.0), (cued(1.0), 1.0)],
        [(start, discount), ((1.0, 0.0, 1.0), 1.0)],
    ][which]
