"""HOW it settles: the one loop, and the solvers that take its steps."""
