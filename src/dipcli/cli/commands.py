"""The commands besides the tasks. Typer makes their options from the signatures; errors are printed by `app`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dipcli.cli import console
from dipcli.errors import DipError

FAILED = 1


def doctor(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the text.")] = False
) -> None:
    """Describe this machine, and find problems.

    Versions, processor, threads, memory, disks and GPUs, and a probe of each
    device: gradients of a small network, compared with the CPU in fp32. Each
    problem comes with its remedy. The exit code is 1 if something is broken.

    Examples:

        dip doctor
        dip doctor --json | jq .findings

    """
    from dipcli.cli.doctor.facts import gather_facts
    from dipcli.cli.doctor.findings import find_problems
    from dipcli.cli.doctor.text import print_report

    facts = gather_facts()
    findings = find_problems(facts)
    if as_json:
        plain = {**asdict(facts), "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(plain))  # noqa: T201 - standard output is for data
    else:
        print_report(facts, findings)
    if any(finding.grade == "broken" for finding in findings):
        raise typer.Exit(FAILED)


def resume(
    run: Annotated[
        Path, typer.Argument(help="The run folder, beside the output of the interrupted run: clean.dip", metavar="RUN")
    ],
    *,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print the settings too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of the path.")] = False,
) -> None:
    """Resume an interrupted run.

    The run continues from its last checkpoint with its own options. On the
    same machine the result is the same, bit for bit, as without the
    interruption. The files that it reads must not have changed. A folder of
    images needs no `dip resume`: repeat the command.

    Examples:

        dip resume noisy.denoised.dip
    """
    from dipcli.records.resume import find_finished, find_run
    from dipcli.runs.batches.batch import Batch, Entry

    if record := find_finished(run):
        from dipcli.cli.progress import displays

        displays.choose(quiet=quiet).note(f"{run} is finished already: {record.output}")
        console.print_result(record.output, record.to_json(), as_json=as_json)
        return
    before = find_run(run)
    batch = Batch((Entry(before.job),), several=False)
    raise typer.Exit(console.restore(batch, quiet=quiet, verbose=verbose, as_json=as_json, resume=before))


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, for example clean.dip, or folders of runs.", metavar="RUN...")
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Path of the page. Default: report.html in the run folder, index.html in a folder of runs.",
        ),
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the curves as a figure: .pdf, .svg or .png.")
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a contact sheet of the snapshots: .pdf, .svg or .png."),
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
) -> None:
    """Write the page of a run, or of a folder of runs.

    report.html shows the image before and after, the snapshots, the curves and
    everything needed to repeat the run, in one self-contained file. Every run
    writes its own; this command writes it again, for example after the run was
    cut short. For a folder of runs it writes index.html, a table of all runs,
    and every missing or outdated report.html. Prints the paths.

    Examples:

        dip report noisy.denoised.dip
        dip report noisy.denoised.dip --curves curves.pdf --sheet snapshots.png
        dip report restored/
    """
    from dipcli.cli.progress import displays
    from dipcli.report.outputs import plan_outputs

    display = displays.choose(quiet=quiet)
    done = failed = 0
    for write in plan_outputs(runs, output, curves, sheet, display.note):
        try:
            path = write()
        except DipError as error:
            failed += 1
            if len(runs) == 1:
                raise
            console.print_error(str(error), error)
        else:
            done += 1
            console.print_line(os.fsencode(path))
    if failed:
        raise typer.Exit(console.SOME_FAILED if done else FAILED)


COMMANDS: Mapping[str, Callable[..., None]] = {"resume": resume, "report": report, "doctor": doctor}
