"""Other libraries' predictions and densities are those of the same parameters here."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import BisectingKMeans, KMeans, MiniBatchKMeans
from sklearn.mixture import GaussianMixture

from jaxmix import gmm, interop, kmeans

X = cases.blobs(60, 2, 3)
NEW = np.random.default_rng(3).normal(scale=4.0, size=(200, X.shape[1]))
FAMILIES = (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical)


def mixture(family):
    return gmm.start.from_centers(X[:3] * 1.5, X, family=family)


@pytest.mark.parametrize("estimator", [KMeans, MiniBatchKMeans])
def test_centers_of_scikit_learn_predict_the_same(estimator):
    fitted = estimator(3, n_init=1, random_state=0).fit(X)
    assert_array_equal(kmeans.assign(interop.from_sklearn(fitted), NEW), fitted.predict(NEW))


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_mixtures_of_scikit_learn_have_the_same_density(kind):
    fitted = GaussianMixture(3, covariance_type=kind, random_state=0).fit(X)
    params = interop.from_sklearn(fitted)
    assert_allclose(gmm.log_prob(params, NEW), fitted.score_samples(NEW), rtol=1e-9)
    assert_array_equal(gmm.predict(params, NEW), fitted.predict(NEW))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scikit_learn_predicts_with_centers_of_ours(dtype):
    fit = kmeans.fit(jax.random.key(0), X.astype(dtype), 3, init=X[:3])
    estimator = interop.to_sklearn(fit)
    assert_array_equal(estimator.predict(NEW.astype(dtype)), kmeans.assign(fit.params, NEW.astype(dtype)))
    assert_array_equal(interop.from_sklearn(estimator), fit.params)
    assert estimator.inertia_ == fit.loss
    assert estimator.n_iter_ == fit.num_steps
    assert estimator.transform(NEW.astype(dtype)).shape == (200, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_scikit_learn_predicts_with_mixtures_of_ours(family):
    params = mixture(family)
    estimator = interop.to_sklearn(params)
    assert_allclose(estimator.score_samples(NEW), gmm.log_prob(params, NEW), rtol=1e-9)
    assert_array_equal(estimator.predict(NEW), gmm.predict(params, NEW))
    assert estimator.sample(5)[0].shape == (5, X.shape[1])
    assert_allclose(interop.from_sklearn(estimator).covariances, params.covariances, rtol=1e-9)


def test_what_is_off_at_the_end_is_left_out_and_elsewhere_refused():
    off = jnp.concatenate([X[:3], jnp.full((2, X.shape[1]), jnp.inf)])
    assert_array_equal(interop.to_sklearn(off).cluster_centers_, X[:3])
    with pytest.raises(ValueError, match="must come last"):
        interop.to_sklearn(off[::-1])
    params = mixture(gmm.Full)._replace(log_weights=jnp.log(jnp.array([0.5, 0.5, 0.0])))
    estimator = interop.to_sklearn(params)
    assert estimator.n_components == 2
    assert_array_equal(estimator.predict(NEW), gmm.predict(params, NEW))


def test_equal_centers_are_kept():
    centers = jnp.zeros((3, 2))
    assert_array_equal(interop.to_sklearn(centers).cluster_centers_, centers)


def test_what_cannot_be_taken_is_refused():
    with pytest.raises(ValueError, match="must be a KMeans, MiniBatchKMeans or GaussianMixture, got BisectingKMeans"):
        interop.from_sklearn(BisectingKMeans(2))
    with pytest.raises(ValueError, match="is not fitted"):
        interop.from_sklearn(GaussianMixture(2))
    with pytest.raises(ValueError, match="those of one fit"):
        interop.to_sklearn(jnp.zeros((2, 3, 2)))
    params = mixture(gmm.Full)
    with pytest.raises(ValueError, match="this fit failed"):
        interop.to_sklearn(params._replace(covariance=gmm.Full(jnp.full((3, 2, 2), jnp.nan))))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_distribution_of_numpyro_has_the_same_density(family):
    pytest.importorskip("numpyro")
    params = mixture(family)
    with jax.numpy_rank_promotion("allow"):
        distribution = interop.to_numpyro(params)
        assert_allclose(distribution.log_prob(NEW), gmm.log_prob(params, NEW), rtol=1e-9)
