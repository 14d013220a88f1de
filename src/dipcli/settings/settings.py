"""The method: how to fit, and what to write down. One field = default + help text + command-line option."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from dipcli import stopping
from dipcli import text as specs
from dipcli.errors import UsageError
from dipcli.problem.noise import FULL_SCALE
from dipcli.settings.options import OptionInfo, check_fields

Precision = Literal["auto", "fp32", "bf16"]
MAX_SEED = 2**63 - 1
MIN_TILE_SIDE = 128  # pixels: of smaller ones most is overlap
# Of the averages that a rule chooses from; the first is the published one.
DECAYS = (0.99, 0.98, 0.995, 0.998)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to fit. The defaults suit no task in particular: each task has its presets.

    Raises:
        UsageError: when a value is outside its range; the sentence names the option.
    """

    iterations: Annotated[
        int | None,
        OptionInfo(
            "Run exactly this many iterations. Without it the run ends when the stopping rule says so.",
            "--iters",
            least=1,
        ),
    ] = None
    max_iterations: Annotated[
        int, OptionInfo("The most iterations when the stopping rule decides.", "--max-iters", least=1)
    ] = 5000
    stop: Annotated[
        str,
        OptionInfo(
            "When to stop and which picture to keep: holdout (smallest error at pixels left out), emv or wmv (smallest "
            "moving or windowed variance of the outputs), sigma (as far from the input as the noise), none (the last "
            "average) or auto (holdout, but sigma where neighbouring pixels share their noise). Parameters follow as "
            "holdout:fraction=0.04:patience=200.",
        ),
    ] = "auto"
    sigma: Annotated[
        str,
        OptionInfo("Noise level on the scale of 0 to 255, where a rule or a loss wants it; auto estimates it."),
    ] = "auto"
    time: Annotated[
        str | None,
        OptionInfo(
            "A time budget for the fit, as 90s, 15m or 1h30m: without --preset the best preset that fits in it, and "
            "restarts, averaged, as long as there is time for another."
        ),
    ] = None
    runs: Annotated[
        int | None,
        OptionInfo(
            "Fit so many times with different seeds and average the results; one that went astray is left out. 1 when "
            "not given, but with --time as many as fit.",
            least=1,
            most=1000,
        ),
    ] = None
    network: Annotated[
        str,
        OptionInfo(
            "The prior: skip (encoder-decoder), with skip:channels=16,32,64:skips=0,4,4:up=nearest for another "
            "shape, unet, resnet, or pixels (no network: the picture itself is the variable).",
        ),
    ] = "skip"
    input: Annotated[
        Literal["noise", "meshgrid", "fourier", "guide"],
        OptionInfo(
            "The network's fixed input: uniform noise, the pixel coordinates, sines and cosines of them, or a guide: "
            "the flash picture of dip flash, the decoded one of dip dejpeg, and for dip denoise what three simple "
            "filters make of the picture."
        ),
    ] = "noise"
    input_depth: Annotated[
        int | None,
        OptionInfo(
            "Channels of the network's input; 32 when not given, always 2 for meshgrid, those of the guide.",
            least=1,
            most=4096,
        ),
    ] = None
    pad: Annotated[Literal["reflection", "zero"], OptionInfo("How convolutions see beyond the border.")] = "reflection"
    optimize: Annotated[
        Literal["net", "net,input"], OptionInfo("What is fitted: the weights, or the weights and the input.")
    ] = "net"
    optimizer: Annotated[
        Literal["adam", "lbfgs"], OptionInfo("Adam, or L-BFGS after 100 steps of Adam at a rate of 0.001.")
    ] = "adam"
    rate: Annotated[float, OptionInfo("Learning rate.", "--lr", above=0)] = 0.01
    beta2: Annotated[float, OptionInfo("Adam's memory of squared gradients.", least=0, below=1)] = 0.999
    reg_noise: Annotated[
        float, OptionInfo("Standard deviation of the fresh noise added to the input at each iteration.", least=0)
    ] = 1 / 30
    warmup: Annotated[
        int,
        OptionInfo(
            "Steps on small windows of the picture before the first iteration, where the picture is large enough and "
            "is itself what was measured.",
            least=0,
            most=100_000,
        ),
    ] = 0
    ema: Annotated[
        float | None,
        OptionInfo(
            "Memory of the running average of the outputs; 0 keeps single outputs. Without it there are several "
            "averages, of 0.98 to 0.998, and the stopping rule chooses.",
            least=0,
            below=1,
        ),
    ] = None
    tv: Annotated[float, OptionInfo("Weight of the total variation of the picture in the loss.", least=0)] = 0.0
    seed: Annotated[
        int,
        OptionInfo(
            "Seed of all random numbers: same seed, settings and CPU, same bits.",
            group="The machine",
            least=0,
            most=MAX_SEED,
        ),
    ] = 0
    device: Annotated[str, OptionInfo("auto, cpu, cuda, cuda:1 ..., or mps.", group="The machine")] = "auto"
    precision: Annotated[
        Precision,
        OptionInfo("Arithmetic of the network; auto takes bf16 where the hardware has it.", group="The machine"),
    ] = "auto"
    tile: Annotated[
        str,
        OptionInfo(
            "A large picture is fitted in overlapping tiles, each by itself, which are blended: auto does so where the "
            "whole takes too much memory, none never does, a number is their longest side in pixels, "
            f"{MIN_TILE_SIDE} or more.",
            group="The machine",
        ),
    ] = "auto"
    max_memory: Annotated[
        str | None,
        OptionInfo(
            "The most memory to use, as 8G or 800M, of the GPU where the fit runs on one; four fifths of what is free "
            "when not given.",
            group="The machine",
        ),
    ] = None
    threads: Annotated[
        int | None, OptionInfo("CPU threads; PyTorch's choice when not given.", group="The machine", least=1, most=1024)
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)
        stopping.parse_rule(self.stop)
        self.noise_level()
        self.time_budget()
        self.tile_side()
        self.memory_limit()
        if self.seed + (self.runs or 1) > MAX_SEED:
            raise UsageError(f"--seed {self.seed} is too large for {self.runs} runs: use a smaller one.")

    def noise_level(self) -> float | None:
        """Of `--sigma`, on the scale of 0 to 255; None for auto.

        Raises:
            UsageError: when it is neither auto nor a number above 0.
        """
        if self.sigma == "auto":
            return None
        try:
            level = float(self.sigma)
        except ValueError:
            level = math.nan
        if not 0 < level <= FULL_SCALE:
            raise UsageError(
                f"--sigma {self.sigma} is no noise level: use auto or a number above 0, up to {FULL_SCALE}."
            )
        return level

    def time_budget(self) -> float | None:
        """Of `--time`, in seconds.

        Raises:
            UsageError: when it is no time.
        """
        if self.time is None:
            return None
        try:
            return specs.seconds(self.time)
        except ValueError:
            raise UsageError(f"--time {self.time!r} is no time: write it as 90s, 15m or 1h30m.") from None

    def tile_side(self) -> int | None:
        """Of the tiles that `--tile` asks for, in pixels; None for auto and none.

        Raises:
            UsageError: when it is neither nor a side.
        """
        if self.tile in ("auto", "none"):
            return None
        if not self.tile.isdecimal() or int(self.tile) < MIN_TILE_SIDE:
            raise UsageError(f"--tile {self.tile} is no side: use auto, none or {MIN_TILE_SIDE} pixels and more.")
        return int(self.tile)

    def memory_limit(self) -> int | None:
        """Of `--max-memory`, in bytes.

        Raises:
            UsageError: when it is no amount of memory.
        """
        if self.max_memory is None:
            return None
        try:
            return specs.size(self.max_memory)
        except ValueError:
            raise UsageError(f"--max-memory {self.max_memory!r} is no amount: write it as 8G or 800M.") from None

    def rule(self, rule: stopping.Rule | None = None) -> stopping.Rule:
        """The stopping rule, limited to the iterations asked for.

        With `iterations` the run has exactly that many, without it at most `max_iterations`.

        Args:
            rule: replaces the one that `stop` names.
        """
        rule = rule or stopping.parse_rule(self.stop)
        exactly = self.iterations
        limited = stopping.at_most(rule, self.max_iterations) if exactly is None else stopping.exactly(rule, exactly)
        return limited.with_noise_level(self.noise_level() or 0.0)

    @property
    def decays(self) -> tuple[float, ...]:
        """Of the running averages, the one that is logged first."""
        return DECAYS if self.ema is None else (self.ema,)
