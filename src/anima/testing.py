"""The conformance battery: one line proves a new circuit, solver, assigner or agent.

    check_circuit(MyCircuit(...))
    check_solver(MySolver())
    check_assigner(MyRule(), circuit)
    check_agent(lambda world: MyAgent(world, ...), cycles=500, discount=0.9)

Each tries the laws that the rest of the library relies on and raises `AssertionError` naming the
law that failed, with the numbers. Bounds follow the default float: under float64 they are sharp,
under float32 they are what differences of float32 numbers allow. Keep circuits small (tens of
units): Jacobians are built whole.
"""

import dataclasses
import pickle
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import PRNGKeyArray
from numpy.random import Generator

from anima.agent.agent import AbstractAgent
from anima.agent.life import lifetime
from anima.agent.mind import AbstractMind
from anima.circuit.circuit import AbstractCircuit, gradient
from anima.circuit.graph import Node
from anima.circuit.hopfield import Hopfield
from anima.circuit.predictive import Predictive
from anima.core.errors import InputError
from anima.core.types import Clamp, Cost, Result, State
from anima.learn.assigners import AbstractAssigner
from anima.learn.costs import CrossEntropy, SquaredError
from anima.learn.learner import Learner
from anima.settle.settle import settle
from anima.settle.solvers import AbstractSolver, Euler
from anima.world.env import AbstractWorld, ActionSpace, Discrete, begin, proceed
from anima.world.probes import PROBES, Probe, questions

Law = Callable[[AbstractCircuit, State, Cost], AbstractCircuit]
"""The gradient that an assigner's is measured against: (circuit, clamp, cost) -> one like it."""


def check_circuit(
    circuit: AbstractCircuit,
    *,
    conservative: bool = True,
    directed: bool = True,
    seed: int = 0,
) -> None:
    """Raises `AssertionError` unless `circuit` keeps the laws of an `AbstractCircuit`.

    **Arguments:**

    - `conservative`: whether it claims that its force is -dE/dz and its plasticity dE/dtheta
      (an NGC circuit without the derivative gate does not).
    - `directed`: whether a child's error reads all its parents, so that a synapse may read its
      co-parents and parents of one child touch. False: only the two ends of an edge do.
    - `seed`: of the random activities and directions at which the laws are tried.

    The laws: `start` fills every node and keeps clamps; bad clamps are `InputError`s; force and
    plasticity are the energy's derivatives, and local; blocks cover and do not touch; a node
    moved by force / curvature descends; `project` and `silence` mean what they say; an example
    settles alone as it does in a batch; the circuit pickles.
    """
    random, key = np.random.default_rng(seed), jax.random.key(seed)
    state, clamp = _activities(circuit, random), _ends(circuit, random)
    _check_start(circuit, clamp)
    _check_clamps_refused(circuit, clamp)
    _check_shapes(circuit, state)
    if conservative:
        _check_derivatives(circuit, state, random)
        _check_descent(circuit, state)
    awake, quiet, again = _silenced(circuit, key)
    _check_blocks(circuit, _check_locality(awake, state, directed, random))
    _check_project(circuit, state)
    was, force = _look(circuit, state)["force"], _look(quiet, state)["force"]
    same = 1e2 * _epsilon()
    _close("silence at rate 0 is the identity", _look(awake, state)["force"], was, same)
    _close("silence depends on nothing but its key", _look(again, state)["force"], force, 0)
    _check_silence(quiet, state, directed, random)
    _check_silence_refused(circuit, key)
    _check_batch(circuit, clamp, random)
    _check_pickle(circuit)


def check_solver(solver: AbstractSolver, *, max_steps: int = 20_000, seed: int = 0) -> None:
    """Raises `AssertionError` unless `solver` settles what is easy to settle, and reports it.

    **Arguments:** `max_steps`, within which it must settle two small strictly convex problems, a
    linear predictive circuit (compared with a direct solve) and a bounded Hopfield circuit
    (compared with small explicit steps); `seed`, of their weights.

    The laws: the right fixed point, no higher than the start; a residual that is what it says;
    the right `Result` code; one trace whatever `max_steps`; the same answer in a batch; nothing
    to do when nothing is free. A solver with a field `dt` must report the divergence of dt = 1e9.
    """
    weights = jax.random.key(seed)
    linear = Predictive.mlp([3, 4, 4, 2], activation="identity", key=weights)
    gentle = lambda leaf: leaf / 2 if jnp.ndim(leaf) == 2 else leaf
    linear = jax.tree.map(gentle, linear)  # curvature below 2
    bounded = Hopfield.mlp([3, 5, 4, 2], scale=0.5, key=weights)
    state = _random(linear.nodes, np.random.default_rng(seed))
    both, one = {n: state[n] for n in ("input", "output")}, {"input": state["input"]}
    _check_settles(solver, linear, both, _directly(linear, both), max_steps)
    _check_settles(solver, bounded, one, _slowly(bounded, one), max_steps)
    _check_codes(solver, linear, both, max_steps)
    _check_one_trace(solver, bounded, one)
    _check_batched_solver(solver, bounded, one, max_steps)
    _check_nothing_free(solver, linear, state)


