"""Lives: a mind in its worlds, one life per seed, all of them advanced together.

In compiled worlds a chunk of life (acting, the worlds' physics, settling, learning) is one
program, `vmap`ped over seeds. In hosted worlds the same cycle runs on the host around two compiled
functions. Either way the numbers depend on the seed and the step alone: not on how a life is cut
into chunks, nor on who else lives.
"""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Key, PRNGKeyArray

from anima.agent.mind import AbstractMind, Chart, Charts, arrays
from anima.core.errors import InputError
from anima.core.hoist import scan
from anima.core.types import Keys
from anima.world.env import AbstractWorld, Transition, begin, proceed
from anima.world.host import Host, Hosted

_MOST_SIDE_BY_SIDE = 10  # hosted worlds open at once for an evaluation
# They keep the streams of birth and of evaluation apart from those of a life's cycles.
_BIRTH, _JUDGED, _THINKING = 0xB1B1B1B1, 0xE7E7E7E7, 0x7417


CLOCKS = ("cycle", "step", "head", "filled")
"""Leaves of these names tell the time, which is the same for all lives: they have no axis of
lives, so that what they point at (a place in a ring) is written without a search."""


class Tally(eqx.Module):
    """The running return and length of the present episode in each world."""

    score: Float[Array, " worlds"]
    length: Int[Array, " worlds"]

    def after(self, happened: Transition) -> tuple["Tally", "Ending"]:
        """With one step more; episodes that ended begin again at 0."""
        score, length = self.score + happened.reward, self.length + 1
        ended = happened.ended
        zero = Tally(jnp.where(ended, 0.0, score), jnp.where(ended, 0, length))
        return zero, Ending(ended, score, length)


class Ending(eqx.Module):
    """Whether an episode ended at this step, and with which return and length if so."""

    ended: Bool[Array, "*steps"]
    score: Float[Array, "*steps"]
    length: Int[Array, "*steps"]


class Alive(eqx.Module):
    """All that a life is at one instant; what resuming needs.

    - `mind`: the mind's state. - `worlds`: the moments of compiled worlds; of hosted ones, what
      was last seen. - `tally`. - `cycle`: how often it has learnt. - `key`: never changes.
    - `thoughts`: what the mind carries from step to step, with an axis of worlds.
    """

    mind: Any
    worlds: Any
    tally: Tally
    cycle: Int[Array, ""]
    key: PRNGKeyArray
    thoughts: Any = None


class AbstractLives:
    """Lives of one mind from several seeds, over time.

    `advance` moves all of them on, `state` and `restore` are for checkpoints, `judge` looks at
    what they have become. A leading axis of lives is everywhere (but for `CLOCKS`), be there only
    one life.
    """

    mind: AbstractMind
    seeds: list[int]

    @property
    @abstractmethod
    def state(self) -> Any:
        """A pytree of arrays from which `restore` goes on bit for bit."""

    @abstractmethod
    def restore(self, state: Any) -> None:
        """Takes up the lives where `state` left them."""

    @abstractmethod
    def advance(self, cycles: int) -> tuple[Any, Ending]:
        """Lives on for some cycles.

        **Returns:** charts of shape (lives, cycles), and endings of (lives, steps, worlds).
        """

    @abstractmethod
    def judge(self, episodes: int, seed: int) -> np.ndarray:
        """The returns of greedy episodes in fresh worlds, (lives, episodes).

        The worlds follow from `seed` and from each life's own, so that several lives are judged
        from more beginnings than one, and a life alone as among others.
        """

    @property
    @abstractmethod
    def alive(self) -> Alive:
        """The lives themselves, with a leading axis."""

    @property
    def steps(self) -> int:
        """Environment steps that each life has lived."""
        return int(self.alive.cycle) * self.mind.cycle

    @cached_property
    def _align(self) -> Any:
        align = lambda life: self.mind.alignment(life.mind, _keys(self.mind, life)[0])
        return jax.jit(_together(align, len(self.seeds)))

    def one(self, life: int) -> Alive:
        """One of the lives, without the axis."""
        pick = lambda leaf, axis: leaf if axis is None else leaf[life]
        return jax.tree.map(pick, self.alive, _axes(self.alive))

    def alignment(self) -> Charts:
        """Each life's cosine of assigned credit with backprop's, (lives,)."""
        return jax.tree.map(np.asarray, self._align((self.alive,)))

    def close(self) -> None:
        """Gives back what the worlds hold."""
        return None

    def _judged_by(self, seed: int) -> Key[Array, " lives"]:
        """The key of each life's judgement: of its fresh worlds and of how it thinks in them."""
        shared = jax.random.fold_in(jax.random.key(seed), _JUDGED)
        own = jnp.asarray(self.seeds, jnp.uint32)
        return jax.vmap(jax.random.fold_in, (None, 0))(shared, own)


