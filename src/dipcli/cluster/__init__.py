"""Many pictures at a time: on the cores and GPUs of this machine, or on a cluster, with Dask distributed.

    scheduler    what `--scheduler` says
    dispatch     the client: which pictures go out, and in which order the outcomes come
    flight       those that are with the workers, and what becomes of each
    sites        schedulers and workers, started or found
    ways         how many fits at once, with how many threads each: measured
    worker       what a Dask worker runs: it hands each picture to a child process
    processes    a child process, seen from outside
    child        the same from inside

Paths and settings travel, never pixels: all workers see the same files.
"""
