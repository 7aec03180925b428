"""Checkpoints: all that resuming needs, saved atomically through Orbax and checked when read.

A checkpoint is `checkpoints/<step>/` (the arrays) and `checkpoints/<step>.json` (the notes saved
with them, and a digest of both). The JSON is written last: without it the folder is not a
checkpoint. One whose digest differs, or that cannot be read, is passed over for the one before,
and the caller is told. The digest is of the files, not of the arrays in them, so that damage is
found before Orbax's readers meet it: they leave tasks behind that complain on their own.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from anima.core.errors import InputError
from anima.core.files import write_atomically

_SPARE = 1 << 16  # bytes that a checkpoint needs beside its arrays


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What was read: the state, the step it was saved at, and the notes saved with it."""

    state: Any
    step: int
    notes: dict[str, Any]


def save(folder: Path, step: int, state: Any, notes: dict[str, Any], *, keep: int) -> None:
    """Saves a pytree of arrays as checkpoint `step`, then drops all but the last `keep`.

    Checkpoints of later steps go too: they are of a future that was damaged and given up.

    **Arguments:** `folder`, the run's `checkpoints` folder; `state`, any pytree (keys included);
    `notes`, JSON-able.

    **Raises:** `InputError` when the disk is full or refuses; earlier checkpoints stay as they are.
    """
    import orbax.checkpoint as ocp

    arrays = _arrays(state)
    target = folder / str(step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove(folder, lambda found: found == step)
        _check_room(folder, arrays)
        with _unlogged(), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(target.absolute(), arrays)
        record = {"step": step, "digest": _digest(target, notes), "notes": notes}
        write_atomically(folder / f"{step}.json", json.dumps(record))
    except (OSError, ValueError) as error:
        _remove(folder, lambda found: found == step)
        if not isinstance(error, OSError | InputError) and "No space" not in str(error):
            raise
        last = max(_steps(folder), default=None)
        kept = f"checkpoint {last} is intact" if last is not None else "no checkpoint was saved yet"
        reason = "the disk is full" if _full(error) else str(error).splitlines()[0]
        raise InputError(
            f"cannot save checkpoint {step} in {folder}: {reason}; {kept}: make room, then resume"
        ) from error
    kept = sorted(found for found in _steps(folder) if found <= step)[-keep:]
    _remove(folder, lambda found: found not in kept)


def restore(
    folder: Path,
    like: Any,
    *,
    warn: Callable[[str], None],
    check: Callable[[dict[str, Any]], None] = lambda notes: None,
) -> Checkpoint:
    """The newest checkpoint that can be read whole.

    **Arguments:** `like`, a pytree of the shapes to restore; `warn`, told of each one passed over;
    `check`, sees the notes before the arrays are read and may raise an `InputError` of its own.

    **Raises:** `InputError` if there is no good checkpoint, or if the newest that is whole holds
    other arrays, as of another version.
    """
    steps = sorted(_steps(folder), reverse=True)
    for step in steps:
        try:
            return _read(folder, step, like, check)
        except InputError:
            raise
        except Exception as error:  # whatever a damaged file makes a reader raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warn(f"checkpoint {step} is damaged ({reason[:120]}): falling back to the one before")
    raise InputError(
        f"no good checkpoint in {folder} ({len(steps)} tried): start the run again in a new folder"
    )


def newest(folder: Path) -> int | None:
    """The step of the newest checkpoint, or `None`."""
    return max(_steps(folder), default=None)


def kept(run: Path) -> str:
    """What a run that failed has left to go on from."""
    last = newest(run / "checkpoints")
    if last is None:
        return f"nothing was saved, so {run} cannot be resumed"
    return f"checkpoint {last} is good and kept"


def _read(folder: Path, step: int, like: Any, check: Callable) -> Checkpoint:
    import orbax.checkpoint as ocp

    record = json.loads((folder / f"{step}.json").read_text())
    notes = record["notes"]
    check(notes)
    source = folder / str(step)
    if _digest(source, notes) != record["digest"]:
        raise ValueError("its bytes are not those that were saved")
    wanted = _arrays(like)
    try:
        with _unlogged(), ocp.StandardCheckpointer() as checkpointer:
            arrays = checkpointer.restore(source.absolute(), wanted)
        for name, array in wanted.items():  # Orbax itself hands out other shapes without a word
            if arrays[name].shape != array.shape:
                raise ValueError(f"{name} is {arrays[name].shape} and not {array.shape}")
    except (KeyError, TypeError, ValueError) as error:  # whole, but not what is asked for
        raise InputError(
            f"checkpoint {step} in {folder} is whole, but its arrays are not those of this run: it "
            "was saved by another version of anima; resume it with that one, or run it anew"
        ) from error
    return Checkpoint(_fill(like, arrays), step, notes)


def _steps(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit()]


def _remove(folder: Path, wanted: Callable[[int], bool]) -> None:
    """Removes all that belongs to the steps that are `wanted`, unfinished leftovers included."""
    paths = list(folder.iterdir()) if folder.is_dir() else []
    for path in sorted(paths, key=lambda path: path.suffix != ".json"):
        step = path.name.split(".")[0]
        if step.isdigit() and wanted(int(step)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Orbax logs the traceback of every failure; the user is told of it once, in one line."""
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _arrays(state: Any) -> dict[str, np.ndarray]:
    """The array leaves by name; random keys as the numbers they hold."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(state, eqx.is_array))
    return {jax.tree_util.keystr(path): _numbers(leaf) for path, leaf in leaves}


def _fill(like: Any, arrays: dict[str, Any]) -> Any:
    """`like` with its array leaves replaced."""
    dynamic, static = eqx.partition(like, eqx.is_array)
    leaves, tree = jax.tree_util.tree_flatten_with_path(dynamic)
    filled = []
    for path, leaf in leaves:
        value = jax.numpy.asarray(arrays[jax.tree_util.keystr(path)])
        is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        filled.append(jax.random.wrap_key_data(value) if is_key else value)
    return eqx.combine(jax.tree_util.tree_unflatten(tree, filled), static)


def _numbers(leaf: Any) -> np.ndarray:
    is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _digest(folder: Path, notes: dict[str, Any]) -> str:
    total = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"\n{path.relative_to(folder)} {path.stat().st_size}\n".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def _check_room(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises `OSError` where the arrays cannot fit: before Orbax has written half of them."""
    if sum(array.nbytes for array in arrays.values()) + _SPARE > shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, "No space left on device")


def _full(error: Exception) -> bool:
    return getattr(error, "errno", None) == errno.ENOSPC or "No space" in str(error)
