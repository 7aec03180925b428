"""The conformance battery: one line proves a new circuit, solver or assigner.

    check_circuit(MyCircuit(...))
    check_solver(MySolver())
    check_assigner(MyRule(), circuit)

Each checks the laws that the rest of the library relies on and raises `AssertionError` naming the
law that failed, with the numbers. Bounds follow the default float: under float64 they are sharp,
under float32 they are what differences of float32 numbers allow. Keep circuits small (tens of
units): Jacobians are built whole.
"""

import dataclasses
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import PRNGKeyArray

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.graph import Dense, Node
from anima.circuit.hopfield import Hopfield
from anima.circuit.predictive import Predictive
from anima.core.errors import InputError
from anima.core.types import Cost, Equilibrium, Result, State
from anima.learn.assigners import AbstractAssigner
from anima.learn.costs import CrossEntropy, SquaredError
from anima.learn.learner import Learner
from anima.settle.settle import settle
from anima.settle.solvers import AbstractSolver, Euler

Law = Callable[[AbstractCircuit, State, Cost], AbstractCircuit]
"""The gradient that an assigner's is measured against: (circuit, clamp, cost) -> one like it."""


def check_circuit(
    circuit: AbstractCircuit,
    *,
    conservative: bool = True,
    directed: bool = True,
    held: Sequence[str] = ("precision", "lateral", "gain"),
    key: PRNGKeyArray | None = None,
) -> None:
    """Raises `AssertionError` unless `circuit` keeps the laws of an `AbstractCircuit`.

    **Arguments:**

    - `conservative`: whether it claims that its force is -dE/dz and its plasticity dE/dtheta
      (an NGC circuit without the derivative gate does not).
    - `directed`: whether a child's error reads all its parents, so that a synapse may read its
      co-parents and parents of one child touch. False: only the two ends of an edge do.
    - `held`: fields whose parameters do not learn: their plasticity must be exactly zero.
    - `key`: for the random activities and directions at which the laws are tried.

    The laws: `start` fills every node and keeps clamps; bad clamps are `InputError`s; force and
    plasticity are the energy's derivatives, and local; blocks cover and do not touch; curvature
    bounds; `project` and `silence` mean what they say; an example settles alone as it does in a
    batch; the circuit pickles.
    """
    key = jax.random.key(0) if key is None else key
    state, clamp = _activities(circuit, key), _ends(circuit, key)
    _check_start(circuit, clamp)
    _check_clamps_refused(circuit, clamp)
    _check_shapes(circuit, state)
    if conservative:
        _check_conservative(circuit, state, held, key)
    _check_plasticity(circuit, state, held)
    touching = _check_influence(circuit, state, directed)
    _check_blocks(circuit, touching)
    _check_curvature(circuit, state, conservative)
    _check_project(circuit, state)
    _check_silence(circuit, state, directed, key)
    _check_batch(circuit, clamp, key)
    _check_pickle(circuit)


def check_solver(
    solver: AbstractSolver, *, max_steps: int = 20_000, key: PRNGKeyArray | None = None
) -> None:
    """Raises `AssertionError` unless `solver` settles what is easy to settle, and reports it.

    **Arguments:** `max_steps`, within which it must settle two small strictly convex problems, a
    linear predictive circuit (compared with a direct solve) and a bounded Hopfield circuit
    (compared with small explicit steps); `key`, for their weights.

    The laws: the right fixed point, no higher than the start; a residual that is what it says;
    the right `Result` code; one trace whatever `max_steps`; the same answer in a batch; nothing
    to do when nothing is free. A solver with a field `dt` must report the divergence of dt = 1e9.
    """
    key = jax.random.key(0) if key is None else key
    weights, given = jax.random.split(key)
    linear = Predictive.mlp([3, 4, 4, 2], activation="identity", key=weights)
    linear = jax.tree.map(lambda leaf: leaf / 2 if leaf.ndim == 2 else leaf, linear)
    bounded = Hopfield.mlp([3, 5, 4, 2], scale=0.5, key=weights)
    clamp = _random(linear.nodes, given)
    clamp = {name: clamp[name] for name in ("input", "output")}
    answer = _directly(linear, clamp)
    _check_settles(solver, linear, clamp, answer, max_steps)
    clamp = {"input": clamp["input"]}
    _check_settles(solver, bounded, clamp, _slowly(bounded, clamp), max_steps)
    _check_codes(solver, linear, clamp | {"output": jnp.ones(2)}, max_steps)
    _check_one_trace(solver, bounded, clamp)
    _check_batched_solver(solver, bounded, clamp, max_steps)
    _check_nothing_free(solver, bounded)


