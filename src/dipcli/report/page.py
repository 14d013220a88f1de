"""The page of a run: one file, which needs no other."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dipcli
from dipcli import files
from dipcli.errors import UsageError
from dipcli.records.run_files import REPORT, is_our_page
from dipcli.records.run_record import RunRecord
from dipcli.report import charts
from dipcli.report import figures as drawing
from dipcli.report import text as words
from dipcli.report.gallery import Gallery, gallery
from dipcli.report.run_folder import RunFolder, find_problem, read_run_folder

HERE = Path(__file__).parent


def make(
    folder: Path,
    *,
    record: RunRecord | None = None,
    given: Mapping[str, bytes] | None = None,
    path: Path | None = None,
) -> Path:
    """Write the page of a run.

    Args:
        folder: the run's.
        record: what the run says of itself, where it is the run that asks; it is read otherwise.
        given: bytes that are in memory already, by what they are for the run.
        path: where to; `report.html` in the folder when left out.

    Returns:
        Where it is.

    Raises:
        DipError: when it cannot be made, or a file is there that this program has not made.
    """
    path = path or folder / REPORT
    check(path)
    account = record.to_json() if record else None
    with find_problem(folder) if record is None else nullcontext():  # our own, just made, holds nothing strange
        text = composed(read_run_folder(folder, account, given), path.parent)
    files.write(path, text.encode(errors="backslashreplace"))
    return path


def check(path: Path) -> None:
    """Find out whether a page can take its place.

    Raises:
        UsageError: when something is there that this program has not made.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file in it with -o.")
    if path.exists() and not is_our_page(path):
        raise UsageError(f"{path} is there already, not made by dip: name another place with dip report -o.")


def composed(story: RunFolder, place: Path) -> str:
    """The page's text.

    Args:
        story: of the run.
        place: the folder of the page, for its links.
    """
    shown = gallery(story)
    return filled(
        "page.html",
        "page.js",
        title=words.title(story),
        done=f"dip {story.account['task']}" if "task" in story.account else "dip",
        preset=story.account.get("preset"),
        notices=words.notices(story),
        facts=words.facts(story),
        gallery=shown,
        missed=words.missed(shown.missed),
        strip_told=_strip_told(story),
        treatments=_treatments(shown),
        sentences=words.sentences(story),
        measures=words.measures(story),
        compared=story.account.get("compared"),
        charts=[(each, safe(drawing.inline(each))) for each in charts.charts(story)],
        runs=words.runs(story),
        command=words.command(story.account),
        settings=words.settings(story),
        machine=words.machine(story),
        links=words.links(story, place),
    )


def filled(template: str, script: str, **values: Any) -> str:
    """A template with its values, style and script; whatever stands in the values is text, never markup."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - a run may have no page

    code = (HERE / script).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    house = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = (HERE / "page.css").read_text(encoding="utf-8")
    own = {"style": safe(style), "script": safe(code), "trust": f"sha256-{digest}", "version": dipcli.__version__}
    return house.get_template(template).render(**own, **values)


def safe(text: str) -> Any:
    """Text of our own making, which is markup."""
    from markupsafe import Markup  # noqa: PLC0415 - comes with Jinja

    return Markup(text)  # noqa: S704 - no word of it comes from outside


def _strip_told(story: RunFolder) -> str:
    """What is told beneath the film strip of its numbers."""
    known = [each for each in story.frames if each.psnr is not None]
    if not known:
        return ""
    return f"Iteration, and PSNR of the average to {'the true picture' if known[0].to_truth else 'what was measured'}."


def _treatments(shown: Gallery) -> list[str]:
    """What was done to the pictures so that they fit, in sentences."""
    treated: dict[str, list[str]] = {}
    for each in (*shown.views, *([shown.figure] if shown.figure else [])):
        treated.setdefault(each.treatment, []).append(each.name)
    lossless = treated.pop("", [])
    told = [f"{', '.join(names)}: {how}." for how, names in treated.items()]
    small = sorted({each.treatment for each in shown.strip} - {""})
    told += [f"Along the way: {'; '.join(small)}."] if small else []
    told = [f"Shown without loss: {', '.join(lossless)}.", *told] if told and lossless else told
    return [f"{' '.join(told)} The files themselves are untouched."] if told else []
