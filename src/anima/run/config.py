"""Configuration: TOML tables that name the library's own classes and their arguments.

There is no second vocabulary. `[assigner] name = "eqprop", beta = 0.2` is
`EquilibriumPropagation(beta=0.2)`; what a table may hold is read from that class's signature, so a
misspelt key, a wrong type or a missing argument is caught before anything runs.
"""

import copy
import dataclasses
import inspect
import math
import tomllib
import types
import typing
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from jaxtyping import PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.hopfield import Hopfield
from anima.circuit.image import Convolution
from anima.circuit.ngc import NGC
from anima.circuit.predictive import Predictive
from anima.core.errors import InputError, nearest, pick
from anima.learn.assigners import (
    ZIL,
    AbstractAssigner,
    Backprop,
    EquilibriumPropagation,
    FixedPrediction,
    IncrementalPC,
    NGCRule,
    PredictiveCoding,
)
from anima.learn.costs import COSTS
from anima.learn.gate import GATES, AbstractGate
from anima.learn.learner import Learner
from anima.learn.optimisers import optimiser
from anima.settle.solvers import SOLVERS, AbstractSolver, with_solvers

Table = dict[str, Any]

CIRCUITS: dict[str, Callable[..., AbstractCircuit]] = {
    "hopfield": Hopfield.mlp,
    "predictive": Predictive.mlp,
    "ngc": NGC.mlp,
}
CONVOLUTIONAL: dict[str, Callable[..., AbstractCircuit]] = {
    "hopfield": Hopfield.conv,
    "predictive": Predictive.conv,
}
ASSIGNERS = {
    "backprop": Backprop,
    "predictive": PredictiveCoding,
    "incremental": IncrementalPC,
    "fixed_prediction": FixedPrediction,
    "zil": ZIL,
    "ngc": NGCRule,
    "eqprop": EquilibriumPropagation,
}
# what a run can dream through: circuits that run from causes to images, each with its own learning
GENERATIVE = {name: (CIRCUITS[name], ASSIGNERS[name]) for name in ("predictive", "ngc")}

_LARGEST = 2**31 - 1  # what a step counter holds
_FLOAT32 = 3e38  # what a float32 holds