def check_assigner(
    assigner: AbstractAssigner,
    circuit: AbstractCircuit,
    *,
    law: Law | None = None,
    least: float = 0.0,
    flat: bool = True,
    key: PRNGKeyArray | None = None,
) -> None:
    """Raises `AssertionError` unless `assigner` gives `circuit` credit that descends any cost.

    **Arguments:**

    - `circuit`: small, with nodes `input` and `output`.
    - `law`: the gradient to compare with. Default: the true gradient of the cost at the
      assigner's own answer, by forward mode (`true_gradient`).
    - `least`: the cosine with it must be greater than this (0: less than 90 degrees apart).
    - `flat`: whether no cost must mean no change (not so where the circuit also learns to
      represent, as NGC's error on rates does).
    - `key`: for the example, its target, and rules that draw.

    The laws: credit shaped like the circuit, finite, the same for the same key; an `Info` that is
    true; the angle, for a squared, a cross-entropy and an arbitrary cost; the credit of a batch
    is the mean of its examples'; a clamp that is not a number is reported.
    """
    key = jax.random.key(0) if key is None else key
    law = partial(true_gradient, assigner) if law is None else law
    clamp = {"input": _random(circuit.nodes, key)["input"]}
    shape, drawn = circuit.node("output").shape, jax.random.fold_in(key, 1)
    target = jax.random.normal(drawn, shape)
    costs: dict[str, Cost] = {
        "squared": partial(SquaredError(), target),
        "cross-entropy": partial(CrossEntropy(), jax.nn.softmax(target)),
        "arbitrary": lambda output: jnp.sum(jnp.log(jnp.cosh(output - target)) + target * output),
    }
    # one compiled program for all costs: which one it is comes as data
    chosen = lambda which, output: which @ jnp.stack([cost(output) for cost in costs.values()])
    give = eqx.filter_jit(
        lambda clamp, which: assigner.gradient(circuit, clamp, partial(chosen, which), key=drawn)
    )
    reference = eqx.filter_jit(lambda which: law(circuit, clamp, partial(chosen, which)))
    answer = eqx.filter_jit(assigner.predict)(circuit, clamp).state["output"]
    largest = 0.0
    for name, which in zip(costs, jnp.eye(len(costs)), strict=True):
        credit = _check_credit(circuit, costs[name], answer, partial(give, clamp, which), name)
        _check_angle(credit, reference(which), least, name)
        largest = max(largest, _largest(credit))
    if flat:
        _check_flat(give(clamp, jnp.zeros(len(costs)))[0], largest)
    _check_batch_credit(assigner, circuit, key)
    _check_divergence_reported(give, clamp, jnp.eye(len(costs))[0])


