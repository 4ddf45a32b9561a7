"""A trained run that scores parts: detector, calibration, decisions, heat maps."""
