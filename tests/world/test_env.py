"""Worlds: the compiled ones beside gymnasium's own, step for step, and what is refused."""

import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.core.errors import InputError
from anima.world.classic import CLASSIC, CartPole, CartPoleSwingUp, Pendulum, altered
from anima.world.env import Continuous, Discrete, Moments, begin, make, proceed
from anima.world.export import enter
from anima.world.host import hosted


def _hidden(environment) -> np.ndarray:
    return np.array(environment.unwrapped.state, np.float64)


@pytest.mark.parametrize("name", sorted(CLASSIC))
def test_a_compiled_world_is_gymnasiums_step_for_step(name):
    """Whole episodes from the same state under the same random actions, in float64."""
    world, theirs = CLASSIC[name](), gymnasium.make(name)
    theirs.action_space.seed(1)
    step = jax.jit(lambda state, action: world.step(state, action, jax.random.key(0)))
    loose = name == "MountainCarContinuous-v0"  # gymnasium keeps its state in float32
    with jax.enable_x64(True):
        for episode in range(2):
            theirs.reset(seed=episode)
            state, over, age = jnp.asarray(_hidden(theirs)), False, 0
            if episode and name.startswith("MountainCar"):  # near the top, so that it ends there
                state = jnp.asarray([0.4, 0.03])
                theirs.unwrapped.state = np.array(state)
            while not over:
                action = theirs.action_space.sample()
                seen, reward, terminated, truncated, _ = theirs.step(action)
                state, mine, ended = step(state, jnp.asarray(action))
                close = dict(rtol=2e-5, atol=2e-6) if loose else dict(rtol=1e-9, atol=1e-9)
                np.testing.assert_allclose(state, _hidden(theirs), **close)
                np.testing.assert_allclose(world.observe(state), seen, rtol=1e-6, atol=1e-6)
                np.testing.assert_allclose(mine, reward, rtol=1e-6)
                assert bool(ended) == terminated
                state = jnp.asarray(_hidden(theirs)) if loose else state
                over, age = terminated or truncated, age + 1
            assert not truncated or age == world.spec.limit
    assert hosted(name).spec == world.spec


def test_the_swing_up_keeps_energy_but_for_the_work_of_the_force():
    """E = 1/2 1.1 v^2 + .05 v w cos a + 1/2 (.1 / 3) w^2 + .49 cos a; dE = force dx."""
    world = CartPoleSwingUp()
    advance = jax.jit(lambda state, force: world.step(state, force, jax.random.key(0)))

    def energy(state):
        _, v, a, w = np.asarray(state)
        return 0.55 * v**2 + 0.05 * v * w * np.cos(a) + 0.1 / 6 * w**2 + 0.49 * np.cos(a)

    with jax.enable_x64(True):
        for force in (0.0, 0.5, -0.5):
            state = before = jnp.asarray([0.0, 0.0, 0.9 * np.pi, 2.0])
            for _ in range(60):
                state, reward, ended = advance(state, jnp.asarray([force]))
                assert 0 <= reward <= 1 and bool(ended) == (abs(state[0]) > 2.4)
            work = force * (state[0] - before[0])
            np.testing.assert_allclose(energy(state) - energy(before), work, atol=2e-4)
        _, reward, ended = advance(jnp.asarray([2.3, 5.0, 0.0, 0.0]), jnp.asarray([0.0]))
        assert ended and reward == 0


def test_the_swing_up_moves_as_the_cart_pole_does():
    """One step of .05 s under a constant push, beside gymnasium's cart-pole in very small ones."""
    theirs = gymnasium.make("CartPole-v1").unwrapped
    theirs.reset(seed=0)
    theirs.tau = 1e-4
    start = np.array([0.1, -0.2, 0.05, 0.3])
    with jax.enable_x64(True):
        for push in (0, 1):
            theirs.state = start.copy()
            for _ in range(500):
                theirs.step(push)
            force = jnp.asarray([20.0 * push - 10.0])
            moved, *_ = CartPoleSwingUp().step(jnp.asarray(start), force, jax.random.key(0))
            np.testing.assert_allclose(moved, theirs.state, atol=1e-3)


