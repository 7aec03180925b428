"""Continuous control by the critic's own slope: DDPG, SVG(0) and SAC.

The critic settles on what an action is worth; pulled at its output, it tells its input node which
way the action should have gone. That pressure, dQ/da, is the actor's cost: C = -<dQ/da, a(output)>,
plus alpha log pi for SAC. Both are local to the circuit they are in: nothing is differentiated
through the critic, whatever assigner teaches it (`AbstractAssigner.pressure`).
"""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anima.act.heads import Gaussian, SquashedGaussian
from anima.act.objectives import (
    DeterministicActor,
    Drawn,
    StochasticActor,
    soft_target,
    temperature_cost,
)
from anima.agent.agent import AbstractAgent
from anima.agent.faculty import Faculty, Senses, check_counts, steered
from anima.agent.mind import AbstractMind, Chart, alignment, only_if
from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import check_fraction, check_positive, check_range
from anima.core.types import Scalar
from anima.learn.assigners import AbstractAssigner
from anima.learn.costs import AbstractCost, Huber
from anima.learn.learner import LearnerState
from anima.world.env import Continuous, Moments, Spec, Transition
from anima.world.replay import Replay, Sample

Params = Float[Array, " width"]
Code = Float[Array, " size"]
"""An action in the units of `Continuous.code`: within [-1, 1]."""


class AbstractConduct(eqx.Module):
    """How an actor's output becomes an action, and which cost teaches that output."""

    head: eqx.AbstractVar[SquashedGaussian]

    @abstractmethod
    def begin(self) -> Any:
        """What of its exploring lasts from step to step, as an episode begins."""

    @abstractmethod
    def explore(self, params: Params, lasting: Any, key: PRNGKeyArray) -> tuple[Code, Any]:
        """An action to try, and what lasts of that."""

    @abstractmethod
    def mean_to(self, params: Params, key: PRNGKeyArray) -> tuple[Code, Scalar]:
        """The action whose worth is learnt and followed, and its log-probability (0 if certain)."""

    @abstractmethod
    def cost(self, temperature: Scalar) -> AbstractCost:
        """The cost of an output, for a target made by `target`."""

    @abstractmethod
    def target(self, pressure: Code, key: PRNGKeyArray) -> Any:
        """What `cost` takes, from the critic's dQ/da at the action of `mean_to` for this key."""


class Certain(AbstractConduct):
    """DDPG: the mode is meant, and tried with Gaussian noise of deviation `noise` added.

    From step to step the noise n keeps `persistence` rho of itself: it is 0 before an episode, and
    n <- rho n + sqrt(1 - rho^2) noise xi, so that its deviation soon is `noise` (Ornstein and
    Uhlenbeck, 1930; Lillicrap et al., 2016, have rho = 0.85).
    """

    head: SquashedGaussian
    noise: float = eqx.field(static=True)
    persistence: float = eqx.field(static=True)

    def begin(self) -> Code:
        return jnp.zeros(self.head.gaussian.size)

    def explore(self, params: Params, lasting: Code, key: PRNGKeyArray) -> tuple[Code, Code]:
        fresh = self.noise * jax.random.normal(key, lasting.shape)
        lasting = self.persistence * lasting + math.sqrt(1 - self.persistence**2) * fresh
        return jnp.clip(self.head.mode(params) + lasting, -1, 1), lasting

    def mean_to(self, params: Params, key: PRNGKeyArray) -> tuple[Code, Scalar]:
        return self.head.mode(params), jnp.zeros(())

    def cost(self, temperature: Scalar) -> AbstractCost:
        return DeterministicActor(self.head, along)

    def target(self, pressure: Code, key: PRNGKeyArray) -> Any:
        return pressure


