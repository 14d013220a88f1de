"""The memory and time that a fit takes, measured on a small window of the image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from dipcli import networks, stopping
from dipcli.fitting.control import Observer
from dipcli.fitting.engine import fit
from dipcli.fitting.machine.memory import BASE_BYTES
from dipcli.fitting.restarts import fresh_prior
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.problem.losses import squared_error
from dipcli.settings import Settings
from dipcli.stopping.step import Step

# Measured, docs/notes/tiles.md: the peaks of 14 fits of 256x256 to 2048x2048 are 0.76 to 0.97 of the estimate.
ALLOCATOR_OVERHEAD = 1.1  # factor: memory that the allocator cannot fill
BACKWARD_FACTOR = 1.4  # times the tensors saved for the backward pass: those, and the gradients of the largest layers
# Copies of z: as made, in the network's layout, the pool of noise, with noise added, and in both snapshots; twice as
# many if z is optimised too, with its gradient and moments.
CODE_COPIES, OPTIMIZED_CODE_COPIES = 8, 16
IMAGES_PER_AVERAGE = 4  # each running average: before and after a step, and in both snapshots
OTHER_IMAGES = 10  # the output, its gradient, the measurement, the best average and temporary images
IMAGES_PER_EXTRA_RUN = 2  # the result of each further run, finished and not
BYTES_PER_WEIGHT = 44  # a weight, its gradient, Adam's moments, and copies of them in both snapshots
LBFGS_BYTES_PER_WEIGHT = 800  # the history of 100 directions and gradients
BYTES_PER_FLOAT = 4
GPU_BASE_BYTES = 256 * 2**20  # the libraries' workspace
OUTPUT_BYTES_PER_VALUE = 20  # to finish, round, write and read back the image
MAX_ELEMENTS = 2**31 - 1  # of a tensor: kernels of PyTorch, cuDNN and oneDNN count them in 32 bits
TRIAL_RATE = 1e-6  # learning rate of the trial iterations: a high one could make them collapse


@dataclass(frozen=True)
class Cost:
    """The cost of a fit with one network, as a function of the size of the window.

    Attributes:
        settings: of the fit.
        code_channels: channels of z.
        image_channels: channels of the image.
        saved_bytes_per_pixel: bytes that autograd saves for the backward pass, for each pixel of z.
        fixed_bytes: bytes that do not depend on the size.
        seconds_per_pixel: seconds of an iteration for each pixel of z; None if not measured.
        observer_images: images of the fitted size that the observers keep.
        elements_per_pixel: elements of the largest tensor, for each pixel of z.
    """

    settings: Settings
    code_channels: int
    image_channels: int
    saved_bytes_per_pixel: float
    fixed_bytes: int
    seconds_per_pixel: float | None = None
    observer_images: int = 0
    elements_per_pixel: float = 0.0

    def can_index(self, height: int, width: int) -> bool:
        """Return whether no tensor of a fit of this size has more than `MAX_ELEMENTS`."""
        rows, columns = networks.padded_size(self.settings, height, width)
        return rows * columns * self.elements_per_pixel <= MAX_ELEMENTS

    def memory(self, height: int, width: int) -> int:
        """Return the peak bytes of a fit of this size, without those that are in memory before it."""
        rows, columns = networks.padded_size(self.settings, height, width)
        codes = OPTIMIZED_CODE_COPIES if self.settings.optimize == "net,input" else CODE_COPIES
        images = IMAGES_PER_AVERAGE * len(self.settings.decays) + OTHER_IMAGES + self.observer_images
        images += IMAGES_PER_EXTRA_RUN * ((self.settings.runs or 1) - 1)
        bytes_per_code_pixel = (
            BACKWARD_FACTOR * self.saved_bytes_per_pixel + BYTES_PER_FLOAT * self.code_channels * codes
        )
        image_bytes = BYTES_PER_FLOAT * height * width * self.image_channels * images
        return int(ALLOCATOR_OVERHEAD * (rows * columns * bytes_per_code_pixel + image_bytes)) + self.fixed_bytes

    def total_memory(self, size: tuple[int, int], values: int, other_bytes: int, *, tiled: bool = False) -> int:
        """Return the peak bytes of the process; on a GPU those on the GPU.

        Args:
            size: (H, W) of the window.
            values: values of the whole image, over all channels.
            other_bytes: bytes of the images in memory at the same time.
            tiled: whether the window is a tile, so that the finished tiles are in memory too.
        """
        if self.settings.device.startswith("cuda"):
            return GPU_BASE_BYTES + self.memory(*size)
        tiles_bytes = 2 * BYTES_PER_FLOAT * values if tiled else 0  # the finished tiles and the blended image
        return BASE_BYTES + other_bytes + max(tiles_bytes + self.memory(*size), OUTPUT_BYTES_PER_VALUE * values)

    def seconds(self, height: int, width: int) -> float | None:
        """Return the seconds of an iteration on a window of this size; None if not measured."""
        rows, columns = networks.padded_size(self.settings, height, width)
        return None if self.seconds_per_pixel is None else self.seconds_per_pixel * rows * columns


def measure_cost(problem: Problem, settings: Settings, *, side: int, trials: int = 0) -> tuple[Cost, Prior]:
    """Fit a small window for one iteration, and return the cost and the prior of that window.

    Args:
        problem: the whole measurement.
        settings: of the fit, with device and precision resolved.
        side: side of the window, in pixels.
        trials: further iterations to measure the time; 0 for none.
    """
    part = _cut_window(problem, side)
    device = torch.device(settings.device)
    trial_settings = replace(settings, warmup=0, rate=TRIAL_RATE)
    prior = fresh_prior(part, trial_settings).to(device)
    part = part.to(device)
    rows, columns = prior.code.shape[2:]
    weights = sum(parameter.numel() for parameter in prior.network.parameters())
    fixed_bytes = weights * (LBFGS_BYTES_PER_WEIGHT if settings.optimizer == "lbfgs" else BYTES_PER_WEIGHT)
    # Their own estimate of the memory in which they are computed; one after the other.
    fixed_bytes += max(getattr(function, "bytes", 0) for function in (problem.guide, problem.companion, problem.finish))
    if part.operator is not problem.operator and not problem.tileable:
        with count_saved_bytes() as operator_bytes:
            problem.operator(torch.zeros(problem.shape, requires_grad=True))
        fixed_bytes += int(BACKWARD_FACTOR * sum(operator_bytes.values()))
    with count_saved_bytes() as saved_bytes:
        _run_trial(part, prior, trial_settings, 1)
    seconds = _measure_seconds(part, prior, trial_settings, trials) / (rows * columns) if trials else None
    pixels, depth = rows * columns, prior.code.shape[1]
    bytes_per_element = BYTES_PER_FLOAT // (2 if settings.precision == "bf16" else 1)
    most = max(saved_bytes.values(), default=0) / bytes_per_element
    cost = Cost(
        settings,
        code_channels=depth,
        image_channels=problem.shape[0],
        saved_bytes_per_pixel=sum(saved_bytes.values()) / pixels,
        fixed_bytes=fixed_bytes,
        seconds_per_pixel=seconds,
        elements_per_pixel=max(most / pixels, 2 * depth),  # the pool of noise is twice as large as z
    )
    return cost, prior


@contextmanager
def count_saved_bytes() -> Iterator[dict[int, int]]:
    """Collect the bytes of each piece of memory that autograd saves for the backward pass, by address."""
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def _run_trial(
    part: Problem, prior: Prior, settings: Settings, iterations: int, observers: tuple[Observer, ...] = ()
) -> None:
    fit(part, prior, settings, stop=stopping.exactly(stopping.Never(), iterations), observers=observers)


def _measure_seconds(part: Problem, prior: Prior, settings: Settings, trials: int) -> float:
    """Return the mean seconds of an iteration, without the first, which is slower."""
    times: list[float] = []

    def record_time(step: Step, _verdict: object) -> None:
        float(step.loss)  # waits for the GPU
        times.append(perf_counter())

    _run_trial(part, prior, settings, trials + 1, (record_time,))
    return (times[-1] - times[0]) / trials


def _cut_window(problem: Problem, side: int) -> Problem:
    """Return the middle of the problem; if it cannot be cut, a denoising problem of that size. A companion is 0."""
    tileable = problem.tileable
    if problem.companion is not None:  # it takes seconds to make
        problem = replace(problem, companion=torch.zeros(()).expand(problem.shape))
    if side >= max(problem.shape[1:]):
        return problem
    rows, columns = (_find_middle(length, side) for length in problem.shape[1:])
    if tileable:
        part = problem.window(rows, columns)
        return replace(part, weight=torch.ones_like(part.measured))  # the weights of the window may all be 0
    image = torch.zeros(problem.shape[0], rows.stop - rows.start, columns.stop - columns.start)
    guide = problem.visible_guide()
    return Problem(
        measured=image,
        shape=(problem.shape[0], *image.shape[1:]),
        loss=squared_error,
        guide=None if guide is None else guide[..., rows, columns],
        members=problem.members,
    )


def _find_middle(length: int, side: int) -> slice:
    side = min(side, length)
    return slice((length - side) // 2, (length - side) // 2 + side)
