"""Noise that is independent from pixel to pixel."""
