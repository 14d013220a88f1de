"""Progress for people: a Rich display on a terminal, plain lines otherwise, a tqdm bar in notebooks and scripts.

A display is an observer that also takes rows of metrics (`tell`) and remarks (`note`). All of them write to
standard error; standard output is for data.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol
from unicodedata import category

if TYPE_CHECKING:
    from dipcli.engine import Step
    from dipcli.observers import Row
    from dipcli.stopping import Verdict

PATIENCE = 5.0  # seconds between plain lines


class Display(Protocol):
    """What the composition root asks of a display."""

    def watching(self, title: str, iterations: int | None) -> AbstractContextManager[object]:
        """Inside, a fit is under way; `iterations` is None when a rule decides."""

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """An iteration is over."""

    def tell(self, row: Row) -> None:
        """There are new numbers."""

    def note(self, text: str) -> None:
        """There is something to say."""


class Silent:
    """Show nothing."""

    def watching(self, title: str, iterations: int | None) -> AbstractContextManager[object]:  # noqa: ARG002
        """There is nothing to prepare."""
        return nullcontext()

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
        self.first, self.since, self.best = 0.0, 0, 0

    def learn(self, step: Step, verdict: Verdict) -> None:
        """Take in one iteration; the first of a fit, which is slower than all others, says nothing of the pace."""
        of = f"/{self.iterations}" if self.iterations else ""
        again = f"{step.tile}  " if step.tile else ""
        again += f"run {step.run}  " if step.run > 1 else ""
        self.progress = f"{again}{step.number}{of}"
        if not self.first or step.number <= self.since:
            self.first, self.since = perf_counter(), step.number
        else:
            pace = max(perf_counter() - self.first, 1e-6) / (step.number - self.since)
            self.progress += f"  {1 / pace:.1f}/s"
            if self.iterations:
                self.progress += f"  {clock((self.iterations - step.number) * pace)} left"
        if verdict.keep:
            self.best = step.number
        opinion = "" if verdict.signal is None else " ({} {:.3g})".format(*verdict.signal)
        self.state = f"best {self.best}{opinion}  {self.row}"


class Lines:
    """One plain line every few seconds: for pipes, logs and cron."""

    def watching(self, title: str, iterations: int | None) -> AbstractContextManager[object]:
        """Remember what is being fitted."""
        self.title, self.facts, self.last = title, Facts(iterations), perf_counter()
        return nullcontext()

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Write a line when the last one is old enough."""
        self.facts.learn(step, verdict)
        if step.event:
            self.note(f"{self.title}: iteration {step.number}: {step.event}")
        if perf_counter() - self.last >= PATIENCE:
            self.last = perf_counter()
            self.note(f"{self.title}: {self.facts.progress}  {self.facts.state}")

    def tell(self, row: Row) -> None:
        """Keep the numbers for the next line."""
        self.facts.row = numbers(row)

    def note(self, text: str) -> None:
        """Write it."""
        print(legible(text), file=sys.stderr, flush=True)  # noqa: T201 - this is where lines are written


class Terminal:
    """A live display of two lines: bar, iteration, rate and time left; best so far, loss and PSNR.

    It is there only while a fit is under way, so that whatever else is written finds the terminal as it was.
    """

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, emoji=False)
        self.facts = Facts(None)

    @contextmanager
    def watching(self, title: str, iterations: int | None) -> Iterator[None]:
        """Show the bar; without a known end it pulses."""
        from rich.live import Live
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        # A path may hold [brackets]: no text from outside is read as markup.
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[words]}", markup=False),
        )
        self.facts = Facts(iterations)
        self.bar = self.progress.add_task(legible(title), total=iterations, words=self.facts.progress)
        with Live(get_renderable=self.render, console=self.console, transient=True, redirect_stdout=False):
            yield

    def render(self) -> Any:
        """Both lines, for Rich."""
        from rich.console import Group
        from rich.text import Text

        return Group(self.progress, Text(f"  {self.facts.state}", style="dim"))

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Move the bar; Rich draws it in its own time."""
        self.facts.learn(step, verdict)
        if step.event:
            self.note(f"iteration {step.number}: {step.event}")
        self.progress.update(self.bar, completed=step.number, words=self.facts.progress)

    def tell(self, row: Row) -> None:
        """Show the numbers from now on."""
        self.facts.row = numbers(row)

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self.console.print(legible(text), markup=False, soft_wrap=True)


class Bar:
    """tqdm's bar, for notebooks and scripts."""

    @contextmanager
    def watching(self, title: str, iterations: int | None) -> Iterator[None]:
        """Show the bar."""
        from tqdm.auto import tqdm

        with tqdm(total=iterations, desc=title, unit="it") as self.bar:
            yield

    def __call__(self, step: Step, verdict: Verdict) -> None:  # noqa: ARG002 - the bar counts
        """Move the bar; another run, or tile, begins anew."""
        if step.number == 1 and (step.run > 1 or (step.tile and step.tile.number > 1)):
            self.bar.reset()
        if step.event:
            self.note(f"iteration {step.number}: {step.event}")
        self.bar.update()

    def tell(self, row: Row) -> None:
        """Show the numbers behind the bar."""
        self.bar.set_postfix_str(numbers(row))

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self.bar.write(text, file=sys.stderr)


