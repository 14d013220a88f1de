"""Figures that a task writes in place of a restored image."""
