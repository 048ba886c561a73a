"""A second call of a public function, with other values of the same shapes, compiles nothing."""

import re
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
import test_api
from cases import blobs
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

import jaxmix
from jaxmix import datasets, gmm, interop, io, kmeans, linalg, merging, metrics, plot, reduction, seeding, solve, sweep
from jaxmix.reduction import Footprint
from tests.compiles import compiled

N, D, K = 24, 2, 2
FEW: Any = {"restarts": 2, "max_steps": 3}
KMEANS, EM = kmeans.KMeans(), solve.EM()


class Given:
    """Arguments of the same shapes, whose values come from a seed."""

    def __init__(self, seed: int):
        random = np.random.default_rng(seed)
        self.key = jax.random.key(seed)
        self.rate = 0.1 + 0.01 * seed
        self.x = blobs(N, D, K) + random.random((N, D))
        self.weights = 1 + random.random(N)
        self.labels = random.permutation(np.arange(N) % K)
        self.resp = random.dirichlet(np.ones(K), N)
        self.centers = self.x[:K]
        self.factors = jnp.asarray(np.eye(D) * (1 + random.random((K, 1, 1))))
        self.weighted: Any = {"x": self.x, "weights": self.weights}
        self.matrices = np.asarray(self.factors) @ np.swapaxes(self.factors, 1, 2)
        self.tolerances = {"rtol": 1e-9 * seed, "atol": 1e-9 * seed}

    @property
    def data(self):
        return jaxmix.as_data(self.x, self.weights)

    @property
    def params(self):
        return gmm.mixture([self.rate, 1 - self.rate], self.centers, self.matrices)

    @property
    def objective(self):
        return solve.make_objective(KMEANS, self.centers, self.data)

    @property
    def fits(self):
        return kmeans.fit_restarts(self.key, self.x, K, **FEW)

    @property
    def rows(self):
        return reduction.cut(jnp.asarray(self.x), jnp.asarray(self.weights), 10)

    @property
    def swept(self):
        return sweep.grid(_fit, {"key": jax.random.split(self.key, 2), "rate": jnp.full(3, self.rate)})


def _fit(key, rate):
    return kmeans.fit(key, X, K, rtol=rate, **FEW)


def _spread(fit):
    return jnp.ptp(fit.params)


X = blobs(N, D, K)


def _drawn(draw):
    figure, axes = plt.subplots()
    draw(axes)
    plt.close(figure)


def _saved(value):
    with tempfile.TemporaryDirectory() as folder:
        io.save(Path(folder) / "saved.safetensors", value)
        return io.load(Path(folder) / "saved.safetensors")


