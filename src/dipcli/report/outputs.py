"""What `dip report` writes: pages, and figures for a paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from dipcli.errors import UsageError
from dipcli.records.run_files import is_run_folder
from dipcli.report import index, page
from dipcli.report.figures import check_figure_path, write_contact_sheet, write_curves


def plan_outputs(
    folders: Sequence[Path], output: Path | None, curves: Path | None, sheet: Path | None, warn: Callable[[str], None]
) -> Iterator[Callable[[], Path]]:
    """Yield a function for each file to write; it returns the path.

    Args:
        folders: run folders, and folders of runs.
        output: path of the page; None for the default.
        curves: path of a figure of the curves, if wanted.
        sheet: path of a contact sheet, if wanted.
        warn: receives what is wrong with single runs in a folder of runs.

    Raises:
        UsageError: if the options contradict each other.
    """
    figures = {"--curves": curves, "--sheet": sheet}
    paths = {option: path for option, path in {"-o": output, **figures}.items() if path}
    if paths and len(folders) > 1:
        raise UsageError(f"{next(iter(paths))} is for one run: name one run folder, or leave the option out.")
    for option, path in figures.items():
        if path and not is_run_folder(folders[0]):
            raise UsageError(f"{option} is for one run: name its folder, for example noisy.denoised.dip.")
        if path:
            check_figure_path(path, option)
    if len({path.absolute() for path in paths.values()}) < len(paths):
        raise UsageError(f"{' and '.join(paths)} name the same file: use different names.")
    for folder in folders:
        if is_run_folder(folder):
            yield partial(page.make, folder, path=output)
        else:
            yield partial(index.update, folder, output, warn)
    for write, path in ((write_curves, curves), (write_contact_sheet, sheet)):
        if path:
            yield partial(write, folders[0], path)
