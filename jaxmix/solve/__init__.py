"""Solvers: what an algorithm gives. They know `Problem`, and no model."""

from jaxmix.solve.accelerate import Anderson, Squarem
from jaxmix.solve.em import EM, OverRelaxed
from jaxmix.solve.gradient import Gradient
from jaxmix.solve.lbfgs import LBFGS
from jaxmix.solve.loop import objective
from jaxmix.solve.run import best, run, run_many
from jaxmix.solve.stepwise import Stepwise
from jaxmix.types import Status

__all__ = [
    "EM",
    "LBFGS",
    "Anderson",
    "Gradient",
    "OverRelaxed",
    "Squarem",
    "Status",
    "Stepwise",
    "best",
    "objective",
    "run",
    "run_many",
]