def true_gradient(
    assigner: AbstractAssigner, circuit: AbstractCircuit, clamp: State, cost: Cost
) -> AbstractCircuit:
    """d cost(answer) / d theta, the answer being the assigner's own prediction, by forward mode.

    It follows the settling itself, which a `while_loop` allows forwards only: exact where the
    answer has converged, and independent of how the assigner works. Cost: one settling per
    parameter.
    """
    moving, fixed = eqx.partition(circuit, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(moving)

    def judged(flat):
        answer = assigner.predict(eqx.combine(unravel(flat), fixed), clamp)
        return cost(answer.state["output"])

    return eqx.combine(unravel(jax.jacfwd(judged)(flat)), fixed)


def cosine(one: Any, other: Any) -> float:
    """The cosine of the angle between two gradients, over the parameters that `other` moves."""
    pairs = [(a.ravel(), b.ravel()) for a, b in zip(_arrays(one), _arrays(other), strict=True)]
    pairs = [(a, b) for a, b in pairs if bool(jnp.any(b != 0))]
    _holds("the reference gradient is not zero", bool(pairs))
    a, b = (jnp.concatenate(parts) for parts in zip(*pairs, strict=True))
    return float(a @ b / jnp.maximum(jnp.linalg.norm(a) * jnp.linalg.norm(b), jnp.finfo(a).tiny))


# Circuits.


def _check_start(circuit: AbstractCircuit, clamp: State) -> None:
    state = circuit.start(clamp)
    got = {name: jnp.shape(value) for name, value in state.items()}
    want = {node.name: node.shape for node in circuit.nodes}
    _holds("start gives every node an activity of its shape", got == want, f"{got}, not {want}")
    for name, value in clamp.items():
        _close(f"start keeps the clamp of {name!r}", state[name], value, 0)
    _holds("the start is finite", _finite(state))
    energy = circuit.energy(state)
    _holds("the energy is a finite scalar", energy.shape == () and _finite(energy), f"{energy}")


def _check_clamps_refused(circuit: AbstractCircuit, clamp: State) -> None:
    name, value = next(iter(clamp.items()))
    _refused("a clamp of an unknown node", lambda: circuit.start({**clamp, "nobody": value}))
    _refused("a clamp of a wrong shape", lambda: circuit.start({**clamp, name: value[None]}))
    begin = circuit.start(clamp)
    misspelt = lambda: settle(circuit, {"nobody": value}, start=begin)
    _refused("a clamp of an unknown node, settled from a given start", misspelt)


def _check_shapes(circuit: AbstractCircuit, state: State) -> None:
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    force = circuit.force(state)
    _holds("force has the state's shapes", shapes(force) == shapes(state), f"{shapes(force)}")
    change = circuit.plasticity(state)
    same = shapes(_parameters(change)) == shapes(_parameters(circuit))
    _holds("plasticity is shaped like the circuit", same, f"{jax.tree.structure(change)}")
    _holds("force and plasticity are finite", _finite(force) and _finite(_parameters(change)))


def _check_conservative(circuit, state: State, held: Sequence[str], key: PRNGKeyArray) -> None:
    """Force and plasticity against central differences of the energy."""
    moving, fixed = eqx.partition(circuit, eqx.is_inexact_array)
    learning = jax.tree_util.tree_map_with_path(lambda p, x: _field(p) not in held, moving)
    params, still = eqx.partition(moving, learning)
    rebuilt = lambda params: eqx.combine(params, still, fixed)
    energy = jax.jit(lambda params, state: rebuilt(params).energy(state))
    force, change = circuit.force(state), circuit.plasticity(state)
    for index in range(3):
        way = _like(state, jax.random.fold_in(key, index))
        slope = _slope(lambda state: energy(params, state), state, way)
        _near("force is minus the gradient of the energy", -_dot(force, way), slope)
        way = _like(params, jax.random.fold_in(key, index))
        slope = _slope(lambda params: energy(params, state), params, way)
        credit = eqx.filter(_parameters(change), learning)
        _near("plasticity is the energy's gradient in the parameters", _dot(credit, way), slope)


def _check_plasticity(circuit: AbstractCircuit, state: State, held: Sequence[str]) -> None:
    """Held parameters stay, both ways to ask for plasticity agree."""
    change = _parameters(circuit.plasticity(state))
    asked = eqx.filter_grad(lambda circuit: circuit.synaptic_energy(state))(circuit)
    law = "plasticity is the gradient of synaptic_energy (which is what assigners differentiate)"
    _close(law, change, _parameters(asked), 1e3 * _epsilon())
    for path, leaf in jax.tree_util.tree_leaves_with_path(change):
        if _field(path) in held:
            _close(f"{jax.tree_util.keystr(path)} is held and does not learn", leaf, 0 * leaf, 0)


def _check_influence(circuit, state: State, directed: bool) -> dict[tuple[str, str], bool]:
    """Locality at random activities; returns which node's force reads which other node."""
    parents = {node.name: set(node.parents) for node in circuit.nodes}
    family = {name: {name} | above for name, above in parents.items()}
    edges = [{name, above} for name in parents for above in parents[name]]
    groups = list(family.values()) if directed else [*edges, *({name} for name in parents)]

    def allowed(path) -> list[set[str]]:
        for name in (entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)):
            ends = set(str(name).split("->"))
            if ends <= set(parents):
                child = str(name).split("->")[-1]
                return [ends | parents[child] if directed else ends]
        return groups  # a parameter whose name does not say where it sits: any one place will do

    change = lambda state: _parameters(circuit.plasticity(state))
    shaped = jax.tree.structure(change(state))
    rows = shaped.flatten_up_to(jax.jit(jax.jacfwd(change))(state))
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(change(state))]
    for path, row in zip(paths, rows, strict=True):
        read = {name for name, slope in row.items() if bool(jnp.any(slope != 0))}
        _holds(
            f"the change of {jax.tree_util.keystr(path)} is local",
            any(read <= group for group in allowed(path)),
            f"it reads the activities of {sorted(read)}",
        )
    slopes = jax.jit(jax.jacfwd(circuit.force))(state)
    reads = {(n, m): bool(jnp.any(slopes[n][m] != 0)) for n in state for m in state if n != m}
    for (name, other), does in reads.items():
        near = any({name, other} <= group for group in groups)
        _holds("force is local", near or not does, f"that on {name!r} reads {other!r}")
    return reads


