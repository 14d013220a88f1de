"""Small images, one thread, and `dip` as a shell would call it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import imageio.v3 as iio
import pytest
import torch
from command_line import Dip
from samples import noisy, scene

from dipcli.cli.app import app
from dipcli.fitting.passes import lockstep

# Bytecode is kept, whatever the environment says: compiling `dipcli` and the tests takes every process a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A shell starts what runs in the background with Ctrl-C ignored; tests and their processes handle it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long to look for what breaks; HYPOTHESIS_PROFILE=ci or nightly looks longer.
hypothesis.settings.register_profile("quick", max_examples=15, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=60, deadline=None)
hypothesis.settings.register_profile("nightly", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """A file need not survive a power cut here; a run waits for the disk several times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "DIP_DEBUG", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device here"))


@pytest.fixture
def dip() -> Dip:
    return Dip(app)


@pytest.fixture
def noisy_png(tmp_path: Path) -> Path:
    path = tmp_path / "noisy.png"
    iio.imwrite(path, noisy(scene(37, 53)))
    return path


@pytest.fixture
def clean_png(tmp_path: Path) -> Path:
    path = tmp_path / "truth.png"
    iio.imwrite(path, scene(37, 53))
    return path


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many networks each pass was."""
    seen: list[int] = []
    forward = lockstep.JointNetworks.forward

    def counted(self: Any, wishes: Any) -> Any:
        seen.append(len(wishes))
        return forward(self, wishes)

    monkeypatch.setattr(lockstep.JointNetworks, "forward", counted)
    return seen
