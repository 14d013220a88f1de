"""Many images at a time with Dask distributed: on the cores and GPUs of this machine, or on a cluster.

A task is one image, or several of one size with `--batch-size`. Each worker is a process that runs one task at a time.
Dask's Nanny replaces a process that dies; Dask's scheduler repeats its task.
Paths and settings travel, never pixels: all workers see the same files.
"""
