"""K-means and Gaussian mixtures in JAX: E-steps, M-steps and objectives, fitted by interchangeable solvers."""

from jaxmix import datasets, gmm, interop, io, kmeans, linalg, metrics, rows, seeding, solve, sweep, types
from jaxmix.door import as_data
from jaxmix.types import Data, Fit, FitError, Problem, Solver, Status

__version__ = "0.1.0"

__all__ = [
    "Data",
    "Fit",
    "FitError",
    "Problem",
    "Solver",
    "Status",
    "as_data",
    "datasets",
    "gmm",
    "interop",
    "io",
    "kmeans",
    "linalg",
    "metrics",
    "rows",
    "seeding",
    "solve",
    "sweep",
    "types",
]
