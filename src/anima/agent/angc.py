"""Active neural generative coding: two NGC circuits, one that foresees and one that acts.

    generator   [code(a_t), o_t] -> o_{t+1}        actor   o_t -> one value an action
    r_epistemic = ToD(generator) / its running maximum
    r = a_in r_world + a_ep r_epistemic

What the generator failed to foresee, all layers' errors together (the total discrepancy after
settling), is a reward of its own: it pays to go where the world is not yet understood. The actor
learns the values of the summed reward as in `QLearning`. Ororbia and Mali (2022). Unlike their
released code, this lets the epistemic reward reach the actor, bootstraps through truncation, and
in its local form learns the synapses that carry errors back.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from anima.agent.agent import AbstractAgent
from anima.agent.classic import QLearning, QState, dqn
from anima.agent.faculty import Faculty
from anima.agent.mind import AbstractMind, Chart, alignment, only_if
from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import InputError, check_range
from anima.core.types import Scalar
from anima.learn.assigners import AbstractAssigner
from anima.learn.costs import SquaredError
from anima.learn.learner import Learner, LearnerState
from anima.settle.settle import settle
from anima.settle.solvers import AbstractSolver, Euler
from anima.world.env import Spec, Transition


class ActiveState(eqx.Module):
    """The actor's state, the generator's, and the largest discrepancy of late."""

    actor: QState
    generator: LearnerState
    largest: Scalar


class ActiveNGC(AbstractMind):
    """The mind of ANGC.

    - `actor`: a Q-learner, whose replay serves both circuits; `spec`, `every`, `worlds` are its.
    - `draw`, `assigner`, `optimiser`: of the generator.
    - `epistemic`: the weight a_ep (0: the generator is ablated, and never run). The actor's
      `reward_scale` is the weight a_in, so both are in the units of its targets.
    - `forget`: what the running maximum is multiplied with at each learning.
    - `solver`, `settling`: how the generator settles on what it failed to foresee.
    """

    spec: Spec = eqx.field(static=True)
    every: int = eqx.field(static=True)
    worlds: int = eqx.field(static=True)
    actor: QLearning
    draw: Callable[[PRNGKeyArray], AbstractCircuit] = eqx.field(static=True)
    assigner: AbstractAssigner
    optimiser: optax.GradientTransformation = eqx.field(static=True)
    epistemic: float = eqx.field(static=True)
    forget: float = eqx.field(static=True)
    solver: AbstractSolver
    settling: int = eqx.field(static=True)

    def init(self, key: PRNGKeyArray) -> ActiveState:
        acting, drawn, learning = jax.random.split(key, 3)
        generator = self._learner(self.draw(drawn)).init(learning)
        return ActiveState(self.actor.init(acting), generator, jnp.zeros(()))

    def act(
        self, state: ActiveState, observation: Float[Array, "worlds n"], key: PRNGKeyArray
    ) -> Array:
        return self.actor.act(state.actor, observation, key)

    def choose(self, state: ActiveState, observation: Float[Array, "worlds n"]) -> Array:
        return self.actor.choose(state.actor, observation)

    def learn(
        self, state: ActiveState, happened: Transition, key: PRNGKeyArray
    ) -> tuple[ActiveState, Chart]:
        acting, foreseeing = jax.random.split(key)
        if self.epistemic == 0:
            actor, chart = self.actor.learn(state.actor, happened, acting)
            return dataclasses.replace(state, actor=actor), chart
        novelty, largest = self.novelty(state, happened)
        bonus = self.epistemic / self.actor.reward_scale * novelty
        felt = happened._replace(reward=happened.reward + bonus)
        actor, chart = self.actor.learn(state.actor, felt, acting)
        state = ActiveState(actor, state.generator, largest)
        generator, costs = self._foresee(state, foreseeing)
        own = {"epistemic": jnp.mean(novelty), "foresight": costs[-1]}
        return dataclasses.replace(state, generator=generator), chart | own

    def novelty(
        self, state: ActiveState, happened: Transition
    ) -> tuple[Float[Array, "*steps"], Scalar]:
        """r_epistemic of each transition, in [0, 1], and the running maximum after them."""
        clamp, target = self._question(state.actor, happened)
        shape = happened.reward.shape
        flat = lambda array: array.reshape(-1, array.shape[-1])
        found = jax.vmap(lambda x, y: self._discrepancy(state.generator.circuit, x, y))(
            flat(clamp), flat(target)
        )
        largest = jnp.maximum(self.forget * state.largest, jnp.max(found))
        return (found / jnp.maximum(largest, 1e-12)).reshape(shape), largest

    def alignment(self, state: ActiveState, key: PRNGKeyArray) -> Chart:
        acting, drawn, credit = jax.random.split(key, 3)
        chart = self.actor.alignment(state.actor, acting)
        if self.epistemic == 0:
            return chart
        past = self.actor.sample(state.actor, drawn).transition
        clamp, target = self._question(state.actor, past)
        found = alignment(state.generator.circuit, self.assigner, clamp, target, credit)
        return chart | {"generator_alignment": found}

    def worth(
        self, state: ActiveState, observation: Float[Array, "rows n"]
    ) -> Float[Array, " rows"]:
        return self.actor.worth(state.actor, observation)

    def circuits(self, state: ActiveState) -> dict[str, AbstractCircuit]:
        return self.actor.circuits(state.actor) | {"generator": state.generator.circuit}

    def _foresee(self, state: ActiveState, key: PRNGKeyArray):
        """The generator after as many updates as the actor has made."""

        def update(learner: LearnerState, key: PRNGKeyArray):
            past = self.actor.sample(state.actor, key).transition
            clamp, target = self._question(state.actor, past)
            learner, info = self._learner(learner.circuit).step(learner, ({"input": clamp}, target))
            return learner, info.cost

        keys = jax.random.split(key, self.actor.updates)
        learner, costs = jax.lax.scan(update, state.generator, keys)
        ready = state.actor.step >= self.actor.warmup
        return only_if(ready, learner, state.generator), costs

    def _question(self, actor: QState, past: Transition) -> tuple[Array, Array]:
        """What the generator reads, and what it should have foreseen."""
        seen = self.actor.look(actor, past.observation)
        clamp = jnp.concatenate([self.spec.action.code(past.action), seen], -1)
        return clamp, self.actor.look(actor, past.following)

    def _discrepancy(self, circuit: Any, clamp: Array, target: Array) -> Scalar:
        """ToD = sum_l |e^l|^2 where the circuit settles between what it read and what it saw."""
        settled = settle(
            circuit,
            {"input": clamp, "output": target},
            solver=self.solver,
            tol=0,
            max_steps=self.settling,
        )
        errors = circuit.errors(settled.state)
        return sum((jnp.sum(e**2) for e in errors.values()), jnp.zeros(()))

    def _learner(self, circuit: AbstractCircuit) -> Learner:
        return Learner(circuit, self.assigner, SquaredError(), self.optimiser)


def angc(
    spec: Spec,
    *,
    assigner: str | AbstractAssigner = "ngc",
    credit: dict[str, Any] | None = None,
    circuit: dict[str, Any] | None = None,
    hidden: Sequence[int] = (256, 128),
    beta: float = 0.1,
    settling: int = 20,
    rule: str = "rmsprop",
    rate: float = 5e-4,
    generator_rule: str = "adam",
    generator_rate: float = 1e-3,
    schedule: str = "constant",
    decay: float = 0.0,
    frobenius: bool = False,
    average: float = 0.0,
    steps: int = 50_000,
    every: int = 1,
    worlds: int = 1,
    updates: int = 1,
    batch: int = 256,
    capacity: int = 500_000,
    warmup: int = 1000,
    discount: float = 0.99,
    returns: int = 1,
    double: bool = False,
    clip: float = 1.0,
    polyak: float = 1.0,
    epsilon: float = 1.0,
    epsilon_end: float = 0.05,
    fade: float = 0.97,
    alpha: float = 0.0,
    epistemic: float = 1.0,
    forget: float = 1.0,
    reward_scale: float = 1.0,
    scale: Sequence[float] = (),
    normalise: bool = False,
) -> ActiveNGC:
    """An `ActiveNGC` mind for a world of discrete actions.

    **Arguments:** `assigner`, `credit`, `circuit`: what teaches both circuits, as for `dqn`.
    `"ngc"` is the local form: the synapses that carry errors back are learnt, and no derivative
    crosses a layer but a unit's own. `"fixed-prediction"` is the exact form: errors come back
    through the same synapses with predictions held, which is *exactly backpropagation*, as the
    authors' released code is. `hidden`, of both circuits; `beta`, `settling`: the step and number
    of steps in which the generator settles on what it failed to foresee; `generator_rule`,
    `generator_rate`: as `rule` and `rate`, which are the actor's; `polyak` below 1 keeps a slow
    copy for targets, `double` lets the actor choose and the slow copy judge; `average` is of the
    actor alone. The others are the
    fields of `ActiveNGC` and the arguments of `dqn`.

    **Raises:** `InputError` for a world of continuous actions, an assigner whose circuits have no
    errors, and for settings out of range.
    """
    check_range("angc", 0, float("inf"), epistemic=epistemic)
    check_range("angc", 0, 1.0000001, forget=forget)
    actor = dqn(
        spec,
        assigner=assigner,
        credit=credit,
        circuit=circuit,
        hidden=hidden,
        rule=rule,
        rate=rate,
        schedule=schedule,
        decay=decay,
        frobenius=frobenius,
        average=average,
        steps=steps,
        every=every,
        worlds=worlds,
        updates=updates,
        batch=batch,
        capacity=capacity,
        warmup=warmup,
        discount=discount,
        returns=returns,
        double=double,
        clip=clip,
        polyak=polyak,
        epsilon=epsilon,
        epsilon_end=epsilon_end,
        fade=fade,
        alpha=alpha,
        reward_scale=reward_scale,
        scale=scale,
        normalise=normalise,
    )
    sizes = (spec.action.size + spec.observation, *hidden, spec.observation)
    generator = Faculty.of(
        assigner,
        sizes,
        circuit,
        credit,
        rule=generator_rule,
        rate=generator_rate,
        schedule=schedule,
        decay=decay,
        frobenius=frobenius,
        per_epoch=max(steps - warmup, 1) * updates // (every * worlds),
    )
    if not hasattr(generator.draw(jax.random.key(0)), "errors"):
        raise InputError(
            f"angc: {assigner} teaches circuits without error units, so nothing tells what was not "
            "foreseen: use ngc, predictive, fixed-prediction, zil or backprop"
        )
    return ActiveNGC(
        spec=spec,
        every=every,
        worlds=worlds,
        actor=actor,
        draw=generator.draw,
        assigner=generator.assigner,
        optimiser=generator.optimiser,
        epistemic=epistemic,
        forget=forget,
        solver=Euler(beta),
        settling=settling,
    )


class ANGC(AbstractAgent):
    """An active-NGC agent; settings are those of `angc`."""

    name: ClassVar[str] = "angc"
    recipe = staticmethod(angc)
