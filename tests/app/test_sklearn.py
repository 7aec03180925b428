"""The scikit-learn estimators: scikit-learn's own checks, accuracy, searches, pickles, errors."""

import pickle

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from anima.core.errors import DivergedError, InputError
from anima.sklearn import EqPropClassifier, PredictiveCodingClassifier

BOTH = [EqPropClassifier, PredictiveCodingClassifier]
both = pytest.mark.parametrize("kind", BOTH)


@pytest.mark.slow
@parametrize_with_checks([EqPropClassifier()])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([PredictiveCodingClassifier()])
def test_scikit_learns_own_checks_of_the_other(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:1000], y[:1000], X[1000:], y[1000:]


@pytest.fixture(scope="module", params=BOTH)
def learnt(request, digits):
    """A classifier with default hyperparameters that has learnt the digits."""
    return request.param(random_state=0).fit(*digits[:2])


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.mark.slow
def test_learns_digits(learnt, digits):
    assert learnt.score(*digits[2:]) >= 0.93
    assert len(learnt.loss_curve_) == learnt.n_iter_ == learnt.max_iter
    assert learnt.loss_curve_[-1] < learnt.loss_curve_[0] / 10


def test_probabilities_are_the_softmax_of_the_decisions(learnt, digits):
    X = digits[2][:300]
    proba, decisions = learnt.predict_proba(X), learnt.decision_function(X)
    np.testing.assert_allclose(proba.sum(1), 1)
    weights = np.exp(decisions - decisions.max(1, keepdims=True))
    np.testing.assert_allclose(proba, weights / weights.sum(1, keepdims=True))
    np.testing.assert_array_equal(learnt.predict(X), learnt.classes_[proba.argmax(1)])


def test_a_pickle_answers_alike(learnt, digits):
    again = pickle.loads(pickle.dumps(learnt))
    np.testing.assert_array_equal(
        again.predict_proba(digits[2][:50]), learnt.predict_proba(digits[2][:50])
    )


def test_features_far_outside_their_range_are_clipped(learnt, digits):
    X = digits[2][:10]
    far = learnt.predict_proba(X + 1e6)
    np.testing.assert_array_equal(far, learnt.predict_proba(X + 1e30))


def test_the_seed_decides(learnt, digits):
    X, y = digits[0][:100], digits[1][:100]
    curve = lambda seed: type(learnt)(max_iter=3, random_state=seed).fit(X, y).loss_curve_
    assert curve(1) == curve(1) != curve(2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, values",
    [
        (EqPropClassifier, {"beta": [0.1, 0.3], "free_steps": [12]}),
        pytest.param(
            PredictiveCodingClassifier,
            {"settling_steps": [10, 15], "learning_rate": [0.003]},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_search_through_a_pipeline_compiles_once(kind, values, iris, caplog):
    X, y = np.array(iris[0]), np.array(["setosa", "versicolor", "virginica"])[iris[1]]
    model = make_pipeline(StandardScaler(), kind(random_state=0))
    model.fit(X, y).predict(X)
    name = model.steps[-1][0]
    grid = {f"{name}__{key}": entries for key, entries in values.items()}
    with jax.log_compiles():
        search = GridSearchCV(model, grid, cv=2).fit(X[:, :3], y)
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]
    assert search.best_score_ > 0.9
    assert set(search.predict(X[:, :3])) <= {"setosa", "versicolor", "virginica"}


@pytest.mark.parametrize(
    "kind, name, value, said",
    [
        (EqPropClassifier, "beta", 0, "beta is 0: it must be a positive number"),
        (EqPropClassifier, "beta", float("nan"), "beta is nan"),
        (EqPropClassifier, "free_steps", 2.5, "free_steps is 2.5: it must be a positive whole"),
        (EqPropClassifier, "nudged_steps", 0, "nudged_steps is 0"),
        (PredictiveCodingClassifier, "settling_steps", "many", "settling_steps is 'many'"),
        *[
            (kind, name, value, said)
            for kind in BOTH
            for name, value, said in [
                ("kappa", -1.0, "kappa is -1.0"),
                ("learning_rate", float("inf"), "learning_rate is inf"),
                ("max_iter", True, "max_iter is True"),
                ("batch_size", 0, "batch_size is 0"),
                ("hidden_layer_sizes", 256, "must be a sequence of sizes"),
                ("hidden_layer_sizes", (64, 0), "size in hidden_layer_sizes is 0"),
            ]
        ],
    ],
)
def test_bad_hyperparameters_are_refused(kind, name, value, said, iris):
    with pytest.raises(InputError, match=f"{kind.__name__}: .*{said}"):
        kind(**{name: value}).fit(*iris)


@both
def test_what_cannot_be_learnt_from_is_refused(kind, iris):
    X, y = iris
    with pytest.raises(ValueError, match="NaN"):
        kind().fit(np.where(X > 7, np.nan, X), y)
    with pytest.raises(InputError, match="one class, 0: give examples of at least two"):
        kind().fit(X[:50], y[:50])


@both
def test_divergence_is_an_error(kind, iris):
    with pytest.raises(DivergedError, match=r"lower learning_rate \(now 1e\+38\)"):
        kind(learning_rate=1e38).fit(*iris)


@both
def test_learning_nothing_is_a_warning(kind, iris):
    with pytest.warns(ConvergenceWarning, match="no better than guessing.*change learning_rate"):
        kind(learning_rate=100.0, random_state=0).fit(*iris)


@both
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # it is short
def test_one_epoch_of_less_than_a_batch_is_one_step(kind, iris):
    """Only then do the biases, which start at 0, end in proportion to the rate."""
    few = iris[0][::10], iris[1][::10]
    bias = lambda rate: (
        kind(max_iter=1, learning_rate=rate, random_state=0).fit(*few).circuit_.biases["output"]
    )
    np.testing.assert_allclose(bias(0.02), 2 * bias(0.01), rtol=1e-5)
    assert np.abs(bias(0.02)).max() > 0
