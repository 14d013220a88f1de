"""What a run writes beside the restored image. One field = default + help text + command-line option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dipcli import text
from dipcli.errors import UsageError
from dipcli.settings.options import MAX_ITERATIONS, OptionInfo, check_fields, parse_option

DEFAULT_CHECKPOINT_INTERVAL = "60s"  # writing one takes a fraction of a second
WRITTEN = "What is written"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a run writes beside the restored image.

    Raises:
        UsageError: if a value is outside its range; the message names the option.
    """

    overwrite: Annotated[
        bool, OptionInfo("Allow the output to replace the input; of several images, restore finished ones again.")
    ] = False
    pages: Annotated[
        str | None, OptionInfo("Pages of a stack to restore, from 1: 3-10 or 1,5,7-9. Default: all of them.")
    ] = None
    format: Annotated[
        str | None,
        OptionInfo("Format of results without a name: png, tif, ... Default: tif for TIFF, fits for FITS, else png."),
    ] = None
    run_dir: Annotated[
        str | None,
        OptionInfo("Folder for log, snapshots and run record. Default: <output stem>.dip.", group=WRITTEN),
    ] = None
    no_run_dir: Annotated[bool, OptionInfo("Write only the image.", group=WRITTEN)] = False
    no_report: Annotated[bool, OptionInfo("Do not write report.html.", group=WRITTEN)] = False
    snapshot_every: Annotated[
        int | None,
        OptionInfo("Write a snapshot every N iterations.", group=WRITTEN, least=1, most=MAX_ITERATIONS),
    ] = None
    snapshot_at: Annotated[str | None, OptionInfo("Write snapshots at these iterations: 1,10,100.", group=WRITTEN)] = (
        None
    )
    log_every: Annotated[int, OptionInfo("Write a row of log.csv every N iterations.", group=WRITTEN, least=1)] = 10
    uncertainty: Annotated[
        str | None,
        OptionInfo(
            "Write the standard deviation of outputs and runs at each pixel: .png (white is largest) or .tif (values, "
            "1 = the image's range).",
            group=WRITTEN,
        ),
    ] = None
    compare: Annotated[
        bool,
        OptionInfo(
            "Also restore by classical methods, after the result is written; report their times and, with "
            "--reference, their PSNR. Their images go to compare/ in the run folder.",
            group=WRITTEN,
        ),
    ] = False
    checkpoint_every: Annotated[
        str | None,
        OptionInfo("Time between checkpoints for dip resume, as 30s, 5m or 1h. Default: 60s.", group=WRITTEN),
    ] = None
    keep_checkpoint: Annotated[bool, OptionInfo("Keep the last checkpoint of a finished run.", group=WRITTEN)] = False

    def __post_init__(self) -> None:
        check_fields(self)
        self.snapshot_iterations()
        self.checkpoint_interval()
        self.page_numbers(1)
        if self.no_run_dir and (self.run_dir or self.snapshot_every or self.snapshot_at):
            raise UsageError("--no-run-dir cannot be combined with --run-dir or snapshots: drop one of them.")
        if self.no_run_dir and (self.checkpoint_every or self.keep_checkpoint):
            raise UsageError("--no-run-dir cannot be combined with checkpoints: drop one of them.")

    def page_numbers(self, count: int) -> list[int]:
        """Return the pages of `--pages`, of a stack of this many, from 1 and in the order of the stack.

        Raises:
            UsageError: if it is not a list of pages.
        """
        if self.pages is None:
            return list(range(1, count + 1))
        numbers: set[int] = set()
        for part in self.pages.split(","):
            first, _, last = part.partition("-")
            if not (first.strip().isdecimal() and (last.strip() or first).isdecimal() and int(first) >= 1):
                raise UsageError(f"--pages {self.pages} is not a list of pages: use 3-10 or 1,5,7-9.")
            numbers |= set(range(int(first), min(int(last or first), count) + 1))
        return sorted(number for number in numbers if number <= count)

    def checkpoint_interval(self) -> float:
        """Return `--checkpoint-every` in seconds."""
        interval = self.checkpoint_every or DEFAULT_CHECKPOINT_INTERVAL
        return parse_option("--checkpoint-every", interval, text.parse_seconds, "30s, 5m or 1h")

    def snapshot_iterations(self) -> frozenset[int]:
        """Return the iterations of `--snapshot-at`."""
        try:
            iterations = frozenset(int(part) for part in (self.snapshot_at or "").split(",") if part.strip())
        except ValueError:
            iterations = frozenset({0})
        if any(iteration < 1 for iteration in iterations):
            raise UsageError(f"--snapshot-at {self.snapshot_at} is not a list of iterations: use 1,10,100.")
        return iterations

    def check_end(self, end: int) -> None:
        """Check that no snapshot is to be written after the last iteration that a fit can have.

        Raises:
            UsageError: if one is.
        """
        for option, last in (
            ("--snapshot-at", max(self.snapshot_iterations(), default=0)),
            ("--snapshot-every", self.snapshot_every or 0),
        ):
            if last > end:
                raise UsageError(f"{option} {last} is beyond the last iteration, {end}: use that or less.")
