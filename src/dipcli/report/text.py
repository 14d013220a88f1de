"""What the page of a run says in words and tables."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dipcli.records import summaries
from dipcli.records.run_files import LOG, RECORD
from dipcli.records.run_record import RunRecord
from dipcli.report.run_folder import RunFolder
from dipcli.settings import Settings
from dipcli.settings.options import option_fields
from dipcli.text import format_clock, escape_controls

MEASURES = {"psnr": "PSNR", "psnr_y": "PSNR, luma", "psnr_unknown": "PSNR, unknown pixels", "ssim": "SSIM"}
FEW = 2  # runs or tiles from which on they have a table


@dataclass(frozen=True)
class Row:
    """Of the table of measures.

    Attributes:
        name: of the picture.
        cells: as they are shown.
        own: whether it is what this run has made.
    """

    name: str
    cells: tuple[str, ...]
    own: bool = False


@dataclass(frozen=True)
class Table:
    """A table as it is shown.

    Attributes:
        title: what it is about.
        columns: their names.
        rows: of cells, or `Row`.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Any, ...]


def title(story: RunFolder) -> str:
    """The name of the picture."""
    given = str(story.account.get("input", ""))
    if not given:
        return escape_controls(story.folder.name)
    return "standard input" if given == "-" else escape_controls(Path(given).name)


def notices(story: RunFolder) -> list[str]:
    """What has to be known of a run that did not come to its end."""
    reached = f" It had come to iteration {story.reached}." if story.reached else ""
    resume = f" To go on: dip resume {quoted([str(story.folder)])}" if story.resumable else ""
    told = {
        "at work": f"This run is still at work.{reached} What is here is as of then.",
        "cut short": f"This run was cut short and left no picture.{reached}{resume}",
        "interrupted": f"This run was interrupted: the picture is the best up to then.{resume}",
        "done": "",
    }[story.state]
    return [escape_controls(told)] if told else []


def missed(sentences: Sequence[str]) -> list[str]:
    """What is not shown, whatever the files are called."""
    return [escape_controls(each) for each in sentences]


def facts(story: RunFolder) -> list[tuple[str, str]]:
    """The few numbers that one looks for first."""
    told = story.account
    if "iterations" not in told:
        return [("Iterations so far", str(story.reached))] if story.reached else []
    found = [("Iterations", f"{told['iterations']:,}")]
    if not told.get("tiles"):
        found.append(("Kept", f"{told['kept']:,}"))
    found.append(("Time", format_clock(told["seconds"])))
    if "psnr_ref" not in told:
        return found + (
            [("PSNR to the input", _measured("psnr", told["psnr_noisy"]))] if told.get("psnr_noisy") else []
        )
    known = [(name, told.get(_own(each))) for each, name in MEASURES.items()]
    return found + [
        (name.replace("PSNR", "PSNR to the truth", 1), _measured(name, each)) for name, each in known if each
    ]


def sentences(story: RunFolder) -> list[str]:
    """How it ended, which rule judged it, and what happened on the way."""
    told = story.account
    if "iterations" not in told:
        return []
    ended = [each.removeprefix(f"{told['input']}: ") for each in summaries.describe_ending(RunRecord.from_json(told))]
    ended = [each for each in ended if not each.startswith("PSNR")]  # which stands among the numbers
    rule = str(told.get("rule", ""))
    again = [] if rule in ("", "rule none") or rule in str(told.get("reason")) else [f"kept by the {rule}"]
    events = [f"On the way: {each}." for each in told.get("events") or []]
    return [escape_controls(_sentence(each)) for each in [*ended, *again, *events]]


def measures(story: RunFolder) -> Table | None:
    """How near the picture and others come to the true one; None where that is not known."""
    told = story.account
    compared = [
        (str(each["name"]), {name: each.get(_own(name)) for name in MEASURES}, each.get("seconds"))
        for each in told.get("comparison") or []
    ]
    known = [(name, dict(each), None) for name, each in (told.get("baselines") or {}).items()]
    own = {name: told.get(_own(name)) for name in MEASURES}
    every = [*known, *compared, ("this run", own, told.get("seconds"))]
    columns = [name for name in MEASURES if any(each.get(name) is not None for _, each, _ in every)]
    timed = any(seconds is not None for *_, seconds in every[:-1])
    if len(every) == 1:  # which stands among the numbers
        return None
    rows = tuple(
        Row(
            name.capitalize(),
            (*(_measured(column, each.get(column)) for column in columns), *([_seconds(spent)] if timed else [])),
            own=each is own,
        )
        for name, each, spent in every
    )
    return Table(
        "Against the true picture" if columns else "Beside other methods",
        (*(MEASURES[each] for each in columns), *(["Time"] if timed else [])),
        rows,
    )


