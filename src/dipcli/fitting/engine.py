"""The fit: the only loop in the program.

    minimise over theta   E( A( f_theta(z) ), y )        result: the running average of x = f_theta(z)

It knows no file, no terminal and no task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice, repeat
from time import perf_counter

import torch
from torch import Tensor, nn

from dipcli import stopping
from dipcli.errors import DipError
from dipcli.fitting import rollback as recovery
from dipcli.fitting import warmup
from dipcli.fitting.adam import Adam
from dipcli.fitting.control import NO_CONTROL, Control, Observer
from dipcli.fitting.input_noise import perturbed_input
from dipcli.fitting.results import Fit
from dipcli.fitting.rollback import CollapseGuard
from dipcli.fitting.started_rule import StartedRule, start_rule
from dipcli.fitting.state import BestAverage, Checkpoint, FitState
from dipcli.fitting.warmup import Window
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.problem.losses import total_variation
from dipcli.settings import Settings
from dipcli.stopping.step import Step

ADAM_BEFORE_LBFGS = 100  # the published warm-up: so many steps of Adam,
ADAM_RATE_BEFORE_LBFGS = 0.001  # at this rate


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
    """Fit the prior to one measurement and return the picture that the rule keeps.

    Args:
        problem: the measurement and how it came about.
        prior: the network and its input, on the problem's device. The weights change in place.
        settings: how to fit. `precision` other than bf16 means the precision of the weights as they are.
        stop: the rule; the one that the settings name when left out.
        observers: called after each iteration, in order, after those of `control`; they watch and cannot steer.
        control: what runs beside the fit.
        run: which of several fits this is, for the observers.

    A fit that collapses (its loss stays 5 dB above what it was lately, or is no number) goes back to its last sound
    state, weights, optimiser, average, rule and all, and goes on with half the step: the published remedy.

    Raises:
        DipError: when the fit ends in numbers that are not finite.
    """
    started = start_rule(stop or settings.rule(), problem)
    rule, state, problem = stopping.unless(started.rule, control.reason_to_end), started.state, started.problem
    observers = (*control.observers, *observers)
    resume_from = control.resume_from if isinstance(control.resume_from, Checkpoint) else None
    prior, spent, draws = _begun(prior, resume_from)
    network, code = _laid_out(prior, settings)
    variables: list[Tensor] = [*prior.network.parameters()]
    if settings.optimize == "net,input":
        variables.append(code.requires_grad_())
    perturbed = perturbed_input(code, settings, draws)
    image = torch.zeros(problem.shape, device=code.device, dtype=prior.code.dtype)
    memories = settings.decays
    reached = FitState(0, (image,) * len(memories), (0.0,) * len(memories), None, state)
    lifeline = CollapseGuard(prior.network, code, reached)
    began, watching = perf_counter() - spent, 0.0

    def compute_loss(part: Window) -> Tensor:
        """One look at E( A( f_theta(z) ), y ) and its slope, z perturbed; of the whole picture or a window."""
        nonlocal draws
        z, draws = perturbed(part), draws + 1
        _forget_slopes(variables)
        return control.evaluate(network, settings.precision, z, partial(judged, part))

    def judged(part: Window, x: Tensor) -> Tensor:
        nonlocal image
        image = x.detach().clone()  # with free pixels x is the variable itself, which the step is about to change
        return _loss(part.problem, x, settings)

    turns = enumerate(_optimizers(variables, settings), start=1)
    if resume_from:
        *_, (_, optimizer) = islice(turns, resume_from.guard.newest.reached.number)
        reached = lifeline.resume(resume_from, optimizer)
    else:
        warmup.warm_up(compute_loss, next(_optimizers(variables, settings)), problem, code, prior.window, settings)
    whole = partial(compute_loss, Window(problem))
    for number, optimizer in turns:
        loss: Tensor = optimizer.step(whole)
        averages, shares = _averaged(reached, image, memories)
        rate, seconds = optimizer.param_groups[0]["lr"], perf_counter() - began - watching
        step = Step(number, loss.detach(), image, averages, rate, seconds, run=run)
        verdict, state = rule.judge(step, reached.state)
        reached = FitState(number, averages, shares, _kept(reached.kept, step, verdict, memories), state)

        if number % recovery.CHECK_INTERVAL == 0 or verdict.stop:
            step, reached = lifeline.check(step, reached, optimizer, last=verdict.stop is not None)

        paused = perf_counter()
        for observe in observers:
            observe(step, verdict)
        if lifeline.is_sound_at(number):
            control.checkpoint(partial(lifeline.checkpoint, optimizer, draws, seconds), verdict.stop is not None)
        watching += perf_counter() - paused

        if verdict.stop or lifeline.tries == recovery.MAX_ROLLBACKS:
            seconds = perf_counter() - began - watching
            return _ended(problem, reached.kept, step, verdict.stop, seconds, lifeline.events)
    raise AssertionError("the optimisers never end")


def _begun(prior: Prior, begin: Checkpoint | None) -> tuple[Prior, float, int]:
    """The prior as it was, the seconds spent so far, and how often noise was drawn."""
    if begin is None:
        return prior, 0.0, 0
    if begin.code.shape != prior.code.shape:
        raise DipError("The checkpoint is of another network or picture: begin anew.")
    return replace(prior, code=begin.code), begin.seconds, begin.draws


def _forget_slopes(variables: Iterable[Tensor]) -> None:
    """Have the next ones begin at nought."""
    for variable in variables:
        variable.grad = None


def _averaged(
    reached: FitState, image: Tensor, memories: tuple[float, ...]
) -> tuple[tuple[Tensor, ...], tuple[float, ...]]:
    """The averages with another output, and the sums of the weights in them."""
    shares = tuple(1 - memory * (1 - share) for memory, share in zip(memories, reached.shares, strict=True))
    averages = tuple(
        torch.lerp(average, image, (1 - memory) / share)
        for average, memory, share in zip(reached.averages, memories, shares, strict=True)
    )
    return averages, shares


def _kept(kept: BestAverage | None, step: Step, verdict: stopping.Verdict, memories: tuple[float, ...]) -> BestAverage:
    """The best so far, or one of this step's averages."""
    if kept and not verdict.keep:
        return kept
    return BestAverage(step.number, step.averages[verdict.average_index], memories[verdict.average_index])


