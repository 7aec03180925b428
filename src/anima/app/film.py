"""A film of what an agent does: one greedy episode, as a GIF."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from anima.agent.life import decided
from anima.agent.mind import AbstractMind
from anima.core.errors import InputError
from anima.world.env import Transition, make
from anima.world.export import enter
from anima.world.host import Host, Hosted, hosted, registered

Physics = Mapping[str, float]
"""The constants of a world that are altered."""

_MOST_FRAMES, _WIDTH, _LAST = 150, 360, 1000  # frames; pixels; milliseconds of the last frame
_MOST_ROWS, _ROW, _EDGE = 8, 36, 8  # of what is shown where nothing is drawn; pixels
_PALE, _INK = "#dddddd", "#1f77b4"


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
    """gymnasium's world of this name, to look at; what gymnasium has not is our own or gymnax's.

    Where `physics` were altered it is our own too. `None` for a world that cannot be had so.
    """
    if physics:
        return hosted(f"anima/{name}").open([seed], physics=dict(physics), **arguments)
    source, _, rest = name.partition(":")
    if source == "gymnasium" and rest:
        name = rest
    try:
        theirs = name in registered() or isinstance(make(name), Hosted)
        return hosted(name if theirs else enter(name)).open([seed], **arguments)
    except InputError:
        return None


def played(
    mind: AbstractMind, state: Any, name: str, *, seed: int, physics: Physics
) -> tuple[bytes, str] | None:
    """A GIF of one greedy episode, and a caption.

    Long episodes are shown in up to 150 frames, faster than they were lived. Of a world that cannot
    draw itself the film is of the numbers that it shows. `None`, and a warning that says why, where
    drawing fails, which must not cost a life its report.
    """
    for device in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(device, "dummy")  # pygame draws in memory: no screen, no sound
    host = stage(name, seed, physics, render_mode="rgb_array")
    draws = host is not None
    host = host or stage(name, seed, physics)
    if host is None:
        warnings.warn(f"no film of {name}: it cannot be opened once more", stacklevel=2)
        return None
    with contextlib.closing(host):
        try:
            return _played(mind, state, host, seed, draws)
        except Exception as error:  # whatever someone's environment raises as it is drawn
            warnings.warn(f"no film of {name}: {error}", stacklevel=2)
            return None


def _played(
    mind: AbstractMind, state: Any, host: Host, seed: int, draws: bool
) -> tuple[bytes, str]:
    look = host.render if draws else lambda: None
    frames: list[Any] = [look()]
    seen, score = [host.observation[0]], 0.0
    for instant in episode(mind, state, host, seed=seed):
        score += float(instant.happened.reward)
        if not instant.happened.ended:
            frames.append(look())
            seen.append(host.observation[0])
    told = f"One greedy episode of {len(frames)} steps: return {score:.1f}."
    every = -(-len(frames) // _MOST_FRAMES)
    kept = range(len(frames))[::-every][::-1]  # the end among them
    if any(frame is None for frame in frames):  # it cannot draw itself
        told += " The world draws no pictures: this is what it shows, number by number."
        return _gif(_traced(np.stack(seen)[:, :_MOST_ROWS], kept), host.rate), told
    return _gif([frames[step] for step in kept], host.rate), told


def _traced(seen: np.ndarray, steps: Sequence[int]) -> list[np.ndarray]:
    """Pictures of numbers as they move, (steps, n): a row each, of its own range, up to a step."""
    from PIL import Image, ImageDraw

    low, high = seen.min(0), seen.max(0)
    share = (seen - low) / np.maximum(high - low, 1e-12)
    across = _EDGE + (_WIDTH - 2 * _EDGE) * np.arange(len(seen)) / max(len(seen) - 1, 1)
    down = _EDGE + _ROW * np.arange(1, seen.shape[1] + 1) - (_ROW - _EDGE) * share
    lines = [list(zip(across, row, strict=True)) for row in down.T]
    pictures = []
    for step in steps:
        image = Image.new("RGB", (_WIDTH, len(lines) * _ROW + 2 * _EDGE), "white")
        draw = ImageDraw.Draw(image)
        for line in lines:
            x, y = line[step]
            draw.line([*line, line[-1]], fill=_PALE, width=1)
            draw.line([*line[: step + 1], line[step]], fill=_INK, width=2)
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=_INK)
        pictures.append(np.asarray(image))
    return pictures


def _gif(frames: list[np.ndarray], rate: float) -> bytes:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    small = (_WIDTH, round(_WIDTH * images[0].height / images[0].width))
    pictures = [image.resize(small).quantize(32) for image in images]
    pauses = [max(20, round(1000 / rate))] * (len(pictures) - 1) + [_LAST]
    into = io.BytesIO()
    pictures[0].save(
        into, "GIF", save_all=True, append_images=pictures[1:], duration=pauses, loop=0
    )
    return into.getvalue()
