"""Small worlds and quick compilation: programs here are many and run for milliseconds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from anima.world.env import AbstractWorld, Discrete, Spec


@pytest.fixture(autouse=True, scope="module")
def quick(request, quick_programs, tmp_path_factory):
    """A module that asks what `vmap` does sets `THREEFRY = True`: JAX's usual random numbers."""
    threefry = getattr(request.module, "THREEFRY", False)
    with quick_programs(tmp_path_factory.mktemp("compiled"), threefry=threefry):
        yield


class Corridor(AbstractWorld):
    """Two cells and a door: from cell 0 action 1 leads to cell 1, from there to the door.

    The door pays `prize` and ends the episode; action 0 stays and pays nothing. Episodes are cut
    after 8 steps. With discount g: Q(1, right) = prize, Q(0, right) = g prize, and staying is
    worth g times what the cell is.
    """

    prize: float = 1.0
    spec: Spec = eqx.field(static=True, default=Spec("Corridor", 2, Discrete(2), 8))

    def reset(self, key):
        return jnp.zeros((), jnp.int32)

    def observe(self, state):
        return jax.nn.one_hot(state, 2)

    def step(self, state, action, key):
        state = state + action.astype(jnp.int32)
        out = state > 1
        return jnp.minimum(state, 1), jnp.where(out, self.prize, 0.0), out


@pytest.fixture(scope="session")
def corridor():
    return Corridor()
