"""JAX's debugging modes: fits of finite data make no NaN on their way, and mix no dtypes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import SOLVERS, blobs

from jaxmix import as_data, gmm, kmeans, metrics, rows, seeding, solve, sweep
from jaxmix.kmeans import exact

N, K = 12, 2
KEY = jax.random.key(0)
X = blobs(N, 2, 3).astype(np.float32)
LABELS = np.arange(N) % K
FEW: Any = {"restarts": 2, "max_steps": 4}
PROBLEMS = {"K-means": kmeans.KMeans(), "mixture": gmm.GaussianMixture()}
FAMILIES = (gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical)


def mixture(log_weights):
    return gmm.start.from_labels(LABELS, X, K)._replace(log_weights=jnp.array(log_weights, jnp.float32))


def fit(problem, **options):
    return gmm.fit(KEY, X, K, problem=problem, **FEW, **options)


def of_mixtures(function):
    def each():
        return [function(mixture(log_weights)) for log_weights in (np.log([0.5, 0.5]), [0.0, -np.inf])]

    return each


CASES = {
    **{
        f"{problem}, {name}": lambda problem=problem, case=case: solve.run(
            PROBLEMS[problem],
            case.solver,
            X[:K] if problem == "K-means" else mixture(np.log([0.5, 0.5])),
            X,
            max_steps=4,
        )
        for problem in PROBLEMS
        for name, case in SOLVERS.items()
    },
    "kmeans.fit": lambda: kmeans.fit(KEY, X, 3, num_active=2, **FEW),
    "chunks": lambda: kmeans.fit(KEY, X, K, problem=rows.Chunked(kmeans.KMeans(), 5), **FEW),
    "gmm.fit": lambda: gmm.fit(KEY, X, K, num_active=1, **FEW),
    **{family.__name__: lambda family=family: gmm.fit(KEY, X, K, family=family, **FEW) for family in FAMILIES},
    "prior": lambda: fit(gmm.GaussianMixture(prior=gmm.fraley_raftery(X, K))),
    "classification EM": lambda: fit(gmm.GaussianMixture(posterior=gmm.Hard())),
    "annealing": lambda: fit(gmm.GaussianMixture(posterior=gmm.Tempered(0.5))),
    **{
        seed.__name__: lambda seed=seed: seed(KEY, as_data(X, LABELS), K)
        for seed in (seeding.random_rows, seeding.kmeans_plus_plus, seeding.kmeans_parallel, seeding.maximin)
    },
    "exact.fit_1d": lambda: exact.fit_1d(X[:, 0], K),
    "exact.brute_force": lambda: exact.brute_force(X[:6], K),
    "kmeans.lower_bound": lambda: kmeans.lower_bound(X, K),
    "sweep": lambda: sweep.mixtures(KEY, X, [1, 2], families=[gmm.Spherical], **FEW),
    "metrics": lambda: (
        metrics.adjusted_rand_index(LABELS, LABELS[::-1].copy()),
        metrics.normalized_mutual_information(LABELS, LABELS[::-1].copy()),
        metrics.silhouette(X, LABELS, K),
        metrics.match(X[:3], X[2::-1]),
    ),
    "densities": of_mixtures(lambda m: (gmm.log_prob(m, X), gmm.responsibilities(m, X), gmm.predict(m, X))),
    "criteria": of_mixtures(lambda m: (metrics.aic(m, X), metrics.bic(m, X), metrics.icl(m, X))),
    "elbo": of_mixtures(lambda m: gmm.elbo(m, X, gmm.responsibilities(m, X))),
    "draws": of_mixtures(lambda m: (gmm.sample(KEY, m, 4), gmm.conditional(m, [0], [0.5]), gmm.marginal(m, [1]))),
}
QUICK = {
    "K-means, em", "K-means, adam", "K-means, lbfgs", "K-means, stepwise", "mixture, em", "mixture, lbfgs", "prior",
    "kmeans.fit", "kmeans_plus_plus", "metrics", "densities", "criteria", "elbo",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in CASES]
)
def test_no_nan_arises_and_no_dtypes_are_mixed(name):
    with jax.debug_nans(True), jax.numpy_dtype_promotion("strict"):
        jax.block_until_ready(CASES[name]())


def test_an_optimizer_that_mixes_dtypes_itself_is_allowed_to():
    with jax.numpy_dtype_promotion("strict"):
        fit = solve.run(kmeans.KMeans(), solve.Gradient(0.05, optax.adam), X[:K], X, max_steps=2)
    assert fit.num_steps == 2


def test_entropy_of_certain_responsibilities_makes_no_nan():
    with jax.debug_nans(True):
        assert gmm.entropy(jnp.eye(2)) == 0
