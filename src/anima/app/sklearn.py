"""Learning by settling, in scikit-learn's habits: `fit`, `predict`, pipelines, grid searches.

Two estimators share one loop and differ in what settles and how it changes. Searches fit many
times, and compiling takes longer than learning from a small table does, so a compiled program
depends on as little as possible: features are filled up to a multiple of 16 with silent ones,
examples are read in chunks of one shape and answered in blocks of another, and every number among
the hyperparameters that is not a size is traced. That blocks have one shape also makes an example's
answer the same, to the last bit, whatever else is asked with it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
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
from anima.settle.solvers import Euler

_WIDTH = 16  # input nodes have a multiple of so many units
_CHUNK = 16  # steps between two looks at the numbers
_BLOCK = 256  # examples answered side by side

# An optimiser is part of what a program is compiled for, so there is one of each; what differs
# between fits, the rate, is injected.
_SGD = optax.inject_hyperparams(optax.sgd)(learning_rate=0.0)
_ADAM = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)


class AbstractSettlingClassifier(ClassifierMixin, BaseEstimator, ABC):
    """A circuit, an assigner and an optimiser behind scikit-learn's interface of a classifier.

    A final class has the hyperparameters in its `__init__` and says what they build. Values are
    checked in `fit`, as scikit-learn asks, since `set_params` may change them any time.
    """

    hidden_layer_sizes: Any
    kappa: Any
    learning_rate: Any
    max_iter: Any
    batch_size: Any
    random_state: Any

    @abstractmethod
    def _circuit(self, sizes: Sequence[int], key: PRNGKeyArray) -> AbstractCircuit:
        """The circuit at birth, `sizes` units per node."""

    @abstractmethod
    def _assigner(self) -> AbstractAssigner:
        """The rule that learns and answers, its hyperparameters checked and made arrays."""

    @abstractmethod
    def _optimiser(self) -> optax.GradientTransformation:
        """A constant of this module."""

    def fit(self, X, y):
        """Learns from features `X` (examples, features) and labels `y` (examples,).

        **Raises:** `InputError` (a `ValueError`) for bad hyperparameters or a single class;
        `DivergedError` if learning leaves the finite numbers.
        """
        sizes, assigner = self._hidden(), self._assigner()
        self._check(Real, kappa=self.kappa, learning_rate=self.learning_rate)
        self._check(Integral, max_iter=self.max_iter, batch_size=self.batch_size)
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        classes = len(self.classes_)
        if classes < 2:
            raise InputError(
                f"{type(self).__name__}: y holds one class, {self.classes_[0]!r}: "
                "give examples of at least two"
            )
        self.scaler_ = MinMaxScaler(clip=True).fit(X)
        inputs = self._scaled(X)
        targets = np.eye(classes, dtype=inputs.dtype)[labels]
        self._learn([inputs.shape[1], *sizes, classes], assigner, inputs, targets)
        return self

    def decision_function(self, X) -> Float[np.ndarray, "examples ..."]:
        """The log-odds behind `predict_proba`: kappa times the settled output.

        **Returns:** (examples, classes); with two classes the second's less the first's,
        (examples,).
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
        sizes: Sequence[int],
        assigner: AbstractAssigner,
        inputs: Float[np.ndarray, "examples pixels"],
        targets: Float[np.ndarray, "examples classes"],
    ) -> None:
        """`max_iter` readings of every example; sets `circuit_`, `loss_curve_`, `n_iter_`."""
        rng = check_random_state(self.random_state)
        key, count, batch = jax.random.key(rng.randint(2**31)), len(inputs), int(self.batch_size)
        circuit = _drawn(type(self), sizes, key)
        ...