def lives(mind: AbstractMind, world: AbstractWorld | Hosted, seeds: Sequence[int]) -> AbstractLives:
    """The lives of a mind in a world, one per seed; raises `InputError` if there is no seed."""
    if not seeds:
        raise InputError("lives: no seed: give at least one")
    if isinstance(world, Hosted):
        return HostedLives(mind, world, seeds)
    return CompiledLives(mind, world, seeds)


class CompiledLives(AbstractLives):
    """Lives in compiled worlds: a chunk is one program."""

    def __init__(self, mind: AbstractMind, world: AbstractWorld, seeds: Sequence[int]):
        self.mind, self.seeds = mind, list(seeds)
        self._alive = _born_together(mind, self.seeds, jax.vmap(lambda key: begin(world, key)))
        self.enter(world)

    def enter(self, world: AbstractWorld) -> None:
        """Goes on in another world, where states are what they were but may move otherwise.

        An episode that has begun goes on from where it stands.
        """
        self.world, mind, count = world, self.mind, len(self.seeds)

        def chunk(cycles, alive):
            step = lambda alive, _: _cycle(mind, world, alive)
            return jax.lax.scan(step, alive, length=cycles)

        def advance(alive, cycles):
            return _together(partial(chunk, cycles), count)((alive,))

        def judge(alive, keys, episodes):
            play = lambda alive, key: _play(mind, world, alive.mind, key, episodes)
            return _together(play, count)((alive, keys))

        self._advance = jax.jit(advance, static_argnums=1, donate_argnums=0)
        self._judge = jax.jit(judge, static_argnums=2)

    @property
    def state(self) -> Any:
        return self._alive

    @property
    def alive(self) -> Alive:
        return self._alive

    def restore(self, state: Any) -> None:
        self._alive = jax.tree.map(jnp.array, state)

    def advance(self, cycles: int) -> tuple[Any, Ending]:
        self._alive, (charts, endings) = self._advance(self._alive, cycles)
        return charts, jax.tree.map(_steps, endings)

    def judge(self, episodes: int, seed: int) -> np.ndarray:
        return np.asarray(self._judge(self._alive, self._judged_by(seed), episodes))


