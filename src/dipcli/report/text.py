"""The sentences and tables of a run's page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dipcli.records import summaries
from dipcli.records.run_files import LOG, RECORD
from dipcli.records.run_record import Measures
from dipcli.report.run_folder import RunFolder
from dipcli.settings import Settings
from dipcli.settings.options import option_fields
from dipcli.text import escape_controls, format_clock, quote_path

MEASURE_LABELS = {"psnr": "PSNR", "psnr_y": "PSNR, luma", "psnr_unknown": "PSNR, unknown pixels", "ssim": "SSIM"}


@dataclass(frozen=True)
class Table:
    """A table of the page: its heading, the names of its columns, and its cells row by row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def format_title(path: str) -> str:
    """Return the file name of an input."""
    return "standard input" if path == "-" else escape_controls(Path(path).name)


def describe_state(run: RunFolder) -> str:
    """Return what a reader must know of a run that did not finish; empty if it did."""
    reached = f" Last logged iteration: {run.last_iteration}." if run.last_iteration else ""
    resume = f" To continue: dip resume {quote_path(run.folder)}" if run.can_resume else ""
    sentences = {
        "running": f"This run is still running.{reached} The page shows what there was when it was made.",
        "cut short": f"This run was cut short before it wrote an image.{reached}{resume}",
        "interrupted": f"This run was interrupted; the image is the best one up to then.{resume}",
        "finished": "",
    }
    return escape_controls(sentences[run.state])


def list_facts(run: RunFolder) -> list[tuple[str, str]]:
    """Return the main numbers with their labels."""
    record = run.record
    if record is None:
        return [("Iterations so far", f"{run.last_iteration:,}")] if run.last_iteration else []
    kept = "" if record.tiles else f"{record.kept:,}"
    facts = [("Iterations", f"{record.iterations:,}"), ("Kept", kept), ("Time", format_clock(record.seconds))]
    if record.measures:
        for name, label in MEASURE_LABELS.items():
            facts.append((label.replace("PSNR", "PSNR to the reference", 1), _format_measure(record.measures, name)))
    elif isinstance(record.psnr_noisy, float):
        facts.append(("PSNR to the input", f"{record.psnr_noisy:.2f} dB"))
    return [(label, value) for label, value in facts if value]


def describe_run(run: RunFolder) -> list[str]:
    """Return how the run ended, which rule chose the result, and what happened during the run."""
    record = run.record
    if record is None:
        return []
    sentences = [sentence.removeprefix(f"{record.input}: ") for sentence in summaries.describe_ending(record)]
    sentences = [sentence for sentence in sentences if not sentence.startswith("PSNR")]  # they are among the facts
    if record.rule not in ("", "rule none") and record.rule not in record.reason:
        sentences.append(f"kept by the {record.rule}")
    sentences += [f"During the run: {event}" for event in record.events]
    return [escape_controls(f"{text[:1].upper()}{text[1:].removesuffix('.')}.") for text in sentences]


def compare_methods(run: RunFolder) -> Table | None:
    """Return the measures of all results, this run last; None if there is no other result."""
    record = run.record
    if record is None or not (record.baselines or record.comparison):
        return None
    results: list[tuple[str, Measures | None, float | None]] = [
        *((name, measures, None) for name, measures in record.baselines.items()),
        *((baseline.name, baseline.measures, baseline.seconds) for baseline in record.comparison or ()),
        ("this run", record.measures, record.seconds),
    ]
    names = [name for name in MEASURE_LABELS if any(_format_measure(measures, name) for _, measures, _ in results)]
    columns = ["", *(MEASURE_LABELS[name] for name in names), *["Time"] * bool(record.comparison)]
    rows = tuple(
        (label.capitalize(), *(_format_measure(measures, name) for name in names), _format_seconds(seconds))
        for label, measures, seconds in results
    )
    title = "Compared with the reference" if names else "Other methods"
    return Table(title, tuple(columns), tuple(row[: len(columns)] for row in rows))


def list_fits(run: RunFolder) -> Table | None:
    """Return a table of the fits; None if there was only one."""
    record = run.record
    if record is None or len(record.runs) == 1 or not record.runs:
        return None
    title, start = ("Tiles", 0) if record.tiles else ("Runs", 1)
    columns = ("Tile", "Run", "Seed", "Iterations", "Kept", "Time", "")
    rows = []
    for fit in record.runs:
        numbers = map(str, (fit.tile or "", fit.run, fit.seed, fit.iterations, fit.kept))
        reason = ("outlier, left out; " if fit.outlier else "") + fit.reason
        rows.append((*numbers, format_clock(fit.seconds), reason)[start:])
    return Table(title, columns[start:], tuple(rows))


def list_settings(run: RunFolder) -> list[tuple[str, str]]:
    """Return the task's arguments and every setting, by the name of the option."""
    flags = {option.name: option.flag[2:] for option in option_fields(Settings)}
    values = [(name.replace("_", "-"), value) for name, value in run.request.arguments.items()]
    values += [(flags.get(name, name), value) for name, value in run.request.settings.items()]
    return [(name, escape_controls(_format_setting(value))) for name, value in values if value is not None]


def describe_machine(run: RunFolder) -> str:
    """Return the machine and the versions; empty if unknown."""
    if run.record is None:
        return ""
    versions = f"dipcli {run.record.version}, PyTorch {run.record.torch}, Python {run.record.python}"
    return escape_controls(f"{summaries.describe_machine(run.record)}; {versions}.")


def list_links(run: RunFolder, place: Path) -> list[tuple[str, str]]:
    """Return names and URLs of the output, the log and the record, as seen from the folder of the page."""
    output = run.files.get("output")
    paths = [output.path] if output else []
    paths += [path.with_suffix(suffix) for path in paths for suffix in run.request.figures if suffix != ".png"]
    paths += [run.folder / LOG, run.folder / RECORD]
    return [(escape_controls(path.name), make_url(path, place)) for path in paths if path.is_file()]


def make_url(path: Path, place: Path) -> str:
    """Return the relative URL of a file, whatever its name, as seen from a folder."""
    return quote(os.fsencode(os.path.relpath(path, place).replace(os.sep, "/")))


def _format_measure(measures: Measures | None, name: str) -> str:
    value = getattr(measures, name, None)
    if value is None:
        return ""
    return f"{value:.3f}" if name == "ssim" else f"{value:.2f} dB"


def _format_seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2g} s" if seconds < 10 else format_clock(seconds)  # noqa: PLR2004


def _format_setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
