"""Other libraries' predictions and densities are those of the same parameters here."""

import pickle
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import BisectingKMeans, KMeans, MiniBatchKMeans
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from jaxmix import Fit, as_data, gmm, interop, kmeans, mixture

X = cases.blobs(60, 2, 3)
NEW = np.random.default_rng(3).normal(scale=4.0, size=(200, X.shape[1]))
COVARIANCES = (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical)


def made(covariance):
    return gmm.start.from_centers(X[:3] * 1.5, X, problem=gmm.GaussianMixture(covariance))


def fit_of(params, loss):
    return Fit(params, jnp.array(loss), jnp.array(0), jnp.array(4), jnp.array(4), jnp.full(5, loss))


@pytest.mark.parametrize("estimator", [KMeans, MiniBatchKMeans])
def test_centers_of_scikit_learn_predict_the_same(estimator):
    fitted = estimator(3, n_init=1, random_state=0).fit(X)
    assert_array_equal(kmeans.predict(interop.from_sklearn(fitted), NEW), fitted.predict(NEW))


class Centers(KMeans):
    pass


class Batches(MiniBatchKMeans):
    pass


class Gaussians(GaussianMixture):
    pass


@pytest.mark.parametrize("kind", [Centers, Batches, Gaussians])
def test_subclasses_of_scikit_learn_are_taken(kind: Any):
    fitted = kind(3, n_init=1, random_state=0).fit(X)
    params = interop.from_sklearn(fitted)
    predict = gmm.predict if kind is Gaussians else kmeans.predict
    assert_array_equal(predict(params, NEW), fitted.predict(NEW))


def test_centers_of_scikit_learn_are_copied():
    fitted: Any = MiniBatchKMeans(3, random_state=0).partial_fit(X)
    # Memory that JAX could share instead of copying: aligned to 64 bytes.
    memory = np.empty(fitted.cluster_centers_.nbytes + 64, np.uint8)
    aligned = memory[-memory.ctypes.data % 64 :][: fitted.cluster_centers_.nbytes].view(float).reshape(3, -1)
    aligned[:] = fitted.cluster_centers_
    fitted.cluster_centers_, before = aligned, aligned.copy()
    centers = interop.from_sklearn(fitted)
    fitted.partial_fit(X + 5.0)
    assert (fitted.cluster_centers_ != before).any()
    assert_array_equal(centers, before)


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
    assert_array_equal(interop.from_sklearn(estimator), fit.params)
    assert estimator.inertia_ == fit.loss
    assert estimator.n_iter_ == fit.num_steps
    for rows in (NEW.astype(np.float32), NEW, NEW.tolist()):
        assert_array_equal(estimator.predict(rows), kmeans.predict(fit.params, rows))
        assert_allclose(-estimator.score(rows), kmeans.objective(fit.params, rows), rtol=1e-6)
        assert estimator.transform(rows).shape == (200, 3)


def test_a_pickled_estimator_needs_no_jaxmix():
    estimator = interop.to_sklearn(jnp.asarray(X[:3]))
    assert isinstance(estimator, KMeans)
    assert repr(estimator) == repr(KMeans(3))
    content = pickle.dumps(estimator)
    assert b"jaxmix" not in content
    again = pickle.loads(content)
    assert type(again) is KMeans
    assert_array_equal(again.predict(NEW), estimator.predict(NEW))


@pytest.mark.parametrize("kind", ["centers", "mixture"])
def test_a_clone_fits_as_scikit_learn_does_by_default(kind):
    params = jnp.asarray(X[:3]) if kind == "centers" else made(gmm.Full)
    default: Any = KMeans(3) if kind == "centers" else GaussianMixture(3)
    anew: Any = clone(interop.to_sklearn(params))
    assert anew.get_params() == default.get_params()
    for rows in (X, X.astype(np.float32)):
        anew.set_params(random_state=0).fit(rows)
        default.set_params(random_state=0).fit(rows)
        assert_array_equal(anew.predict(rows), default.predict(rows))
        assert anew.score(rows) == default.score(rows)


def test_a_lower_bound_is_the_mean_of_a_row_of_the_data_and_not_a_number_without():
    fitted = GaussianMixture(3, random_state=0, tol=1e-12, max_iter=500).fit(X)
    params = interop.from_sklearn(fitted)
    # A loss with a log prior in it, say.
    fit = fit_of(params, 1000.0)
    assert np.isnan(interop.to_sklearn(params).lower_bound_)
    assert np.isnan(interop.to_sklearn(fit).lower_bound_)
    assert interop.to_sklearn(fit).converged_
    assert_allclose(interop.to_sklearn(fit, X).lower_bound_, fitted.lower_bound_, rtol=1e-9)
    weights = np.arange(60) % 4
    expected = np.average(fitted.score_samples(X), weights=weights)
    assert_allclose(interop.to_sklearn(params, X, weights=weights).lower_bound_, expected, rtol=1e-9)
    assert_allclose(interop.to_sklearn(params, as_data(X, weights)).lower_bound_, expected, rtol=1e-9)
    with pytest.raises(ValueError, match="give `x` too"):
        interop.to_sklearn(fit, weights=weights)


