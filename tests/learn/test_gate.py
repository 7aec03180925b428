"""The surprise gate: who is let through, that nothing else is computed, and what is learnt."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anima import (
    EquilibriumPropagation,
    Hopfield,
    InputError,
    Learner,
    Quantile,
    Random,
    SquaredError,
    Threshold,
)
from anima.learn.gate import Waiting
from anima.learn.optimisers import scale_by_clock

KEY = jax.random.key(0)
RULE = EquilibriumPropagation(free_steps=4, nudged_steps=2)


def learner(gate, batch=4, circuit=None):
    circuit = Hopfield.mlp([3, 5, 2], key=jax.random.key(1)) if circuit is None else circuit
    return Learner(circuit, RULE, SquaredError(), optax.sgd(0.1), gate=gate, batch=batch)


def examples(count=4, seed=0):
    draw = np.random.default_rng(seed)
    return {"input": jnp.asarray(draw.uniform(size=(count, 3)))}, jnp.asarray(
        draw.uniform(size=(count, 2))
    )


def surprises(made, state, batch):
    clamp, target = batch
    answers = made.predict(state.circuit, clamp)
    return np.asarray(jax.vmap(made.cost)(target, answers))


def weights(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.circuit.parameters()[0])]


def test_the_quantile_rests_where_its_share_is_larger():
    gate, draw = Quantile(share=0.1, pace=0.05), np.random.default_rng(0)
    stream = jnp.asarray(draw.lognormal(0, 2, (4000, 8)))

    def step(carry, surprise):
        threshold, first = carry
        admitted, threshold = gate.admit(surprise, threshold, first, key=KEY)
        return (threshold, jnp.zeros((), bool)), (jnp.mean(admitted), threshold)

    begin = (jnp.zeros(()), jnp.ones((), bool))
    _, (shares, path) = jax.lax.scan(step, begin, stream)
    np.testing.assert_allclose(float(jnp.mean(shares[500:])), 0.1, atol=0.005)
    np.testing.assert_allclose(np.median(path[500:]), np.exp(2 * 1.2816), rtol=0.1)


def test_a_soft_quantile_keeps_its_share_and_lets_others_through():
    """The share is the same; the chance rises with surprise, by the formula."""
    gate = Quantile(share=0.3, pace=0.02, softness=0.5)
    stream = jnp.asarray(np.random.default_rng(1).lognormal(0, 1, (3000, 8)))

    def step(carry, given):
        (threshold, first), (surprise, key) = carry, given
        admitted, after = gate.admit(surprise, threshold, first, key=key)
        return (after, jnp.zeros((), bool)), (admitted, threshold)

    begin = (jnp.zeros(()), jnp.ones((), bool))
    _, (admitted, thresholds) = jax.lax.scan(step, begin, (stream, jax.random.split(KEY, 3000)))
    admitted, surprise = np.asarray(admitted)[500:], np.asarray(stream)[500:]
    assert admitted.mean() == pytest.approx(0.3, abs=0.01)
    power = (surprise / np.asarray(thresholds)[500:, None]) ** 2
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        band = (power / (1 + power) >= low) & (power / (1 + power) < high)
        assert admitted[band].mean() == pytest.approx((power / (1 + power))[band].mean(), abs=0.03)


def test_a_fixed_threshold_and_a_blind_gate():
    surprise = jnp.asarray([0.1, 0.5, 0.9, 0.3])
    first = jnp.ones((), bool)
    admitted, threshold = Threshold(0.4).admit(surprise, jnp.zeros(()), first, key=KEY)
    np.testing.assert_array_equal(admitted, [False, True, True, False])
    assert float(threshold) == 0.4
    admitted, _ = Random(0.25).admit(jnp.ones(8000), jnp.zeros(()), first, key=KEY)
    np.testing.assert_allclose(float(jnp.mean(admitted)), 0.25, atol=0.02)


def test_those_who_surprised_wait_in_order():
    none = jnp.zeros((), jnp.int32)
    waiting = Waiting(jnp.zeros((4, 1)), jnp.zeros((4, 1)), none, jnp.zeros(()), none)
    column = lambda *values: jnp.asarray(values)[:, None]
    waiting = waiting.add(
        column(1.0, 2.0), column(10.0, 20.0), jnp.asarray([False, True]), jnp.ones(())
    )
    waiting = waiting.add(
        column(3.0, 4.0), column(30.0, 40.0), jnp.asarray([True, True]), jnp.ones(())
    )
    assert int(waiting.count) == 3 and waiting.batch == 2
    np.testing.assert_array_equal(waiting.inputs[:3, 0], [2, 3, 4])
    left = waiting.served()
    assert int(left.count) == 1 and int(left.updates) == 1
    np.testing.assert_array_equal([left.inputs[0, 0], left.targets[0, 0]], [4, 40])


step = eqx.filter_jit(lambda made, state, batch: made.step(state, batch))


def gated(threshold, gain=1.0):
    """Numbers as arrays, so that one program serves all of them."""
    return learner(Threshold(jnp.asarray(threshold), jnp.asarray(gain)))


def test_all_surprising_is_learning_as_without_a_gate():
    made, plain, batch = gated(0.0), learner(None), examples()
    after, info = step(made, made.init(KEY), batch)
    want, wanted = step(plain, plain.init(KEY), batch)
    for a, b in zip(weights(after), weights(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    np.testing.assert_allclose(info.cost, wanted.cost, rtol=1e-12)
    assert int(after.waiting.updates) == 1 and int(after.step) == 1


def test_nothing_surprising_changes_nothing():
    made = gated(1e3)
    begin = made.init(KEY)
    after, info = step(made, begin, examples())
    for a, b in zip(weights(after), weights(begin), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(after.waiting.count) == 0 and int(after.step) == 1
    assert np.isfinite(float(info.cost))


@pytest.mark.slow
def test_the_surprising_ones_are_learnt_once_there_are_enough_and_at_the_gain():
    """Two of four surprise in each of two batches: the second step learns just these four."""
    plain, batches = learner(None), (examples(seed=5), examples(seed=7))
    begin = plain.init(KEY)
    found = [surprises(plain, begin, batch) for batch in batches]
    cuts = [np.sort(s)[1:3] for s in found]
    cut = (max(c[0] for c in cuts) + min(c[1] for c in cuts)) / 2
    chosen = [np.flatnonzero(s > cut) for s in found]
    assert [len(c) for c in chosen] == [2, 2], "choose other seeds"
    made = gated(cut, gain=3.0)
    state, _ = step(made, made.init(KEY), batches[0])
    assert int(state.waiting.count) == 2 and int(state.waiting.updates) == 0
    state, _ = step(made, state, batches[1])
    assert int(state.waiting.count) == 0 and int(state.waiting.updates) == 1
    pick = lambda which: jnp.concatenate(
        [which(b)[c] for b, c in zip(batches, chosen, strict=True)]
    )
    four = {"input": pick(lambda b: b[0]["input"])}, pick(lambda b: b[1])
    want, _ = step(plain, begin, four)
    for before, a, b in zip(weights(begin), weights(state), weights(want), strict=True):
        np.testing.assert_allclose(a - before, 3 * (b - before), rtol=1e-9, atol=1e-15)


def test_what_is_skipped_is_not_computed():
    """Only the branch that learns differentiates; the look outside it has no nudged phase."""
    made = learner(Quantile())
    jaxpr = jax.make_jaxpr(lambda s: made.step(s, examples())[0].step)(made.init(KEY))
    conds = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "cond"]
    loops = lambda j: str(j).count("while[")
    (cond,) = [e for e in conds if any(loops(b) for b in e.params["branches"])]
    skip, learn = (loops(branch) for branch in cond.params["branches"])
    assert skip == 0 and learn >= 2  # the free phase and the nudged ones
    assert loops(jaxpr) - learn == 1  # the look


@pytest.mark.promotes  # optax's schedules
def test_a_skipping_learner_keeps_the_time():
    """The schedule is read at the learner's clock, not at the number of updates."""
    clocked = scale_by_clock(lambda step: 1.0 / (1.0 + step))
    state = clocked.init(jnp.ones(1))
    update, state = clocked.update(jnp.ones(1), state)
    later, _ = clocked.update(jnp.ones(1), state, step=jnp.asarray(9))
    assert (float(update[0]), float(later[0])) == (-1.0, -0.1)
    assert float(clocked.update(jnp.ones(1), state)[0][0]) == -0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantile(share=1.0), r"share is 1.0: it must be in \[0, 1\)"),
        (lambda: Quantile(pace=0), r"pace is 0: it must be positive"),
        (lambda: Quantile(softness=-1.0), r"softness is -1.0"),
        (lambda: Quantile(softness=100.0), r"softness is 100.0"),
        (lambda: Random(share=0), r"share is 0: it must be positive"),
        (lambda: Threshold(-1.0), r"threshold is -1.0"),
        (lambda: Threshold(gain=0), r"gain is 0"),
    ],
)
def test_gates_that_cannot_be_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_batch_that_does_not_fit_is_refused():
    made = learner(Quantile(), batch=2)
    with pytest.raises(InputError, match=r"shown 4 examples .* at most batch = 2"):
        made.step(made.init(KEY), examples())
