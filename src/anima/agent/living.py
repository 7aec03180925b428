"""The living agent: it learns how its world moves, is surprised, imagines, and then acts.

Every step: imagine futures with the learnt model and do the first action of the best plan; see
what happens; let the surprise of it decide how much is learnt; learn at once. When an episode ends
it may sleep, and goes on learning: from what it remembers, and from dreams of what it knew before
(`agent/dreams.py`).

Surprise is the energy that reality adds to what the model settled on. It gates (`learn/gate.py`:
below the threshold no update is made), and it alarms: a lasting rise, far above what is usual by
now, means that the world is not the one that was learnt. Then old memories are put aside, some
actions are random, and learning is intensified. So surprise raises learning and never only blocks.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anima.act.plan import PLANNERS, AbstractPlanner, Future, Plan
from anima.act.preference import WISHES, Preference, preference
from anima.agent.agent import AbstractAgent
from anima.agent.dreams import Night, Places
from anima.agent.faculty import Faculty, check_counts
from anima.agent.mind import AbstractMind, Chart, alignment, only_if
from anima.agent.model import Belief, ModelState, WorldModel
from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import InputError, check_fraction, check_positive, check_range, pick
from anima.core.hoist import scan
from anima.core.types import Scalar
from anima.learn.assigners import AbstractAssigner
from anima.learn.gate import GATES, AbstractGate
from anima.world.env import Discrete, Spec, Transition
from anima.world.replay import Replay

_USUALLY = 0.01  # pace of the running mean of log surprise that says what is usual
_MOST_LASTING = 30  # steps: the usual follows in about 100, and would be no slower than the rise
_PLACES = 64  # how many places dreams are of
_DREAMING = 0xD3EA  # keeps what is dreamt apart from what is remembered
_LONG_AGO = 2**30  # steps: the last alarm of one that never had any


class Arousal(eqx.Module):
    """How surprised it is of late, beside what is usual: running means of log surprise.

    - `since`: steps since the last alarm. - `restless`: random actions to come.
    - `threshold`: the gate's.
    """

    lately: Scalar
    usually: Scalar
    since: Int[Array, ""]
    restless: Int[Array, ""]
    threshold: Scalar


class Alarm(eqx.Module):
    """When surprise means that the world has changed, and what is done then.

    The alarm goes off where the running mean of log surprise over some `lasting` steps is
    log(`factor`) above that over some 100 steps, which is what is usual (0: never). The usual
    follows any rise, so one that stays must be larger than `factor`: 1.6 times at 30 over
    10/3 steps, 13 times at 20 over 20. What was remembered before is then put aside, the next
    `startle` actions are random, and for `recovery` steps every step makes `boost` times as many
    updates.
    """

    factor: float = eqx.field(static=True, default=0.0)
    startle: int = eqx.field(static=True, default=10)
    boost: int = eqx.field(static=True, default=4)
    recovery: int = eqx.field(static=True, default=100)
    lasting: float = eqx.field(static=True, default=10 / 3)

    def felt(self, arousal: Arousal, surprise: Scalar, step: Int[Array, ""]) -> Arousal:
        """After one step more; `step` were lived before. The young are never alarmed."""
        level = jnp.log(surprise + 1e-12)
        pace = jnp.maximum(_USUALLY, 1 / (step + 1.0))
        usually = arousal.usually + pace * (level - arousal.usually)
        lately = arousal.lately + jnp.maximum(1 / self.lasting, pace) * (level - arousal.lately)
        calm = (arousal.since < self.recovery) | (step < self.recovery)
        loud = ~calm & (lately - usually > math.log(self.factor or math.inf))
        return Arousal(
            lately=lately,
            usually=jnp.where(loud, lately, usually),
            since=jnp.where(loud, 0, arousal.since + 1),
            restless=jnp.where(loud, self.startle, jnp.maximum(arousal.restless - 1, 0)),
            threshold=arousal.threshold,
        )


class Expectation(eqx.Module):
    """What it imagined of the present 1, 2, ... k steps ago, open loop with what was then done.

    Every step of imagination was taken before the step that it foretells was learnt.

    - `seen`: the states, the latest imagination first. - `depth`: how many there are, as nothing
      is imagined across the end of an episode.
    """

    seen: Float[Array, "k n"]
    depth: Int[Array, ""]


class LivingState(eqx.Module):
    """What it knows, what it expects, what it remembers and how it feels.

    - `night`: what it dreams of; `None` for one that never dreams. - `alarms`: how often it was
      alarmed.
    """

    model: ModelState
    night: Night | None
    expectation: Expectation
    replay: Replay
    step: Int[Array, ""]
    arousal: Arousal
    alarms: Int[Array, ""]


class LivingMind(AbstractMind):
    """The mind of `Living`.

    - `model`, `planner`, `wish` (what it prefers), `alarm`, `gate` (or `None`).
    - `updates`: replayed updates a step, of `batch` transitions each, the newest always among
      them; 0 is strictly online: one update a step, from the newest transition alone.
    - `sleep`: updates more when an episode ends; `dreams`, which share of each of their batches
      is dreamt and not remembered. - `window`: how many of the last transitions
      are replayed (0: all that `capacity` keeps). - `warmup`: random actions at birth; `whim`,
      how likely any later action is random, unless it is judged: a routine teaches nothing new.
    - `curiosity`: what a nat of information is worth, in units of the wish, while it explores.
    - `lookahead`: over how many steps the open-loop error is measured.
    """

    spec: Spec = eqx.field(static=True)
    model: WorldModel
    planner: AbstractPlanner
    wish: Preference
    alarm: Alarm
    gate: AbstractGate | None
    updates: int = eqx.field(static=True)
    batch: int = eqx.field(static=True)
    sleep: int = eqx.field(static=True)
    dreams: float = eqx.field(static=True)
    window: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    warmup: int = eqx.field(static=True)
    whim: float = eqx.field(static=True)
    curiosity: float = eqx.field(static=True)
    lookahead: int = eqx.field(static=True)
    every: int = eqx.field(static=True, default=1)
    worlds: int = eqx.field(static=True, default=1)

    def init(self, key: PRNGKeyArray) -> LivingState:
        none, zero = jnp.zeros((), jnp.int32), jnp.zeros(())
        long_ago = jnp.full((), _LONG_AGO, jnp.int32)
        model = self.model.init(key)
        places = Places.empty(_PLACES, self.spec.observation)
        return LivingState(
            model=model,
            night=Night.after(model, places) if self.dreams else None,
            expectation=Expectation(jnp.zeros((self.lookahead, self.spec.observation)), none),
            replay=Replay.empty(self.spec, self.capacity),
            step=none,
            arousal=Arousal(zero, zero, long_ago, none, zero),
            alarms=none,
        )

    # Acting.

    def thought(self) -> Any:
        return self.planner.begin()

    def decide(
        self,
        state: LivingState,
        thought: Any,
        observation: Float[Array, "worlds n"],
        key: PRNGKeyArray,
        *,
        explore: bool,
    ) -> tuple[Array, Any]:
        """The first action of a plan from each observation; any action while it knows nothing."""
        count, space = observation.shape[0], self.spec.action
        keys = jax.random.split(key, 1 + count)

        def one(seen, kept, key):
            return self.plan(state, seen, kept, key=key, explore=explore)

        plans, thought = jax.vmap(one)(observation, thought, keys[1:])
        action = space.decode(plans.actions[:, 0])
        width = 1 if isinstance(space, Discrete) else space.size
        drawn = jax.random.uniform(keys[0], (count, width + 1))
        lost = jnp.broadcast_to(state.step < self.warmup, (count,))
        if explore:
            lost = lost | (state.arousal.restless > 0) | (drawn[:, -1] < self.whim)
        return jnp.where(_like(lost, action), space.spread(drawn[:, :-1]), action), thought

    def plan(
        self,
        state: LivingState,
        seen: Float[Array, " n"],
        kept: Any,
        *,
        key: PRNGKeyArray,
        explore: bool = False,
    ) -> tuple[Plan, Any]:
        """What it would do from one observation; see `AbstractPlanner.plan`."""
        future, here = self.future(state, explore=explore), Belief(seen, jnp.zeros(()))
        return self.planner.plan(future, here, kept, key=key)

    def future(self, state: LivingState, *, explore: bool = False) -> Future:
        """What it can imagine and what that is worth to it; curious only if it explores."""
        worth = self.curiosity if explore else 0.0

        def energy(before: Belief, code: Array, after: Belief) -> Scalar:
            return self.wish(code, after.seen) - worth * after.gain

        return Future(lambda belief, code: self.model.imagine(state.model, belief, code), energy)

    def act(
        self, state: LivingState, observation: Float[Array, "worlds n"], key: PRNGKeyArray
    ) -> Array:
        return self._at_once(state, observation, key, explore=True)

    def choose(self, state: LivingState, observation: Float[Array, "worlds n"]) -> Array:
        return self._at_once(state, observation, jax.random.key(0), explore=False)

    def _at_once(self, state: LivingState, observation: Array, key: PRNGKeyArray, explore: bool):
        thought = self.afresh(observation.shape[0])
        return self.decide(state, thought, observation, key, explore=explore)[0]

    def ignorance(self, steps: int) -> str:
        """What to say of one that has lived so few steps that it acts at random; else nothing."""
        if steps >= self.warmup:
            return ""
        return (
            f"the world model has seen {steps} steps, and until it has seen {self.warmup} (warmup) "
            "it acts at random: let it live longer"
        )

    # Learning.

    def learn(
        self, state: LivingState, happened: Transition, key: PRNGKeyArray
    ) -> tuple[LivingState, Chart]:
        past = jax.tree.map(lambda leaf: leaf[0, 0], happened)
        gating, learning = jax.random.split(key)
        surprise = self.model.surprise(state.model, past)
        arousal = self.alarm.felt(state.arousal, surprise, state.step)
        admitted, threshold = self._admitted(arousal, surprise, state.step, gating)
        arousal = dataclasses.replace(arousal, threshold=threshold)
        expectation, drift = self._foreseen(state, past)
        noticed = self.model.noticed(state.model, past)
        state = dataclasses.replace(
            state,
            model=noticed,
            night=self._been(state.night, noticed, past, arousal.since == 0),
            expectation=expectation,
            replay=state.replay.push(happened),
            step=state.step + 1,
            arousal=arousal,
            alarms=state.alarms + (arousal.since == 0),
        )
        count = self._count(arousal, admitted)
        model, said = self._learnt(state, count, learning)
        state = dataclasses.replace(state, model=model)
        if self.sleep:
            state, said = self._slept(state, said, count, past.ended, learning)
            count = count + jnp.where(past.ended, self.sleep, 0)
        gated = {} if self.gate is None else {"threshold": threshold}
        return state, said | gated | {
            "surprise": surprise,
            "error": jnp.sqrt(2 * surprise / self.spec.observation),
            "drift": drift,
            "skipped": jnp.asarray(count == 0, float),
            "updates": jnp.asarray(count, float),
            "alarms": state.alarms.astype(float),
        }

    def _admitted(
        self, arousal: Arousal, surprise: Scalar, step: Int[Array, ""], key: PRNGKeyArray
    ) -> tuple[Any, Scalar]:
        """Whether the gate lets this step be learnt; always while it is young or alarmed."""
        if self.gate is None:
            return True, arousal.threshold
        first, shaken = step == 0, self._shaken(arousal) | (step < self.alarm.recovery)
        admitted, threshold = self.gate.admit(surprise[None], arousal.threshold, first, key=key)
        return admitted[0] | shaken, threshold

    def _shaken(self, arousal: Arousal) -> Bool[Array, ""]:
        """Whether the last alarm was not long ago."""
        return arousal.since < self.alarm.recovery

    def _count(self, arousal: Arousal, admitted: Any) -> Any:
        """How many updates this step makes awake: a plain number wherever nothing changes it."""
        count: Any = max(self.updates, 1)
        if self.gate is not None:
            count = jnp.where(admitted, max(round(count * self.gate.gain), 1), 0)
        if self.alarm.factor:
            count = jnp.where(self._shaken(arousal), self.alarm.boost, 1) * count
        return count

    def _learnt(
        self, state: LivingState, count: Any, key: PRNGKeyArray
    ) -> tuple[ModelState, Chart]:
        """The model after `count` updates, and what is charted of the last."""
        update = self._update(state, partial(self._remembered, state), key)
        zero = jnp.zeros(())
        begun = state.model, {name: zero for name in ("cost", "energy", "residual", "result")}
        if self.gate is not None:
            return jax.lax.fori_loop(0, count, update, begun)
        least = max(self.updates, 1)  # what no step goes without is looked up at once
        usual = scan(lambda loop, i: (update(i, loop), None), begun, jnp.arange(least))[0]
        return jax.lax.fori_loop(least, count, update, usual)

    def _slept(
        self, state: LivingState, said: Chart, count: Any, ended: Bool[Array, ""], key: PRNGKeyArray
    ) -> tuple[LivingState, Chart]:
        """If an episode ended: after a sleep, whose updates follow the `count` awake."""
        update = self._update(state, partial(self._recalled, state), key)
        last = count + jnp.where(ended, self.sleep, 0)
        model, said = jax.lax.fori_loop(count, last, update, (state.model, said))
        night = state.night
        if night is not None:
            night = only_if(ended, Night.after(model, night.places), night)
        return dataclasses.replace(state, model=model, night=night), said

    def _recalled(self, state: LivingState, key: PRNGKeyArray) -> Transition:
        """What is learnt from asleep: what is remembered, the last rows of it replaced by dreams,
        if there is anything to dream of."""
        past = self._remembered(state, key)
        if state.night is None:
            return past
        count = round(self.dreams * self.batch)
        dreamt = state.night.dreamt(self.model, count, jax.random.fold_in(key, _DREAMING))
        dreaming = jnp.any(state.night.been.known)

        def mixed(row: Array, dream: Array) -> Array:
            return row.at[:, -count:].set(jnp.where(dreaming, dream, row[:, -count:]))

        return jax.tree.map(mixed, past, dreamt)

    def _update(self, state: LivingState, recalled: Any, key: PRNGKeyArray) -> Any:
        """One update of the model from what is recalled: the body of a loop."""
        clock = jnp.minimum(state.step, state.arousal.since)  # what is new is learnt at full rate

        def update(i, loop):
            model, _ = loop
            model, info = self.model.learnt(model, recalled(jax.random.fold_in(key, i)), clock, key)
            return model, _told(info)

        return update

    def _been(
        self, night: Night | None, model: ModelState, past: Transition, alarmed: Bool[Array, ""]
    ) -> Night | None:
        """With one place more where it has been; it does not dream of a world that is no more."""
        if night is None:
            return None
        slept: Night = only_if(alarmed, night.over(), night)
        places = slept.places.seen(past.observation, model.seen.deviation)
        return dataclasses.replace(slept, places=places)

    def _remembered(self, state: LivingState, key: PRNGKeyArray) -> Transition:
        """A batch for every member, (K, batch): the newest transition and others before it."""
        batch = self.batch if self.updates else 1
        usable = jnp.minimum(state.replay.filled, state.arousal.since + 1)
        usable = jnp.minimum(usable, self.window) if self.window else usable
        drawn = jax.random.uniform(key, (self.model.members, batch))
        age = jnp.floor(drawn * usable).astype(jnp.int32).at[:, 0].set(0)
        return state.replay.back(age)

    def _foreseen(self, state: LivingState, past: Transition) -> tuple[Expectation, Scalar]:
        """What it had imagined of where this transition led, and how far off that was.

        Root mean square, in standard deviations of what is seen; the longest imagination counts.
        """
        seen = jnp.concatenate([past.observation[None], state.expectation.seen[:-1]])
        seen = self.model.ahead(state.model, seen, past)
        depth = jnp.minimum(state.expectation.depth + 1, self.lookahead)
        gap = (seen[depth - 1] - past.following) / state.model.seen.deviation
        return Expectation(seen, jnp.where(past.ended, 0, depth)), jnp.sqrt(jnp.mean(gap**2))

    # Looking at it.

    def alignment(self, state: LivingState, key: PRNGKeyArray) -> Chart:
        drawn, credit = jax.random.split(key)
        past = self._remembered(state, drawn)
        inputs, targets = self.model.examples(state.model, past)
        found = alignment(
            self.circuits(state)["actor"], self.model.assigner, inputs[0], targets[0], credit
        )
        return {"alignment": found}

    def circuits(self, state: LivingState) -> dict[str, AbstractCircuit]:
        """The first member is the `actor`: it is by the model that this agent acts."""
        names = ["actor", *(f"member{k + 1}" for k in range(1, self.model.members))]
        member = lambda k: jax.tree.map(lambda leaf: leaf[k], state.model.circuits)
        return {name: member(k) for k, name in enumerate(names)}


def _like(mask: Array, array: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))


def _told(info: Any) -> Chart:
    return {
        "cost": jnp.mean(info.cost),
        "energy": jnp.mean(info.energy),
        "residual": jnp.max(info.residual),
        "result": jnp.max(info.result).astype(float),
    }


def living(
    spec: Spec,
    *,
    assigner: str | AbstractAssigner = "fixed-prediction",
    credit: dict[str, Any] | None = None,
    circuit: dict[str, Any] | None = None,
    hidden: Sequence[int] = (64, 64),
    boldness: float = 0.1,
    members: int = 1,
    noise: float = 0.1,
    rule: str = "adam",
    rate: float = 2e-3,
    schedule: str = "constant",
    decay: float = 0.0,
    updates: int = 8,
    batch: int = 32,
    sleep: int = 0,
    dreams: float = 0.0,
    window: int = 0,
    capacity: int = 50_000,
    warmup: int = 25,
    whim: float = 0.0,
    planner: str = "",
    plan: dict[str, Any] | None = None,
    prefer: dict[str, Any] | None = None,
    effort: float = 0.0,
    curiosity: float = 0.0,
    gate: str = "",
    gating: dict[str, Any] | None = None,
    alarm: float = 0.0,
    startle: int = 10,
    boost: int = 4,
    recovery: int = 100,
    lasting: float = 10 / 3,
    lookahead: int = 10,
    steps: int = 1000,
) -> LivingMind:
    """A `LivingMind` for a world of observations that are vectors of numbers.

    **Arguments:** `assigner`, `credit`, `circuit`, `hidden`, `rule`, `rate`, `schedule`, `decay`:
    of the model's circuits, as in `dqn`; `steps`, how long schedules are, which begin anew at an
    alarm. `planner`, a name of `PLANNERS` (none: `"exhaustive"` for a set of actions, else
    `"mppi"`), and `plan`, its arguments. `prefer`, a table as in `act/preference.py` (none: what
    the world's own task rewards, for the classic-control tasks). `gate`, a name of `GATES`, and
    `gating`, its arguments. `alarm`, `startle`, `boost`, `recovery`, `lasting`: see `Alarm`;
    `boldness`, `members`, `noise`: see `WorldModel`. The others are the fields of `LivingMind`.

    **Raises:** `InputError` for settings out of range, a preference over a state that the world
    lacks, or a world whose preferred states nobody named.
    """
    whole = dict(batch=batch, capacity=capacity, members=members, lookahead=lookahead, steps=steps)
    check_counts(1, **whole)
    counts = dict(updates=updates, sleep=sleep, window=window, warmup=warmup, startle=startle)
    check_counts(0, **counts, recovery=recovery)
    check_counts(1, boost=boost)
    check_range("living", 1, _MOST_LASTING, lasting=lasting)
    check_range("living", 0, math.inf, curiosity=curiosity, alarm=alarm, effort=effort)
    check_positive("living", noise=noise, boldness=boldness)
    check_fraction("living", whim=whim, dreams=dreams)
    if alarm and alarm <= 1:
        raise InputError(f"living: alarm is {alarm}: it must be 0 (never) or more than 1")
    if dreams and not (updates and sleep and 0 < round(dreams * batch) < batch):
        raise InputError(
            f"living: dreams is {dreams}, updates {updates}, sleep {sleep}, batch {batch}: dreams "
            "are a part of each batch asleep, so give updates, a sleep and a share that is a part"
        )
    if curiosity and members < 2:
        raise InputError(
            f"living: curiosity is {curiosity} and members is {members}: a single model does not "
            "know what it does not know; give members at least 2"
        )
    sizes = (spec.observation + spec.action.size, *hidden, spec.observation)
    learning = dict(rule=rule, rate=rate, schedule=schedule, decay=decay, per_epoch=steps)
    skill = Faculty.of(assigner, sizes, circuit, credit, **learning)
    return LivingMind(
        spec=spec,
        model=WorldModel(
            spec, skill.draw, skill.assigner, skill.optimiser, boldness, members, noise
        ),
        planner=_planner(spec, planner, plan),
        wish=_wish(spec, prefer, effort),
        alarm=Alarm(alarm, startle, boost, recovery, lasting),
        gate=_build("gating", pick("gate", gate, GATES), gating) if gate else None,
        updates=updates,
        batch=batch,
        sleep=sleep,
        dreams=dreams,
        window=window,
        capacity=capacity,
        warmup=warmup,
        whim=whim,
        curiosity=curiosity,
        lookahead=lookahead,
    )


def _planner(spec: Spec, name: str, settings: Mapping[str, Any] | None) -> AbstractPlanner:
    name = name or ("exhaustive" if isinstance(spec.action, Discrete) else "mppi")
    made = pick("planner", name, PLANNERS)
    return _build("plan", made, {"space": spec.action} | dict(settings or {}))


def _wish(spec: Spec, prefer: Mapping[str, Any] | None, effort: float) -> Preference:
    wishes = prefer or WISHES.get(spec.name)
    if not wishes:
        raise InputError(
            f"living: nobody said what to prefer in {spec.name}: give prefer, e.g. "
            '{"0" = {target = 0.0, precision = 1.0}} for the first of its '
            f"{spec.observation} numbers"
        )
    return preference(spec, wishes, effort)


def _build(section: str, made: Any, settings: Mapping[str, Any] | None) -> Any:
    try:
        return made(**(settings or {}))
    except TypeError as error:
        raise InputError(f"{section}: {error}") from error


class Living(AbstractAgent):
    """A living agent; settings are those of `living`.

    >>> agent = Living("CartPole-v1", seed=0).learn(300)
    >>> action, plan = agent.predict(observation, episode_start=np.ones(1, bool))
    >>> action, plan = agent.predict(observation, state=plan)
    """

    name: ClassVar[str] = "living"
    recipe = staticmethod(living)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """As every agent's; `state` is the plan it has in mind. It warns where it knows nothing."""
        assert isinstance(self.mind, LivingMind)
        if unlearnt := self.mind.ignorance(self.steps):
            warnings.warn(unlearnt, stacklevel=2)
        return super().predict(observation, state, episode_start, deterministic)
