"""When to stop, and which picture to keep: the rules.

A rule is a frozen value with two methods. `start(problem)` hands each run a fresh state, with the problem
that is to be fitted; a rule that holds pixels back returns a problem in which they do not count.
`judge(step, state)` looks at one iteration and answers with a verdict and the next state. The state is the
run's, never the rule's: it can be saved, restored and wound back like the weights.

A rule with a class attribute `name` can be chosen by that name: `--stop name:key=value`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from dipcli import specs
from dipcli.errors import UsageError

if TYPE_CHECKING:
    from dipcli.engine import Step
    from dipcli.problem import Problem
    from dipcli.settings import Settings


FEWEST = 4  # values that count, of which some can be held back


@dataclass(frozen=True)
class Verdict:
    """A rule's answer to one iteration.

    Attributes:
        keep: whether this iteration's average is the best so far.
        stop: why the run should end now, as a sentence; None to go on.
        signal: what the rule goes by, a name and a number, for display and log; None if there is nothing.
    """

    keep: bool = False
    stop: str | None = None
    signal: tuple[str, float] | None = None


class Rule(Protocol):
    """What the engine asks of a rule."""

    def start(self, problem: Problem) -> tuple[Any, Problem]:
        """A fresh state, and the problem to fit."""

    def judge(self, step: Step, state: Any) -> tuple[Verdict, Any]:
        """The verdict on one iteration, and the next state."""


@dataclass(frozen=True)
class Never:
    """Never stop, and keep the newest average: the published method with a fixed number of iterations."""

    name: ClassVar[str] = "none"

    def start(self, problem: Problem) -> tuple[None, Problem]:
        """There is nothing to remember."""
        return None, problem

    def judge(self, step: Step, state: None) -> tuple[Verdict, None]:  # noqa: ARG002 - the newest is the best
        """Keep."""
        return Verdict(keep=True), state


@dataclass(frozen=True)
class EMV:
    """Stop when the pictures stop settling: the minimum of their exponential moving variance.

    While the network learns structure its outputs change less and less; once it takes up noise they
    begin to differ again. With d = x_t - m, the running mean and variance are

        v <- (1 - alpha) (v + alpha mean(d^2)),   m <- m + alpha d

    and the average at the smallest v is kept.

    Attributes:
        patience: iterations without a new minimum after which to stop.
        alpha: weight of the newest picture, in (0, 1).
        guard: iterations at the start in which the variance means nothing yet.

    Source:
        Wang et al., "Early Stopping for Deep Image Prior", TMLR 2023, section 2 (ES-EMV).
    """

    name: ClassVar[str] = "emv"
    patience: int = 500
    alpha: float = 0.1
    guard: int = 100

    def __post_init__(self) -> None:
        if self.patience < 1 or not 0 < self.alpha < 1 or self.guard < 0:
            raise UsageError("The rule emv takes patience of 1 or more, alpha between 0 and 1, guard of 0 or more.")

    def start(self, problem: Problem) -> tuple[_Spread, Problem]:
        """No picture has been seen."""
        return _Spread(), problem

    def judge(self, step: Step, state: _Spread) -> tuple[Verdict, _Spread]:
        """Compare the variance with the smallest so far."""
        if state.mean is None:
            return Verdict(keep=True), _Spread(mean=step.image)
        change = step.image - state.mean
        variance = (1 - self.alpha) * (state.variance + self.alpha * float((change**2).mean()))
        mean = state.mean + self.alpha * change
        signal = ("variance", variance)
        if step.number <= self.guard:
            return Verdict(keep=True, signal=signal), _Spread(mean, variance)
        if variance < state.least:
            return Verdict(keep=True, signal=signal), _Spread(mean, variance, variance, step.number)
        waited = step.number - state.at
        reason = f"the variance has not fallen for {waited} iterations" if waited >= self.patience else None
        return Verdict(stop=reason, signal=signal), _Spread(mean, variance, state.least, state.at)


@dataclass(frozen=True)
class _Spread:
    """What `EMV` remembers: m, v, the smallest v and its iteration."""

    mean: Any = None
    variance: float = 0.0
    least: float = math.inf
    at: int = 0


@dataclass(frozen=True)
class HoldOut:
    """Stop when pixels that were left out of the loss are no longer predicted better.

    Noise that is independent from pixel to pixel cannot be predicted from the neighbours: the error of the average
    at the pixels left out falls as long as structure is learned and rises with the noise. No noise level is needed.

    Attributes:
        fraction: share of the pixels left out, in (0, 0.5].
        patience: iterations without a new minimum after which to stop.
        seed: chooses the pixels.
    """

    name: ClassVar[str] = "holdout"
    fraction: float = 0.02
    patience: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 0.5 or self.patience < 1 or not 0 <= self.seed < 2**63:  # noqa: PLR2004
            raise UsageError(
                "The rule holdout takes a fraction above 0 and up to 0.5, patience of 1 or more, seed of 0 or more."
            )

    def start(self, problem: Problem) -> tuple[_Unseen, Problem]:
        """Choose among the pixels that count, the same in every channel, and take them out of the weight.

        A measurement that is no picture, a list of numbers, is held back number by number.

        Raises:
            UsageError: when there is next to nothing that counts.
        """
        import torch

        measured = problem.measured
        place = measured.shape[-2:] if measured.ndim > 2 else measured.shape  # noqa: PLR2004 - (C, H, W)
        weight = torch.ones_like(measured) if problem.weight is None else problem.weight.expand_as(measured)
        counting = weight.reshape(-1, *place).amax(dim=0).flatten().nonzero()[:, 0].cpu()
        if len(counting) < FEWEST:
            raise UsageError(
                f"There are only {len(counting)} values to go by, too few to hold some back: choose --stop none."
            )
        order = torch.randperm(len(counting), generator=torch.Generator().manual_seed(self.seed))
        unseen = torch.zeros(place).flatten()
        unseen[counting[order[: max(1, round(self.fraction * len(counting)))]]] = 1
        unseen = unseen.reshape(place).to(measured)
        return _Unseen(problem, weight * unseen), replace(problem, weight=weight * (1 - unseen))

    def judge(self, step: Step, state: _Unseen) -> tuple[Verdict, _Unseen]:
        """Compare the error at the pixels left out with the smallest so far."""
        problem = state.problem
        error = float(problem.loss(problem.operator(step.average), problem.measured, state.weight))
        signal = ("holdout", error)
        if error < state.least:
            return Verdict(keep=True, signal=signal), replace(state, least=error, at=step.number)
        waited = step.number - state.at
        reason = f"the held-out pixels were not predicted better for {waited} iterations"
        return Verdict(stop=reason if waited >= self.patience else None, signal=signal), state


@dataclass(frozen=True)
class _Unseen:
    """What `HoldOut` remembers: the whole problem, which pixels it left out, the smallest error and its iteration."""

    problem: Any
    weight: Any
    least: float = math.inf
    at: int = 0


@dataclass(frozen=True)
class Auto:
    """Choose a rule for the user; so far the choice is always `holdout`."""

    name: ClassVar[str] = "auto"

    def start(self, problem: Problem) -> tuple[tuple[Rule, Any], Problem]:
        """The chosen rule and what it starts with."""
        rule = HoldOut()
        state, problem = rule.start(problem)
        return (rule, state), problem

    def judge(self, step: Step, state: tuple[Rule, Any]) -> tuple[Verdict, tuple[Rule, Any]]:
        """What the chosen rule says."""
        rule, inner = state
        verdict, inner = rule.judge(step, inner)
        return verdict, (rule, inner)


@dataclass(frozen=True)
class Ending:
    """Leave to a rule what to keep, and to a function when to end.

    Attributes:
        rule: the rule.
        end: from the iteration and the rule's own reason to stop, or None, to the reason that holds, or None.
    """

    rule: Rule
    end: Callable[[int, str | None], str | None]

    def start(self, problem: Problem) -> tuple[Any, Problem]:
        """What the rule starts with."""
        return self.rule.start(problem)

    def judge(self, step: Step, state: Any) -> tuple[Verdict, Any]:
        """The rule's verdict with another end."""
        verdict, state = self.rule.judge(step, state)
        return replace(verdict, stop=self.end(step.number, verdict.stop)), state


