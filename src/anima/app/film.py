"""A film of what an agent does: one greedy episode, as a GIF."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from anima.agent.life import decided
from anima.agent.mind import AbstractMind
from anima.core.errors import InputError
from anima.world.env import Transition
from anima.world.host import Host, hosted

Physics = Mapping[str, float]
"""The constants of a world that are altered."""

_MOST_FRAMES, _WIDTH, _LAST = 150, 360, 1000  # frames; pixels; milliseconds of the last frame


class Instant(NamedTuple):
    """One step of an episode: what was seen, what was in mind, and what happened."""

    seen: np.ndarray
    thought: Any
    happened: Transition


def episode(mind: AbstractMind, state: Any, host: Host, *, seed: int) -> Iterator[Instant]:
    """One greedy episode in the first world of a host that has just been opened."""
    decide = jax.jit(partial(decided, mind, state, explore=False))
    thoughts, key, over = mind.afresh(1), jax.random.key(seed), False
    while not over:
        key, now = jax.random.split(key)
        seen, before = host.observation, thoughts
        action, thoughts = decide(thoughts, seen, host.begun, now)
        happened = jax.tree.map(lambda leaf: np.asarray(leaf)[0], host.step(np.asarray(action)))
        over = bool(happened.ended)
        yield Instant(seen[0], jax.tree.map(lambda leaf: leaf[0], before), happened)


def stage(name: str, seed: int, physics: Physics, **arguments: Any) -> Host | None:
    """gymnasium's world of this name, to look at; `None` where gymnasium has none.

    Where `physics` were altered it is our own that is looked at.
    """
    source, _, rest = name.partition(":")
    if source == "gymnax" and rest:
        return None
    if physics:
        return hosted(f"anima/{name}").open([seed], physics=dict(physics), **arguments)
    try:
        return hosted(rest if source == "gymnasium" and rest else name).open([seed], **arguments)
    except InputError:
        return None


def played(
    mind: AbstractMind, state: Any, name: str, *, seed: int, physics: Physics
) -> tuple[bytes, str] | None:
    """A GIF of one greedy episode, and a caption.

    Long episodes are shown in up to 150 frames, faster than they were lived. `None` where there
    is nothing to see: gymnax's worlds, and environments that cannot draw themselves, which must
    not cost a life its report; it warns of what failed.
    """
    for device in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(device, "dummy")  # pygame draws in memory: no screen, no sound
    host = stage(name, seed, physics, render_mode="rgb_array")
    if host is None:
        return None
    with contextlib.closing(host):
        try:
            return _played(mind, state, host, seed)
        except Exception as error:  # whatever someone's environment raises as it is drawn
            warnings.warn(f"no film of {name}: {error}", stacklevel=2)
            return None


def _played(mind: AbstractMind, state: Any, host: Host, seed: int) -> tuple[bytes, str] | None:
    frames: list[Any] = [host.render()]
    if frames[0] is None:  # it cannot draw itself
        return None
    score = 0.0
    for instant in episode(mind, state, host, seed=seed):
        score += float(instant.happened.reward)
        if not instant.happened.ended:
            frames.append(host.render())
    told = f"One greedy episode of {len(frames)} steps: return {score:.1f}."
    return _gif(frames, host.rate), told


def _gif(frames: list[np.ndarray], rate: float) -> bytes:
    from PIL import Image

    every = -(-len(frames) // _MOST_FRAMES)
    images = [Image.fromarray(frame) for frame in frames[::-every][::-1]]  # the end among them
    small = (_WIDTH, round(_WIDTH * images[0].height / images[0].width))
    pictures = [image.resize(small).quantize(32) for image in images]
    pauses = [max(20, round(1000 / rate))] * (len(pictures) - 1) + [_LAST]
    into = io.BytesIO()
    pictures[0].save(
        into, "GIF", save_all=True, append_images=pictures[1:], duration=pauses, loop=0
    )
    return into.getvalue()
