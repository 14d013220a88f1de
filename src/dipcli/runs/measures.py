"""How near a restored image is to the measurement and to the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipcli.problem import metrics
from dipcli.records.run_record import Measures
from dipcli.runs.observers import Metrics, tensor
from dipcli.tasks.case import Case


def measure_result(
    case: Case, meter: Metrics, restored: NDArray[np.float32], truth: NDArray[np.float32] | None
) -> dict[str, Any]:
    """Measure a restored image, (C, H, W).

    Returns:
        Fields of the run record: `psnr_noisy`; with a true image `psnr_ref` and others, and the `baselines`; the
        task's `conclusion`.
    """
    found: dict[str, Any] = {"psnr_noisy": measure_agreement(meter, restored)}
    if truth is not None:
        found |= reference_fields(measure_against_truth(case, restored, truth))
        found["baselines"] = {
            name: measure_against_truth(case, image, truth) for name, image in case.baseline_images.items()
        }
    return found | {"conclusion": case.conclude(restored) if case.conclude else None}


def measure_agreement(meter: Metrics, restored: NDArray[np.float32]) -> float | None:
    """PSNR of A(x) to the measurement in dB for a restored image, (C, H, W); None if they are identical."""
    return _finite(meter.measurement_psnr(tensor(restored, meter.problem.measured.device)))


def measure_against_truth(case: Case, image: NDArray[np.float32], truth: NDArray[np.float32]) -> Measures:
    """PSNR and SSIM of an image to the true one, both (C, H, W)."""
    measures = metrics.measure_similarity(image, truth, border=case.border, known=case.known)
    return Measures(**{name: _finite(value) for name, value in measures.items()})


def reference_fields(measures: Measures) -> dict[str, float | None]:
    """The fields of a record for figures against the true image."""
    known = {"psnr_ref": measures.psnr, "psnr_ref_y": measures.psnr_y, "psnr_ref_unknown": measures.psnr_unknown}
    known["ssim_ref"] = measures.ssim
    return {name: value for name, value in known.items() if value is not None or name == "psnr_ref"}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
