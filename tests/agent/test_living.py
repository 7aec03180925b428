"""The living agent: it learns its world while it lives in it, plans, is surprised, sleeps."""

import dataclasses
import warnings

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.agent import Living
from anima.agent.life import lives
from anima.agent.living import Alarm, Arousal, living
from anima.agent.model import Belief
from anima.core.errors import InputError
from anima.world.classic import CartPole, Pendulum
from anima.world.env import AbstractWorld, Continuous, Discrete, Spec, blank
from anima.world.host import hosted

THREEFRY = True  # lives side by side are to be what they are alone
WISH = {"0": {"target": 0.0, "precision": 2.0}}
TINY = dict(
    hidden=(8,), assigner="backprop", batch=4, updates=2, warmup=6, capacity=64, lookahead=4
)
CHOICES = dict(planner="exhaustive", plan=dict(horizon=3, hold=1))
DRAWS = dict(planner="mppi", plan=dict(horizon=4, samples=8))


class Slide(AbstractWorld):
    """A puck on ice, pushed to either side or left alone; it pays to be in the middle.

    Observation: position, velocity. An episode is cut after 15 steps.
    """

    push: float = 0.2
    spec: Spec = eqx.field(static=True, default=Spec("Slide", 2, Discrete(3), 15))

    def reset(self, key):
        return jax.random.uniform(key, (2,), minval=-1.0) * jnp.asarray([2.0, 0.0])

    def observe(self, state):
        return state

    def step(self, state, action, key):
        speed = 0.8 * state[1] + self.push * (action - 1)
        state = jnp.stack([state[0] + speed, speed])
        return state, -jnp.abs(state[0]), jnp.zeros((), bool)


@pytest.fixture(scope="module")
def grown():
    """A mind with an ensemble that has lived 120 steps, and its life, with what it charted."""
    mind = living(
        Slide().spec,
        **TINY | dict(hidden=(16,), updates=4, batch=8, rate=0.01, members=2),
        **CHOICES,
        prefer=WISH,
        sleep=3,
    )
    life = lives(mind, Slide(), [3])
    newborn = life.judge(8, 1).mean()
    charts, endings = life.advance(120)
    return mind, life, newborn, jax.tree.map(np.asarray, charts), endings


def test_it_learns_to_foresee_and_so_to_act(grown):
    _, life, newborn, charts, _ = grown
    error, drift = charts["error"][0], charts["drift"][0]
    assert error[-30:].mean() < 0.3 * error[6:20].mean()
    assert drift[-1] < 0.25
    assert life.judge(8, 1).mean() > newborn / 3  # returns are negative: a third of the distance


def test_it_sleeps_when_an_episode_ends(grown):
    _, _, _, charts, endings = grown
    ended = np.asarray(endings.ended)[0, :, 0]
    assert ended.any() and not ended.all()
    np.testing.assert_array_equal(charts["updates"][0], np.where(ended, 7, 4))


@pytest.mark.slow
def test_members_disagree_where_nobody_has_been(grown):
    mind, life, *_ = grown
    state = life.one(0).mind
    gain = lambda seen: (
        mind.model.imagine(
            state.model, Belief(jnp.asarray(seen), jnp.zeros(())), jnp.eye(3)[0]
        ).gain
    )
    assert gain([12.0, -3.0]) > 3 * gain([0.1, 0.0]) >= 0
    curious = dataclasses.replace(mind, curiosity=1e3)
    future, bored = curious.future(state, explore=True), curious.future(state)
    here, code = Belief(jnp.zeros(2), jnp.zeros(())), jnp.eye(3)[0]
    after = future.imagine(here, code)
    lower = bored.energy(here, code, after) - future.energy(here, code, after)
    np.testing.assert_allclose(lower, 1e3 * after.gain, rtol=1e-3)


@pytest.mark.slow
def test_its_alignment_and_circuits_are_those_of_the_model(grown):
    mind, life, *_ = grown
    state = life.one(0).mind
    assert set(mind.circuits(state)) == {"actor", "member2"}
    assert mind.alignment(state, jax.random.key(0))["alignment"] > 0.999  # backprop itself