def _check_blocks(circuit: AbstractCircuit, reads: dict[tuple[str, str], bool]) -> None:
    blocks = circuit.blocks()
    covered = sorted(name for block in blocks for name in block)
    names = sorted(node.name for node in circuit.nodes)
    _holds("blocks hold every node once", covered == names, f"{blocks}")
    for block in blocks:
        for pair in combinations(block, 2):
            touch = reads[pair] or reads[pair[::-1]]
            _holds("nodes of a block do not touch", not touch, f"{pair} do")


def _check_curvature(circuit: AbstractCircuit, state: State, conservative: bool) -> None:
    stiff, force = circuit.curvature(), circuit.force(state)
    _holds("curvature names every node", set(stiff) == set(state), f"{sorted(stiff)}")
    positive = all(bool(jnp.all(c > 0)) for c in stiff.values())
    _holds("curvature is positive", positive and _finite(stiff), f"{stiff}")
    if not conservative:
        return
    before = circuit.energy(state)
    for name in state:
        moved = state[name] + force[name] / stiff[name]
        rise = float(circuit.energy(state | {name: moved}) - before)
        within = rise <= 1e2 * _epsilon() * (1 + abs(float(before)))
        law = f"moving {name!r} alone by force / curvature does not raise the energy"
        _holds(law, within, f"it rises by {rise:.3g}")


def _check_project(circuit: AbstractCircuit, state: State) -> None:
    wild = {name: 3 * (value - 0.5) for name, value in state.items()}
    once = circuit.project(wild)
    _close("project is idempotent", circuit.project(once), once, 0)
    for name in wild:
        alone = circuit.project({name: wild[name]})
        _close("project treats each node by itself", alone, {name: once[name]}, 0)


def _check_silence(circuit, state: State, directed: bool, key: PRNGKeyArray) -> None:
    names = [node.name for node in circuit.nodes]
    awake = circuit.silence({name: 0.0 for name in names}, key=key)
    _close("silence at rate 0 is the identity", awake.force(state), circuit.force(state), 0)
    quiet = circuit.silence({name: 0.5 for name in names}, key=key)
    again = circuit.silence({name: 0.5 for name in names}, key=key)
    _close("silence depends on nothing but its key", again.force(state), quiet.force(state), 0)
    _check_shapes(quiet, state)
    slopes = jax.jit(jax.jacfwd(quiet.force))(state)
    for node in circuit.nodes:
        dead = (quiet.gain[node.name] == 0).ravel()
        kin = {node.name, *(node.parents if directed else ())}
        for other in set(names) - kin:
            heard = slopes[other][node.name].reshape(-1, dead.size)[:, dead]
            _close(f"silent units of {node.name!r} send {other!r} nothing", heard, 0 * heard, 0)
            felt = slopes[node.name][other].reshape(dead.size, -1)[dead]
            _close(f"silent units of {node.name!r} hear nothing of {other!r}", felt, 0 * felt, 0)
    _refused("an unknown node to silence", lambda: circuit.silence({"nobody": 0.5}, key=key))
    _refused("a silence rate of 1", lambda: circuit.silence({names[0]: 1.0}, key=key))


