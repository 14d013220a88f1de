"""The inverse problem: measurement, forward operators, data terms, and estimates of the noise."""

from dipcli.problem.problem import Guide, Operator, Problem, identity

__all__ = ["Guide", "Operator", "Problem", "identity"]