def check_assigner(
    assigner: AbstractAssigner,
    circuit: AbstractCircuit,
    *,
    law: Law | None = None,
    least: float = 0.0,
    flat: bool = True,
    seed: int = 0,
) -> None:
    """Raises `AssertionError` unless `assigner` gives `circuit` credit that descends any cost.

    **Arguments:**

    - `circuit`: small, with nodes `input` and `output`.
    - `law`: the gradient to compare with. Default: the true gradient of the cost at the
      assigner's own answer, by forward mode (`true_gradient`).
    - `least`: the cosine with it must be greater than this (0: less than 90 degrees apart).
    - `flat`: whether no cost must mean no change (not so where the circuit also learns to
      represent, as NGC's error on rates does).
    - `seed`: of the example, its target, and of rules that draw.

    The laws: credit shaped like the circuit's parameters, finite, the same for the same key; an
    `Info` that is true; the angle, for a squared, a cross-entropy and an arbitrary cost; the
    credit of a batch is the mean of its examples'; a clamp that is not a number is reported.
    """
    key, random = jax.random.key(seed), np.random.default_rng(seed)
    law = partial(true_gradient, assigner) if law is None else law
    clamp = {"input": _random(circuit.nodes, random)["input"]}
    target = _random(circuit.nodes, random)["output"]
    costs: dict[str, Cost] = {
        "squared": partial(SquaredError(), target),
        "cross-entropy": partial(CrossEntropy(), np.exp(target) / np.sum(np.exp(target))),
        "arbitrary": lambda output: jnp.sum(jnp.log(jnp.cosh(output - target)) + target * output),
    }

    def chosen(which, output):  # one compiled program for all costs: which it is comes as data
        return which @ jnp.stack([cost(output) for cost in costs.values()])

    @eqx.filter_jit
    def give(clamp, which):
        return assigner.gradient(circuit, clamp, partial(chosen, which), key=key)

    reference = eqx.filter_jit(lambda which: law(circuit, clamp, partial(chosen, which)))
    answer = eqx.filter_jit(assigner.predict)(circuit, clamp).state["output"]
    unit, largest = np.eye(len(costs), dtype=answer.dtype), 0.0
    for name, which in zip(costs, unit, strict=True):
        credit = _check_credit(circuit, costs[name], answer, partial(give, clamp, which), name)
        _check_angle(credit, reference(which), least, name)
        largest = max(largest, _largest(credit))
    if flat:
        _check_flat(give(clamp, 0 * unit[0])[0], largest)
    _check_batch_credit(assigner, circuit, random, key)
    nowhere = {name: np.full_like(value, np.nan) for name, value in clamp.items()}
    _check_reported(int(give(nowhere, unit[0])[1].result))


def check_agent(
    build: Callable[[AbstractWorld], AbstractAgent],
    *,
    cycles: int,
    discount: float,
    action: ActionSpace = Discrete(2),
    tolerance: float = 0.15,
    seed: int = 0,
) -> None:
    """Raises `AssertionError` unless an agent has the habits of one, and passes the five probes.

    **Arguments:**

    - `build`: makes the agent for a world; rewards must not be scaled.
    - `cycles`: how often it may learn in each probe. - `discount`: the gamma it was given.
    - `action`: two actions, or one continuous action in [-1, 1].
    - `tolerance`: how far returns and values may be from the best policy's. A policy that never
      stops exploring is worth less than the best.

    The probes (`anima.world.probes`) are lived side by side in one compiled program. The message
    names all that failed, in the order in which to look for the cause.
    """
    agent = build(Probe.of("credit", action))
    _check_habits(agent)
    returns, worths = _probed(agent.mind, cycles, action, seed)
    failed = []
    for which, name in enumerate(PROBES):
        if not np.all(returns[which] >= 1 - tolerance):
            failed.append(f"{name}: greedy returns {_rounded(returns[which])}, the best is 1")
        for place, (seen, wanted) in enumerate(questions(which, discount)):
            found = worths[which, place]
            if not (np.isnan(found) or abs(found - wanted) <= tolerance):
                failed.append(f"{name}: the value at {seen} is {found:.3f}, it should be {wanted}")
    _holds(f"{type(agent).__name__} passes the five probes", not failed, "; ".join(failed))


