"""A life: configuration, training, checkpoints. Only here are the clock and the disk."""
