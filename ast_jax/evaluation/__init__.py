"""Figures, calibration and the report of a trained run."""
