"""The interface of a stopping rule, the rule that never stops, and limits put on a rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from dipcli.problem import Problem

if TYPE_CHECKING:
    from dipcli.stopping.step import Step


@dataclass(frozen=True)
class Verdict:
    """A rule's verdict on one iteration.

    Attributes:
        keep: whether one of this iteration's averages is the best so far.
        stop: why the run should end now, as a sentence; None to continue.
        criterion: name and value of the number the rule minimises, for display and log; None if it is not known.
        average_index: index in `Step.averages` of the average to keep.
        patience_left: iterations without improvement until the rule stops; None if the rule has no patience.
        threshold: value of the criterion at which the rule stops; None if there is none.
    """

    keep: bool = False
    stop: str | None = None
    criterion: tuple[str, float] | None = None
    average_index: int = 0
    patience_left: int | None = None
    threshold: float | None = None


class Rule(ABC):
    """A stopping rule: when to stop, and which average to keep.

    A rule is a frozen dataclass; its fields are the parameters of `--stop name:key=value`. Its state belongs to the
    run. It is written to checkpoints, so it may hold only:

    - tensors, int, float, bool, str and None;
    - lists, tuples, dicts and frozen dataclasses of these, of exactly the classes that the state has at the start;
    - the `Problem` given to `start`, which is not written but taken from a fresh start.

    `check_state` refuses everything else when a fit starts.

    Attributes:
        name: the name for `--stop`; empty for a rule that cannot be chosen by name.
        summary: what the rule minimises, in a few words, for the help of `--stop`.
        criterion_label: label of the criterion in the charts of the report, with its unit.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    criterion_label: ClassVar[str] = ""

    @abstractmethod
    def start(self, problem: Problem) -> tuple[Any, Problem]:
        """Return a fresh state and the problem to fit, which may have pixels held out."""

    @abstractmethod
    def judge(self, step: Step, state: Any) -> tuple[Verdict, Any]:
        """Return the verdict on one iteration and the next state."""

    def with_noise_level(self, level: float) -> Rule:  # noqa: ARG002 - most rules need no noise level
        """Use a noise level on the 0-255 scale (`--sigma`) where the rule has none of its own; 0 is unknown."""
        return self

    def resolve(self, problem: Problem) -> Rule:  # noqa: ARG002 - most rules do not depend on the image
        """Make all decisions that depend on the whole image, so that every tile is judged by the same criterion."""
        return self

    def describe(self, problem: Problem) -> str:  # noqa: ARG002
        """Return the rule in a few words, with the reason where it depends on the image."""
        return f"rule {self.name or self}"


def check_state(state: Any) -> None:
    """Check that a rule's state can be written to a checkpoint.

    Raises:
        TypeError: naming the first type that `Rule` does not list.
    """
    from torch import Tensor  # importing torch takes seconds; the command line needs the rules without it

    kind = type(state)
    if state is None or kind in (bool, int, float, str) or isinstance(state, Tensor | Problem):
        return
    if kind is dict:
        parts = [*state.keys(), *state.values()]
    elif kind in (list, tuple):
        parts = list(state)
    elif getattr(getattr(state, "__dataclass_params__", None), "frozen", False) and not isinstance(state, type):
        parts = [getattr(state, field.name) for field in fields(state)]
    else:
        raise TypeError(
            f"The state of a stopping rule cannot hold a {kind.__name__}: use tensors, numbers, strings, None, lists, "
            "tuples, dicts, frozen dataclasses or the Problem."
        )
    for part in parts:
        check_state(part)


@dataclass(frozen=True)
class Never(Rule):
    """Never stop, and keep the last average: the published method with a fixed number of iterations."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "the last average"

    def start(self, problem: Problem) -> tuple[None, Problem]:
        """Return no state and the whole problem."""
        return None, problem

    def judge(self, step: Step, state: None) -> tuple[Verdict, None]:  # noqa: ARG002 - every average is kept
        """Keep the average."""
        return Verdict(keep=True), state


@dataclass(frozen=True)
class Ending(Rule):
    """Let a rule decide what to keep and a function when to end.

    Attributes:
        rule: the rule.
        end: maps the step and the rule's own reason to stop (or None) to the final reason (or None).
        heeds_rule: whether the rule's own reason counts.
    """

    rule: Rule
    end: Callable[[Step, str | None], str | None]
    heeds_rule: bool = True

    def start(self, problem: Problem) -> tuple[Any, Problem]:
        """Start the inner rule."""
        return self.rule.start(problem)

    def judge(self, step: Step, state: Any) -> tuple[Verdict, Any]:
        """Return the inner rule's verdict with the reason to stop replaced."""
        verdict, state = self.rule.judge(step, state)
        if not self.heeds_rule:
            verdict = replace(verdict, patience_left=None, threshold=None)
        return replace(verdict, stop=self.end(step, verdict.stop)), state

    def with_noise_level(self, level: float) -> Ending:
        """Pass the noise level to the inner rule."""
        return replace(self, rule=self.rule.with_noise_level(level)) if isinstance(self.rule, Rule) else self

    def resolve(self, problem: Problem) -> Ending:
        """Resolve the inner rule."""
        return replace(self, rule=self.rule.resolve(problem)) if isinstance(self.rule, Rule) else self

    def describe(self, problem: Problem) -> str:
        """Describe the inner rule."""
        return self.rule.describe(problem) if isinstance(self.rule, Rule) else f"rule {self.rule}"


def exactly(rule: Rule, iterations: int) -> Rule:
    """Run exactly this many iterations; the rule only decides what to keep."""
    reason = f"the {iterations} iterations asked for are done"
    return Ending(rule, lambda step, _: reason if step.number >= iterations else None, heeds_rule=False)


def at_most(rule: Rule, iterations: int) -> Rule:
    """Let the rule decide, up to this many iterations."""
    reason = f"the limit of {iterations} iterations is reached (--max-iters)"
    return Ending(rule, lambda step, own: own or (reason if step.number >= iterations else None))


def unless(rule: Rule, asked: Callable[[], str | None]) -> Rule:
    """Let the rule decide unless `asked` returns a reason to end the run."""
    return Ending(rule, lambda _, own: asked() or own)
