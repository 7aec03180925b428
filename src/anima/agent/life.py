"""Lives: a mind in its worlds, one life per seed, all of them advanced together.

A chunk of life (acting, the worlds' physics, settling, learning) is one program, `vmap`ped over
seeds; where worlds live on the host, the program asks them for every step. The numbers depend on
the seed and the step alone: not on how a life is cut into chunks, nor, but for rounding, on who
else lives and on how many devices.
"""

import contextlib
import math
import os
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Integer, Key, PRNGKeyArray

from anima.agent.mind import AbstractMind, Chart, Charts, arrays
from anima.core.errors import InputError
from anima.core.hoist import scan
from anima.core.types import Count, Keys
from anima.world.env import AbstractWorld, AbstractWorlds, Compiled, Moment, Transition
from anima.world.host import Host, Hosted, Lost

_AT_ONCE = 1000  # environment steps of a life in a chunk, at most (but for longer cycles)
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

    - `mind`: the mind's state. - `worlds`: the moments of its worlds. - `tally`. - `cycle`: how
      often it has learnt. - `key`: never changes. - `thoughts`: what the mind carries from step
      to step, with an axis of worlds.
    """

    mind: Any
    worlds: Moment
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
    alive: Alive
    """The lives themselves, with a leading axis."""

    def __init__(self, mind: AbstractMind, worlds: AbstractWorlds, seeds: Sequence[int]):
        self.mind, self.seeds = mind, list(seeds)
        self.alive = _born_together(mind, self.seeds, worlds)
        self._mesh: Mesh | None = None  # the devices that share the lives, if there are several

    @property
    @abstractmethod
    def state(self) -> Any:
        """A pytree of arrays from which `restore` goes on bit for bit."""

    @abstractmethod
    def restore(self, state: Any) -> None:
        """Takes up the lives where `state` left them."""

    @abstractmethod
    def _go(self, cycles: int) -> Any:
        """A chunk of up to `longest(mind)` cycles; returns charts and endings with room for all."""

    def advance(self, cycles: int) -> tuple[Charts, Ending]:
        """Lives on for some cycles.

        **Returns:** charts of shape (lives, cycles), and endings of (lives, steps, worlds).

        **Raises:** `InputError` for less than one, and for worlds on the host that fail.
        """
        if cycles < 1:
            raise InputError(f"advance: cycles is {cycles}: it must be at least 1")
        most = longest(self.mind)
        chunks = [min(most, cycles - begun) for begun in range(0, cycles, most)]
        told = [jax.tree.map(lambda x, n=n: np.asarray(x)[:, :n], self._go(n)) for n in chunks]
        charts, endings = jax.tree.map(lambda *parts: np.concatenate(parts, 1), *told)
        return charts, jax.tree.map(lambda x: x.reshape(len(x), -1, x.shape[-1]), endings)

    @abstractmethod
    def judge(self, episodes: int, seed: int) -> np.ndarray:
        """The returns of greedy episodes in fresh worlds, (lives, episodes).

        The worlds follow from `seed` and from each life's own, so that several lives are judged
        from more beginnings than one, and a life alone as among others.
        """

    def only(self, life: int) -> Any:
        """The `state` of one of the lives, as lives from its seed alone would have it."""
        return _wide(self.one(life))

    @property
    def steps(self) -> int:
        """Environment steps that each life has lived."""
        return int(self.alive.cycle) * self.mind.cycle

    @cached_property
    def _align(self) -> Any:
        align = lambda life: self.mind.alignment(life.mind, _keys(self.mind, life)[0])
        return jax.jit(_shared(align, len(self.seeds), self._mesh))

    def one(self, life: int) -> Alive:
        """One of the lives, without the axis; a copy, as what is lived from is given away."""
        pick = lambda leaf, axis: jnp.array(leaf) if axis is None else leaf[life]
        found = jax.tree.map(pick, self.alive, _axes(self.alive))
        return found if self._mesh is None else jax.device_put(found, jax.devices()[0])

    def alignment(self) -> Charts:
        """Each life's cosine of assigned credit with backprop's, (lives,)."""
        return jax.tree.map(np.asarray, self._align((self.alive,)))

    @property
    def devices(self) -> int:
        """How many devices share the lives."""
        return 1 if self._mesh is None else self._mesh.size

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
    """Lives in worlds whose dynamics compile, shared among as many devices as divide them.

    A CPU is one device, unless JAX is told first of all to see more in it (`offer_cores`).
    """

    def __init__(self, mind: AbstractMind, world: AbstractWorld, seeds: Sequence[int]):
        super().__init__(mind, Compiled(world), seeds)
        self._mesh = _mesh(len(self.seeds))
        self.restore(self.alive)
        self.enter(world)

    def enter(self, world: AbstractWorld) -> None:
        """Goes on in another world, where states are what they were but may move otherwise.

        An episode that has begun goes on from where it stands.
        """
        self.world, worlds = world, Compiled(world)
        mind, count, mesh = self.mind, len(self.seeds), self._mesh

        def judge(alive, keys, episodes):
            play = lambda alive, key: _play(mind, worlds, alive.mind, key, [1] * episodes)
            return _shared(play, count, mesh)((alive, keys))

        self._advance = jax.jit(_chunk(mind, worlds, count, mesh), donate_argnums=0)
        self._judge = jax.jit(judge, static_argnums=2)

    @property
    def state(self) -> Any:
        return self.alive

    def restore(self, state: Any) -> None:
        self.alive = jax.tree.map(jnp.array, state)  # a copy: what is lived from is given away
        if self._mesh is not None:
            self.alive = jax.device_put(self.alive, _places(self.alive, self._mesh))

    def _go(self, cycles: int) -> Any:
        self.alive, record = self._advance(self.alive, cycles)
        return record

    def judge(self, episodes: int, seed: int) -> np.ndarray:
        return np.asarray(self._judge(self.alive, self._judged_by(seed), episodes))


class HostedLives(AbstractLives):
    """Lives in worlds on the host, which the program asks for every step (see `core.ask`).

    If they fail, or are interrupted, the lives are again what they were before that chunk. Worlds
    that cannot be brought back to where they stood then are tried again when they are next needed.
    """

    def __init__(self, mind: AbstractMind, world: Hosted, seeds: Sequence[int]):
        count = mind.worlds
        self.world = world
        self._host = world.open([seed * count + i for seed in seeds for i in range(count)])
        self._judging: dict[int, Host] = {}  # worlds to judge in, by how many there are
        self._owed: dict[str, np.ndarray] | None = None  # where worlds that failed are to stand
        super().__init__(mind, self._host, seeds)
        self._advance = jax.jit(_chunk(mind, self._host, len(self.seeds), None))

        def judge(host, each, state, key):
            return _play(mind, host, state, key, each)

        self._judge = jax.jit(judge, static_argnums=(0, 1))

    @property
    def state(self) -> Any:
        return self.alive, jax.tree.map(jnp.asarray, self._stand())

    def only(self, life: int) -> Any:
        count = self.mind.worlds
        own = slice(life * count, (life + 1) * count)
        return super().only(life), {name: x[own] for name, x in self._stand().items()}

    def restore(self, state: Any) -> None:
        """As everywhere; but where what was seen cannot be found again new episodes begin, and a
        warning says so."""
        alive, snapshot = state
        self.alive = jax.device_put(alive, jax.devices()[0])  # there may be others, of other lives
        try:
            self._host.restore({name: np.asarray(value) for name, value in snapshot.items()})
        except Lost as lost:
            warnings.warn(f"{lost}: new episodes begin", stacklevel=2)
            self._host.skip()
            stood = alive.worlds
            seen = jnp.asarray(self._host.observation).reshape(stood.observation.shape)
            fresh = Moment(None, jnp.zeros_like(stood.age), seen)
            nothing = jax.tree.map(jnp.zeros_like, alive.tally)
            both = lambda alive: (alive.worlds, alive.tally)
            self.alive = eqx.tree_at(both, self.alive, (fresh, nothing))

    def _go(self, cycles: int) -> Any:
        before = self._stand()
        try:
            with self._host.attended():
                found = jax.block_until_ready(self._advance(self.alive, cycles))
        except BaseException:
            self._owed = before
            with contextlib.suppress(InputError):
                self._stand()
            raise
        self.alive, record = found
        return record

    def _stand(self) -> dict[str, np.ndarray]:
        """Where the worlds stand, which is where the lives left them."""
        if self._owed is not None:
            self._host.restore(self._owed)
            self._owed = None
        return self._host.snapshot()

    def judge(self, episodes: int, seed: int) -> np.ndarray:
        count = min(episodes, _MOST_SIDE_BY_SIDE)
        each = tuple(episodes // count + (i < episodes % count) for i in range(count))
        host = self._judging.get(count) or self.world.open(range(count))
        self._judging[count] = host
        scores = []
        for life, key in enumerate(self._judged_by(seed)):
            host.restart(jax.random.bits(key, (count,), jnp.uint32).tolist())
            with host.attended():
                scores.append(np.asarray(self._judge(host, each, self.one(life).mind, key)))
        return np.asarray(scores)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # all of them, whichever fails
            for host in (self._host, *self._judging.values()):
                stack.callback(host.close)


def born(mind: AbstractMind, seed: Integer[Array, ""], worlds: AbstractWorlds) -> Alive:
    """The first instant of the life of a seed."""
    key = jax.random.key(seed)
    inner, outer = jax.random.split(jax.random.fold_in(key, _BIRTH))
    tally = Tally(jnp.zeros(mind.worlds), jnp.zeros(mind.worlds, jnp.int32))
    moments = worlds.begin(jax.random.split(outer, mind.worlds))
    none = jnp.zeros((), jnp.int32)
    return Alive(arrays(mind.init(inner)), moments, tally, none, key, mind.afresh(mind.worlds))


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
    worlds = Compiled(world)
    alive, (charts, _) = _lived(mind, worlds, born(mind, seed, worlds), cycles, cycles)
    return alive, charts


def longest(mind: AbstractMind) -> int:
    """Cycles in a chunk, at most."""
    return max(1, _AT_ONCE // mind.cycle)


def _chunk(mind: AbstractMind, worlds: AbstractWorlds, count: int, mesh: Mesh | None) -> Any:
    """Lives, and a number of cycles -> the lives after them, and their charts and endings.

    It is compiled once, however many cycles there are to be.
    """

    def advance(alive, cycles):
        lived = lambda alive, span: _lived(mind, worlds, alive, span.cycle, longest(mind))
        return _shared(lived, count, mesh)((alive, _Span(cycles)))

    return advance


class _Span(eqx.Module):
    """A number of cycles, the same for all lives (see `CLOCKS`)."""

    cycle: Int[Array, ""]


def _lived(
    mind: AbstractMind, worlds: AbstractWorlds, alive: Alive, cycles: Count, most: int
) -> tuple[Alive, tuple[Charts, Ending]]:
    """So many cycles, and what there is to tell of them: rows for as many as `most`."""
    _, row = jax.eval_shape(lambda alive: _cycle(mind, worlds, alive), alive)
    record = jax.tree.map(lambda leaf: jnp.zeros((most, *leaf.shape), leaf.dtype), row)

    def step(i, loop):
        alive, record = loop
        alive, row = _cycle(mind, worlds, alive)
        return alive, jax.tree.map(lambda kept, new: kept.at[i].set(new), record, row)

    return jax.lax.fori_loop(0, cycles, step, (alive, record))


def _cycle(
    mind: AbstractMind, worlds: AbstractWorlds, alive: Alive
) -> tuple[Alive, tuple[Chart, Ending]]:
    """`every` steps in each world, and what is learnt from them."""

    def step(loop, keys):
        (moments, thoughts), (acting, moving) = loop, keys
        seen, begun = moments.observation, moments.age == 0
        action, thoughts = decided(mind, alive.mind, thoughts, seen, begun, acting)
        moments, happened = worlds.proceed(moments, action, moving)
        return (moments, thoughts), happened

    learning, *keys = _keys(mind, alive)
    (moments, thoughts), happened = scan(step, (alive.worlds, alive.thoughts), tuple(keys))
    state, chart = mind.learn(alive.mind, happened, learning)
    tally, ending = jax.lax.scan(lambda tally, past: tally.after(past), alive.tally, happened)
    after = Alive(state, moments, tally, alive.cycle + 1, alive.key, thoughts)
    return after, (chart, ending)


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


def _play(
    mind: AbstractMind,
    worlds: AbstractWorlds,
    state: Any,
    key: PRNGKeyArray,
    each: Sequence[int],
) -> Float[Array, " episodes"]:
    """The returns of so many greedy episodes in each world, those of the first world first."""
    count, wanted = len(each), jnp.asarray(each)
    index = jnp.arange(count)

    def going(loop):
        return jnp.any(loop[2] < wanted)

    def step(loop):
        moments, scores, done, time, thoughts = loop
        now = jax.random.fold_in(key, time)
        seen, begun, keys = moments.observation, moments.age == 0, jax.random.split(now, (count, 2))
        thinking = jax.random.fold_in(now, _THINKING)
        action, thoughts = decided(mind, state, thoughts, seen, begun, thinking, explore=False)
        moments, past = worlds.proceed(moments, action, keys)
        # what is played after a world's last episode falls outside and is dropped
        scores = scores.at[index, done].add(past.reward, mode="drop")
        return moments, scores, done + past.ended, time + 1, thoughts

    none = jnp.zeros((), jnp.int32)
    moments = worlds.begin(jax.random.split(key, count))
    scores, done = jnp.zeros((count, max(each))), jnp.zeros(count, jnp.int32)
    played = jax.lax.while_loop(going, step, (moments, scores, done, none, mind.afresh(count)))[1]
    return jnp.concatenate([row[:most] for row, most in zip(played, each, strict=True)])


def offer_cores() -> None:
    """Lets JAX see a device in every core that this process may use, for lives to share.

    To be called before JAX computes anything; later it has no effect, nor where JAX was told how
    many devices to see. One life has one device.
    """
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if told or jax.config.jax_num_cpu_devices > 0:  # type: ignore[attr-defined]
        return
    everywhere = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if everywhere else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores)


def _mesh(count: int) -> Mesh | None:
    """As many devices as divide so many lives, if that is more than one."""
    most = max(n for n in range(1, len(jax.devices()) + 1) if count % n == 0)
    if most == 1:
        return None
    return jax.make_mesh((most,), ("lives",), (AxisType.Auto,), devices=jax.devices()[:most])


def _shared(function: Any, count: int, mesh: Mesh | None) -> Any:
    """`_together`, every device of the mesh with its share of the lives."""
    if mesh is None:
        return _together(function, count)
    share = _together(function, count // mesh.size)

    def run(trees: tuple) -> Any:
        parts = _parts(jax.eval_shape(share, trees))
        return jax.shard_map(
            share, mesh=mesh, in_specs=(_parts(trees),), out_specs=parts, check_vma=False
        )(trees)

    return run


def _parts(tree: Any) -> Any:
    """How devices share lives: every one has its own, and all have the same clocks."""
    part = lambda axis: PartitionSpec() if axis is None else PartitionSpec("lives")
    return jax.tree.map(part, _axes(tree), is_leaf=lambda axis: axis is None)


def _places(tree: Any, mesh: Mesh) -> Any:
    """Where each leaf is to be kept."""
    place = lambda part: NamedSharding(mesh, part)
    return jax.tree.map(place, _parts(tree), is_leaf=lambda part: isinstance(part, PartitionSpec))


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


def _axes(tree: Any) -> Any:
    """0 for every leaf that each life has its own of, `None` for the clocks."""
    last = lambda path: getattr(path[-1], "name", None) if path else None
    return jax.tree_util.tree_map_with_path(
        lambda path, _: None if last(path) in CLOCKS else 0, tree
    )


def _born_together(mind: AbstractMind, seeds: Sequence[int], worlds: AbstractWorlds) -> Alive:
    """The first instant of every life; clocks are one for all."""
    birth = jax.jit(jax.vmap(lambda seed: born(mind, seed, worlds)))
    alive = birth(jnp.asarray(seeds, jnp.uint32))
    return jax.tree.map(lambda leaf, axis: leaf[0] if axis is None else leaf, alive, _axes(alive))
