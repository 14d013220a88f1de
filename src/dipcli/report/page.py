"""The page of a run: one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dipcli
from dipcli import files
from dipcli.errors import UsageError
from dipcli.records.run_files import REPORT, is_our_page
from dipcli.records.run_record import RunRecord
from dipcli.report import text
from dipcli.report.charts import build_charts
from dipcli.report.figures import draw_svg
from dipcli.report.gallery import Gallery, build_gallery
from dipcli.report.run_folder import RunFolder, read_run_folder
from dipcli.text import escape_controls, quote_arguments

TEMPLATES = Path(__file__).parent


def make(
    folder: Path, *, record: RunRecord | None = None, given: Mapping[str, bytes] | None = None, path: Path | None = None
) -> Path:
    """Write the page of a run, and return its path: `report.html` in the folder by default.

    Record and bytes of files that are in memory already are given by the run itself: see `read_run_folder`.

    Raises:
        DipError: if the run cannot be read, or a file exists that dipcli did not make.
    """
    path = path or folder / REPORT
    check_path(path)
    html = compose_page(read_run_folder(folder, record, given), path.parent)
    files.write(path, html.encode(errors="backslashreplace"))
    return path


def check_path(path: Path) -> None:
    """Check that a page can be written.

    Raises:
        UsageError: if a folder, or a file that dipcli did not make, is there.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file in it with -o.")
    if path.exists() and not is_our_page(path):
        raise UsageError(f"{path} exists and was not made by dip: name another file with dip report -o.")


def compose_page(run: RunFolder, place: Path) -> str:
    """Return the HTML of a page that will be in the folder `place`."""
    gallery = build_gallery(run)
    snapshot = next((snapshot for snapshot in run.snapshots if snapshot.psnr is not None), None)
    return render_template(
        "page.html",
        "page.js",
        title=text.format_title(run.request.input or run.folder.name),
        task=f"dip {run.request.task}".rstrip(),
        preset=run.request.preset,
        notice=text.describe_state(run),
        facts=text.list_facts(run),
        gallery=gallery,
        notes=[*map(escape_controls, gallery.notes), *_describe_treatment(gallery)],
        strip_target=snapshot and ("reference" if snapshot.has_reference else "measurement"),
        sentences=text.describe_run(run),
        comparison=text.compare_methods(run),
        compared=run.record and run.record.compared,
        charts=[(chart, draw_svg(chart)) for chart in build_charts(run)],
        fits=text.list_fits(run),
        command=[quote_arguments([argument]) for argument in ("dip", *run.request.argv[1:])],
        settings=text.list_settings(run),
        machine=text.describe_machine(run),
        links=text.list_links(run, place),
    )


def render_template(template: str, script: str, **values: Any) -> str:
    """Fill a template with values, which are escaped, and with the style and a script."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - a run may have no page

    code = (TEMPLATES / script).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=code,
        script_digest=f"sha256-{digest}",
        version=dipcli.__version__,
        **values,
    )


def _describe_treatment(gallery: Gallery) -> list[str]:
    """How the images of the page differ from their files."""
    names: dict[str, dict[str, None]] = {}  # each once, in order
    for image in (*gallery.images, *gallery.residual, gallery.figure, *gallery.strip):
        if image and image.treatment:
            names.setdefault(image.treatment, {})["snapshots" if image in gallery.strip else image.name] = None
    notes = [f"{', '.join(own)}: {treatment}." for treatment, own in names.items()]
    return [f"On this page only: {' '.join(notes)}"] if notes else []