@dataclasses.dataclass(frozen=True)
class Train:
    """How long, in what portions, and on what.

    - `epochs`, `batch`: passes over the data, examples a step.
    - `shift`: each reading moves the image by up to this many pixels in each direction.
    - `validation`: the last so many training examples are held out and judged every epoch in
      place of the test set, which is then read once, at the end.
    - `keep`: how many checkpoints to keep.
    - `align`: whether the metrics tell the cosine between the circuit's credit and the true
      gradient, at the price of a backward pass a step.
    """

    epochs: int = 10
    batch: int = 32
    shift: int = 0
    validation: int = 0
    keep: int = 2
    align: bool = False

    def __post_init__(self):
        for name in ("epochs", "batch", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"train.{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("shift", "validation"):
            if getattr(self, name) < 0:
                raise InputError(f"train.{name} is {getattr(self, name)}: it must not be negative")


@dataclasses.dataclass(frozen=True)
class Twin:
    """The backprop twin: the same sizes, noise, batches and optimiser, at its own rate.

    - `enabled`: train it too. - `rate`: its learning rate, swept for it alone.
    - `kappa`: the inverse temperature of its cost, where the cost has one.
    """

    enabled: bool = True
    rate: float = 0.1
    kappa: float = 1.0

    def __post_init__(self):
        for name in ("rate", "kappa"):
            if not getattr(self, name) > 0:
                raise InputError(f"twin.{name} is {getattr(self, name)}: it must be positive")


@dataclasses.dataclass(frozen=True)
class Dream:
    """What the run remembers once it has learnt, so that it can be dreamt (learn/memory.py).

    - `code`: how many units a code has that is learnt for this; or
    - `read`: the hidden node whose activity is the code. Neither: no memory, no dreams.
    - `circuit`: what writes a code back into pixels, a family of `GENERATIVE` with its arguments,
      learnt by `assigner` and `optimiser`; a code of its own is what it settles on when the pixels
      are clamped. Empty: linear, learnt by the rules of Oja, or Widrow and Hoff.
    - `concepts`, a class; `rank`, how many directions each remembers; `blend`, how much of its
      covariance it shares with its class.
    - `passes` over the images in which the synapses between code and pixels learn, a `portion` of
      images at a time; `pace`, of the linear ones, relative to the size of images or codes (stable
      up to about 2; default 1).
    """

    code: int = 0
    read: str = ""
    circuit: Table = dataclasses.field(default_factory=dict)
    assigner: Table = dataclasses.field(default_factory=dict)
    optimiser: Table = dataclasses.field(default_factory=dict)
    concepts: int = 10
    rank: int = 20
    blend: float = 0.2
    passes: int = 5
    portion: int = 20
    pace: float | None = None

    def __post_init__(self):
        if self.code and self.read:
            raise InputError(
                f"dream.code is {self.code} and dream.read is {self.read!r}: give one of them"
            )
        for name in ("concepts", "rank", "passes", "portion"):
            if getattr(self, name) < 1:
                raise InputError(f"dream.{name} is {getattr(self, name)}: it must be at least 1")
        if self.pace is not None and not self.pace > 0:
            raise InputError(f"dream.pace is {self.pace}: it must be positive")
        if self.pace is not None and self.circuit:
            raise InputError(
                f"dream.pace is {self.pace} and there is a dream.circuit: that has a rate of its "
                "own, dream.optimiser.rate"
            )
        if self.circuit and not self.enabled:
            raise InputError(
                "there is a dream.circuit and no code that it could write: give dream.code, how "
                "many units, or dream.read, a hidden node"
            )
        if not 0 <= self.blend <= 1:
            raise InputError(f"dream.blend is {self.blend}: it must be in [0, 1]")

    @property
    def enabled(self) -> bool:
        """Whether there is a memory at all."""
        return bool(self.code or self.read)


@dataclasses.dataclass(frozen=True)
class Config:
    """All that a run of `anima learn` depends on, beside its data and its seed.

    `circuit`, `assigner` and `cost` are tables that name a class and its arguments; `noise` maps
    a node, or `hidden` for all hidden nodes, to its silencing rate; `optimiser` holds the
    arguments of `anima.optimiser`. `circuit.hidden` lists the hidden layers, each a number of
    units or a table with the fields of a `Convolution`.
    `gate` names a gate, or is empty: then all is learnt.
    """

    circuit: Table
    assigner: Table
    cost: Table
    noise: dict[str, float]
    optimiser: Table
    train: Train
    twin: Twin
    dream: Dream = Dream()
    gate: Table = dataclasses.field(default_factory=dict)


def preset_names() -> list[str]:
    """The presets that ship with the package."""
    folder = resources.files("anima.run") / "presets"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_preset(name: str) -> Table:
    """The raw table of a preset; raises `InputError` naming the nearest for an unknown one."""
    known = preset_names()
    if name not in known:
        raise InputError(f"unknown preset {name!r}: {nearest(name, known)}")
    text = (resources.files("anima.run") / "presets" / f"{name}.toml").read_text()
    return tomllib.loads(text)


def read_file(path: Path) -> Table:
    """The raw table of a TOML file; raises `InputError` if it cannot be read or parsed."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read the configuration {path}: {error}") from error


def override(
    table: Table, assignments: Sequence[str], complete: Callable[[Table], Any] | None = None
) -> Table:
    """The table with `key=value` assignments applied, values written as in TOML.

    **Arguments:** `assignments`, such as `train.epochs=3`, `circuit.hidden=[512, 512]`. A key
    without a section is understood where only one section has it. `complete`, what makes a whole
    configuration of a table, whose keys are then the known ones (default: `resolve`).

    **Raises:** `InputError` for text that is not `key=value`, an unknown or an ambiguous key.
    """
    full = as_table((complete or resolve)(table))
    result = copy.deepcopy(table)
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set {text!r}: write key=value, e.g. train.epochs=3")
        path = _locate(key.strip(), full)
        target, known = result, full
        for part in path[:-1]:
            known = known.get(part, {}) if isinstance(known, dict) else {}
            # a key of something that is named by default, or by its name alone, keeps that name
            named = isinstance(known, dict) and "name" in known
            begin = target.get(part, known["name"] if named else {})
            target[part] = {"name": begin} if named and isinstance(begin, str) else begin
            target = target[part]
            if not isinstance(target, dict):
                raise InputError(f"--set {text!r}: {part} is {target!r}, which has no keys")
        target[path[-1]] = _value(value.strip())
    return result


def resolve(table: Table) -> Config:
    """A checked configuration with every default made explicit.

    **Raises:** `InputError` for an unknown section, key, name or a value of the wrong type; the
    message names the key, the value and the nearest known key.
    """
    sections = [field.name for field in dataclasses.fields(Config)]
    for name, value in table.items():
        if name not in sections:
            raise InputError(
                f"unknown section {name!r} in the configuration: {nearest(name, sections)}"
            )
        if not isinstance(value, dict):
            raise InputError(f"{name} must be a section with keys, not {value!r}")
    circuit = dict(table.get("circuit", {}))
    family = circuit.setdefault("family", "hopfield")
    hidden = _hidden(circuit.get("hidden", [128]))
    builder = _builder(family, hidden)
    rest = {key: value for key, value in circuit.items() if key not in ("family", "hidden")}
    allowed = ("family", "hidden")
    config = Config(
        circuit={"family": family, "hidden": hidden}
        | arguments("circuit", builder, rest, skip=_BUILDER_SKIP, also=allowed),
        assigner=_named("assigner", ASSIGNERS, table.get("assigner", {"name": "eqprop"})),
        cost=_named("cost", COSTS, table.get("cost", {"name": "squared"})),
        noise={
            name: check_value(f"noise.{name}", float, rate)
            for name, rate in table.get("noise", {}).items()
        },
        optimiser=arguments(
            "optimiser", optimiser, table.get("optimiser", {}), skip=_OPTIMISER_SKIP
        ),
        train=Train(**arguments("train", Train, table.get("train", {}))),
        twin=Twin(**arguments("twin", Twin, table.get("twin", {}))),
        dream=_dream(table.get("dream", {})),
        gate=_named("gate", GATES, table["gate"]) if table.get("gate") else {},
    )
    refuse_negative(as_table(config))
    return config


def as_table(config: Any) -> Table:
    """The configuration as plain tables, `None`s left out: `resolve` gives it back."""
    return _without_none(dataclasses.asdict(config))


def dump(config: Any, header: Table) -> str:
    """The configuration as TOML text, after a `[run]` section with `header`."""
    return tomli_w.dumps({"run": header} | as_table(config))


def build_circuit(
    config: Config, shape: Sequence[int], classes: int, key: PRNGKeyArray
) -> AbstractCircuit:
    """The circuit from images of `shape` through the hidden layers to `classes` outputs.

    Its input node has the images' shape (with an axis of channels) if it convolves them, else
    one unit a pixel.
    """
    table = dict(config.circuit)
    family, hidden = table.pop("family"), table.pop("hidden")
    builder = _builder(family, hidden)
    if not _convolves(hidden):
        return builder([math.prod(shape), *hidden, classes], **table, key=key)
    layers = [Convolution(**layer) if isinstance(layer, dict) else layer for layer in hidden]
    image = tuple(shape) if len(shape) == 3 else (*shape, 1)
    return builder(image, [*layers, classes], **table, key=key)


def build_learner(config: Config, circuit: AbstractCircuit, per_epoch: int) -> Learner:
    """The learner that the configuration describes, for a circuit and so many steps an epoch."""
    table = dict(config.assigner)
    assigner = ASSIGNERS[table.pop("name")](**with_solvers(table))
    table = dict(config.cost)
    cost = COSTS[table.pop("name")](**table)
    schedule: Table = dict(epochs=config.train.epochs, per_epoch=per_epoch)
    return Learner(
        circuit=circuit,
        assigner=assigner,
        cost=cost,
        optimiser=optimiser(circuit, **config.optimiser, **schedule),
        noise=_noise(config, circuit),
        align=config.train.align,
        gate=_gate(config),
        batch=config.train.batch,
    )


def as_twin(config: Config) -> Config:
    """The configuration learnt by backpropagation, at the twin's own rate and temperature."""
    kappa = {"kappa": config.twin.kappa} if "kappa" in config.cost else {}
    return dataclasses.replace(
        config,
        assigner={"name": "backprop"},
        cost=config.cost | kappa,
        optimiser=config.optimiser | {"rate": config.twin.rate},
        train=dataclasses.replace(config.train, align=False),
    )


def build_writer(dream: Dream, code: int, pixels: int, key: PRNGKeyArray) -> AbstractCircuit:
    """The newborn circuit of a `[dream]` section that has one, from a code to the pixels.

    **Raises:** `InputError` for arguments that its family refuses.
    """
    table = dict(dream.circuit)
    builder, _ = GENERATIVE[table.pop("family")]
    return builder([code, *table.pop("hidden"), pixels], **table, key=key)


def build_writing(dream: Dream) -> AbstractAssigner:
    """What learns that circuit."""
    table = dict(dream.assigner)
    _, assigner = GENERATIVE[table.pop("name")]
    return assigner(**with_solvers(table))


def _dream(table: Table) -> Dream:
    """The `[dream]` section; that of a circuit has the defaults of its tables made explicit."""
    given = arguments("dream", Dream, table)
    circuit = dict(given["circuit"])
    if not circuit:
        for name in ("assigner", "optimiser"):
            if given[name]:
                raise InputError(
                    f"dream.{name} is {given[name]} without a dream.circuit: give its family, "
                    f"one of {', '.join(sorted(GENERATIVE))}"
                )
        return Dream(**given)
    family = circuit.pop("family", "predictive")
    builder, assigner = _pick("dream.circuit.family", family, GENERATIVE)
    hidden = check_value("dream.circuit.hidden", list[int], circuit.pop("hidden", [128]))
    if any(size < 1 for size in hidden):
        raise InputError(f"dream.circuit.hidden is {hidden}: sizes must be positive")
    rest = arguments("dream.circuit", builder, circuit, _BUILDER_SKIP, also=("family", "hidden"))
    how = dict(given["assigner"])
    if how.pop("name", family) != family:
        raise InputError(
            f"dream.assigner.name is {given['assigner']['name']!r}: a dream.circuit of the family "
            f"{family!r} is learnt by {family!r}"
        )
    own = {"rule": "adam", "rate": 0.001, "schedule": "cosine"} | given["optimiser"]
    complete: Table = {
        "circuit": {"family": family, "hidden": hidden} | rest,
        "assigner": {"name": family} | arguments("dream.assigner", assigner, how, skip=_AS_READ),
        "optimiser": arguments("dream.optimiser", optimiser, own, skip=_OPTIMISER_SKIP),
    }
    return Dream(**(given | complete))


# images are read as they are learnt: the pixels clamped, for so many steps
_AS_READ = ("step", "teach", "tol")
_BUILDER_SKIP = ("sizes", "shape", "layers", "key")


def changed(saved: Table, now: Table, path: str = "") -> str | None:
    """The first key in which two configurations differ."""
    for key in sorted(set(saved) | set(now)):
        here = f"{path}{key}"
        if isinstance(saved.get(key), dict) and isinstance(now.get(key), dict):
            deeper = changed(saved[key], now[key], f"{here}.")
            if deeper:
                return deeper
        elif saved.get(key) != now.get(key):
            return here
    return None


_OPTIMISER_SKIP = ("circuit", "epochs", "per_epoch")

_WANTED = {
    bool: "true or false",
    int: f"a whole number up to {_LARGEST}",
    float: "a finite number",
    str: "text",
}


def _hidden(value: Any) -> list[Any]:
    """The hidden layers: whole numbers, and convolutions with their defaults made explicit."""
    layers = value if isinstance(value, list | tuple) else [value]
    tables = [_convolution(layer) for layer in layers if isinstance(layer, dict)]
    rest = [layer for layer in layers if not isinstance(layer, dict)]
    sizes = check_value("circuit.hidden", list[int], rest if tables else value)
    if any(size < 1 for size in sizes):
        raise InputError(f"circuit.hidden is {sizes}: sizes must be positive")
    return [_convolution(layer) if isinstance(layer, dict) else layer for layer in layers]


def _convolution(table: Table) -> Table:
    checked = arguments("circuit.hidden", Convolution, table)
    return _without_none(dataclasses.asdict(Convolution(**checked)))


def _convolves(hidden: list[Any]) -> bool:
    return any(isinstance(layer, dict) for layer in hidden)


def _builder(family: Any, hidden: list[Any]) -> Callable[..., AbstractCircuit]:
    builder = _pick("circuit.family", family, CIRCUITS)
    if not _convolves(hidden):
        return builder
    if family not in CONVOLUTIONAL:
        raise InputError(
            f"circuit.hidden has a convolution, which the family {family!r} does not: use one of "
            f"{', '.join(sorted(CONVOLUTIONAL))}"
        )
    return CONVOLUTIONAL[family]


def _gate(config: Config) -> AbstractGate | None:
    table = dict(config.gate)
    return GATES[table.pop("name")](**table) if table else None


def _noise(config: Config, circuit: AbstractCircuit) -> tuple[tuple[str, float], ...]:
    names = [node.name for node in circuit.nodes]
    rates: dict[str, float] = {}
    for name, rate in config.noise.items():
        if name != "hidden" and name not in names:
            raise InputError(f"noise.{name}: no such node, {nearest(name, [*names, 'hidden'])}")
        rates |= {n: rate for n in (names[1:-1] if name == "hidden" else [name])}
    return tuple(sorted((name, rate) for name, rate in rates.items() if rate))


def refuse_negative(table: Table, path: str = "") -> None:
    """No number of a configuration means anything below zero; some classes ask for more."""
    for key, value in table.items():
        if isinstance(value, dict):
            refuse_negative(value, f"{path}{key}.")
        elif any(isinstance(v, int | float) and v < 0 for v in _items(value)):
            raise InputError(f"{path}{key} is {value}: it must not be negative")


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _pick(path: str, name: Any, classes: dict[str, Any]) -> Any:
    return pick(path, check_value(path, str, name), classes)


def _named(section: str, classes: dict[str, Any], table: Any) -> Table:
    """A table that names a class: its name, checked, and its arguments, checked and complete."""
    if not isinstance(table, dict):
        raise InputError(f"{section} is {table!r}: it must be a name or a table with one")
    rest = dict(table)
    if "name" not in rest:
        raise InputError(f"{section} needs a name: one of {', '.join(sorted(classes))}")
    name = rest.pop("name")
    made = _pick(f"{section}.name", name, classes)
    return {"name": name} | arguments(section, made, rest, also=("name",))


def arguments(
    section: str, made: Any, table: Table, skip: tuple[str, ...] = (), also: tuple[str, ...] = ()
) -> Table:
    """`table` checked against the signature of `made`, with its defaults filled in."""
    hints = typing.get_type_hints(made.__init__ if inspect.isclass(made) else made)
    known = {
        name: parameter
        for name, parameter in inspect.signature(made).parameters.items()
        if name not in skip and name != "self"
    }
    for key in table:
        if key not in known:
            raise InputError(f"unknown key {section}.{key}: {nearest(key, [*known, *also])}")
    result, made_anew = {}, _factories(made)
    for name, parameter in known.items():
        usual = made_anew[name]() if name in made_anew else parameter.default
        value = table.get(name, usual)
        if value is inspect.Parameter.empty:
            raise InputError(f"{section} needs {name}: {section}.{name} has no default")
        if isinstance(value, AbstractSolver):
            value = _solver_table(value)
        result[name] = check_value(f"{section}.{name}", hints.get(name, type(value)), value)
    return result


def _factories(made: Any) -> dict[str, Callable[[], Any]]:
    """What makes the defaults of a dataclass's fields that no signature can show."""
    fields = dataclasses.fields(made) if dataclasses.is_dataclass(made) else ()
    found = {field.name: field.default_factory for field in fields}
    return {k: made for k, made in found.items() if made is not dataclasses.MISSING}


def _solver_table(solver: AbstractSolver) -> Table:
    (name,) = [name for name, made in SOLVERS.items() if isinstance(solver, made)]  # type: ignore
    fields = {field.name: getattr(solver, field.name) for field in dataclasses.fields(solver)}
    tables = {
        key: _solver_table(value) if isinstance(value, AbstractSolver) else value
        for key, value in fields.items()
    }
    return {"name": name} | tables


def check_value(path: str, hint: Any, value: Any) -> Any:
    """The value as the annotation wants it, or `InputError` saying what was wanted."""
    if hint is AbstractSolver:
        return _named(path, SOLVERS, {"name": value} if isinstance(value, str) else value)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            try:
                return check_value(path, option, value)
            except InputError:
                continue
    elif hint is type(None) and value is None:
        return None
    elif hint is bool and isinstance(value, bool):
        return value
    elif hint is int and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) <= _LARGEST:
            return value
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) <= _FLOAT32:
            return float(value)
    elif _is_list(hint) and isinstance(value, list | tuple):
        (item, *_) = typing.get_args(hint)
        return [check_value(path, item, entry) for entry in value]
    elif (
        isinstance(value, str | dict)
        and not _is_list(hint)
        and isinstance(value, typing.get_origin(hint) or hint)
    ):
        return value
    raise InputError(f"{path} is {value!r}: it must be {_wanted(hint)}")


def _wanted(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [_wanted(option) for option in typing.get_args(hint)]
        return " or ".join(option for option in options if option)
    if hint is type(None):
        return "left out"
    if typing.get_origin(hint) is dict:
        return "a table"
    if _is_list(hint):
        return "a list of numbers"
    return _WANTED.get(hint, "")


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) in (list, tuple, Sequence)


def _locate(key: str, full: Table) -> list[str]:
    """The path of a key in the tables; a key without a section where it is unambiguous."""
    parts = key.split(".")
    if len(parts) > 1 or key in full:
        return parts
    homes = [section for section, values in full.items() if key in values]
    if len(homes) == 1:
        return [homes[0], key]
    if homes:
        raise InputError(f"--set {key}: say which, {' or '.join(f'{h}.{key}' for h in homes)}")
    names = [f"{section}.{name}" for section, values in full.items() for name in values]
    raise InputError(f"unknown key {key!r}: {nearest(key, names)}")


def _value(text: str) -> Any:
    """A value as TOML writes it, a number as a hurried user does (.1), or else plain text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        try:
            return float(text)
        except ValueError:
            return text


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value
