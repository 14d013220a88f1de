"""Run `dip ...` and `python script ...` in this process, which saves the seconds of importing PyTorch."""

from __future__ import annotations

import io
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from dipcli.tasks import registry


class Capture(io.TextIOWrapper):
    """A text stream with a binary buffer, in memory."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    def content(self) -> bytes:
        """Return everything written so far."""
        self.flush()
        return self.buffer.getvalue()  # type: ignore[attr-defined,no-any-return]


def call(words: list[str]) -> tuple[int, str, str]:
    """Run a command; returns exit code, standard output and standard error."""
    code, out, err = call_with_bytes(words)
    return code, out.decode(), err.decode()


def call_with_bytes(words: list[str]) -> tuple[int, bytes, bytes]:
    """Run a command; returns exit code, standard output and standard error."""
    out, err = Capture(), Capture()
    argv, path, modules, declared = sys.argv, sys.path[:], set(sys.modules), registry.tasks()
    code: Any = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            if words[0] == "dip":
                sys.argv = words
                runpy.run_module("dipcli", run_name="__main__", alter_sys=False)
            else:
                sys.argv = words[1:]
                sys.path.insert(0, str(Path(words[1]).parent.absolute()))
                runpy.run_path(words[1], run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
        if isinstance(code, str):
            err.write(code)
            code = 1
    finally:
        sys.argv, sys.path[:] = argv, path
        scripts = {Path.cwd(), *(Path(word).parent.absolute() for word in words[1:2])}
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).parent in scripts:
                del sys.modules[name]  # the next script may have another module of that name
        registry.DECLARED.clear()
        registry.DECLARED.update(declared)
    return code, out.content(), err.content()


def in_process(run: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `subprocess.run` so that Python with `dip` or a script of the repository runs in this process."""

    def run_here(command: list[Any], **options: Any) -> Any:
        words = [str(word) for word in command]
        ours = words[0] == sys.executable and (words[1:3] == ["-m", "dipcli"] or Path(words[1]).suffix == ".py")
        if not ours:
            return run(command, **options)
        with chdir(options.get("cwd") or "."):
            code, out, err = call(["dip", *words[3:]] if words[1] == "-m" else ["python", *words[1:]])
        assert not (options.get("check") and code), err
        return subprocess.CompletedProcess(words, code, out, err)

    return run_here
