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
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from dipcli import specs
from dipcli.errors import UsageError

if TYPE_CHECKING:
    from dipcli.engine import Step
    from dipcli.problem import Problem
    from dipcli.settings import Settings


@dataclass(frozen=True)
class Verdict:
    """A rule's answer to one iteration.

    Attributes:
        keep: whether this iteration's average is the best so far.
        stop: why the run should end now, as a sentence; None to go on.
        signal: the number the rule goes by, for the display; None if it has none.
    """

    keep: bool = False
    stop: str | None = None
    signal: float | None = None


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
        if step.number <= self.guard:
            return Verdict(keep=True, signal=variance), _Spread(mean, variance)
        if variance < state.least:
            return Verdict(keep=True, signal=variance), _Spread(mean, variance, variance, step.number)
        waited = step.number - state.at
        reason = f"the variance has not fallen for {waited} iterations" if waited >= self.patience else None
        return Verdict(stop=reason, signal=variance), _Spread(mean, variance, state.least, state.at)


@dataclass(frozen=True)
class _Spread:
    """What `EMV` remembers: m, v, the smallest v and its iteration."""

    mean: Any = None
    variance: float = 0.0
    least: float = math.inf
    at: int = 0


@dataclass(frozen=True)
class Auto:
    """Choose a rule for the user; so far the choice is always `emv`."""

    name: ClassVar[str] = "auto"

    def start(self, problem: Problem) -> tuple[tuple[Rule, Any], Problem]:
        """The chosen rule and what it starts with."""
        rule = EMV()
        state, problem = rule.start(problem)
        return (rule, state), problem

    def judge(self, step: Step, state: tuple[Rule, Any]) -> tuple[Verdict, tuple[Rule, Any]]:
        """What the chosen rule says."""
        rule, inner = state
        verdict, inner = rule.judge(step, inner)
        return verdict, (rule, inner)


@dataclass(frozen=True)
class Exactly:
    """Run so many iterations whatever the rule says of stopping; what is kept stays the rule's matter."""

    rule: Rule
    iterations: int

    def start(self, problem: Problem) -> tuple[Any, Problem]:
        """What the rule starts with."""
        return self.rule.start(problem)

    def judge(self, step: Step, state: Any) -> tuple[Verdict, Any]:
        """The rule's verdict, with a stop at the last iteration and no other."""
        verdict, state = self.rule.judge(step, state)
        done = step.number >= self.iterations
        reason = f"the {self.iterations} iterations asked for are done" if done else None
        return Verdict(verdict.keep, reason, verdict.signal), state


@dataclass(frozen=True)
class AtMost:
    """Let the rule decide, but not for ever."""

    rule: Rule
    iterations: int

    def start(self, problem: Problem) -> tuple[Any, Problem]:
        """What the rule starts with."""
        return self.rule.start(problem)

    def judge(self, step: Step, state: Any) -> tuple[Verdict, Any]:
        """The rule's verdict, and a stop at the limit."""
        verdict, state = self.rule.judge(step, state)
        late = step.number >= self.iterations
        reason = f"the limit of {self.iterations} iterations is reached (--max-iters)" if late else None
        return Verdict(verdict.keep, verdict.stop or reason, verdict.signal), state


@dataclass(frozen=True)
class Unless:
    """Let the rule decide, unless somebody asks for the run to end.

    Attributes:
        rule: the rule that decides otherwise.
        asked: answers why the run should end now, or None.
    """

    rule: Rule
    asked: Callable[[], str | None]

    def start(self, problem: Problem) -> tuple[Any, Problem]:
        """What the rule starts with."""
        return self.rule.start(problem)

    def judge(self, step: Step, state: Any) -> tuple[Verdict, Any]:
        """The rule's verdict, and a stop when asked."""
        verdict, state = self.rule.judge(step, state)
        return Verdict(verdict.keep, self.asked() or verdict.stop, verdict.signal), state


def named(text: str) -> Rule:
    """The rule that `--stop` names.

    Raises:
        UsageError: when there is no such rule or it does not take that parameter.
    """
    rules = [each for each in globals().values() if is_dataclass(each) and hasattr(each, "name")]
    return specs.parse(text, rules, "stopping rule")  # type: ignore[arg-type]


def chosen(settings: Settings, rule: Rule | None = None) -> Rule:
    """The rule that the settings ask for, within the iterations that they ask for.

    Args:
        settings: with `iterations` the run has exactly so many, without them at most `max_iterations`.
        rule: takes the place of the one that `settings.stop` names.
    """
    rule = rule or named(settings.stop)
    if settings.iterations is not None:
        return Exactly(rule, settings.iterations)
    return AtMost(rule, settings.max_iterations)
