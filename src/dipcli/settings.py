"""The method: how to fit, and what to write down. One field = default + help text + command-line option."""

from __future__ import annotations

import math
import numbers
import types
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from dipcli import stopping
from dipcli.errors import UsageError

Precision = Literal["auto", "fp32", "bf16"]


class Option(NamedTuple):
    """How a field is spoken of on the command line, and which values it may have.

    Attributes:
        help: what it does, for `--help`.
        flag: its option, where that is not the field's name.
        group: the heading it stands under in `--help`.
        least: the smallest value allowed.
        most: the largest value allowed.
        above: values must be larger than this.
        below: values must be smaller than this.
    """

    help: str
    flag: str = ""
    group: str = "The fit"
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to fit. The defaults suit no task in particular: each task has its presets.

    Raises:
        UsageError: when a value is outside its range; the sentence names the option.
    """

    iterations: Annotated[
        int | None,
        Option(
            "Run exactly this many iterations. Without it the run ends when the stopping rule says so.",
            "--iters",
            least=1,
        ),
    ] = None
    max_iterations: Annotated[
        int, Option("The most iterations when the stopping rule decides.", "--max-iters", least=1)
    ] = 5000
    stop: Annotated[
        str,
        Option(
            "When to stop and which picture to keep: holdout (smallest error at pixels left out), emv (smallest "
            "moving variance of the outputs), none (the last average) or auto (holdout). Parameters follow as "
            "holdout:fraction=0.02:patience=300 or emv:patience=500.",
        ),
    ] = "auto"
    network: Annotated[
        str,
        Option(
            "The prior: skip (encoder-decoder), with skip:channels=16,32,64:skips=0,4,4:up=nearest for another "
            "shape, unet, resnet, or pixels (no network: the picture itself is the variable).",
        ),
    ] = "skip"
    input: Annotated[
        Literal["noise", "meshgrid", "fourier", "guide"],
        Option(
            "The network's fixed input: uniform noise, the pixel coordinates, sines and cosines of them, or a guide: "
            "the flash picture of dip flash, the decoded one of dip dejpeg."
        ),
    ] = "noise"
    input_depth: Annotated[
        int | None,
        Option(
            "Channels of the network's input; 32 when not given, always 2 for meshgrid, those of the guide.",
            least=1,
            most=4096,
        ),
    ] = None
    pad: Annotated[Literal["reflection", "zero"], Option("How convolutions see beyond the border.")] = "reflection"
    optimize: Annotated[
        Literal["net", "net,input"], Option("What is fitted: the weights, or the weights and the input.")
    ] = "net"
    optimizer: Annotated[
        Literal["adam", "lbfgs"], Option("Adam, or L-BFGS after 100 steps of Adam at a rate of 0.001.")
    ] = "adam"
    rate: Annotated[float, Option("Learning rate.", "--lr", above=0)] = 0.01
    beta2: Annotated[float, Option("Adam's memory of squared gradients.", least=0, below=1)] = 0.999
    reg_noise: Annotated[
        float, Option("Standard deviation of the fresh noise added to the input at each iteration.", least=0)
    ] = 1 / 30
    ema: Annotated[
        float,
        Option("Memory of the running average of the outputs; 0 keeps single outputs.", least=0, below=1),
    ] = 0.99
    tv: Annotated[float, Option("Weight of the total variation of the picture in the loss.", least=0)] = 0.0
    seed: Annotated[
        int,
        Option(
            "Seed of all random numbers: same seed, settings and CPU, same bits.",
            group="The machine",
            least=0,
            most=2**63 - 1,
        ),
    ] = 0
    device: Annotated[str, Option("auto, cpu, cuda, cuda:1 ..., or mps.", group="The machine")] = "auto"
    precision: Annotated[
        Precision,
        Option("Arithmetic of the network; auto takes bf16 where the hardware has it.", group="The machine"),
    ] = "auto"
    threads: Annotated[
        int | None, Option("CPU threads; PyTorch's choice when not given.", group="The machine", least=1, most=1024)
    ] = None

    def __post_init__(self) -> None:
        _check(self)
        stopping.named(self.stop)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run writes beside the restored picture.

    Raises:
        UsageError: when a value is outside its range; the sentence names the option.
    """

    snapshot_every: Annotated[
        int | None, Option("Write a snapshot every so many iterations.", group="What is written", least=1)
    ] = None
    snapshot_at: Annotated[
        str | None,
        Option("Write snapshots at these iterations: 1,10,100.", group="What is written"),
    ] = None
    log_every: Annotated[
        int, Option("A row of log.csv every so many iterations.", group="What is written", least=1)
    ] = 10
    run_dir: Annotated[
        str | None,
        Option(
            "Folder for log, snapshots and run record; <output stem>.dip when not given.",
            group="What is written",
        ),
    ] = None
    no_run_dir: Annotated[bool, Option("Write the picture alone.", group="What is written")] = False
    overwrite: Annotated[bool, Option("Let the output take the place of the input.", group="What is written")] = False

    def __post_init__(self) -> None:
        _check(self)
        self.snapshots_asked()
        if self.no_run_dir and (self.run_dir or self.snapshot_every or self.snapshot_at):
            raise UsageError("--no-run-dir leaves no place for --run-dir or snapshots: drop one of them.")

    def snapshots_asked(self) -> frozenset[int]:
        """The iterations of `--snapshot-at`."""
        try:
            numbers = frozenset(int(part) for part in (self.snapshot_at or "").split(",") if part.strip())
        except ValueError:
            numbers = frozenset({0})
        if any(number < 1 for number in numbers):
            raise UsageError(f"--snapshot-at {self.snapshot_at} is not a list of iterations: write it as 1,10,100.")
        return numbers


