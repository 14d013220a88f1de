"""How near a restored image is to the measurement and to the truth, and the map of its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipcli import images
from dipcli.images import from_array
from dipcli.problem import metrics
from dipcli.problem.noise import FULL_SCALE
from dipcli.runs.observers import Metrics, tensor
from dipcli.tasks.case import Case


def write_uncertainty(values: NDArray[np.float32], path: Path) -> dict[str, Any]:
    """Write the map of the spread; where it is and what white means in it, in grey levels of 255."""
    most = float(values.max())
    samples: NDArray[Any] = values
    if path.suffix.lower() == ".png":
        full = np.iinfo(np.uint16).max
        samples = np.rint(values * (full / most if most else 0)).astype(np.uint16)
    images.write(images.encode(from_array(samples), path.suffix), path)
    return {"uncertainty": str(path), "uncertainty_most": FULL_SCALE * most}


def measure_result(
    case: Case, meter: Metrics, restored: NDArray[np.float32], truth: NDArray[np.float32] | None
) -> dict[str, Any]:
    """How near a restored picture, (C, H, W), is to the measurement, and to the truth where that is known.

    Returns:
        psnr_noisy; psnr_ref, psnr_ref_y, psnr_ref_unknown, ssim_ref and the baselines' own, where there is a truth;
        None for infinite; the task's conclusion.
    """
    measures = {"psnr_noisy": meter.measurement_psnr(tensor(restored, meter.problem.measured.device))}
    told: dict[str, Any] = {}
    if truth is not None:
        compare = partial(metrics.measure_similarity, reference=truth, border=case.border, known=case.known)
        told |= measure_against_truth(case, restored, truth)
        told["baselines"] = {name: _finite(compare(baseline)) for name, baseline in case.baseline_images.items()}
    conclusion = case.conclude(restored) if case.conclude else None
    return _finite(measures) | told | {"conclusion": conclusion}


def measure_against_truth(
    case: Case, restored: NDArray[np.float32], truth: NDArray[np.float32]
) -> dict[str, float | None]:
    """How near a picture, (C, H, W), is to the truth: psnr_ref, psnr_ref_y, psnr_ref_unknown, ssim_ref."""
    measures = metrics.measure_similarity(restored, truth, border=case.border, known=case.known)
    return _finite({f"{name[:4]}_ref{name[4:]}": value for name, value in measures.items()})


def _finite(measures: Mapping[str, float]) -> dict[str, float | None]:
    """The same with None for infinite, which JSON cannot say."""
    return {name: value if math.isfinite(value) else None for name, value in measures.items()}
