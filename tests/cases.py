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
from models import FullMixture, PoissonMixture, PoissonParams, mixture_of_labels

from jaxmix import Blocks, Data, Problem, Solver, as_data, gmm, kmeans, mixture, solve


def from_docs(page: str, name: str) -> Any:
    """The module of the block of a page of the docs that defines a class: what the docs claim is what is tested."""
    text = (Path(__file__).parent.parent / "docs" / page).read_text()
    (block,) = [b for b in re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S) if f"class {name}" in b]
    # Dataclasses look their module up by name.
    module = types_module.ModuleType(f"docs_{name}")
    sys.modules[module.__name__] = module
    exec(compile(block, page, "exec"), module.__dict__)
    return module


LINES, DAMPED = from_docs("extend.md", "LineMixture"), from_docs("extend.md", "Damped")


class ProblemCase(NamedTuple):
    problem: Problem
    data: Data
    starts: Any  # leading axis R = 3
    reduce: Blocks = Blocks()

    @property
    def start(self) -> Any:
        """The first start."""
        return jax.tree.map(lambda leaf: leaf[0], self.starts)

    def objective(self, reduce: Blocks | None = None) -> Any:
        """The objective in the caller's units."""
        return solve.make_objective(self.problem, self.start, self.data, reduce=reduce or self.reduce)


def blobs(num_rows: int, num_features: int, k: int, *, seed: int = 0, spread: float = 6.0) -> np.ndarray:
    """Unit Gaussian clusters whose centers are drawn with standard deviation `spread`."""
    random = np.random.default_rng(seed)
    centers = spread * random.normal(size=(k, num_features))
    return centers[np.arange(num_rows) % k] + random.normal(size=(num_rows, num_features))


def _kmeans_case(problem: Problem, reduce: Blocks = Blocks()) -> ProblemCase:
    x = blobs(60, 2, 3)
    starts = np.stack([x[[0, 1, 2]], x[[3, 6, 9]], x[[4, 5, 7]]])
    return ProblemCase(problem, as_data(x, 1.0 + np.arange(60) % 2), jnp.asarray(starts), reduce)


def _poisson_case() -> ProblemCase:
    # Deaths a day in London, 1910-1912 (Hasselblad 1969, table 2).
    data = as_data(np.arange(10.0)[:, None], np.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1]))
    rates = jnp.log(jnp.array([[1.0, 3.0], [0.5, 2.5], [2.0, 4.0]]))
    return ProblemCase(PoissonMixture(), data, PoissonParams(jnp.zeros((3, 2)), rates[:, :, None]))


def _mixture_case(problem: FullMixture, spread: float, reduce: Blocks = Blocks()) -> ProblemCase:
    x = blobs(60, 2, 2, spread=spread)
    data = as_data(x, 1.0 + np.arange(60) % 2)
    labels = np.stack([np.arange(60) // 20 % 2, x[:, 0] > np.median(x[:, 0]), np.arange(60) // 10 % 2]).astype(int)
    starts = [mixture_of_labels(row, data, 2, problem) for row in labels]
    return ProblemCase(problem, data, jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts), reduce)


def _lines_case() -> ProblemCase:
    random = np.random.default_rng(0)
    x = random.uniform(-1.5, 1.5, 60)
    y = np.where(random.random(60) < 0.4, 3.0, -3.0) * x + 0.7 * random.normal(size=60)
    coefficients = [[[0.0, 2.0], [0.0, -2.0]], [[1.0, 1.0], [-1.0, -1.0]], [[0.5, 3.0], [-0.5, -1.0]]]
    starts = LINES.Lines(jnp.zeros((3, 2)), jnp.array(coefficients), jnp.zeros((3, 2)))
    return ProblemCase(LINES.LineMixture(), as_data(np.stack([x, y], axis=1), 1.0 + np.arange(60) % 2), starts)


def _library_poisson_case() -> ProblemCase:
    plain = _poisson_case()
    weights = jnp.full((3, 2), -jnp.log(2.0))
    starts = mixture.Mixture(weights, mixture.Rates(jnp.exp(plain.starts.log_rates)))
    return ProblemCase(mixture.MixtureModel(mixture.Poisson()), plain.data, starts)


def _gmm_case(family: type[gmm.Covariance], *, is_map: bool = False) -> ProblemCase:
    x = blobs(60, 2, 2, spread=2.0)
    data = as_data(x, 1.0 + np.arange(60) % 2)
    prior = gmm.fraley_raftery(data, 2, covariance=family) if is_map else None
    problem = gmm.GaussianMixture(family, prior, regularization=0.0)
    labels = np.stack([np.arange(60) // 20 % 2, x[:, 0] > np.median(x[:, 0]), np.arange(60) // 10 % 2])
    starts = [gmm.start.from_labels(z.astype(int), data, 2, problem=problem) for z in labels]
    return ProblemCase(problem, data, jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts))


PLAIN = FullMixture()

# Nothing added to the covariances: the M-step maximizes the bound, and the loss never rises.
EXACT = gmm.GaussianMixture(regularization=0.0)

PROBLEMS: dict[str, Callable[[], ProblemCase]] = {
    "kmeans": lambda: _kmeans_case(kmeans.KMeans()),
    "kmeans_keep": lambda: _kmeans_case(kmeans.KMeans(empty="keep")),
    "kmeans_blocks": lambda: _kmeans_case(kmeans.KMeans(), Blocks(17)),
    "poisson_mixture": _poisson_case,
    "poisson": _library_poisson_case,
    "gmm_full": lambda: _gmm_case(gmm.Full),
    "gmm_map": lambda: _gmm_case(gmm.TiedDiagonal, is_map=True),
    "lines": _lines_case,
    "plain_mixture": lambda: _mixture_case(PLAIN, 2.0),
    "plain_mixture_map": lambda: _mixture_case(FullMixture(20.0, 1.0), 8.0, Blocks(7)),
}


class SolverCase(NamedTuple):
    solver: Solver
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
    "gradient_descent": SolverCase(solve.Optax(optax.sgd, 0.3), False, 200, 1e-3),
    "adam": SolverCase(solve.Optax(optax.adam, 0.1), False, 200, 1e-2),
    "stochastic": SolverCase(solve.Optax(optax.sgd, 0.05, batch_size=7, key=jax.random.key(5)), False, 150, 2e-2),
}
