"""Every covariance family against dense densities, calculus, and `Full` under the tie."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EXACT, blobs, from_docs
from mixtures import exact, make, replace
from scipy import stats

from jaxmix import as_data, gmm, merging

FAMILIES = {
    "Full": gmm.Full,
    "Tied": gmm.Tied,
    "Diagonal": gmm.Diagonal,
    "Spherical": gmm.Spherical,
    "TiedDiagonal": gmm.TiedDiagonal,
    "TiedSpherical": gmm.TiedSpherical,
    "Exchangeable": from_docs("extend.md", "Exchangeable").Exchangeable,
}
CORRELATED = ("Full", "Tied", "Exchangeable")
K, D = 3, 2
X = blobs(40, D, K, spread=3.0)
DATA = as_data(X, np.random.default_rng(1).integers(0, 3, size=40))
RESP = np.random.default_rng(0).dirichlet(np.ones(K), size=40)


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def mixture(family):
    return gmm.start.from_responsibilities(RESP, DATA, problem=exact(family))


def expected_complete(params):
    joint = gmm.log_joint(params, X)
    return jnp.sum(DATA.weights[:, None] * RESP * joint)


def test_density_is_that_of_scipys_dense_normal(family):
    params = mixture(family)
    expected = np.stack(
        [stats.multivariate_normal(m, c).logpdf(X) for m, c in zip(params.means, params.covariances, strict=True)],
        axis=1,
    )
    np.testing.assert_allclose(
        family.log_density(params.covariance.prepare(params.means), jnp.asarray(X)).T, expected, rtol=1e-11
    )
    np.testing.assert_allclose(gmm.log_joint(params, X), expected + np.asarray(params.log_weights), rtol=1e-11)


def test_m_step_is_where_the_gradient_of_q_is_zero_and_q_is_largest(family):
    params = mixture(family)

    def q(free):
        return expected_complete(EXACT.constrain(free))

    free = EXACT.unconstrain(params)
    gradient = jax.grad(q)(free)
    # Log weights are free up to a constant: the softmax takes the mean of their gradient out.
    chex.assert_trees_all_close(gradient, jax.tree.map(jnp.zeros_like, gradient), atol=1e-8)
    for seed in range(3):
        random = np.random.default_rng(seed)
        moved = jax.tree.map(lambda leaf, r=random: leaf + 1e-2 * r.normal(size=leaf.shape), free)
        assert q(moved) < q(free)


def test_unconstrained_coordinates_go_there_and_back(family):
    params = mixture(family)
    back = EXACT.constrain(EXACT.unconstrain(params))
    chex.assert_trees_all_close(back, params, rtol=1e-12)
    anywhere = jax.tree.map(lambda leaf: leaf + 1.0, EXACT.unconstrain(params))
    assert (np.linalg.eigvalsh(EXACT.constrain(anywhere).covariances) > 0).all()


def test_statistics_add_over_rows(family):
    params = mixture(family)
    halves = [as_data(X[part], np.asarray(DATA.weights)[part]) for part in (slice(0, 13), slice(13, 40))]
    merged = merging.merge(*[gmm.e_step(params, half) for half in halves])
    chex.assert_trees_all_close(merged, gmm.e_step(params, DATA), rtol=1e-12, atol=1e-12)


def test_statistics_about_other_means_are_those_taken_there(family):
    params = mixture(family)
    stats = gmm.e_step(params, DATA)
    weighted = DATA.weights[:, None] * gmm.responsibilities(params, X)
    moved = replace(params, means=params.means + np.random.default_rng(2).normal(size=(K, D)))
    found = gmm.recenter(stats, params, moved)
    np.testing.assert_array_equal(found.counts, stats.counts)
    found = found.moments
    np.testing.assert_allclose(found.first, weighted.T @ X - weighted.sum(0)[:, None] * moved.means, atol=1e-11)
    first, second = family.moments(weighted.T, moved.means, DATA.x)
    np.testing.assert_allclose(found.second, second, rtol=1e-11)
    np.testing.assert_allclose(found.first, first, rtol=1e-11, atol=1e-11)


def test_dense_form_has_the_ties_and_the_count_says_how_many_numbers(family):
    covariances = np.asarray(mixture(family).covariances)
    if "Tied" in family.__name__:
        np.testing.assert_array_equal(covariances, np.broadcast_to(covariances[:1], (K, D, D)))
    if family.__name__ not in CORRELATED:
        np.testing.assert_array_equal(covariances[:, 0, 1], 0)
    if "Spherical" in family.__name__ or family.__name__ == "Exchangeable":
        np.testing.assert_array_equal(covariances[:, 0, 0], covariances[:, 1, 1])
    scales = jax.tree.leaves(mixture(family).covariance)
    free = sum(leaf.size * 3 // 4 if family in (gmm.Full, gmm.Tied) else leaf.size for leaf in scales)
    assert family.num_free_parameters(K, D) == free


def test_each_family_is_the_full_one_under_its_tie(family):
    full, params = np.asarray(mixture(gmm.Full).covariances), mixture(family)
    counts = np.asarray(params.weights)
    expected = full.copy()
    if "Tied" in family.__name__:
        expected = np.broadcast_to(np.einsum("k,kij->ij", counts, full), full.shape)
    if family.__name__ == "Exchangeable":
        variances, covariances = np.trace(expected, axis1=1, axis2=2) / D, expected[:, 0, 1]
        expected = np.stack([np.stack([variances, covariances]), np.stack([covariances, variances])]).transpose(2, 0, 1)
    if family.__name__ not in CORRELATED:
        expected = expected * np.eye(D)
    if "Spherical" in family.__name__:
        expected = np.trace(expected, axis1=1, axis2=2)[:, None, None] / D * np.eye(D)
    np.testing.assert_allclose(params.covariances, expected, rtol=1e-11, atol=1e-12)


def test_draws_have_the_moments_of_the_model(family):
    params = mixture(family)
    x, labels = gmm.sample(jax.random.key(0), params, 40_000)
    x, labels = np.asarray(x), np.asarray(labels)
    np.testing.assert_allclose(np.bincount(labels) / 40_000, params.weights, atol=0.01)
    for k in range(K):
        own = x[labels == k]
        covariance = np.asarray(params.covariances[k])
        spread = np.sqrt(np.diag(covariance) / len(own))
        assert (np.abs(own.mean(0) - params.means[k]) < 5 * spread).all()
        np.testing.assert_allclose(np.cov(own.T), covariance, atol=0.05 * np.trace(covariance))


def test_regularization_is_added_to_the_diagonal(family):
    plain = mixture(family)
    regularized = gmm.start.from_responsibilities(RESP, DATA, problem=gmm.GaussianMixture(family, regularization=0.25))
    difference = np.asarray(regularized.covariances - plain.covariances)
    np.testing.assert_allclose(difference, np.broadcast_to(0.25 * np.eye(D), difference.shape), atol=1e-12)


def test_a_component_that_is_off_stays_as_it_is_and_off(family):
    params = mixture(family)
    off = params._replace(log_weights=jnp.log(jnp.array([0.5, 0.0, 0.5])))
    after = gmm.m_step(gmm.e_step(off, DATA), off)
    assert after.log_weights[1] == -jnp.inf
    np.testing.assert_array_equal(after.means[1], params.means[1])
    if "Tied" not in family.__name__:
        np.testing.assert_array_equal(after.covariances[1], params.covariances[1])
    assert np.isfinite(after.means).all()
    assert np.isfinite(after.covariances).all()
    # What is left is the fit without it.
    kept = jnp.array([0, 2])
    two = make(
        jnp.log(jnp.full(2, 0.5)),
        params.means[kept],
        params.covariance if "Tied" in family.__name__ else jax.tree.map(lambda leaf: leaf[kept], params.covariance),
    )
    alone = gmm.m_step(gmm.e_step(two, DATA), two)
    np.testing.assert_allclose(after.means[kept], alone.means, rtol=1e-12)
    np.testing.assert_allclose(after.covariances[kept], alone.covariances, rtol=1e-11)


@pytest.mark.parametrize("offset", [pytest.param(0.0, marks=pytest.mark.slow), 1e4])
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=name, marks=[] if name in ("Full", "TiedSpherical") else pytest.mark.slow)
        for name, family in FAMILIES.items()
    ],
)
def test_float32_far_from_the_origin_agrees_with_float64(family, offset):
    x = (blobs(400, D, K, spread=4.0) + offset).astype(np.float32)
    labels = np.arange(400) % K
    for_dtype = {}
    for dtype in (np.float32, np.float64):
        data = as_data(x.astype(dtype))
        start = gmm.start.from_labels(labels, data, K, problem=exact(family))
        after = gmm.m_step(gmm.e_step(start, data), start)
        for_dtype[dtype] = (after.covariances, gmm.e_step(after, data).loss)
        assert after.means.dtype == dtype
    np.testing.assert_allclose(*[c[0] for c in for_dtype.values()], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(*[c[1] for c in for_dtype.values()], rtol=1e-3)


def test_a_component_without_rows_starts_at_the_mean_of_the_data(family):
    for offset in (0.0, 100.0):
        start = gmm.start.from_labels(np.zeros(40, int), as_data(X + offset, DATA.weights), K, problem=exact(family))
        np.testing.assert_allclose(start.means[1:], np.tile(start.means[:1], (K - 1, 1)), rtol=1e-12)
        assert start.log_weights.tolist() == [0.0, -np.inf, -np.inf]
