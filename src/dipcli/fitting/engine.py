"""The fit: the only loop in the program.

    minimise over theta   E( A( f_theta(z) ), y )        result: a running average of x = f_theta(z)

It knows no file, no terminal and no task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import count
from time import perf_counter

import torch
from torch import Tensor, nn

from dipcli import stopping
from dipcli.errors import DipError
from dipcli.fitting.control import NO_CONTROL, Control, Observer
from dipcli.fitting.machine.arithmetic import choose_layout
from dipcli.fitting.optimizers import make_optimizers
from dipcli.fitting.passes.evaluate import Objective, evaluate_alone
from dipcli.fitting.results import Fit
from dipcli.fitting.rollback import CHECK_INTERVAL, MAX_ROLLBACKS, CollapseGuard
from dipcli.fitting.started_rule import StartedRule, start_rule
from dipcli.fitting.state import BestAverage, Checkpoint, FitState
from dipcli.fitting.warmup import Window, warm_up
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping.step import Step


def fit(
    problem: Problem,
    prior: Prior,
    settings: Settings,
    *,
    stop: stopping.Rule | StartedRule | None = None,
    observers: Iterable[Observer] = (),
    control: Control = NO_CONTROL,
    run: int = 1,
) -> Fit:
    """Fit the prior to one measurement and return the average that the stopping rule keeps.

    An iteration evaluates the objective with new noise on z, takes a step of the optimiser, updates the running
    averages, and asks the rule what to keep and whether to stop. Every tenth checks the loss: a fit that collapses
    (loss 5 dB above that of the last checks, or not finite) is rolled back to its last trusted state and continues with
    half the learning rate, the published remedy.

    Args:
        problem: the measurement y, the operator A and the data term E.
        prior: the network f and its input z, on the problem's device. The weights are changed in place.
        settings: how to fit. Any `precision` except bf16 means that of the weights.
        stop: the stopping rule; by default that of the settings. A started rule brings its own state and problem.
        observers: called after each iteration, in order, after those of `control`; they watch and cannot steer.
        control: what runs beside the fit.
        run: the number of the run, for the observers.

    Raises:
        DipError: if the result is not finite, or the checkpoint does not match.
    """
    started = start_rule(stop or settings.rule(), problem)
    rule, problem = stopping.unless(started.rule, control.reason_to_end), started.problem
    observers = (*control.observers, *observers)
    checkpoint = control.resume_from if isinstance(control.resume_from, Checkpoint) else None
    if checkpoint:
        prior = _restore_code(prior, checkpoint)
    started_at = perf_counter() - (checkpoint.seconds if checkpoint else 0.0)
    observing = 0.0  # seconds, not counted as time of the fit

    network, code = _arrange_in_memory(prior, settings, grouped=control.evaluate is not evaluate_alone)
    variables: list[Tensor] = [*network.parameters()]
    if settings.optimize == "net,input":
        variables.append(code.requires_grad_())
    draws = checkpoint.draws if checkpoint else 0
    objective = Objective(network, code, variables, settings, control.evaluate, draws)
    optimizer_at = make_optimizers(variables, settings)
    blank = torch.zeros(problem.shape, device=code.device, dtype=prior.code.dtype)
    decays = settings.decays
    reached = FitState(0, (blank,) * len(decays), (0.0,) * len(decays), None, started.state)
    guard = CollapseGuard(network, code, reached)
    if checkpoint:
        reached = guard.resume(checkpoint, optimizer_at(checkpoint.guard.newest.reached.number))
    else:
        warm_up(objective, make_optimizers(variables, settings)(1), problem, code, prior.window, settings)

    for number in count(reached.number + 1):
        optimizer = optimizer_at(number)
        loss: Tensor = optimizer.step(partial(objective, Window(problem)))
        averages, shares = _update_averages(reached, objective.image, decays)
        rate, seconds = optimizer.param_groups[0]["lr"], perf_counter() - started_at - observing
        step = Step(number, loss.detach(), objective.image, averages, rate, seconds, run=run)
        verdict, state = rule.judge(step, reached.state)
        reached = FitState(number, averages, shares, _choose_average(reached.kept, step, verdict, decays), state)
        last = verdict.stop is not None
        if number % CHECK_INTERVAL == 0 or last:
            step, reached = guard.check(step, reached, optimizer, last=last)

        paused = perf_counter()
        for observe in observers:
            observe(step, verdict)
        if guard.is_sound_at(number):
            control.checkpoint(partial(guard.checkpoint, optimizer, objective.draws, seconds), last)
        observing += perf_counter() - paused

        if last or guard.rollbacks == MAX_ROLLBACKS:
            break
    seconds = perf_counter() - started_at - observing
    return _make_result(problem, reached.kept, step, verdict.stop, seconds, guard.events)


def _restore_code(prior: Prior, checkpoint: Checkpoint) -> Prior:
    """Return the prior with the z of the checkpoint."""
    if checkpoint.code.shape != prior.code.shape:
        raise DipError("The checkpoint is of another network or image: start the run again.")
    return replace(prior, code=checkpoint.code)


def _arrange_in_memory(prior: Prior, settings: Settings, *, grouped: bool) -> tuple[nn.Module, Tensor]:
    """Return the network, which may be grouped with others, and a copy of z in the best memory layout and precision."""
    layout = choose_layout(prior.network, prior.code.device, grouped=grouped)
    if settings.optimizer == "lbfgs":
        layout = torch.contiguous_format  # all weights are flattened into one vector
    network = prior.network.to(memory_format=layout)  # type: ignore[call-overload]
    code = prior.code.detach().clone(memory_format=layout)
    # Noise can be rounded at no cost; a guide, with noise added to it, has finer shades than bf16.
    rounded = settings.precision == "bf16" and settings.input == "noise" and settings.optimize == "net"
    return network, code.bfloat16() if rounded else code


def _update_averages(
    reached: FitState, image: Tensor, decays: tuple[float, ...]
) -> tuple[tuple[Tensor, ...], tuple[float, ...]]:
    """Return the bias-corrected moving averages with a new output x, and the sums of their weights.

    For each decay d:  share' = 1 - d (1 - share),  average' = average + (1 - d) / share' (x - average)
    """
    shares = tuple(1 - decay * (1 - share) for decay, share in zip(decays, reached.shares, strict=True))
    averages = tuple(
        torch.lerp(average, image, (1 - decay) / share)
        for average, decay, share in zip(reached.averages, decays, shares, strict=True)
    )
    return averages, shares


def _choose_average(
    kept: BestAverage | None, step: Step, verdict: stopping.Verdict, decays: tuple[float, ...]
) -> BestAverage:
    """Return the best average so far, or that of this step if the verdict is to keep it."""
    if kept and not verdict.keep:
        return kept
    return BestAverage(step.number, step.averages[verdict.average_index], decays[verdict.average_index])


def _make_result(
    problem: Problem, kept: BestAverage | None, step: Step, reason: str | None, seconds: float, events: list[str]
) -> Fit:
    if kept is None or not kept.image.isfinite().all():
        raise DipError("The fit diverged to values that are not finite: try a smaller --lr.")
    reason = reason or f"the fit collapsed {MAX_ROLLBACKS} times in a row"
    if step.event:
        reason += f"; it had collapsed, the image is from before iteration {step.number}: try a smaller --lr"
    finished = problem.finish(kept.image)
    return Fit(finished, kept.image, kept.number, kept.decay, step.number, reason, seconds, tuple(events))
