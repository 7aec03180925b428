"""A world small enough to enumerate: every trajectory, its probability and what it is worth."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

HORIZON, STATES, ACTIONS = 3, 2, 2


class World(NamedTuple):
    """`HORIZON` layers of states; from each, an action leads to a state of the next layer or ends.

    - `move` (layer, state, action, outcome): the last outcome ends the episode, as does the last
      layer. - `reward` (layer, state, action). - `begin`: the first state.
    """

    move: jax.Array
    reward: jax.Array
    discount: float = 0.8
    begin: int = 0

    def policy(self, logits):
        """pi (layer, state, action)."""
        return jax.nn.softmax(logits, axis=-1)

    def values(self, logits):
        """Exact (V, Q) of a policy by backward induction, each with the layer HORIZON of zeros."""
        policy = self.policy(logits)
        value = [jnp.zeros(STATES)]
        action_value = []
        for layer in reversed(range(HORIZON)):
            future = self.move[layer, :, :, :STATES] @ value[0]
            action_value.insert(0, self.reward[layer] + self.discount * future)
            value.insert(0, jnp.sum(policy[layer] * action_value[0], axis=-1))
        return jnp.stack(value), jnp.stack(action_value)

    def episodes(self):
        """Every sequence of (state, action), with where it ended: arrays (episode, layer)."""
        rows = []
        for length in range(1, HORIZON + 1):
            for states in itertools.product(range(STATES), repeat=length - 1):
                for actions in itertools.product(range(ACTIONS), repeat=length):
                    rest = HORIZON - length
                    path = (self.begin, *states) + (0,) * rest
                    rows.append((path, actions + (0,) * rest, length))
        states, actions, lengths = zip(*rows, strict=True)
        return np.asarray(states), np.asarray(actions), np.asarray(lengths)


@pytest.fixture
def world(getkey):
    """Random probabilities and rewards; about a third of the transitions end the episode."""
    shape = (HORIZON, STATES, ACTIONS)
    move = jax.nn.softmax(jax.random.normal(getkey(), (*shape, STATES + 1)))
    ends = jnp.zeros(STATES + 1).at[-1].set(1.0)
    move = move.at[-1].set(jnp.broadcast_to(ends, (STATES, ACTIONS, STATES + 1)))
    return World(move, jax.random.normal(getkey(), shape))
