"""Lives do not depend on how they are cut into chunks, nor on who lives beside them."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from anima.agent.classic import ddpg, dqn
from anima.agent.life import lifetime, lives
from anima.core.errors import InputError
from anima.world import host
from anima.world.env import make
from anima.world.host import hosted

THREEFRY = True  # lives side by side are to be what they are alone
SETTINGS = dict(assigner="backprop", hidden=(4,), every=2, batch=4, capacity=40, warmup=4, steps=99)


def _same(one, other, exact=True):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if hasattr(a, "dtype") and jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        if exact:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_compiled_lives_whole_in_parts_and_together(corridor, monkeypatch):
    mind = dqn(corridor.spec, **SETTINGS)
    one, both = (lives(mind, corridor, seeds) for seeds in ([5], [4, 5]))
    start = jax.tree.map(lambda leaf: leaf.copy(), one.state)
    charts, endings = one.advance(12)
    whole = one.state
    assert np.shape(charts["surprise"]) == (1, 12) and endings.ended.shape == (1, 24, 1)
    np.testing.assert_array_equal(one.judge(3, 1).shape, (1, 3))
    early = one.one(0)
    one.restore(start)
    for _ in range(3):
        one.advance(4)
    _same(one.state, whole)
    _same(early, one.one(0))  # what was taken of a life is not given away with it
    with pytest.raises(InputError, match="at least 1"):
        one.advance(0)
    monkeypatch.setattr("anima.agent.life._AT_ONCE", 10)  # five cycles in a chunk
    short = lives(mind, corridor, [5])
    charts_, endings_ = short.advance(12)
    _same((short.state, charts_, endings_), (whole, charts, endings))
    both.advance(12)
    _same(both.one(1), one.one(0), exact=False)
    assert both.steps == 24 and one._advance._cache_size() == 1
    np.testing.assert_allclose(both.judge(3, 1)[1], one.judge(3, 1)[0])


_ON_TWO_DEVICES = """
import jax, numpy as np
from anima.agent.classic import dqn
from anima.agent.life import lives, offer_cores
from anima.world.env import make

jax.config.update("jax_num_cpu_devices", 2)
offer_cores()  # which leaves alone what was told
world = make("CartPole-v1")
mind = dqn(world.spec, assigner="backprop", hidden=(4,), every=2, batch=4, capacity=40, warmup=4)
alone, many = (lives(mind, world, seeds) for seeds in ([5], [4, 5, 6, 7]))
for life in (alone, many):
    charts, _ = life.advance(20)
spread = {len(leaf.devices()) for leaf in jax.tree.leaves(many.alive)}
assert spread == {2} and len(jax.devices()) == 2, spread
own = many.alive.tally.score  # four of them, two on a device; the clocks are on both
assert own.addressable_shards[0].data.shape == (2, 1) and many.alive.cycle.is_fully_replicated
keys = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
numbers = lambda tree: [leaf for leaf in jax.tree.leaves(tree) if not keys(leaf)]
for a, b in zip(numbers(many.one(1)), numbers(alone.one(0)), strict=True):
    assert a.devices() == b.devices()
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
np.testing.assert_array_equal(many.judge(2, 1)[1], alone.judge(2, 1)[0])
alone.restore(many.only(1))
for leaf in jax.tree.leaves(alone.state):
    assert leaf.devices() == {jax.devices()[0]}
again = lives(mind, world, [4, 5, 6, 7])
again.restore(many.state)
again.advance(3), many.advance(1), many.advance(2)
for a, b in zip(numbers(again.state), numbers(many.state), strict=True):
    np.testing.assert_array_equal(a, b)