def _probed(
    mind: AbstractMind, cycles: int, action: ActionSpace, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy returns in each probe, (5, 8), and values at its questions, (5, 2), NaN for none."""
    asked = [[seen for seen, _ in questions(which, 1.0)] for which in range(len(PROBES))]
    padded = jnp.asarray([seen + seen[:1] * (2 - len(seen)) for seen in asked])

    @jax.jit
    @jax.vmap
    def live(which, seen):
        world = Probe(which=which, spec=mind.spec)
        state = lifetime(mind, world, jnp.asarray(seed, jnp.uint32), cycles)[0].mind
        found = mind.worth(state, seen)
        return _played(mind, world, state), jnp.full(2, jnp.nan) if found is None else found

    returns, worths = live(jnp.arange(len(PROBES)), padded)
    return np.asarray(returns), np.asarray(worths)


def _played(mind: AbstractMind, world: Probe, state: Any) -> jax.Array:
    """The returns of eight greedy episodes of a probe, which ends after two steps at most."""
    moments = jax.vmap(lambda key: begin(world, key))(jax.random.split(jax.random.key(8), 8))
    score, over = jnp.zeros(8), jnp.zeros(8, bool)
    for _ in range(2):
        action = mind.choose(state, moments.observation)
        keys = jax.random.split(jax.random.key(0), (8, 2))
        moments, happened = jax.vmap(partial(proceed, world))(moments, action, keys)
        score, over = score + jnp.where(over, 0, happened.reward), over | happened.ended
    return score


def _check_habits(agent: AbstractAgent) -> None:
    """What Stable-Baselines3 and a checkpoint ask of an agent."""
    spec = agent.mind.spec
    seen = np.random.default_rng(0).normal(size=(6, spec.observation)).astype(np.float32)
    action, none = agent.predict(seen, deterministic=True)
    _holds("predict gives (action, None)", none is None)
    again = agent.predict(seen, deterministic=True)[0]
    _holds("a deterministic prediction is the same again", bool(np.array_equal(action, again)))
    one = agent.predict(seen[0], deterministic=True)[0]
    _holds("one observation gives one action", one.shape == action.shape[1:])
    for given in (action, agent.predict(seen, deterministic=False)[0]):
        inside = np.asarray(spec.action.clip(jnp.asarray(given)))
        _holds(
            "actions are in the space",
            np.all((given >= 0) & (given < spec.action.n)).item()
            if isinstance(spec.action, Discrete)
            else bool(np.allclose(inside, given)),
        )
    _refused("an observation that is not a number", lambda: agent.predict(np.nan * seen))
    _refused("no step to learn", lambda: agent.learn(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.npz"
        agent.save(path)
        loaded = type(agent).load(path, agent.world)
    same = np.array_equal(loaded.predict(seen)[0], action)
    _holds("an agent that was saved and loaded does the same", bool(same))


def true_gradient(
    assigner: AbstractAssigner, circuit: AbstractCircuit, clamp: Clamp, cost: Cost
) -> AbstractCircuit:
    """d cost(answer) / d theta, the answer being the assigner's own prediction, by forward mode.

    It follows the settling itself, which a `while_loop` allows forwards only: exact where the
    answer has converged, and independent of how the assigner works. Cost: one settling per
    parameter.
    """
    learnt, rest = circuit.parameters()
    flat, unravel = ravel_pytree(learnt)

    def judged(flat):
        answer = assigner.predict(eqx.combine(unravel(flat), rest), clamp)
        return cost(answer.state["output"])

    return unravel(jax.jacfwd(judged)(flat))


def cosine(one: Any, other: Any) -> float:
    """The cosine of the angle between two gradients, over the arrays in which `other` moves."""
    pairs = zip(_arrays(one), _arrays(other), strict=True)
    pairs = [(a.ravel(), b.ravel()) for a, b in pairs if np.any(b != 0)]
    _holds("the reference gradient is not zero", bool(pairs))
    a, b = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-300))


# Circuits.


@eqx.filter_jit
def _look(circuit: AbstractCircuit, state: State) -> dict[str, Any]:
    """All that a circuit says of a state, and of itself."""
    return {
        "energy": circuit.energy(state),
        "force": circuit.force(state),
        "plasticity": circuit.plasticity(state),
        "asked": gradient(lambda c: (c.synaptic_energy(state), None), circuit)[0],
        "curvature": circuit.curvature(),
    }


@eqx.filter_jit
def _silenced(circuit: AbstractCircuit, key: PRNGKeyArray) -> list[AbstractCircuit]:
    """The circuit with all units awake, with half of them silent, and the latter once more."""
    names = [node.name for node in circuit.nodes]
    return [circuit.silence(dict.fromkeys(names, rate), key=key) for rate in (0.0, 0.5, 0.5)]


def _check_start(circuit: AbstractCircuit, clamp: Clamp) -> None:
    state = eqx.filter_jit(lambda circuit, clamp: circuit.start(clamp))(circuit, clamp)
    got = {name: value.shape for name, value in state.items()}
    want = {node.name: node.shape for node in circuit.nodes}
    _holds("start gives every node an activity of its shape", got == want, f"{got}, not {want}")
    for name, value in clamp.items():
        _close(f"start keeps the clamp of {name!r}", state[name], value, 0)
    _holds("the start is finite", _finite(state))


def _check_clamps_refused(circuit: AbstractCircuit, clamp: Clamp) -> None:
    name, value = next(iter(clamp.items()))
    full = {node.name: jnp.zeros(node.shape) for node in circuit.nodes}
    _refused("a clamp of an unknown node", lambda: circuit.start({**clamp, "nobody": value}))
    _refused("a clamp of a wrong shape", lambda: circuit.start({**clamp, name: value[None]}))
    misspelt = lambda: settle(circuit, {"nobody": value}, start=full)
    _refused("a clamp of an unknown node, settled from a given start", misspelt)


def _check_shapes(circuit: AbstractCircuit, state: State) -> None:
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    seen = _look(circuit, state)
    whole = seen["energy"].shape == () and _finite(seen["energy"])
    _holds("the energy is a finite scalar", whole, f"{seen['energy']}")
    got = shapes(seen["force"])
    _holds("force has the state's shapes", got == shapes(state), f"{got}")
    got, want = shapes(_parameters(seen["plasticity"])), shapes(circuit.parameters()[0])
    _holds("plasticity is shaped like the circuit's parameters", got == want, f"{got}")
    _holds("force is finite", _finite(seen["force"]))
    _holds("plasticity is finite", _finite(_parameters(seen["plasticity"])))
    law = "plasticity is the gradient of synaptic_energy (which is what assigners differentiate)"
    _close(law, _arrays(seen["plasticity"]), _arrays(seen["asked"]), 1e3 * _epsilon())
    got = set(seen["curvature"])
    _holds("curvature names every node", got == set(state), f"{sorted(got)}")
    positive = all(bool(np.all(c > 0)) for c in _arrays(seen["curvature"]))
    _holds("curvature is positive", positive and _finite(seen["curvature"]), f"{seen['curvature']}")


def _check_derivatives(circuit: AbstractCircuit, state: State, random: Generator) -> None:
    """Force and plasticity against central differences of the energy, in random directions."""
    h = _epsilon() ** (1 / 3)

    @eqx.filter_jit
    def compare(circuit, state, way, turn):
        learnt, rest = circuit.parameters()
        energy = lambda learnt, state: eqx.combine(learnt, rest).energy(state)
        along = lambda tree, way, h: jax.tree.map(lambda x, d: x + h * d, tree, way)
        rise = energy(learnt, along(state, way, h)) - energy(learnt, along(state, way, -h))
        climb = energy(along(learnt, turn, h), state) - energy(along(learnt, turn, -h), state)
        change = _parameters(circuit.plasticity(state))
        felt = -_dot(circuit.force(state), way)
        return felt, rise / (2 * h), _dot(change, turn), climb / (2 * h)

    for _ in range(3):
        way, turn = _like(state, random), _like(circuit.parameters()[0], random)
        felt, rise, learnt, climb = compare(circuit, state, way, turn)
        bound = 300 * _epsilon() ** (2 / 3)
        _close("force is minus the gradient of the energy", felt, rise, bound)
        _close("plasticity is the energy's gradient in the parameters", learnt, climb, bound)


def _check_locality(
    circuit: AbstractCircuit, state: State, directed: bool, random: Generator
) -> dict[tuple[str, str], bool]:
    """Who reads whom, at random activities; returns it for the force between nodes.

    By moving one node's activity and looking for any change at all: a Jacobian would not see
    through a `stop_gradient`.
    """
    parents = {node.name: set(node.parents) for node in circuit.nodes}
    edges = [{child, parent} for child in parents for parent in parents[child]]
    families = [{child} | above for child, above in parents.items()]
    groups = families if directed else [*edges, *({name} for name in parents)]

    def allowed(path) -> list[set[str]]:
        for entry in path:
            ends = str(getattr(entry, "key", "")).split("->")
            if set(ends) <= set(parents):
                return [set(ends) | parents[ends[-1]] if directed else set(ends)]
        return groups  # a parameter whose name does not say where it sits: any one place will do

    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(circuit.parameters()[0])]
    before, after = _look(circuit, state), {}
    for name, moved in _like(state, random).items():
        after[name] = _look(circuit, state | {name: moved})
    changes = {n: _arrays(found["plasticity"]) for n, found in after.items()}
    for i, (path, was) in enumerate(zip(paths, _arrays(before["plasticity"]), strict=True)):
        read = {name for name in after if not np.array_equal(changes[name][i], was)}
        local = any(read <= group for group in allowed(path))
        detail = f"it reads the activities of {sorted(read)}"
        _holds(f"the change of {jax.tree_util.keystr(path)} is local", local, detail)
    forces = {n: found["force"] for n, found in after.items()}
    read = lambda n, m: not np.array_equal(forces[m][n], before["force"][n])
    reads = {(n, m): read(n, m) for n in state for m in state if n != m}
    for (name, other), does in reads.items():
        near = any({name, other} <= group for group in groups)
        _holds("force is local", near or not does, f"that on {name!r} reads {other!r}")
    return reads


def _check_blocks(circuit: AbstractCircuit, reads: dict[tuple[str, str], bool]) -> None:
    blocks = circuit.blocks()
    covered = sorted(name for block in blocks for name in block)
    names = sorted(node.name for node in circuit.nodes)
    _holds("blocks hold every node once", covered == names, f"{blocks}")
    for one, other in (pair for block in blocks for pair in combinations(block, 2)):
        touch = reads[one, other] or reads[other, one]
        _holds("nodes of a block do not touch", not touch, f"{one} and {other} do")


def _check_descent(circuit: AbstractCircuit, state: State) -> None:
    """What a block solver does must go downhill, or curvature is no bound."""

    @eqx.filter_jit
    def rises(circuit, state):
        stiff, force, before = circuit.curvature(), circuit.force(state), circuit.energy(state)
        moved = {name: state[name] + force[name] / stiff[name] for name in state}
        return {n: circuit.energy(state | {n: moved[n]}) - before for n in state}, before

    found, before = rises(circuit, state)
    for name, rise in found.items():
        law = f"moving {name!r} alone by force / curvature does not raise the energy"
        bound = 1e2 * _epsilon() * (1 + abs(float(before)))
        _holds(law, float(rise) <= bound, f"it rises by {float(rise):.3g}")


def _check_project(circuit: AbstractCircuit, state: State) -> None:
    @eqx.filter_jit
    def project(circuit, state):
        wild = {name: 3 * (value - 0.5) for name, value in state.items()}
        once = circuit.project(wild)
        return once, circuit.project(once), {n: circuit.project({n: wild[n]})[n] for n in wild}

    once, twice, alone = project(circuit, state)
    _close("project is idempotent", twice, once, 0)
    _close("project treats each node by itself", alone, once, 0)


def _check_silence(quiet, state: State, directed: bool, random: Generator) -> None:
    """Silent units send nothing and hear nothing (in a directed circuit: but their parents)."""
    moved, before = _like(state, random), _look(quiet, state)
    _holds("a silenced circuit is finite", _finite((before["force"], _arrays(before))))
    for node in quiet.nodes:
        dead, own = np.asarray(quiet.gain[node.name]) == 0, state[node.name]
        kin = {node.name, *(node.parents if directed else ())}
        shifted = jnp.where(jnp.asarray(dead), moved[node.name], own)
        heard = _look(quiet, state | {node.name: shifted})["force"]
        for other in set(state) - kin:
            law = f"silent units of {node.name!r} send {other!r} nothing"
            _close(law, heard[other], before["force"][other], 0)
        around = {name: value for name, value in moved.items() if name not in kin}
        felt = _look(quiet, state | around)["force"][node.name]
        law = f"silent units of {node.name!r} hear nothing of other nodes"
        _close(law, np.asarray(felt)[dead], np.asarray(before["force"][node.name])[dead], 0)


def _check_silence_refused(circuit: AbstractCircuit, key: PRNGKeyArray) -> None:
    name = circuit.nodes[0].name
    _refused("an unknown node to silence", lambda: circuit.silence({"nobody": 0.5}, key=key))
    _refused("a silence rate of 1", lambda: circuit.silence({name: 1.0}, key=key))


def _check_batch(circuit: AbstractCircuit, clamp: Clamp, random: Generator) -> None:
    @eqx.filter_jit
    def run(circuit, several):  # small steps, which suit any circuit: the point is the batch
        one = lambda clamp: settle(circuit, clamp, solver=Euler(0.05), tol=jnp.asarray(1e-2))
        return jax.vmap(one)(several).state

    several = {n: np.stack([_like(value, random) for _ in range(8)]) for n, value in clamp.items()}
    together = run(circuit, several)
    for i in range(8):
        alone = run(circuit, {name: value[i : i + 1] for name, value in several.items()})
        law = "where an example settles does not depend on its batch"
        row = {name: np.asarray(value)[i : i + 1] for name, value in together.items()}
        _close(law, row, alone, max(1e-6, 1e2 * _epsilon()))


def _check_pickle(circuit: AbstractCircuit) -> None:
    try:
        back = pickle.loads(pickle.dumps(circuit))
    except (pickle.PicklingError, AttributeError, TypeError) as failure:
        raise AssertionError(f"the circuit pickles: it does not ({failure})") from failure
    same = jax.tree.structure(back) == jax.tree.structure(circuit)
    _holds("a pickled circuit comes back with its structure", same)
    _close("a pickled circuit comes back with its numbers", _arrays(back), _arrays(circuit), 0)


# Solvers.


@eqx.filter_jit
def _settle(solver, circuit, clamp: Clamp, tol, max_steps):
    return settle(circuit, clamp, solver=solver, tol=tol, max_steps=max_steps)


def _check_settles(solver, circuit, clamp: Clamp, answer: State, max_steps: int) -> None:
    tol, kind = _epsilon() ** 0.5, type(circuit).__name__
    found = _settle(solver, circuit, clamp, np.asarray(tol, _float()), np.int32(max_steps))
    left, before = _left(circuit, clamp, found.state)
    code, detail = Result(int(found.result)), f"residual {float(found.residual):.3g}"
    detail = f"{code.message}; {detail} after {int(found.steps)} steps"
    _holds(f"a small convex {kind} circuit settles", code == Result.CONVERGED, detail)
    _close(f"a {kind} circuit settles where it should", found.state, answer, 1e2 * tol)
    _close("the residual is what is left", found.residual, left, 1e2 * _epsilon())
    rise = float(found.energy) - float(before)
    _holds("settling does not raise the energy", rise <= 1e2 * _epsilon(), f"by {rise:.3g}")


def _check_codes(solver: AbstractSolver, circuit, clamp: Clamp, max_steps: int) -> None:
    tol = np.asarray(0.0, _float())
    cut = _settle(solver, circuit, clamp, tol, np.int32(1))
    honest = int(cut.result) == Result.MAX_STEPS and int(cut.steps) == 1
    _holds("a settling cut short says so", honest, Result(int(cut.result)).message)
    nowhere = {**clamp, "input": np.full_like(clamp["input"], np.nan)}
    lost = _settle(solver, circuit, nowhere, tol, np.int32(max_steps))
    _check_reported(int(lost.result))
    if any(field.name == "dt" for field in dataclasses.fields(solver)):
        absurd = dataclasses.replace(solver, dt=1e9)
        lost = _settle(absurd, circuit, clamp, tol, np.int32(max_steps))
        code = Result(int(lost.result))
        _holds("dt = 1e9 is reported as divergence", code == Result.NONFINITE, code.message)


def _check_one_trace(solver: AbstractSolver, circuit, clamp: Clamp) -> None:
    traces = []

    @jax.jit
    def run(max_steps, tol):
        traces.append(max_steps)
        return settle(circuit, clamp, solver=solver, tol=tol, max_steps=max_steps).steps

    steps = [int(run(count, -1.0)) for count in (1, 3, 9)]
    _holds("as many steps as were asked for", steps == [1, 3, 9], f"{steps}")
    _holds("one trace whatever max_steps", len(traces) == 1, f"{len(traces)} traces")


def _check_batched_solver(solver: AbstractSolver, circuit, clamp: Clamp, max_steps: int) -> None:
    run = lambda clamp: _settle(
        solver, circuit, clamp, np.asarray(1e-3, _float()), np.int32(max_steps)
    )
    scales = np.asarray([0.0, 1.0, -2.0], _float())
    several = {name: np.multiply.outer(scales, value) for name, value in clamp.items()}
    together = jax.vmap(run)(several)
    for i in range(3):
        alone = run({name: value[i] for name, value in several.items()})
        state = {name: np.asarray(value)[i] for name, value in together.state.items()}
        _close("a batch settles as its examples do", state, alone.state, 1e3 * _epsilon())
        law = "an example takes its own number of steps in a batch"
        _close(law, np.asarray(together.steps)[i], alone.steps, 0)


def _check_nothing_free(solver: AbstractSolver, circuit: AbstractCircuit, full: State) -> None:
    tol = np.asarray(1e-4, _float())
    found = _settle(solver, circuit, full, tol, np.int32(10))
    _close("a state clamped whole stays", found.state, full, 0)
    done = int(found.result) == Result.CONVERGED and float(found.residual) == 0
    _holds("a state clamped whole has settled", done, f"residual {float(found.residual):.3g}")


def _check_reported(code: int) -> None:
    message = Result(code).message
    _holds("a clamp that is not a number is reported", code == Result.NONFINITE, message)


@eqx.filter_jit
def _directly(circuit: AbstractCircuit, clamp: State) -> State:
    """Where a linear force vanishes, by one solve."""
    begin = circuit.start(clamp)
    flat, unravel = ravel_pytree({n: v for n, v in begin.items() if n not in clamp})

    def force(flat):
        pull = circuit.force({**clamp, **unravel(flat)})
        return ravel_pytree({name: pull[name] for name in unravel(flat)})[0]

    zero = jnp.zeros_like(flat)
    return {**clamp, **unravel(jnp.linalg.solve(-jax.jacfwd(force)(zero), force(zero)))}


@eqx.filter_jit
def _slowly(circuit: AbstractCircuit, clamp: Clamp) -> State:
    """Where small explicit steps end up, written without the library's loop."""

    def step(_, state):
        force = circuit.force(state)
        moved = circuit.project({name: state[name] + 0.1 * force[name] for name in state})
        return {**moved, **clamp}

    return jax.lax.fori_loop(0, 3000, step, circuit.start(clamp))


@eqx.filter_jit
def _left(circuit: AbstractCircuit, clamp: Clamp, state: State):
    """The largest projected free force, and the energy of the start."""
    force = circuit.force(state)
    moved = circuit.project({name: state[name] + force[name] for name in state})
    gaps = [jnp.max(jnp.abs(moved[n] - state[n])) for n in state if n not in clamp]
    return jnp.max(jnp.stack(gaps)), circuit.energy(circuit.start(clamp))


# Assigners.


def _check_credit(circuit, cost: Cost, answer: Any, give: Callable, name: str) -> AbstractCircuit:
    credit, info = give()
    got, want = (jax.tree.map(jnp.shape, tree) for tree in (credit, circuit.parameters()[0]))
    _holds("credit is shaped like the circuit's parameters", got == want, f"{got}")
    _holds(f"credit is finite for the {name} cost", _finite(credit))
    _close("credit is the same for the same key", _arrays(give()[0]), _arrays(credit), 0)
    near = 1e3 * _epsilon()
    _close("info's output is the assigner's answer", info.output, answer, near)
    _close("info's cost is that of its answer", info.cost, cost(answer), near)
    known = 0 <= int(info.result) < len(Result) and int(info.steps) >= 0
    _holds("info's result and steps mean something", known, f"{info.result}, {info.steps}")
    return credit


def _check_angle(credit, reference, least: float, name: str) -> None:
    found = cosine(credit, reference)
    law = f"credit for the {name} cost points along the gradient (cosine above {least})"
    _holds(law, found > least, f"its cosine is {found:.6f}")


def _check_flat(credit: AbstractCircuit, size: float) -> None:
    nothing = [np.zeros_like(array) for array in _arrays(credit)]
    bound = max(_epsilon() ** 0.5, 1e-6) * size
    _close("a cost that is flat changes nothing", _arrays(credit), nothing, bound)


def _check_batch_credit(assigner, circuit, random: Generator, key: PRNGKeyArray) -> None:
    """The learner's credit for a batch against that of each example by itself."""
    learner = Learner(circuit, assigner, SquaredError(), optax.identity())

    @eqx.filter_jit
    def compare(circuit, inputs, targets, keys):
        def single(example):
            x, target, key = example
            _, key = jax.random.split(key)  # the first half is for silence
            cost = partial(SquaredError(), target)
            return assigner.gradient(circuit, {"input": x}, cost, key=key)[0]

        batch, _ = learner.gradient(circuit, {"input": inputs}, targets, keys)
        alone = jax.lax.map(single, (inputs, targets, keys))
        return batch, jax.tree.map(lambda parts: jnp.mean(parts, 0), alone)

    draw = lambda name: random.normal(size=(3, *circuit.node(name).shape)).astype(_float())
    batch, mean = compare(circuit, draw("input"), draw("output"), jax.random.split(key, 3))
    law = "the credit of a batch is the mean of its examples' credits"
    _close(law, _arrays(batch), _arrays(mean), 1e4 * _epsilon())


# Saying what failed.


def _holds(law: str, truth: bool, detail: str = "") -> None:
    if not truth:
        raise AssertionError(f"{law}: it is not so" + (f" ({detail})" if detail else ""))


def _close(law: str, got: Any, want: Any, bound: float) -> None:
    """Raises unless no number differs by more than `bound` (times the largest, if that is > 1)."""
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True))
    gap = max((_largest(np.subtract(a, b)) for a, b in pairs), default=0.0)
    allowed = bound * max(1.0, _largest(want))
    if not gap <= allowed:
        raise AssertionError(f"{law}: off by {gap:.3g}, allowed {allowed:.3g}")


