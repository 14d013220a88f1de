"""Classical methods to compare the fit with, by kind of damage."""
