"""The HTML page of a run and of a folder of runs: images, curves and settings in one self-contained file."""