def test_our_own_worlds_are_gymnasiums_too():
    world, theirs = make("CartPoleSwingUp-v0"), hosted("CartPoleSwingUp-v0")
    assert theirs.spec == world.spec
    environment = gymnasium.make("CartPoleSwingUp-v0", render_mode="rgb_array")
    seen, _ = environment.reset(seed=3)
    np.testing.assert_allclose(seen[2], -1, atol=0.01)
    np.testing.assert_array_equal(seen, environment.reset(seed=3)[0])
    state = environment.unwrapped.state
    for push in (3.0, -30.0):  # beyond the box it is the nearest that moves the cart
        seen, reward, fallen, *_ = environment.step(np.asarray([push], np.float32))
        state, want, _ = world.step(state, jnp.asarray([push]), jax.random.key(0))
        np.testing.assert_allclose(seen, world.observe(state), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(reward, want, atol=1e-6)
        assert not fallen
    still = environment.render()
    for _ in range(5):
        environment.step(np.asarray([10.0], np.float32))
    assert still.shape == (280, 480, 3) and (environment.render() != still).any()
    while not fallen:
        _, _, fallen, truncated, _ = environment.step(np.asarray([10.0], np.float32))
        assert fallen == (abs(environment.unwrapped.state[0]) > 2.4) and not truncated
    environment.reset(seed=4)
    for age in range(1, 101):
        _, _, fallen, truncated, _ = environment.step(np.asarray([0.0], np.float32))
        assert not fallen and truncated == (age == 100)
    environment.close()


def test_an_episode_that_terminates_begins_again_and_keeps_its_last_observation():
    world = CLASSIC["CartPole-v1"]()
    moment = begin(world, jax.random.key(0))
    falling = jnp.asarray([0.0, 0.0, 0.2, 2.0])
    moment = type(moment)(falling, jnp.asarray(7, jnp.int32), falling)
    moment, happened = proceed(world, moment, jnp.asarray(1), jax.random.split(jax.random.key(1)))
    assert bool(happened.terminated) and not bool(happened.truncated)
    assert float(happened.following[2]) > 0.2  # where it fell
    assert np.all(np.abs(moment.observation) <= 0.05) and int(moment.age) == 0


def test_the_clock_truncates_and_does_not_terminate():
    world = CLASSIC["Pendulum-v1"]()
    moment = begin(world, jax.random.key(0))
    run = jax.jit(
        lambda moment: jax.lax.scan(
            lambda m, keys: proceed(world, m, jnp.zeros(1), keys),
            moment,
            jax.random.split(jax.random.key(3), (450, 2)),
        )[1]
    )
    happened = run(moment)
    assert np.flatnonzero(happened.truncated).tolist() == [199, 399]
    assert not happened.terminated.any()


def test_hosted_worlds_live_apart_and_go_on_from_a_snapshot():
    """Each world ends its own episodes; acting out a snapshot leads to the same future."""
    name, count = "CartPole-v1", 3
    actions = np.random.default_rng(0).integers(0, 2, (60, count))
    host = hosted(name).open([5, 6, 7])
    first = [host.step(a) for a in actions[:40]]
    kept = host.snapshot()
    rest = [host.step(a) for a in actions[40:]]
    host.close()
    ends = [np.flatnonzero([t.terminated[i] for t in first]).tolist() for i in range(count)]
    assert ends[0] != ends[1] and all(ends)
    again = hosted(name).open([5, 6, 7])
    again.restore(kept)
    for action, before in zip(actions[40:], rest, strict=True):
        now = again.step(action)
        for a, b in zip(now, before, strict=True):
            np.testing.assert_array_equal(a, b)
    again.close()


def test_a_world_depends_on_its_own_seed_only():
    alone, many = hosted("CartPole-v1").open([6]), hosted("CartPole-v1").open([5, 6])
    np.testing.assert_array_equal(alone.observation[0], many.observation[1])
    for _ in range(30):
        one, two = alone.step(np.array([1])), many.step(np.array([0, 1]))
        np.testing.assert_array_equal(one.following[0], two.following[1])
        np.testing.assert_array_equal(alone.observation[0], many.observation[1])


def test_spaces_code_actions_as_circuits_read_them():
    assert Discrete(3).code(jnp.asarray(1)).tolist() == [0, 1, 0]
    box = Continuous((-2.0, 0.0), (2.0, 1.0))
    assert box.code(jnp.asarray([2.0, 0.25])).tolist() == [1.0, -0.5]
    ends = jnp.asarray([[0.0, 0.5], [1.0, 0.25]])
    assert box.spread(ends).tolist() == [[-2.0, 0.5], [2.0, 0.25]]
    assert Discrete(3).spread(jnp.asarray([[0.0], [0.4], [0.99], [1.0]])).tolist() == [0, 1, 2, 2]


def test_moments_are_those_of_all_that_was_seen():
    data = np.random.default_rng(0).normal(3, 2, (70, 2)).astype(np.float32)
    moments = Moments.empty(2)
    assert moments.normalise(jnp.asarray([4.0, -4.0])).tolist() == [4, -4]
    for part in np.split(data, [1, 5, 30]):
        moments = moments.seen(jnp.asarray(part))
    np.testing.assert_allclose(moments.mean, data.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.squares / moments.count, data.var(0), rtol=1e-4)
    np.testing.assert_allclose(np.std(moments.normalise(data), 0), 1, rtol=1e-4)


class Broken(gymnasium.Env):
    """An environment that does what `fault` says at its third step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, fault: str):
        self.fault, self.count = fault, 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        seen, reward = np.zeros(2, np.float32), 0.0
        if self.count == 3:
            if self.fault == "raises":
                raise RuntimeError("the motor\nburnt out")
            seen = {"nan": np.full(2, np.nan, np.float32), "shape": np.zeros(3, np.float32)}.get(
                self.fault, seen
            )
            pays = {"reward": np.nan, "fortune": np.inf}
            reward = pays.get(self.fault, np.zeros(1))  # in an array, as some do
        if self.fault == "seedless":  # chance of its own, whatever the seed
            seen = np.random.default_rng().normal(size=2).astype(np.float32)
        return seen, reward, False, False, {}


@pytest.fixture(scope="module")
def broken():
    names = []
    for fault in ("raises", "nan", "shape", "reward", "fortune", "endless", "seedless"):
        name = f"Broken-{fault}-v0"
        gymnasium.register(name, lambda fault=fault: Broken(fault))
        names.append(name)
    yield
    for name in names:
        del gymnasium.registry[name]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raises", "the motor burnt out"),
        ("nan", "not finite"),
        ("shape", "shape|broadcast"),
        ("reward", "reward"),
        ("fortune", "reward"),
    ],
)
def test_a_broken_environment_is_named_in_one_line(broken, fault, said):
    host = hosted(f"Broken-{fault}-v0").open([0])
    host.step(np.array([0]))
    host.step(np.array([0]))
    with pytest.raises(InputError, match=said) as caught:
        host.step(np.array([0]))
    assert f"Broken-{fault}-v0" in str(caught.value) and "\n" not in str(caught.value)
    host.restart([1])  # nothing of it is left behind
    assert host.step(np.array([0])).following.tolist() == host.observation.tolist() == [[0, 0]]


def test_an_environment_that_never_ends_is_truncated(broken):
    world = hosted("Broken-endless-v0")
    assert world.spec.limit == 10_000


def test_a_world_that_ignores_its_seed_cannot_be_resumed(broken):
    host = hosted("Broken-seedless-v0").open([0])
    host.step(np.array([0]))
    with pytest.raises(InputError, match="no longer lead to the same place"):
        host.restore(host.snapshot())


class Rough(gymnasium.Env):
    """It writes into the action that it is given."""

    observation_space = action_space = gymnasium.spaces.Box(-9, 9, (1,))

    def reset(self, *, seed=None, options=None):
        self.place = np.zeros(1, np.float32)
        return self.place, {}

    def step(self, action):
        self.place = self.place + action
        action *= 0
        return self.place, 0.0, False, False, {}


def test_what_was_done_is_remembered_whatever_a_world_does_to_it():
    gymnasium.register("Rough-v0", Rough)
    try:
        host = hosted("Rough-v0").open([0])
        for _ in range(3):
            host.step(np.ones((1, 1), np.float32))
        kept = host.snapshot()
        host.step(np.ones((1, 1), np.float32))
        host.restore(kept)
        assert host.observation.item() == 3
    finally:
        del gymnasium.registry["Rough-v0"]


class Shown(gymnasium.Env):
    """An environment of given spaces."""

    def __init__(self, observation, action):
        self.observation_space, self.action_space = observation, action


@pytest.mark.parametrize(
    ("observation", "action", "said"),
    [
        (gymnasium.spaces.Box(0, 255, (8, 8, 3)), gymnasium.spaces.Discrete(2), "images or grids"),
        (gymnasium.spaces.Dict(), gymnasium.spaces.Discrete(2), "shows Dict"),
        (gymnasium.spaces.Box(0, 1, (2,)), gymnasium.spaces.MultiBinary(2), "MultiBinary actions"),
        (gymnasium.spaces.Box(0, 1, (2,)), gymnasium.spaces.Box(0, np.inf, (1,)), "without bounds"),
        (gymnasium.spaces.Box(0, 1, (2,)), gymnasium.spaces.Box(1, 1, (1,)), "nothing to choose"),
    ],
)
def test_spaces_that_no_circuit_reads_are_refused(observation, action, said):
    gymnasium.register("Shown-v0", lambda: Shown(observation, action))
    try:
        hosted.cache_clear()
        with pytest.raises(InputError, match=said):
            hosted("Shown-v0")
    finally:
        del gymnasium.registry["Shown-v0"]


@pytest.mark.parametrize("name", ["CartPol-v1", "CartPole-v7", "gymnasium:Nothing-v0", "gymnax:No"])
def test_an_unknown_environment_gets_one_line(name):
    with pytest.raises(InputError, match="unknown") as caught:
        make(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_misspelt_environment_hears_the_nearest():
    with pytest.raises(InputError, match="CartPole-v1"):
        make("CartPol-v1")


def test_gymnax_worlds_are_offered_to_gymnasium():
    """On the host they move as they do when compiled, and are drawn where gymnasium can."""
    pytest.importorskip("gymnax")
    for name in ("Acrobot-v1", "Pendulum-v1", "PointRobot-misc"):
        world, known = make(f"gymnax:{name}"), enter(f"gymnax:{name}")
        assert known == f"gymnax/{name}" == enter(f"gymnax:{name}")
        spec = hosted(known).spec
        assert (spec.observation, spec.limit) == (world.spec.observation, world.spec.limit)
        environment = gymnasium.make(known, render_mode="rgb_array")
        environment.reset(seed=0)
        inner = environment.unwrapped
        before, key, action = inner.state, inner._key, environment.action_space.sample()
        seen, *_ = environment.step(action)
        state, *_ = world.step(before, jnp.asarray(action), jax.random.split(key)[1])
        np.testing.assert_allclose(seen, world.observe(state), rtol=1e-5, atol=1e-6)
        picture = environment.render()
        assert (picture is None) == (name == "PointRobot-misc")
        if picture is not None:  # what gymnasium's would see where it drew is what was seen
            painter = inner._painter.unwrapped
            look = painter._get_obs if name == "Pendulum-v1" else painter._get_ob
            np.testing.assert_allclose(look(), seen, rtol=1e-5, atol=1e-6)
        environment.close()
    with pytest.raises(InputError, match="is gymnasium's own"):
        enter("gymnasium:CartPole-v1")


def test_gymnax_that_cannot_make_its_world_is_bad_input(monkeypatch):
    """One of its worlds downloads images."""
    gymnax = pytest.importorskip("gymnax")

    def unreachable(name):
        raise OSError("no route to host")

    monkeypatch.setattr(gymnax, "make", unreachable)
    with pytest.raises(
        InputError, match=r"gymnax:CartPole-v1 could not be made: OSError: no route"
    ):
        make("gymnax:CartPole-v1")


def test_gymnax_worlds_live_in_the_same_protocol():
    """gymnax's pole falls as ours does, and its truncation is kept apart."""
    pytest.importorskip("gymnax")
    theirs, ours = make("gymnax:CartPole-v1"), make("CartPole-v1")
    assert theirs.spec.limit == 500 and theirs.spec.action == Discrete(2)
    moment = begin(theirs, jax.random.key(0))
    state, step = moment.observation, jax.jit(lambda m, a, k: proceed(theirs, m, a, k))
    for i in range(60):
        moment, happened = step(moment, jnp.asarray(1), jax.random.split(jax.random.key(i)))
        state, _, ended = ours.step(state, jnp.asarray(1), jax.random.key(0))
        np.testing.assert_allclose(happened.following, state, rtol=1e-5, atol=1e-6)
        assert bool(happened.terminated) == bool(ended)
        if ended:
            assert int(moment.age) == 0
            return
    raise AssertionError("the pole did not fall")


def test_heavy_imports_wait_until_a_world_is_made():
    said = "import anima, anima.world.env, sys; print({'gymnasium', 'gymnax'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_a_changed_world_moves_as_its_physics_say():
    """A reversed motor swaps the actions; more gravity is gymnasium's with that gravity."""
    key, state = jax.random.key(0), jnp.asarray([0.1, -0.2, 0.03, 0.4])
    swapped = CartPole(motor=-1.0).step(state, jnp.asarray(1), key)[0]
    np.testing.assert_array_equal(swapped, CartPole().step(state, jnp.asarray(0), key)[0])
    environment = gymnasium.make("Pendulum-v1", g=15.0).unwrapped
    environment.reset(seed=0)
    environment.state = np.asarray([2.0, 0.5])
    seen, *_ = environment.step(np.asarray([1.0]))
    world = Pendulum(gravity=1.5)
    moved = world.step(jnp.asarray([2.0, 0.5]), jnp.asarray([1.0]), key)[0]
    np.testing.assert_allclose(world.observe(moved), seen, rtol=1e-5)


@pytest.mark.parametrize("name", CLASSIC)
def test_altered_physics_are_gymnasiums_to_draw(name):
    """What is offered as anima/NAME moves as our own world does, and looks as gymnasium's."""
    constant = {"CartPole-v1": {"motor": -1.0}, "Pendulum-v1": {"gravity": 15.0}}.get(name, {})
    hosted("CartPoleSwingUp-v0")  # which offers them
    environment = gymnasium.make(f"anima/{name}", physics=constant, render_mode="rgb_array")
    environment.reset(seed=0)
    inner, usual = environment.unwrapped, make(name)
    before = inner.state
    for _ in range(9):
        before, action = inner.state, environment.action_space.sample()
        seen, *_ = environment.step(action)
    world = altered(name, constant)
    state, *_ = world.step(before, jnp.asarray(action), jax.random.key(0))
    np.testing.assert_allclose(seen, world.observe(state), rtol=1e-5, atol=1e-6)
    if constant:
        other, *_ = usual.step(before, jnp.asarray(action), jax.random.key(0))
        assert np.abs(np.asarray(usual.observe(other)) - seen).max() > 1e-3
    theirs = gymnasium.make(name, render_mode="rgb_array")
    theirs.reset(seed=0)
    theirs.unwrapped.state = np.asarray(inner.state)
    np.testing.assert_array_equal(environment.render(), theirs.render())
    assert environment.metadata["render_fps"] == theirs.metadata["render_fps"]
    theirs.close()
    environment.close()