def _check_batch(circuit: AbstractCircuit, clamp: State, key: PRNGKeyArray) -> None:
    several = jax.vmap(lambda k: _like(clamp, k))(jax.random.split(key, 8))
    solver = Euler(0.05)  # any circuit: the point is the batch, not the speed
    one = lambda clamp: settle(circuit, clamp, solver=solver, tol=jnp.asarray(1e-2)).state
    run = jax.jit(jax.vmap(one))
    alone = [run(jax.tree.map(lambda x, i=i: x[i : i + 1], several)) for i in range(8)]
    alone = jax.tree.map(lambda *parts: jnp.concatenate(parts), *alone)
    law = "where an example settles does not depend on its batch"
    _close(law, run(several), alone, max(1e-6, 1e2 * _epsilon()))


def _check_pickle(circuit: AbstractCircuit) -> None:
    try:
        back = pickle.loads(pickle.dumps(circuit))
    except (pickle.PicklingError, AttributeError, TypeError) as failure:
        raise AssertionError(f"the circuit pickles: {failure}") from failure
    same = jax.tree.structure(back) == jax.tree.structure(circuit)
    _holds("a pickled circuit comes back with its structure", same)
    _close("a pickled circuit comes back with its numbers", _arrays(back), _arrays(circuit), 0)


# Solvers.


def _check_settles(solver, circuit, clamp: State, answer: State, max_steps: int) -> Equilibrium:
    tol = _epsilon() ** 0.5
    run = eqx.filter_jit(settle)
    found = run(circuit, clamp, solver=solver, tol=jnp.asarray(tol), max_steps=max_steps)
    kind = type(circuit).__name__
    code, steps = Result(int(found.result)), int(found.steps)
    detail = f"{code.message} (residual {float(found.residual):.3g} after {steps} steps)"
    _holds(f"a small convex {kind} circuit settles", code == Result.CONVERGED, detail)
    _close(f"a {kind} circuit settles where it should", found.state, answer, 1e2 * tol)
    _close(f"the residual of a {kind} circuit is what is left", found.residual,
           _left(circuit, clamp, found.state), 1e2 * _epsilon())
    rise = float(found.energy - circuit.energy(circuit.start(clamp)))
    _holds("settling does not raise the energy", rise <= 1e2 * _epsilon(), f"by {rise:.3g}")
    return found


def _check_codes(solver: AbstractSolver, circuit, clamp: State, max_steps: int) -> None:
    run = eqx.filter_jit(settle)
    cut = run(circuit, clamp, solver=solver, tol=jnp.asarray(0.0), max_steps=1)
    honest = int(cut.result) == Result.MAX_STEPS and int(cut.steps) == 1
    _holds("a settling cut short says so", honest, f"{Result(int(cut.result)).message}")
    lost = run(circuit, {**clamp, "input": clamp["input"] * jnp.nan}, solver=solver)
    code = Result(int(lost.result))
    _holds("a clamp that is not a number is reported", code == Result.NONFINITE, code.message)
    if any(field.name == "dt" for field in dataclasses.fields(solver)):
        absurd = dataclasses.replace(solver, dt=1e9)
        lost = run(circuit, clamp, solver=absurd, max_steps=max_steps)
        code = Result(int(lost.result))
        _holds("dt = 1e9 is reported as divergence", code == Result.NONFINITE, code.message)


def _check_one_trace(solver: AbstractSolver, circuit, clamp: State) -> None:
    traces = []

    @jax.jit
    def run(max_steps, tol):
        traces.append(max_steps)
        return settle(circuit, clamp, solver=solver, tol=tol, max_steps=max_steps).steps

    steps = [int(run(count, 0.0)) for count in (1, 3, 9)]
    _holds("as many steps as were asked for", steps == [1, 3, 9], f"{steps}")
    _holds("one trace whatever max_steps", len(traces) == 1, f"{len(traces)} traces")


