"""The inverse problem: what was measured, the forward operator, the data term, and what is known of the noise."""

from dipcli.problem.problem import Guide, Operator, Problem, identity

__all__ = ["Guide", "Operator", "Problem", "identity"]
