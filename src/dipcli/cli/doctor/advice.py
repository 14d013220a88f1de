"""From the facts about a machine to what should be put right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from dipcli.cli.doctor.facts import Device, Facts, Trial
from dipcli.cli.doctor.torch_builds import (
    DRIVERS,
    Wheel,
    covers,
    fitting,
    installing,
    numbers,
    suited,
    torch_line,
    uninstalling,
)

GIBI = 2**30
LARGE = GIBI  # bytes of PyTorch from which on a build for nothing is worth a word
LITTLE_MEMORY, LITTLE_ROOM = 2 * GIBI, GIBI // 4
# How far a device may be from what the CPU finds in fp32, relatively. The CPU's own bf16 is off by 0.005; GPUs round
# the factors of a convolution in fp32 to the ten bits of TF32.
ASTRAY = {"fp32": 0.02, "bf16": 0.05}
NVIDIA = "https://www.nvidia.com/drivers"


@dataclass(frozen=True)
class Finding:
    """Something to put right.

    Attributes:
        grade: broken (dipcli cannot work, or not rightly) or hint (it works, and could do better).
        problem: what is wrong, a sentence.
        remedy: what to do, a sentence; with a colon at its end where lines follow.
        lines: what to type for it.
    """

    grade: Literal["broken", "hint"]
    problem: str
    remedy: str
    lines: tuple[str, ...] = ()


def advise(facts: Facts) -> list[Finding]:
    """What to put right, what is broken first."""
    looks = (_packages, _torch, _rosetta, _build, _kernels, _devices, _threads, _memory, _rooms)
    found = dict.fromkeys(finding for look in looks for finding in look(facts))  # of two like cards it is said once
    return sorted(found, key=lambda each: each.grade)


def gibibytes(size: float) -> str:
    """Bytes as 7.9 GiB."""
    return f"{size / GIBI:.1f} GiB"


def _packages(facts: Facts) -> Iterator[Finding]:
    """Whatever is needed besides PyTorch is there, new enough, and loads."""
    for each in facts.packages:
        if each.name == "torch" or each.extra:
            continue
        wanted = f"{each.name}>={each.least}" if each.least else each.name
        if each.version is None:
            yield Finding("broken", f"{each.name} is not installed.", "Install it:", (installing(facts.home, wanted),))
        elif numbers(each.version) < numbers(each.least):
            problem = f"{each.name} {each.version} is too old: dipcli needs {each.least}."
            yield Finding("broken", problem, "Install a newer one:", (installing(facts.home, "--upgrade", wanted),))
        elif each.trouble:
            line = installing(facts.home, "--force-reinstall", wanted)
            yield Finding("broken", f"{each.name} does not import: {each.trouble}.", "Install it anew:", (line,))


def _torch(facts: Facts) -> Iterator[Finding]:
    """PyTorch is there, new enough, and loads."""
    package = next((each for each in facts.packages if each.name == "torch"), None)
    version, least = (package.version, package.least) if package else (None, "")
    lines = (torch_line(facts, suited(facts)),)
    if package and version is None:
        yield Finding("broken", "PyTorch is not installed.", "Install it:", lines)
    elif version and numbers(version) < numbers(least):
        problem = f"PyTorch {version} is too old: dipcli needs {least}."
        yield Finding("broken", problem, "Install a newer one:", lines)
    elif facts.torch is None:
        problem = f"PyTorch does not work: {_clause(facts.broken or 'it does not say why')}."
        yield Finding("broken", problem, "Install it anew:", lines)


def _rosetta(facts: Facts) -> Iterator[Finding]:
    """Python is made for the machine."""
    if facts.translated:
        problem = "This Python is for Intel's processors and runs through Rosetta: slowly, and without the GPU."
        remedy = "With a Python for Apple silicon make an environment anew, and install dipcli there:"
        yield Finding("hint", problem, remedy, ("arch -arm64 python3 -m venv dip-arm64",))


def _build(facts: Facts) -> Iterator[Finding]:
    """The build of PyTorch fits the cards."""
    torch, state = facts.torch, facts.nvidia.state
    if torch is None or torch.hip or facts.system == "Darwin" or (torch.cuda and _cards(facts)):
        return
    if state == "works":
        yield from _unused(facts, torch.cuda, torch.trouble) if torch.cuda else _plain(facts)
    elif state != "none":
        yield _driverless(facts)
    elif torch.cuda and (torch.size or 0) > LARGE:
        size = gibibytes(torch.size or 0)
        problem = f"PyTorch is built for NVIDIA's GPUs and takes {size}, but there is no such GPU here."
        along = [uninstalling(facts.home, *torch.libraries)] if torch.libraries else []
        remedy = "To make room, install the build for the CPU:"
        yield Finding("hint", problem, remedy, (torch_line(facts, "cpu"), *along))


def _driverless(facts: Facts) -> Finding:
    """There is a card, and no driver that answers for it."""
    card = _named(facts)
    if facts.nvidia.state == "withheld":
        problem = f"The machine has {card}, but this container was not given it."
        return Finding("hint", problem, "Start the container with it, as in:", ("docker run --gpus all IMAGE",))
    if facts.nvidia.state == "silent":
        problem = f"The driver of {card} does not answer: {_clause(facts.nvidia.words)}."
        return Finding("hint", problem, f"Restart the machine, or install the driver anew: {NVIDIA}")
    return Finding("hint", f"There is {card} here, but no driver for it.", f"Install NVIDIA's driver: {NVIDIA}")


def _plain(facts: Facts) -> Iterator[Finding]:
    """PyTorch is built for the CPU, and there is a card."""
    problem = f"There is {_named(facts)} here, but PyTorch is built for the CPU."
    if wheel := fitting(facts):
        yield Finding("hint", problem, "Install the build for it:", (torch_line(facts, wheel.tag),))
    elif wheel := fitting(facts, updated=True):
        yield _with_new_driver(facts, problem, wheel)


def _unused(facts: Facts, cuda: str, words: str | None) -> Iterator[Finding]:
    """PyTorch is built for CUDA, the driver answers, and yet PyTorch sees no card."""
    nvidia = facts.nvidia
    if nvidia.hidden is not None:
        problem = f"CUDA_VISIBLE_DEVICES={nvidia.hidden} hides {_named(facts)} from PyTorch."
        yield Finding("hint", problem, "Take it away:", (_unset(facts, "CUDA_VISIBLE_DEVICES"),))
        return
    needed = DRIVERS.get(numbers(cuda)[0], "")
    if nvidia.driver and numbers(nvidia.driver)[:1] < numbers(needed):
        problem = f"NVIDIA's driver {nvidia.driver} is too old for PyTorch's CUDA {cuda}: the CPU is used."
        if wheel := fitting(facts):
            yield Finding("hint", problem, "Install a build that goes with it:", (torch_line(facts, wheel.tag),))
        elif wheel := fitting(facts, updated=True):
            yield _with_new_driver(facts, problem, wheel)
        return
    said = f": {_clause(words)}" if words else ""
    problem = f"PyTorch, built for CUDA {cuda}, cannot use {_named(facts)}{said}."
    remedy = "Restart the machine; if that does not help, install PyTorch anew:"
    yield Finding("hint", problem, remedy, (torch_line(facts, suited(facts)),))


def _kernels(facts: Facts) -> Iterator[Finding]:
    """PyTorch has kernels for each card."""
    for each in filter(_uncovered(facts), _cards(facts)):
        version = ".".join(map(str, each.capability or ()))
        problem = f"PyTorch has no kernels for {each.title} (compute capability {version})."
        if wheel := fitting(facts):
            yield Finding("hint", problem, "Install a build that has:", (torch_line(facts, wheel.tag),))
        elif wheel := fitting(facts, updated=True):
            yield _with_new_driver(facts, problem, wheel)
        else:
            remedy = "No build has: the CPU it is. To make room, install the one for the CPU:"
            yield Finding("hint", problem, remedy, (torch_line(facts, "cpu"),))


def _devices(facts: Facts) -> Iterator[Finding]:
    """Each device computes, rightly, and the CPU the same twice."""
    uncovered = _uncovered(facts)
    for device in facts.devices:
        if uncovered(device):
            continue
        for trial in device.trials:
            if trial.precision in ("fp32", device.precision):
                yield from _tried(facts, device, trial)
        if device.trouble and not any(trial.trouble for trial in device.trials):
            yield _ailing(facts, device, f"A small fit fails on {device.name}: {_clause(device.trouble)}.")
        if device.repeats is False and device.name == "cpu":  # of GPUs nothing else is expected
            problem = "The same fit twice gave different bits on the CPU."
            remedy = "Try one thread; if that does not help, have the machine's memory tested:"
            yield Finding("broken", problem, remedy, ("dip denoise noisy.png --threads 1",))


def _tried(facts: Facts, device: Device, trial: Trial) -> Iterator[Finding]:
    """The computation in one precision came out right."""
    where = f"{device.name} in {trial.precision}"
    if trial.trouble:
        yield _ailing(facts, device, f"A small computation fails on {where}: {_clause(trial.trouble)}.")
    elif (trial.error or 0) > ASTRAY[trial.precision]:
        finding = _ailing(facts, device, f"A small computation goes wrong on {where}: it is off by {trial.error:.2g}.")
        yield Finding("broken", finding.problem, finding.remedy, finding.lines)


def _ailing(facts: Facts, device: Device, problem: str) -> Finding:
    """A device cannot be used; without the CPU nothing can be done."""
    if device.name == "cpu":
        return Finding("broken", problem, "Install PyTorch anew:", (torch_line(facts, suited(facts)),))
    return Finding("hint", problem, "Use the CPU until that is put right:", ("dip denoise noisy.png --device cpu",))


def _threads(facts: Facts) -> Iterator[Finding]:
    """As many threads as there are cores to be had."""
    processor = facts.processor
    if facts.torch is None:
        return
    threads, usable = facts.torch.threads, processor.usable
    if processor.quota is not None and threads > max(usable, processor.quota):
        problem = (
            f"PyTorch uses {threads} threads, but the control group allows {processor.quota:g} processors at a time."
        )
        yield Finding("hint", problem, "Use no more threads than that:", (f"dip denoise noisy.png --threads {usable}",))
    elif threads < usable and processor.variable:
        name, value = processor.variable
        problem = f"{name}={value} keeps PyTorch to {_counted(threads, 'thread')}; there are {usable} cores for it."
        yield Finding("hint", problem, "Take it away:", (_unset(facts, name),))


def _memory(facts: Facts) -> Iterator[Finding]:
    """There is enough memory."""
    least = min((each for each in (facts.memory.free, facts.memory.limit) if each is not None), default=LITTLE_MEMORY)
    if least < LITTLE_MEMORY:
        problem = f"There are but {gibibytes(least)} of memory to be had: enough for small pictures."
        yield Finding("hint", problem, "Close other programs, or use less:", ("dip denoise noisy.png --preset fast",))


def _rooms(facts: Facts) -> Iterator[Finding]:
    """Pictures can be written here, and temporary files."""
    for number, room in enumerate(facts.rooms):
        remedy = "Clear it out, or name another place with TMPDIR." if number else "Name another place with -o."
        if not room.writable:
            yield Finding("hint", f"Nothing can be written to {room.folder}.", remedy)
        elif room.free is not None and room.free < LITTLE_ROOM:
            yield Finding("hint", f"There is little room on the disk of {room.folder}.", remedy)


def _cards(facts: Facts) -> list[Device]:
    return [each for each in facts.devices if each.name.startswith("cuda")]


def _uncovered(facts: Facts) -> Callable[[Device], bool]:
    """Tells whether PyTorch was built without kernels for a device."""
    arches = facts.torch.arches if facts.torch and facts.torch.cuda else ()
    return lambda device: bool(arches and device.capability and not covers(arches, device.capability))


def _named(facts: Facts) -> str:
    """The first card's name."""
    return next((each.name for each in facts.nvidia.cards), "an NVIDIA card")


def _with_new_driver(facts: Facts, problem: str, wheel: Wheel) -> Finding:
    remedy = f"Install NVIDIA's driver {wheel.driver} or newer ({NVIDIA}), then the build that goes with it:"
    return Finding("hint", problem, remedy, (torch_line(facts, wheel.tag),))


def _unset(facts: Facts, variable: str) -> str:
    return f"set {variable}=" if facts.system == "Windows" else f"unset {variable}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _clause(words: str) -> str:
    """Something said, without the full stop."""
    return words.strip().rstrip(".")