class Knob(NamedTuple):
    """One field of `Settings` or `Record` as the command line and the Python API see it."""

    name: str
    type: Any
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """The option: `--input-depth` for `input_depth` unless the field names another."""
        return self.option.flag or "--" + self.name.replace("_", "-")


def knobs(cls: type[Settings | Record]) -> list[Knob]:
    """The fields of `cls` in their order, with their types and options."""
    hints = get_type_hints(cls, include_extras=True)
    return [
        Knob(field.name, kind, field.default, option)
        for field in fields(cls)
        for kind, option in [get_args(hints[field.name])]
    ]


def _check(values: Settings | Record) -> None:
    for knob in knobs(type(values)):
        value = getattr(values, knob.name)
        if value is None and _optional(knob.type):
            continue
        if get_origin(knob.type) is Literal:
            if value not in get_args(knob.type):
                raise UsageError(f"{knob.flag} {value} is unknown: choose from {' '.join(get_args(knob.type))}.")
            continue
        option = knob.option
        if not _is_a(value, knob.type):
            raise UsageError(f"{knob.flag} {value!r} is not a {_word(knob.type)}: write one.")
        if option.most is not None and value > option.most:
            raise UsageError(f"{knob.flag} {value} is too large: use {option.most} or less.")
        if option.least is not None and not value >= option.least:
            raise UsageError(f"{knob.flag} {value} is too small: use {option.least} or more.")
        if option.above is not None and not value > option.above:
            raise UsageError(f"{knob.flag} {value} is too small: use a number above {option.above}.")
        if option.below is not None and not value < option.below:
            raise UsageError(f"{knob.flag} {value} is too large: use a number below {option.below}.")


def _optional(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)


def _plain(kind: Any) -> type:
    """Int of `int | None`, and so on."""
    plain: type = next(each for each in (*get_args(kind), kind) if isinstance(each, type) and each is not type(None))
    return plain


def _is_a(value: Any, kind: Any) -> bool:
    plain = _plain(kind)
    if isinstance(value, bool) != (plain is bool):
        return False
    if plain is float:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    return isinstance(value, numbers.Integral if plain is int else plain)


def _word(kind: Any) -> str:
    return {int: "whole number", float: "finite number", bool: "yes or no"}.get(_plain(kind), "word")