three = lives(mind, world, [1, 2, 3])
assert (alone.devices, many.devices, three.devices) == (1, 2, 1)
"""


def test_devices_share_the_lives():
    quiet = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", _ON_TWO_DEVICES], check=True, env=quiet)


def test_endings_tell_returns_and_lengths(corridor):
    life = lives(dqn(corridor.spec, **SETTINGS), corridor, [0])
    _, endings = life.advance(40)
    score, length = endings.score[endings.ended], endings.length[endings.ended]
    assert set(score) <= {0.0, 1.0} and length.max() == 8 and length.min() >= 2
    assert np.all(score[length < 8] == 1.0)  # who was not cut by the clock found the door
    assert length.sum() <= 80 < length.sum() + 8


def _in_loops(jaxpr, length, inside=False):
    """The primitives within loops of that length."""
    found = set()
    for equation in jaxpr.eqns:
        looping = equation.primitive.name == "scan" and equation.params["length"] == length
        found |= {equation.primitive.name} if inside else set()
        for inner in jaxprs_in_params(equation.params):
            found |= _in_loops(inner, length, inside or looping)
    return found


def test_a_cycle_draws_all_its_chance_before_its_loop(corridor):
    mind = dqn(corridor.spec, **SETTINGS | dict(every=3))
    cycle = lambda seed: lifetime(mind, corridor, seed, 1)[0]
    found = _in_loops(jax.make_jaxpr(cycle)(jnp.uint32(0)).jaxpr, 3)
    assert "dot_general" in found and "random_bits" not in found


@pytest.mark.parametrize("seeds", [[3, 4], pytest.param([3], marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "recipe", "settings"),
    [
        ("CartPole-v1", dqn, {}),
        ("Pendulum-v1", ddpg, dict(persistence=0.9, every=3, worlds=2)),  # it has a thought
    ],
    ids=["dqn", "ddpg"],
)
def test_hosted_lives_go_on_from_a_state_as_if_never_stopped(name, recipe, settings, seeds):
    world = hosted(name)
    mind = recipe(world.spec, **SETTINGS | settings)
    life = lives(mind, world, seeds)
    life.advance(9)
    kept = life.state
    kept = jax.tree.map(lambda leaf: leaf.copy() if hasattr(leaf, "copy") else leaf, kept)
    charts, endings = life.advance(8)
    assert life._advance._cache_size() == 1  # one program for chunks of any length
    again = lives(mind, world, seeds)
    again.restore(kept)
    charts_, endings_ = again.advance(8)
    _same((charts, endings, life.state), (charts_, endings_, again.state))
    assert life.judge(3, 7).shape == (len(seeds), 3)
    np.testing.assert_array_equal(life.judge(3, 7), again.judge(3, 7))
    life.close()
    again.close()


def test_what_a_life_remembers_is_written_in_place():
    world = hosted("CartPole-v1")
    life = lives(dqn(world.spec, **SETTINGS | dict(capacity=7918, steps=7918, every=1)), world, [3])
    program = life._advance.lower(life.alive, 2)
    text = program.compile({"xla_backend_optimization_level": 3}).as_text()
    before, start, loops = text.partition("ENTRY")  # which is last, and may copy what is given
    copies = [line for line in before.splitlines() if re.search(r"7918.* copy\(", line)]
    assert start and "7918" in loops and "7918" in before and not copies, copies
    life.close()


class _Fragile(gymnasium.Env):
    """Episodes of nine steps; `trouble` befalls step number five, until it is taken away."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    trouble = None

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        if self.count == 5 and _Fragile.trouble:
            _Fragile.trouble()
        return np.full(2, self.count / 10, np.float32), float(action), False, self.count == 9, {}


def _breaks():
    raise RuntimeError("the motor\nburnt out")


@pytest.fixture
def fragile():
    """Two times the same two lives."""
    gymnasium.register("Fragile-v0", _Fragile)
    world = hosted("Fragile-v0")
    both = [lives(dqn(world.spec, **SETTINGS), world, [3, 4]) for _ in range(2)]
    yield both
    for life in both:
        life.close()
    _Fragile.trouble = None
    del gymnasium.registry["Fragile-v0"]


