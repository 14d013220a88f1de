"""Small pictures, one thread, and `dip` as a shell would call it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from dipcli.cli.app import app
from dipcli.fitting import lockstep

# How long to look for what breaks; HYPOTHESIS_PROFILE=nightly or pytest --hypothesis-profile=nightly looks longer.
hypothesis.settings.register_profile("quick", max_examples=60, deadline=None)
hypothesis.settings.register_profile("nightly", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

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


def wide_gamut() -> bytes:
    """A colour profile of Adobe RGB's primaries, white and gamma, as its makers publish them: no more than it takes.

    Source:
        ICC.1:2001-04, a matrix profile for displays.
    """
    columns = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
    white, gamma = (0.9642, 1.0, 0.8249), b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.19921875 * 256)) + bytes(2)

    def place(xyz: tuple[float, ...]) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(each * 65536) for each in xyz))

    name = b"wide\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": place(white),
        **dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(place, columns), strict=True)),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma),
    }
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4xI", start + len(body), 0x02100000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    return (head + struct.pack(">3i", *(round(each * 65536) for each in white))).ljust(128, b"\0") + table + body


@dataclass
class Dip:
    """Calls the command line in this process."""

    app: Callable[[], object]

    def __call__(self, *arguments: object, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(self.app(), [str(each) for each in arguments], input=stdin)

    def quick(
        self, *arguments: object, iterations: int = 3, stdin: bytes | None = None, report: bool = False
    ) -> Result:
        """With a tiny network, and without the page."""
        tiny = ("--iters", iterations, "--network", TINY, "--input", "noise", "--input-depth", 4)
        return self(*arguments, *tiny, *([] if report else ["--no-report"]), stdin=stdin)


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
    code = f"import torch; torch.set_num_threads(1); {patch}\nfrom dipcli.cli.app import main; main()"
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


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many networks each pass was."""
    seen: list[int] = []
    forward = lockstep._Joint.forward

    def counted(self: Any, wishes: Any) -> Any:
        seen.append(len(wishes))
        return forward(self, wishes)

    monkeypatch.setattr(lockstep._Joint, "forward", counted)
    return seen
