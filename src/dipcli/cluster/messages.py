"""What a child process is told to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dipcli
from dipcli.records import job_json as manifest
from dipcli.records.job import Job


def order(job: Job, wanted: str, **more: Any) -> dict[str, Any]:
    """An order as JSON has it. Paths stay as they were given, and mean what they mean in this folder.

    Args:
        job: what it is about.
        wanted: restore it, or try how fast that is.
        more: `threads` and `memory`, in bytes, that the process may use, and what the order takes besides.
    """
    return {
        "version": dipcli.__version__,
        "cwd": str(Path.cwd()),
        "wanted": wanted,
        "job": manifest.to_json(job),
        **more,
    }
