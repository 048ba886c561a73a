"""Solvers: what an algorithm gives. They know `Problem`, and no model."""

from jaxmix.solve.em import EM
from jaxmix.solve.gradient import Gradient
from jaxmix.solve.run import best, objective, run, run_many
from jaxmix.types import Status

__all__ = ["EM", "Gradient", "Status", "best", "objective", "run", "run_many"]
