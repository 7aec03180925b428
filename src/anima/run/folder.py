"""A run is a folder. This is how one is begun, and how one is found again."""

import contextlib
import dataclasses
import math
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import anima.run.config as configs
from anima.circuit.circuit import AbstractCircuit
from anima.core.errors import InputError
from anima.core.files import write_atomically
from anima.learn.learner import Learner
from anima.learn.memory import Memory
from anima.run.config import Config
from anima.run.evaluate import Images, outputs
from anima.run.memory import load_memory
from anima.run.weights import load_weights
from anima.world.data import Data, load_data

LARGEST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Header:
    """What a run is of: the `[run]` section of its `config.toml`."""

    data: str
    data_dir: str
    preset: str
    seed: int
    shape: list[int]
    classes: int
    version: str


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run, loaded: its circuit with its learnt weights, and how it was made.

    `twin` is its backprop twin's learner, with the twin's weights, if there was one; `memory` is
    what it remembers for dreams, if it was asked to.
    """

    folder: Path
    header: Header
    config: Config
    learner: Learner
    twin: Learner | None = None
    memory: Memory | None = None

    @property
    def circuit(self) -> AbstractCircuit:
        """The learnt circuit."""
        return self.learner.circuit

    def predict(self, inputs: Images) -> Float[Array, "examples classes"]:
        """The free outputs for a batch of images, flat or not, with values in [0, 1]."""
        return outputs(self.learner, self.circuit, jnp.asarray(inputs))

    def data(self) -> Data:
        """The data set that the run learnt from."""
        return load_data(self.header.data, self.header.data_dir or None)


def begin(
    path: Path, config: Config, data: Data, *, name: str, data_dir: str, preset: str, seed: int
) -> Header:
    """Makes a run's folder and writes its `config.toml`.

    **Raises:** `InputError` if the folder holds anything already, or cannot be made or written.
    """
    make(path)
    header = Header(
        data=name,
        data_dir=data_dir,
        preset=preset,
        seed=seed,
        shape=list(data.shape),
        classes=data.classes,
        version=version("anima"),
    )
    write_atomically(path / "config.toml", configs.dump(config, dataclasses.asdict(header)))
    return header


def read(path: Path) -> tuple[Header, Config]:
    """The header and the configuration of a run; raises `InputError` if it is not one."""
    if not (path / "config.toml").is_file():
        raise InputError(f"{path} is not an anima run (no config.toml): name a run's folder")
    table = configs.read_file(path / "config.toml")
    if "agent" in table:
        raise InputError(
            f"{path} is the life of an agent, not a circuit that learnt data: `anima evaluate "
            f"{shlex.quote(str(path))}` judges it"
        )
    return _header(path, table.pop("run", None)), configs.resolve(table)


def load(run: str | Path) -> Trained:
    """A run that learnt data, from its folder.

    **Raises:** `InputError` if the folder is not a run, or its weights are missing or do not fit.
    """
    folder = Path(run)
    header, config = read(folder)
    blank = configs.build_circuit(config, header.shape, header.classes, jax.random.key(0))
    path = folder / "weights.safetensors"
    if not path.exists():
        hint = f"`anima resume {shlex.quote(str(folder))}`"
        raise InputError(f"{folder} has no weights yet: finish it with {hint}")
    learner, twin = configs.build_learner(config, load_weights(path, blank), 1), None
    path = folder / "twin.safetensors"
    if config.twin.enabled and path.exists():
        twin = configs.build_learner(configs.as_twin(config), load_weights(path, blank), 1)
    path, memory = folder / "memory.safetensors", None
    if config.dream.enabled and path.exists():
        memory = load_memory(path, config.dream, learner, math.prod(header.shape))
    return Trained(folder, header, config, learner, twin, memory)


def make(path: Path) -> None:
    """Makes a new folder, or takes an empty one; raises `InputError` if it can do neither."""
    check_free(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _refused(path, error) from error


def withdraw(path: Path) -> None:
    """Takes back a run that was begun and has no checkpoint, so that its name is free again."""
    checkpoints = path / "checkpoints"
    if checkpoints.exists() and any(checkpoints.iterdir()):
        return
    for name in ("config.toml", "metrics.jsonl"):
        (path / name).unlink(missing_ok=True)
    for made in (checkpoints, path / "tensorboard"):
        shutil.rmtree(made, ignore_errors=True)
    with contextlib.suppress(OSError):  # of a folder where somebody else wrote in the meantime
        path.rmdir()


def check_free(path: Path) -> None:
    """Raises `InputError` if `make` would refuse the folder for what is there; makes nothing."""
    try:
        if path.exists() and not path.is_dir():
            raise InputError(f"--out {path} is a file: name a new folder")
        if path.exists() and any(path.iterdir()):
            ours = (path / "config.toml").exists() and (path / "checkpoints").exists()
            resume = f"a run: `anima resume {shlex.quote(str(path))}` goes on with it"
            hint = resume if ours else "not an anima run"
            raise InputError(f"--out {path} holds files already ({hint}): name a new folder")
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> InputError:
    reason = error.strerror or error
    return InputError(f"--out {path} cannot be written ({reason}): name another folder")


def _header(path: Path, table: Any) -> Header:
    fields = {field.name: field.type for field in dataclasses.fields(Header)}
    if not isinstance(table, dict) or set(table) != set(fields):
        raise InputError(f"{path / 'config.toml'} lacks a whole [run] section: it was edited")
    for name, value in table.items():
        if name != "seed":  # which may be larger than other numbers
            configs.check_value(f"run.{name}", fields[name], value)
    header, seed = Header(**table), table["seed"]
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"run.seed is {seed!r}: it must be a whole number up to {LARGEST_SEED}")
    if len(header.shape) not in (2, 3) or min(*header.shape, header.classes) < 1:
        raise InputError(f"{path / 'config.toml'}: run.shape and run.classes cannot be: restore it")
    return header
