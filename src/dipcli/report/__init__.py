"""The page of a run, and of a folder of them: pictures, curves and settings in one file that needs nothing else."""
