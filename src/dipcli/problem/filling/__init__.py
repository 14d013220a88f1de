"""Missing pixels estimated from similar patches: the companion of `dip inpaint`."""
