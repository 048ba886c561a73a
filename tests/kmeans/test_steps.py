"""The mathematics of K-means against NumPy, calculus and linear algebra."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs

from jaxmix import as_data, kmeans

RANDOM = np.random.default_rng(0)
X = blobs(30, 2, 3)
CENTERS = X[:4] + 0.1
WEIGHTS = RANDOM.integers(0, 4, size=30).astype(float)


def oracle(centers, x):
    """Labels and squared distances in float64 NumPy."""
    distances = ((np.asarray(x, np.float64)[:, None] - np.asarray(centers, np.float64)) ** 2).sum(-1)
    return distances.argmin(1), distances


def indicator(labels, k):
    """Z, one column a row of the data."""
    return np.eye(k)[:, np.asarray(labels)]


def test_assign_is_the_nearest_center_and_the_first_of_equals():
    labels = kmeans.predict(CENTERS, X)
    assert labels.dtype == jnp.int32
    np.testing.assert_array_equal(labels, oracle(CENTERS, X)[0])
    assert kmeans.predict([[1.0], [-1.0], [1.0]], [[0.0]]).item() == 0


def test_objective_is_the_weighted_sum_of_squares_for_any_labels():
    labels, distances = oracle(CENTERS, X)
    np.testing.assert_allclose(kmeans.objective(CENTERS, X), distances.min(1).sum(), rtol=1e-14)
    np.testing.assert_allclose(
        kmeans.objective(CENTERS, X, weights=WEIGHTS), (WEIGHTS * distances.min(1)).sum(), rtol=1e-14
    )
    other = RANDOM.integers(0, 4, size=30)
    np.testing.assert_allclose(kmeans.objective(CENTERS, X, other), distances[np.arange(30), other].sum(), rtol=1e-14)
    assert kmeans.objective(CENTERS, X, labels) <= kmeans.objective(CENTERS, X, other)


def test_objective_is_the_error_of_a_matrix_factorization():
    labels = kmeans.predict(CENTERS, X)
    Z, U = indicator(labels, 4), CENTERS.T
    np.testing.assert_allclose(kmeans.objective(CENTERS, X), np.linalg.norm(X.T - U @ Z, "fro") ** 2, rtol=1e-13)
    np.testing.assert_array_equal(kmeans.reconstruct(CENTERS, labels), (U @ Z).T)
    # Each column of Z has one 1, and Z Z^T is the diagonal of cluster sizes.
    np.testing.assert_array_equal(Z.sum(0), 1)
    np.testing.assert_array_equal(Z @ Z.T, np.diag(np.bincount(np.asarray(labels), minlength=4)))


def test_update_solves_the_least_squares_problem_of_the_factorization():
    labels = np.asarray(kmeans.predict(CENTERS, X))
    root = np.sqrt(WEIGHTS)[:, None]
    solution = np.linalg.lstsq(root * indicator(labels, 4).T, root * X, rcond=None)[0]
    np.testing.assert_allclose(kmeans.update(CENTERS, X, labels, weights=WEIGHTS), solution, rtol=1e-12)


def test_update_is_one_newton_step_with_hessian_twice_the_counts():
    labels = kmeans.predict(CENTERS, X)

    def cost(centers):
        return kmeans.objective(centers, X, labels, weights=WEIGHTS)

    gradient, hessian = jax.grad(cost)(CENTERS), jax.hessian(cost)(CENTERS)
    counts = np.bincount(np.asarray(labels), weights=WEIGHTS, minlength=4)
    np.testing.assert_allclose(hessian.reshape(8, 8), np.diag(np.repeat(2 * counts, 2)), atol=1e-12)
    newton = CENTERS - np.asarray(gradient) / (2 * counts)[:, None]
    np.testing.assert_allclose(kmeans.update(CENTERS, X, labels, weights=WEIGHTS), newton, rtol=1e-12)


def test_gradient_is_minus_twice_the_sum_of_residuals():
    labels = np.asarray(kmeans.predict(CENTERS, X))
    expected = np.zeros_like(CENTERS)
    np.add.at(expected, labels, -2 * WEIGHTS[:, None] * (X - CENTERS[labels]))
    gradient = jax.grad(lambda u: kmeans.objective(u, X, weights=WEIGHTS))(CENTERS)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-12)
    shift = 1e-6
    for index in np.ndindex(CENTERS.shape):
        step = np.zeros_like(CENTERS)
        step[index] = shift
        slope = kmeans.objective(CENTERS + step, X, weights=WEIGHTS) - kmeans.objective(
            CENTERS - step, X, weights=WEIGHTS
        )
        np.testing.assert_allclose(slope / (2 * shift), gradient[index], rtol=1e-6, atol=1e-5)


def test_e_step_then_m_step_is_assign_then_update():
    data = as_data(X, WEIGHTS)
    stats = kmeans.e_step(jnp.asarray(CENTERS), data)
    labels = kmeans.predict(CENTERS, X)
    np.testing.assert_allclose(stats.loss, kmeans.objective(CENTERS, X, weights=WEIGHTS), rtol=1e-14)
    np.testing.assert_array_equal(stats.counts, np.bincount(labels, weights=WEIGHTS, minlength=4))
    np.testing.assert_array_equal(
        kmeans.m_step(stats, jnp.asarray(CENTERS)), kmeans.update(CENTERS, X, labels, weights=WEIGHTS)
    )
    distances = np.where(WEIGHTS > 0, oracle(CENTERS, X)[1].min(1), -1)
    np.testing.assert_array_equal(stats.farthest.row, X[distances.argmax()])
    np.testing.assert_allclose(stats.farthest.value, distances.max(), rtol=1e-14)


@pytest.mark.parametrize("vmapped", [False, True])
def test_an_empty_center_moves_to_the_farthest_row_or_stays(vmapped):
    centers = jnp.asarray(np.vstack([X[:1], [[500.0, 500.0]], [[600.0, 600.0]], X[1:2]]))
    data = as_data(X)

    def step(centers, empty):
        return kmeans.m_step(kmeans.e_step(centers, data), centers, empty=empty)

    def run(empty):
        if not vmapped:
            return step(centers, empty)
        return jax.vmap(lambda u: step(u, empty))(jnp.stack([jnp.asarray(CENTERS), centers]))[1]

    kept, moved = run("keep"), run("farthest")
    np.testing.assert_array_equal(kept[1:3], centers[1:3])
    farthest = X[oracle(centers, X)[1].min(1).argmax()]
    np.testing.assert_array_equal(moved[1], farthest)
    np.testing.assert_array_equal(np.delete(moved, 1, axis=0), np.delete(kept, 1, axis=0))
    assert kmeans.objective(moved, X) < kmeans.objective(kept, X) < kmeans.objective(centers, X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_from_the_origin_labels_and_steps_are_those_of_float64(dtype):
    x = (blobs(4000, 3, 6, spread=1.5) + 1e4).astype(dtype)
    centers = x[:6] + dtype(0.25)
    exact = np.asarray(x, np.float64)
    labels, distances = oracle(centers, exact)
    np.testing.assert_array_equal(kmeans.predict(centers, x), labels)
    np.testing.assert_allclose(kmeans.objective(centers, x), distances.min(1).sum(), rtol=1e-5)
    means = np.array([[math.fsum(column) / len(column) for column in exact[labels == k].T] for k in range(6)])
    # To one unit in the last place, which at 1e4 is 1e-3 in float32.
    np.testing.assert_allclose(kmeans.update(centers, x, labels), means, rtol=0, atol=np.spacing(dtype(1e4)))


def test_reconstruct_reads_codes_of_any_shape():
    codes = np.array([[0, 3], [1, 1]])
    np.testing.assert_array_equal(kmeans.reconstruct(CENTERS, codes), CENTERS[codes])
    labels = kmeans.predict(CENTERS, X)
    np.testing.assert_array_equal(kmeans.predict(CENTERS, kmeans.reconstruct(CENTERS, labels)), labels)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int64])
def test_labels_of_any_integer_dtype_count_alike(dtype):
    x = blobs(3000, 2, 3)
    labels = np.arange(3000) % 3
    np.testing.assert_array_equal(
        kmeans.update(CENTERS[:3], x, labels.astype(dtype)), kmeans.update(CENTERS[:3], x, labels)
    )


def test_a_label_out_of_range_under_jit_is_nan_and_not_dropped():
    update = jax.jit(lambda labels: kmeans.update(CENTERS, X, labels))
    good = np.arange(30) % 4
    assert np.isfinite(update(good)).all()
    assert not np.isfinite(update(np.where(good == 3, 7, good))).all()
    objective = jax.jit(lambda labels: kmeans.objective(CENTERS, X, labels))
    assert np.isnan(objective(np.where(good == 3, -1, good)))
