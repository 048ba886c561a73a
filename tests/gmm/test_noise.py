"""The noise that rows are known up to: its scale, the loss that EM never raises, and fits that end finite."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from sklearn import datasets

from jaxmix import Status, as_data, gmm, solve
from jaxmix.mixture.components.gaussian import noise
from tests import oracles
from tests.mixtures import EVERY_FAMILY

RANDOM = np.random.default_rng(0)
KEY = jax.random.key(0)
TWO = np.concatenate([RANDOM.normal(size=(60, 3)), RANDOM.normal(size=(60, 3)) + 6])


def spread(x: Any, weights: Any = None) -> np.ndarray:
    return np.asarray(noise.scales(as_data(x, weights))[0])


def shortest(column: np.ndarray) -> float:
    """The shortest interval with an eighth of the rows, by trying each."""
    count = -(-len(column) // 8)
    ordered = np.sort(column)
    return min(ordered[i + count - 1] - ordered[i] for i in range(len(column) - count + 1))


def test_the_spread_is_the_shortest_interval_of_an_eighth_in_normal_units():
    x = RANDOM.normal(size=(203, 2)) * [1.0, 50.0]
    unit = 2 * float(stats.norm.ppf((1 + 1 / 8) / 2))
    np.testing.assert_allclose(spread(x), [shortest(column) / unit for column in x.T], rtol=1e-3)
    many = spread(RANDOM.normal(size=(1000, 1)))[0]
    assert 0.5 < many < 1.1


def test_the_spread_of_rows_that_are_equal_is_that_of_the_others():
    # Of a binary feature half the values' distance; a constant one takes the least of the others, or 1.
    binary = np.where(np.arange(50) % 3 == 0, 4.0, 1.0)
    x = np.stack([binary, np.full(50, -7.0), np.zeros(50)], axis=1)
    np.testing.assert_allclose(spread(x), [1.5, 1.5, 1.5], rtol=1e-4)


def test_the_spread_moves_with_the_rows_and_not_with_outliers():
    base = spread(TWO)
    np.testing.assert_allclose(spread(TWO + 100.0), base, rtol=1e-10)
    np.testing.assert_array_equal(spread(TWO * [2.0, 0.25, 1024.0]), base * [2.0, 0.25, 1024.0])
    np.testing.assert_array_equal(spread(TWO[::-1]), base)
    np.testing.assert_allclose(spread(np.concatenate([TWO, [[1e9] * 3]])), base, rtol=0.5)
    narrow = np.concatenate([1e-4 * TWO[:60], 1e-4 * TWO[:60] + 0.5])
    assert (spread(narrow) < 1e-3).all()


@pytest.mark.slow
def test_rows_without_weight_are_not_there():
    x = RANDOM.normal(size=(20_000, 2))
    weights = np.zeros(20_000)
    weights[RANDOM.choice(20_000, 40, replace=False)] = 1
    alone = spread(x[weights > 0])
    np.testing.assert_allclose(spread(x, weights), alone, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(noise.scales)(as_data(x, weights))[0], alone, rtol=1e-12)
    assert np.isfinite(gmm.fit(KEY, x, 1, weights=weights).throw().loss)


def test_the_spread_of_few_rows_and_of_many_magnitudes_is_no_accident():
    for n in (6, 12, 16):
        many = np.array([spread(RANDOM.normal(size=(n, 1)))[0] for _ in range(50)])
        assert (many > 0.02).all()
        assert (many < 3).all()
    halves = np.where(np.arange(60)[:, None] % 2, RANDOM.random((60, 2)), 1e-30 * RANDOM.random((60, 2)))
    assert (spread(halves) > 1e-10).all()
    fit = gmm.fit(KEY, halves.astype(np.float32), 2)
    assert fit.status == Status.CONVERGED


def test_a_constant_feature_does_not_widen_round_components():
    values = [
        gmm.fit(KEY, np.c_[TWO, np.full(120, c)].astype(np.float32), 2, covariance=gmm.Spherical) for c in (0, 2020)
    ]
    np.testing.assert_allclose(values[1].params.covariances, values[0].params.covariances, rtol=1e-3)


def test_a_weight_is_as_many_rows():
    counts = RANDOM.integers(0, 4, size=len(TWO))
    np.testing.assert_allclose(spread(TWO, counts), spread(np.repeat(TWO, counts, axis=0)), rtol=1e-14)
    rounded = np.round(TWO)
    np.testing.assert_allclose(spread(rounded, counts), spread(np.repeat(rounded, counts, axis=0)), rtol=1e-14)


def test_traced_rows_have_the_spread_of_concrete_ones():
    for x in (TWO, np.round(TWO), np.full((9, 3), 2.0), TWO[:4], RANDOM.normal(size=(5000, 3))):
        np.testing.assert_allclose(jax.jit(noise.scales)(as_data(x))[0], spread(x), rtol=1e-12)


def test_the_default_is_the_floor_of_the_rows_and_the_loss_can_be_computed_again():
    fit = gmm.fit(KEY, TWO, 2, restarts=2)
    floor = gmm.noise_floor(TWO)
    np.testing.assert_allclose(floor, 1e-10 * spread(TWO) ** 2, rtol=1e-12)
    same = gmm.fit(KEY, TWO, 2, restarts=2, regularization=floor)
    np.testing.assert_allclose(same.loss, fit.loss, rtol=1e-13)
    problem = gmm.GaussianMixture(regularization=floor)
    np.testing.assert_allclose(solve.objective(problem, fit.params, TWO), fit.loss, rtol=1e-13)
    np.testing.assert_allclose(solve.objective(gmm.GaussianMixture(), fit.params, TWO), fit.loss, rtol=1e-13)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_the_loss_is_that_of_rows_with_noise(family):
    variances = np.array([0.3, 0.1, 0.2])
    problem = gmm.GaussianMixture(family, regularization=variances)
    fit = solve.run(problem, solve.EM(), gmm.start.from_labels(np.arange(120) // 60, TWO, 2, problem=problem), TWO)
    expected = oracles.mixture_loss(fit.params, TWO, np.ones(120), variances)[0]
    np.testing.assert_allclose(fit.loss, expected, rtol=1e-12)
    # Its expected log density is that of rows with noise, which draws show.
    errors = np.sqrt(variances) * np.random.default_rng(1).normal(size=(400, 120, 3))
    draws = [oracles.mixture_loss(fit.params, TWO + error, np.ones(120))[0] for error in errors]
    # Noise that is the same for all components commutes with the sum over them where these are far apart.
    assert abs(np.mean(draws) - expected) < 5 * np.std(draws) / 20 + 0.2


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_step_of_em_maximizes_the_loss_with_noise(family):
    problem = gmm.GaussianMixture(family, regularization=np.array([0.3, 0.1, 0.2]))
    start = gmm.start.from_labels(np.arange(120) // 60, TWO, 2, problem=problem)
    fit = solve.run(problem, solve.EM(), start, TWO, atol=0.0, max_steps=100)
    objective = solve.make_objective(problem, fit.params, TWO)
    anchor = objective.unconstrain(fit.params)
    gradient = objective.value_and_grad(objective.free(anchor), anchor)[1]
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-6
    assert np.diff(fit.trace).max() <= 1e-13 * abs(float(fit.loss))


@pytest.mark.slow
def test_gradients_descend_on_the_same_loss():
    problem = gmm.GaussianMixture(regularization=0.1)
    start = gmm.start.from_labels(np.arange(120) % 2, TWO, 2, problem=problem)
    em = solve.run(problem, solve.EM(), start, TWO, max_steps=300, atol=1e-10)
    lbfgs = solve.run(problem, solve.LBFGS(), start, TWO, max_steps=300, atol=1e-9)
    adam = solve.run(problem, solve.Optax(optax.adam, learning_rate=0.05), start, TWO, max_steps=600)
    np.testing.assert_allclose([lbfgs.loss, adam.loss], em.loss, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", [gmm.Full, gmm.Diagonal, gmm.Tied])
def test_where_maximum_likelihood_is_regular_the_likelihood_is_its_own(family):
    x = np.concatenate([RANDOM.normal(size=(60, 3)), RANDOM.normal(size=(60, 3)) + 50])
    options: Any = {"covariance": family, "restarts": 2}
    found, plain = gmm.fit(KEY, x, 2, **options), gmm.fit(KEY, x, 2, regularization=0.0, **options)
    values = [float(gmm.log_likelihood(fit.params, x)) for fit in (found, plain)]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-9)


def test_narrow_clusters_keep_their_width():
    x = np.concatenate([1e-4 * RANDOM.normal(size=(500, 2)), 1e-4 * RANDOM.normal(size=(500, 2)) + 0.5])
    for dtype in (np.float32, np.float64):
        fit = gmm.fit(KEY, x.astype(dtype), 2, restarts=2).throw()
        widths = np.sqrt(np.diagonal(fit.params.covariances, axis1=1, axis2=2))
        np.testing.assert_allclose(widths, 1e-4, rtol=0.1)


def test_no_fit_of_the_diabetes_data_ends_because_its_loss_rose():
    x = np.asarray(cast(Any, datasets.load_diabetes()).data)
    fits = gmm.fit_restarts(KEY, x, 4, restarts=20, max_steps=300)
    assert set(np.asarray(fits.status)) <= {Status.CONVERGED, Status.MAX_STEPS}
    assert np.diff(fits.trace, axis=1).max() <= 1e-9 * np.abs(fits.loss).min()
    assert float(fits.loss.min()) < -11_147


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_what_noise_does_to_a_family_follows_from_its_densities_and_moments(family):
    params = gmm.start.from_labels(np.arange(120) // 60, TWO, 2, problem=gmm.GaussianMixture(family)).components
    variances, squares = jnp.array([0.3, 0.1, 0.2]), jnp.array([[1.0, 2.0, 3.0], [0.5, 0.0, 4.0]])
    covariance: Any = params.covariance
    prepared = covariance.prepare(params.means)
    expected = [np.trace(np.linalg.solve(one, np.diag(variances))) for one in np.asarray(params.covariances)]
    each = jnp.broadcast_to(variances[None], (2, 3))
    np.testing.assert_allclose(covariance.noise_traces(prepared, each), expected, rtol=1e-12)
    plain = covariance.moments(squares, jnp.zeros((2, 3)), jnp.eye(3))[1]
    np.testing.assert_allclose(covariance.noise_moments(squares), plain, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("num_rows", [24, 1000])
def test_rows_of_equal_weight_have_the_noise_of_rows_without_weights(num_rows):
    x = np.random.default_rng(num_rows).normal(size=(num_rows, 2))
    floor, weights = gmm.noise_floor(x), np.full(num_rows, 1e-12)
    traced = jax.jit(lambda x, weights: gmm.noise_floor(x, weights=weights))(x, weights)
    for found in (gmm.noise_floor(x, weights=weights), traced):
        np.testing.assert_allclose(found, floor, rtol=1e-12)


def test_a_regularization_of_another_width_is_rejected():
    with pytest.raises(ValueError, match=r"`regularization` must be one number, or have shape \(2,\).* got \(3,\)"):
        gmm.fit(KEY, np.eye(4, 2), 1, regularization=np.ones(3))
    with pytest.raises(ValueError, match=r"`regularization` must be finite and at least 0, but 1 variances are not"):
        gmm.fit(KEY, np.eye(4, 2), 1, regularization=np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match=r"`regularization` must hold real numbers, but it holds strings"):
        gmm.fit(KEY, np.eye(4, 2), 1, regularization=np.array(["1", "2"]))