def _rounded(numbers: np.ndarray) -> list[float]:
    return sorted({round(float(number), 2) for number in numbers})


def _refused(what: str, call: Callable[[], Any]) -> None:
    law = f"{what} is an InputError"
    try:
        call()
    except InputError:
        return
    except Exception as other:
        raise AssertionError(f"{law}: it raised {other!r}") from other
    raise AssertionError(f"{law}: nothing was raised")


# Random places, and arithmetic on trees. Numbers are compared in NumPy, which compiles nothing.


def _random(nodes: Sequence[Node], random: Generator) -> State:
    return {node.name: jnp.asarray(_like(np.empty(node.shape), random)) for node in nodes}


def _activities(circuit: AbstractCircuit, random: Generator) -> State:
    """Generic activities, where errors do not vanish and bounds seldom bite."""
    drawn = {name: 0.5 + 0.25 * value for name, value in _random(circuit.nodes, random).items()}
    return eqx.filter_jit(lambda circuit, state: circuit.project(state))(circuit, drawn)


def _ends(circuit: AbstractCircuit, random: Generator) -> State:
    """A clamp of the roots, and of the leaves too if something is left between them."""
    parents = {parent for node in circuit.nodes for parent in node.parents}
    roots = {node.name for node in circuit.nodes if not node.parents}
    leaves = {node.name for node in circuit.nodes if node.name not in parents}
    clamped = roots | leaves if len(roots | leaves) < len(circuit.nodes) else roots
    drawn = _random(circuit.nodes, random)
    return {name: value for name, value in drawn.items() if name in clamped}


def _parameters(circuit: Any) -> Any:
    return eqx.filter(circuit, eqx.is_inexact_array)


def _arrays(tree: Any) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array_like))]


def _like(tree: Any, random: Generator) -> Any:
    """Standard normal numbers of a tree's shapes."""
    return jax.tree.map(lambda x: random.normal(size=np.shape(x)).astype(_float()), tree)


def _dot(one: Any, other: Any):
    return ravel_pytree(one)[0] @ ravel_pytree(other)[0]


def _finite(tree: Any) -> bool:
    return all(bool(np.all(np.isfinite(x))) for x in jax.tree.leaves(tree))


def _largest(tree: Any) -> float:
    arrays = (np.asarray(leaf) for leaf in jax.tree.leaves(tree))
    return max((float(np.max(np.abs(x))) for x in arrays if x.size), default=0.0)


def _float() -> Any:
    return jnp.result_type(float)


def _epsilon() -> float:
    return float(jnp.finfo(_float()).eps)
