"""How much memory there is, and how much a fit will take, measured on a small window of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from time import perf_counter

import psutil
import torch
from torch import Tensor

from dipcli import networks, stopping
from dipcli.fitting import cgroups as groups
from dipcli.fitting.engine import fit
from dipcli.fitting.restarts import fresh_prior
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.problem.losses import squared_error
from dipcli.settings import Settings
from dipcli.stopping.step import Step

SHARE = 0.8  # of the memory that is free: what is used when nobody says how much
ALLOTTED: ContextVar[int | None] = ContextVar("allotted", default=None)  # bytes for this process, one of several
SHARING: ContextVar[int] = ContextVar("sharing", default=1)  # fits at a time in this process, this one among them

# Measured, docs/performance.md: the peaks of 14 fits of 256x256 to 2048x2048 are 0.76 to 0.97 of the estimate.
MARGIN = 1.1  # for what the system's allocator cannot fill,
BACKWARD_COPIES = 1.4  # of what is kept for the way back: that, and the slopes of the largest layers beside it
CODE_COPIES, FITTED_CODE_COPIES = (
    8,
    16,
)  # copies of z: as made and as laid out, the noise's pool, perturbed, those to go back to
AVERAGE_COPIES, IMAGE_COPIES = (
    4,
    10,
)  # pictures for each average: before and after a step, to go back to; and beside them
WEIGHTS, HISTORY = 44, 800  # bytes for each weight: with slope, Adam's moments, copies; the directions of L-BFGS
FLOAT = 4  # bytes
BASE = 300 * 2**20  # Python, PyTorch and what both load
BASE_GPU = 256 * 2**20  # the libraries' workspace
SLIGHT = 1e-6  # learning rate of the trials: a hot one must not ruin them
AFTER = 20  # bytes for each value of the picture, to finish, round, write and read it


@dataclass(frozen=True)
class Cost:
    """What fits of one network to windows of one measurement take.

    Attributes:
        settings: of the fit.
        depth: channels of z.
        channels: of the picture.
        kept: bytes that autograd keeps for the way back, for each pixel of z.
        fixed: bytes that do not grow with the picture.
        pace: seconds an iteration takes for each pixel of z; None where it was not measured.
        watched: pictures, as large as what is fitted, that those who watch keep.
    """

    settings: Settings
    depth: int
    channels: int
    kept: float
    fixed: int
    seconds_per_pixel: float | None = None
    watched: int = 0

    def memory(self, height: int, width: int) -> int:
        """The most bytes that a fit of a window of this size takes, beside the pictures that are there anyway.

        One of the whole picture is a window too.
        """
        rows, columns = networks.padded_size(self.settings, height, width)
        codes = FITTED_CODE_COPIES if self.settings.optimize == "net,input" else CODE_COPIES
        pictures = AVERAGE_COPIES * len(self.settings.decays) + IMAGE_COPIES + self.watched
        pictures += 2 * ((self.settings.runs or 1) - 1)
        of_code = rows * columns * (BACKWARD_COPIES * self.kept + FLOAT * self.depth * codes)
        return int(MARGIN * (of_code + FLOAT * height * width * self.channels * pictures)) + self.fixed

    def total(self, size: tuple[int, int], values: int, beside: int, *, tiled: bool = False) -> int:
        """The most bytes that all takes together.

        On a GPU it is what lies there: of a picture in tiles one tile.

        Args:
            size: (H, W) of the window.
            values: of the whole picture, over all channels.
            beside: bytes of the pictures that are in memory meanwhile.
            tiled: whether the window is a tile: those that are done are in memory too.
        """
        if self.settings.device.startswith("cuda"):
            return BASE_GPU + self.memory(*size)
        done = 2 * FLOAT * values if tiled else 0  # the tiles, and what they are blended into
        return BASE + beside + max(done + self.memory(*size), AFTER * values)

    def seconds(self, height: int, width: int) -> float | None:
        """An iteration on a window of this size takes."""
        rows, columns = networks.padded_size(self.settings, height, width)
        return None if self.seconds_per_pixel is None else self.seconds_per_pixel * rows * columns


def measure(problem: Problem, settings: Settings, *, side: int, trials: int = 0) -> tuple[Cost, Prior]:
    """Fit a small window for a step, and see what it takes; and the prior of that window.

    Args:
        problem: the whole measurement.
        settings: as they will be used: device and precision resolved.
        side: of the window.
        trials: further steps that tell the pace; none are taken for 0.
    """
    part = _window(problem, side)
    device = torch.device(settings.device)
    once = replace(settings, warmup=0, rate=SLIGHT)
    prior = fresh_prior(part, once).to(device)
    part = part.to(device)
    rows, columns = prior.code.shape[2:]
    weights = sum(each.numel() for each in prior.network.parameters())
    fixed = weights * (HISTORY if settings.optimizer == "lbfgs" else WEIGHTS)
    if part.operator is not problem.operator and not problem.tileable:
        with kept() as of_operator:
            problem.operator(torch.zeros(problem.shape, requires_grad=True))
        fixed += int(BACKWARD_COPIES * sum(of_operator.values()))
    with kept() as tensors:
        fit(part, prior, once, stop=stopping.exactly(stopping.Never(), 1))
    pace = _pace(part, prior, once, trials) / (rows * columns) if trials else None
    each = sum(tensors.values()) / (rows * columns)
    return Cost(settings, prior.code.shape[1], problem.shape[0], each, fixed, pace), prior


@contextmanager
def kept() -> Iterator[dict[int, int]]:
    """What autograd keeps for the way back of what is computed inside: bytes of each piece of memory, by its place."""
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        found[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def _pace(part: Problem, prior: Prior, settings: Settings, trials: int) -> float:
    """Seconds an iteration; the first, which is slower, not counted."""
    times: list[float] = []

    def watch(step: Step, _verdict: object) -> None:
        float(step.loss)  # a GPU may still be at work on it
        times.append(perf_counter())

    fit(part, prior, settings, stop=stopping.exactly(stopping.Never(), trials + 1), observers=[watch])
    return (times[-1] - times[0]) / trials


def _window(problem: Problem, side: int) -> Problem:
    """From the middle of the picture; of a measurement that cannot be cut one that is the picture itself."""
    if side >= max(problem.shape[1:]):
        return problem
    rows, columns = (_middle(length, side) for length in problem.shape[1:])
    if problem.tileable:
        part = problem.window(rows, columns)
        return replace(part, weight=torch.ones_like(part.measured))  # wherever the window is, something counts
    picture = torch.zeros(problem.shape[0], rows.stop - rows.start, columns.stop - columns.start)
    guide = problem.visible_guide()
    return Problem(
        measured=picture,
        shape=(problem.shape[0], *picture.shape[1:]),
        loss=squared_error,
        guide=None if guide is None else guide[..., rows, columns],
        members=problem.members,
    )


def _middle(length: int, side: int) -> slice:
    side = min(side, length)
    return slice((length - side) // 2, (length - side) // 2 + side)


def limit(settings: Settings) -> int | None:
    """The most bytes that a fit may take; None where nobody says and nothing is known of the machine.

    Args:
        settings: `max_memory` and `device` are used.
    """
    given, sharing = settings.memory_limit(), SHARING.get()
    if given is not None:
        return given // sharing
    device = torch.device(settings.device)
    there = free(device)
    if there is None:
        return None
    allotted = ALLOTTED.get()
    return int(SHARE * (there if allotted is None or device.type == "cuda" else min(there, allotted))) // sharing


def free(device: torch.device) -> int | None:
    """Bytes that this process may have: what it has by now, and what is free besides, within its control groups.

    On a GPU it is what PyTorch may have of the GPU's.
    """
    if device.type == "cuda":
        left, _ = torch.cuda.mem_get_info(device)
        return int(left) + torch.cuda.memory_reserved(device)
    own = int(psutil.Process().memory_info().rss)
    rooms = [int(psutil.virtual_memory().available)]
    if sys.platform == "linux":
        rooms += groups.left()
    return own + max(0, min(rooms))
