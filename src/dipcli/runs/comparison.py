"""Apply the classical methods to the same image, and time, measure and write their results.

This comes after the restored image and the record are on disk: it delays nobody, Ctrl-C ends it at no loss, and it
cannot influence the fit.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from dipcli import files, images
from dipcli.errors import first_line
from dipcli.fitting.machine import memory
from dipcli.records import summaries
from dipcli.records.run_record import BaselineRecord, RunRecord
from dipcli.runs.interrupt import handle_signals
from dipcli.runs.observers import measure_against_truth, reference_fields
from dipcli.tasks.baselines.baseline import FOLDER, Baseline, Budget, Skipped
from dipcli.tasks.case import Case

MIN_SECONDS = 60.0  # that each method may take, or as long as the fit took


@dataclass(frozen=True)
class Comparison:
    """What the results of the classical methods are measured by, and where they go."""

    case: Case
    truth: NDArray[np.float32] | None  # the true image, (C, H, W); None if it is not known
    suffix: str  # of the restored file: the others are measured as they would be in such a file
    folder: Path | None  # the run folder; None if no images are written
    limit: int | None  # bytes that the process may take; None for no limit

    def run(
        self, record: RunRecord, signals: tuple[signal.Signals, ...] = ()
    ) -> tuple[tuple[BaselineRecord, ...], str, signal.Signals | None]:
        """Apply each method; the first of the signals ends that, with the results there are.

        Returns:
            The results, the comparison in a sentence, and the signal that ended it.
        """
        results: list[BaselineRecord] = []
        skipped: dict[str, str] = {}
        baselines: Sequence[Baseline] = ()
        seconds = max(MIN_SECONDS, record.seconds)
        free = None if self.limit is None else self.limit - memory.BASE_BYTES - self.case.bytes_in_memory
        ended_by = None
        try:
            with handle_signals(*signals, say=_interrupt) as interrupt:
                baselines = self.case.baselines() if self.case.baselines else ()
                for baseline in baselines:
                    try:
                        results.append(self.apply(baseline, Budget(seconds, free)))
                    except Skipped as reason:
                        skipped[baseline.name] = str(reason)
                    except Exception as error:  # noqa: BLE001 - a failing method must not cost the restored image
                        skipped[baseline.name] = f"it failed ({first_line(error)})"
        except KeyboardInterrupt:
            ended_by = interrupt.received
            if ended_by is None:
                raise
            missing = [baseline.name for baseline in baselines if baseline.name not in skipped][len(results) :]
            skipped |= dict.fromkeys(missing or ["the rest"], f"the comparison was interrupted by {ended_by.name}")
        return tuple(results), summaries.compare_with_baselines(record, results, skipped), ended_by

    def apply(self, baseline: Baseline, budget: Budget) -> BaselineRecord:
        """Apply one method and write its image.

        Raises:
            Skipped: if it takes too much.
            DipError: if its image cannot be written.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # small images make some methods warn
            restored = baseline.restore(budget)
        seconds = round(budget.spent, 6)
        image = self.case.image.with_pixels(self.case.image.quantize(restored), self.case.known)
        name = None
        if self.folder:
            suffix = images.default_suffix(image)
            name = f"{FOLDER}/{baseline.file}{suffix}"
            files.make_folder(self.folder / FOLDER)
            images.write(images.encode(image, suffix), self.folder / name)
        if self.truth is None:
            return BaselineRecord(name=baseline.name, seconds=seconds, file=name)
        written = images.read_back(images.encode(image, self.suffix), image)
        fields = reference_fields(measure_against_truth(self.case, written, self.truth))
        return BaselineRecord(name=baseline.name, seconds=seconds, file=name, **fields)


def _interrupt() -> NoReturn:
    """End the method at work, from within the signal's handler."""
    raise KeyboardInterrupt