def runs(story: RunFolder) -> Table | None:
    """What became of each of several runs or tiles."""
    every = story.account.get("runs") or []
    if len(every) < FEW:
        return None
    tiled = bool(story.account.get("tiles"))
    columns = ("Tile",) * tiled + ("Run", "Seed", "Iterations", "Kept", "Time", "")
    rows = tuple(
        (
            *((str(each.get("tile") or ""),) * tiled),
            str(each.get("run", number)),
            str(each["seed"]),
            str(each["iterations"]),
            str(each["kept"]),
            format_clock(each["seconds"]),
            ("went astray, left out; " if each["outlier"] else "") + str(each["reason"]),
        )
        for number, each in enumerate(every, start=1)
    )
    return Table("Tiles" if tiled else "Runs", columns, rows)


def settings(story: RunFolder) -> list[tuple[str, str]]:
    """Every setting by the name of its option, the task's own arguments first."""
    told = story.account
    flags = {knob.name: knob.flag for knob in option_fields(Settings)}
    own = [(f"--{name.replace('_', '-')}", value) for name, value in (told.get("arguments") or {}).items()]
    rest = [(flags.get(name, name), value) for name, value in (told.get("settings") or {}).items()]
    return [(name[2:], escape_controls(_said(value))) for name, value in (*own, *rest) if value is not None]


def machine(story: RunFolder) -> str:
    """What it ran on."""
    told = story.account
    if "parameters" not in told:
        return ""
    versions = f"dipcli {told['version']}, PyTorch {told['torch']}, Python {told['python']}"
    return escape_controls(f"{summaries.describe_machine(RunRecord.from_json(told))}; {versions}.")


def links(story: RunFolder, place: Path) -> list[tuple[str, str]]:
    """The files beside the page, by name and URL.

    Args:
        story: the run's.
        place: the folder of the page.
    """
    paths = [each.path for name, each in story.files.items() if name == "output" and each.fate in ("there", "changed")]
    paths += [paths[0].with_suffix(each) for each in story.account.get("figures") or [] if each != ".png" and paths]
    paths += [story.folder / name for name in (LOG, RECORD)]
    return [(escape_controls(path.name), url(path, place)) for path in paths if path.is_file()]


def url(path: Path, place: Path) -> str:
    """A relative URL of a file, whatever it is called."""
    return quote(os.fsencode(os.path.relpath(path, place).replace(os.sep, "/")))


def quoted(arguments: Sequence[str]) -> str:
    """A command line as a shell takes it, on one line: what cannot be shown is written as its bytes."""
    return " ".join(shlex.quote(each) if escape_controls(each) == each else f"$'{_escaped(each)}'" for each in arguments)


def command(account: Mapping[str, Any]) -> list[str]:
    """The command line of a run, argument by argument as a shell takes it."""
    _, *rest = account.get("argv") or ["dip"]
    return [quoted([str(each)]) for each in ("dip", *rest)] if rest else []


def _escaped(argument: str) -> str:
    """For bash's $'...'."""
    parts = []
    for each in argument:
        if each in "\\'":
            parts.append(f"\\{each}")
        elif escape_controls(each) == each:
            parts.append(each)
        else:
            parts += [f"\\x{byte:02x}" for byte in os.fsencode(each)]
    return "".join(parts)


def _own(name: str) -> str:
    """What a measure of the run's own picture is called in its account."""
    return name.replace("psnr", "psnr_ref").replace("ssim", "ssim_ref")


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")


def _measured(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if name.lower() == "ssim" else f"{value:.2f} dB"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2g} s" if value < 10 else format_clock(value)  # noqa: PLR2004 - seconds


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
