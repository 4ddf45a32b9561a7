"""The metrics and figures of a trained run's test images."""
