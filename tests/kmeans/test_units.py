"""K-means of rows whose squares underflow or overflow: the fit of the same rows in another unit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs

from jaxmix import Blocks, as_data, frame, kmeans, metrics, seeding, solve
from jaxmix.kmeans import exact
from tests import oracles

N, K = 60, 3
KEY = jax.random.key(0)
X = blobs(N, 2, K).astype(np.float32)
TINY, HUGE = np.float32(2.0**-66), np.float32(2.0**100)  # about 1e-20 and 1e30


@pytest.fixture(scope="module")
def plain():
    return kmeans.fit(KEY, X, K)


@pytest.mark.parametrize("unit", [TINY, HUGE])
@pytest.mark.parametrize("traced", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_fit_in_another_unit_is_the_same_fit(plain, unit, traced):
    fit = (jax.jit(lambda x: kmeans.fit(KEY, x, K)) if traced else lambda x: kmeans.fit(KEY, x, K))(X * unit)
    np.testing.assert_array_equal(fit.params, plain.params * unit)
    assert (fit.status, fit.num_steps) == (plain.status, plain.num_steps)


def test_cost_near_the_smallest_number_has_its_digits():
    # J is about 1e-36; squares of single rows underflow.
    x = X * np.float32(1e-19)
    fit = kmeans.fit(KEY, x, K)
    np.testing.assert_allclose(fit.loss, oracles.cost(fit.params, x.astype(float), np.ones(N)), rtol=1e-5)
    np.testing.assert_allclose(kmeans.objective(fit.params, x), fit.loss, rtol=1e-5)
    np.testing.assert_allclose(fit.trace[fit.num_steps], fit.loss, rtol=0)


@pytest.mark.parametrize("unit", [TINY, HUGE])
def test_labels_update_and_silhouette_have_no_unit(plain, unit):
    x, centers = X * unit, plain.params * unit
    labels = kmeans.predict(plain.params, X)
    np.testing.assert_array_equal(kmeans.predict(centers, x), labels)
    np.testing.assert_allclose(kmeans.update(centers, x, labels) / unit, plain.params, rtol=1e-6)
    np.testing.assert_allclose(
        metrics.silhouette_samples(x, labels, K), metrics.silhouette_samples(X, labels, K), rtol=1e-6
    )
    np.testing.assert_array_equal(metrics.match(centers[::-1], centers), [2, 1, 0])


@pytest.mark.parametrize("unit", [TINY, HUGE])
def test_exact_optima_have_no_unit(unit):
    for fit in (lambda x: exact.fit_1d(x[:, 0], K), lambda x: exact.brute_force(x[:8], 2)):
        np.testing.assert_array_equal(fit(X * unit).params, fit(X).params * unit)


@pytest.mark.parametrize("seed", [seeding.kmeans_plus_plus, seeding.kmeans_parallel, seeding.maximin])
def test_seedings_have_no_unit(seed):
    # The first center is a row drawn by weight alone, the others by squared distances.
    plain = seed(KEY, as_data(X), K)
    for unit in (TINY, HUGE):
        np.testing.assert_array_equal(seed(KEY, as_data(X * unit), K), plain * unit)


@pytest.mark.parametrize("reduce", [Blocks(), Blocks(17)], ids=["whole", "blocks"])
def test_run_has_no_unit_and_scales_its_tolerance(reduce):
    def run(unit):
        atol = jnp.asarray(0.5, jnp.float32) * unit * unit
        return solve.run(kmeans.KMeans(), solve.EM(), X[:K] * unit, X * unit, reduce=reduce, atol=atol, max_steps=20)

    unit = np.float32(2.0**-44)
    assert frame.scale_of(jnp.asarray(X * unit)) is not None
    fit, plain = run(unit), run(np.float32(1))
    np.testing.assert_array_equal(fit.params, plain.params * unit)
    np.testing.assert_array_equal(fit.trace, plain.trace * unit * unit)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_scale_keeps_squares_of_the_largest_number_and_of_its_last_digit_within_range(dtype):
    info = np.finfo(dtype)
    traced = jax.jit(frame.scale_of)
    for exponent in range(info.minexp, info.maxexp, 7):
        x = np.ldexp(np.array([1.5, -1.0, np.inf], dtype), exponent)
        scale = frame.scale_of(jnp.asarray(x))
        factor = np.asarray(traced(x))
        assert factor == (1 if scale is None else scale)
        largest = float(np.abs(x[:2] * factor).max())
        assert 0 < largest**2 * 2.0**40 < float(info.max)
        assert (largest * float(info.eps)) ** 2 > float(info.tiny)
