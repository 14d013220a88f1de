"""Fill the folder that a command of the documents runs in: the files it reads, under the names it uses, but small."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import tifffile
import torch
import typer
from documentation.pages import ROOT
from samples import noisy, scene

from dipcli.cli.app import app
from dipcli.problem import classifiers
from dipcli.tasks.registry import tasks

SIDE = 64  # pixels: enough for five levels, also of an image of a quarter
TEST_IMAGES = "IMAGES"  # the name in the documents of a folder with the test images of the paper
SUFFIX = re.compile(r"\.(png|jpe?g|tiff?|webp|bmp)$", re.IGNORECASE)
NETWORK = """
from torch import nn


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.network = blocks(), nn.Module()
        self.network._blocks = blocks()

    def forward(self, image):
        return self.blocks(image).mean() + self.network._blocks(image).mean()


def blocks():
    return nn.Sequential(*(nn.Conv2d(4 if n else 3, 4, 3, padding=1) for n in range(10)))


build = Whole
"""


def write_image(path: Path, seed: int = 0) -> None:
    """Write a small image unless it exists; a mask or a cutout with transparency if the name says so."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if re.search("mask|keep|missing", "/".join(path.parts[-3:])):
        pixels = np.zeros((SIDE, SIDE), np.uint8)
        pixels[8:40, 16:48] = 255
    elif "cutout" in path.name:
        pixels = np.dstack([scene(SIDE, SIDE), np.full((SIDE, SIDE), 255, np.uint8)])
        pixels[8:20, 16:40, 3] = 0
    elif "psf" in path.name:
        pixels = np.outer(*2 * [np.array([20, 120, 240, 120, 20])]) // 255
        pixels = pixels.astype(np.uint8)
    else:
        clean = re.search("clean|true|GT|flash|large", path.name)
        pixels = scene(SIDE, SIDE) if clean else noisy(scene(SIDE, SIDE), seed=seed)
    if "stack" in path.name:
        tifffile.imwrite(path, np.stack(4 * [pixels]), photometric="rgb")
    else:
        iio.imwrite(path, pixels)


@cache
def commands() -> dict[str, Any]:
    """Return the subcommands of `dip` by name."""
    return dict(typer.main.get_command(app()).commands)  # type: ignore[attr-defined]


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Parse the words after `dip` into a command and its values, without running or checking anything."""
    name = words[0] if words else ""
    if name not in commands():
        return name, {}
    with commands()[name].make_context(name, words[1:], resilient_parsing=True) as context:
        return name, dict(context.params)


def is_complete(words: list[str]) -> bool:
    """Whether the words after `dip` are a call, not the mention of a command: all required values are given."""
    name, given = parse(words)
    required = [p.name for p in commands()[name].params if p.required] if name in commands() else []
    return all(given.get(parameter) for parameter in required)


def inputs_of(words: list[str]) -> list[Path]:
    """Return the images that a command line restores."""
    _, given = parse(words)
    return [path for path in given.get("images") or [] if str(path) != "-"]


def runs_of(name: str, given: dict[str, Any]) -> list[Path]:
    """Return the run folders given to a command that is not a task."""
    runs = [] if name in tasks() else [*(given.get("runs") or []), given.get("run")]
    return [run for run in runs if run]


def prepare_for_dip(folder: Path, words: list[str]) -> None:
    """Write the files that a call of `dip` reads, except those of earlier runs."""
    name, given = parse(words)
    for image in inputs_of(words):
        _write_images(folder, str(image))
    own = [argument.name for argument in tasks()[name].arguments()] if name in tasks() else []
    for value in (given.get("reference"), *(given[key] for key in own)):
        if value is not None and SUFFIX.search(str(value)):
            write_image(folder / str(value))
        if str(value).endswith("/"):  # a folder with one for each image
            for image in inputs_of(words):
                _write_images(folder, str(image), str(value))
    if ":" in str(given.get("model")):
        (folder / f"{given['model'].partition(':')[0]}.py").write_text(NETWORK)
    weights = str(given.get("weights"))
    if weights.endswith(".pth"):
        _weights(folder / weights, given["model"])
    if weights == "download":
        _weights(folder / "hub" / "checkpoints" / classifiers.MODELS[given["model"]][1], given["model"])


def _write_images(folder: Path, name: str, place: str | None = None) -> None:
    """Write an image, a folder of images, or two images that match a pattern; `place` is another folder for them."""
    if SUFFIX.search(name):
        for number in "12" if "*" in name else "1":
            write_image(folder / name.replace("**", "inside").replace("*", number), seed=int(number))
        return
    for number, pattern in enumerate(("{}_1.png", "inside/{}_2.png")):
        write_image(folder / (place or name) / pattern.format(Path(name).name), seed=number)


def _weights(path: Path, model: str) -> None:
    """Write weights with the names and shapes that PyTorch publishes, in a small file."""
    with torch.device("meta"):
        network = classifiers.MODELS[model][0]().network
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: torch.full((1,), 0.01).expand(value.shape) for name, value in network.state_dict().items()}
    torch.save(weights, path)


def prepare_for_shell(folder: Path, line: str) -> None:
    """Write the files that a shell line reads: every image name that it does not write to."""
    for call in re.findall(r"\bdip ([^|;<>]*)", line):
        words = [word for word in shlex.split(call, comments=True) if "$" not in word]
        prepare_for_dip(folder, words)
    for searched in re.findall(r"\bfind (\S+) -name", line):
        _write_images(folder, f"{searched}/*.png")
    written = set(re.findall(r"(?:>\s*|-o\s+)(\S+)", line))
    for word in re.split(r"[\s;'\"]+", line):
        if SUFFIX.search(word) and word not in written and not word.startswith("-"):
            _write_images(folder, word)


def prepare_for_script(folder: Path, words: list[str]) -> None:
    """Write the files that a script of the repository reads; copy the scripts, because some write beside themselves."""
    for name in ("benchmarks", "docs", "examples"):
        if not (folder / name).exists():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "cat_*.png"))
    for name in ("cat_clean", "cat_noisy"):
        write_image(folder / "examples" / f"{name}.png")
    if any(word.startswith(TEST_IMAGES) for word in words):
        _write_test_images(folder / TEST_IMAGES)
    for previous, word in zip(["", *words], words, strict=False):
        if SUFFIX.search(word) and previous not in ("-o", "--output", "--out"):
            write_image(folder / word)


def _write_test_images(folder: Path) -> None:
    """Write all test images that the source of the benchmarks names."""
    for script in sorted((ROOT / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if re.fullmatch(r"\w+(/\w+)+\.(png|jpg)", node.value):
                    write_image(folder / node.value)
                elif re.fullmatch(r"\w+(,\w+){5,}", node.value):
                    write_clean(folder, node.value.split(","))


def write_clean(folder: Path, names: Iterable[str]) -> None:
    """Write NAME_clean.png for each name."""
    for name in names:
        write_image(folder / f"{name}_clean.png")
