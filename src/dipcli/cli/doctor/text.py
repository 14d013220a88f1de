"""The facts and findings as text."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence

from rich.console import Console

from dipcli.cli.doctor.facts import Facts
from dipcli.cli.doctor.findings import GIB, Finding

LABEL_CELLS = 13
STYLES = {"broken": "bold red", "hint": "yellow"}


def print_report(facts: Facts, findings: Sequence[Finding]) -> None:
    """Print the facts and findings to standard output; in colour on a terminal."""
    console = Console(highlight=False, emoji=False, markup=False, soft_wrap=True)
    width = shutil.get_terminal_size().columns
    for label, text in _rows(facts):
        if text:
            console.print(_fill(text, width, f"  {label}".ljust(LABEL_CELLS)))
        else:
            console.print(f"{label}", style="bold")
    console.print()
    for finding in findings:
        console.print(_fill(f"{finding.grade}: {finding.problem}", width, ""), style=STYLES[finding.grade])
        console.print(_fill(finding.remedy, width, "  "))
        console.print(*([f"  {finding.command}\n"] if finding.command else []), style="cyan")  # one line, to be copied
    if not findings:
        console.print("No problems found.", style="bold")


def _fill(text: str, width: int, label: str) -> str:
    """Wrap between words, aligned behind the label."""
    lines = textwrap.wrap(text, max(width - len(label), 1), break_long_words=False, break_on_hyphens=False)
    return label + f"\n{' ' * len(label)}".join(lines)


def _rows(facts: Facts) -> Iterator[tuple[str, str]]:
    """Label and text of each row; headings have no text."""
    torch = facts.torch
    yield "Versions", ""
    yield "dipcli", facts.dipcli
    yield "Python", f"{facts.python}, {facts.executable}"
    yield "PyTorch", f"{torch.version}, built for {torch.built_for or 'CPUs'}" if torch else "does not work"
    for extra in sorted({package.extra for package in facts.packages}):
        packages = [package for package in facts.packages if package.extra == extra and package.name != "torch"]
        versions = ", ".join(f"{package.name} {package.version or 'missing'}" for package in packages)
        yield f"[{extra}]" if extra else "packages", versions
    yield "Machine", ""
    yield "system", facts.system
    yield "processor", f"{facts.processor}: {' '.join(facts.abilities) or 'instruction sets unknown'}"
    quota = "" if facts.quota is None else f", {facts.quota:g} at a time"
    cores = f"{facts.cores or 'unknown'} cores, {facts.allowed} processors allowed{quota}"
    used = f"PyTorch uses {torch.threads} of " if torch else ""
    yield "threads", f"{used}{cores}; {facts.variable or 'OMP_NUM_THREADS is not set'}"
    sizes = {"free": facts.memory_free, "in all": facts.memory_total, "limit": facts.memory_limit}
    yield "memory", ", ".join(f"{size / GIB:.1f} GiB {name}" for name, size in sizes.items() if size) or "unknown"
    for disk in facts.disks:
        free = "does not exist" if disk.free is None else f"{disk.free / GIB:.1f} GiB free"
        yield "disk", f"{disk.folder}: {free}{'' if disk.writable else ', not writable'}"
    yield "NVIDIA", "; ".join(facts.gpus) or "no GPU found"
    yield "Devices", ""
    for device in facts.devices:
        yield device.name, device.title or "no answer"
        for kind, rate in device.iterations_per_second.items():
            error = device.gradient_error.get(kind)
            yield "", f"{kind} {rate} it/s" + ("" if error is None else f", gradients off by {error:.2g}")
        for kind, failure in device.failures.items():
            yield "", f"{kind} failed: {failure}"
