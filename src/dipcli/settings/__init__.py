"""Options: how to fit, what to write, where to run."""

from dipcli.settings.settings import Settings

__all__ = ["Settings"]
