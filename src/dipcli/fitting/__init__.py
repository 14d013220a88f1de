"""The fit: the only loop, and the optimisers, restarts, tiles and estimates around it."""