@pytest.mark.parametrize("lasting", [False, True])
def test_a_world_that_breaks_leaves_the_lives_as_they_were(fragile, lasting):
    life, unbroken = fragile
    life.advance(4)  # eight steps of nine: to bring them back is to go through the fifth again

    def breaks():
        _Fragile.trouble = _breaks if lasting else None
        _breaks()

    _Fragile.trouble = breaks
    with pytest.raises(InputError, match="the motor burnt out") as told:
        life.advance(4)
    assert "Fragile-v0 could not" in str(told.value) and "\n" not in str(told.value)
    if lasting:  # nor can they be brought back yet
        for use in (lambda: life.state, lambda: life.advance(1)):
            with pytest.raises(InputError, match="the motor burnt out"):
                use()
        _Fragile.trouble = None
    unbroken.advance(4)
    _same(life.state, unbroken.state)
    life.advance(6)
    unbroken.advance(6)
    _same(life.state, unbroken.state)


def test_an_interrupt_leaves_the_lives_as_they_were(fragile):
    life, undisturbed = fragile
    life.advance(3)

    def once():
        _Fragile.trouble = None
        signal.raise_signal(signal.SIGINT)

    _Fragile.trouble = once
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            life.advance(100)
            time.sleep(1)  # the signal may reach the main thread later than its sender
    finally:
        signal.signal(signal.SIGINT, before)
    if life.steps == 6:
        undisturbed.advance(3)
    else:
        undisturbed.advance(103)
    _same(life.state, undisturbed.state)


def test_threads_that_ask_worlds_stay_known_to_python(fragile):
    """XLA's own are set up for Python once, not at every step, which would take longer."""
    life, _ = fragile
    heard, own = {}, threading.local()

    def count():
        own.times = getattr(own, "times", 0) + 1
        heard.setdefault(threading.get_ident(), []).append(own.times)

    _Fragile.trouble = count
    life.advance(30)
    assert sum(map(len, heard.values())) == 14  # in two worlds, every nine steps
    assert all(times == list(range(1, len(times) + 1)) for times in heard.values()), heard


class _Lottery(gymnasium.Env):
    """An episode pays, in one of its two or three steps, a number that its seed drew."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.prize, self.left = float(seed % 1000), 2 + seed % 2
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(2, np.float32), self.prize * (self.left == 1), self.left == 0, False, {}


def test_more_episodes_than_worlds_are_each_counted_once():
    gymnasium.register("Lottery-v0", _Lottery)
    world = hosted("Lottery-v0")
    life = lives(dqn(world.spec, **SETTINGS), world, [3, 4])
    scores = life.judge(13, 5)  # in ten worlds, of which three play twice
    for life_scores, key in zip(scores, life._judged_by(5), strict=True):
        seeds = jax.random.bits(key, (10,), jnp.uint32).tolist()
        played = [(seed, i) for k, seed in enumerate(seeds) for i in range(1 + (k < 3))]
        assert life_scores.tolist() == [host._seed(*one) % 1000 for one in played]
    life.close()
    del gymnasium.registry["Lottery-v0"]


def test_a_world_on_the_host_may_compile_programs_of_its_own():
    world = hosted("CartPoleSwingUp-v0")  # ours, in JAX, behind gymnasium's face
    life = lives(ddpg(world.spec, **SETTINGS), world, [3])
    charts, endings = life.advance(60)
    assert np.isfinite(charts["surprise"]).all() and endings.ended.sum() >= 1
    life.close()


@pytest.mark.parametrize("open_world", [make, hosted])
def test_each_life_is_judged_in_worlds_of_its_own(open_world):
    world = open_world("Pendulum-v1")
    life = lives(ddpg(world.spec, hidden=(4,)), world, [3, 4])
    first = lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape) if jnp.ndim(leaf) else leaf
    alive, *rest = life.state if isinstance(life.state, tuple) else (life.state,)
    twins = eqx.tree_at(lambda alive: alive.mind, alive, jax.tree.map(first, alive.mind))
    life.restore((twins, *rest) if rest else twins)
    scores = life.judge(2, 1)
    assert len(np.unique(scores.round(2))) == 4
    life.close()


def test_no_seed_is_refused(corridor):
    with pytest.raises(InputError, match="no seed"):
        lives(dqn(corridor.spec, **SETTINGS), corridor, [])
