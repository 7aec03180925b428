"""What a living agent dreams of, so that a new day does not undo what it knew the day before.

Awake it learns from what it lives through. Asleep it learns from dreams as well: it is somewhere
it has been, does anything, and comes to where it believed, when it last woke, that this leads. No
state of those is kept: where it has been is a few Gaussians, and what follows there is what the
circuits knew. Learning from a network's own past answers, so that it keeps them, is
pseudo-rehearsal (Robins, 1995).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from anima.agent.model import ModelState, WorldModel
from anima.core.types import Given
from anima.world.env import Discrete, Moments, Transition


class Places(eqx.Module):
    """Where it has been: at most K Gaussians, each of the states that were nearest to it.

    The first K states that differ are places. After that, a state that is further from every place
    than the two nearest of them are from each other is a place of its own, and those two become
    one; any other joins the nearest. So places spread over all that was seen, be it seldom seen.

    - `moments`: their counts, means and squares, with a leading axis of K.
    """

    moments: Moments

    @classmethod
    def empty(cls, count: int, size: int) -> "Places":
        """Room for `count` places among states of `size` numbers."""
        none = Moments.empty(size)
        return cls(jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), none))

    @property
    def known(self) -> Bool[Array, " places"]:
        """Which of them hold a place."""
        return self.moments.count > 0

    def seen(self, state: Float[Given, " n"], deviation: Float[Array, " n"]) -> "Places":
        """With one state more, (n,); distances are in units of `deviation`, (n,)."""
        mean, unknown = self.moments.mean, jnp.where(self.known, 0.0, jnp.inf)
        near = jnp.sum(((mean - state) / deviation) ** 2, -1) + unknown
        apart = jnp.sum(((mean[:, None] - mean[None]) / deviation) ** 2, -1)
        apart = apart + unknown[:, None] + unknown[None]
        apart = jnp.where(jnp.eye(near.size, dtype=bool), jnp.inf, apart)
        one, other = jnp.unravel_index(jnp.argmin(apart), apart.shape)
        full = jnp.all(self.known)
        new = jnp.where(full, jnp.min(near) > jnp.min(apart), jnp.min(near) > 0)
        room = jnp.where(full, other, jnp.argmin(self.known))
        alone = Moments(jnp.ones(()), jnp.asarray(state), jnp.zeros_like(state))
        pick = lambda index: jax.tree.map(lambda leaf: leaf[index], self.moments)
        put = lambda moments, index, value: jax.tree.map(
            lambda leaf, x: leaf.at[index].set(x), moments, value
        )
        nearest = jnp.argmin(near)
        joined = put(self.moments, nearest, pick(nearest).joined(alone))
        merged = put(self.moments, one, pick(one).joined(pick(other)))
        base = jax.tree.map(lambda a, b: jnp.where(full, a, b), merged, self.moments)
        added = put(base, room, alone)
        return Places(jax.tree.map(lambda a, b: jnp.where(new, a, b), added, joined))

    def draw(self, key: PRNGKeyArray, *shape: int) -> Float[Array, "*shape n"]:
        """States as they may be there, every place as likely as another."""
        which, where = jax.random.split(key)
        index = jax.random.categorical(which, jnp.where(self.known, 0.0, -jnp.inf), shape=shape)
        count = jnp.maximum(self.moments.count, 1)[:, None]
        mean, spread = self.moments.mean, jnp.sqrt(self.moments.squares / count)
        noise = jax.random.normal(where, (*shape, mean.shape[-1]))
        return mean[index] + noise * spread[index]


class Night(eqx.Module):
    """What it dreams of: where it had been when it last woke, and what it then knew.

    - `places`: up to now; `been`: when it woke. - `model`: what it knew then, without what its
      optimiser remembers.
    """

    places: Places
    been: Places
    model: ModelState

    @classmethod
    def after(cls, model: ModelState, places: Places) -> "Night":
        """That of one who wakes, or is born, with such knowledge and after such places."""
        return cls(places, places, ModelState(model.circuits, (), model.seen, model.moved))

    def over(self) -> "Night":
        """With nowhere to dream of, until it has slept where it then was: the world is another."""
        none = jax.tree.map(jnp.zeros_like, self.places)
        return Night(none, none, self.model)

    def dreamt(self, model: WorldModel, count: int, key: PRNGKeyArray) -> Transition:
        """Dreams of one step, with leading axes (K members, count), without rewards or ends."""
        placing, acting = jax.random.split(key)
        shape, space = (model.members, count), model.spec.action
        places = self.been.draw(placing, *shape)
        width = 1 if isinstance(space, Discrete) else space.size
        actions = space.spread(jax.random.uniform(acting, (*shape, width)))
        following = model.believed(self.model, places, space.code(actions))
        none = jnp.zeros(shape, bool)
        return Transition(places, actions, jnp.zeros(shape), following, none, none)
