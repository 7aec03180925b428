"""The public face: what `import anima` gives, that it is documented, and what it does not load."""

import inspect
import json
import subprocess
import sys
import types

import pytest

import anima

FACE = {
    *("Hopfield", "Predictive", "NGC"),
    *("settle", "trace", "Equilibrium", "Result"),
    *("Euler", "Momentum", "EvenOdd", "Anderson"),
    *("Backprop", "PredictiveCoding", "NGCRule", "EquilibriumPropagation"),
    *("SquaredError", "CrossEntropy", "Learner", "optimiser"),
    *("load_data", "load", "InputError"),
}
PUBLIC = {
    name: value
    for name, value in vars(anima).items()
    if not name.startswith("_") and not isinstance(value, types.ModuleType)
}
LAZY = ("orbax", "sklearn", "matplotlib", "rich", "tensorboardX", "scipy", "beartype")


def test_the_face_is_there():
    assert set(PUBLIC) >= FACE


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_is(name):
    value = PUBLIC[name]
    text = value.__doc__
    assert text and text.strip() and not text.startswith(f"{name}("), "no docstring of its own"
    if not inspect.isclass(value):
        return
    for method, function in vars(value).items():
        if not method.startswith("_") and inspect.isfunction(function):
            assert inspect.getdoc(getattr(value, method)), f"{name}.{method} has no docstring"


def test_every_family_is_built_the_same_way():
    for name in ("Hopfield", "Predictive", "NGC"):
        parameters = inspect.signature(getattr(anima, name).mlp).parameters
        assert next(iter(parameters)) == "sizes"
        assert {"activation", "key"} <= set(parameters)
        assert parameters["key"].kind is inspect.Parameter.KEYWORD_ONLY


def test_importing_loads_nothing_that_may_not_be_needed():
    code = "import sys, json, anima; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert ran.stderr == ""
    loaded = {name.split(".")[0] for name in json.loads(ran.stdout)}
    assert "jax" in loaded and not loaded & set(LAZY)
