"""Values of mixtures that nothing changes silently: weights of zero, narrow conditionals, far rows, constructors."""

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs
from mixtures import make, replace
from scipy import special, stats

from jaxmix import as_data, gmm, kmeans, metrics

FAMILIES = (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical)
X = blobs(30, 3, 2)
STANDARD = float(stats.norm.logpdf(0))

# One component that is on, N(0, 1), and one that is off; a row at 0, and one of weight zero.
ONE_ON = make(jnp.array([0.0, -jnp.inf]), jnp.zeros((2, 1)), gmm.Full.identity(2, 1, float))
ABSENT = np.array([1.0, 0.0])


@pytest.mark.parametrize("row", [5.0, np.nan])
def test_a_row_of_weight_zero_counts_for_nothing_where_it_meets_a_component_that_is_off(row):
    x, resp = np.array([[0.0], [row]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    values = [
        gmm.complete_log_likelihood(ONE_ON, x, [0, 1], weights=ABSENT),
        gmm.expected_complete_log_likelihood(ONE_ON, x, resp, weights=ABSENT),
        gmm.elbo(ONE_ON, x, resp, weights=ABSENT),
        gmm.log_likelihood(ONE_ON, x, weights=ABSENT),
        -0.5 * (metrics.aic(ONE_ON, x, weights=ABSENT) - 2 * ONE_ON.num_free_parameters),
    ]
    np.testing.assert_allclose(values, STANDARD, rtol=1e-12)
    assert round(STANDARD, 4) == -0.9189


def test_derivatives_are_finite_where_a_row_of_weight_zero_meets_a_component_that_is_off():
    x, resp = np.array([[0.0], [1e200]]), np.eye(2)

    def values(means):
        params = replace(ONE_ON, means=means)
        arguments: dict[str, Any] = {"weights": ABSENT}
        return (
            gmm.complete_log_likelihood(params, x, [0, 1], **arguments)
            + gmm.expected_complete_log_likelihood(params, x, resp, **arguments)
            + gmm.log_likelihood(params, x, **arguments)
        )

    np.testing.assert_array_equal(jax.grad(values)(jnp.array([[0.5], [0.0]])), [[-1.5], [0.0]])


def test_responsibilities_and_labels_of_rows_of_weight_zero_may_be_anything():
    weights = np.r_[np.ones(29), 0]
    resp = np.r_[np.eye(2)[np.arange(29) % 2], [[np.nan, -1.0]]]
    params = gmm.start.from_responsibilities(resp, as_data(X, weights))
    expected = gmm.start.from_responsibilities(resp[:29], X[:29])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), params, expected)
    labels = np.r_[np.arange(29) % 2, 7]
    np.testing.assert_allclose(
        gmm.complete_log_likelihood(params, X, labels, weights=weights),
        gmm.complete_log_likelihood(params, X[:29], labels[:29]),
        rtol=1e-12,
    )
    np.testing.assert_allclose(gmm.entropy(resp, weights=weights), 0, atol=0)


@pytest.mark.parametrize(("dtype", "deviations"), [(np.float32, (3e-4, 1e-4, 1e-6)), (np.float64, (1e-8, 1e-12))])
def test_a_conditional_keeps_a_deviation_far_below_the_largest(dtype, deviations):
    for deviation in deviations:
        # The second feature is the first and a little noise.
        factor = np.array([[[1.0, 0.0], [1.0, deviation]]], dtype)
        params = make(jnp.zeros(1, dtype), jnp.zeros((1, 2), dtype), gmm.Full(jnp.asarray(factor)))
        given = gmm.conditional(params, [0], np.array([0.5], dtype))
        np.testing.assert_allclose(jax.tree.leaves(given.covariance)[0].ravel(), deviation, rtol=1e-6)
        np.testing.assert_allclose(given.means.ravel(), 0.5, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_joint_density_is_that_of_a_marginal_and_a_conditional(family):
    params = gmm.start.from_labels(np.arange(30) % 2, X, 2, problem=gmm.GaussianMixture(family))
    for known in ([1], [2, 0]):
        left = [feature for feature in range(3) if feature not in known]
        for row in X[:3]:
            given = gmm.conditional(params, known, row[known])
            both = gmm.log_prob(gmm.marginal(params, known), row[None, known]) + gmm.log_prob(given, row[None, left])
            np.testing.assert_allclose(both, gmm.log_prob(params, row[None]), rtol=1e-10)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_conditional_on_a_value_that_is_not_finite_is_rejected_and_nan_where_it_is_traced(value):
    params = gmm.start.from_labels(np.arange(30) % 2, X, 2)
    with pytest.raises(ValueError, match=r"`values` must be finite"):
        gmm.conditional(params, [0], [value])
    traced = jax.jit(lambda value: gmm.conditional(params, [0], value[None]))(value)
    assert np.isnan(traced.log_weights).all()


FAR = np.array([[1.0, 0.0], [3e19, 1.0], [-3e19, 0.0], [3e38, -3e38], [8.0, 1.0]], np.float32)
CENTERS = np.array([[0.0, 0.0], [9.0, 1.0]], np.float32)


def second(row):
    """The responsibility of the second of two unit Gaussians, from exact squares: float64 loses their difference."""
    exact = [sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(row, u, strict=True)) for u in CENTERS]
    return special.expit(float(exact[0] - exact[1]) / 2)


