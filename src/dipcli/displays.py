"""Progress for people: a Rich display on a terminal, plain lines otherwise, a tqdm bar in notebooks and scripts.

A display is an observer that also takes rows of metrics (`tell`) and remarks (`note`). All of them write to
standard error; standard output is for data.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from dipcli.standing import Ahead, Standing, clock, numbers
from dipcli.typeset import GAP, legible

if TYPE_CHECKING:
    from dipcli.runs.observers import Row
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step

__all__ = ["Bar", "Display", "Lines", "Silent", "choose", "clock", "ending", "legible", "machinery", "summary"]

PATIENCE = 5.0  # seconds between plain lines
DUMB = ("dumb", "unknown")  # terminals whose cursor cannot be moved
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


class Display(Protocol):
    """What the composition root asks of a display."""

    def watching(self, title: str, ahead: Ahead) -> AbstractContextManager[object]:
        """Inside, a fit is under way."""

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """An iteration is over."""

    def tell(self, row: Row) -> None:
        """There are new numbers."""

    def tally(self, failed: int) -> None:
        """So many pictures of several have failed so far."""

    def note(self, text: str) -> None:
        """There is something to say."""


class Silent:
    """Show nothing."""

    def watching(self, title: str, ahead: Ahead) -> AbstractContextManager[object]:  # noqa: ARG002
        """There is nothing to prepare."""
        return nullcontext()

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Say nothing."""

    def tell(self, row: Row) -> None:
        """Say nothing."""

    def tally(self, failed: int) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


class Lines:
    """One plain line every few seconds: for pipes, logs and cron.

    No control characters are among them, unless the environment asks for them by FORCE_COLOR: then what is at work
    stands out.
    """

    def __init__(self) -> None:
        self.failed = 0
        forced = os.environ.get("FORCE_COLOR") and not os.environ.get("NO_COLOR")
        self.strong = (BOLD, PLAIN) if forced else ("", "")

    def watching(self, title: str, ahead: Ahead) -> AbstractContextManager[object]:
        """Remember what is being fitted."""
        self.title, self.standing, self.last = title, Standing(ahead), perf_counter()
        return nullcontext()

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Write a line when the last one is old enough."""
        self.standing.learn(step, verdict)
        if step.event:
            self.note(f"{self.title}: iteration {step.number}: {step.event}")
        if perf_counter() - self.last >= PATIENCE:
            self.last = perf_counter()
            failed = f"{self.failed} failed so far{GAP}" if self.failed else ""
            begin, end = self.strong
            self._write(f"{begin}{legible(self.title)}:{end} {failed}{legible(self.standing.line())}")

    def tell(self, row: Row) -> None:
        """Keep the numbers for the next line."""
        self.standing.hear(row)

    def tally(self, failed: int) -> None:
        """Keep it for the next line."""
        self.failed = failed

    def note(self, text: str) -> None:
        """Write it."""
        self._write(legible(text))

    def _write(self, line: str) -> None:
        with suppress(BrokenPipeError):  # who reads along may go: that must not cost the picture
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is where lines are written


class Bar:
    """tqdm's bar, for notebooks and scripts."""

    @contextmanager
    def watching(self, title: str, ahead: Ahead) -> Iterator[None]:
        """Show the bar."""
        from tqdm.auto import tqdm

        with tqdm(total=ahead.iterations, desc=title, unit="it") as self.bar:
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
        self.bar.set_postfix_str(GAP.join(numbers(row)))

    def tally(self, failed: int) -> None:
        """There is but one picture."""

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self.bar.write(text, file=sys.stderr)


def choose(*, quiet: bool) -> Display:
    """The display that suits standard error."""
    if quiet or sys.stderr is None:
        return Silent()
    if not sys.stderr.isatty() or os.environ.get("TERM", "").lower() in DUMB or _is_of_old():
        return Lines()
    from dipcli.terminal import Terminal

    return Terminal()


def _is_of_old() -> bool:
    """Whether it is a console of Windows that takes no codes."""
    if sys.platform != "win32":
        return False
    from rich.console import detect_legacy_windows

    return detect_legacy_windows()


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
