"""A new operator needs one class, and imports from `dipcli` alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dipcli import Operator, Problem, Settings, build, fit

SHAPE = (1, 48, 40)


class Blur:
    """The mean of three pixels in a row, with the border pixel repeated."""

    reach = 3

    def __init__(self, taps: Tensor, columns: slice = slice(0, 40), *, width: int = 40) -> None:
        self.taps, self.columns, self.width = taps, columns, width

    def __call__(self, image: Tensor) -> Tensor:
        left, right = self.columns.start == 0, self.columns.stop == self.width
        padded = torch.nn.functional.pad(image[None], (int(left), int(right), 0, 0), mode="replicate")[0]
        return sum(tap * padded[..., shift : padded.shape[2] - 2 + shift] for shift, tap in enumerate(self.taps))

    def window(self, rows: slice, columns: slice) -> tuple[Operator, slice, slice]:
        inner = slice(columns.start + (columns.start > 0), columns.stop - (columns.stop < self.width))
        return Blur(self.taps, columns, width=self.width), rows, inner

    def to(self, device: torch.device) -> Blur:
        return Blur(self.taps.to(device), self.columns, width=self.width)


class BlurModule(torch.nn.Module):
    """The same operator as a module: its tensor is a buffer, and `to` is PyTorch's."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("taps", torch.full((3,), 1 / 3))

    def forward(self, image: Tensor) -> Tensor:
        return Blur(self.taps)(image)


def truth() -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))


def blurred(operator: Operator | None = None, **given: Any) -> Problem:
    chosen: Operator = operator or Blur(torch.full((3,), 1 / 3))
    return Problem(measured=chosen(truth()), shape=SHAPE, operator=chosen, **given)


def test_a_fit_uses_the_operator() -> None:
    """Free pixels can match any measurement: of the blurred image, not of the image."""
    problem = blurred()
    settings = Settings(network="pixels", iterations=200, stop="none", rate=0.05, reg_noise=0, ema=0)
    restored = fit(problem, build(settings, SHAPE), settings).image
    assert torch.allclose(problem.operator(restored), problem.measured, atol=0.02)
    assert not torch.allclose(restored, problem.measured, atol=0.2)


@pytest.mark.parametrize("columns", [slice(0, 20), slice(10, 30), slice(20, 40), slice(0, 40)])
def test_an_operator_with_a_window_is_cut_into_tiles(columns: slice) -> None:
    problem = blurred(weight=truth())
    assert problem.tileable
    assert problem.reach == 3
    rows = slice(8, 32)
    part = problem.window(rows, columns)
    image = truth()[:, rows, columns]
    assert part.shape == image.shape
    assert part.weight is not None
    assert part.weight.shape == part.measured.shape
    assert torch.allclose(part.operator(image), part.measured), "the part of the measurement that sees only the window"
    inner = slice(columns.start + (columns.start > 0), columns.stop - (columns.stop < 40))
    assert torch.equal(part.measured, problem.measured[:, rows, inner])
    assert part.tileable


def test_a_plain_function_is_not_tileable() -> None:
    problem = blurred(lambda image: image.flip(2))
    assert not problem.tileable
    assert problem.reach == 0
    assert blurred(BlurModule()).tileable is False


class Half:
    """A guide and a finish that hold a tensor and can be cut."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __call__(self, image: Tensor | None) -> Tensor:
        return self.tensor if image is None else image * self.tensor

    def window(self, rows: slice, columns: slice) -> Half:
        return Half(self.tensor[..., rows, columns])

    def to(self, device: torch.device) -> Half:
        return Half(self.tensor.to(device))


def test_guide_and_finish_are_cut_by_their_own_windows() -> None:
    half = Half(torch.full(SHAPE, 0.5))
    problem = blurred(guide=half, finish=half)
    assert problem.tileable
    part = problem.window(slice(0, 16), slice(8, 24))
    assert part.visible_guide().shape == (1, 16, 16)
    assert part.finish(torch.ones(1, 16, 16)).shape == (1, 16, 16)
    assert not blurred(finish=lambda image: image).tileable
    assert not blurred(guide=lambda _weight: truth()).tileable
    assert blurred(guide=truth()).window(slice(0, 16), slice(8, 24)).visible_guide().shape == (1, 16, 16)
    assert not blurred(members=2).tileable


@pytest.mark.parametrize("operator", [Blur(torch.full((3,), 1 / 3)), BlurModule()], ids=["class", "module"])
def test_to_moves_the_tensors_of_every_part(operator: Operator) -> None:
    half = Half(torch.full(SHAPE, 0.5))
    moved = blurred(operator, weight=truth(), guide=half, finish=half).to(torch.device("meta"))
    tensors = (moved.measured, moved.weight, moved.operator.taps, moved.guide.tensor, moved.finish.tensor)
    assert all(tensor.is_meta for tensor in tensors)
    assert moved.operator(moved.measured).is_meta
    assert not half.tensor.is_meta


def test_a_plain_function_follows_its_argument() -> None:
    flip = blurred(lambda image: image.flip(2), guide=truth()).to(torch.device("meta"))
    assert flip.operator(flip.measured).is_meta
    assert flip.guide.is_meta
