"""A known blur: its kernel, the operator, and estimates of the sharp image."""