def _check_batched_solver(solver: AbstractSolver, circuit, clamp: State, max_steps: int) -> None:
    run = lambda clamp: settle(
        circuit, clamp, solver=solver, tol=jnp.asarray(1e-3), max_steps=max_steps
    )
    scales = jnp.asarray([0.0, 1.0, -2.0])
    several = {name: jnp.tensordot(scales, value, 0) for name, value in clamp.items()}
    together = jax.jit(jax.vmap(run))(several)
    alone = [jax.jit(run)({name: value[i] for name, value in several.items()}) for i in range(3)]
    steps = [int(found.steps) for found in alone]
    counted = together.steps.tolist()
    _holds("an example takes its own number of steps in a batch", counted == steps, f"{counted}")
    states = jax.tree.map(lambda *parts: jnp.stack(parts), *[found.state for found in alone])
    _close("a batch settles as its examples do", together.state, states, 1e3 * _epsilon())


def _check_nothing_free(solver: AbstractSolver, circuit: AbstractCircuit) -> None:
    full = _random(circuit.nodes, jax.random.key(1))
    found = eqx.filter_jit(settle)(circuit, full, solver=solver)
    _close("a state clamped whole stays", found.state, full, 0)
    done = int(found.result) == Result.CONVERGED and float(found.residual) == 0
    _holds("a state clamped whole has settled", done, f"residual {float(found.residual):.3g}")


def _directly(circuit: AbstractCircuit, clamp: State) -> State:
    """Where a linear force vanishes, by one solve."""
    begin = circuit.start(clamp)
    flat, unravel = ravel_pytree({n: v for n, v in begin.items() if n not in clamp})

    def force(flat):
        pull = circuit.force({**clamp, **unravel(flat)})
        return ravel_pytree({name: pull[name] for name in unravel(flat)})[0]

    zero = jnp.zeros_like(flat)
    return {**clamp, **unravel(jnp.linalg.solve(-jax.jacfwd(force)(zero), force(zero)))}


def _slowly(circuit: AbstractCircuit, clamp: State) -> State:
    """Where small explicit steps end up, written without the library's loop."""

    def step(_, state):
        force = circuit.force(state)
        moved = circuit.project({name: state[name] + 0.1 * force[name] for name in state})
        return {**moved, **clamp}

    return jax.jit(lambda state: jax.lax.fori_loop(0, 5000, step, state))(circuit.start(clamp))


def _left(circuit: AbstractCircuit, clamp: State, state: State):
    force = circuit.force(state)
    moved = circuit.project({name: state[name] + force[name] for name in state})
    return jnp.stack([jnp.max(jnp.abs(moved[n] - state[n])) for n in state if n not in clamp]).max()


# Assigners.


def _check_credit(circuit, cost: Cost, answer: Any, give: Callable, name: str) -> AbstractCircuit:
    credit, info = give()
    shapes = [jax.tree.map(jnp.shape, _parameters(tree)) for tree in (credit, circuit)]
    _holds("credit is shaped like the circuit", shapes[0] == shapes[1], f"{shapes[0]}")
    _holds(f"credit is finite for the {name} cost", _finite(_parameters(credit)))
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
    _holds(law, found > least, f"its cosine is {found:.4f}")


def _check_flat(credit: AbstractCircuit, size: float) -> None:
    law = "a cost that is flat changes nothing"
    _close(law, _arrays(credit), jax.tree.map(jnp.zeros_like, _arrays(credit)),
           max(_epsilon() ** 0.5, 1e-6) * size)


def _check_batch_credit(assigner, circuit: AbstractCircuit, key: PRNGKeyArray) -> None:
    """The learner's credit for a batch against that of each example by itself."""
    learner = Learner(circuit, assigner, SquaredError(), optax.identity())
    nodes = {node.name: node for node in circuit.nodes}
    draw = lambda name: jax.random.normal(jax.random.fold_in(key, 2), (3, *nodes[name].shape))
    inputs, targets, keys = draw("input"), draw("output"), jax.random.split(key, 3)
    batch, _ = eqx.filter_jit(learner.gradient)(circuit, {"input": inputs}, targets, keys)

    @eqx.filter_jit
    def single(x, target, key):
        _, key = jax.random.split(key)  # the first half is for silence
        cost = partial(SquaredError(), target)
        return assigner.gradient(circuit, {"input": x}, cost, key=key)[0]

    alone = [_arrays(single(*example)) for example in zip(inputs, targets, keys, strict=True)]
    mean = jax.tree.map(lambda *parts: sum(parts) / 3, *alone)
    law = "the credit of a batch is the mean of its examples' credits"
    _close(law, _arrays(batch), mean, 1e4 * _epsilon())


