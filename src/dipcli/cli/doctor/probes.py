"""What PyTorch makes of the machine: small computations on each device.

They run in a process of their own, `python -m dipcli.cli.doctor.probes MODULE...`, which prints JSON: a library that
does not load, a driver that hangs or an instruction that the CPU lacks ends that process alone.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from dataclasses import asdict
from importlib import import_module
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dipcli.cli.doctor.facts import Device, Torch, Trial
from dipcli.problem import Problem
from dipcli.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHANNELS, SIDE = 32, 64  # of the tensors: a few milliseconds on an old CPU
TIMES = 3
NETWORK = "skip:channels=8,8:skips=4,4"
# Instructions that a convolution is made of, in the order of their age.
ABILITIES = (
    "avx", "avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx10_1", "avx10_2",
    "amx_tile", "amx_int8", "amx_bf16", "amx_fp16", "neon", "bf16", "i8mm", "sve", "sve2", "sme",
)  # fmt: skip


def main() -> None:
    """Load each module that was named, then try the devices if PyTorch was among those that load."""
    troubles = {}
    for name in sys.argv[1:]:
        print(f"loading {name}", file=sys.stderr, flush=True)  # noqa: T201 - whoever waits reads how far it came
        troubles[name] = _loaded(name)
    told: dict[str, Any] = {"troubles": troubles}
    if troubles.get("torch", "") is None:
        told |= examined()
    sys.stdout.write(json.dumps(told) + "\n")


def examined() -> dict[str, Any]:
    """PyTorch's build, the CPU's abilities, whether memory is kept, and the devices."""
    import torch

    from dipcli.fitting import device as machine

    build, names = _build()
    able = machine.capabilities()
    kept = machine.keep_memory(torch.device("cpu"))
    return {
        "torch": asdict(build),
        "abilities": [each for each in ABILITIES if able.get(each)] or [torch.backends.cpu.get_cpu_capability()],
        "kept": kept,
        "devices": [asdict(tried(name)) for name in names],
    }


def tried(name: str) -> Device:
    """What a device is and does, if it answers at all."""
    print(f"trying {name}", file=sys.stderr, flush=True)  # noqa: T201
    try:
        return _described(name)
    except Exception as error:  # noqa: BLE001 - drivers raise what they like
        trouble = _first_line(error)
        return Device(
            name, name, "fp32", "it does not answer", trials=(Trial("fp32", trouble=trouble),), trouble=trouble
        )


def _described(name: str) -> Device:
    import torch

    from dipcli.fitting import device as machine

    place = torch.device(name)
    precision, reason = machine.choice(place)
    memory = capability = None
    if place.type == "cuda":
        properties = torch.cuda.get_device_properties(place)
        memory, capability = properties.total_memory, (properties.major, properties.minor)
    repeats, trouble = _repeated(name)
    return Device(
        name=name,
        title=machine.name(place),
        precision=precision,
        reason=reason,
        memory=memory,
        capability=capability,
        trials=(_trial(place, "fp32"), _trial(place, "bf16")),
        repeats=repeats,
        trouble=trouble,
    )


def _loaded(module: str) -> str | None:
    """What keeps a module from being imported; None when it can be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_module(module)
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    told = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def _build() -> tuple[Torch, list[str]]:
    """How PyTorch was built, and the names of the devices that it offers."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    build = Torch(
        version=torch.__version__,
        cuda=torch.version.cuda,
        hip=torch.version.hip,
        arches=tuple(torch.cuda.get_arch_list()) if cards else (),
        threads=torch.get_num_threads(),
        trouble=next((str(each.message).partition("\n")[0] for each in caught), None),
    )
    apple = ["mps"] if torch.backends.mps.is_available() else []
    return build, ["cpu", *(f"cuda:{number}" for number in range(cards)), *apple]


def _trial(place: torch.device, precision: str) -> Trial:
    """Two convolutions and the gradient of what comes out, compared to the CPU's in fp32."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a card without kernels is warned of, and then fails
            expected, _ = _computed(torch.device("cpu"), torch.float32)
            found, seconds = _computed(place, torch.float32 if precision == "fp32" else torch.bfloat16)
    except Exception as error:  # noqa: BLE001 - likewise
        return Trial(precision, trouble=_first_line(error))
    distance = float((found - expected).norm() / expected.norm())
    if not math.isfinite(distance):
        return Trial(precision, trouble="the result is not finite")
    return Trial(precision, round(seconds * 1e3, 3), round(distance, 6))


def _computed(place: torch.device, dtype: torch.dtype) -> tuple[Tensor, float]:
    """The gradient with respect to the input, on the CPU in fp32, and the fewest seconds that it took."""
    import torch
    from torch.nn import functional

    chance = torch.Generator().manual_seed(0)
    drawn = torch.randn(1, CHANNELS, SIDE, SIDE, generator=chance)
    weights = [torch.randn(CHANNELS, CHANNELS, 3, 3, generator=chance) / CHANNELS for _ in range(2)]
    image = drawn.to(place, dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    first, second = (each.to(place, dtype) for each in weights)
    times = []
    for _ in range(1 + TIMES):
        began = perf_counter()
        hidden = functional.conv2d(image, first, padding=1).tanh()
        loss = functional.conv2d(hidden, second, padding=1).float().square().mean()
        (gradient,) = torch.autograd.grad(loss, image)
        found = gradient.float().cpu()  # a GPU may still be at work until here
        times.append(perf_counter() - began)
    return found, min(times[1:])


def _repeated(name: str) -> tuple[bool | None, str | None]:
    """Whether a small fit gives the same bits twice, or why it could not be run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            once, again = _fitted(name), _fitted(name)
    except Exception as error:  # noqa: BLE001 - likewise
        return None, _first_line(error)
    return once.equal(again), None


def _fitted(name: str) -> Tensor:
    """A few iterations on a picture of noise, (3, 32, 32)."""
    import torch

    from dipcli.fitting.solve import prepare, solve

    measured = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    settings = Settings(iterations=4, network=NETWORK, input_depth=4, stop="none", device=name)
    return solve(prepare(Problem(measured=measured, shape=(3, 32, 32)), settings)).image


if __name__ == "__main__":
    main()
