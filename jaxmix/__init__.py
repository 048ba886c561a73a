"""K-means and mixture models in JAX: E-steps, M-steps and objectives, fitted by interchangeable solvers."""

from typing import TYPE_CHECKING, Any

from jaxmix import datasets, gmm, interop, io, kmeans, linalg, metrics, mixture, pytree, seeding, solve, sweep
from jaxmix.checkpoint import Checkpoint
from jaxmix.data import Data, Rows
from jaxmix.fitting import fit, fit_restarts
from jaxmix.hosts import as_distributed
from jaxmix.problem import Problem
from jaxmix.reduction import Blocks
from jaxmix.sharding import Sharded
from jaxmix.solver import Fit, Objective, Progress, Solver
from jaxmix.status import FitError, Status
from jaxmix.streams import Stream
from jaxmix.subsampling import Subsample
from jaxmix.validation import as_data

__version__ = "0.1.0"

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        hint = ""
        if name == "plot":
            hint = ". It is not imported with jaxmix: write `from jaxmix import plot` (pip install 'jaxmix[plot]')"
        raise AttributeError(f"module 'jaxmix' has no attribute {name!r}{hint}")


__all__ = [
    "Blocks",
    "Checkpoint",
    "Data",
    "Fit",
    "FitError",
    "Objective",
    "Problem",
    "Progress",
    "Rows",
    "Sharded",
    "Solver",
    "Status",
    "Stream",
    "Subsample",
    "as_data",
    "as_distributed",
    "datasets",
    "fit",
    "fit_restarts",
    "gmm",
    "interop",
    "io",
    "kmeans",
    "linalg",
    "metrics",
    "mixture",
    "pytree",
    "seeding",
    "solve",
    "sweep",
]
