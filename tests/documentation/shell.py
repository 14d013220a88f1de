"""Run a shell whose `dip` hands its arguments to this process, which saves the seconds of importing PyTorch."""

from __future__ import annotations

import io
import os
import pickle
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from unittest.mock import patch

from documentation.in_process import call_with_bytes

WAIT = 0.05  # seconds between two looks whether the shell has ended
# Sends arguments, working directory, environment and, for a dash, standard input; writes what comes back.
PROGRAM = """#!{python} -SE
import os, pickle, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
given = sys.stdin.buffer.read() if "-" in sys.argv else b""
with connection.makefile("rwb") as stream:
    pickle.dump((sys.argv[1:], os.getcwd(), dict(os.environ), given), stream)
    stream.flush()
    code, out, err = pickle.load(stream)
sys.stdout.buffer.write(out)
sys.stderr.buffer.write(err)
sys.exit(code)
"""


def run_in_shell(command: list[str], environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a command that starts a shell; returns its exit code, standard output and standard error."""
    environment = os.environ if environment is None else environment
    with (
        TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX) as listener,
        TemporaryFile("w+") as out,
        TemporaryFile("w+") as err,
    ):
        address, program = f"{folder}/socket", Path(folder, "dip")
        listener.bind(address)
        listener.listen()
        program.write_text(PROGRAM.format(python=sys.executable, address=address))
        program.chmod(0o755)
        path = f"{folder}:{environment['PATH']}"
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**environment, "PATH": path})
        while process.poll() is None:
            if select.select([listener], [], [], WAIT)[0]:
                _answer(listener.accept()[0])
        out.seek(0)
        err.seek(0)
        return process.returncode, out.read(), err.read()


def _answer(connection: socket.socket) -> None:
    """Run what the program asks for, as if it were this process."""
    with connection, connection.makefile("rwb") as stream:
        arguments, folder, environment, given = pickle.load(stream)  # noqa: S301 - from our own program
        stdin = io.TextIOWrapper(io.BytesIO(given))
        with chdir(folder), patch.dict(os.environ, environment, clear=True), patch.object(sys, "stdin", stdin):
            pickle.dump(call_with_bytes(["dip", *arguments]), stream)