def _ended(
    problem: Problem, kept: BestAverage | None, step: Step, reason: str | None, seconds: float, events: list[str]
) -> Fit:
    """The result, if there is one to show."""
    if kept is None or not kept.image.isfinite().all():
        raise DipError("The fit ran away to numbers that are not finite: try a smaller --lr.")
    reason = reason or "the fit collapsed again and again"
    if step.event:
        reason += f"; it had collapsed, the picture is from before iteration {step.number}: try a smaller --lr"
    finished = problem.finish(kept.image)
    return Fit(finished, kept.image, kept.number, kept.decay, step.number, reason, seconds, tuple(events))


def _loss(problem: Problem, x: Tensor, settings: Settings) -> Tensor:
    """E( A(x), y ), and what is asked of x besides."""
    loss = problem.loss(problem.operator(x), problem.measured, problem.weight)
    return loss + settings.tv * total_variation(x) if settings.tv else loss


def _laid_out(prior: Prior, settings: Settings) -> tuple[nn.Module, Tensor]:
    """The network, and z, laid out in memory as the hardware likes it."""
    # L-BFGS lays all weights out as one long vector, which it can do only with the plain layout.
    layout = torch.contiguous_format if settings.optimizer == "lbfgs" else torch.channels_last
    network = prior.network.to(memory_format=layout)  # type: ignore[call-overload]
    code = prior.code.detach().clone(memory_format=layout)
    # Rounding what is noise costs nothing; a guide, with noise on it, shows finer shades than bf16 has.
    rounded = settings.precision == "bf16" and settings.input == "noise" and settings.optimize == "net"
    return network, code.bfloat16() if rounded else code


def _optimizers(variables: list[Tensor], settings: Settings) -> Iterator[Adam | torch.optim.LBFGS]:
    """The optimiser of each iteration in turn, for ever."""
    if settings.optimizer == "lbfgs":
        yield from repeat(Adam(variables, lr=ADAM_RATE_BEFORE_LBFGS), ADAM_BEFORE_LBFGS)
        # One call is one iteration: the history of directions lives on between calls. The negative tolerances,
        # the published ones, keep it from resting on a plateau of the noisy loss.
        yield from repeat(
            torch.optim.LBFGS(variables, lr=settings.rate, max_iter=1, tolerance_grad=-1, tolerance_change=-1)
        )
    fused = all(each.device.type in ("cpu", "cuda") for each in variables)
    yield from repeat(Adam(variables, lr=settings.rate, betas=(0.9, settings.beta2), fused=fused))
