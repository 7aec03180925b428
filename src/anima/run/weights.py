"""Weights that leave: `weights.safetensors`, one named array per parameter, readable anywhere."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import InputError
from anima.core.files import write_bytes_atomically


def save_weights(path: Path, circuit: AbstractCircuit) -> None:
    """Writes every parameter under its dotted name, e.g. `synapses.input->h1.weight`."""
    write_arrays(path, {k: np.asarray(leaf) for k, leaf in named_arrays(circuit).items()})


def write_arrays(path: Path, named: dict[str, np.ndarray]) -> None:
    """Writes arrays under their names, atomically."""
    whole = {name: np.asarray(array, order="C") for name, array in named.items()}
    write_bytes_atomically(path, to_bytes(whole, metadata={"format": "anima"}))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; raises `InputError` if it is missing or damaged."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read the weights {path}: {error}") from error


def load_weights(path: Path, like: AbstractCircuit) -> AbstractCircuit:
    """The circuit `like` with its parameters read from a file.

    **Raises:** `InputError` if the file is missing or damaged, or a name or shape differs.
    """
    return with_arrays(like, read_arrays(path), path)


def with_arrays(like: AbstractCircuit, found: dict[str, np.ndarray], path: Path) -> AbstractCircuit:
    """The circuit `like` with these parameters, by their dotted names; `path`, where they are
    from, is for messages. Raises `InputError` if a name, kind or shape differs."""
    own = named_arrays(like)
    if set(own) != set(found):
        odd = sorted(set(own) ^ set(found))[0]
        raise InputError(f"{path} does not fit the circuit: parameter {odd!r} is in one only")
    for name, leaf in own.items():
        if not np.issubdtype(found[name].dtype, np.floating):
            raise InputError(f"{path}: {name} holds {found[name].dtype}, the circuit wants floats")
        if found[name].shape != leaf.shape:
            raise InputError(
                f"{path}: {name} has shape {found[name].shape}, the circuit wants {leaf.shape}"
            )
    dynamic, static = like.parameters()
    leaves = [jnp.asarray(found[name], leaf.dtype) for name, leaf in own.items()]
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(dynamic), leaves), static)


def named_arrays(circuit: AbstractCircuit) -> dict[str, jax.Array]:
    """Every parameter under its dotted name, in the order of the circuit's leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(circuit.parameters()[0])
    return {".".join(str(_part(entry)) for entry in path): leaf for path, leaf in leaves}


def _part(entry) -> str:
    return getattr(entry, "name", None) or getattr(entry, "key", None) or str(entry.idx)
