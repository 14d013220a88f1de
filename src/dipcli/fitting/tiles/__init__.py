"""Large images, fitted in overlapping tiles."""