class Sampled(AbstractConduct):
    """SVG(0), SAC: an action is drawn, and its noise held while the actor learns."""

    head: SquashedGaussian

    def begin(self) -> None:
        return None

    def explore(self, params: Params, lasting: None, key: PRNGKeyArray) -> tuple[Code, None]:
        return self.head.sample(params, key), None

    def mean_to(self, params: Params, key: PRNGKeyArray) -> tuple[Code, Scalar]:
        return self.head.draw(params, key)

    def cost(self, temperature: Scalar) -> AbstractCost:
        return StochasticActor(self.head, along, temperature)

    def target(self, pressure: Code, key: PRNGKeyArray) -> Any:
        return Drawn(pressure, key)


def along(pressure: Code, action: Code) -> Scalar:
    """<dQ/da, a>: a critic as far as its slope is known."""
    return jnp.sum(pressure * action)


class Skill(eqx.Module):
    """What an update changes.

    - `actor`; `critics`, one or two. - `slow_actor`, `slow`: what follows them.
    - `log_temperature`, and `warming`, its optimiser's memory.
    """

    actor: LearnerState
    critics: tuple[LearnerState, ...]
    slow_actor: AbstractCircuit
    slow: tuple[AbstractCircuit, ...]
    log_temperature: Scalar
    warming: Any


class SteeringState(eqx.Module):
    """What a steering agent remembers."""

    skill: Skill
    replay: Replay
    moments: Moments
    step: Int[Array, ""]


