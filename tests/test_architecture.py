"""The architecture, as a test: it reads the source and imports nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LAYERS = ("core", "circuit", "settle", "learn", "world", "act", "agent", "run", "app")
ROOT = Path(__file__).parents[1] / "src" / "anima"
FILES = sorted(ROOT.rglob("*.py"))
IDS = [str(file.relative_to(ROOT)) for file in FILES]
TOP = ("laws", "testing", "__init__", "__main__", "sklearn")  # above all layers


def rank(parts: tuple[str, ...]) -> int:
    """How high a module sits; 0 is the lowest layer. A folder that is no layer is an error."""
    if parts and parts[0] in LAYERS:
        return LAYERS.index(parts[0])
    assert not parts or parts[0] in TOP, f"{'.'.join(parts)} is in no layer: {LAYERS}"
    return len(LAYERS)


def imported(source: str, parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The modules of anima, as paths below it, that the module at `parts` imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = parts[: len(parts) - node.level]
            yield above + tuple(filter(None, (node.module or "").split(".")))
            continue
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] == "anima":
                inside = tuple(name.split(".")[1:])
                # `from anima import settle` may name a layer or a public name of the package
                yield inside if inside and inside[0] in (*LAYERS, *TOP) else ()


def upward(source: str, parts: tuple[str, ...]) -> list[str]:
    """The imports of a module that point upwards."""
    mine = rank(parts)
    return [".".join(t) or "anima" for t in imported(source, parts) if rank(t) > mine]


def subclassed(sources: list[str]) -> list[str]:
    """Subclasses of classes that are not abstract."""
    classes = [
        node
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    ]
    ours = {c.name for c in classes}
    bases = [
        (c.name, ast.unparse(base).split("[")[0].split(".")[-1])
        for c in classes
        for base in c.bases
    ]
    return [
        f"{name}({base})"
        for name, base in bases
        if base in ours
        and not base.lstrip("_").startswith("Abstract")
        # errors form a tree, as Python's own do: one is caught by its parent's name
        and not base.endswith("Error")
    ]


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_imports_point_down(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    found = upward(file.read_text(), parts)
    assert not found, f"{file.relative_to(ROOT)} imports upwards: {found}"


def test_abstract_or_final():
    """A class is either named Abstract*, or nobody subclasses it."""
    assert subclassed([file.read_text() for file in FILES]) == []


def test_every_layer_is_a_folder():
    """The design's list and the folders agree; layers that are not built yet are only missing."""
    folders = {path.parent.relative_to(ROOT).parts[0] for path in ROOT.glob("*/__init__.py")}
    assert folders <= set(LAYERS)
    assert {"core", "circuit", "settle", "learn"} <= folders


@pytest.mark.parametrize(
    "source",
    [
        "from anima.learn.learner import Learner",
        "import anima.learn.learner",
        "from anima import learn",
        "from anima import Learner",
        "from ..learn import learner",
        "def late():\n    from anima.run import train",
    ],
)
def test_an_upward_import_is_seen(source):
    assert upward(source, ("settle", "settle"))


def test_downward_and_sideways_imports_pass():
    source = "import jax\nfrom anima.core.types import State\nfrom . import solvers"
    assert upward(source, ("settle", "settle")) == []


def test_a_subclass_of_a_final_class_is_seen():
    final = "class AbstractA: ...\nclass B(AbstractA): ...\nclass C(B): ..."
    assert subclassed([final]) == ["C(B)"]
