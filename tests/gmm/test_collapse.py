"""Components that collapse: a fit says which, and the weak prior keeps them from it."""

import functools
import warnings
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets

from jaxmix import gmm, kmeans, solve
from tests.mixtures import EVERY_FAMILY
from tests.pages import DOCS

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
X = np.concatenate([RANDOM.normal(size=(40, 2)), RANDOM.normal(size=(40, 2)) + 8])
EQUAL = np.concatenate([X, np.full((20, 2), -9.0)])
DIABETES = np.asarray(cast(Any, datasets.load_diabetes()).data)


def penalty(params: Any, x: np.ndarray, strength: float) -> float:
    """a sum of tr(S C^-1) + log|C| over the covariances, by NumPy."""
    sample = np.cov(x.T, bias=True) + np.diag(gmm.noise_floor(x))
    covariances = np.asarray(params.covariances)
    distinct = covariances[:1] if "Tied" in type(params.covariance).__name__ else covariances
    return strength * sum(np.trace(np.linalg.solve(c, sample)) + np.linalg.slogdet(c)[1] for c in distinct)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_the_penalty_is_that_of_chen_and_tan(family):
    prior = gmm.weak_prior(X, strength=0.5, covariance=family)
    problem = gmm.GaussianMixture(family, prior, 0.0)
    fit = solve.run(problem, solve.EM(), gmm.start.from_labels(np.arange(80) // 40, X, 2, problem=problem), X)
    start = gmm.start.from_labels(np.arange(80) % 2, X, 2, problem=gmm.GaussianMixture(family, regularization=0.0))
    for params in (fit.params, start):
        expected = -gmm.log_likelihood(params, X) + penalty(params, X, 0.5)
        np.testing.assert_allclose(solve.objective(problem, params, X), expected, rtol=1e-12)
    assert np.diff(fit.trace).max() <= 1e-12 * abs(float(fit.loss))


def test_the_step_adds_as_many_rows_as_the_prior_has():
    params = gmm.start.from_labels(np.arange(80) // 40, X, 2)
    seen = gmm.e_step(params, X)
    plain = gmm.m_step(seen, params)
    found = gmm.m_step(seen, params, prior=gmm.weak_prior(X, strength=3.0))
    counts, sample = np.asarray(seen.counts)[:, None, None], np.cov(X.T, bias=True) + np.diag(gmm.noise_floor(X))
    expected = (counts * np.asarray(plain.covariances) + 6 * sample) / (counts + 6)
    np.testing.assert_allclose(found.covariances, expected, rtol=1e-12)
    np.testing.assert_allclose(found.means, plain.means, rtol=1e-14)


def test_the_strength_is_one_over_the_rows_and_a_weight_is_as_many_rows():
    counts = RANDOM.integers(1, 4, size=len(X))
    weighted, repeated = gmm.weak_prior(X, weights=counts), gmm.weak_prior(np.repeat(X, counts, axis=0))
    for one, other in zip(jax.tree.leaves(weighted), jax.tree.leaves(repeated), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11)
    same = gmm.weak_prior(X, weights=counts, strength=1 / counts.sum())
    np.testing.assert_allclose(same.scale, weighted.scale, rtol=1e-14)
    with pytest.raises(ValueError, match="`strength` must be finite and at least 0"):
        gmm.weak_prior(X, strength=-1.0)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_fit_with_it_scales_with_the_rows(family):
    factor = 1000.0
    fits = []
    for x in (X, factor * X):
        problem = gmm.GaussianMixture(family, gmm.weak_prior(x, covariance=family))
        start = gmm.start.from_labels(np.arange(80) % 2, x, 2, problem=problem)
        fits.append(solve.run(problem, solve.EM(), start, x, max_steps=30))
    np.testing.assert_allclose(fits[1].params.means, factor * fits[0].params.means, rtol=1e-9)
    np.testing.assert_allclose(fits[1].params.covariances, factor**2 * fits[0].params.covariances, rtol=1e-8, atol=1e-3)


@pytest.mark.slow
def test_a_component_on_equal_rows_is_held_up_and_the_prior_holds_it_up_instead():
    fit = gmm.fit(KEY, EQUAL, 3)
    alone = int(jnp.argmin(fit.params.means[:, 0]))
    np.testing.assert_array_equal(fit.held_up, np.arange(3) == alone)
    with pytest.warns(UserWarning, match="1 of 3 components are held up: .*prior=gmm.weak_prior"):
        fit.throw()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits = [gmm.fit(KEY, EQUAL, 3, prior=gmm.weak_prior(EQUAL)), gmm.fit(KEY, X, 2)]
        for each in fits:
            assert not np.any(each.throw().held_up)
    assert kmeans.fit(KEY, X, 2).held_up is None
    assert np.asarray(gmm.fit_restarts(KEY, EQUAL, 3, restarts=2).held_up).shape == (2, 3)


@pytest.mark.slow
def test_many_features_of_little_noise_hold_nothing_up():
    x = RANDOM.normal(size=(300, 100))
    for family in (gmm.Full, gmm.Diagonal):
        assert not np.any(gmm.fit(KEY, x, 1, covariance=family, regularization=1e-2).held_up)


@pytest.mark.slow
def test_a_degenerate_direction_across_features_is_held_up():
    x = RANDOM.normal(size=(60, 4)) @ RANDOM.normal(size=(4, 5))
    assert np.all(gmm.fit(KEY, x, 1).held_up)
    assert np.all(gmm.fit(KEY, x, 2, covariance=gmm.Tied).held_up)


def test_a_component_that_loses_its_rows_goes_to_the_prior_even_beside_a_constant_feature():
    x = np.c_[X, np.full(80, 3.0)]
    prior = gmm.weak_prior(x)
    start = gmm.start.from_centers([[4.0, 4.0, 3.0], [1e4, 1e4, 3.0]], x, problem=gmm.GaussianMixture(prior=prior))
    fit = solve.run(gmm.GaussianMixture(prior=prior), solve.EM(), start, x, max_steps=20)
    assert np.isfinite(fit.trace).all()


@pytest.mark.slow
def test_a_constant_feature_holds_up_every_component():
    x = np.c_[X, np.ones(80)]
    for dtype in (np.float32, np.float64):
        assert np.all(gmm.fit(KEY, x.astype(dtype), 2).held_up)


def test_the_collapse_of_the_diabetes_data_is_reported():
    # One feature has two values: full components of one value each have no variance there.
    fits = gmm.fit_restarts(KEY, DIABETES, 4, restarts=8, max_steps=300)
    assert np.asarray(fits.held_up)[int(jnp.argmin(fits.loss))].any()
    prior = gmm.weak_prior(DIABETES, strength=1.0)
    fits = gmm.fit_restarts(KEY, DIABETES, 4, restarts=8, max_steps=300, prior=prior)
    assert not np.any(fits.held_up)


@pytest.mark.slow
def test_strengths_are_swept_in_one_program():
    def loss(strength):
        return gmm.fit(KEY, X, 2, prior=gmm.weak_prior(X, strength=strength), restarts=2, max_steps=20).loss

    losses = jax.vmap(loss)(jnp.array([0.1, 1.0]))
    np.testing.assert_allclose(losses, [loss(0.1), loss(1.0)], rtol=1e-10)


def held_out(x: np.ndarray, prior: Any) -> float:
    """The mean log-likelihood of a row that a fit has not seen, in five folds."""
    order, total = np.random.default_rng(0).permutation(len(x)), 0.0
    for fold in range(5):
        test = order[fold::5]
        train = np.setdiff1d(order, test)
        fit = gmm.fit(KEY, x[train], 4, prior=prior(x[train]))
        total += float(gmm.log_likelihood(fit.params, x[test]))
    return total / len(x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_held_out_rows_are_as_likely_as_the_page_says(name):
    x = np.asarray(cast(Any, getattr(datasets, f"load_{name}")()).data)
    priors: list[Any] = [lambda x: None, gmm.weak_prior]
    priors += [functools.partial(gmm.weak_prior, strength=strength) for strength in (0.1, 1.0, 5.0)]
    priors += [lambda x: gmm.fraley_raftery(x, 4)]
    row = " | ".join([name, *(f"{held_out(x, prior):.1f}" for prior in priors)])
    assert f"| {row} |" in (DOCS / "collapse.md").read_text()
