"""Lives do not depend on how they are cut into chunks, nor on who lives beside them."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from anima.agent.classic import ddpg, dqn
from anima.agent.life import lifetime, lives
from anima.core.errors import InputError
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


def test_compiled_lives_whole_in_parts_and_together(corridor):
    mind = dqn(corridor.spec, **SETTINGS)
    one, both = (lives(mind, corridor, seeds) for seeds in ([5], [4, 5]))
    start = jax.tree.map(lambda leaf: leaf.copy(), one.state)
    charts, endings = one.advance(12)
    whole = one.state
    assert np.shape(charts["surprise"]) == (1, 12) and endings.ended.shape == (1, 24, 1)
    np.testing.assert_array_equal(one.judge(3, 1).shape, (1, 3))
    one.restore(start)
    for _ in range(3):
        one.advance(4)
    _same(one.state, whole)
    both.advance(12)
    _same(both.one(1), one.one(0), exact=False)
    assert both.steps == 24
    np.testing.assert_allclose(both.judge(3, 1)[1], one.judge(3, 1)[0])


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


@pytest.mark.parametrize("seeds", [[3, 4], [3]])
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
    life.advance(2)
    past = jax.tree.map(lambda leaf: leaf[:, None], life._step(0))  # (lives, every, worlds)
    program = life._learn.lower(life._leaves, past, *life._seen())
    text = program.compile({"xla_backend_optimization_level": 3}).as_text()
    copies = [line for line in text.splitlines() if re.search(r"7918.* copy\(", line)]
    assert "7918" in text and not copies, copies
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
