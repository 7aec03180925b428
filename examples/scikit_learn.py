"""Learning by settling as a scikit-learn estimator: in a pipeline, with cross-validation.

python examples/scikit_learn.py
"""

from sklearn.datasets import load_wine
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anima.sklearn import EqPropClassifier

X, y = load_wine(return_X_y=True)
model = make_pipeline(StandardScaler(), EqPropClassifier(hidden_layer_sizes=(64,), random_state=0))

scores = cross_val_score(model, X, y, cv=5)
print(f"accuracy {scores.mean():.3f} +- {scores.std():.3f} over 5 folds")

model.fit(X, y)
for label, row in zip(y[::60], model.predict_proba(X[::60]), strict=True):
    print(f"class {label}:", " ".join(f"{p:.3f}" for p in row))
