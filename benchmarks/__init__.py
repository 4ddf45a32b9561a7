"""Timings beside other implementations; each prints its ratios, last line JSON."""
