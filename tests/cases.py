"""The tables of the suite: what every problem and every solver must pass. A new one is one row here."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxmix import Data, as_data, kmeans, rows, solve, types


class PoissonStats(NamedTuple):
    loss: Array
    counts: Array
    sums: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PoissonMixture:
    """A mixture of Poisson counts, as a user would write it: params are {"logits": (K,), "log_rates": (K,)}."""

    def log_joint(self, params, x):
        log_rates = params["log_rates"][None]
        log_mass = x * log_rates - jnp.exp(log_rates) - jax.lax.lgamma(x + 1)
        return jax.nn.log_softmax(params["logits"])[None] + log_mass

    def e_step(self, params, data):
        log_joint = self.log_joint(params, data.x)
        responsibilities = data.weights[:, None] * jax.nn.softmax(log_joint, axis=1)
        return PoissonStats(
            loss=-jnp.sum(data.weights * jax.nn.logsumexp(log_joint, axis=1)),
            counts=jnp.sum(responsibilities, axis=0),
            sums=jnp.sum(responsibilities * data.x, axis=0),
        )

    def m_step(self, stats, params):
        return {"logits": jnp.log(stats.counts), "log_rates": jnp.log(stats.sums / stats.counts)}

    def loss(self, params, data):
        return -jnp.sum(data.weights * jax.nn.logsumexp(self.log_joint(params, data.x), axis=1))

    def unconstrain(self, params):
        return params

    def constrain(self, free):
        return free


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
    return ProblemCase(PoissonMixture(), data, {"logits": jnp.zeros((3, 2)), "log_rates": rates})


PROBLEMS: dict[str, Callable[[], ProblemCase]] = {
    "kmeans": lambda: _kmeans_case(kmeans.KMeans()),
    "kmeans_keep": lambda: _kmeans_case(kmeans.KMeans(empty="keep")),
    "kmeans_chunked": lambda: _kmeans_case(rows.Chunked(kmeans.KMeans(), 17)),
    "poisson_mixture": _poisson_case,
}


class SolverCase(NamedTuple):
    solver: types.Solver
    monotone: bool
    max_steps: int
    gap: float  # how far above EM's loss it may end from the same start, relative


SOLVERS: dict[str, SolverCase] = {
    "em": SolverCase(solve.EM(), True, 200, 0.0),
    "gradient_descent": SolverCase(solve.Gradient(0.3, optax.sgd), False, 200, 1e-3),
    "adam": SolverCase(solve.Gradient(0.1, optax.adam), False, 200, 1e-2),
    "stochastic": SolverCase(solve.Gradient(0.02, optax.sgd, batch_size=7, key=jax.random.key(5)), False, 100, 2e-2),
}
