"""A restored picture beside its classical rivals: each is applied, timed, measured and written.

It comes after the restored picture and the run's record are on disk: nobody waits for it, Ctrl-C ends it and
costs nothing, and it cannot influence the fit.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dipcli import files, images
from dipcli.fitting import memory
from dipcli.records import ranking
from dipcli.runs.interrupt import handle_signals
from dipcli.runs.measures import measure_against_truth
from dipcli.tasks.baselines.baseline import FOLDER, Baseline, Budget, Skipped
from dipcli.tasks.case import Case

PATIENT = 60.0  # seconds that each rival may take, or as long as the fit did


@dataclass(frozen=True)
class Comparison:
    """What the rivals' pictures are measured by, and where they go.

    Attributes:
        case: whose rivals they are.
        truth: the true picture, (C, H, W); None where there is none.
        suffix: of the restored picture's file: theirs are measured as they would be in such a file too.
        folder: the run's; None where there is none, and no picture is written.
        most: bytes that the process may take; None for no end.
    """

    case: Case
    truth: NDArray[np.float32] | None
    suffix: str
    folder: Path | None
    most: int | None

    def run(
        self, account: Mapping[str, Any], signals: tuple[signal.Signals, ...] = ()
    ) -> tuple[dict[str, Any], signal.Signals | None]:
        """Let each rival answer.

        Args:
            account: of the run.
            signals: the first of these ends it at once, with the answers there are.

        Returns:
            For the account: `comparison`, an answer each, and `compared`, the verdict; and the signal that ended it.
        """
        answers: list[dict[str, Any]] = []
        left_out: dict[str, str] = {}
        rivals: Sequence[Baseline] = ()
        seconds = max(PATIENT, account["seconds"])
        ended_by = None
        try:
            with handle_signals(*signals, say=_cut) as interrupt:
                rivals = self.case.baselines() if self.case.baselines else ()
                for rival in rivals:
                    try:
                        answers.append(self.answer(rival, Budget(seconds, self._left())))
                    except Skipped as reason:
                        left_out[rival.name] = str(reason)
                    except Exception as error:  # noqa: BLE001 - whatever ails a rival, the restored picture is there
                        left_out[rival.name] = f"it failed ({_first_line(error)})"
        except KeyboardInterrupt:
            ended_by = interrupt.received
            if ended_by is None:
                raise
            missing = [each.name for each in rivals if each.name not in left_out][len(answers) :]
            left_out |= dict.fromkeys(missing or ["the rest"], f"the comparison was interrupted by {ended_by.name}")
        told = {"comparison": answers, "compared": ranking.verdict(account, answers, left_out)}
        return told, ended_by

    def answer(self, rival: Baseline, allowance: Budget) -> dict[str, Any]:
        """Apply one rival, and write what it makes of the picture.

        Raises:
            LeftOut: when it takes too much.
            DipError: when its picture cannot be written.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what small pictures ask too much of
            restored = rival.restore(allowance)
        seconds = allowance.spent
        picture = self.case.image.with_pixels(self.case.image.quantize(restored), self.case.known)
        kind = images.default_suffix(picture)
        told: dict[str, Any] = {"name": rival.name, "seconds": round(seconds, 6), "file": None}
        if self.folder:
            name = f"{FOLDER}/{rival.file}{kind}"
            files.make_folder(self.folder / FOLDER)
            images.write(images.encode(picture, kind), self.folder / name)
            told["file"] = name
        if self.truth is not None:
            written = images.decode(images.encode(picture, self.suffix), span=picture.span).pixels[: len(restored)]
            told |= measure_against_truth(self.case, written, self.truth)
        return told

    def _left(self) -> int | None:
        """Bytes that a rival may take beside the pictures that are in memory."""
        return None if self.most is None else self.most - memory.BASE - self.case.bytes_in_memory


def _cut() -> NoReturn:
    """End what is under way, from within the signal's handler."""
    raise KeyboardInterrupt


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")
