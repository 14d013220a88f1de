"""Many images at a time with Dask distributed: on the cores and GPUs of this machine, or on a cluster.

    dispatch     the client: submits tasks and yields outcomes
    tasks        the tasks on the cluster: submitted, finished, failed, repeated
    clusters     schedulers and workers: started here or through Slurm, or found at an address
    worker       runs in the workers: restores the images of one task

A task is one image, or several of one size with `--batch-size`. Each worker is a process that runs one task at a time.
Dask's Nanny replaces a process that dies; Dask's scheduler repeats its task.
Paths and settings travel, never pixels: all workers see the same files.
"""
