"""HOW it changes: costs, credit assigners, the learner."""
