"""Timings of ours and other implementations; each prints ratios, then a JSON line."""
