"""Laws are tried in float64 with strict promotion; everything else as users run it, in float32.

A law ("the centred error falls as beta^2") cannot be seen below float32's own noise, and a silent
promotion hides exactly the bugs that laws look for. So every test in the folders of laws runs
under 64-bit floats, with JAX refusing implicit promotion of types or ranks. The switch is a
fixture and not a global setting because JAX's is: a global x64 would change what all the other
tests (worlds, agents, training) run. Arrays must therefore be made inside a test, not at import.

`@pytest.mark.float32` takes one test out; `@pytest.mark.promotes` allows promotion where another
library (optax) needs it. Types and shapes are looked at in every call (`checked.py`); a test of
what is said to a user without such checks is `@pytest.mark.unchecked`.

Nearly all the time of these tests is XLA's, compiling thousands of tiny programs: half of it goes
to emitters of fused loops that a tiny program has no use for, so they are off.
"""

import contextlib
import gc
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from jax.experimental.compilation_cache import compilation_cache

from anima.circuit.graph import Dense, Node, edge, edges
from anima.circuit.predictive import Predictive
from anima.core.functions import activation

QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"  # before JAX's first array

REAL = Path(os.environ.get("ANIMA_DATA") or Path(__file__).parents[2] / "shared" / "data")
LAWS = ("core", "circuit", "settle", "learn", "act", "test_testing.py", "test_laws.py")
HERE = Path(__file__).parent


def pytest_configure(config):
    gc.set_threshold(200_000, 50, 100)  # traces are many small objects, and few are garbage


@pytest.fixture(autouse=True)
def precision(request):
    """float64 and strict promotion for laws; see the module."""
    if request.path.relative_to(HERE).parts[0] not in LAWS:
        yield
        return
    sharp, loose = "float32" not in request.keywords, "promotes" in request.keywords
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)  # many programs, all tiny
    with (
        jax.enable_x64(sharp),
        jax.numpy_dtype_promotion("standard" if loose else "strict"),
        jax.numpy_rank_promotion("allow" if loose else "raise"),
    ):
        yield
    jax.config.update("jax_disable_most_optimizations", before)


def _setting(name):
    """A setting of JAX's as it is now, whichever way that one is read."""
    return getattr(jax.config, name) if hasattr(jax.config, name) else jax.config.read(name)


@pytest.fixture(scope="session")
def keep_programs():
    """A context manager of a folder: within, a program that was compiled once is read from it."""

    @contextlib.contextmanager
    def keep(folder):
        settings = {
            "jax_compilation_cache_dir": str(folder),
            "jax_persistent_cache_min_compile_time_secs": 0.05,
            "jax_persistent_cache_min_entry_size_bytes": 0,
        }
        before = {name: _setting(name) for name in settings}
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    return keep


@pytest.fixture(scope="session")
def quick_programs(keep_programs):
    """A context manager of a folder: within, programs compile quickly and are kept.

    Code is plain; and unless `threefry`, random numbers are of a kind that costs XLA nothing to
    compile but that `vmap` does not leave unchanged.
    """

    @contextlib.contextmanager
    def quick(folder, *, threefry=False):
        settings: dict = {"jax_disable_most_optimizations": True}
        if not threefry:
            settings["jax_default_prng_impl"] = "unsafe_rbg"
        before = {name: _setting(name) for name in settings}
        for name, value in settings.items():
            jax.config.update(name, value)
        with keep_programs(folder):
            yield
        for name, value in before.items():
            jax.config.update(name, value)

    return quick


@pytest.fixture(scope="session")
def real():
    """The folder of a real data set, by its name; where there is none, the test is skipped."""

    def find(name):
        if not (REAL / name).is_dir():
            pytest.skip(f"no real {name} in {REAL}; set ANIMA_DATA to the folder above it")
        return REAL / name

    return find


@pytest.fixture(autouse=True)
def unchecked(request):
    """No checks of types where a test is marked so."""
    jaxtyping.config.update("jaxtyping_disable", "unchecked" in request.keywords)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def getkey():
    """A function that returns a new random key at each call, the same ones in every run."""
    count = iter(range(1_000_000))
    return lambda: jax.random.fold_in(jax.random.key(2024), next(count))


@pytest.fixture
def diamond(getkey):
    """A predictive circuit that is no chain: a diamond with a skip, and every kind of precision."""
    normal = lambda *shape: jax.random.normal(getkey(), shape)
    tanh, sigmoid = activation("tanh"), activation("sigmoid")
    nodes = (
        Node("input", (3,)),
        Node("a", (4,), ("input",), tanh),
        Node("b", (2,), ("input",), sigmoid, tanh),
        Node("c", (3,), ("a", "b"), tanh),
        Node("output", (2,), ("c", "input"), transfer=tanh),
    )
    size = {node.name: node.shape[0] for node in nodes}
    covariance = lambda root: root @ root.T / 3 + jnp.eye(3) / 2
    return Predictive(
        nodes=nodes,
        synapses={edge(p, n): Dense(normal(size[p], size[n]) / 2) for p, n in edges(nodes)},
        biases={name: normal(n) / 2 for name, n in size.items() if name != "input"},
        precision={
            "a": jnp.asarray([0.5, 1.0, 1.5, 2.0]),
            "b": jnp.asarray(0.7),
            "c": jnp.linalg.inv(covariance(normal(3, 3))),
            "output": 1.3,
        },
    )