# A name, and for some a variant behind a comma.
CALLS: dict[str, Any] = {
    "fit": lambda g: jaxmix.fit(KMEANS, g.key, **g.weighted, k=K, **FEW, **g.tolerances),
    "fit_restarts": lambda g: jaxmix.fit_restarts(KMEANS, g.key, **g.weighted, k=K, **FEW, **g.tolerances),
    "as_data": lambda g: g.data,
    "as_distributed": lambda g: jaxmix.as_distributed(
        **g.weighted, mesh=jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    ),
    "kmeans.fit": lambda g: kmeans.fit(g.key, **g.weighted, k=K, **FEW, **g.tolerances),
    "kmeans.fit, centers": lambda g: kmeans.fit(g.key, g.x, K, init=g.centers, max_steps=3),
    "kmeans.fit_restarts": lambda g: g.fits,
    "kmeans.predict": lambda g: kmeans.predict(g.centers, g.x),
    "kmeans.update": lambda g: kmeans.update(g.centers, g.x, g.labels, weights=g.weights),
    "kmeans.objective": lambda g: kmeans.objective(g.centers, g.x, g.labels, weights=g.weights),
    "kmeans.reconstruct": lambda g: kmeans.reconstruct(g.centers, g.labels),
    "kmeans.lower_bound": lambda g: kmeans.lower_bound(g.x, K, weights=g.weights),
    "kmeans.e_step": lambda g: kmeans.e_step(g.centers, **g.weighted),
    "kmeans.m_step": lambda g: kmeans.m_step(kmeans.e_step(g.centers, **g.weighted), g.centers),
    "kmeans.recenter": lambda g: kmeans.recenter(kmeans.e_step(g.centers, g.x), g.centers, g.centers + g.rate),
    "kmeans.exact.fit_1d": lambda g: kmeans.exact.fit_1d(g.x[:, 0], K, weights=g.weights),
    "kmeans.exact.brute_force": lambda g: kmeans.exact.brute_force(g.x[:5], K, weights=g.weights[:5]),
    "gmm.fit": lambda g: gmm.fit(g.key, **g.weighted, k=K, regularization=g.rate, **FEW, **g.tolerances),
    "gmm.fit, a prior": lambda g: gmm.fit(g.key, g.x, K, prior=gmm.fraley_raftery(g.x, K), **FEW),
    "gmm.fit, a weak prior": lambda g: gmm.fit(g.key, g.x, K, prior=gmm.weak_prior(g.x, strength=g.rate), **FEW),
    "gmm.fit, a mixture": lambda g: gmm.fit(None, g.x, K, init=g.params, max_steps=3),
    "gmm.fit_restarts": lambda g: gmm.fit_restarts(g.key, **g.weighted, k=K, covariance=gmm.Diagonal, **FEW),
    "gmm.mixture": lambda g: g.params,
    "gmm.GaussianMixture": lambda g: gmm.GaussianMixture(regularization=g.rate),
    "gmm.log_joint": lambda g: gmm.log_joint(g.params, g.x),
    "gmm.log_prob": lambda g: gmm.log_prob(g.params, g.x),
    "gmm.log_likelihood": lambda g: gmm.log_likelihood(g.params, g.x, weights=g.weights),
    "gmm.responsibilities": lambda g: gmm.responsibilities(g.params, g.x),
    "gmm.predict": lambda g: gmm.predict(g.params, g.x),
    "gmm.sample": lambda g: gmm.sample(g.key, g.params, N),
    "gmm.marginal": lambda g: gmm.marginal(g.params, [1]),
    "gmm.conditional": lambda g: gmm.conditional(g.params, [1], g.x[0, :1]),
    "gmm.complete_log_likelihood": lambda g: gmm.complete_log_likelihood(g.params, g.x, g.labels),
    "gmm.expected_complete_log_likelihood": lambda g: gmm.expected_complete_log_likelihood(g.params, g.x, g.resp),
    "gmm.elbo": lambda g: gmm.elbo(g.params, g.x, g.resp, weights=g.weights),
    "gmm.entropy": lambda g: gmm.entropy(g.resp, weights=g.weights),
    "gmm.e_step": lambda g: gmm.e_step(g.params, **g.weighted),
    "gmm.m_step": lambda g: gmm.m_step(gmm.e_step(g.params, g.x), g.params, regularization=g.rate),
    "gmm.recenter": lambda g: gmm.recenter(gmm.e_step(g.params, g.x), g.params, g.params),
    "gmm.start.from_centers": lambda g: gmm.start.from_centers(g.centers, **g.weighted),
    "gmm.start.from_labels": lambda g: gmm.start.from_labels(g.labels, **g.weighted, k=K),
    "gmm.start.from_responsibilities": lambda g: gmm.start.from_responsibilities(g.resp, **g.weighted),
    "gmm.noise_floor": lambda g: gmm.noise_floor(**g.weighted),
    "gmm.weak_prior": lambda g: gmm.weak_prior(**g.weighted, strength=g.rate),
    "gmm.fraley_raftery": lambda g: gmm.fraley_raftery(**g.weighted, k=K),
    "solve.run": lambda g: solve.run(KMEANS, EM, g.centers, g.data, max_steps=3, **g.tolerances),
    "solve.run, Optax": lambda g: solve.run(KMEANS, solve.Optax(optax.adam, g.rate), g.centers, g.x, max_steps=3),
    "solve.run_many": lambda g: solve.run_many(KMEANS, EM, g.x.reshape(-1, K, D), g.data, max_steps=3, **g.tolerances),
    "solve.best": lambda g: solve.best(g.fits),
    "solve.objective": lambda g: solve.objective(KMEANS, g.centers, g.data),
    "solve.make_objective": lambda g: g.objective,
    "Objective.stats": lambda g: g.objective.stats(g.centers),
    "Objective.em_step": lambda g: g.objective.em_step(g.centers),
    "Objective.value_and_grad": lambda g: g.objective.value_and_grad(g.centers, g.centers),
    "seeding.kmeans_plus_plus": lambda g: seeding.kmeans_plus_plus(g.key, g.data, K),
    "seeding.kmeans_parallel": lambda g: seeding.kmeans_parallel(g.key, g.data, K),
    "seeding.random_rows": lambda g: seeding.random_rows(g.key, g.data, K),
    "seeding.maximin": lambda g: seeding.maximin(g.key, g.data, K),
    "seeding.starts": lambda g: seeding.starts(g.key, g.data, K, restarts=2, num_active=1),
    "sweep.grid": lambda g: g.swept,
    "sweep.mixtures": lambda g: sweep.mixtures(
        g.key, **g.weighted, ks=[1, K], covariances=[gmm.Diagonal], regularizations=[g.rate], **FEW, **g.tolerances
    ),
    "sweep.Sweep.best": lambda g: g.swept.best("key").fits,
    "sweep.Sweep.at": lambda g: g.swept.at(key=1).fits,
    "sweep.Sweep.map": lambda g: g.swept.map(_spread),
    "sweep.Sweep.to_records": lambda g: g.swept.to_records(),
    "metrics.aic": lambda g: metrics.aic(g.params, g.x, weights=g.weights),
    "metrics.bic": lambda g: metrics.bic(g.params, g.x, weights=g.weights),
    "metrics.icl": lambda g: metrics.icl(g.params, g.x, weights=g.weights),
    "metrics.adjusted_rand_index": lambda g: metrics.adjusted_rand_index(g.labels, 1 - g.labels, weights=g.weights),
    "metrics.normalized_mutual_information": lambda g: metrics.normalized_mutual_information(g.labels, 1 - g.labels),
    "metrics.stability": lambda g: metrics.stability([g.labels, 1 - g.labels]),
    "metrics.silhouette": lambda g: metrics.silhouette(g.x, g.labels, K, weights=g.weights),
    "metrics.silhouette_samples": lambda g: metrics.silhouette_samples(g.x, g.labels, K, weights=g.weights),
    "metrics.match": lambda g: metrics.match(g.centers, g.centers[::-1]),
    "datasets.old_faithful": lambda g: datasets.old_faithful(),
    "datasets.separated_mixture": lambda g: datasets.separated_mixture(g.key, N, K, D, g.rate),
    "io.save": lambda g: _saved(g.fits),
    "io.load": lambda g: _saved(g.params),
    "plot.scatter": lambda g: _drawn(lambda ax: plot.scatter(ax, g.x, g.labels, g.centers)),
    "plot.ellipses": lambda g: _drawn(lambda ax: plot.ellipses(ax, g.params)),
    "plot.regions": lambda g: _drawn(lambda ax: plot.regions(ax, g.params, num=9)),
    "plot.responsibilities": lambda g: _drawn(lambda ax: plot.responsibilities(ax, g.x, g.resp)),
    "plot.trace": lambda g: _drawn(lambda ax: plot.trace(ax, g.fits)),
    "plot.criteria": lambda g: _drawn(lambda ax: plot.criteria(ax, [1, 2], {"BIC": [g.rate, 1.0]})),
    "plot.image": lambda g: _drawn(lambda ax: plot.image(ax, g.labels.reshape(4, -1), np.ones((K, 3)) * g.rate)),
    "interop.from_sklearn": lambda g: interop.from_sklearn(GaussianMixture(K, random_state=0).fit(g.x)),
    "interop.from_sklearn, K-means": lambda g: interop.from_sklearn(KMeans(K).fit(g.x)),
    "interop.to_sklearn": lambda g: interop.to_sklearn(g.params, g.x).means_,
    "merging.merge": lambda g: merging.merge(kmeans.e_step(g.centers, g.x), kmeans.e_step(g.centers, g.x)),
    "merging.in_pairs": lambda g: merging.in_pairs(jnp.asarray(g.weights[:8])),
    "reduction.cut": lambda g: g.rows,
    "reduction.flat": lambda g: reduction.flat(g.rows),
    "reduction.rows_per_block": lambda g: reduction.rows_per_block(N, D, Footprint(K), 8),
    "linalg.squared_distances": lambda g: linalg.squared_distances(jnp.asarray(g.x), jnp.asarray(g.centers)),
    "linalg.safe_divide": lambda g: linalg.safe_divide(jnp.asarray(g.weights), jnp.asarray(g.weights)),
    "linalg.weighted_sum": lambda g: linalg.weighted_sum(jnp.asarray(g.weights), jnp.asarray(g.weights)),
    "linalg.fill_absent": lambda g: linalg.fill_absent(jnp.asarray(g.x), jnp.asarray(g.weights)),
    "linalg.dot": lambda g: linalg.dot(jnp.asarray(g.x), jnp.asarray(g.centers).T),
    "linalg.cholesky": lambda g: linalg.cholesky(jnp.asarray(g.matrices)),
    "linalg.lower_factor": lambda g: linalg.lower_factor(g.factors),
    "linalg.pivoted_cholesky": lambda g: linalg.pivoted_cholesky(jnp.asarray(g.matrices)[0], 1e-9),
    "linalg.inverse_tril": lambda g: linalg.inverse_tril(g.factors),
}
EXEMPT = {
    "interop.to_numpyro": "numpyro is not a dependency",
    "merging.added": "is for compiled programs, of which the function that it takes is a part",
    "reduction.map_rows": "is for compiled programs, of which the function that it takes is a part",
    "pytree.choice": "makes a class, and computes nothing",
    "pytree.static": "makes a field, and computes nothing",
    "pytree.is_choice": "looks at a class, and computes nothing",
}


# As long to compile as others, and with little that is its own.
SLOW = {"gmm.fit, a weak prior"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else []) for n in CALLS])
def test_a_second_call_with_other_values_compiles_nothing(name):
    CALLS[name](Given(1))
    assert compiled(lambda: CALLS[name](Given(2))) == []


def test_every_public_function_is_called():
    functions = set(re.findall(r"^\.\. autofunction:: jaxmix\.(\S+)$", test_api.PAGE, flags=re.MULTILINE))
    called = {name.split(",")[0] for name in CALLS}
    assert functions - called == set(EXEMPT)
    assert not called & set(EXEMPT)


def test_compiling_is_seen():
    assert compiled(lambda: jax.jit(lambda x: x + 1.25)(jnp.ones(7)))


def test_another_function_of_a_grid_is_compiled_and_the_same_one_is_not():
    axes = {"rate": jnp.arange(3.0)}
    sweep.grid(lambda rate: 2 * rate, axes)
    assert compiled(lambda: sweep.grid(lambda rate: 3 * rate, axes).fits)
