"""The REINFORCE synapse as an agent: three factors at the top, targets of its own below.

A body turns what is seen into features; the synapse draws a continuous action from them and keeps
an eligibility trace. The reward that all its weights hear is the TD error of a critic. The same
error times the synapse's pressure, d log p/d features, is the target of the body, which follows it
by any assigner. So every synapse changes by what is at its two ends and one scalar.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from anima.act.estimators import Trajectory, lambda_returns, td_errors
from anima.act.reinforce import Reinforce, ReinforceState
from anima.agent.agent import AbstractAgent
from anima.agent.faculty import Faculty, Senses, check_counts, steered
from anima.agent.mind import AbstractMind, Chart, alignment
from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import check_fraction, check_positive
from anima.core.functions import tanh
from anima.learn.assigners import AbstractAssigner
from anima.learn.costs import Huber, SquaredError
from anima.learn.learner import LearnerState
from anima.world.env import Continuous, Moments, Spec, Transition


class SynapseState(eqx.Module):
    """What the agent remembers: circuits, the synapse, and its traces, one for each world.

    `inputs` and `targets` are the last that the body was taught.
    """

    body: LearnerState
    critic: LearnerState
    synapse: Reinforce
    traces: ReinforceState
    moments: Moments
    inputs: Float[Array, "rows n"]
    targets: Float[Array, "rows features"]
    step: Int[Array, ""]


class SynapticActor(AbstractMind):
    """A `Reinforce` synapse on a body, with a critic; all learn every `every` steps.

    - `body`, `critic`: circuits, and what teaches them. - `features`: of the body's output.
    - `std`: sigma of actions in units of half their range; `None`: it is learnt.
    - `rate`: of the synapse. - `discount`, `decay`: gamma and lambda, of the trace and of the
      critic's targets. - `pull`: the most that a TD error counts, everywhere.
    - `reward_scale`, `senses`: as in `QLearning`.
    """

    spec: Spec = eqx.field(static=True)
    every: int = eqx.field(static=True)
    worlds: int = eqx.field(static=True)
    body: Faculty
    critic: Faculty
    features: int = eqx.field(static=True)
    std: float | None = eqx.field(static=True)
    rate: float = eqx.field(static=True)
    discount: float = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    pull: float = eqx.field(static=True)
    reward_scale: float = eqx.field(static=True)
    senses: Senses

    def init(self, key: PRNGKeyArray) -> SynapseState:
        sensing, judging, drawn = jax.random.split(key, 3)
        synapse = Reinforce.dense(
            self.features,
            self._space.size,
            std=self.std,
            activation=tanh,
            rate=self.rate,
            decay=self.discount * self.decay,
            key=drawn,
        )
        return SynapseState(
            body=self.body.init(sensing),
            critic=self.critic.init(judging),
            synapse=synapse,
            traces=jax.vmap(lambda _: synapse.init())(jnp.arange(self.worlds)),
            moments=Moments.empty(self.spec.observation),
            inputs=jnp.zeros((self.cycle, self.spec.observation)),
            targets=jnp.zeros((self.cycle, self.features)),
            step=jnp.zeros((), jnp.int32),
        )

    def act(
        self, state: SynapseState, observation: Float[Array, "worlds n"], key: PRNGKeyArray
    ) -> Array:
        keys = jax.random.split(key, observation.shape[0])
        drawn = jax.vmap(state.synapse.draw)(self._features(state, observation), keys)
        return self._space.decode(drawn)

    def choose(self, state: SynapseState, observation: Float[Array, "worlds n"]) -> Array:
        mean, _ = jax.vmap(state.synapse.policy)(self._features(state, observation))
        return self._space.clip(self._space.decode(mean))

    def learn(
        self, state: SynapseState, happened: Transition, key: PRNGKeyArray
    ) -> tuple[SynapseState, Chart]:
        features = self._features(state, happened.observation)
        error, goal, value = self._judged(state, happened)
        reward = jnp.clip(error, -self.pull, self.pull)
        drawn, ended = self._space.code(happened.action), happened.ended
        synapse, traces, targets = self._reinforced(state, features, drawn, reward, ended)
        inputs = self._flat(self.senses.look(state.moments, happened.observation))
        targets = self._flat(targets)
        body, info = self.body.learn(state.body, SquaredError(), inputs, targets)
        critic, judged = self.critic.learn(
            state.critic, Huber(self.pull), inputs, goal.reshape(-1, 1)
        )
        chart = {
            "surprise": jnp.mean(jnp.abs(error)),
            "value": jnp.mean(value),
            "spread": jnp.mean(jax.vmap(synapse.policy)(self._flat(features))[1]),
            "cost": info.cost,
            "energy": info.energy,
            "residual": jnp.maximum(info.residual, judged.residual),
            "result": jnp.maximum(info.result, judged.result).astype(float),
        }
        moments = self.senses.seen(state.moments, happened.observation)
        step = state.step + self.cycle
        return SynapseState(body, critic, synapse, traces, moments, inputs, targets, step), chart

    def worth(self, state: SynapseState, observation: Float[Array, "rows n"]):
        seen = self.senses.look(state.moments, observation)
        return self.critic.ask(state.critic.circuit, seen)[:, 0]

    def alignment(self, state: SynapseState, key: PRNGKeyArray) -> Chart:
        """Of the body, towards the targets that the synapse last gave it."""
        circuit, assigner = state.body.circuit, self.body.assigner
        return {"alignment": alignment(circuit, assigner, state.inputs, state.targets, key)}

    def circuits(self, state: SynapseState) -> dict[str, AbstractCircuit]:
        return {"actor": state.body.circuit, "critic": state.critic.circuit}

    @property
    def _space(self) -> Continuous:
        return steered("synapse", self.spec)

    def _flat(self, rows: Array) -> Array:
        return rows.reshape(self.cycle, rows.shape[-1])

    def _features(self, state: SynapseState, observation: Float[Array, "*rows n"]) -> Array:
        seen = self.senses.look(state.moments, observation)
        found = self.body.ask(state.body.circuit, seen.reshape(-1, seen.shape[-1]))
        return found.reshape(*observation.shape[:-1], self.features)

    def _judged(self, state: SynapseState, past: Transition) -> tuple[Array, Array, Array]:
        """TD errors, what the critic should have said, and what it said: (every, worlds)."""
        flat = lambda rows: self.worth(state, self._flat(rows)).reshape(rows.shape[:-1])
        value, ahead = flat(past.observation), flat(past.following)
        lived = Trajectory(
            past.reward * self.reward_scale, value, ahead, past.terminated, past.truncated
        )
        each_world = jax.tree.map(lambda leaf: leaf.T, lived)
        error = jax.vmap(lambda lived: td_errors(lived, self.discount))(each_world)
        goal = jax.vmap(lambda lived: lambda_returns(lived, self.discount, self.decay))(each_world)
        return error.T, goal.T, value

    def _reinforced(
        self, state: SynapseState, features: Array, drawn: Array, reward: Array, ended: Array
    ) -> tuple[Reinforce, ReinforceState, Array]:
        """The synapse after every world's rewards, its traces, and the body's targets."""
        last = jnp.arange(self.every) == self.every - 1

        def step(carry, lived):
            synapse, trace = carry
            x, action, reward, ended, learn = lived
            trace = synapse.eligible(trace, x, action)
            target = synapse.target(trace, x, reward)
            return synapse.reinforce(trace, reward, learn=learn, ended=ended), target

        def world(trace, *lived):
            return jax.lax.scan(step, (state.synapse, trace), (*lived, last))

        lived = (jnp.swapaxes(leaf, 0, 1) for leaf in (features, drawn, reward, ended))
        (synapses, traces), targets = jax.vmap(world)(state.traces, *lived)
        weights = jnp.mean(synapses.weights, 0)  # of worlds side by side, as of a batch
        synapse = dataclasses.replace(state.synapse, weights=weights)
        return synapse, traces, jnp.swapaxes(targets, 0, 1)


def synapse(
    spec: Spec,
    *,
    assigner: str | AbstractAssigner = "predictive",
    credit: dict[str, Any] | None = None,
    circuit: dict[str, Any] | None = None,
    hidden: Sequence[int] = (32,),
    features: int = 32,
    rule: str = "adam",
    rate: float = 0.02,
    body_rate: float = 3e-4,
    critic_rate: float = 1e-3,
    schedule: str = "constant",
    decay: float = 0.0,
    steps: int = 50_000,
    every: int = 8,
    worlds: int = 8,
    discount: float = 0.95,
    lambda_: float = 0.8,
    std: float = 0.0,
    pull: float = 1.0,
    reward_scale: float = 1.0,
    scale: Sequence[float] = (),
    normalise: bool = False,
) -> SynapticActor:
    """A `SynapticActor` mind for a world of continuous actions.

    **Arguments:** `features`, units of the body's output and `hidden`, those below; `rate`, the
    synapse's own (it descends plainly), `body_rate` and `critic_rate`, of the circuits below and
    beside it; `std`: sigma, in units of half the range of actions (0: it is learnt, and 1 at
    birth); `lambda_`, of traces. The others are the fields of `SynapticActor`, or as for `dqn`.

    **Raises:** `InputError` for a world of finitely many actions, and for settings out of range.
    """
    steered("synapse", spec)
    check_counts(steps=steps, every=every, worlds=worlds, features=features)
    check_positive("synapse", rate=rate, pull=pull, reward_scale=reward_scale)
    check_fraction("synapse", discount=discount, lambda_=lambda_)
    learning = dict(
        rule=rule, schedule=schedule, decay=decay, per_epoch=max(steps // (every * worlds), 1)
    )
    build, sizes = (circuit, credit), (spec.observation, *hidden)
    return SynapticActor(
        spec=spec,
        every=every,
        worlds=worlds,
        body=Faculty.of(assigner, (*sizes, features), *build, rate=body_rate, **learning),
        critic=Faculty.of(assigner, (*sizes, 1), *build, rate=critic_rate, **learning),
        features=features,
        std=std or None,
        rate=rate,
        discount=discount,
        decay=lambda_,
        pull=pull,
        reward_scale=reward_scale,
        senses=Senses.of(spec, scale, normalise),
    )


class Synapse(AbstractAgent):
    """An agent of REINFORCE synapses; settings are those of `synapse`."""

    name: ClassVar[str] = "synapse"
    recipe = staticmethod(synapse)