class Steering(AbstractMind):
    """An actor that climbs its critics' dQ/da, off-policy, from replayed transitions.

    - `actor`, `critic`, `critics`: circuits, what teaches them, and how many critics there are;
      the least of them counts (Fujimoto et al., 2018). - `conduct`: how the actor acts and learns.
    - `discount`, `pull`: gamma, and the most that a TD error counts (Huber).
    - `polyak`: share of the way that slow circuits follow at each update; `slow_actor`: whether
      targets ask a slow actor too. - `temperature`: alpha at birth; `entropy`: the entropy that
      alpha seeks (`None`: alpha stays), `heating`: its optimiser.
    - `updates`, `batch`, `capacity`, `warmup`, `reward_scale`, `senses`: as in `QLearning`; before
      `warmup` transitions were seen, any action is as good as another.
    """

    spec: Spec = eqx.field(static=True)
    every: int = eqx.field(static=True)
    worlds: int = eqx.field(static=True)
    actor: Faculty
    critic: Faculty
    critics: int = eqx.field(static=True)
    conduct: AbstractConduct
    discount: float = eqx.field(static=True)
    pull: float = eqx.field(static=True)
    polyak: float = eqx.field(static=True)
    slow_actor: bool = eqx.field(static=True)
    temperature: float = eqx.field(static=True)
    entropy: float | None = eqx.field(static=True)
    heating: optax.GradientTransformation = eqx.field(static=True)
    updates: int = eqx.field(static=True)
    batch: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    warmup: int = eqx.field(static=True)
    reward_scale: float = eqx.field(static=True)
    senses: Senses

    def init(self, key: PRNGKeyArray) -> SteeringState:
        acting, *judging = jax.random.split(key, 1 + self.critics)
        actor, critics = self.actor.init(acting), tuple(map(self.critic.init, judging))
        log_temperature = jnp.log(jnp.maximum(jnp.asarray(self.temperature), 1e-8))
        skill = Skill(
            actor=actor,
            critics=critics,
            slow_actor=actor.circuit,
            slow=tuple(critic.circuit for critic in critics),
            log_temperature=log_temperature,
            warming=self.heating.init(log_temperature),
        )
        return SteeringState(
            skill=skill,
            replay=Replay.empty(self.spec, self.capacity, self.worlds, self.every),
            moments=Moments.empty(self.spec.observation),
            step=jnp.zeros((), jnp.int32),
        )

    def thought(self) -> Any:
        return self.conduct.begin()

    def decide(
        self,
        state: SteeringState,
        thought: Any,
        observation: Float[Array, "worlds n"],
        key: PRNGKeyArray,
        *,
        explore: bool,
    ) -> tuple[Array, Any]:
        if not explore:
            return self.choose(state, observation), thought
        drawing, trying = jax.random.split(key)
        params = self._params(state, state.skill.actor.circuit, observation)
        keys = jax.random.split(trying, observation.shape[0])
        tried, thought = jax.vmap(self.conduct.explore)(params, thought, keys)
        tried = self._space.decode(tried)
        any_ = self._space.spread(jax.random.uniform(drawing, tried.shape))
        return jnp.where(state.step < self.warmup, any_, tried), thought

    def act(
        self, state: SteeringState, observation: Float[Array, "worlds n"], key: PRNGKeyArray
    ) -> Array:
        thought = self.afresh(observation.shape[0])
        return self.decide(state, thought, observation, key, explore=True)[0]

    def choose(self, state: SteeringState, observation: Float[Array, "worlds n"]) -> Array:
        params = self._params(state, state.skill.actor.answering, observation)
        return self._space.decode(jax.vmap(self.conduct.head.mode)(params))

    def learn(
        self, state: SteeringState, happened: Transition, key: PRNGKeyArray
    ) -> tuple[SteeringState, Chart]:
        happened = happened._replace(
            action=self._space.clip(happened.action), reward=happened.reward * self.reward_scale
        )
        state = dataclasses.replace(
            state,
            replay=state.replay.push(happened),
            moments=self.senses.seen(state.moments, happened.observation),
            step=state.step + self.cycle,
        )
        update = lambda skill, key: self._update(dataclasses.replace(state, skill=skill), key)
        skill, charts = jax.lax.scan(update, state.skill, jax.random.split(key, self.updates))
        ready = state.step >= self.warmup
        state = dataclasses.replace(state, skill=only_if(ready, skill, state.skill))
        return state, jax.tree.map(lambda leaf: leaf[-1], charts)

    def worth(self, state: SteeringState, observation: Float[Array, "rows n"]):
        seen = self.senses.look(state.moments, observation)
        best = jax.vmap(self.conduct.head.mode)(self.actor.ask(state.skill.actor.circuit, seen))
        return jnp.min(self._values(_circuits(state.skill.critics), seen, best), 0)

    def alignment(self, state: SteeringState, key: PRNGKeyArray) -> Chart:
        """Of the first critic, towards its present targets."""
        drawn, ahead, credit = jax.random.split(key, 3)
        inputs, goal = self._goals(state, self._sample(state, drawn), ahead)
        circuit, cost = state.skill.critics[0].circuit, Huber(self.pull)
        found = alignment(circuit, self.critic.assigner, inputs, goal[:, None], credit, cost)
        return {"alignment": found}

    def circuits(self, state: SteeringState) -> dict[str, AbstractCircuit]:
        critics = _circuits(state.skill.critics)
        named = {f"critic{i + 1}": circuit for i, circuit in enumerate(critics)}
        return {"actor": state.skill.actor.answering} | named

    def climb(
        self, critics: Sequence[AbstractCircuit], seen: Array, action: Array, key: PRNGKeyArray
    ) -> tuple[Float[Array, " batch"], Float[Array, "batch size"]]:
        """The least of the critics' values of each action, and that critic's dQ/da."""
        inputs = jnp.concatenate([seen, action], -1)
        values = self._values(critics, seen, action)  # (critics, batch)
        slopes = jnp.stack([self.critic.pressure(circuit, inputs, key) for circuit in critics])
        least = jnp.argmin(values, 0)
        pick = lambda rows: jnp.take_along_axis(rows, least[None, :, None], 0)[0]
        return jnp.min(values, 0), pick(slopes)[:, seen.shape[-1] :]

    @property
    def _space(self) -> Continuous:
        return steered("steering", self.spec)

    def _params(self, state: SteeringState, circuit: AbstractCircuit, observation: Array) -> Array:
        return self.actor.ask(circuit, self.senses.look(state.moments, observation))

    def _values(self, critics: Sequence[AbstractCircuit], seen: Array, action: Array) -> Array:
        """What each critic thinks of each action, (critics, batch)."""
        inputs = jnp.concatenate([seen, action], -1)
        return jnp.stack([self.critic.ask(circuit, inputs)[:, 0] for circuit in critics])

    def _sample(self, state: SteeringState, key: PRNGKeyArray) -> Sample:
        return state.replay.sample(key, self.batch, discount=self.discount)

    def _goals(self, state: SteeringState, sample: Sample, key: PRNGKeyArray):
        """What the critics read, and what they should have answered."""
        past, skill = sample.transition, state.skill
        look = lambda observation: self.senses.look(state.moments, observation)
        following = look(past.following)
        asked = skill.slow_actor if self.slow_actor else skill.actor.circuit
        keys = jax.random.split(key, self.batch)
        then, chance = jax.vmap(self.conduct.mean_to)(self.actor.ask(asked, following), keys)
        ahead = self._values(skill.slow, following, then)
        goal = jax.vmap(soft_target, (0, 0, 0, 1, 0, None))(
            past.reward, past.terminated, sample.discount, ahead, chance, self._alpha(skill)
        )
        inputs = [look(past.observation), self._space.code(past.action)]
        return jnp.concatenate(inputs, -1), goal

    def _alpha(self, skill: Skill) -> Scalar:
        return jnp.exp(skill.log_temperature) if self.temperature else jnp.zeros(())

    def _update(self, state: SteeringState, key: PRNGKeyArray) -> tuple[Skill, Chart]:
        drawn, ahead, trying, pressing = jax.random.split(key, 4)
        sample, skill = self._sample(state, drawn), state.skill
        inputs, goal = self._goals(state, sample, ahead)
        cost = Huber(self.pull)
        taught = [self.critic.learn(c, cost, inputs, goal[:, None]) for c in skill.critics]
        critics = tuple(critic for critic, _ in taught)
        info = taught[0][1]
        seen, keys = inputs[:, : self.spec.observation], jax.random.split(trying, self.batch)
        params = self.actor.ask(skill.actor.circuit, seen)
        action, chance = jax.vmap(self.conduct.mean_to)(params, keys)
        value, slope = self.climb(_circuits(critics), seen, action, pressing)
        target = jax.vmap(self.conduct.target)(slope, keys)
        actor, acted = self.actor.learn(
            skill.actor, self.conduct.cost(self._alpha(skill)), seen, target
        )
        log_temperature, warming = self._heat(skill, jnp.mean(chance))
        skill = Skill(
            actor=actor,
            critics=critics,
            slow_actor=self._follow(skill.slow_actor, actor.circuit),
            slow=self._follow(skill.slow, _circuits(critics)),
            log_temperature=log_temperature,
            warming=warming,
        )
        chart = {
            "surprise": jnp.mean(jnp.abs(goal - info.output[:, 0])),
            "value": jnp.mean(value),
            "entropy": -jnp.mean(chance),
            "temperature": self._alpha(skill),
            "slope": jnp.mean(jnp.abs(slope)),
            "cost": info.cost,
            "energy": info.energy,
            "residual": jnp.maximum(info.residual, acted.residual),
            "result": jnp.maximum(info.result, acted.result).astype(float),
        }
        return skill, chart

    def _heat(self, skill: Skill, chance: Scalar) -> tuple[Scalar, Any]:
        """The temperature nearer to where the policy has the entropy that is sought."""
        if self.entropy is None:
            return skill.log_temperature, skill.warming
        slope = jax.grad(temperature_cost)(skill.log_temperature, chance, self.entropy)
        moved: Any  # an array, which is a pytree as optax wants
        moved, warming = self.heating.update(slope, skill.warming)
        return skill.log_temperature + moved, warming

    def _follow(self, slow: Any, quick: Any) -> Any:
        return jax.tree.map(lambda a, b: a + self.polyak * (b - a), slow, quick)