def test_an_inertia_is_the_sum_of_the_data_or_the_loss_of_the_fit():
    centers, weights = jnp.asarray(X[:3]), np.arange(60) % 4
    assert np.isnan(interop.to_sklearn(centers).inertia_)
    assert interop.to_sklearn(fit_of(centers, 7.0)).inertia_ == 7.0
    estimator = interop.to_sklearn(fit_of(centers, 7.0), X, weights=weights)
    assert_allclose(estimator.inertia_, -estimator.score(X, sample_weight=weights), rtol=1e-12)


def test_scikit_learn_draws_from_any_mixture_of_float32():
    # Of a wide range: the sum of all weights but the last is 1 + 1e-8 for a fifth of them.
    logits = np.random.default_rng(0).normal(scale=10.0, size=(300, 4)).astype(np.float32)
    log_weights = np.asarray(jax.nn.log_softmax(logits, axis=1))
    unit = gmm.Spherical(jnp.ones(4, jnp.float32))
    for row in log_weights:
        components = mixture.Normal(jnp.zeros((4, 1), jnp.float32), unit)
        estimator = interop.to_sklearn(mixture.Mixture(jnp.asarray(row), components))
        assert estimator.sample(3)[0].shape == (3, 1)
        assert_allclose(estimator.weights_, np.exp(row.astype(float)), rtol=1e-6)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_scikit_learn_predicts_with_mixtures_of_ours(covariance):
    params = made(covariance)
    estimator = interop.to_sklearn(params)
    assert_allclose(estimator.score_samples(NEW), gmm.log_prob(params, NEW), rtol=1e-9)
    assert_array_equal(estimator.predict(NEW), gmm.predict(params, NEW))
    assert estimator.sample(5)[0].shape == (5, X.shape[1])
    assert_allclose(interop.from_sklearn(estimator).covariances, params.covariances, rtol=1e-9)


def test_inactive_components_at_the_end_are_left_out_and_elsewhere_rejected():
    off = jnp.concatenate([X[:3], jnp.full((2, X.shape[1]), jnp.inf)])
    assert_array_equal(interop.to_sklearn(off).cluster_centers_, X[:3])
    with pytest.raises(ValueError, match="must come last"):
        interop.to_sklearn(off[::-1])
    params = made(gmm.Full)._replace(log_weights=jnp.log(jnp.array([0.5, 0.5, 0.0])))
    estimator = interop.to_sklearn(params)
    assert estimator.n_components == 2
    assert_array_equal(estimator.predict(NEW), gmm.predict(params, NEW))


def test_equal_centers_are_kept():
    centers = jnp.zeros((3, 2))
    assert_array_equal(interop.to_sklearn(centers).cluster_centers_, centers)


def test_other_estimators_and_failed_fits_are_rejected():
    for other, words in ((BisectingKMeans, "the tree of bisections"), (BayesianGaussianMixture, "over a posterior")):
        message = f"must be a KMeans, MiniBatchKMeans or GaussianMixture, got {other.__name__}. .*{words}"
        with pytest.raises(ValueError, match=message):
            interop.from_sklearn(other())
    with pytest.raises(ValueError, match="got ndarray"):
        interop.from_sklearn(X)
    with pytest.raises(ValueError, match="is not fitted"):
        interop.from_sklearn(GaussianMixture(2))
    with pytest.raises(ValueError, match="`to_sklearn` is for the host"):
        jax.jit(interop.to_sklearn)(jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match="those of one fit"):
        interop.to_sklearn(jnp.zeros((2, 3, 2)))
    params = made(gmm.Full)
    with pytest.raises(ValueError, match="this fit failed"):
        interop.to_sklearn(jax.tree.map(lambda leaf: leaf * jnp.nan, params))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_distribution_of_numpyro_has_the_same_density(covariance):
    pytest.importorskip("numpyro")
    params = made(covariance)
    with jax.numpy_rank_promotion("allow"):
        distribution = interop.to_numpyro(params)
        assert_allclose(distribution.log_prob(NEW), gmm.log_prob(params, NEW), rtol=1e-9)
