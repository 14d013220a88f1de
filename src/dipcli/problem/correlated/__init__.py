"""Noise that neighbouring pixels share: its covariance, an estimate that uses it, and how much of that to use."""
