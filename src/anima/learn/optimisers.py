"""Optimisers with a learning rate per layer and a schedule, assembled from optax."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.graph import Dense, Node, edge
from anima.circuit.predictive import Predictive
from anima.core.errors import InputError, check_positive, check_range, pick

Rate = float | Float[Array, ""]


def _cosine(steps: int, per_epoch: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(1.0, steps)


def _exponential(steps: int, per_epoch: int) -> optax.Schedule:
    return optax.exponential_decay(1.0, per_epoch, 0.99, staircase=True)


def _linear(steps: int, per_epoch: int) -> optax.Schedule:
    return optax.linear_schedule(1.0, 0.05, steps)


def _constant(steps: int, per_epoch: int) -> optax.Schedule:
    return optax.constant_schedule(1.0)


class Recalled(NamedTuple):
    """What `least_squares` keeps: each layer's mean x x^T, and how many examples it has met."""

    moments: dict[str, Float[Array, "i i"]]
    count: Int[Array, ""]


def least_squares(memory: float = 0.3, ridge: float = 1.0) -> optax.GradientTransformationExtraArgs:
    """Recursive least squares in every layer: each learns from one example what Newton's step says.

    With x the rates that a node hears, and a 1 for its bias, and e its error, so that the gradient
    is x e^T, and t the examples met so far:

        C <- C + (x x^T - C) / T,   T = max(memory t, 1)
        x e^T -> (C + ridge / T)^-1 x e^T / T

    With `memory` 1, rate 1 and a single layer the weights are after each example those that
    minimise sum_s 1/2 |y_s - W x_s|^2 + ridge/2 |W - W_0|^2 over all so far; a smaller `memory`
    weighs examples by t^(1/memory - 1), as deeper layers need, whose x is not what it was. There
    take a rate below 1, as every layer mends the whole error. Each error stays its node's own; the
    rates are whitened by all that lead to the same node, which is local to a layer, not to a
    neuron. For predictive circuits of dense synapses with biases. Plackett (1950); layer by layer
    Shah, Palmieri and Datum (1992).

    **Raises:** `InputError` for another circuit, more than one example an update, a `memory` that
    is not a share or a negative `ridge`.
    """
    check_range("least_squares", 1e-3, 1.0000001, memory=memory)
    check_range("least_squares", 0, float("inf"), ridge=ridge)

    def init(params):
        dense = isinstance(params, Predictive) and {
            name: synapse.weight
            for name, synapse in params.synapses.items()
            if isinstance(synapse, Dense)
        }
        if not dense or len(dense) < len(params.synapses):
            raise InputError(
                f"rule 'rls' cannot learn this {type(params).__name__}: it is for Predictive "
                "circuits of dense synapses; take 'sgd' or 'adam'"
            )
        heard = {
            node.name: 1 + sum(len(dense[name]) for name in _into(node))
            for node in params.nodes
            if node.parents
        }
        moments = {name: jnp.zeros((size, size)) for name, size in heard.items()}
        return Recalled(moments, jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, *, examples=1, **more):
        del params, more
        if examples != 1:
            raise InputError(
                f"rule 'rls' learns from one example at a time, and was given {examples}: "
                "set the batch to 1 (the living agent: updates = 0), or take 'adam'"
            )
        count = jnp.asarray(optax.safe_increment(state.count))
        span = jnp.maximum(memory * count.astype(float), 1.0)
        moments, new = {}, {}
        for node in updates.nodes:
            if node.name not in state.moments:
                continue
            parts = [updates.synapses[name].weight for name in _into(node)]
            error = jnp.ravel(updates.biases[node.name])
            largest = jnp.max(jnp.abs(error))  # before its square: that may be too small to hold
            unit = error / jnp.where(largest > 0, largest, 1.0)
            power = jnp.where(largest > 0, largest * (unit @ unit), 1.0)
            rates = jnp.concatenate([*parts, error[None]]) @ unit / power
            moment = state.moments[node.name]
            # an error of 0 does not say what was heard
            heard = jnp.where(largest > 0, jnp.outer(rates, rates), moment)
            moments[node.name] = moment = moment + (heard - moment) / span
            floor = (ridge / span + _LEAST) * jnp.eye(len(rates))
            gain = jax.scipy.linalg.solve(moment + floor, rates, assume_a="pos") / span
            cuts = np.cumsum([len(part) for part in parts])
            *gains, own = jnp.split(gain, cuts)
            new |= dict(zip(_into(node), (jnp.outer(g, error) for g in gains), strict=True))
            new[node.name] = own * updates.biases[node.name]
        changed = jax.tree_util.tree_map_with_path(
            lambda path, leaf: new.get(_name(path), leaf), updates
        )
        return changed, Recalled(moments, count)

    return optax.GradientTransformationExtraArgs(init, update)