def test_an_unlearnt_model_acts_at_random_and_says_so():
    agent = Living("CartPole-v1", seed=1, **TINY, **CHOICES)
    with pytest.warns(UserWarning, match="has seen 0 steps"):
        acts, _ = agent.predict(np.zeros((60, 4)))
    assert set(acts) == {0, 1}  # where nothing differs a planner would do the same thing
    agent.learn(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        acts, _ = agent.predict(np.zeros((60, 4)))
    assert len(set(acts)) == 1


def test_a_plan_is_carried_from_step_to_step_saved_and_loaded(tmp_path):
    agent = Living("Pendulum-v1", seed=2, **TINY, **DRAWS).learn(8)
    seen = np.asarray([1.0, 0.0, 0.0], np.float32)
    first, plan = agent.predict(seen, episode_start=np.ones(1, bool))
    assert agent.predict(seen)[1] is None  # nobody to give it back
    second, later = agent.predict(seen, state=plan)
    again, forgot = agent.predict(seen, state=plan, episode_start=np.ones(1, bool))
    assert first.shape == (1,) and -2 <= first[0] <= 2
    assert second[0] != first[0] == again[0]
    np.testing.assert_array_equal(forgot.mean, plan.mean)
    assert not np.array_equal(later.mean, plan.mean)
    agent.save(tmp_path / "living.npz")
    other = Living.load(tmp_path / "living.npz")
    np.testing.assert_array_equal(other.predict(seen)[0], first)


@pytest.mark.parametrize(
    "world",
    [Pendulum(), pytest.param(hosted("Pendulum-v1"), marks=pytest.mark.slow)],
    ids=["compiled", "hosted"],
)
def test_a_life_with_plans_goes_on_from_its_state_bit_for_bit(world):
    mind = living(world.spec, **TINY, **DRAWS, alarm=2.0, gate="quantile")
    one, other = (lives(mind, world, [5]) for _ in range(2))
    one.advance(8)
    kept = jax.tree.map(lambda leaf: leaf.copy() if hasattr(leaf, "copy") else leaf, one.state)
    one.advance(4)
    other.restore(kept)
    other.advance(4)
    for a, b in zip(jax.tree.leaves(one.state), jax.tree.leaves(other.state), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    thoughts = jax.tree.leaves(one.alive.thoughts)
    assert any(np.asarray(leaf).any() for leaf in thoughts)
    np.testing.assert_array_equal(one.judge(1, 3), other.judge(1, 3))
    one.close()
    other.close()


@pytest.mark.parametrize(
    "assigner",
    [
        "eqprop",
        *(
            pytest.param(a, marks=pytest.mark.slow)
            for a in ("eqprop-predictive", "fixed-prediction", "predictive", "ngc")
        ),
    ],
)
def test_any_circuit_and_rule_learns_how_the_world_moves(assigner):
    """Two members, eighty updates on pushes from random places: what is left is a part of it."""
    model = living(
        Slide().spec, **TINY | dict(assigner=assigner, rate=0.02, members=2), **CHOICES, prefer=WISH
    ).model
    keys = jax.random.split(jax.random.key(0), 3)
    seen = jax.random.normal(keys[0], (2, 16, 2))
    action = jax.random.randint(keys[1], (2, 16), 0, 3)
    moved = jax.vmap(jax.vmap(lambda z, a: Slide().step(z, a, keys[2])[0]))(seen, action)
    past = blank(model.spec, 2, 16)._replace(observation=seen, action=action, following=moved)

    @jax.jit
    def grown(key):
        some = jax.tree.map(lambda leaf: leaf[0], past)
        notice = lambda state, one: (model.noticed(state, one), None)
        state, _ = jax.lax.scan(notice, model.init(key), some)
        update = lambda i, state: model.learnt(state, past, i, key)[0]
        after = jax.lax.fori_loop(0, 80, update, state)
        left = lambda state: jnp.mean(jax.vmap(lambda one: model.surprise(state, one))(some))
        return left(state), left(after)

    before, after = grown(jax.random.key(4))
    assert after < 0.3 * before


# Surprise.


def _filled(mind, count=10):
    """A state that remembers transitions whose first observed number tells when they were."""
    state = mind.init(jax.random.key(0))
    for index in range(count):
        past = blank(mind.spec, 1, 1)
        past = past._replace(observation=past.observation + index)
        state = dataclasses.replace(state, replay=state.replay.push(past))
    return state


@pytest.fixture(scope="module")
def small():
    return lambda **more: living(Slide().spec, **TINY | more, **CHOICES, prefer=WISH)


@pytest.mark.slow
def test_the_newest_transition_is_always_replayed(small):
    mind = small(batch=16)
    drawn = mind._remembered(_since(_filled(mind), 100), jax.random.key(1)).observation[0, :, 0]
    assert drawn[0] == 9 and drawn.min() <= 2
    strict = small(updates=0)
    drawn = strict._remembered(_since(_filled(strict), 100), jax.random.key(1))
    assert drawn.observation.shape == (1, 1, 2) and drawn.observation[0, 0, 0] == 9


def test_old_memories_are_put_aside_by_an_alarm_and_by_a_window(small):
    mind = small(batch=64)
    drawn = mind._remembered(_since(_filled(mind), 2), jax.random.key(1)).observation[0, :, 0]
    assert set(np.asarray(drawn)) == {7, 8, 9}
    short = small(batch=64, window=4)
    drawn = short._remembered(_since(_filled(short), 100), jax.random.key(1)).observation[0, :, 0]
    assert set(np.asarray(drawn)) == {6, 7, 8, 9}


def _since(state, steps):
    arousal = dataclasses.replace(state.arousal, since=jnp.asarray(steps))
    return dataclasses.replace(state, arousal=arousal)


def test_only_a_lasting_rise_alarms():
    alarm = Alarm(factor=10.0, startle=3, recovery=5)
    zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
    arousal, log = Arousal(zero, zero, none + 999, none, zero), []
    feel = jax.jit(alarm.felt)
    surprises = [1.0] * 10 + [30.0] + [1.0] * 20 + [100.0] * 6 + [1.0] * 3
    for step, surprise in enumerate(surprises):
        arousal = feel(arousal, jnp.asarray(surprise), jnp.asarray(step))
        log.append((int(arousal.since), int(arousal.restless)))
    loud = [step for step, (since, _) in enumerate(log) if since == 0]
    assert len(loud) == 1 and 31 <= loud[0] <= 34  # not at the single outlier of step 10
    assert [restless for _, restless in log[loud[0] : loud[0] + 5]] == [3, 2, 1, 0, 0]


def test_how_long_a_rise_must_last_is_a_setting():
    """Twelve surprising steps are a change to one alarm, and the world's own variety to another."""
    zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
    first = {}
    for lasting in (3, 20):
        arousal = Arousal(zero, zero, none + 999, none, zero)
        alarm = Alarm(factor=10.0, recovery=5, lasting=lasting)
        for step, surprise in enumerate([1.0] * 30 + [30.0] * 12 + [1.0] * 30 + [1e4] * 30):
            arousal = alarm.felt(arousal, jnp.asarray(surprise), jnp.asarray(step))
            if int(arousal.since) == 0:
                first.setdefault(lasting, step)
    assert 30 <= first[3] < 42 and 72 <= first[20] < 100


def test_imagination_is_judged_from_where_an_episode_began(small):
    """From the first step on, and never across the end of an episode."""
    mind = small(lookahead=4)
    mind = eqx.tree_at(lambda mind: mind.model, mind, _AlwaysOneFurther())
    state, past, depths = _born(small(lookahead=4)), _nothing(mind), []
    for ended in (False, False, True, False, False, False, False, False):
        expectation, drift = mind._foreseen(state, past._replace(terminated=jnp.asarray(ended)))
        state = dataclasses.replace(state, expectation=expectation)
        depths.append(round(float(drift)))
    assert depths == [1, 2, 3, 1, 2, 3, 4, 4]


class _AlwaysOneFurther:
    """A model that imagines 1 too much at every step."""

    def ahead(self, state, seen, past):
        return seen + 1


def test_imagination_is_what_the_model_said_before_it_learnt(small):
    """Open loop with the actions that were done, each step by the model as it then was."""
    mind = small(lookahead=3, warmup=99)
    life = lives(mind, Slide(), [5])
    lived, models = [], []
    for _ in range(4):
        models.append(life.one(0).mind.model)
        life.advance(1)
        lived.append(
            jax.tree.map(lambda leaf: leaf[0], life.one(0).mind.replay.back(jnp.zeros(1, int)))
        )
    belief = Belief(lived[1].observation, jnp.zeros(()))
    for model, past in zip(models[1:], lived[1:], strict=True):
        belief = mind.model.imagine(model, belief, mind.spec.action.code(past.action))
    found = life.one(0).mind.expectation
    assert int(found.depth) == 3
    np.testing.assert_allclose(found.seen[2], belief.seen, rtol=1e-5)


def test_imagination_that_runs_off_is_still_a_number(small):
    mind = small()
    state = _born(mind)
    wild = jax.tree.map(
        lambda leaf: jnp.full_like(leaf, 1e30) if eqx.is_inexact_array(leaf) else leaf,
        state.model.circuits,
    )
    model = dataclasses.replace(state.model, circuits=wild)
    _, drift = mind._foreseen(dataclasses.replace(state, model=model), _nothing(mind))
    assert float(drift) == pytest.approx(1e3, rel=1e-3)


def _born(mind):
    return mind.init(jax.random.key(0))


def _nothing(mind):
    """A transition in which nothing was seen, done or moved."""
    return jax.tree.map(lambda leaf: leaf[0, 0], blank(mind.spec, 1, 1))


def test_schedules_begin_anew_at_an_alarm(small):
    """A life whose rate has fallen to 0 learns nothing any more, unless it was alarmed."""
    mind = small(schedule="cosine", steps=10, updates=1)
    state = dataclasses.replace(_filled(mind), step=jnp.asarray(10))
    numbers = lambda model: np.concatenate(
        [np.ravel(leaf) for leaf in jax.tree.leaves(eqx.filter(model.circuits, eqx.is_array))]
    )

    def moved(since):
        model, _ = mind._learnt(_since(state, since), 1, jax.random.key(1))
        return np.abs(numbers(model) - numbers(state.model)).max()

    assert moved(100) < 1e-8 < 1e-4 < moved(0)


def test_surprise_raises_learning_and_a_gate_skips_it(small):
    """After an alarm every step learns, `boost` times as much; else only what surprises."""
    mind = small(alarm=10.0, boost=4, recovery=5, gate="threshold", gating=dict(threshold=0.5))
    arousal = lambda since: dataclasses.replace(
        mind.init(jax.random.key(0)).arousal, since=jnp.asarray(since)
    )
    key = jax.random.key(0)

    def count(surprise, since, step=50):
        step = jnp.asarray(step)
        admitted, _ = mind._admitted(arousal(since), jnp.asarray(surprise), step, key)
        return int(mind._count(arousal(since), admitted))

    assert count(0.1, 90) == 0 and count(0.9, 90) == 2
    assert count(0.1, 3) == count(0.9, 3) == 8
    assert count(0.1, 90, step=2) == 2
    faint = small(updates=1, gate="threshold", gating=dict(threshold=0.5, gain=0.1))
    assert int(faint._count(arousal(90), True)) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(members=0), "members is 0"),
        (dict(updates=-1), "updates is -1"),
        (dict(curiosity=1.0), "give members at least 2"),
        (dict(alarm=0.5), "more than 1"),
        (dict(noise=0.0), "noise is 0"),
        (dict(dreams=1.5, sleep=9), "dreams is 1.5"),
        (dict(dreams=0.5), "sleep 0, batch 32"),
        (dict(dreams=0.5, sleep=9, updates=0), "updates 0"),
        (dict(dreams=0.01, sleep=9), "batch 32"),
        (dict(dreams=0.99, sleep=9), "a share that is a part"),
        (dict(planner="mpp"), "did you mean 'mppi'"),
        (dict(plan=dict(horizont=3)), "horizont"),
        (dict(plan=dict(horizon=99)), "too many"),
        (dict(gate="quantil"), "did you mean 'quantile'"),
        (dict(prefer={"height": {"target": 1.0}}), "shows no such state"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(InputError, match=said) as caught:
        living(CartPole().spec, **settings)
    assert "\n" not in str(caught.value)


def test_worlds_it_cannot_live_in_are_refused():
    with pytest.raises(InputError, match="nobody said what to prefer in Slide"):
        living(Slide().spec)
    with pytest.raises(InputError, match="needs a set of actions"):
        living(Spec("?", 1, Continuous((0.0,), (1.0,)), 9), planner="exhaustive", prefer=WISH)
    gymnasium.register("Picture-v0", entry_point=_Picture, max_episode_steps=9)
    with pytest.raises(InputError, match="images or grids"):
        Living("Picture-v0")


class _Picture(gymnasium.Env):
    """What shows images; nothing of it is ever stepped."""

    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3))
    action_space = gymnasium.spaces.Discrete(2)
