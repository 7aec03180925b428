"""Learning by settling, in scikit-learn's habits: `fit`, `predict`, pipelines, grid searches.

Two estimators share one loop and differ in what settles and how it changes. Searches fit many
times, and compiling takes longer than learning from a small table, so a compiled program depends
on as little as possible: features are filled up to a multiple of 16 with silent ones, examples are
read in chunks of one shape and answered in blocks of another, and every number among the
hyperparameters that is not a size is traced. That blocks have one shape also makes an example's
answer the same, to the last bit, whatever else is asked with it.
"""

import itertools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any, NamedTuple, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from anima.circuit.circuit import AbstractCircuit
from anima.circuit.hopfield import Hopfield
from anima.circuit.predictive import Predictive
from anima.core.errors import DivergedError, InputError
from anima.core.types import Result
from anima.learn.assigners import AbstractAssigner, EquilibriumPropagation, PredictiveCoding
from anima.learn.costs import CrossEntropy
from anima.learn.learner import Learner, LearnerState
from anima.settle.solvers import EvenOdd

_WIDTH = 16  # input nodes have a multiple of so many units
_CHUNK = 16  # steps between two looks at the numbers
_BLOCK = 256  # examples answered side by side


class _Fall(NamedTuple):
    """The state of a rate that falls from `first` to 0 in `steps` steps, and stays there."""

    first: Float[Array, ""]
    steps: Int[Array, ""]
    count: Int[Array, ""]


