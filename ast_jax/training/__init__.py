"""Training: the pairs of a run, compiled steps, the loop, checkpoints."""
