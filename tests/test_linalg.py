"""The small numerics, where they are easy to get wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxmix import linalg
from jaxmix.kernels import segments


def test_squared_distances_tell_near_rows_apart():
    x = np.array([[1.0, 0.0], [1.0 + 1e-12, 0.0], [1e8, 3.0]])
    distances = linalg.squared_distances(x, x)
    np.testing.assert_array_equal(jnp.diag(distances), 0)
    np.testing.assert_allclose(distances[0, 1], (x[1, 0] - x[0, 0]) ** 2, rtol=1e-14)
    random = np.random.default_rng(0)
    x, u = random.normal(size=(20, 5)), random.normal(size=(7, 5))
    np.testing.assert_allclose(linalg.squared_distances(x, u), ((x[:, None] - u) ** 2).sum(-1), rtol=1e-13)


@pytest.mark.parametrize("num_rows", [1, 50, 9000])
def test_sum_by_label_is_the_sum_over_rows_of_a_label(num_rows):
    random = np.random.default_rng(0)
    values, labels = random.normal(size=(num_rows, 3)), random.integers(0, 5, size=num_rows)
    expected = np.zeros((6, 3))
    np.add.at(expected, labels, values)
    np.testing.assert_allclose(
        segments.sum_by_label(jnp.asarray(values), jnp.asarray(labels), 6), expected, rtol=1e-11, atol=1e-11
    )


def test_a_million_equal_rows_have_the_mean_that_they_are():
    values = jnp.full((1_000_000, 1), 0.1, jnp.float32)
    total = jax.jit(segments.sum_by_label, static_argnums=2)(values, jnp.zeros(1_000_000, jnp.int32), 1)
    np.testing.assert_allclose(total / 1e6, np.float32(0.1), rtol=2e-5)  # a plain chain of additions is 1 % off


def test_the_other_platforms_take_the_one_hot_product_in_full_precision():
    values, labels = jnp.ones((8, 2), jnp.float32), jnp.zeros(8, jnp.int32)
    for platform in ("cuda", "tpu"):
        text = jax.export.export(jax.jit(lambda v, z: segments.sum_by_label(v, z, 3)), platforms=[platform])(
            values, labels
        ).mlir_module()
        assert "dot_general" in text
        assert "HIGHEST" in text
        assert "scatter" not in text


@pytest.mark.parametrize("most", [4, 5, 11])
def test_the_product_of_the_other_platforms_in_pieces_is_the_sum_over_rows(monkeypatch, most):
    monkeypatch.setattr(segments, "PRODUCT_ROWS", most)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    values, labels = np.arange(22.0).reshape(11, 2), np.arange(11) % 3
    expected = np.stack([values[labels == k].sum(axis=0) for k in range(4)])
    np.testing.assert_array_equal(segments.sum_by_label(jnp.asarray(values), jnp.asarray(labels), 4), expected)


def test_safe_divide_has_finite_gradients_and_lets_nan_through():
    def f(a, b):
        return linalg.safe_divide(a, b, 7.0)

    assert f(jnp.array(1.0), jnp.array(0.0)) == 7.0
    assert f(jnp.array(6.0), jnp.array(3.0)) == 2.0
    assert jnp.isnan(f(jnp.array(jnp.nan), jnp.array(1.0)))
    assert jnp.isnan(f(jnp.array(1.0), jnp.array(jnp.nan)))
    np.testing.assert_array_equal(jax.grad(f, argnums=(0, 1))(1.0, 0.0), (0.0, 0.0))


@pytest.mark.parametrize("num_features", [1, 2, 7])
def test_factors_and_inverses_are_those_of_lapack(num_features):
    random = np.random.default_rng(num_features)
    roots = random.normal(size=(3, num_features, num_features + 2))
    matrices = roots @ roots.transpose(0, 2, 1)
    factors = linalg.cholesky(jnp.asarray(matrices))
    np.testing.assert_allclose(factors, np.linalg.cholesky(matrices), rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(linalg.cholesky(jnp.asarray(matrices[0])), factors[0])
    inverses = linalg.inverse_tril(factors)
    np.testing.assert_allclose(inverses, np.linalg.inv(np.linalg.cholesky(matrices)), rtol=1e-9, atol=1e-12)
    single = linalg.cholesky(jnp.asarray(matrices, jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, factors, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "broken", [np.zeros((2, 2)), -np.eye(2), np.array([[1.0, 2.0], [2.0, 1.0]]), np.eye(2) * np.nan]
)
def test_a_matrix_that_is_not_definite_has_no_factor_and_spoils_no_other(broken):
    factors = linalg.cholesky(jnp.stack([jnp.asarray(broken), 4 * jnp.eye(2)]))
    assert np.isnan(factors[0]).all()
    np.testing.assert_array_equal(factors[1], 2 * np.eye(2))


@pytest.mark.slow
def test_the_derivatives_of_factors_and_inverses_are_right_in_both_modes():
    matrix = jnp.array([[4.0, 1.0, 0.5], [1.0, 3.0, -0.2], [0.5, -0.2, 2.0]])
    check_grads(lambda a: linalg.cholesky((a + a.T) / 2), (matrix,), order=1, modes=["fwd", "rev"])
    check_grads(lambda a: linalg.inverse_tril(jnp.asarray(a)), (jnp.tril(matrix),), order=2, modes=["fwd", "rev"])


@pytest.mark.parametrize("rank", [0, 1, 3, 4])
def test_rows_of_a_pivoted_factor_have_the_scatter_asked_for_and_as_many_as_the_rank(rank):
    loadings = np.random.default_rng(rank).normal(size=(4, rank))
    matrix = jnp.asarray(loadings @ loadings.T)
    rows, left = linalg.pivoted_cholesky(matrix, 1e-12)
    np.testing.assert_allclose(rows.T @ rows, matrix, atol=1e-12)
    np.testing.assert_allclose(left, 0, atol=1e-12)
    assert int(jnp.sum(jnp.any(rows != 0, axis=1))) == rank


def test_what_is_no_scatter_is_left_over_by_a_pivoted_factor():
    left = linalg.pivoted_cholesky(jnp.array([[1.0, -2.0], [-2.0, 1.0]]), 1e-12)[1]
    np.testing.assert_allclose(left, [[0, 0], [0, -3]])
