"""Noise that `dip denoise` treats in other ways than independent noise of every pixel."""
