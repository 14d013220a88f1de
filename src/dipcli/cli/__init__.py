"""The command line: argv to jobs, and what people see on the terminal."""

from dipcli.cli.app import main

__all__ = ["main"]