def exactly(rule: Rule, iterations: int) -> Rule:
    """Run so many iterations, whatever the rule says of stopping; what is kept stays its matter."""
    reason = f"the {iterations} iterations asked for are done"
    return Ending(rule, lambda number, _: reason if number >= iterations else None)


def at_most(rule: Rule, iterations: int) -> Rule:
    """Let the rule decide, but not for ever."""
    reason = f"the limit of {iterations} iterations is reached (--max-iters)"
    return Ending(rule, lambda number, own: own or (reason if number >= iterations else None))


def unless(rule: Rule, asked: Callable[[], str | None]) -> Rule:
    """Let the rule decide unless somebody asks for the run to end: `asked` answers why, or None."""
    return Ending(rule, lambda _, own: asked() or own)


def named(text: str) -> Rule:
    """The rule that `--stop` names.

    Raises:
        UsageError: when there is no such rule or it does not take that parameter.
    """
    rules: list[type[Any]] = [each for each in globals().values() if isinstance(each, type) and hasattr(each, "name")]
    rule: Rule = specs.parse(text, rules, "stopping rule")
    return rule


def chosen(settings: Settings, rule: Rule | None = None) -> Rule:
    """The rule that the settings ask for, within the iterations that they ask for.

    Args:
        settings: with `iterations` the run has exactly so many, without them at most `max_iterations`.
        rule: takes the place of the one that `settings.stop` names.
    """
    rule = rule or named(settings.stop)
    if settings.iterations is not None:
        return exactly(rule, settings.iterations)
    return at_most(rule, settings.max_iterations)
