"""A film of what an agent does: one greedy episode, as a GIF."""

import io
import os
from functools import partial
from typing import Any

import jax
import numpy as np

from anima.agent.life import afresh, decided
from anima.agent.mind import AbstractMind
from anima.core.errors import InputError
from anima.world.host import hosted

_MOST_FRAMES, _WIDTH = 150, 360


def played(mind: AbstractMind, state: Any, name: str, *, seed: int) -> tuple[bytes, str] | None:
    """A GIF of one greedy episode in gymnasium's environment, and a caption.

    Long episodes are shown in up to 150 frames, faster than they were lived. `None` where there
    is nothing to see: gymnax's worlds, and environments that cannot draw themselves.
    """
    for device in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(device, "dummy")  # pygame draws in memory: no screen, no sound
    source, _, rest = name.partition(":")
    if source == "gymnax" and rest:
        return None
    try:
        host = hosted(rest if source == "gymnasium" and rest else name).open(
            [seed], render_mode="rgb_array"
        )
        frames: list[Any] = [host.render()]
        score = 0.0
    except InputError:
        return None
    decide = jax.jit(partial(decided, mind, state, explore=False))
    thoughts, key = afresh(mind, 1), jax.random.key(seed)
    over = frames[0] is None
    while not over:
        key, now = jax.random.split(key)
        action, thoughts = decide(thoughts, host.observation, host.begun, now)
        happened = host.step(np.asarray(action))
        score += float(happened.reward[0])
        over = bool(happened.ended[0])
        if not over:
            frames.append(host.render())
    rate = host.rate
    host.close()
    if frames[0] is None:
        return None
    return _gif(frames, rate), f"One greedy episode of {len(frames)} steps: return {score:.1f}."


def _gif(frames: list[np.ndarray], rate: float) -> bytes:
    from PIL import Image

    every = -(-len(frames) // _MOST_FRAMES)
    images = [Image.fromarray(frame) for frame in frames[::every]]
    small = (_WIDTH, round(_WIDTH * images[0].height / images[0].width))
    pictures = [image.resize(small).quantize(32) for image in images]
    into = io.BytesIO()
    pictures[0].save(
        into,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=max(20, round(1000 / rate)),
        loop=0,
    )
    return into.getvalue()
