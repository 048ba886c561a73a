"""The tables of the suite: what every problem and every solver must pass. A new one is one row here."""

import re
import sys
import types as types_module
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmix import Data, as_data, gmm, kmeans, rows, solve, types


def from_docs(page: str, name: str) -> Any:
    """A class that a page of the docs shows: what the docs claim of it is what the tables test."""
    text = (Path(__file__).parent.parent / "docs" / page).read_text()
    (block,) = [b for b in re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S) if f"class {name}" in b]
    # Dataclasses look their module up by name.
    module = types_module.ModuleType(f"docs_{name}")
    sys.modules[module.__name__] = module
    exec(compile(block, page, "exec"), module.__dict__)
    return module


POISSON = from_docs("extend.md", "PoissonMixture")


class ProblemCase(NamedTuple):
    problem: Any
    data: Data
    starts: Any  # leading axis R = 3


def blobs(num_rows: int, num_features: int, k: int, *, seed: int = 0, spread: float = 6.0) -> np.ndarray:
    """Unit Gaussian clusters whose centers are drawn with standard deviation `spread`."""
    random = np.random.default_rng(seed)
    centers = spread * random.normal(size=(k, num_features))
    return centers[np.arange(num_rows) % k] + random.normal(size=(num_rows, num_features))


def _kmeans_case(problem: Any) -> ProblemCase:
    x = blobs(60, 2, 3)
    starts = np.stack([x[[0, 1, 2]], x[[3, 6, 9]], x[[4, 5, 7]]])
    return ProblemCase(problem, as_data(x, 1.0 + np.arange(60) % 2), jnp.asarray(starts))


def _poisson_case() -> ProblemCase:
    # Deaths a day in London, 1910-1912 (Hasselblad 1969, table 2).
    data = as_data(np.arange(10.0)[:, None], np.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1]))
    rates = jnp.log(jnp.array([[1.0, 3.0], [0.5, 2.5], [2.0, 4.0]]))
    return ProblemCase(POISSON.PoissonMixture(), data, POISSON.PoissonParams(jnp.zeros((3, 2)), rates[:, :, None]))


def _gmm_case(family: type[gmm.Covariance], *, is_map: bool = False) -> ProblemCase:
    x = blobs(60, 2, 2, spread=2.0)
    data = as_data(x, 1.0 + np.arange(60) % 2)
    problem = gmm.GaussianMixture(prior=gmm.fraley_raftery(data, 2, family=family)) if is_map else EXACT
    labels = np.stack([np.arange(60) // 20 % 2, x[:, 0] > np.median(x[:, 0]), np.arange(60) // 10 % 2])
    starts = [gmm.start.from_labels(z.astype(int), data, 2, family=family, problem=problem) for z in labels]
    return ProblemCase(problem, data, jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts))


# Nothing added to the covariances: the M-step maximises the bound, and the loss never rises.
EXACT = gmm.GaussianMixture(regularization=0.0)

PROBLEMS: dict[str, Callable[[], ProblemCase]] = {
    "kmeans": lambda: _kmeans_case(kmeans.KMeans()),
    "kmeans_keep": lambda: _kmeans_case(kmeans.KMeans(empty="keep")),
    "kmeans_chunked": lambda: _kmeans_case(rows.Chunked(kmeans.KMeans(), 17)),
    "poisson_mixture": _poisson_case,
    "gmm_full": lambda: _gmm_case(gmm.Full),
    "gmm_map": lambda: _gmm_case(gmm.TiedDiagonal, is_map=True),
}


class SolverCase(NamedTuple):
    solver: types.Solver
    monotone: bool
    max_steps: int
    gap: float  # how far above EM's loss it may end from the same start, relative


SOLVERS: dict[str, SolverCase] = {
    "em": SolverCase(solve.EM(), True, 200, 0.0),
    "over_relaxed": SolverCase(solve.OverRelaxed(), True, 200, 1e-6),
    "squarem": SolverCase(solve.Squarem(), True, 60, 1e-6),
    "anderson": SolverCase(solve.Anderson(), True, 150, 1e-6),
    "lbfgs": SolverCase(solve.LBFGS(), True, 60, 1e-6),
    "stepwise": SolverCase(solve.Stepwise(7, jax.random.key(4)), False, 60, 1e-2),
    "gradient_descent": SolverCase(solve.Gradient(0.3, optax.sgd), False, 200, 1e-3),
    "adam": SolverCase(solve.Gradient(0.1, optax.adam), False, 200, 1e-2),
    "stochastic": SolverCase(solve.Gradient(0.05, optax.sgd, batch_size=7, key=jax.random.key(5)), False, 150, 2e-2),
}
