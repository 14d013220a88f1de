"""How to fit. One field = default + help text + command-line option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from dipcli import stopping, text
from dipcli.errors import UsageError
from dipcli.problem.noise import FULL_SCALE
from dipcli.settings.options import MAX_ITERATIONS, OptionInfo, check_fields, parse_option

Precision = Literal["auto", "fp32", "bf16"]
MAX_SEED = 2**63 - 1
MIN_TILE_SIDE = 128  # pixels: smaller tiles consist mostly of overlap
MAX_TILE_SIDE = 1_000_000
# EMA decays of the averages that a rule chooses from; the first is the published one.
DECAYS = (0.99, 0.98, 0.995, 0.998)
STOPPING, NETWORK, OPTIMISER, MACHINE = "Stopping", "The network", "The optimiser", "The machine"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to fit. Each task has presets in place of these defaults.

    `sigma`, `time` (seconds), `tile` and `max_memory` (bytes) may be given as numbers; they become strings.

    Raises:
        UsageError: if a value is outside its range; the message names the option.
    """

    iterations: Annotated[
        int | None,
        OptionInfo(
            "Run exactly this many iterations; by default a stopping rule ends the run.",
            "--iters",
            least=1,
            most=MAX_ITERATIONS,
        ),
    ] = None
    stop: Annotated[str, OptionInfo(stopping.describe_rules)] = "auto"
    sigma: Annotated[
        str | float,
        OptionInfo(
            "Noise level, where 255 is the range of the image's values, for rules and losses; auto estimates it."
        ),
    ] = "auto"
    time: Annotated[
        str | float | None,
        OptionInfo(
            "Time budget of the fit, as 90s, 15m or 1h30m: chooses the best preset that fits in it, unless --preset is "
            "given, and averages restarts while there is time."
        ),
    ] = None
    fusion: Annotated[
        Literal["auto", "none"],
        OptionInfo(
            "auto: denoise, inpaint and deblur combine the fit with a non-local estimate of the same image; held-out "
            "pixels, or the noise level where neighbours share it, tell how much of each. superres and dejpeg combine "
            "it with one that agrees with the small image or the file, in fixed shares. none: the fit alone."
        ),
    ] = "auto"
    runs: Annotated[
        int | None,
        OptionInfo(
            "Number of fits with different seeds to average; outliers are dropped. Default: 1, or as many as fit in "
            "--time.",
            least=1,
            most=1000,
        ),
    ] = None
    seed: Annotated[int, OptionInfo("Random seed. Same seed, settings and CPU: same bits.", least=0, most=MAX_SEED)] = 0
    max_iterations: Annotated[
        int,
        OptionInfo(
            "Iteration limit when a stopping rule is active.", "--max-iters", STOPPING, least=1, most=MAX_ITERATIONS
        ),
    ] = 5000
    ema: Annotated[
        float | None,
        OptionInfo(
            "EMA decay of the outputs; 0 = no averaging. By default the rule chooses among averages with decays of "
            "0.98 to 0.998.",
            group=STOPPING,
            least=0,
            below=1,
        ),
    ] = None
    network: Annotated[
        str,
        OptionInfo(
            "skip (encoder-decoder), unet, resnet, or pixels (no network: the image itself is fitted). Parameters "
            "follow, as in skip:channels=16,32:skips=0,4.",
            group=NETWORK,
        ),
    ] = "skip"
    input: Annotated[
        Literal["noise", "meshgrid", "fourier", "guide"],
        OptionInfo(
            "Fixed input of the network: uniform noise, pixel coordinates, sines and cosines of them, or a guide "
            "(denoise: filtered images; dejpeg: the decoded image; superres: a bicubic enlargement; flash: the flash "
            "image), behind the estimate that the fit is fused with.",
            group=NETWORK,
        ),
    ] = "noise"
    input_depth: Annotated[
        int | None,
        OptionInfo(
            "Input channels. Default: 32; 2 for meshgrid; those of the guide.", group=NETWORK, least=1, most=4096
        ),
    ] = None
    pad: Annotated[Literal["reflection", "zero"], OptionInfo("Convolution padding mode.", group=NETWORK)] = "reflection"
    mosaic: Annotated[
        int,
        OptionInfo(
            "Fit the 2x2 (2), 3x3 (3) or 4x4 (4) phases of the image side by side: for noise that neighbouring pixels "
            "share. 1: the image itself.",
            group=NETWORK,
            least=1,
            most=4,
        ),
    ] = 1
    optimize: Annotated[
        Literal["net", "net,input"], OptionInfo("Fit the weights, or the weights and the input.", group=OPTIMISER)
    ] = "net"
    optimizer: Annotated[
        Literal["adam", "lbfgs"],
        OptionInfo("Adam, or L-BFGS after 100 steps of Adam at a learning rate of 0.001.", group=OPTIMISER),
    ] = "adam"
    rate: Annotated[float, OptionInfo("Learning rate.", "--lr", OPTIMISER, above=0)] = 0.01
    beta2: Annotated[float, OptionInfo("Adam beta2.", group=OPTIMISER, least=0, below=1)] = 0.999
    reg_noise: Annotated[
        float,
        OptionInfo("Standard deviation of the noise added to the input at each iteration.", group=OPTIMISER, least=0),
    ] = 1 / 30
    warmup: Annotated[
        int,
        OptionInfo(
            "Steps on small windows before the first iteration, for a large image that was measured directly.",
            group=OPTIMISER,
            least=0,
            most=100_000,
        ),
    ] = 0
    tv: Annotated[float, OptionInfo("Weight of the image's total variation in the loss.", group=OPTIMISER, least=0)] = (
        0.0
    )
    device: Annotated[str, OptionInfo("auto, cpu, cuda, cuda:1 ..., or mps.", group=MACHINE)] = "auto"
    precision: Annotated[
        Precision, OptionInfo("Arithmetic of the network; auto is bf16 if the hardware supports it.", group=MACHINE)
    ] = "auto"
    tile: Annotated[
        str | float,
        OptionInfo(
            f"Longest side of the tiles of a large image, {MIN_TILE_SIDE} pixels or more; none: no tiles; auto: tiles "
            "if the whole image needs too much memory.",
            group=MACHINE,
        ),
    ] = "auto"
    max_memory: Annotated[
        str | float | None,
        OptionInfo(
            "Memory limit, as 8G or 800M; on a GPU, of its memory. Default: four fifths of the free memory.",
            group=MACHINE,
        ),
    ] = None
    nan: Annotated[
        Literal["fill", "refuse"],
        OptionInfo("Pixels that are not finite numbers: refuse the image, or fill them like holes.", group=MACHINE),
    ] = "refuse"
    threads: Annotated[
        int | None, OptionInfo("CPU threads. Default: PyTorch's choice.", group=MACHINE, least=1, most=1024)
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
        """Return `--sigma` on the scale of 0 to 255; None for auto."""
        examples = f"auto or a number above 0, up to {FULL_SCALE}"
        return None if self.sigma == "auto" else parse_option("--sigma", self.sigma, _noise_level, examples)

    def time_budget(self) -> float | None:
        """Return `--time` in seconds."""
        return None if self.time is None else parse_option("--time", self.time, text.parse_seconds, "90s, 15m or 1h30m")

    def tile_side(self) -> int | None:
        """Return the side of the tiles in pixels; None for auto and none."""
        examples = f"auto, none or {MIN_TILE_SIDE} to {MAX_TILE_SIDE} pixels"
        return None if self.tile in ("auto", "none") else parse_option("--tile", self.tile, _tile_side, examples)

    def memory_limit(self) -> int | None:
        """Return `--max-memory` in bytes."""
        return (
            None
            if self.max_memory is None
            else parse_option("--max-memory", self.max_memory, text.parse_bytes, "8G or 800M")
        )

    def rule(self, rule: stopping.Rule | None = None) -> stopping.Rule:
        """Return the stopping rule, limited to `iterations`, or to at most `max_iterations`.

        Args:
            rule: used in place of the one that `stop` names.
        """
        rule = rule or stopping.parse_rule(self.stop)
        if self.iterations is None:
            limited = stopping.at_most(rule, self.max_iterations)
        else:
            limited = stopping.exactly(rule, self.iterations)
        return limited.with_noise_level(self.noise_level() or 0.0)

    @property
    def decays(self) -> tuple[float, ...]:
        """EMA decays of the running averages; the first average is logged."""
        return DECAYS if self.ema is None else (self.ema,)


def _noise_level(number: str) -> float:
    if not 0 < (level := float(number)) <= FULL_SCALE:
        raise ValueError(number)
    return level


def _tile_side(number: str) -> int:
    if not number.isdecimal() or not MIN_TILE_SIDE <= (side := int(number)) <= MAX_TILE_SIDE:
        raise ValueError(number)
    return side
