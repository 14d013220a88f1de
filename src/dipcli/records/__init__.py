"""One run on disk: the job, the run record, checkpoints, and resuming from them."""