def _circuits(states: Sequence[LearnerState]) -> tuple[AbstractCircuit, ...]:
    return tuple(state.circuit for state in states)


def _steering(
    agent: str,
    spec: Spec,
    conduct: AbstractConduct,
    critics: int,
    given: dict[str, Any],
    *,
    slow_actor: bool = False,
    temperature: float = 0.0,
    entropy: float | None = None,
) -> Steering:
    """What the three agents share; `given` holds all that one was asked for."""
    names = ("steps", "every", "worlds", "updates", "batch", "capacity")
    check_counts(**{name: given[name] for name in names})
    check_positive(agent, **{name: given[name] for name in ("reward_scale", "pull", "polyak")})
    check_fraction(agent, discount=given["discount"], polyak=given["polyak"])
    check_range(agent, 0, math.inf, warmup=given["warmup"])
    learnt = max(given["steps"] - given["warmup"], 1) * given["updates"]
    per_epoch = learnt // (given["every"] * given["worlds"])
    learning = {name: given[name] for name in ("rule", "schedule", "decay")}

    def faculty(inputs: int, outputs: int, rate: float, **more: float) -> Faculty:
        sizes = (inputs, *given["hidden"], outputs)
        build = (given["circuit"], given["credit"])
        return Faculty.of(
            given["assigner"], sizes, *build, rate=rate, per_epoch=per_epoch, **learning, **more
        )

    names = ("every", "worlds", "discount", "pull", "polyak", "updates", "batch", "warmup")
    return Steering(
        spec=spec,
        actor=faculty(
            spec.observation, conduct.head.width, given["rate"], average=given["average"]
        ),
        critic=faculty(spec.observation + spec.action.size, 1, given["critic_rate"]),
        critics=critics,
        conduct=conduct,
        slow_actor=slow_actor,
        temperature=temperature,
        entropy=entropy,
        heating=optax.adam(given["rate"]),
        capacity=min(given["capacity"], max(given["steps"], given["every"] * given["worlds"])),
        reward_scale=given["reward_scale"],
        senses=Senses.of(spec, given["scale"], given["normalise"]),
        **{name: given[name] for name in names},
    )


