"""What `anima dream` shows: a grid of dreams, a film of one settling, completed images."""

import dataclasses
import io
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from anima.app import figures
from anima.app.report import as_png
from anima.core.errors import InputError
from anima.core.files import write_bytes_atomically
from anima.learn.memory import Memory
from anima.run.folder import Trained

MOST = 10_000  # dreams at once
_AT_ONCE = 100  # dreams that settle side by side
_ACROSS = 24  # completions side by side in the figure; the arrays hold all
_FRAMES, _ZOOM, _PAUSE = 80, 8, 60  # of a film: how many, how large, milliseconds each


@dataclasses.dataclass(frozen=True)
class Dreaming:
    """How to dream: how many of each label, for how many steps, how hot, from which seed."""

    count: int = 16
    steps: int = 400
    temperature: float = 0.8
    seed: int = 0

    def __post_init__(self):
        for name, low, high in (("count", 1, MOST), ("steps", 1, 100_000)):
            if not low <= getattr(self, name) <= high:
                raise InputError(
                    f"--{name} is {getattr(self, name)}: it must be from {low} to {high}"
                )
        if not 0 <= self.temperature <= 100:
            raise InputError(f"--temperature is {self.temperature}: it must be from 0 to 100")


def memory_of(trained: Trained) -> Memory:
    """The run's memory; raises `InputError` saying how to get one where there is none."""
    if trained.memory is not None:
        return trained.memory
    if trained.config.dream.enabled:
        raise InputError(
            f"{trained.folder} has no memory yet: finish it with `anima resume {trained.folder}`"
        )
    data = trained.header.data if trained.header.data in ("digits", "mnist") else "mnist"
    raise InputError(
        f"{trained.folder} learnt no top-down path, so it cannot dream: learn one with `anima "
        f"learn {trained.header.data} --preset {data}-dream`, or add `--set dream.code=64` to any "
        "other preset"
    )


def dream(trained: Trained, labels: list[int], how: Dreaming, out: Path) -> dict[str, Any]:
    """Dreams `how.count` images of every label and writes what `anima dream` promises.

    **Returns:** the command's result: paths, the share of dreams that the run's own circuit takes
    for what they are meant to be, and how much they differ within a label.
    """
    memory = memory_of(trained)
    for label in labels:
        memory.check_label(label)
    each = np.repeat(np.asarray(labels, np.int32), how.count)
    keys = jax.random.split(jax.random.key(how.seed), len(each))
    images = dreams(memory, each, keys, how)
    shape: Any = tuple(trained.header.shape)
    name = str(labels[0]) if len(labels) == 1 else "all"
    shown = min(how.count, 16 if len(labels) > 1 else 256)
    first = np.arange(len(each)) % how.count < shown
    frames, energy = _film(memory, int(each[0]), keys[0], how)
    files = {
        "figure": (f"dreams-{name}.png", as_png(figures.dreams(images[first], each[first], shape))),
        "filmstrip": (f"film-{name}.png", as_png(figures.film(frames, energy, shape))),
        "film": (f"film-{name}.gif", gif(frames, shape)),
        "images": (f"dreams-{name}.npz", _arrays(images=images, labels=each)),
    }
    answers = np.asarray(trained.predict(images)).argmax(-1)
    spread = [images[each == label].std(0).mean() for label in labels]
    return {
        "labels": labels,
        "count": how.count,
        "steps": how.steps,
        "temperature": how.temperature,
        "agreement": float(np.mean(answers == each)),
        "spread": float(np.mean(spread)),
    } | _write(out, files)


def complete(
    trained: Trained, images: np.ndarray, labels: np.ndarray, how: Dreaming, out: Path
) -> dict[str, Any]:
    """Hides the lower half of images and lets it settle; writes a figure and the arrays.

    **Arguments:** `images`, (examples, pixels); `labels`, which are compared with the concepts
    that won, not given away.
    """
    memory, shape = memory_of(trained), tuple(trained.header.shape)
    seen = upper_half(shape)
    one = partial(memory.complete, seen=jnp.asarray(seen), steps=how.steps)
    done, named = eqx.filter_jit(lambda x: jax.lax.map(one, x))(jnp.asarray(images))
    done, named = np.asarray(done), np.asarray(named)
    some = images[:_ACROSS], seen, done[:_ACROSS]
    files = {
        "figure": ("completed.png", as_png(figures.completions(*some, shape))),
        "images": ("completed.npz", _arrays(images=done, truth=images, seen=seen, labels=named)),
    }
    return {
        "count": len(images),
        "recognised": float(np.mean(named == labels)),
        "error": float(np.abs(done - images)[:, ~seen].mean()),
    } | _write(out, files)


def dreams(memory: Memory, labels: np.ndarray, keys: jax.Array, how: Dreaming) -> np.ndarray:
    """One dream a label and key, each settled by itself: (dreams, pixels)."""
    one = partial(memory.dream, steps=how.steps, temperature=how.temperature)
    batch = lambda pair: one(pair[0], key=pair[1])
    run = eqx.filter_jit(lambda pairs: jax.lax.map(batch, pairs, batch_size=_AT_ONCE))
    images = np.asarray(run((jnp.asarray(labels), keys)))
    if not np.isfinite(images).all():
        raise InputError("the dreams diverged: lower --temperature, or learn the memory anew")
    return images


def upper_half(shape: tuple[int, ...]) -> np.ndarray:
    """Which pixels of a flat image are in its upper half: (pixels,) booleans."""
    rows = np.arange(shape[0]) < shape[0] // 2
    return np.broadcast_to(rows.reshape(-1, *[1] * (len(shape) - 1)), shape).ravel()


def gif(frames: np.ndarray, shape: tuple[int, ...]) -> bytes:
    """An animated GIF, ink on paper, that begins anew for ever; its last frame stays a while."""
    from PIL import Image

    chosen = frames[np.unique(np.geomspace(1, len(frames), _FRAMES).astype(int)) - 1]
    pixels = np.round(255 * (1 - chosen)).astype(np.uint8).reshape(-1, *shape)
    if pixels.ndim == 4 and shape[2] != 3:
        pixels = pixels[..., 0]
    size = (shape[1] * _ZOOM, shape[0] * _ZOOM)
    images = [Image.fromarray(p).resize(size, Image.Resampling.NEAREST) for p in pixels]
    pauses, file = [_PAUSE] * (len(images) - 1) + [20 * _PAUSE], io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=pauses, loop=0)
    return file.getvalue()


def _film(memory: Memory, label: int, key: jax.Array, how: Dreaming):
    run = eqx.filter_jit(partial(memory.film, steps=how.steps, temperature=how.temperature))
    frames, path = run(jnp.asarray(label), key=key)
    return np.asarray(frames), np.asarray(path.energy)


def _arrays(**named: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **named)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def _write(out: Path, files: dict[str, tuple[str, bytes]]) -> dict[str, str]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.values():
            write_bytes_atomically(out / name, content)
    except OSError as error:
        raise InputError(
            f"cannot write {out}: {error.strerror or error}; name another folder with --out"
        ) from error
    return {key: str(out / name) for key, (name, _) in files.items()}
