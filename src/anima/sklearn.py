"""scikit-learn estimators that learn by settling: `from anima.sklearn import EqPropClassifier`."""

from anima.app.sklearn import EqPropClassifier as EqPropClassifier
from anima.app.sklearn import PredictiveCodingClassifier as PredictiveCodingClassifier
