"""Many images, one after the other or several in one pass."""
