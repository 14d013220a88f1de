"""The inverse problem: a measurement, the operator that makes it from an image, and the data term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from dipcli.problem.losses import Loss, squared_error

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Guide: TypeAlias = "Tensor | Callable[[Tensor | None], Tensor]"  # a companion is of this type too
Finish: TypeAlias = "Callable[[Tensor], Tensor]"


class Operator(Protocol):
    """The forward operator A, from an image of shape (C, H, W) to its measurement.

    Any callable will do that PyTorch can differentiate. A plain function computes on the device of its argument. An
    operator that holds tensors also needs

        to(device) -> operator

    which returns it on another device; every `nn.Module` has it. An operator whose image may be fitted in tiles needs

        window(rows, columns) -> (operator, rows, columns)

    with slices that have both start and stop. It takes rows and columns of the image, and returns the operator of that
    window and the rows and columns of the measurement that it makes: those that depend on no other pixel. Without
    `window`, as with a plain function, the image is always fitted whole. The attribute

        reach: int

    is the largest number of pixels in a row or column that one value of the measurement depends on; tiles overlap by at
    least twice as many. It is 0 when missing.
    """

    def __call__(self, image: Tensor, /) -> Tensor:
        """Return the measurement of an image."""


def identity(image: Tensor) -> Tensor:
    """Return the image itself: the operator of denoising."""
    return image


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Find the image x whose measurement A(x) agrees with y.

        minimise E(A(x), y)

    Attributes:
        measured: y; for most tasks a degraded image, shape (C, H, W), values 0..1.
        shape: (C, H, W) of the image x to restore.
        operator: A, from an image of `shape` to the shape of y.
        loss: E(prediction, measured, weight), a scalar.
        weight: weights of the values of y, broadcastable to y; ones when None.
        guide: an image with the same content as x, shape (any C, H, W), values 0..1, for `--input guide`. A guide that
            is computed from y is a function from the weight to that image, so that it can leave out the pixels of
            weight 0 that a stopping rule holds out.
        companion: another estimate of x from y, shape (C, H, W), values 0..1, with which the fit is fused, and the
            first channels of the guide; a function from the weight to it, likewise. None for none.
        share: of the fit in the fusion, 0..1, if the stopping rule holds nothing out by which it could be found.
        hidden: whether it does not matter what becomes of pixels of weight 0: they are fully transparent.
        members: number of images that x consists of, concatenated along the channels, each with its own network.
        finish: a last step on the restored image, before it is shown or written. To be fitted in tiles, a finish, and
            a guide or a companion that is a function, need a method `window(rows, columns)` that returns it for a
            window of the image. Two attributes save calls of an expensive finish: `keeps_shape`, and `uses_fit`, false
            if it does not depend on the fitted image. A guide, companion or finish that takes much memory to compute
            says how much by an attribute `bytes`.
    """

    measured: Tensor
    shape: tuple[int, int, int]
    operator: Operator = identity
    loss: Loss = squared_error
    weight: Tensor | None = None
    guide: Guide | None = None
    companion: Guide | None = None
    share: float = 1.0
    hidden: bool = False
    members: int = 1
    finish: Finish = identity

    @property
    def tileable(self) -> bool:
        """Whether `window` can cut the problem: it has one member, and its functions can be cut."""
        functions = [part for part in (self.operator, self.guide, self.companion, self.finish) if callable(part)]
        return self.members == 1 and all(
            function is identity or callable(getattr(function, "window", None)) for function in functions
        )

    @property
    def reach(self) -> int:
        """Largest number of pixels in a row or column that one value of the measurement depends on."""
        return getattr(self.operator, "reach", 0)

    def window(self, rows: slice, columns: slice) -> Problem:
        """Return the problem of a window of the image: the part of the measurement that depends on nothing else.

        Only for a `tileable` problem.

        Args:
            rows: rows of the image, with start and stop.
            columns: its columns, likewise.
        """
        parts: Any = self  # the optional methods `window` are not in the types
        operator, finish = parts.operator, parts.finish
        measured_rows, measured_columns = rows, columns
        if operator is not identity:
            operator, measured_rows, measured_columns = operator.window(rows, columns)
        if finish is not identity:
            finish = finish.window(rows, columns)

        def cut(image: Any) -> Any:
            if image is None:
                return None
            return image.window(rows, columns) if callable(image) else image[..., rows, columns].contiguous()

        weight = self.weight
        if weight is not None:
            weight = weight.expand_as(self.measured)[..., measured_rows, measured_columns]
        return replace(
            self,
            measured=self.measured[..., measured_rows, measured_columns].contiguous(),
            shape=(self.shape[0], rows.stop - rows.start, columns.stop - columns.start),
            operator=operator,
            weight=weight,
            guide=cut(parts.guide),
            companion=cut(parts.companion),
            finish=finish,
        )

    def visible_guide(self) -> Tensor | None:
        """Return the guide without the pixels of weight 0, behind the companion once that has been made."""
        import torch

        guide = self.guide(self.weight) if callable(self.guide) else self.guide
        if self.companion is None or callable(self.companion):
            return guide
        companion = self.companion.clamp(0, 1)
        return companion if guide is None else torch.cat([companion.to(guide.device), guide])

    def visible_companion(self) -> Tensor | None:
        """Return the companion without the pixels of weight 0."""
        return self.companion(self.weight) if callable(self.companion) else self.companion

    def to(self, device: torch.device) -> Problem:
        """Return the problem on another device.

        Tensors, and operator, guide, companion and finish if they have a method `to`, are moved by it. As PyTorch does,
        a module is moved in place, not copied.
        """
        names = ("measured", "operator", "weight", "guide", "companion", "finish")
        parts = {name: getattr(self, name) for name in names}
        return replace(self, **{name: part.to(device) for name, part in parts.items() if hasattr(part, "to")})
