"""Refilling an array after a call does not change the result of the call."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import blobs
from mixtures import replace

import jaxmix
from jaxmix import Data, as_data, gmm, interop, kmeans, memory, metrics, mixture, seeding, solve, sweep
from jaxmix.kmeans import exact

N, K = 48, 3
KEY = jax.random.key(0)
DIAGONAL = gmm.GaussianMixture(gmm.Diagonal)
MIXTURE = gmm.start.from_centers(blobs(N, 2, K)[:K], blobs(N, 2, K), problem=DIAGONAL)


def aligned(values):
    """A NumPy array that starts where JAX would take over its memory."""
    values = np.asarray(values)
    buffer = np.empty(values.nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    array = buffer[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    array[...] = values
    return array


X = blobs(N, 2, K)
LABELS = np.arange(N) % K
WEIGHTS = 1.0 + LABELS
RESPONSIBILITIES = np.eye(K)[LABELS]
ARRAYS: Any = (X, WEIGHTS, X.mean(axis=0))
PRIOR = gmm.fraley_raftery(X, K)
ONCE: Any = {"max_steps": 3}

# Each function with its arguments, whose arrays are refilled as soon as it returns.
CALLS = {
    "as_data": (as_data, X, WEIGHTS),
    "as_data of NumPy arrays": (lambda arrays: as_data(Data(*arrays)), ARRAYS),
    "kmeans.fit": (lambda x, w, u: kmeans.fit(KEY, x, K, weights=w, init=u, **ONCE), X, WEIGHTS, X[:K]),
    "kmeans.fit_restarts": (
        lambda x, u, t: kmeans.fit_restarts(KEY, x, K, init=u, rtol=t, **ONCE),
        X,
        X[:K],
        np.array(1e-9),
    ),
    "num_active": (lambda x, j: kmeans.fit(KEY, x, K, num_active=j, restarts=1, **ONCE), X, np.array(2)),
    "jaxmix.fit": (
        lambda x, w, u: jaxmix.fit(mixture.MixtureModel(mixture.Poisson()), None, x, K, weights=w, init=u, **ONCE),
        np.abs(X),
        WEIGHTS,
        np.abs(X[:K]),
    ),
    "kmeans.predict": (kmeans.predict, X[:K], X),
    "kmeans.objective": (lambda u, x, z, w: kmeans.objective(u, x, z, weights=w), X[:K], X, LABELS, WEIGHTS),
    "kmeans.update": (lambda u, x, z, w: kmeans.update(u, x, z, weights=w), X[:K], X, LABELS, WEIGHTS),
    "kmeans.reconstruct": (kmeans.reconstruct, X[:K], LABELS),
    "kmeans.lower_bound": (lambda x, w: kmeans.lower_bound(x, 2, weights=w), X, WEIGHTS),
    "exact.fit_1d": (lambda x, w: exact.fit_1d(x, K, weights=w), X[:, 0].copy(), WEIGHTS),
    "exact.brute_force": (lambda x, w: exact.brute_force(x, 2, weights=w), X[:8], WEIGHTS[:8]),
    "gmm.fit": (lambda x, w, u: gmm.fit(KEY, x, K, weights=w, init=u, **ONCE), X, WEIGHTS, X[:K]),
    "gmm.fit_restarts": (
        lambda x, start: gmm.fit_restarts(KEY, x, K, covariance=gmm.Diagonal, init=start, **ONCE),
        X,
        MIXTURE,
    ),
    "regularization": (
        lambda x, r: gmm.fit(KEY, x, K, init=x[:K], regularization=r, **ONCE),
        X,
        np.array(0.1),
    ),
    "prior": (
        lambda x, p: gmm.fit(KEY, x, K, init=x[:K], prior=p, **ONCE),
        X,
        PRIOR,
    ),
    "gmm.fraley_raftery": (lambda x: gmm.fraley_raftery(x, K), X),
    "gmm.log_joint": (gmm.log_joint, MIXTURE, X),
    "gmm.log_prob": (gmm.log_prob, MIXTURE, X),
    "gmm.log_likelihood": (lambda m, x, w: gmm.log_likelihood(m, x, weights=w), MIXTURE, X, WEIGHTS),
    "gmm.responsibilities": (gmm.responsibilities, MIXTURE, X),
    "gmm.predict": (gmm.predict, MIXTURE, X),
    "gmm.sample": (lambda m: gmm.sample(KEY, m, 5), MIXTURE),
    "gmm.marginal": (lambda m: gmm.marginal(m, [1]), MIXTURE),
    "gmm.conditional": (lambda m, v: gmm.conditional(m, [1], v), MIXTURE, np.array([0.5])),
    "gmm.complete_log_likelihood": (gmm.complete_log_likelihood, MIXTURE, X, LABELS),
    "gmm.expected_complete_log_likelihood": (gmm.expected_complete_log_likelihood, MIXTURE, X, RESPONSIBILITIES),
    "gmm.elbo": (gmm.elbo, MIXTURE, X, RESPONSIBILITIES),
    "gmm.entropy": (lambda r, w: gmm.entropy(r, weights=w), RESPONSIBILITIES, WEIGHTS),
    "gmm.start.from_centers": (gmm.start.from_centers, X[:K], X),
    "gmm.start.from_labels": (lambda z, x: gmm.start.from_labels(z, x, K), LABELS, X),
    "gmm.start.from_responsibilities": (gmm.start.from_responsibilities, RESPONSIBILITIES, X),
    "metrics.bic": (lambda m, x, w: metrics.bic(m, x, weights=w), MIXTURE, X, WEIGHTS),
    "metrics.adjusted_rand_index": (metrics.adjusted_rand_index, LABELS, LABELS[::-1].copy()),
    "metrics.silhouette_samples": (lambda x, z: metrics.silhouette_samples(x, z, K), X, LABELS),
    "metrics.match": (metrics.match, X[:K], X[K : 2 * K]),
    "metrics.match of mixtures": (metrics.match, MIXTURE, replace(MIXTURE, means=MIXTURE.means[::-1])),
    "seeding.starts": (lambda x, u: seeding.starts(KEY, as_data(x), K, init=u), X, X[:K]),
    "solve.run": (lambda u, x: solve.run(kmeans.KMeans(), solve.EM(), u, x, **ONCE), X[:K], X),
    "solve.run_many": (lambda u, x: solve.run_many(kmeans.KMeans(), solve.EM(), u, x, **ONCE), X[:K][None], X),
    "solver": (
        lambda x, rate: solve.run(kmeans.KMeans(), solve.Optax(optax.adam, rate), X[:K].copy(), x, **ONCE),
        X,
        np.array(0.1),
    ),
    "sweep.grid": (lambda v: sweep.grid(lambda scale: scale * 2, {"scale": v}), np.arange(3.0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_arguments_may_be_refilled_as_soon_as_a_function_returns(name):
    function, *arguments = CALLS[name]
    wanted = function(*arguments)
    buffers = [jax.tree.map(aligned, argument) for argument in arguments]
    result = function(*buffers)
    for buffer in jax.tree.leaves(buffers):
        buffer[...] = 1 if buffer.dtype.kind == "i" else 77.0
    jax.tree.map(np.testing.assert_array_equal, result, wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(), (0, 2), (5,), (3, 4)])
def test_copies_share_no_memory_and_keep_shape_dtype_and_values(shape, dtype):
    for array in (aligned(np.ones(shape, dtype)), np.ones(shape, dtype)[..., None].T):
        copy = memory.copied(array)
        assert (copy.shape, copy.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(copy, array)
        assert not np.shares_memory(np.asarray(copy), array)


def test_one_buffer_filled_anew_for_each_fit_gives_the_fits_of_separate_arrays():
    rng = np.random.default_rng(0)
    data = [scale * rng.normal(size=(20_000, 4)) for scale in (1.0, 1.5, 2.0)]
    buffer = aligned(data[0])
    fits = []
    for rows in data:
        buffer[...] = rows
        fits.append(kmeans.fit(KEY, buffer, 4, init=rows[:4].copy(), max_steps=20))
    for fit, rows in zip(fits, data, strict=True):
        own = kmeans.fit(KEY, jnp.array(rows), 4, init=rows[:4].copy(), max_steps=20)
        assert fit.loss == own.loss


def test_centers_taken_from_an_estimator_do_not_follow_its_next_step():
    cluster = pytest.importorskip("sklearn.cluster")
    estimator = cluster.MiniBatchKMeans(K, n_init=1, random_state=0).fit(X)
    estimator.cluster_centers_ = aligned(estimator.cluster_centers_)
    taken = interop.from_sklearn(estimator)
    before = np.array(taken)
    estimator.partial_fit(X + 1)
    np.testing.assert_array_equal(taken, before)


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_a_caller_may_donate_what_a_function_returned():
    data = as_data(X)
    jax.jit(lambda data: Data(data.x + 1, data.weights + 1, data.origin + 1), donate_argnums=0)(data)
    again = as_data(X)
    np.testing.assert_array_equal(again.weights, 1.0)
    np.testing.assert_array_equal(again.origin, 0.0)
    assert kmeans.fit(KEY, X, K, **ONCE).loss > 0