class HostedLives(AbstractLives):
    """Lives in worlds on the host: acting and learning are compiled, the steps between are not.

    What crosses to the compiled side at every step is a flat list of arrays, because taking a
    tree of modules apart costs more than acting does. The action that follows a learning is
    computed with it, in one call, and so are the keys of the whole cycle.
    """

    def __init__(self, mind: AbstractMind, world: Hosted, seeds: Sequence[int]):
        self.mind, self.world, self.seeds = mind, world, list(seeds)
        count = mind.worlds
        self._host = world.open([seed * count + i for seed in self.seeds for i in range(count)])
        none = lambda keys: jnp.zeros((count, mind.spec.observation))
        # a life alone is kept without the axis of lives: to take it off and put it on again
        # within a program would copy all that is remembered, at every step
        alone = len(self.seeds) == 1
        self._kept, self._shown = (_narrow, _wide) if alone else (_same, _same)
        newborn = self._kept(_born_together(mind, self.seeds, none))
        self._leaves, self._tree = jax.tree.flatten(newborn)
        self._names: list[str] = []
        self._next: Any = None  # the cycle's first action and its thoughts, once they are known
        self._acting_keys: Any = None  # (lives, every), once they are known
        kept, shown = self._kept, self._shown

        def together(function, life, *rest):
            if alone:
                return function(life, *kept(rest))
            return _together(function, len(self.seeds))((life, *rest))

        def drawing(leaves):
            alive = self._tree.unflatten(leaves)
            return shown(together(lambda alive: _keys(mind, alive)[1], alive))

        def act(alive, seen, begun, key):
            action, thoughts = decided(mind, alive.mind, alive.thoughts, seen, begun, key)
            return action, jax.tree.leaves(thoughts)

        def learn(alive, happened, seen, begun):
            alive, chart, ending = _learnt(mind, alive, happened)
            self._names = sorted(chart)
            values = jnp.stack([chart[name] for name in self._names])
            keys = _keys(mind, alive)[1]
            return alive, (act(alive, seen, begun, keys[0]), keys, values, ending)

        def acting(leaves, seen, begun, keys, i):
            alive = self._tree.unflatten(leaves)
            action, thoughts = together(act, alive, seen, begun, keys[:, i])
            return shown(action), thoughts

        def learning(leaves, happened, seen, begun):
            alive = self._tree.unflatten(leaves)
            alive, (acted, *rest) = together(learn, alive, happened, seen, begun)
            action, thoughts = acted
            return jax.tree.leaves(alive), (shown(action), thoughts), *shown(rest)

        self._draw = jax.jit(drawing)
        self._act = jax.jit(acting)
        self._learn = jax.jit(learning, donate_argnums=0)
        self._decide = jax.jit(partial(decided, mind), static_argnames="explore")

    @property
    def state(self) -> Any:
        # the next action belongs to it: found anew by another program, its last bit might differ
        action, thoughts = self._decided()
        host = jax.tree.map(jnp.asarray, self._host.snapshot())
        return self.alive, (action, self._shown(thoughts)), host

    @property
    def alive(self) -> Alive:
        return self._shown(self._tree.unflatten(self._leaves))

    @property
    def steps(self) -> int:  # without a look at all the rest, which `alive` may have to copy
        return int(self._tree.unflatten(self._leaves).cycle) * self.mind.cycle

    def one(self, life: int) -> Alive:
        if len(self.seeds) == 1:  # a copy: the original is given away at the next step
            return self._tree.unflatten([jnp.array(leaf) for leaf in self._leaves])
        return super().one(life)

    def restore(self, state: Any) -> None:
        alive, (action, thoughts), snapshot = state
        self._leaves = [jnp.array(leaf) for leaf in jax.tree.leaves(self._kept(alive))]
        self._next = jax.tree.map(jnp.array, (action, self._kept(thoughts)))
        self._acting_keys = None
        self._host.restore({name: np.asarray(value) for name, value in snapshot.items()})

    def advance(self, cycles: int) -> tuple[Any, Ending]:
        charts, endings = [], []
        for _ in range(cycles):
            past = [self._step(i) for i in range(self.mind.every)]
            happened = Transition._make(np.stack(leaves, 1) for leaves in zip(*past, strict=True))
            self._leaves, self._next, self._acting_keys, chart, ending = self._learn(
                self._leaves, happened, *self._seen()
            )
            charts.append(chart)
            endings.append(ending)
        values = np.stack([np.asarray(chart) for chart in charts], -1)
        chart = {name: values[:, i] for i, name in enumerate(self._names)}
        return chart, jax.tree.map(
            lambda *rows: np.concatenate([np.asarray(row) for row in rows], 1), *endings
        )

    def judge(self, episodes: int, seed: int) -> np.ndarray:
        count = min(episodes, _MOST_SIDE_BY_SIDE)
        each = [episodes // count + (i < episodes % count) for i in range(count)]
        scores = []
        for life, key in enumerate(self._judged_by(seed)):
            mind = self.one(life).mind
            seeds = jax.random.bits(key, (count,), jnp.uint32)
            host = self.world.open([int(seed) for seed in seeds])
            scores.append(_play_hosted(partial(self._decide, mind), self.mind, host, each, key))
            host.close()
        return np.asarray(scores)

    def close(self) -> None:
        self._host.close()

    def _seen(self) -> tuple[np.ndarray, np.ndarray]:
        """What stands before every world of every life, (lives, worlds, n), and where an episode
        begins."""
        shape = len(self.seeds), self.mind.worlds
        return self._host.observation.reshape(*shape, -1), self._host.begun.reshape(shape)

    def _decided(self, index: int = 0) -> Any:
        """What is done next, and what is in mind then."""
        if self._next is None:
            if self._acting_keys is None:
                self._acting_keys = self._draw(self._leaves)
            self._next = self._act(self._leaves, *self._seen(), self._acting_keys, np.int32(index))
        return self._next

    def _step(self, index: int) -> Transition:
        """One step of all worlds of all lives, with leading axes (lives, worlds)."""
        if index:
            self._next = None
        acted, thoughts = self._decided(index)
        self._leaves[len(self._leaves) - len(thoughts) :] = thoughts  # the last field of a life
        action, shape = np.asarray(acted), acted.shape[:2]
        happened = self._host.step(action.reshape(-1, *action.shape[2:]))
        return Transition(*(leaf.reshape(*shape, *leaf.shape[1:]) for leaf in happened))


def born(mind: AbstractMind, seed: Integer[Array, ""], open_worlds: Any) -> Alive:
    """The first instant of the life of a seed. `open_worlds` takes a key per world."""
    key = jax.random.key(seed)
    inner, outer = jax.random.split(jax.random.fold_in(key, _BIRTH))
    tally = Tally(jnp.zeros(mind.worlds), jnp.zeros(mind.worlds, jnp.int32))
    worlds = open_worlds(jax.random.split(outer, mind.worlds))
    none = jnp.zeros((), jnp.int32)
    return Alive(arrays(mind.init(inner)), worlds, tally, none, key, mind.afresh(mind.worlds))


def decided(
    mind: AbstractMind,
    state: Any,
    thoughts: Any,
    seen: Float[Array, "worlds n"],
    begun: Bool[Array, " worlds"],
    key: PRNGKeyArray,
    *,
    explore: bool = True,
) -> tuple[Array, Any]:
    """What a mind does in each world and has in mind then; with a fresh mind where one begins."""

    def clear(new, old):
        return jnp.where(begun.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    thoughts = jax.tree.map(clear, mind.afresh(seen.shape[0]), thoughts)
    return mind.decide(state, thoughts, seen, key, explore=explore)


def lifetime(
    mind: AbstractMind, world: AbstractWorld, seed: Integer[Array, ""], cycles: int
) -> tuple[Alive, Charts]:
    """A whole life in a compiled world, from its birth, as one pure function of seed and world.

    **Returns:** the life after so many cycles, and its charts, (cycles,) each.
    """
    alive = born(mind, seed, jax.vmap(lambda key: begin(world, key)))
    step = lambda alive, _: _cycle(mind, world, alive)
    alive, (charts, _) = jax.lax.scan(step, alive, length=cycles)
    return alive, charts


def _cycle(mind: AbstractMind, world: AbstractWorld, alive: Alive):
    """`every` steps in compiled worlds, and what is learnt from them."""

    def step(loop, keys):
        (worlds, thoughts), (acting, moving) = loop, keys
        seen, begun = worlds.observation, worlds.age == 0
        action, thoughts = decided(mind, alive.mind, thoughts, seen, begun, acting)
        moved = jax.vmap(lambda w, a, k: proceed(world, w, a, k))(worlds, action, moving)
        return (moved[0], thoughts), moved[1]

    _, *keys = _keys(mind, alive)
    (worlds, thoughts), happened = scan(step, (alive.worlds, alive.thoughts), tuple(keys))
    alive, chart, ending = _learnt(mind, alive, happened)
    return dataclasses.replace(alive, worlds=worlds, thoughts=thoughts), (chart, ending)


def _learnt(mind: AbstractMind, alive: Alive, happened: Transition) -> tuple[Alive, Chart, Ending]:
    """The end of a cycle, the same in all worlds."""
    key, *_ = _keys(mind, alive)
    state, chart = mind.learn(alive.mind, happened, key)
    tally, ending = jax.lax.scan(lambda tally, past: tally.after(past), alive.tally, happened)
    alive = dataclasses.replace(alive, mind=state, tally=tally, cycle=alive.cycle + 1)
    return alive, chart, ending


def _keys(mind: AbstractMind, alive: Alive) -> tuple[PRNGKeyArray, Keys, Key[Array, "*axes"]]:
    """The keys of the present cycle: to learn by (); to act by, (every,); of worlds, (every,
    worlds, 2).

    All at once: with small circuits a compiled life would else spend most of its time on keys.
    """
    shape = (mind.every, mind.worlds, 2)
    keys = jax.random.split(
        jax.random.fold_in(alive.key, alive.cycle), 1 + mind.every + math.prod(shape)
    )
    return keys[0], keys[1 : 1 + mind.every], keys[1 + mind.every :].reshape(shape)


def _play(mind: AbstractMind, world: AbstractWorld, state: Any, key: PRNGKeyArray, count: int):
    """The returns of greedy episodes in fresh compiled worlds, (count,)."""
    moments = jax.vmap(lambda key: begin(world, key))(jax.random.split(key, count))

    def going(loop):
        return jnp.any(~loop[2])

    def step(loop):
        moments, scores, over, time, thoughts = loop
        now = jax.random.fold_in(key, time)
        seen, begun, keys = moments.observation, moments.age == 0, jax.random.split(now, (count, 2))
        thinking = jax.random.fold_in(now, _THINKING)
        action, thoughts = decided(mind, state, thoughts, seen, begun, thinking, explore=False)
        moments, past = jax.vmap(lambda m, a, k: proceed(world, m, a, k))(moments, action, keys)
        scores = scores + jnp.where(over, 0, past.reward)
        return moments, scores, over | past.ended, time + 1, thoughts

    none = jnp.zeros((), jnp.int32)
    start = (moments, jnp.zeros(count), jnp.zeros(count, bool), none, mind.afresh(count))
    return jax.lax.while_loop(going, step, start)[1]


def _play_hosted(
    decide: Any, mind: AbstractMind, host: Host, each: list[int], key: PRNGKeyArray
) -> list[float]:
    """The returns of so many greedy episodes in each hosted world."""
    done: list[list[float]] = [[] for _ in each]
    score, thoughts = np.zeros(len(each)), mind.afresh(len(each))
    while any(len(d) < want for d, want in zip(done, each, strict=True)):
        key, now = jax.random.split(key)
        action, thoughts = decide(thoughts, host.observation, host.begun, now, explore=False)
        happened = host.step(np.asarray(action))
        score += happened.reward
        for i in np.flatnonzero(host.begun):
            done[i].append(float(score[i]))
            score[i] = 0
    return [value for d, want in zip(done, each, strict=True) for value in d[:want]]


def _together(function: Any, count: int) -> Any:
    """A function of one life's trees, of several lives' trees: `vmap`, but for the clocks.

    One life alone goes without the batched arithmetic.
    """

    def run(trees: tuple) -> Any:
        axes = _axes(trees)
        if count == 1:
            return _wide(function(*_narrow(trees)))
        shapes = jax.eval_shape(lambda *trees: jax.vmap(function, axes)(*trees), *trees)
        return jax.vmap(function, axes, _axes(shapes))(*trees)

    return run


def _narrow(tree: Any) -> Any:
    """The trees of a life alone, without the axis of lives."""
    return jax.tree.map(lambda leaf, axis: leaf if axis is None else leaf[0], tree, _axes(tree))


def _wide(tree: Any) -> Any:
    """What `_narrow` undoes."""
    return jax.tree.map(lambda leaf, axis: leaf if axis is None else leaf[None], tree, _axes(tree))


def _same(tree: Any) -> Any:
    """The trees of several lives, as they are."""
    return tree


def _axes(tree: Any) -> Any:
    """0 for every leaf that each life has its own of, `None` for the clocks."""
    last = lambda path: getattr(path[-1], "name", None) if path else None
    return jax.tree_util.tree_map_with_path(
        lambda path, _: None if last(path) in CLOCKS else 0, tree
    )


def _born_together(mind: AbstractMind, seeds: Sequence[int], open_worlds: Any) -> Alive:
    """The first instant of every life; clocks are one for all."""
    birth = jax.jit(jax.vmap(lambda seed: born(mind, seed, open_worlds)))
    alive = birth(jnp.asarray(seeds, jnp.uint32))
    return jax.tree.map(lambda leaf, axis: leaf[0] if axis is None else leaf, alive, _axes(alive))


def _steps(ending: Array) -> np.ndarray:
    """(lives, cycles, every, worlds) -> (lives, steps, worlds)."""
    host = np.asarray(ending)
    return host.reshape(host.shape[0], -1, host.shape[-1])
