"""One run from job to files, and batches of runs."""
