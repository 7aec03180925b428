"""Policies that learn from whole rollouts: REINFORCE with a baseline, and PPO.

The actor's output node is read by a head as a distribution over actions. The cost of that output is
the log-probability of what was done times what it was worth, or PPO's clipped surrogate of it; the
critic's is how far its value was from the return. From there on each circuit's own assigner takes
over, and no error passes from one circuit to the other.

Continuous actions are Gaussian in the units of `Continuous.code`. Their spread is one number a
dimension, the same in all states: a neuron's own noise, which learns from what that neuron knows,
(surprise^2 - 1) times worth.
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

from anima.act.estimators import Series, Trajectory, discounted_returns, gae, lambda_returns, phi
from anima.act.heads import AbstractHead, Categorical, Gaussian
from anima.act.objectives import ClippedSurrogate, Deed, PolicyGradient
from anima.agent.agent import AbstractAgent
from anima.agent.faculty import Faculty, Senses, check_counts
from anima.agent.mind import AbstractMind, Chart, alignment
from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import InputError, check_fraction, check_positive, check_range
from anima.learn.assigners import AbstractAssigner
from anima.learn.costs import Huber
from anima.learn.learner import LearnerState
from anima.world.env import Continuous, Discrete, Moments, Spec, Transition

_CLIPPED_SIGMA = (-3.0, 1.0)  # log of a policy's spread, in units of half the range of actions


class AbstractEstimator(eqx.Module):
    """What the actions of a trajectory were worth, and what the critic should have said."""

    @abstractmethod
    def __call__(self, trajectory: Trajectory) -> tuple[Series, Series]:
        """(worth of each action, target of each value)."""


class Phi(AbstractEstimator):
    """One of the `phi` of the policy gradient; the critic learns the return to go.

    - `choice`: 1, 2, 3 or 6 (4 and 5 weigh by a Q that a critic of states does not have).
    - `discount`; `steps`, of choice 6.
    """

    choice: int = eqx.field(static=True)
    discount: float = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        check_fraction("returns", discount=self.discount)
        if self.choice not in (1, 2, 3, 6):
            raise InputError(f"phi is {self.choice}: give 1, 2, 3 or 6 (4 and 5 need a Q)")

    def __call__(self, trajectory: Trajectory) -> tuple[Series, Series]:
        worth = phi(self.choice, trajectory, self.discount, steps=self.steps)
        return worth, discounted_returns(trajectory, self.discount)


class GAE(AbstractEstimator):
    """`gae`, and the lambda-return that goes with it. - `discount`, `decay` (lambda), `tail`."""

    discount: float = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    tail: str = eqx.field(static=True, default="longest")

    def __check_init__(self):
        check_fraction("gae", discount=self.discount, decay=self.decay)

    def __call__(self, trajectory: Trajectory) -> tuple[Series, Series]:
        settings: Any = dict(discount=self.discount, decay=self.decay, tail=self.tail)
        return gae(trajectory, **settings), lambda_returns(trajectory, **settings)


class Rollout(eqx.Module):
    """What was lived since the last learning, one row a step, as the circuits take it.

    - `inputs`: what was seen. - `deeds`: what was done, and its worth. - `goals`: what the
      critic should have said.
    """

    inputs: Float[Array, "rows n"]
    deeds: Deed
    goals: Float[Array, "rows 1"]


class PolicyState(eqx.Module):
    """What an actor-critic remembers. `spread` is log sigma of each dimension of an action (`None`
    for a discrete one), `noticing` its optimiser's memory, `rollout` the last one it learnt from.
    """

    actor: LearnerState
    critic: LearnerState
    spread: Float[Array, " size"] | None
    noticing: Any
    moments: Moments
    rollout: Rollout
    step: Int[Array, ""]


class ActorCritic(AbstractMind):
    """A policy and a value, learnt from rollouts of `every` steps in each of `worlds` worlds.

    - `actor`, `critic`: circuits, and what teaches them.
    - `head`: reads the actor's output. - `cost`: what the actor is taught by, for that head.
    - `estimator`: what actions were worth. - `standardise`: whether a rollout's worths are
      shifted and scaled to mean 0 and deviation 1 (which reads the whole batch: not local).
    - `pull`: the most that the critic's error counts (Huber).
    - `epochs`, `parts`: how often a rollout is learnt from, and in how many minibatches each time.
    - `noting`: the optimiser of the spread. - `reward_scale`, `senses`: as in `QLearning`.
    """

    spec: Spec = eqx.field(static=True)
    every: int = eqx.field(static=True)
    worlds: int = eqx.field(static=True)
    actor: Faculty
    critic: Faculty
    head: AbstractHead
    cost: PolicyGradient | ClippedSurrogate
    estimator: AbstractEstimator
    standardise: bool = eqx.field(static=True)
    pull: float = eqx.field(static=True)
    epochs: int = eqx.field(static=True)
    parts: int = eqx.field(static=True)
    noting: optax.GradientTransformation = eqx.field(static=True)
    spread: float = eqx.field(static=True)
    reward_scale: float = eqx.field(static=True)
    senses: Senses

    def init(self, key: PRNGKeyArray) -> PolicyState:
        acting, judging = jax.random.split(key)
        discrete = isinstance(self.spec.action, Discrete)
        spread = None if discrete else jnp.full(self.spec.action.size, self.spread)
        return PolicyState(
            actor=self.actor.init(acting),
            critic=self.critic.init(judging),
            spread=spread,
            noticing=None if spread is None else self.noting.init(spread),
            moments=Moments.empty(self.spec.observation),
            rollout=self._blank(),
            step=jnp.zeros((), jnp.int32),
        )

    def act(
        self, state: PolicyState, observation: Float[Array, "worlds n"], key: PRNGKeyArray
    ) -> Array:
        keys = jax.random.split(key, observation.shape[0])
        params = self._ask(state, state.actor.circuit, observation)
        drawn = jax.vmap(self.head_of(state.spread).sample)(params, keys)
        return self._in_world(drawn)

    def choose(self, state: PolicyState, observation: Float[Array, "worlds n"]) -> Array:
        params = self._ask(state, state.actor.answering, observation)
        mode = jax.vmap(self.head_of(state.spread).mode)(params)
        action = self._in_world(mode)
        return self.spec.action.clip(action)

    def learn(
        self, state: PolicyState, happened: Transition, key: PRNGKeyArray
    ) -> tuple[PolicyState, Chart]:
        rollout, chart = self._looked_back(state, happened)
        batches = self._batches(rollout, key)
        state = dataclasses.replace(state, rollout=rollout)
        state, charts = jax.lax.scan(self._update, state, batches)
        state = dataclasses.replace(
            state,
            moments=self.senses.seen(state.moments, happened.observation),
            step=state.step + self.cycle,
        )
        return state, chart | jax.tree.map(lambda leaf: leaf[-1], charts)

    def worth(self, state: PolicyState, observation: Float[Array, "rows n"]):
        seen = self.senses.look(state.moments, observation)
        return self.critic.ask(state.critic.circuit, seen)[:, 0]

    def alignment(self, state: PolicyState, key: PRNGKeyArray) -> Chart:
        rollout, cost = state.rollout, self._cost(state.spread)
        circuit, assigner = state.actor.circuit, self.actor.assigner
        return {"alignment": alignment(circuit, assigner, rollout.inputs, rollout.deeds, key, cost)}

    def circuits(self, state: PolicyState) -> dict[str, AbstractCircuit]:
        return {"actor": state.actor.answering, "critic": state.critic.circuit}

    def head_of(self, spread: Float[Array, " size"] | None) -> AbstractHead:
        """The head, with the present spread of continuous actions."""
        if spread is None:
            return self.head
        return dataclasses.replace(self.head, log_std=spread)

    def _cost(self, spread: Float[Array, " size"] | None) -> PolicyGradient | ClippedSurrogate:
        return dataclasses.replace(self.cost, head=self.head_of(spread))

    def _ask(self, state: PolicyState, circuit: AbstractCircuit, observation: Array) -> Array:
        return self.actor.ask(circuit, self.senses.look(state.moments, observation))

    def _in_world(self, action: Array) -> Array:
        space = self.spec.action
        return space.decode(action) if isinstance(space, Continuous) else action

    def _looked_back(self, state: PolicyState, past: Transition) -> tuple[Rollout, Chart]:
        """What was done and what came of it, judged by the circuits that did it."""
        value, ahead = self.worth_of(state, past.observation), self.worth_of(state, past.following)
        lived = Trajectory(
            past.reward * self.reward_scale, value, ahead, past.terminated, past.truncated
        )
        each_world = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), lived)
        worth, goal = jax.vmap(self.estimator)(each_world)  # (worlds, every)
        worth, goal = worth.T.ravel(), goal.T.ravel()
        chart = {"surprise": jnp.mean(jnp.abs(goal - value.ravel())), "value": jnp.mean(value)}
        if self.standardise:
            worth = (worth - jnp.mean(worth)) / (jnp.std(worth) + 1e-8)
        inputs = self.senses.look(state.moments, past.observation)
        inputs = inputs.reshape(-1, self.spec.observation)
        action = self._by_hand(past.action.reshape(-1, *past.action.shape[2:]))
        params = self.actor.ask(state.actor.circuit, inputs)
        head = self.head_of(state.spread)
        chance = jax.vmap(head.log_prob)(params, action)
        chart["entropy"] = jnp.mean(jax.vmap(head.entropy)(params))
        return Rollout(inputs, Deed(action, worth, chance), goal[:, None]), chart

    def worth_of(self, state: PolicyState, observation: Float[Array, "every worlds n"]) -> Array:
        """V of each observation of a rollout, (every, worlds)."""
        flat = observation.reshape(-1, observation.shape[-1])
        return self.worth(state, flat).reshape(observation.shape[:-1])

    def _by_hand(self, action: Array) -> Array:
        """Actions as the head drew them."""
        space = self.spec.action
        return space.code(action) if isinstance(space, Continuous) else action

    def _batches(self, rollout: Rollout, key: PRNGKeyArray) -> Rollout:
        """All minibatches of all epochs, in a leading axis: each epoch in an order of its own."""
        rows = self.cycle // self.parts
        if self.parts == 1:
            order = jnp.broadcast_to(jnp.arange(self.cycle), (self.epochs, self.cycle))
        else:
            keys = jax.random.split(key, self.epochs)
            order = jax.vmap(lambda key: jax.random.permutation(key, self.cycle))(keys)
        order = order.reshape(self.epochs * self.parts, rows)
        return jax.tree.map(lambda leaf: leaf[order], rollout)

    def _update(self, state: PolicyState, batch: Rollout) -> tuple[PolicyState, Chart]:
        cost = self._cost(state.spread)
        actor, info = self.actor.learn(state.actor, cost, batch.inputs, batch.deeds)
        critic, judged = self.critic.learn(
            state.critic, Huber(self.pull), batch.inputs, batch.goals
        )
        spread, noticing = self._spread(state, info.output, batch.deeds)
        state = dataclasses.replace(
            state, actor=actor, critic=critic, spread=spread, noticing=noticing
        )
        chart = {
            "cost": info.cost,
            "energy": info.energy,
            "residual": jnp.maximum(info.residual, judged.residual),
            "result": jnp.maximum(info.result, judged.result).astype(float),
        }
        return state, chart

    def _spread(self, state: PolicyState, params: Array, deeds: Deed) -> tuple[Array | None, Any]:
        """The spread and its memory, after the same cost at the same outputs."""
        if state.spread is None:
            return None, None

        def mean(spread: Array) -> Array:
            return jnp.mean(jax.vmap(self._cost(spread))(deeds, params))

        slope = jax.grad(mean)(state.spread)
        moved: Any  # an array, which is a pytree as optax wants
        moved, noticing = self.noting.update(slope, state.noticing)
        return jnp.clip(state.spread + moved, *_CLIPPED_SIGMA), noticing

    def _blank(self) -> Rollout:
        """A rollout of nothing."""
        rows, space = self.cycle, self.spec.action
        none = jnp.zeros(rows)
        discrete = isinstance(space, Discrete)
        action = jnp.zeros(rows, jnp.int32) if discrete else jnp.zeros((rows, space.size))
        deeds = Deed(action, none, none)
        return Rollout(jnp.zeros((rows, self.spec.observation)), deeds, none[:, None])


def _actor_critic(
    spec: Spec,
    cost: type[PolicyGradient] | type[ClippedSurrogate],
    estimator: AbstractEstimator,
    given: dict[str, Any],
    **bent: float,
) -> ActorCritic:
    """What `reinforce` and `ppo` share; `given` holds all that either was asked for."""
    names = ("every", "worlds", "epochs", "parts", "steps")
    check_counts(**{name: given[name] for name in names})
    check_positive("actor-critic", **{n: given[n] for n in ("reward_scale", "pull", "spread")})
    cycle = given["every"] * given["worlds"]
    if cycle % given["parts"]:
        raise InputError(
            f"parts is {given['parts']}: it must divide the {cycle} steps of a rollout "
            f"(every {given['every']} x worlds {given['worlds']})"
        )
    space = spec.action
    head = Categorical(space.n) if isinstance(space, Discrete) else Gaussian(space.size, 0.0)
    updates = max(given["steps"] // cycle, 1) * given["epochs"] * given["parts"]
    learning = {name: given[name] for name in ("rule", "schedule", "decay")}
    build = (given["circuit"], given["credit"])

    def faculty(outputs: int, rate: float, **more: float) -> Faculty:
        sizes = (spec.observation, *given["hidden"], outputs)
        return Faculty.of(
            given["assigner"], sizes, *build, rate=rate, per_epoch=updates, **learning, **more
        )

    return ActorCritic(
        spec=spec,
        every=given["every"],
        worlds=given["worlds"],
        actor=faculty(head.width, given["rate"], average=given["average"]),
        critic=faculty(1, given["critic_rate"]),
        head=head,
        cost=cost(head, entropy=given["entropy"], **bent),
        estimator=estimator,
        standardise=given["standardise"],
        pull=given["pull"],
        epochs=given["epochs"],
        parts=given["parts"],
        noting=optax.adam(given["rate"]),
        spread=math.log(given["spread"]),
        reward_scale=given["reward_scale"],
        senses=Senses.of(spec, given["scale"], given["normalise"]),
    )


def reinforce(
    spec: Spec,
    *,
    assigner: str | AbstractAssigner = "predictive",
    credit: dict[str, Any] | None = None,
    circuit: dict[str, Any] | None = None,
    hidden: Sequence[int] = (64, 64),
    rule: str = "adam",
    rate: float = 1e-3,
    critic_rate: float = 1e-3,
    schedule: str = "linear",
    decay: float = 0.0,
    average: float = 0.0,
    steps: int = 50_000,
    every: int = 64,
    worlds: int = 8,
    discount: float = 0.98,
    choice: int = 3,
    returns: int = 1,
    standardise: bool = True,
    entropy: float = 0.0,
    pull: float = 1.0,
    spread: float = 0.5,
    reward_scale: float = 1.0,
    scale: Sequence[float] = (),
    normalise: bool = False,
) -> ActorCritic:
    """REINFORCE with a baseline (Williams, 1992): one update from each rollout, then it is
    forgotten.

    **Arguments:** `choice`, which Phi weighs an action (3: the return to go, less the critic's
    value), and `returns`, the steps of Phi 6; returns that a rollout cuts off are valued by the
    critic. `every` and `worlds`, the steps of a rollout and in how many worlds side by side;
    `spread`, sigma of continuous actions at birth, in units of half their range; `rule`, `rate`,
    `schedule`, `decay`, `average`, as for `dqn` (the last of the actor alone), and `critic_rate`,
    the critic's. The others are the fields of `ActorCritic` and of its cost, or as for `dqn`.

    **Raises:** `InputError` for settings out of range.
    """
    given = locals() | dict(epochs=1, parts=1)
    return _actor_critic(spec, PolicyGradient, Phi(choice, discount, returns), given)


def ppo(
    spec: Spec,
    *,
    assigner: str | AbstractAssigner = "predictive",
    credit: dict[str, Any] | None = None,
    circuit: dict[str, Any] | None = None,
    hidden: Sequence[int] = (64, 64),
    rule: str = "adam",
    rate: float = 1e-3,
    critic_rate: float = 1e-3,
    schedule: str = "linear",
    decay: float = 0.0,
    average: float = 0.0,
    steps: int = 100_000,
    every: int = 32,
    worlds: int = 8,
    epochs: int = 10,
    parts: int = 1,
    discount: float = 0.98,
    lambda_: float = 0.9,
    tail: str = "longest",
    clip: float = 0.2,
    standardise: bool = True,
    entropy: float = 0.0,
    pull: float = 1.0,
    spread: float = 0.5,
    reward_scale: float = 1.0,
    scale: Sequence[float] = (),
    normalise: bool = False,
) -> ActorCritic:
    """Proximal policy optimisation (Schulman et al., 2017).

    **Arguments:** `lambda_` and `tail`, of `gae`; `clip`, how far the ratio to the policy that
    acted counts; `epochs` and `parts`, how often a rollout is learnt from and in how many
    minibatches each time; the others as for `reinforce`.

    **Raises:** `InputError` for settings out of range.
    """
    check_range("ppo", 0, 1, clip=clip)
    given = locals()
    estimator = GAE(discount, lambda_, tail)
    return _actor_critic(spec, ClippedSurrogate, estimator, given, clip=clip)


class REINFORCE(AbstractAgent):
    """A REINFORCE agent with a baseline; settings are those of `reinforce`."""

    name: ClassVar[str] = "reinforce"
    recipe = staticmethod(reinforce)


class PPO(AbstractAgent):
    """A PPO agent; settings are those of `ppo`."""

    name: ClassVar[str] = "ppo"
    recipe = staticmethod(ppo)
