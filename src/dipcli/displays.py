"""Progress for people: a Rich display on a terminal, plain lines otherwise, a tqdm bar in notebooks and scripts.

A display is an observer that also takes rows of metrics (`tell`) and remarks (`note`). All of them write to
standard error; standard output is for data.
"""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from dipcli.engine import Step
    from dipcli.observers import Row
    from dipcli.stopping import Verdict

PATIENCE = 5.0  # seconds between plain lines


class Display(Protocol):
    """What the composition root asks of a display."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""

    def begin(self, title: str, iterations: int | None) -> None:
        """A fit begins; `iterations` is None when a rule decides."""

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """An iteration is over."""

    def tell(self, row: Row) -> None:
        """There are new numbers."""

    def note(self, text: str) -> None:
        """There is something to say."""


class Silent:
    """Show nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def begin(self, title: str, iterations: int | None) -> None:
        """Say nothing."""

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Say nothing."""

    def tell(self, row: Row) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


class Facts:
    """What is known of a fit so far, in words: shared by the displays.

    Args:
        iterations: how many there will be; None when a rule decides.

    Attributes:
        progress: how far, how fast, how long still.
        state: what the rule holds to be best, and the latest numbers.
    """

    def __init__(self, iterations: int | None) -> None:
        self.iterations = iterations
        self.progress, self.state, self.row = "starting", "", ""
        self.first, self.best = 0.0, 0

    def learn(self, step: Step, verdict: Verdict) -> None:
        """Take in one iteration; the first, which is slower than all others, says nothing of the pace."""
        of = f"/{self.iterations}" if self.iterations else ""
        self.progress = f"{step.number}{of}"
        if step.number == 1:
            self.first = monotonic()
        else:
            pace = (monotonic() - self.first) / (step.number - 1)
            self.progress += f"  {1 / pace:.1f}/s"
            if self.iterations:
                self.progress += f"  {clock((self.iterations - step.number) * pace)} left"
        if verdict.keep:
            self.best = step.number
        opinion = "" if verdict.signal is None else " ({} {:.3g})".format(*verdict.signal)
        self.state = f"best {self.best}{opinion}  {self.row}"


class Lines(Silent):
    """One plain line every few seconds: for pipes, logs and cron."""

    def begin(self, title: str, iterations: int | None) -> None:
        """Remember what is being fitted."""
        self.title, self.facts, self.last = title, Facts(iterations), monotonic()

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Write a line when the last one is old enough."""
        self.facts.learn(step, verdict)
        if monotonic() - self.last >= PATIENCE:
            self.last = monotonic()
            self.note(f"{self.title}: {self.facts.progress}  {self.facts.state}")

    def tell(self, row: Row) -> None:
        """Keep the numbers for the next line."""
        self.facts.row = numbers(row)

    def note(self, text: str) -> None:
        """Write it."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is where lines are written


class Terminal(Silent):
    """A live display of two lines: bar, iteration, rate and time left; best so far, loss and PSNR."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self.facts = Facts(None)
        # A path may hold [brackets]: no text from outside is read as markup.
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[words]}", markup=False),
        )
        self.live = Live(
            get_renderable=self.render,
            console=Console(stderr=True, highlight=False),
            transient=True,
            refresh_per_second=8,
            # Data goes to standard output untouched, unless that is the terminal which the display is on.
            redirect_stdout=sys.stdout.isatty(),
        )

    def render(self) -> Any:
        """Both lines, for Rich."""
        from rich.console import Group
        from rich.text import Text

        return Group(self.progress, Text(f"  {self.facts.state}", style="dim"))

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def begin(self, title: str, iterations: int | None) -> None:
        """Start the bar anew; without a known end it pulses."""
        for shown in self.progress.task_ids:
            self.progress.remove_task(shown)
        self.facts = Facts(iterations)
        self.bar = self.progress.add_task(title, total=iterations, words=self.facts.progress)

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Move the bar; Rich draws it in its own time."""
        self.facts.learn(step, verdict)
        self.progress.update(self.bar, completed=step.number, words=self.facts.progress)

    def tell(self, row: Row) -> None:
        """Show the numbers from now on."""
        self.facts.row = numbers(row)

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self.live.console.print(text, markup=False, soft_wrap=True)


class Bar(Silent):
    """tqdm's bar, for notebooks and scripts."""

    def begin(self, title: str, iterations: int | None) -> None:
        """Open the bar."""
        from tqdm.auto import tqdm

        self.bar: Any = tqdm(total=iterations, desc=title, unit="it")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if hasattr(self, "bar"):
            self.bar.close()

    def __call__(self, step: Step, verdict: Verdict) -> None:  # noqa: ARG002 - the bar counts
        """Move the bar."""
        self.bar.update()

    def tell(self, row: Row) -> None:
        """Show the numbers behind the bar."""
        self.bar.set_postfix_str(numbers(row))


def choose(*, quiet: bool) -> Display:
    """The display that suits standard error."""
    if quiet:
        return Silent()
    return Terminal() if sys.stderr.isatty() else Lines()


def numbers(row: Row) -> str:
    """The numbers of a row that people look at."""
    told = f"loss {row['loss']:.5f}  fit {row['psnr_noisy']:.2f} dB"
    return told if row["psnr_ref_smoothed"] is None else f"{told}  true {row['psnr_ref_smoothed']:.2f} dB"


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
