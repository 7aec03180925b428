"""Laws are tried in float64 with strict promotion; everything else as users run it, in float32.

A law ("the centred error falls as beta^2") cannot be seen below float32's own noise, and a silent
promotion hides exactly the bugs that laws look for. So every test in the folders of laws runs
under 64-bit floats, with JAX refusing implicit promotion of types or ranks. The switch is a
fixture and not a global setting because JAX's is: a global x64 would change what all the other
tests (worlds, agents, training) run. Arrays must therefore be made inside a test, not at import.

`@pytest.mark.float32` takes one test out; `@pytest.mark.promotes` allows promotion where another
library (optax) needs it.
"""

from pathlib import Path

import jax
import pytest

LAWS = ("core", "circuit", "settle", "learn", "test_testing.py")
HERE = Path(__file__).parent


def pytest_configure(config):
    config.addinivalue_line("markers", "float32: run a test among the laws as users run it")
    config.addinivalue_line("markers", "promotes: let a library implicitly promote types and ranks")


@pytest.fixture(autouse=True)
def precision(request):
    """float64 and strict promotion for laws; see the module."""
    if request.path.relative_to(HERE).parts[0] not in LAWS or "float32" in request.keywords:
        yield
        return
    loose = "promotes" in request.keywords
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard" if loose else "strict"),
        jax.numpy_rank_promotion("allow" if loose else "raise"),
    ):
        yield


@pytest.fixture
def getkey():
    """A function that returns a new random key at each call, the same ones in every run."""
    count = iter(range(1_000_000))
    return lambda: jax.random.fold_in(jax.random.key(2024), next(count))
