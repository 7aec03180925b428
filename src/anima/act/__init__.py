"""HOW it acts: policy heads, estimators of worth, objectives, the REINFORCE synapse."""
