"""What people touch: the command, figures, the report, scikit-learn estimators."""
