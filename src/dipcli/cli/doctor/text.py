"""Facts and findings about a machine as text, aligned, for a terminal of any width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dipcli.cli.doctor.advice import Finding, gibibytes
from dipcli.cli.doctor.facts import Device, Facts, Nvidia, Package, Torch, Trial

INDENT, LABEL = 2, 11  # columns
TIED = "\N{NO-BREAK SPACE}"  # between a name and its version: a plain space once the lines are broken


class Line(NamedTuple):
    """One line, and what it is: plain, heading, broken, hint or command."""

    text: str
    kind: str = "plain"


def written(facts: Facts, findings: Iterable[Finding], width: int) -> Iterator[Line]:
    """All of it.

    Args:
        facts: about the machine.
        findings: what to put right.
        width: columns; words longer than that are left whole, so that they can be copied.
    """
    for heading, rows in (("Versions", _versions), ("Machine", _machine), ("Devices", _devices)):
        yield Line(heading, "heading")
        for label, text in rows(facts):
            yield from (Line(each) for each in _row(label, text, width))
        yield Line("")
    number = 0
    for number, finding in enumerate(findings, 1):  # noqa: B007 - whether there was any
        yield from (Line(each, finding.grade) for each in _wrapped(f"{finding.grade}: {finding.problem}", width, 0))
        yield from (Line(each) for each in _wrapped(finding.remedy, width, INDENT))
        for command in finding.lines:
            yield from (Line(each, "command") for each in _broken(command, width, shell=facts.system != "Windows"))
        yield Line("")
    if not number:
        yield Line("All is well.", "heading")


def _versions(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "dipcli", facts.dipcli
    yield "Python", f"{facts.home.python}, {facts.home.executable}"
    yield "PyTorch", _built(facts.torch) if facts.torch else f"does not work: {facts.broken or 'it does not say why'}"
    yield "others", ", ".join(_version(each) for each in facts.packages if not each.extra and each.name != "torch")
    for extra in sorted({each.extra for each in facts.packages if each.extra}):
        parts = [each for each in facts.packages if each.extra == extra]
        missing = [each.name for each in parts if each.version is None]
        some = f"without {', '.join(missing)}" if missing else "installed"
        yield f"[{extra}]", "not installed" if len(missing) == len(parts) else some


def _version(package: Package) -> str:
    return f"{package.name}{TIED}{package.version or 'missing'}"


def _built(torch: Torch) -> str:
    made = f"for CUDA {torch.cuda}" if torch.cuda else f"for HIP {torch.hip}" if torch.hip else "for no NVIDIA GPU"
    parts = [torch.version, made]
    parts.append(f"{gibibytes(torch.size)} on the disk" if torch.size else "")
    return ", ".join(filter(None, [*parts, " ".join(torch.arches)]))


def _machine(facts: Facts) -> Iterator[tuple[str, str]]:
    processor, memory = facts.processor, facts.memory
    yield "system", facts.release
    yield "processor", f"{processor.name}, {facts.machine}: {' '.join(processor.abilities) or 'abilities not known'}"
    cores = f"{processor.cores or 'unknown number of'} cores, processors open to this process: {processor.allowed}"
    if processor.quota is not None:
        cores += f", by its control group {processor.quota:g} at a time"
    used = f"PyTorch uses {facts.torch.threads}; " if facts.torch else ""
    variable = "=".join(processor.variable) if processor.variable else "OMP_NUM_THREADS is not set"
    yield "threads", f"{used}{cores}; {variable}"
    sizes = [(memory.free, "free"), (memory.total, "in all"), (memory.limit, "at most by the control group")]
    told = [f"{gibibytes(size)} {words}" for size, words in sizes if size is not None] or ["not known"]
    if memory.kept is not None:
        told.append(
            "kept between iterations by mallopt" if memory.kept else "given back between iterations: no mallopt"
        )
    yield "memory", ", ".join(told)
    for room in facts.rooms:
        free = "no such folder" if room.free is None else f"{gibibytes(room.free)} free"
        yield "disk", f"{room.folder}: {free}{'' if room.writable else ', not writable'}"
    yield "NVIDIA", _nvidia(facts.nvidia)


def _nvidia(nvidia: Nvidia) -> str:
    if nvidia.state == "none":
        return "nothing"
    cards = [each.name + (f", {gibibytes(each.memory)}" if each.memory else "") for each in nvidia.cards]
    driver = f"driver {nvidia.driver}" if nvidia.driver else "no driver"
    return "; ".join([*(cards or ["a card"]), driver])


def _devices(facts: Facts) -> Iterator[tuple[str, str]]:
    for each in facts.devices:
        yield each.name, facts.processor.name if each.name == "cpu" else _card(each)
        yield "", f"--precision auto takes {each.precision}: {each.reason}"
        yield "", f"a small computation: {', '.join(_speed(trial) for trial in each.trials)}"
        yield "", f"a small fit, twice: {_repeated(each)}"
    if not facts.devices:
        yield "none", "PyTorch does not work"


def _card(device: Device) -> str:
    memory = gibibytes(device.memory) if device.memory else ""
    capability = "compute capability {}.{}".format(*device.capability) if device.capability else ""
    return ", ".join(filter(None, [device.title, memory, capability]))


def _speed(trial: Trial) -> str:
    took = "failed" if trial.milliseconds is None else f"{trial.milliseconds:.1f}{TIED}ms"
    return f"{trial.precision}{TIED}{took}"


def _repeated(device: Device) -> str:
    if device.repeats is None:
        return "failed"
    return "the same bits" if device.repeats else "other bits"


def _row(label: str, text: str, width: int) -> list[str]:
    """A label and its text, aligned with those above and below."""
    hanging = " " * (INDENT + LABEL)
    first = f"{'':{INDENT}}{label:{LABEL - 1}} "
    return _filled(text, width, first, hanging)


def _wrapped(text: str, width: int, indent: int) -> list[str]:
    return _filled(text, width, " " * indent, " " * INDENT)


def _filled(text: str, width: int, first: str, hanging: str) -> list[str]:
    lines = textwrap.wrap(
        text,
        max(width, len(hanging) + 1),
        initial_indent=first,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [each.replace(TIED, " ") for each in lines]


def _broken(command: str, width: int, *, shell: bool) -> list[str]:
    """A command to copy: over several lines where it must be, as a shell takes them."""
    lines = _wrapped(command, width - len(" \\"), INDENT) if shell else [" " * INDENT + command]
    return [f"{each} \\" for each in lines[:-1]] + lines[-1:]