def _check_divergence_reported(give, clamp: State, which: Any) -> None:
    _, info = give({name: value * jnp.nan for name, value in clamp.items()}, which)
    code = Result(int(info.result))
    _holds("a clamp that is not a number is reported", code == Result.NONFINITE, code.message)


# Saying what failed.


def _holds(law: str, truth: bool, detail: str = "") -> None:
    if not truth:
        raise AssertionError(f"{law}: it is not so" + (f" ({detail})" if detail else ""))


def _close(law: str, got: Any, want: Any, bound: float) -> None:
    """Raises unless no number differs by more than `bound` (times the largest, if that is > 1)."""
    gaps = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b), initial=0), got, want)
    gap, scale = _largest(gaps), max(1.0, _largest(want))
    if not gap <= bound * scale:
        raise AssertionError(f"{law}: off by {gap:.3g}, allowed {bound * scale:.3g}")


def _near(law: str, got, want) -> None:
    """As `_close`, at the precision of central differences."""
    _close(law, got, want, 300 * _epsilon() ** (2 / 3))


def _refused(what: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except InputError:
        return
    except Exception as other:
        raise AssertionError(f"{what} is an InputError: it raised {other!r}") from other
    raise AssertionError(f"{what} is an InputError: nothing was raised")


# Random circuits' places, and arithmetic on trees.


def _random(nodes: Sequence[Node], key: PRNGKeyArray) -> State:
    keys = jax.random.split(key, len(nodes))
    return {n.name: jax.random.normal(k, n.shape) for n, k in zip(nodes, keys, strict=True)}


def _activities(circuit: AbstractCircuit, key: PRNGKeyArray) -> State:
    """Generic activities, where errors do not vanish and bounds seldom bite."""
    drawn = _random(circuit.nodes, key)
    return circuit.project({name: 0.5 + 0.25 * value for name, value in drawn.items()})


def _ends(circuit: AbstractCircuit, key: PRNGKeyArray) -> State:
    """A clamp of the roots, and of the leaves too if something is left between them."""
    parents = {parent for node in circuit.nodes for parent in node.parents}
    roots = {node.name for node in circuit.nodes if not node.parents}
    leaves = {node.name for node in circuit.nodes if node.name not in parents}
    clamped = roots | leaves if len(roots | leaves) < len(circuit.nodes) else roots
    return {name: value for name, value in _activities(circuit, key).items() if name in clamped}


def _parameters(circuit: Any) -> Any:
    return eqx.filter(circuit, eqx.is_inexact_array)


def _arrays(tree: Any) -> list:
    return jax.tree.leaves(_parameters(tree))


def _field(path: tuple) -> str:
    return path[0].name if path and isinstance(path[0], jax.tree_util.GetAttrKey) else ""


def _like(tree: Any, key: PRNGKeyArray) -> Any:
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.random.normal(key, flat.shape, flat.dtype))


def _dot(one: Any, other: Any):
    return ravel_pytree(one)[0] @ ravel_pytree(other)[0]


def _slope(function: Callable, at: Any, way: Any):
    """d function(at + h way) / dh by a central difference."""
    h = _epsilon() ** (1 / 3)
    there = lambda h: jax.tree.map(lambda x, d: x + h * d, at, way)
    return (function(there(h)) - function(there(-h))) / (2 * h)


def _finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))


def _largest(tree: Any) -> float:
    return max((float(jnp.max(jnp.abs(x), initial=0)) for x in _arrays(tree)), default=0.0)


def _epsilon() -> float:
    return float(jnp.finfo(jnp.result_type(float)).eps)