def _falling() -> optax.GradientTransformation:
    """Descent at a rate that falls along a cosine; `first` and `steps` are put in its state.

    optax's own schedules are closures over their numbers, and would be compiled anew for each.
    """

    def init(params):
        return _Fall(jnp.zeros(()), jnp.ones((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        cosine = (1 + jnp.cos(jnp.pi * state.count / state.steps)) / 2
        rate = jnp.where(state.count < state.steps, state.first * cosine, 0)
        return jax.tree.map(lambda u: -rate * u, updates), state._replace(count=state.count + 1)

    return optax.GradientTransformation(init, update)


# What is compiled depends on which object the optimiser is, so there is one of each.
_SGD = optax.chain(optax.identity(), _falling())
_ADAM = optax.chain(optax.scale_by_adam(), _falling())


class Parts(NamedTuple):
    """What a classifier is made of.

    - `circuit`: a function of (sizes, key), a constant. - `assigner`: its numbers are arrays.
    - `optimiser`: a constant, the last of whose transformations is `_falling`.
    - `low`: features are scaled to [low, 1].
    """

    circuit: Callable[..., AbstractCircuit]
    assigner: AbstractAssigner
    optimiser: optax.GradientTransformation
    low: int


class AbstractSettlingClassifier(ClassifierMixin, BaseEstimator, ABC):
    """scikit-learn's interface of a classifier around the parts that a final class names.

    Hyperparameters are checked when they are used, since `set_params` may change them any time.
    """

    hidden_layer_sizes: Any
    kappa: Any
    learning_rate: Any
    max_iter: Any
    batch_size: Any
    random_state: Any

    @abstractmethod
    def _parts(self) -> Parts:
        """The parts; raises `InputError` for a bad hyperparameter of the final class's own."""

    def fit(self, X, y):
        """Learns from features `X` (examples, features) and labels `y` (examples,).

        **Raises:** `InputError` (a `ValueError`) for bad hyperparameters or a single class;
        `DivergedError` if learning leaves the finite numbers.
        """
        owner = type(self).__name__
        _check_positive(owner, Real, kappa=self.kappa, learning_rate=self.learning_rate)
        _check_positive(owner, Integral, max_iter=self.max_iter, batch_size=self.batch_size)
        hidden = _sizes(owner, self.hidden_layer_sizes)
        parts = self._parts()
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(
                f"{owner}: y holds one class, {self.classes_[0]}: give examples of at least two"
            )
        self.scaler_ = MinMaxScaler((parts.low, 1), clip=True).fit(X)
        inputs = self._inputs(X)
        targets = np.eye(len(self.classes_), dtype=inputs.dtype)[labels]
        self._learn(parts, hidden, inputs, targets)
        return self

    def decision_function(self, X) -> Float[np.ndarray, "examples ..."]:
        """The log-odds behind `predict_proba`: kappa times the settled output.

        **Returns:** (examples, classes); of two classes the second's less the first's, (examples,).
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_log_proba(self, X) -> Float[np.ndarray, "examples classes"]:
        """log softmax(kappa output), a column for every entry of `classes_`."""
        return log_softmax(self._logits(X), axis=-1)

    def predict_proba(self, X) -> Float[np.ndarray, "examples classes"]:
        """softmax(kappa output), a column for every entry of `classes_`."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X) -> np.ndarray:
        """The label whose output is highest, of the type that `fit` was given."""
        highest = self._logits(X).argmax(-1)
        return self.classes_[highest]

    def _learn(
        self,
        parts: Parts,
        hidden: tuple[int, ...],
        inputs: Float[np.ndarray, "examples width"],
        targets: Float[np.ndarray, "examples classes"],
    ) -> None:
        """`max_iter` readings of every example; sets `circuit_`, `loss_curve_` and `n_iter_`.

        Readings follow each other in batches without regard to where one ends, so a batch may
        span several readings of a small set. What fills up the last chunk changes nothing, since
        the rate has fallen to 0.
        """
        rng = check_random_state(self.random_state)
        count, batch, epochs = len(inputs), int(self.batch_size), int(self.max_iter)
        sizes = (inputs.shape[1], *hidden, targets.shape[1])
        circuit = _drawn(parts.circuit, sizes, jax.random.key(rng.randint(2**31)))
        cost = eqx.tree_at(lambda cost: cost.kappa, CrossEntropy(), jnp.asarray(self.kappa, float))
        learner = Learner(circuit, parts.assigner, cost, parts.optimiser)
        state = learner.init(jax.random.key(rng.randint(2**31)))
        order = jnp.asarray(np.arange(_CHUNK * batch, dtype=np.int32).reshape(_CHUNK, batch))
        steps = math.ceil(epochs * count / batch)
        state = _set_out(state, self.learning_rate, steps)
        costs, hits = [], []
        shuffled = _shuffled(count, order.size, rng)
        for rows in itertools.islice(shuffled, math.ceil(steps / _CHUNK)):
            seen, wanted = jnp.asarray(inputs[rows]), jnp.asarray(targets[rows])
            state, info = _sweep(learner, state, seen, wanted, order)
            costs.append(np.asarray(info.cost, np.float64))
            hits.append(np.asarray(info.output, np.float64))
            nonfinite = np.asarray(info.result) == Result.NONFINITE
            if nonfinite.any() or not np.isfinite(costs[-1]).all():
                self._raise_diverged(state)
        if not _is_finite(state.circuit):
            self._raise_diverged(state)
        self.circuit_ = state.circuit
        self.loss_curve_ = _by_epoch(costs, batch, epochs, count).tolist()
        self.n_iter_ = epochs
        self._warn_if_guessing(_by_epoch(hits, batch, epochs, count)[-1], targets.mean(0))

    def _raise_diverged(self, state: LearnerState) -> NoReturn:
        raise DivergedError(
            f"{type(self).__name__}: learning left the finite numbers within {int(state.step)} "
            f"steps: lower learning_rate (now {self.learning_rate})"
        )

    def _warn_if_guessing(self, hits: float, shares: Float[np.ndarray, " classes"]) -> None:
        """Warns if the last epoch cost more than answering with the classes' shares would have.

        With hardly more than that (labels at random) only if it was not right more often either.
        """
        cost, guess = self.loss_curve_[-1], -float(shares @ np.log(shares)) / self.kappa
        if cost > 2 * guess or (cost >= guess and hits <= shares.max()):
            warnings.warn(
                f"{type(self).__name__} ended no better than guessing ({hits:.0%} of the training "
                f"answers right, cost {cost:.2g} against {guess:.2g}): change learning_rate (now "
                f"{self.learning_rate}), or raise kappa (now {self.kappa}) or max_iter (now "
                f"{self.max_iter})",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _logits(self, X) -> Float[np.ndarray, "examples classes"]:
        """kappa times the settled output, block by block."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        inputs, assigner = self._inputs(X), self._parts().assigner
        blocks = []
        for start in range(0, len(inputs), _BLOCK):
            block = inputs[start : start + _BLOCK]
            full = np.pad(block, ((0, _BLOCK - len(block)), (0, 0)))
            blocks.append(
                np.asarray(_outputs(assigner, self.circuit_, jnp.asarray(full)))[: len(block)]
            )
        return self.kappa * np.concatenate(blocks).astype(np.float64)

    def _inputs(self, X) -> Float[np.ndarray, "examples width"]:
        """Scaled features, and silent ones to fill up the input node."""
        scaled = self.scaler_.transform(X).astype(jnp.result_type(float))
        return np.pad(scaled, ((0, 0), (0, -scaled.shape[1] % _WIDTH)))


class EqPropClassifier(AbstractSettlingClassifier):
    """A symmetric network that learns by equilibrium propagation (Scellier and Bengio, 2017).

    A `Hopfield` circuit settles with the features clamped, settles again with its output nudged
    towards the label and away from it, and each synapse changes by the difference of what its two
    ends did; plain gradient descent, so that learning is local to the neuron.

    Features are scaled to [0, 1] by their range in `fit`, and clipped to it afterwards: a bounded
    drive is what the bounded hidden units can answer to. An outlier that sets the range squeezes
    its feature, so tame those first (`RobustScaler`, `QuantileTransformer`).

    - `hidden_layer_sizes`: units of each hidden layer, from the input on.
    - `beta`: the nudge. - `free_steps`, `nudged_steps`: how long each phase settles.
    - `kappa`: inverse temperature: probabilities are softmax(kappa output).
    - `learning_rate`: the first; it falls to 0 along a cosine.
    - `max_iter`: epochs. - `batch_size`: examples a step. - `random_state`: as in scikit-learn.

    After `fit`: `classes_`, `n_features_in_`, `scaler_`, `circuit_` (its input node is
    `n_features_in_` rounded up to a multiple of 16; the spare units are silent), `loss_curve_`
    (the mean cost of every epoch) and `n_iter_` (epochs).

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = EqPropClassifier(random_state=0).fit(X[:1000], y[:1000])
    >>> model.score(X[1000:], y[1000:]) > 0.93
    True
    """

    def __init__(
        self,
        hidden_layer_sizes=(256,),
        *,
        beta=0.2,
        free_steps=15,
        nudged_steps=8,
        kappa=10.0,
        learning_rate=0.3,
        max_iter=60,
        batch_size=20,
        random_state=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.beta = beta
        self.free_steps = free_steps
        self.nudged_steps = nudged_steps
        self.kappa = kappa
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.random_state = random_state

    def _parts(self) -> Parts:
        owner = type(self).__name__
        _check_positive(owner, Real, beta=self.beta)
        _check_positive(owner, Integral, free_steps=self.free_steps, nudged_steps=self.nudged_steps)
        assigner = eqx.tree_at(
            lambda rule: (rule.beta, rule.free_steps, rule.nudged_steps),
            EquilibriumPropagation(),
            (
                jnp.asarray(self.beta, float),
                jnp.asarray(self.free_steps, jnp.int32),
                jnp.asarray(self.nudged_steps, jnp.int32),
            ),
        )
        return Parts(_hopfield, assigner, _SGD, low=0)


class PredictiveCodingClassifier(AbstractSettlingClassifier):
    """A network that predicts its own layers and learns from what it gets wrong.

    A `Predictive` circuit sweeps the features forward, has its output clamped a step towards the
    label, lets its hidden layers settle, and each synapse changes by the error it leaves behind
    (Whittington and Bogacz, 2017), at the pace of Adam.

    Features are scaled to [-1, 1] by their range in `fit`, and clipped to it afterwards: see
    `EqPropClassifier`.

    - `hidden_layer_sizes`: units of each hidden layer (tanh), from the input on.
    - `settling_steps`: how long they settle, with the label clamped.
    - `kappa`: inverse temperature: probabilities are softmax(kappa output).
    - `learning_rate`: the first; it falls to 0 along a cosine.
    - `max_iter`: epochs. - `batch_size`: examples a step. - `random_state`: as in scikit-learn.

    After `fit`: as `EqPropClassifier`.
    """

    def __init__(
        self,
        hidden_layer_sizes=(256,),
        *,
        settling_steps=20,
        kappa=1.0,
        learning_rate=0.002,
        max_iter=60,
        batch_size=20,
        random_state=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.settling_steps = settling_steps
        self.kappa = kappa
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.random_state = random_state

    def _parts(self) -> Parts:
        owner = type(self).__name__
        _check_positive(owner, Integral, settling_steps=self.settling_steps)
        assigner = eqx.tree_at(
            lambda rule: rule.max_steps,
            PredictiveCoding(solver=EvenOdd()),
            jnp.asarray(self.settling_steps, jnp.int32),
        )
        return Parts(_predictive, assigner, _ADAM, low=-1)


def _hopfield(sizes: tuple[int, ...], key: PRNGKeyArray) -> AbstractCircuit:
    return Hopfield.mlp(sizes, key=key)


def _predictive(sizes: tuple[int, ...], key: PRNGKeyArray) -> AbstractCircuit:
    return Predictive.mlp(sizes, activation=_tanh, key=key)


def _tanh(z: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """tanh z, as a function that pickles (`jnp.tanh` does not)."""
    return jnp.tanh(z)


@eqx.filter_jit
def _drawn(make: Callable, sizes: tuple[int, ...], key: PRNGKeyArray) -> AbstractCircuit:
    return make(sizes, key)


_sweep = eqx.filter_jit(Learner.sweep)


@eqx.filter_jit
def _outputs(
    assigner: AbstractAssigner, circuit: AbstractCircuit, inputs: Float[Array, "block width"]
) -> Float[Array, "block classes"]:
    def answer(one):
        return assigner.predict(circuit, {"input": one}).state["output"]

    return jax.vmap(answer)(inputs)


def _is_finite(circuit: AbstractCircuit) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(circuit.parameters()[0]))


def _set_out(state: LearnerState, rate: float, steps: int) -> LearnerState:
    """The state with `rate` to fall to 0 in so many steps."""
    fall = _Fall(jnp.asarray(rate, float), jnp.asarray(steps, jnp.int32), jnp.zeros((), jnp.int32))
    return eqx.tree_at(lambda state: state.optimiser[-1], state, fall)


def _shuffled(
    count: int, size: int, rng: np.random.RandomState
) -> Iterator[Int[np.ndarray, " size"]]:
    """Indices below `count`, `size` at a time, out of one permutation after the other, for ever."""
    left = np.empty(0, np.int64)
    while True:
        while len(left) < size:
            left = np.concatenate([left, rng.permutation(count)])
        yield left[:size]
        left = left[size:]


def _by_epoch(
    chunks: list[np.ndarray], batch: int, epochs: int, count: int
) -> Float[np.ndarray, " epochs"]:
    """Means over epochs of a number per step, each example counted with its step's."""
    each = np.repeat(np.concatenate(chunks), batch)[: epochs * count]
    return each.reshape(epochs, count).mean(1)


def _check_positive(owner: str, kind: type, **values: Any) -> None:
    """Raises `InputError` for a value that is not a positive, finite number of a kind."""
    wanted = "a positive whole number" if kind is Integral else "a positive number"
    for name, value in values.items():
        if not isinstance(value, kind) or isinstance(value, bool) or not 0 < value < math.inf:
            raise InputError(f"{owner}: {name} is {value!r}: it must be {wanted}")


def _sizes(owner: str, sizes: Any) -> tuple[int, ...]:
    """The hidden layers' sizes as plain integers; raises `InputError` for anything else."""
    if not isinstance(sizes, list | tuple | np.ndarray):
        raise InputError(
            f"{owner}: hidden_layer_sizes is {sizes!r}: it must be a sequence of sizes, like (256,)"
        )
    for size in sizes:
        _check_positive(owner, Integral, **{"a size in hidden_layer_sizes": size})
    return tuple(int(size) for size in sizes)
