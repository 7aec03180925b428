"""What the tests of a run share: a compilation cache, a small data set, a small configuration."""

import numpy as np
import pytest

import anima.run.config as configs
import anima.run.train as train
from anima.core.errors import InputError
from anima.run import agents
from anima.world.data import Data
from anima.world.env import make


@pytest.fixture(scope="package", autouse=True)
def compiled_once(keep_programs, tmp_path_factory):
    """Every `Training` and `Living` is a program of its own to JAX; XLA need not compile again."""
    with keep_programs(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Two chunks an epoch of the small data set, so that a stop can come in the middle of one."""
    monkeypatch.setattr(train, "LONGEST_CHUNK", 3)


@pytest.fixture(scope="session")
def data():
    """60 + 12 training and 20 test images of 5 x 7, three classes that can be told apart."""
    draw = np.random.default_rng(0)
    labels = np.arange(92, dtype=np.int32) % 3
    images = draw.random((92, 5, 7), np.float32) / 2
    images[np.arange(92), labels, :] += 0.5
    return Data("small", images[:72], labels[:72], images[72:], labels[72:], 3)


TABLE = {
    "circuit": {"hidden": [6]},
    "assigner": {
        "name": "eqprop",
        "scheme": "random_sign",
        "solver": "euler",
        "free_steps": 4,
        "nudged_steps": 2,
    },
    "cost": {"name": "cross_entropy", "kappa": 4.0},
    "noise": {"input": 0.1, "hidden": 0.2},
    "optimiser": {"rule": "adam", "rate": 0.01, "schedule": "cosine", "average": 0.3},
    "train": {"epochs": 2, "batch": 10, "shift": 1, "validation": 12, "align": True},
    "twin": {"rate": 0.01},
}


@pytest.fixture(scope="session")
def small():
    """Everything random at once: noise, shifts, a random sign; and an optimiser with memory."""
    return configs.resolve(TABLE)


@pytest.fixture(scope="session")
def mind_of():
    """The mind of a configuration of lives; a test whose world needs an extra (MuJoCo) skips."""

    def build(config):
        try:
            world = make(config.world["name"])
        except InputError as error:
            if "needs more than is installed" in str(error):
                pytest.skip(str(error))
            raise
        return agents.build_mind(config, world.spec)

    return build
