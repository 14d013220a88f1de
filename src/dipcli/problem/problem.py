"""The physics: what was measured, and how a picture turns into a measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from dipcli.problem.losses import Loss, squared_error

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Operator: TypeAlias = "Callable[[Tensor], Tensor]"
Guide: TypeAlias = "Tensor | Callable[[Tensor | None], Tensor]"


def identity(image: Tensor) -> Tensor:
    """The operator of denoising: what is seen is the picture itself."""
    return image


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Find the picture x whose measurement A(x) agrees with y.

        minimise E(A(x), y)

    Attributes:
        measured: y, what was measured; for most tasks a damaged picture, shape (C, H, W), values 0..1.
        shape: (C, H, W) of the picture x to restore.
        operator: A, from a picture of `shape` to something of y's shape; differentiable. A module is moved to the
            device with the problem, a plain function follows its argument.
        loss: E(prediction, measured, weight), a scalar.
        weight: which of y's pixels count, broadcastable to y; all of them when None.
        guide: a picture that shows what x shows, shape (any C, H, W), values 0..1, for `--input guide`. Where it is
            drawn from y itself it is a function from the weight to that picture: a pixel that does not count, because
            a rule holds it out, must not show in it either.
        members: how many pictures x is made of, one behind the other along the channels, each with its own network.
        finish: a last touch on the restored picture, before it is looked at or written.
    """

    measured: Tensor
    shape: tuple[int, int, int]
    operator: Operator = identity
    loss: Loss = squared_error
    weight: Tensor | None = None
    guide: Guide | None = None
    members: int = 1
    finish: Operator = identity

    @property
    def tileable(self) -> bool:
        """Whether a window of the picture is a problem of its own: everything in it can be cut."""
        guide = self.guide is None or not callable(self.guide) or _cuts(self.guide)
        ends = all(each is identity or _cuts(each) for each in (self.operator, self.finish))
        return guide and ends and self.members == 1

    def window(self, rows: slice, columns: slice) -> Problem:
        """The part of the measurement that sees nothing but a window of the picture, as a problem of its own.

        Operator, guide and finish are cut by a method `window` of theirs, with the same arguments, where they are more
        than the identity or a picture. That of an operator returns an operator, and the rows and columns of the
        measurement that it makes; those of the others return their like.

        Args:
            rows: of the picture, begin and end given.
            columns: likewise.
        """
        operator, finish, guide = self.operator, self.finish, self.guide
        high, wide = rows, columns
        if operator is not identity:
            operator, high, wide = operator.window(rows, columns)  # type: ignore[attr-defined]
        if finish is not identity:
            finish = finish.window(rows, columns)  # type: ignore[attr-defined]
        if callable(guide):
            guide = guide.window(rows, columns)  # type: ignore[attr-defined]
        elif guide is not None:
            guide = guide[..., rows, columns].contiguous()
        weight = None if self.weight is None else self.weight.expand_as(self.measured)[..., high, wide]
        return replace(
            self,
            measured=self.measured[..., high, wide].contiguous(),
            shape=(self.shape[0], rows.stop - rows.start, columns.stop - columns.start),
            operator=operator,
            weight=weight,
            guide=guide,
            finish=finish,
        )

    def visible_guide(self) -> Tensor | None:
        """The guide as a network may see it."""
        return self.guide(self.weight) if callable(self.guide) else self.guide

    def to(self, device: torch.device) -> Problem:
        """The same problem with its tensors on another device; an operator that is a module is moved, not copied."""
        from torch import nn  # here, not above: the command line must not pay for it

        weight = None if self.weight is None else self.weight.to(device)
        guide = self.guide if self.guide is None or callable(self.guide) else self.guide.to(device)
        operator = self.operator.to(device) if isinstance(self.operator, nn.Module) else self.operator
        return replace(self, measured=self.measured.to(device), weight=weight, guide=guide, operator=operator)


def _cuts(thing: object) -> bool:
    """Whether it says what it is for a window of the picture."""
    return callable(getattr(thing, "window", None))
