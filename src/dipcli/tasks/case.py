"""A task applied to an image: the problem to fit, and everything the fit must not see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dipcli.problem import Problem
from dipcli.tasks.baselines.baseline import Baseline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dipcli.images.image import Image
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step


@dataclass(frozen=True, kw_only=True)
class Case:
    """A problem and what belongs to it. The engine and the rules receive the problem alone.

    Pixels are float32, shape (C, H, W), values 0..1, in all attributes.

    Attributes:
        problem: the problem to fit.
        image: puts the restored pixels into a file, with bit depth, transparency and colour profile.
        truth: the true image, if the damage was simulated; for log and figures only.
        damaged: the simulated measurement, written beside the run record.
        baseline_images: images that need no fit, by name ("bicubic"), measured beside the restored image.
        baselines: returns the classical methods for `--compare`; None if there are none.
        known: pixels that keep the file's values bit for bit, shape (H, W); None for none.
        origin: row and column of the fitted image at which the restored one starts.
        border: width of the frame left out when PSNR is measured on the luma, as is usual in super-resolution.
        remarks: sentences for the user before the fit.
        presets: settings for this image, by preset name; the user's own settings override them.
        observers: the task's own observers.
        conclude: returns a sentence for the user from the restored image, after the fit.
        render: returns the files, by suffix, that are written in place of the restored image.
        suffixes: their suffixes; `.png` is among them.
    """

    problem: Problem
    image: Image
    truth: NDArray[np.float32] | None = None
    damaged: NDArray[np.float32] | None = None
    baseline_images: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    baselines: Callable[[], Sequence[Baseline]] | None = None
    known: NDArray[np.bool_] | None = None
    origin: tuple[int, int] = (0, 0)
    border: int = 0
    remarks: tuple[str, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    observers: tuple[Callable[[Step, Verdict], None], ...] = ()
    conclude: Callable[[NDArray[np.float32]], str] | None = None
    render: Callable[[], Mapping[str, bytes]] | None = None
    suffixes: tuple[str, ...] = ()

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of all its images, each counted once."""
        image, guide = self.image, self.problem.guide
        arrays = [image.pixels, image.samples, image.alpha, self.truth, self.damaged, self.known]
        arrays += [*self.baseline_images.values(), self.problem.measured.numpy()]
        if self.problem.weight is not None:
            arrays.append(self.problem.weight.numpy())
        if guide is not None and not callable(guide):
            arrays.append(guide.numpy())
        sizes = {array.__array_interface__["data"][0]: array.nbytes for array in arrays if array is not None}
        return sum(sizes.values()) + len(image.file or b"")


def describe_range(image: Image) -> tuple[str, ...]:
    """Return remarks on the range of values that an image is worked on in, unless it is that of its sample type."""
    low, high = image.range
    remarks = []
    if image.span and low < high:
        remarks.append(f"working in the range of its values, {low:g} to {high:g}: levels of 255 and PSNR refer to it")
    if image.known is not None and image.samples is not None:
        outliers = int((((image.samples < low) | (image.samples > high)) & image.known).sum())
        remarks += [f"{outliers} values beyond {low:g} to {high:g} are kept as they are"] if outliers else []
    return tuple(remarks)
