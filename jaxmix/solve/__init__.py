"""Solvers, and the functions that run them on any problem."""

from jaxmix.solve.anderson import Anderson
from jaxmix.solve.em import EM
from jaxmix.solve.lbfgs import LBFGS
from jaxmix.solve.optax import Optax
from jaxmix.solve.over_relaxed import OverRelaxed
from jaxmix.solve.run import best, make_objective, objective, run, run_many
from jaxmix.solve.segments import Report
from jaxmix.solve.squarem import Squarem
from jaxmix.solve.stepwise import Stepwise
from jaxmix.solver import Status

__all__ = [
    "EM",
    "LBFGS",
    "Anderson",
    "Optax",
    "OverRelaxed",
    "Report",
    "Squarem",
    "Status",
    "Stepwise",
    "best",
    "make_objective",
    "objective",
    "run",
    "run_many",
]
