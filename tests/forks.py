"""`dip` in processes of its own, forked from one that has imported PyTorch, which takes a process two seconds."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "scipy.ndimage", "dipcli.cli.app", "dipcli.runs.batches.joint", "dipcli.report"])


class Fork:
    """A call of `dip` in a process of its own.

    Args:
        arguments: the words after `dip`.
        code: Python that is executed before.
        folder: the working directory, None for that of this process.
        terminal: the path of a terminal for standard input and standard error.
        environment: the environment, None for that of this process.

    Attributes:
        out, err: the files that standard output and standard error, if it is no terminal, are written to.
    """

    def __init__(
        self,
        *arguments: object,
        code: str = "",
        folder: Path | None = None,
        terminal: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        scratch = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        self.out, self.err = scratch / "out", scratch / "err"
        streams = (terminal or os.devnull, str(self.out), terminal or str(self.err))
        words = ["dip", *map(str, arguments)]
        variables = {**(os.environ if environment is None else environment), "OMP_NUM_THREADS": "1"}
        self.process = FORKS.Process(target=_run, args=(words, code, folder or Path.cwd(), streams, variables))
        with patch.dict(os.environ, OMP_NUM_THREADS="1"):  # of the process that imports PyTorch
            self.process.start()

    @property
    def pid(self) -> int:
        """Return its number."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """Return the exit code, minus the number of the signal that killed it, None while it runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until it ends; returns what it has written to standard output and standard error."""
        self.process.join(timeout)
        assert self.returncode is not None, f"it did not end in {timeout} s"
        return tuple(path.read_text() if path.exists() else "" for path in (self.out, self.err))  # type: ignore[return-value]


def _run(words: list[str], code: str, folder: Path, streams: tuple[str, ...], variables: dict[str, str]) -> None:
    """Run `dip` in this process."""
    for number, path in enumerate(streams):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOCTTY)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115 - descriptors
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = words
    import torch

    torch.set_num_threads(1)
    exec(code, {})  # noqa: S102 - the test's own
    from dipcli.cli.app import main

    main()
