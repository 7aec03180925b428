"""Values of actions: deep Q-learning."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anima.agent.agent import AbstractAgent
from anima.agent.faculty import Faculty, Senses, check_counts
from anima.agent.mind import AbstractMind, Chart, alignment
from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import InputError, check_positive, check_range
from anima.core.types import Scalar
from anima.learn.assigners import AbstractAssigner
from anima.learn.costs import SquaredError
from anima.learn.learner import Learner, LearnerState
from anima.world.env import Discrete, Moments, Spec, Transition
from anima.world.replay import Replay, Sample


class Values(eqx.Module):
    """How values are learnt from replayed transitions, whatever circuit and assigner do it.

    Targets y = sum_k gamma^k r_k + gamma^n Q'(o_n, a*), without the second term where the episode
    terminated (but with it where it was truncated). The circuit's own answers, moved to y at the
    action that was taken and by no more than `clip`, are what the assigner is to bring about: so
    a target is never far, and a nudge or clamp always bounded.

    - `discount`, `returns`: gamma, and over how many rewards n before the value is asked.
    - `double`: a* is the online circuit's choice, the value Q' of the slow circuit (van Hasselt
      et al., 2016); else a* is the slow circuit's own.
    - `clip`: of the TD error. - `polyak`: share of the way that the slow circuit follows at each
      update; 1: there is no slow circuit.
    """

    discount: float = eqx.field(static=True)
    returns: int = eqx.field(static=True)
    double: bool = eqx.field(static=True)
    clip: float = eqx.field(static=True)
    polyak: float = eqx.field(static=True)

    def __check_init__(self):
        check_range("values", 0, 1.0000001, discount=self.discount, polyak=self.polyak)
        check_positive("values", returns=self.returns, clip=self.clip, polyak=self.polyak)

    def targets(
        self,
        ask: Callable[[Any, Float[Array, "rows n"]], Float[Array, "rows a"]],
        circuit: Any,
        slow: Any,
        sample: Sample,
    ) -> tuple[Float[Array, "batch a"], Float[Array, " batch"], Float[Array, "batch a"]]:
        """What the circuit should answer, the TD errors, and what it does answer."""
        past, count = sample.transition, sample.weight.shape[0]
        if self.double or self.polyak == 1:
            both = ask(circuit, jnp.concatenate([past.observation, past.following]))
            value, ahead = both[:count], both[count:]
            ahead_slow = ask(slow, past.following) if self.polyak < 1 else ahead
            choosing = ahead if self.double else ahead_slow
        else:  # what the circuit makes of what follows is not needed
            value, ahead_slow = ask(circuit, past.observation), ask(slow, past.following)
            choosing = ahead_slow
        choice = jnp.argmax(choosing, -1)
        future = jnp.take_along_axis(ahead_slow, choice[:, None], 1)[:, 0]
        goal = past.reward + sample.discount * jnp.where(past.terminated, 0.0, future)
        taken = jax.nn.one_hot(past.action, value.shape[-1])
        error = goal - jnp.sum(taken * value, -1)
        step = sample.weight * jnp.clip(error, -self.clip, self.clip)
        return value + taken * step[:, None], error, value

    def follow(self, slow: AbstractCircuit, circuit: AbstractCircuit) -> AbstractCircuit:
        """The slow circuit a little nearer to the online one."""
        return jax.tree.map(lambda a, b: a + self.polyak * (b - a), slow, circuit)


class AbstractCuriosity(eqx.Module):
    """Epsilon-greedy: how likely any action at all is."""

    @abstractmethod
    def epsilon(self, step: Int[Array, ""], episodes: Int[Array, ""]) -> Scalar:
        """The probability after so many steps and finished episodes."""


class Straight(AbstractCuriosity):
    """From `start` to `end` in a straight line over the first `steps` steps."""

    start: float = eqx.field(static=True)
    end: float = eqx.field(static=True)
    steps: float = eqx.field(static=True)

    def __check_init__(self):
        check_range("exploration", 0, 1.0000001, epsilon=self.start, epsilon_end=self.end)

    def epsilon(self, step: Int[Array, ""], episodes: Int[Array, ""]) -> Scalar:
        share = jnp.minimum(step / max(self.steps, 1), 1.0)
        return self.start + share * (self.end - self.start)


class Fading(AbstractCuriosity):
    """`start` x `fade`^episodes, but never below `end`."""

    start: float = eqx.field(static=True)
    end: float = eqx.field(static=True)
    fade: float = eqx.field(static=True)

    def __check_init__(self):
        bounds = dict(epsilon=self.start, epsilon_end=self.end, fade=self.fade)
        check_range("exploration", 0, 1.0000001, **bounds)

    def epsilon(self, step: Int[Array, ""], episodes: Int[Array, ""]) -> Scalar:
        return jnp.maximum(self.start * self.fade ** episodes.astype(float), self.end)


class QState(eqx.Module):
    """What a Q-learner remembers: circuits, what was lived through, how its world looks."""

    learner: LearnerState
    slow: AbstractCircuit
    replay: Replay
    moments: Moments
    step: Int[Array, ""]
    episodes: Int[Array, ""]


_CHARTED = ("surprise", "value", "cost", "energy", "residual", "result")


class QLearning(AbstractMind):
    """Deep Q-learning (Mnih et al., 2015) where any assigner gives the credit.

    - `draw`: makes the circuit from a key; `assigner`, `optimiser`: what learns it.
    - `values`, `curiosity`: see there. - `every`, `updates`, `batch`: steps between learning,
      updates then, examples an update. - `capacity`, `warmup`: of the replay, and transitions
      seen before learning begins. - `alpha`: replay by surprise^alpha (0: all alike).
    - `reward_scale`: what rewards are multiplied with. - `senses`: how observations are read.
    """

    spec: Spec = eqx.field(static=True)
    draw: Callable[[PRNGKeyArray], AbstractCircuit] = eqx.field(static=True)
    assigner: AbstractAssigner
    optimiser: optax.GradientTransformation = eqx.field(static=True)
    values: Values
    curiosity: AbstractCuriosity
    every: int = eqx.field(static=True)
    worlds: int = eqx.field(static=True)
    updates: int = eqx.field(static=True)
    batch: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    warmup: int = eqx.field(static=True)
    alpha: float = eqx.field(static=True)
    reward_scale: float = eqx.field(static=True)
    senses: Senses

    def init(self, key: PRNGKeyArray) -> QState:
        drawn, learning = jax.random.split(key)
        circuit = self.draw(drawn)
        return QState(
            learner=self._learner(circuit).init(learning),
            slow=circuit,
            replay=Replay.empty(self.spec, self.capacity, self.worlds, self.every),
            moments=Moments.empty(self.spec.observation),
            step=jnp.zeros((), jnp.int32),
            episodes=jnp.zeros((), jnp.int32),
        )

    def act(self, state: QState, observation: Float[Array, "worlds n"], key: PRNGKeyArray) -> Array:
        drawn = jax.random.uniform(key, (observation.shape[0], 2))
        curious = drawn[:, 0] < self.epsilon(state)
        any_ = self.spec.action.spread(drawn[:, 1:])
        greedy = jnp.argmax(self._ask(state, state.learner.circuit, observation), -1)
        return jnp.where(curious, any_, greedy)

    def choose(self, state: QState, observation: Float[Array, "worlds n"]) -> Array:
        return jnp.argmax(self._ask(state, state.learner.answering, observation), -1)

    def learn(self, state: QState, happened: Transition, key: PRNGKeyArray) -> tuple[QState, Chart]:
        """See `AbstractMind.learn`. What is charted is of the last update; 0 while it warms up."""
        happened = happened._replace(reward=happened.reward * self.reward_scale)
        state = dataclasses.replace(
            state,
            replay=state.replay.push(happened),
            moments=self.senses.seen(state.moments, happened.observation),
            step=state.step + self.cycle,
            episodes=state.episodes + jnp.sum(happened.ended.astype(jnp.int32)),
        )

        def update(i, loop):
            return self._update(_with(state, loop[0]), jax.random.fold_in(key, i))

        begun = self._learning(state), dict.fromkeys(_CHARTED, jnp.zeros(()))
        count = jnp.where(state.step >= self.warmup, self.updates, 0)
        learning, chart = jax.lax.fori_loop(0, count, update, begun)
        return _with(state, learning), chart | {"epsilon": self.epsilon(state)}

    def epsilon(self, state: QState) -> Scalar:
        """How likely any action at all is now."""
        return self.curiosity.epsilon(state.step, state.episodes)

    def alignment(self, state: QState, key: PRNGKeyArray) -> Chart:
        drawn, credit = jax.random.split(key)
        sample = self.sample(state, drawn)
        circuit = state.learner.circuit
        wanted, _, _ = self.values.targets(partial(self._ask, state), circuit, state.slow, sample)
        inputs = self.look(state, sample.transition.observation)
        return {"alignment": alignment(circuit, self.assigner, inputs, wanted, credit)}

    def worth(self, state: QState, observation: Float[Array, "rows n"]) -> Float[Array, " rows"]:
        return jnp.max(self._ask(state, state.learner.circuit, observation), -1)

    def circuits(self, state: QState) -> dict[str, AbstractCircuit]:
        return {"actor": state.learner.answering}

    def _learning(self, state: QState) -> dict[str, Any]:
        """What an update changes: never the rows of the replay, which are large."""
        replay = state.replay
        ranks = {"surprise": replay.surprise, "peak": replay.peak} if self.alpha else {}
        return {"learner": state.learner, "slow": state.slow, "ranks": ranks}

    def _update(self, state: QState, key: PRNGKeyArray) -> tuple[dict[str, Any], Chart]:
        sample = self.sample(state, key)
        circuit = state.learner.circuit
        wanted, error, value = self.values.targets(
            partial(self._ask, state), circuit, state.slow, sample
        )
        clamp = {"input": self.look(state, sample.transition.observation)}
        learner, info = self._learner(circuit).step(state.learner, (clamp, wanted))
        replay = state.replay.surprised(sample.place, error) if self.alpha else state.replay
        slow = self.values.follow(state.slow, learner.circuit)
        chart = {
            "surprise": jnp.mean(jnp.abs(error)),
            "value": jnp.mean(value),
            "cost": info.cost,
            "energy": info.energy,
            "residual": info.residual,
            "result": info.result.astype(float),
        }
        new = dataclasses.replace(state, learner=learner, slow=slow, replay=replay)
        return self._learning(new), chart

    def _learner(self, circuit: AbstractCircuit) -> Learner:
        return Learner(circuit, self.assigner, SquaredError(), self.optimiser)

    def sample(self, state: QState, key: PRNGKeyArray) -> Sample:
        """A batch of what is remembered."""
        values = self.values
        return state.replay.sample(
            key,
            self.batch,
            discount=values.discount,
            steps=values.returns,
            alpha=self.alpha,
        )

    def look(self, state: QState, observation: Float[Array, "*rows n"]) -> Float[Array, "*rows n"]:
        """Observations as the circuits read them."""
        return self.senses.look(state.moments, observation)

    def _ask(self, state: QState, circuit: AbstractCircuit, observation: Array) -> Array:
        clamp = {"input": self.look(state, observation)}
        return self._learner(circuit).predict(circuit, clamp)


def _with(state: QState, learning: dict[str, Any]) -> QState:
    """The state with what an update changed."""
    return dataclasses.replace(
        state,
        learner=learning["learner"],
        slow=learning["slow"],
        replay=dataclasses.replace(state.replay, **learning["ranks"]),
    )


def dqn(
    spec: Spec,
    *,
    assigner: str | AbstractAssigner = "predictive",
    credit: dict[str, Any] | None = None,
    circuit: dict[str, Any] | None = None,
    hidden: Sequence[int] = (64, 64),
    rule: str = "adam",
    rate: float = 1e-3,
    schedule: str = "linear",
    decay: float = 0.0,
    frobenius: bool = False,
    average: float = 0.0,
    steps: int = 50_000,
    every: int = 4,
    worlds: int = 1,
    updates: int = 1,
    batch: int = 64,
    capacity: int = 50_000,
    warmup: int = 1000,
    discount: float = 0.98,
    returns: int = 1,
    double: bool = True,
    clip: float = 1.0,
    polyak: float = 0.02,
    epsilon: float = 1.0,
    epsilon_end: float = 0.05,
    exploration: float = 0.2,
    fade: float = 0.0,
    alpha: float = 0.0,
    reward_scale: float = 1.0,
    scale: Sequence[float] = (),
    normalise: bool = False,
) -> QLearning:
    """A `QLearning` mind for a world of discrete actions.

    **Arguments:** `assigner`, a name or an assigner; `credit` and `circuit`, arguments of the
    named assigner and of its circuit's builder; `hidden`, sizes; `rule`, `rate`, `schedule`,
    `decay`, `frobenius`, `average`, the arguments of `anima.optimiser` (greedy actions alone are
    those of averaged synapses); `steps`: how long the life is meant to be, in environment steps,
    which schedules span; `exploration`, the share of it after which
    epsilon is `epsilon_end`, unless `fade` is given, which multiplies it at the end of each
    episode; `scale`, one divisor per number of an observation (none: 1). The others are the
    fields of `QLearning` and of `Values`.

    **Raises:** `InputError` for a world of continuous actions and for settings out of range.
    """
    if not isinstance(spec.action, Discrete):
        raise InputError(
            f"dqn and angc choose one of n actions, {spec.name} takes {spec.action}: use sac, "
            "ddpg, svg0, ppo, reinforce or synapse"
        )
    check_counts(steps=steps, every=every, worlds=worlds, updates=updates, batch=batch)
    check_range("dqn", 0, math.inf, warmup=warmup)
    check_range("dqn", 0, 1.0000001, exploration=exploration)
    check_range("dqn", 0, math.inf, alpha=alpha)
    check_positive("dqn", reward_scale=reward_scale)
    sizes = (spec.observation, *hidden, spec.action.n)
    skill = Faculty.of(
        assigner,
        sizes,
        circuit,
        credit,
        rule=rule,
        rate=rate,
        schedule=schedule,
        decay=decay,
        frobenius=frobenius,
        average=average,
        per_epoch=max(steps - warmup, 1) * updates // (every * worlds),
    )
    curiosity = (
        Fading(epsilon, epsilon_end, fade)
        if fade
        else Straight(epsilon, epsilon_end, exploration * steps)
    )
    return QLearning(
        spec=spec,
        draw=skill.draw,
        assigner=skill.assigner,
        optimiser=skill.optimiser,
        values=Values(discount, returns, double, clip, polyak),
        curiosity=curiosity,
        every=every,
        worlds=worlds,
        updates=updates,
        batch=batch,
        capacity=min(capacity, max(steps, every * worlds)),
        warmup=warmup,
        alpha=alpha,
        reward_scale=reward_scale,
        senses=Senses.of(spec, scale, normalise),
    )


class DQN(AbstractAgent):
    """A deep Q-learning agent; settings are those of `dqn`."""

    name: ClassVar[str] = "dqn"
    recipe = staticmethod(dqn)