def choose(*, quiet: bool) -> Display:
    """The display that suits standard error."""
    if quiet or sys.stderr is None:
        return Silent()
    return Terminal() if sys.stderr.isatty() else Lines()


def legible(text: str) -> str:
    """The same on one line, whatever the files in it are called: control characters and stray bytes as escapes."""
    hidden = ("Cc", "Cs", "Zl", "Zp")
    return "".join(each.encode("unicode_escape").decode("ascii") if category(each) in hidden else each for each in text)


def numbers(row: Row) -> str:
    """The numbers of a row that people look at."""
    told = f"loss {row['loss']:.5f}  fit {row['psnr_noisy']:.2f} dB"
    return told if row["psnr_ref_smoothed"] is None else f"{told}  true {row['psnr_ref_smoothed']:.2f} dB"


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def ending(account: Mapping[str, Any]) -> list[str]:
    """How a run ended, and how good it is, in sentences."""
    count = account["iterations"]
    done = f"{count} iteration{'s' if count > 1 else ''} in {clock(account['seconds'])}"
    kept = [each["kept"] for each in account["runs"] if not each["astray"]] if account["tiles"] else [account["kept"]]
    averages = f"average of {kept[0]}" if min(kept) == max(kept) else f"averages of {min(kept)} to {max(kept)}"
    told = [f"{done}, kept the {averages}; ended because {account['reason']}."]
    if "psnr_ref" in account:
        own = {name: account[key] for name in _PSNRS if (key := f"psnr_ref{name[4:]}") in account}
        results = {**account["baselines"], "restored": own}
        told.append(f"PSNR to the truth: {', '.join(f'{name} {_decibels(of)}' for name, of in results.items())}.")
    if "uncertainty" in account:
        told.append(f"The outputs stray by at most {account['uncertainty_most']:.1f} of 255: {account['uncertainty']}.")
    if account.get("conclusion"):
        told.append(account["conclusion"])
    return [f"{account['input']}: {sentence}" for sentence in told]


def summary(fates: Sequence[str], total: int) -> str:
    """What became of many pictures, and which of them failed.

    Args:
        fates: of each in their order, restored, failed, skipped, cut short or not begun; those at the end that were
            not begun may be left out.
        total: pictures there were.
    """
    told = [f"{fates.count(word)} {word}" for word in ("restored", "failed", "skipped")]
    others = {"cut short": fates.count("cut short"), "not begun": total - len(fates) + fates.count("not begun")}
    told += [f"{count} {word}" for word, count in others.items() if count]
    failed = [f"{number}/{total}" for number, fate in enumerate(fates, start=1) if fate == "failed"]
    return ", ".join(told) + (f"; failed: {', '.join(failed)}" if failed else "")


_PSNRS = {"psnr": "", "psnr_y": "luma ", "psnr_unknown": "unknown pixels "}


def _decibels(measures: Mapping[str, float | None]) -> str:
    """23.10 dB (luma 24.78); a picture that is the truth itself has no figure."""
    if measures["psnr"] is None:
        return "identical"
    parts = [f"{words}{measures[name]:.2f}" for name, words in _PSNRS.items() if words and measures.get(name)]
    return f"{measures['psnr']:.2f} dB" + (f" ({', '.join(parts)})" if parts else "")


def machinery(account: Mapping[str, Any]) -> str:
    """What it ran on."""
    memory = account["peak_memory_bytes"]
    return (
        f"{account['device']}, {account['precision']}, {account['threads']} threads, "
        f"{account['parameters']:,} parameters, seed {account['seed']}"
        + (f", at most {memory / 2**20:.0f} MiB" if memory else "")
    )