def _into(node: Node) -> list[str]:
    """The names of the synapses that lead to a node."""
    return [edge(parent, node.name) for parent in node.parents]


_LEAST = 1e-6  # of the mean square of a rate: keeps a matrix of rates that hardly vary invertible

RULES: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": optax.identity,
    "momentum": lambda: optax.trace(0.9),
    "adam": optax.scale_by_adam,
    "rmsprop": optax.scale_by_rms,
    "rls": least_squares,
}

SCHEDULES: dict[str, Callable[[int, int], optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "exponential": _exponential,
    "linear": _linear,
}


def optimiser(
    circuit: AbstractCircuit,
    *,
    rule: str = "sgd",
    rate: Rate | Sequence[Rate] = 0.1,
    schedule: str = "constant",
    decay: float = 0.0,
    frobenius: bool = False,
    average: float = 0.0,
    epochs: int = 1,
    per_epoch: int = 1,
) -> optax.GradientTransformation:
    """An optax transformation for the parameters of `circuit`.

    **Arguments:**

    - `rule`: `"sgd"` (the neuron-local one), `"momentum"` (0.9), `"adam"`, `"rmsprop"`, or `"rls"`
      (see `least_squares`: one example an update).
    - `rate`: one learning rate, or one per node after the input, in order: a parameter belongs to
      the node its synapse leads to. A traced number will do: rates are swept by `jax.vmap`.
    - `schedule`: `"constant"`, `"cosine"` (to 0 over all steps), `"exponential"` (x 0.99 an epoch),
      `"linear"` (to 5%).
    - `decay`: weight decay, of synapses only, times the current rate.
    - `frobenius`: see `within_frobenius`.
    - `average`: keeps an average of each parameter, mostly over this last share of all updates so
      far, with which `LearnerState.answering` answers (0: with the latest); see `averaging`. Under
      `frobenius` the averaged matrices are somewhat smaller than the latest.
    - `epochs`, `per_epoch`: how long the schedule is, in epochs and steps an epoch.

    **Raises:** `InputError` for unknown names, rates that are not positive or too few.
    """
    receiving = [node.name for node in circuit.nodes if node.parents]
    rates = list(rate) if isinstance(rate, Sequence) else [rate] * len(receiving)
    if len(rates) != len(receiving):
        raise InputError(
            f"optimiser: {len(rates)} rates for {len(receiving)} layers {receiving}: "
            "give one rate, or one per layer"
        )
    for name, value in zip(receiving, rates, strict=True):
        check_positive("optimiser", **{f"rate of {name}": value})
    check_range("optimiser", 0, float("inf"), decay=decay)
    check_range("optimiser", 0, 1.0000001, average=average)
    shape = pick("schedule", schedule, SCHEDULES)(max(epochs * per_epoch, 1), max(per_epoch, 1))
    learning = optax.chain(
        pick("rule", rule, RULES)(),
        optax.add_decayed_weights(decay, mask=_is_synapse) if decay else optax.identity(),
        # a root's bias (its prior mean) learns with the first layer
        scale_by_layer(
            {node.name: rates[0] for node in circuit.nodes if not node.parents and rates}
            | dict(zip(receiving, rates, strict=True))
        ),
        scale_by_clock(shape),
    )
    if frobenius:
        learning = within_frobenius(learning)
    return optax.chain(learning, averaging(average)) if average else learning


def scale_by_clock(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by minus the schedule, read at `step` if the caller has a clock.

    Without one it counts its own updates. A learner that skips updates has one: its rate falls as
    its life goes on, not as often as it learns.
    """

    def update(updates, state, params=None, *, step=None, **more):
        del params, more
        rate = jnp.asarray(schedule(state.count if step is None else step))
        scaled = jax.tree.map(lambda g: -rate.astype(g.dtype) * g, updates)
        return scaled, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    init = lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))
    return optax.GradientTransformationExtraArgs(init, update)


class Average(NamedTuple):
    """What `averaging` keeps: the averaged parameters, and how many updates it has seen."""

    mean: Any
    count: Int[Array, ""]


def averaging(share: float) -> optax.GradientTransformation:
    """Leaves updates as they are, and keeps a slow trace of the parameters beside them.

    mean <- mean + (theta_t - mean) / max(share t, 1), with theta_t as update t finds it: weights
    that grow as t^(1/share - 1), so that the mean is of the last `share` above all, however long a
    life is; 1 weighs all alike. Each synapse needs itself alone for it. Polyak and Juditsky (1992);
    with such weights Shamir and Zhang (2013). `averaged` reads it.
    """

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("averaging needs the parameters")
        # as they are before this update: so what a caller does to an update afterwards counts
        count = jnp.asarray(optax.safe_increment(state.count))
        pace = 1 / jnp.maximum(share * count.astype(float), 1.0)
        follow = lambda mean, theta: mean + pace.astype(mean.dtype) * (theta - mean)
        return updates, Average(jax.tree.map(follow, state.mean, params), count)

    def init(params):  # in memory of its own: a learner's step overwrites its state
        return Average(jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32))

    return optax.GradientTransformation(init, update)


def averaged(circuit: AbstractCircuit, memory: optax.OptState) -> AbstractCircuit:
    """The circuit with the averaged parameters of an optimiser's memory; as it is without any."""
    kept = lambda node: isinstance(node, Average)
    means = [node.mean for node in jax.tree.leaves(memory, is_leaf=kept) if kept(node)]
    return eqx.combine(means[0], circuit.parameters()[1]) if means else circuit


def layer(path: tuple) -> str:
    """The node that a parameter belongs to: its bias's node, or the child end of its synapse."""
    return _name(path).split("->")[-1]


def _name(path: tuple) -> str:
    """The synapse, or the node, whose parameter it is."""
    names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    return names[0] if names else ""


def scale_by_layer(rates: Mapping[str, Rate]) -> optax.GradientTransformation:
    """Multiplies each update by the rate of the node it belongs to (1 where none is given)."""

    def update(updates, state, params=None):
        del params

        def scale(path, update):
            return update * rates.get(layer(path), 1.0)

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def within_frobenius(
    inner: optax.GradientTransformation, norm: float = 2.0, c: float = 1e-6
) -> optax.GradientTransformation:
    """Every synaptic change to unit norm before `inner`, every matrix to `norm` after it.

    delta <- delta / (|delta|_F + c); W <- norm W / (|W|_F + c). The whole matrix is read for each
    synapse, so this is not neuron-local (Ororbia and Mali, 2022, for active NGC).
    """
    sized = lambda w: jnp.sqrt(jnp.sum(w**2)) + c

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("within_frobenius needs the parameters")
        small = jax.tree.map(lambda u: u / sized(u) if u.ndim > 1 else u, updates)
        moved, state = inner.update(small, state, params)

        def back(move, weight):
            new = weight + move
            return norm * new / sized(new) - weight if weight.ndim > 1 else move

        return jax.tree.map(back, moved, params), state

    return optax.GradientTransformation(inner.init, update)


def _is_synapse(updates: AbstractCircuit):
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: eqx.is_inexact_array(leaf) and "->" in str(path), updates
    )
