"""A small network on a device: its gradients beside those of the CPU in fp32, and its speed.

Nothing here imports PyTorch before it is called: `dip doctor` also works where PyTorch does not.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dipcli.settings.settings import Precision

NETWORK, SIDE = "skip:channels=8,8:skips=4,4", 64  # milliseconds an iteration on an old CPU
# Relative L2 distance to the gradients of the CPU in fp32: bf16 on a CPU has 0.13 (measured); TF32, with ten bits,
# about 0.02.
MAX_GRADIENT_ERROR = {"fp32": 0.1, "bf16": 0.5}


def compute_gradients(device: torch.device, precision: str, timed_iterations: int = 1) -> tuple[Tensor, float]:
    """Return the gradients of all weights, on the CPU in fp32, and the seconds of an iteration.

    Args:
        device: where the network is computed.
        precision: fp32 or bf16.
        timed_iterations: after a first one, which is slower; the fastest counts.
    """
    import torch  # noqa: PLC0415 - see above

    from dipcli.fitting.machine.arithmetic import choose_layout, use_ieee_fp32  # noqa: PLC0415
    from dipcli.networks import build  # noqa: PLC0415
    from dipcli.networks.prior import render  # noqa: PLC0415
    from dipcli.settings import Settings  # noqa: PLC0415

    target = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device)
    prior = build(Settings(network=NETWORK), (3, SIDE, SIDE)).to(device)
    layout = choose_layout(prior.network, device)
    network, code = prior.network.to(memory_format=layout), prior.code.clone(memory_format=layout)  # type: ignore[call-overload]
    seconds = []
    with use_ieee_fp32(device):
        for _ in range(1 + timed_iterations):
            network.zero_grad()
            start = perf_counter()
            loss = (render(network, precision, code)[0] - target).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            weights = [weight.grad for weight in network.parameters() if weight.grad is not None]
            gradients = torch.cat([gradient.float().flatten() for gradient in weights]).cpu()  # waits for a GPU
            seconds.append(perf_counter() - start)
    return gradients, min(seconds[1:])


def measure_gradient_error(device: torch.device, precision: str) -> float:
    """Return the relative L2 distance between the gradients on a device and those of the CPU in fp32."""
    import torch  # noqa: PLC0415

    reference, _ = compute_gradients(torch.device("cpu"), "fp32")
    gradients, _ = compute_gradients(device, precision)
    return float((gradients - reference).norm() / reference.norm())


def find_gradient_problem(device: torch.device, precision: Precision) -> str | None:
    """Return how wrong the gradients on a device are, in fp32 and in another precision; None if they are right."""
    for kind in sorted({"fp32", precision}):
        error = measure_gradient_error(device, kind)
        if not error <= MAX_GRADIENT_ERROR[kind]:  # not a number is wrong, too
            return f"its gradients in {kind} are off by {error:.2g}"
    return None
