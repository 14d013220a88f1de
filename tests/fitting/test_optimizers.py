"""Adam beside PyTorch's own, and the optimiser of each iteration."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dipcli.fitting.optimizers import ADAM_ITERATIONS_BEFORE_LBFGS, Adam, make_optimizers
from dipcli.settings import Settings


def optimize(make: Callable[[list[torch.Tensor]], Any], *, steps: int = 30) -> list[torch.Tensor]:
    """Three tensors in different layouts, one of them without a gradient, after some steps."""
    generator = torch.Generator().manual_seed(0)
    variables = [torch.randn(shape, generator=generator) for shape in ((3, 4, 5, 5), (7,), (2, 2))]
    variables[0] = variables[0].to(memory_format=torch.channels_last)
    for variable in variables:
        variable.requires_grad_()
    optimizer = make(variables)

    def closure() -> torch.Tensor:
        for variable in variables:
            variable.grad = None
        loss = (variables[0] ** 4).sum() + (variables[1] - 3).abs().sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure) for _ in range(steps)]
    assert losses[-1] < losses[0]
    return [variable.detach() for variable in variables]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("beta2", [0.99, 0.999])
def test_adam_is_pytorchs_adam_bit_for_bit(fused: bool, beta2: float) -> None:
    ours = optimize(lambda variables: Adam(variables, lr=0.02, betas=(0.9, beta2), fused=fused))
    theirs = optimize(lambda variables: torch.optim.Adam(variables, lr=0.02, betas=(0.9, beta2), fused=fused))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_lbfgs_starts_with_adam() -> None:
    variables = [torch.zeros(3, requires_grad=True)]
    optimizer_at = make_optimizers(variables, Settings(optimizer="lbfgs"))
    last = ADAM_ITERATIONS_BEFORE_LBFGS
    assert isinstance(optimizer_at(1), Adam)
    assert optimizer_at(last) is optimizer_at(1)
    assert isinstance(optimizer_at(last + 1), torch.optim.LBFGS)
    assert optimizer_at(last + 2) is optimizer_at(last + 1)


@pytest.mark.slow
def test_a_fit_does_not_import_pytorchs_compiler() -> None:
    code = """if True:
        import sys, torch
        from dipcli import networks
        from dipcli.fitting.engine import fit
        from dipcli.problem.problem import Problem
        from dipcli.settings.settings import Settings
        settings = Settings(network="skip:channels=2,2:skips=1,1", input_depth=2, iterations=3)
        fit(Problem(measured=torch.rand(3, 16, 16), shape=(3, 16, 16)), networks.build(settings, (3, 16, 16)), settings)
        sys.exit("torch._dynamo" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
