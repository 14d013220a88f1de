"""The folder that a command of the documents runs in: what it reads is there under the names it says, made small."""

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
import torch
import typer
from documentation.pages import ROOT
from samples import noisy, scene

from dipcli.cli.app import app
from dipcli.problem import classifiers
from dipcli.tasks.registry import tasks

SIDE = 64  # pixels: large enough for five levels, and for a quarter of it
PICTURES = "PICTURES"  # how the documents call a folder with the test pictures of the paper
SUFFIX = re.compile(r"\.(png|jpe?g|tiff?|webp|bmp)$", re.IGNORECASE)
NETWORK = """
from torch import nn


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.network = blocks(), nn.Module()
        self.network._blocks = blocks()

    def forward(self, picture):
        return self.blocks(picture).mean() + self.network._blocks(picture).mean()


def blocks():
    return nn.Sequential(*(nn.Conv2d(4 if n else 3, 4, 3, padding=1) for n in range(10)))


build = Whole
"""


def picture(path: Path, seed: int = 0) -> None:
    """A small picture; a mask where it is called one, with transparency where it was cut out."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if re.search("mask|keep|missing", path.name):
        pixels = np.zeros((SIDE, SIDE), np.uint8)
        pixels[8:40, 16:48] = 255
    elif "cutout" in path.name:
        pixels = np.dstack([scene(SIDE, SIDE), np.full((SIDE, SIDE), 255, np.uint8)])
        pixels[8:20, 16:40, 3] = 0
    else:
        clean = re.search("clean|true|GT|flash|large", path.name)
        pixels = scene(SIDE, SIDE) if clean else noisy(scene(SIDE, SIDE), seed=seed)
    iio.imwrite(path, pixels)


@cache
def commands() -> dict[str, Any]:
    """Those of `dip`, by name."""
    return dict(typer.main.get_command(app()).commands)  # type: ignore[attr-defined]


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """A command and what it was given, of the words behind `dip`; nothing is run and nothing checked."""
    name = words[0] if words else ""
    if name not in commands():
        return name, {}
    with commands()[name].make_context(name, words[1:], resilient_parsing=True) as context:
        return name, dict(context.params)


def whole(words: list[str]) -> bool:
    """Whether the words behind `dip` are a call, not the mention of a command: what it must be given is given."""
    name, given = parsed(words)
    needed = [each.name for each in commands()[name].params if each.required] if name in commands() else []
    return all(given.get(each) for each in needed)


def read_by(words: list[str]) -> list[Path]:
    """The pictures that a command line restores."""
    _, given = parsed(words)
    return [each for each in given.get("images") or [] if str(each) != "-"]


def runs_of(name: str, given: dict[str, Any]) -> list[Path]:
    """The folders of earlier runs that a command beside the tasks is given."""
    found = [] if name in tasks() else [*(given.get("runs") or []), given.get("run")]
    return [each for each in found if each]


def set_for_dip(folder: Path, words: list[str]) -> None:
    """What one call of `dip` reads, but for what an earlier run leaves behind."""
    name, given = parsed(words)
    for image in read_by(words):
        _pictures(folder, str(image))
    own = [each.name for each in tasks()[name].arguments()] if name in tasks() else []
    for value in (given.get("reference"), *(given[key] for key in own)):
        if value is not None and SUFFIX.search(str(value)):
            picture(folder / str(value))
    if ":" in str(given.get("model")):
        (folder / f"{given['model'].partition(':')[0]}.py").write_text(NETWORK)
    weights = str(given.get("weights"))
    if weights.endswith(".pth"):
        _weights(folder / weights, given["model"])
    if weights == "download":
        _weights(folder / "hub" / "checkpoints" / classifiers.MODELS[given["model"]][1], given["model"])


def _pictures(folder: Path, name: str) -> None:
    """A picture, a folder of them, or two that a pattern means."""
    if SUFFIX.search(name):
        for number in "12" if "*" in name else "1":
            picture(folder / name.replace("**", "inside").replace("*", number), seed=int(number))
        return
    for number, place in enumerate(("{}_1.png", "inside/{}_2.png")):
        picture(folder / name / place.format(Path(name).name), seed=number)


def _weights(path: Path, model: str) -> None:
    """A file as PyTorch publishes it: all names and shapes, and next to no bytes."""
    with torch.device("meta"):
        network = classifiers.MODELS[model][0]().network
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: torch.full((1,), 0.01).expand(each.shape) for name, each in network.state_dict().items()}, path)


def set_for_shell(folder: Path, line: str) -> None:
    """What a line of shell reads: whatever has the name of a picture and is not written to."""
    for call in re.findall(r"\bdip ([^|;<>]*)", line):
        words = [each for each in shlex.split(call, comments=True) if "$" not in each]
        set_for_dip(folder, words)
    for place in re.findall(r"\bfind (\S+) -name", line):
        _pictures(folder, f"{place}/*.png")
    written = set(re.findall(r"(?:>\s*|-o\s+)(\S+)", line))
    for word in re.split(r"[\s;'\"]+", line):
        if SUFFIX.search(word) and word not in written and not word.startswith("-"):
            _pictures(folder, word)


def set_for_script(folder: Path, words: list[str]) -> None:
    """What a script of the repository reads; copies of the scripts, for some write beside themselves."""
    for name in ("benchmarks", "docs", "examples"):
        if not (folder / name).exists():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "cat_*.png"))
    for name in ("cat_clean", "cat_noisy"):
        picture(folder / "examples" / f"{name}.png")
    if any(word.startswith(PICTURES) for word in words):
        _papers(folder / PICTURES)
    for before, word in zip(["", *words], words, strict=False):
        if SUFFIX.search(word) and before not in ("-o", "--output", "--out"):
            picture(folder / word)


def _papers(folder: Path) -> None:
    """All test pictures that the benchmarks name, in their source."""
    for script in sorted((ROOT / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if re.fullmatch(r"\w+(/\w+)+\.(png|jpg)", node.value):
                    picture(folder / node.value)
                elif re.fullmatch(r"\w+(,\w+){5,}", node.value):
                    set_clean(folder, node.value.split(","))


def set_clean(folder: Path, names: Iterable[str]) -> None:
    """NAME_clean.png of each."""
    for name in names:
        picture(folder / f"{name}_clean.png")
