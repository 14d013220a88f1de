"""Companions that agree with the measurement: non-local smoothing and projection in turn."""
