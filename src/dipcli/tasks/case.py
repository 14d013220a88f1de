"""What a task makes of a picture: the problem to fit, and what surrounds it and no fit may see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dipcli.problem import Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dipcli.images.image import Image
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step
    from dipcli.tasks.baselines.baseline import Baseline


@dataclass(frozen=True, kw_only=True)
class Case:
    """A problem with its surroundings. The engine and the rules are given the problem alone.

    Pixels are float32, shape (C, H, W), values 0..1, in everything below.

    Attributes:
        problem: what is fitted.
        picture: takes the restored pixels into a file: bit depth, transparency, colour profile.
        truth: the true picture, where the damage was simulated; for log and figures alone.
        damaged: what was made of it, to be written beside the record.
        baselines: answers that need no fit, by name ("bicubic"), to measure beside the restored picture.
        rivals: gives the classical methods to hold beside the fit, when they are asked for; None where there are none.
        known: pixels that come back as they stand in the file, bit for bit, shape (H, W); None for no such promise.
        border: pixels left out along the edges where the luma is measured, as is the custom in super-resolution.
        remarks: sentences for the user before the fit begins.
        presets: what this very picture asks of a preset, by the preset's name; what the user gave goes before it.
        observers: the task's own spectators.
        conclude: from the restored picture to a sentence for the user, after the fit.
        render: the files, by suffix, that are written in the place of the restored picture.
        suffixes: their suffixes; `.png` is among them.
    """

    problem: Problem
    image: Image
    truth: NDArray[np.float32] | None = None
    damaged: NDArray[np.float32] | None = None
    baseline_images: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    baselines: Callable[[], Sequence[Baseline]] | None = None
    known: NDArray[np.bool_] | None = None
    border: int = 0
    remarks: tuple[str, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    observers: tuple[Callable[[Step, Verdict], None], ...] = ()
    conclude: Callable[[NDArray[np.float32]], str] | None = None
    render: Callable[[], Mapping[str, bytes]] | None = None
    suffixes: tuple[str, ...] = ()

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of all its pictures, each counted once."""
        picture, guide = self.image, self.problem.guide
        arrays = [picture.pixels, picture.samples, picture.alpha, self.truth, self.damaged, self.known]
        arrays += [*self.baseline_images.values(), self.problem.measured.numpy()]
        if self.problem.weight is not None:
            arrays.append(self.problem.weight.numpy())
        if guide is not None and not callable(guide):
            arrays.append(guide.numpy())
        places = {each.__array_interface__["data"][0]: each.nbytes for each in arrays if each is not None}
        return sum(places.values()) + len(picture.file or b"")
