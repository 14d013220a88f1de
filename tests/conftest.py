"""Small pictures, one thread, and `dip` as a shell would call it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from dipcli.cli import app

TINY = "skip:channels=8,8:skips=4,4"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


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


def scene(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A clean picture, uint8 (H, W, C): a slope with a square on it."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    layers = [60 + 120 * (x if c % 2 else y) for c in range(channels)]
    picture = np.stack(layers, axis=2)
    picture[height // 4 : height // 2, width // 4 : width // 2] = 220
    return picture.astype(np.uint8)


def noisy(clean: np.ndarray, sigma: float = 25, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, clean.shape)
    return np.clip(clean + noise, 0, 255).round().astype(np.uint8)


@dataclass
class Dip:
    """Calls the command line in this process."""

    app: Callable[[], object]

    def __call__(self, *arguments: object, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(self.app(), [str(each) for each in arguments], input=stdin)

    def quick(self, *arguments: object, iterations: int = 3, stdin: bytes | None = None) -> Result:
        """With a tiny network."""
        return self(
            *arguments, "--iters", iterations, "--network", TINY, "--input", "noise", "--input-depth", 4, stdin=stdin
        )


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


def start(*arguments: object, patch: str = "") -> subprocess.Popen[str]:
    code = f"import torch; torch.set_num_threads(1); {patch}\nfrom dipcli.cli import main; main()"
    tiny = ["--network", TINY, "--input", "noise", "--input-depth", "4"]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments), *tiny],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(ready: object, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing happened for a minute"
        time.sleep(0.05)
