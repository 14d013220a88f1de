"""How near a restored image is to the measurement and to the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dipcli.problem import metrics
from dipcli.records.run_record import Measures
from dipcli.runs.observers import Metrics
from dipcli.tasks.case import Case


def measure_result(
    case: Case, meter: Metrics, restored: NDArray[np.float32], truth: NDArray[np.float32] | None
) -> dict[str, Any]:
    """Measure a restored image, (C, H, W).

    Returns:
        Fields of the run record: `psnr_noisy`; with a true image `psnr_ref` and others, and the `baselines`; the
        task's `conclusion`.
    """
    image = torch.from_numpy(restored).to(meter.problem.measured.device)
    found: dict[str, Any] = {"psnr_noisy": _finite(meter.measurement_psnr(image))}
    if truth is not None:
        found |= reference_fields(measure_against_truth(case, restored, truth))
        found["baselines"] = {
            name: measure_against_truth(case, image, truth) for name, image in case.baseline_images.items()
        }
    return found | {"conclusion": case.conclude(restored) if case.conclude else None}


def measure_against_truth(case: Case, image: NDArray[np.float32], truth: NDArray[np.float32]) -> Measures:
    """PSNR and SSIM of an image to the true one, both (C, H, W)."""
    measures = metrics.measure_similarity(image, truth, border=case.border, known=case.known)
    return Measures(**{name: _finite(value) for name, value in measures.items()})


def reference_fields(measures: Measures) -> dict[str, float | None]:
    """The fields of a record for figures against the true image."""
    others = {"psnr_ref_y": measures.psnr_y, "psnr_ref_unknown": measures.psnr_unknown, "ssim_ref": measures.ssim}
    return {"psnr_ref": measures.psnr} | {name: value for name, value in others.items() if value is not None}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