SECOND = np.array([second(row) for row in FAR])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_finite_row_far_away_belongs_to_the_component_of_the_largest_density(family):
    params = make(jnp.log(jnp.full(2, 0.5, jnp.float32)), jnp.asarray(CENTERS), family.identity(2, 2, jnp.float32))
    for call in (gmm.responsibilities, jax.jit(gmm.responsibilities)):
        np.testing.assert_allclose(call(params, FAR)[:, 1], SECOND, atol=1e-5)
    for call in (gmm.predict, jax.jit(gmm.predict)):
        np.testing.assert_array_equal(call(params, FAR), SECOND > 0.5)
    given = gmm.conditional(params, [0], FAR[1, :1])
    np.testing.assert_array_equal(given.weights, [0, 1])


def test_a_finite_row_far_away_has_a_nearest_center():
    for call in (kmeans.predict, jax.jit(kmeans.predict)):
        np.testing.assert_array_equal(call(CENTERS, FAR), SECOND > 0.5)
    assert jax.jit(kmeans.predict)(CENTERS, np.full((1, 2), np.nan, np.float32)) == -1


MEANS = np.array([[0.0, 1.0], [5.0, -2.0]])
MATRICES = np.array([[[2.0, 0.5], [0.5, 1.0]], [[1.0, -0.3], [-0.3, 3.0]]])
SPREADS = {
    gmm.Full: (MATRICES, MATRICES),
    gmm.Tied: (MATRICES[0], MATRICES[[0, 0]]),
    gmm.Diagonal: (np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([np.diag([2.0, 1.0]), np.diag([1.0, 3.0])])),
    gmm.Spherical: (np.array([2.0, 0.5]), np.array([2 * np.eye(2), 0.5 * np.eye(2)])),
    gmm.TiedDiagonal: (np.array([2.0, 0.5]), np.array([np.diag([2.0, 0.5])] * 2)),
    gmm.TiedSpherical: (np.array(2.0), np.array([2 * np.eye(2)] * 2)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixture_of_weights_means_and_covariances_has_their_density(family):
    covariances, matrices = SPREADS[family]
    params = gmm.mixture([0.25, 0.75], MEANS, covariances, covariance=family)
    densities = [
        weight * stats.multivariate_normal(mean, matrix).pdf(X[:, :2])
        for weight, mean, matrix in zip([0.25, 0.75], MEANS, matrices, strict=True)
    ]
    np.testing.assert_allclose(gmm.log_prob(params, X[:, :2]), np.log(np.sum(densities, axis=0)), rtol=1e-10)
    traced = jax.jit(lambda w, c: gmm.mixture(w, MEANS, c, covariance=family))(np.array([0.25, 0.75]), covariances)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), traced, params)


def test_a_mixture_normalizes_rounding_and_switches_weight_zero_off():
    params = gmm.mixture(np.array([1 / 3, 2 / 3, 0], np.float32), np.zeros((3, 1), np.float32), np.ones((3, 1, 1)))
    assert params.means.dtype == params.log_weights.dtype == jnp.float32
    assert params.is_on.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "message"),
    [
        ([0.5, 0.6], MEANS, MATRICES, "`weights` must be non-negative and sum to 1"),
        ([1.5, -0.5], MEANS, MATRICES, "`weights` must be non-negative and sum to 1"),
        (np.log([0.5, 0.5]), MEANS, MATRICES, "`weights` must be non-negative and sum to 1"),
        ([1.0], MEANS, MATRICES, r"`weights` must have shape \(2,\)"),
        ([0.5, 0.5], MEANS[0], MATRICES, r"`means` must have shape \(K, D\)"),
        ([0.5, 0.5], MEANS, MATRICES[0], r"`covariances` must have shape \(2, 2, 2\)"),
        ([0.5, 0.5], MEANS, np.linalg.cholesky(MATRICES), "`covariances` must be symmetric"),
        ([0.5, 0.5], MEANS, -MATRICES, "`covariances` must be positive definite"),
        ([0.5, 0.5], MEANS, np.full((2, 2, 2), np.nan), "`covariances` must be finite"),
        ([0.5, 0.5], np.full((2, 2), np.nan), MATRICES, "`means` must be finite"),
    ],
)
def test_numbers_that_make_no_mixture_are_rejected_and_nan_where_they_are_traced(weights, means, covariances, message):
    with pytest.raises(ValueError, match=message):
        gmm.mixture(weights, means, covariances)
    if "shape" not in message and "finite" not in message:
        traced = jax.jit(lambda w, c: gmm.mixture(w, means, c))(np.asarray(weights), np.asarray(covariances))
        assert np.isnan(traced.log_weights).any() or np.isnan(traced.covariance.scale_tril).any()


@pytest.mark.parametrize("call", [gmm.log_prob, gmm.predict, gmm.log_likelihood])
def test_weights_for_log_weights_and_covariances_for_factors_are_rejected(call):
    params = gmm.mixture([0.25, 0.75], MEANS, MATRICES)
    with pytest.raises(ValueError, match=r"log_weights` must be logarithms of weights that sum to 1"):
        call(params._replace(log_weights=params.weights), X[:, :2])
    with pytest.raises(ValueError, match=r"scale_tril` must be lower triangular: it holds Cholesky factors"):
        call(replace(params, covariance=gmm.Full(params.covariances)), X[:, :2])
    with pytest.raises(ValueError, match="lower triangular"):
        gmm.fit(jax.random.key(0), X[:, :2], 2, init=replace(params, covariance=gmm.Full(params.covariances)))
