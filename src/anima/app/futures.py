"""What a living agent imagines, for its report: futures at a moment of decision, dreams, errors."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from anima.act.plan import foresee
from anima.act.preference import READINGS
from anima.agent.living import LivingMind
from anima.agent.model import Belief
from anima.app import figures
from anima.app.film import Instant, Physics, episode, stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawn = dict[str, "tuple[Figure, str]"]

_LONGEST, _MOST_PANELS, _DREAM = 200, 4, 25


def living_figures(
    mind: LivingMind, state: Any, name: str, rows: list, *, seed: int, physics: Physics
) -> Drawn:
    """The model's errors over the life, and from one greedy episode: imagined futures, dreams."""
    errors = figures.model_errors(rows, mind.lookahead)
    caption = (
        "How wrong the world model is: one step ahead, and after up to "
        f"{mind.lookahead} steps of imagination alone, each taken before it learnt from that step."
    )
    host = stage(name, seed, physics)
    if host is None:
        return {"model": (errors, caption)}
    lived = []
    for instant in episode(mind, state, host, seed=seed):
        lived.append(instant)
        if len(lived) == _LONGEST:
            break
    host.close()
    drawn = {"futures": _futures(mind, state, lived)}
    return drawn | {"model": (errors, caption), "dreams": _dreams(mind, state, lived)}


def _futures(mind: LivingMind, state: Any, lived: list[Instant]) -> "tuple[Figure, str]":
    """At the moment whose best future had the highest energy: where most was at stake."""
    seen = jnp.asarray(np.stack([instant.seen for instant in lived]))
    thoughts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[i.thought for i in lived])
    key = jax.random.key(0)

    @jax.jit
    def best(thoughts, seen):
        one = lambda kept, seen: mind.plan(state, seen, kept, key=key)[0].energies.min()
        return jax.lax.map(lambda pair: one(*pair), (thoughts, seen))

    steps = mind.planner.horizon * mind.planner.hold
    found = np.asarray(best(thoughts, seen))[: max(1, len(lived) - steps)]
    now = int(np.argmax(found))
    kept = jax.tree.map(lambda leaf: leaf[now], thoughts)
    plan = jax.jit(lambda kept, seen: mind.plan(state, seen, kept, key=key)[0])(kept, seen[now])
    future, here = mind.future(state), Belief(seen[now], jnp.zeros(()))
    held = dict(hold=mind.planner.hold, discount=mind.planner.discount)
    roll = jax.jit(lambda actions: foresee(future, here, actions, **held)[0].seen)  # type: ignore
    wanted = dict(list(mind.wish.wanted.items())[:2])
    best_ = plan.candidates[jnp.argmin(plan.energies)]
    came = jnp.asarray(np.stack([i.happened.following for i in lived[now : now + steps]]))
    read = lambda path: _read(mind, jnp.concatenate([seen[now][None], path]), list(wanted))
    every = [read(path) for path in jax.lax.map(roll, plan.candidates)]
    figure = figures.imagined_futures(
        {name: np.stack([path[name] for path in every]) for name in wanted},
        read(roll(best_)),
        read(came),
        {name: target for name, (_, target) in wanted.items()},
        np.asarray(mind.spec.action.decode(plan.candidates[:, 0])).reshape(len(every), -1)[:, 0],
        np.asarray(plan.energies),
    )
    return figure, (
        f"Step {now} of a greedy episode, where most was at stake: {len(every)} futures of {steps} "
        "imagined steps, darker where their energy is lower; the plan, and what came of acting and "
        "planning anew at every step. Right: the energy of each future by its first action."
    )


def _dreams(mind: LivingMind, state: Any, lived: list[Instant]) -> "tuple[Figure, str]":
    """The model left to itself from every 25th moment on, doing what was done."""
    past = jax.tree.map(lambda *leaves: np.stack(leaves), *[i.happened for i in lived])
    codes = mind.spec.action.code(jnp.asarray(past.action))
    future = mind.future(state)

    @jax.jit
    def dream(seen, codes):
        return foresee(future, Belief(seen, jnp.zeros(())), codes)[0].seen

    length = min(_DREAM, len(lived))
    dreams = []
    for begun in range(0, len(lived) - length + 1, length):
        first = jnp.asarray(past.observation[begun])
        path = dream(first, codes[begun : begun + length])
        dreams.append((begun, _read(mind, jnp.concatenate([first[None], path]), _names(mind))))
    whole = jnp.concatenate([past.observation[:1], jnp.asarray(past.following)])
    figure = figures.dreamt_states(_read(mind, whole, _names(mind)), dreams)
    return figure, (
        f"Dreams of states: from every {length}th moment of an episode (dots) the model imagines "
        f"{length} steps on its own, with the actions that were taken; thin, what was lived."
    )


def _names(mind: LivingMind) -> list[str]:
    """What to show of a state: what matters first, then what else it shows."""
    shown = [*mind.wish.wanted, *READINGS.get(mind.spec.name, {})]
    return list(dict.fromkeys(shown))[:_MOST_PANELS]


def _read(mind: LivingMind, path: Array, names: list[str]) -> dict[str, np.ndarray]:
    """Quantities along a path of observations."""
    known = READINGS.get(mind.spec.name, {})
    readings = {name: read for name, (read, _) in mind.wish.wanted.items()} | known
    return {name: np.asarray(jax.vmap(readings[name])(path)) for name in names}
