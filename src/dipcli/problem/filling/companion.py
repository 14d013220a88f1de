"""The companion of a fit to an image with missing pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dipcli.problem.companion import Companion

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from dipcli.problem.ridge import RidgeStep


@dataclass(frozen=True, kw_only=True)
class FillingCompanion(Companion):
    """The known pixels, and the missing ones as the normal distribution of similar patches has them."""

    def estimate(self, known: NDArray[np.bool_], device: torch.device | None) -> Tensor:
        """Return the image with its missing pixels filled."""
        import numpy as np
        import torch

        from dipcli.problem.filling.gaussian import fill_by_gaussians

        pixels, mask = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (self.pixels, known))
        return fill_by_gaussians(pixels, mask, choose_steps()).clamp(0, 1)


def choose_steps() -> tuple[RidgeStep, ...]:
    """Return the steps of the passes."""
    from dipcli.problem.ridge import RidgeStep  # importing torch takes seconds

    return (RidgeStep(6, 60, 4, 31),) * 2 + (RidgeStep(7, 100, 3, 31),) * 2
