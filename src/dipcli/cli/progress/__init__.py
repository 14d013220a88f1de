"""Progress of a fit: a live display on a terminal, plain lines everywhere else."""
