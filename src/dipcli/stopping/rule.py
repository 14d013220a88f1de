"""What a rule is, the rule that never stops, and who else may end a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from dipcli.problem import Problem
    from dipcli.stopping.step import Step


@dataclass(frozen=True)
class Verdict:
    """A rule's answer to one iteration.

    Attributes:
        keep: whether one of this iteration's averages is the best so far.
        stop: why the run should end now, as a sentence; None to go on.
        signal: what the rule goes by, a name and a number, for display and log; None if there is nothing.
        which: the average to keep, by its place in `Step.averages`.
        left: iterations it will still wait for a better one before it ends the run; None if it does not wait so.
        aim: what the signal has to come to for the run to end; None if there is no such number.
    """

    keep: bool = False
    stop: str | None = None
    criterion: tuple[str, float] | None = None
    average_index: int = 0
    patience_left: int | None = None
    threshold: float | None = None


class Rule(ABC):
    """A stopping rule: when to stop, and which average to keep.

    A rule is a frozen dataclass. Its state belongs to the run, so that it can be saved and restored with the weights.
    The state may hold tensors, numbers, strings, None, and lists, tuples, dicts and dataclasses of them.

    Attributes:
        name: the name for `--stop`; empty for a rule that cannot be chosen by name.
    """

    name: ClassVar[str] = ""

    @abstractmethod
    def start(self, problem: Problem) -> tuple[Any, Problem]:
        """Return a fresh state and the problem to fit, perhaps with pixels held out."""

    @abstractmethod
    def judge(self, step: Step, state: Any) -> tuple[Verdict, Any]:
        """Return the verdict on one iteration and the next state."""

    def with_noise_level(self, level: float) -> Rule:  # noqa: ARG002 - most rules need no noise level
        """Use a noise level on the 0-255 scale (`--sigma`) where the rule has none of its own."""
        return self

    def resolve(self, problem: Problem) -> Rule:  # noqa: ARG002 - most rules do not depend on the image
        """Make all decisions that depend on the whole image, so that every tile is judged by the same criterion."""
        return self

    def describe(self, problem: Problem) -> str:  # noqa: ARG002
        """Return the rule in a few words, with the reason where it depends on the image."""
        return f"rule {self.name or self}"


@dataclass(frozen=True)
class Never(Rule):
    """Never stop, and keep the newest average: the published method with a fixed number of iterations."""

    name: ClassVar[str] = "none"

    def start(self, problem: Problem) -> tuple[None, Problem]:
        """There is nothing to remember."""
        return None, problem

    def judge(self, step: Step, state: None) -> tuple[Verdict, None]:  # noqa: ARG002 - the newest is the best
        """Keep."""
        return Verdict(keep=True), state


@dataclass(frozen=True)
class Ending(Rule):
    """Leave to a rule what to keep, and to a function when to end.

    Attributes:
        rule: the rule.
        end: from the step and the rule's own reason to stop, or None, to the reason that holds, or None.
        heeds: whether the rule's own reason counts.
    """

    rule: Rule
    end: Callable[[Step, str | None], str | None]
    heeds_rule: bool = True

    def start(self, problem: Problem) -> tuple[Any, Problem]:
        """What the rule starts with."""
        return self.rule.start(problem)

    def judge(self, step: Step, state: Any) -> tuple[Verdict, Any]:
        """The rule's verdict with another end."""
        verdict, state = self.rule.judge(step, state)
        if not self.heeds_rule:
            verdict = replace(verdict, patience_left=None, threshold=None)
        return replace(verdict, stop=self.end(step, verdict.stop)), state

    def with_noise_level(self, level: float) -> Ending:
        """The same for the inner rule."""
        return replace(self, rule=self.rule.with_noise_level(level)) if isinstance(self.rule, Rule) else self

    def resolve(self, problem: Problem) -> Ending:
        """The same for the inner rule."""
        return replace(self, rule=self.rule.resolve(problem)) if isinstance(self.rule, Rule) else self

    def describe(self, problem: Problem) -> str:
        """The inner rule's description."""
        return self.rule.describe(problem) if isinstance(self.rule, Rule) else f"rule {self.rule}"


def exactly(rule: Rule, iterations: int) -> Rule:
    """Run so many iterations, whatever the rule says of stopping; what is kept stays its matter."""
    reason = f"the {iterations} iterations asked for are done"
    return Ending(rule, lambda step, _: reason if step.number >= iterations else None, heeds_rule=False)


def at_most(rule: Rule, iterations: int) -> Rule:
    """Let the rule decide, but not for ever."""
    reason = f"the limit of {iterations} iterations is reached (--max-iters)"
    return Ending(rule, lambda step, own: own or (reason if step.number >= iterations else None))


def unless(rule: Rule, asked: Callable[[], str | None]) -> Rule:
    """Let the rule decide unless somebody asks for the run to end: `asked` answers why, or None."""
    return Ending(rule, lambda _, own: asked() or own)
