"""What a run writes beside the restored picture. One field = default + help text + command-line option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dipcli import text as specs
from dipcli.errors import UsageError
from dipcli.settings.options import OptionInfo, check_fields

DEFAULT_CHECKPOINT_INTERVAL = "60s"  # writing one takes a fraction of a second


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a run writes beside the restored picture.

    Raises:
        UsageError: when a value is outside its range; the sentence names the option.
    """

    snapshot_every: Annotated[
        int | None, OptionInfo("Write a snapshot every so many iterations.", group="What is written", least=1)
    ] = None
    snapshot_at: Annotated[
        str | None,
        OptionInfo("Write snapshots at these iterations: 1,10,100.", group="What is written"),
    ] = None
    log_every: Annotated[
        int, OptionInfo("A row of log.csv every so many iterations.", group="What is written", least=1)
    ] = 10
    run_dir: Annotated[
        str | None,
        OptionInfo(
            "Folder for log, snapshots and run record; <output stem>.dip when not given.",
            group="What is written",
        ),
    ] = None
    uncertainty: Annotated[
        str | None,
        OptionInfo(
            "Write how far the outputs, and the runs, stray at each pixel: .png for looking at it, white is where they "
            "stray most, or .tif for the standard deviation itself, 1 being the picture's range.",
            group="What is written",
        ),
    ] = None
    checkpoint_every: Annotated[
        str | None,
        OptionInfo(
            "Time between checkpoints, from which dip resume goes on, as 30s, 5m or 1h; 60s when not given.",
            group="What is written",
        ),
    ] = None
    keep_checkpoint: Annotated[
        bool, OptionInfo("Leave the last checkpoint where it is when the run is done.", group="What is written")
    ] = False
    compare: Annotated[
        bool,
        OptionInfo(
            "Restore the picture by classical methods too, once the result is written: their pictures go to compare/ "
            "in the run's folder, if it has one; their times and, with --reference, their PSNR are told beside ours.",
            group="What is written",
        ),
    ] = False
    no_report: Annotated[bool, OptionInfo("Leave out report.html, the page on the run.", group="What is written")] = (
        False
    )
    no_run_dir: Annotated[bool, OptionInfo("Write the picture alone.", group="What is written")] = False
    overwrite: Annotated[
        bool,
        OptionInfo(
            "Let the output take the place of the input, and of several pictures restore those that are finished anew.",
            group="What is written",
        ),
    ] = False

    def __post_init__(self) -> None:
        check_fields(self)
        self.snapshot_iterations()
        self.checkpoint_interval()
        if self.no_run_dir and (self.run_dir or self.snapshot_every or self.snapshot_at):
            raise UsageError("--no-run-dir leaves no place for --run-dir or snapshots: drop one of them.")
        if self.no_run_dir and (self.checkpoint_every or self.keep_checkpoint):
            raise UsageError("--no-run-dir leaves no place for checkpoints: drop one of them.")

    def checkpoint_interval(self) -> float:
        """Of `--checkpoint-every`, in seconds.

        Raises:
            UsageError: when it is no time.
        """
        try:
            return specs.seconds(self.checkpoint_every or DEFAULT_CHECKPOINT_INTERVAL)
        except ValueError:
            raise UsageError(
                f"--checkpoint-every {self.checkpoint_every!r} is no time: write it as 30s, 5m or 1h."
            ) from None

    def snapshot_iterations(self) -> frozenset[int]:
        """The iterations of `--snapshot-at`."""
        try:
            numbers = frozenset(int(part) for part in (self.snapshot_at or "").split(",") if part.strip())
        except ValueError:
            numbers = frozenset({0})
        if any(number < 1 for number in numbers):
            raise UsageError(f"--snapshot-at {self.snapshot_at} is not a list of iterations: write it as 1,10,100.")
        return numbers