def ddpg(
    spec: Spec,
    *,
    assigner: str | AbstractAssigner = "predictive",
    credit: dict[str, Any] | None = None,
    circuit: dict[str, Any] | None = None,
    hidden: Sequence[int] = (64, 64),
    rule: str = "adam",
    rate: float = 1e-3,
    critic_rate: float = 1e-3,
    schedule: str = "constant",
    decay: float = 0.0,
    average: float = 0.0,
    steps: int = 20_000,
    every: int = 1,
    worlds: int = 1,
    updates: int = 1,
    batch: int = 64,
    capacity: int = 50_000,
    warmup: int = 1000,
    discount: float = 0.98,
    polyak: float = 0.01,
    pull: float = 1.0,
    noise: float = 0.1,
    persistence: float = 0.0,
    reward_scale: float = 1.0,
    scale: Sequence[float] = (),
    normalise: bool = False,
) -> Steering:
    """Deep deterministic policy gradient (Lillicrap et al., 2016).

    **Arguments:** `noise`, the deviation of what is added to actions to explore, in units of half
    their range; `persistence`, the share of it that a step passes on to the next (0: each step has
    its own; a world that must long be pushed one way needs it near 1), where it is given the
    thought that it returned; `rate` and `critic_rate`, the actor's and the critic's; the others are
    the fields of `Steering`, or as for `dqn`.

    **Raises:** `InputError` for a world of finitely many actions, and for settings out of range.
    """
    check_range("ddpg", 0, math.inf, noise=noise)
    check_range("ddpg", 0, 1, persistence=persistence)
    given = locals()
    head = SquashedGaussian(Gaussian(steered("ddpg", spec).size, 0.0))
    return _steering("ddpg", spec, Certain(head, noise, persistence), 1, given, slow_actor=True)


