"""Training: mapped steps, the loop, checkpoints and devices."""