def svg0(
    spec: Spec,
    *,
    assigner: str | AbstractAssigner = "predictive",
    credit: dict[str, Any] | None = None,
    circuit: dict[str, Any] | None = None,
    hidden: Sequence[int] = (64, 64),
    rule: str = "adam",
    rate: float = 1e-3,
    critic_rate: float = 1e-3,
    schedule: str = "constant",
    decay: float = 0.0,
    average: float = 0.0,
    steps: int = 20_000,
    every: int = 1,
    worlds: int = 1,
    updates: int = 1,
    batch: int = 64,
    capacity: int = 50_000,
    warmup: int = 1000,
    discount: float = 0.98,
    polyak: float = 0.01,
    pull: float = 1.0,
    least_spread: float = 0.1,
    reward_scale: float = 1.0,
    scale: Sequence[float] = (),
    normalise: bool = False,
) -> Steering:
    """Stochastic value gradients of horizon 0 (Heess et al., 2015): a stochastic policy whose mean
    and spread both follow the critic, through reparameterised actions.

    **Arguments:** `least_spread`: sigma before squashing is kept above it. Nothing else keeps the
    policy exploring. The others as for `ddpg`.

    **Raises:** `InputError` for a world of finitely many actions, and for settings out of range.
    """
    check_range("svg0", 1e-4, 1, least_spread=least_spread)
    given = locals()
    gaussian = Gaussian(steered("svg0", spec).size, bounds=(math.log(least_spread), 0.5))
    return _steering("svg0", spec, Sampled(SquashedGaussian(gaussian)), 1, given)


def sac(
    spec: Spec,
    *,
    assigner: str | AbstractAssigner = "predictive",
    credit: dict[str, Any] | None = None,
    circuit: dict[str, Any] | None = None,
    hidden: Sequence[int] = (64, 64),
    rule: str = "adam",
    rate: float = 1e-3,
    critic_rate: float = 1e-3,
    schedule: str = "constant",
    decay: float = 0.0,
    average: float = 0.0,
    steps: int = 20_000,
    every: int = 1,
    worlds: int = 1,
    updates: int = 1,
    batch: int = 64,
    capacity: int = 50_000,
    warmup: int = 1000,
    discount: float = 0.98,
    polyak: float = 0.01,
    pull: float = 1.0,
    temperature: float = 0.1,
    certainty: float = 1.0,
    adapt: bool = True,
    reward_scale: float = 1.0,
    scale: Sequence[float] = (),
    normalise: bool = False,
) -> Steering:
    """Soft actor-critic (Haarnoja et al., 2018): twin critics, and entropy as a part of the reward.

    **Arguments:** `temperature`, alpha at birth, in the units of the scaled reward; `adapt`,
    whether it then seeks an entropy of -`certainty` nats a dimension of actions within [-1, 1];
    the others as for `ddpg`.

    **Raises:** `InputError` for a world of finitely many actions, and for settings out of range.
    """
    check_positive("sac", temperature=temperature)
    given = locals()
    size = steered("sac", spec).size
    conduct = Sampled(SquashedGaussian(Gaussian(size, bounds=(-5.0, 2.0))))
    sought = -certainty * size if adapt else None
    return _steering("sac", spec, conduct, 2, given, temperature=temperature, entropy=sought)


class DDPG(AbstractAgent):
    """A DDPG agent; settings are those of `ddpg`."""

    name: ClassVar[str] = "ddpg"
    recipe = staticmethod(ddpg)


class SVG0(AbstractAgent):
    """An SVG(0) agent; settings are those of `svg0`."""

    name: ClassVar[str] = "svg0"
    recipe = staticmethod(svg0)


class SAC(AbstractAgent):
    """A SAC agent; settings are those of `sac`."""

    name: ClassVar[str] = "sac"
    recipe = staticmethod(sac)
