"""Poisson components, and by them that a mixture may have any component."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxmix
from jaxmix import Blocks, Status, as_data, gmm, mixture, seeding, solve
from jaxmix.frame import Frame

WRONG: dict[str, Any] = {"component": mixture.Poisson, "assignment": gmm.Hard}
MODEL = mixture.MixtureModel(mixture.Poisson())
RATES = np.array([[2.0, 9.0], [12.0, 3.0]])
LABELS = np.arange(200) % 2
X = np.random.default_rng(0).poisson(RATES[LABELS]).astype(float)
DATA = as_data(X, 1.0 + np.arange(200) % 3)
PARAMS = mixture.Mixture(jnp.log(jnp.array([0.3, 0.7])), mixture.Rates(jnp.asarray(RATES)))
JOINT = np.log([0.3, 0.7]) + stats.poisson.logpmf(X[:, None], RATES[None]).sum(axis=2)


def test_densities_are_those_of_scipy():
    np.testing.assert_allclose(mixture.log_joint(PARAMS, X), JOINT, rtol=1e-12)
    evidence = np.logaddexp.reduce(JOINT, axis=1)
    np.testing.assert_allclose(mixture.log_prob(PARAMS, X), evidence, rtol=1e-12)
    np.testing.assert_allclose(mixture.responsibilities(PARAMS, X), np.exp(JOINT - evidence[:, None]), rtol=1e-10)
    np.testing.assert_array_equal(mixture.predict(PARAMS, X), JOINT.argmax(axis=1))
    np.testing.assert_allclose(
        mixture.log_likelihood(PARAMS, X, weights=DATA.weights), DATA.weights @ evidence, rtol=1e-12
    )


def test_a_step_is_that_of_the_textbook():
    fit = solve.run(MODEL, solve.EM(), PARAMS, DATA, max_steps=1)
    shares = np.asarray(DATA.weights)[:, None] * np.exp(JOINT - np.logaddexp.reduce(JOINT, axis=1)[:, None])
    np.testing.assert_allclose(fit.params.weights, shares.sum(0) / shares.sum(), rtol=1e-12)
    np.testing.assert_allclose(fit.params.components.rates, shares.T @ X / shares.sum(0)[:, None], rtol=1e-12)
    np.testing.assert_allclose(fit.trace[0], -DATA.weights @ np.logaddexp.reduce(JOINT, axis=1), rtol=1e-12)


def test_a_fit_finds_the_rates_in_blocks_too():
    fits = [
        jaxmix.fit(MODEL, jax.random.key(0), DATA, 2, restarts=3, max_steps=200, atol=1e-9, reduce=reduce).throw()
        for reduce in (Blocks(), Blocks(64))
    ]
    chex.assert_trees_all_close(fits[0].params, fits[1].params, rtol=1e-9)
    assert (np.diff(fits[0].trace) <= 1e-12 * fits[0].loss).all()
    rates = np.asarray(fits[0].params.components.rates)
    np.testing.assert_allclose(rates[np.argsort(rates[:, 0])], RATES, rtol=0.15)
    assert fits[0].params.num_free_parameters == 5


@pytest.mark.parametrize("solver", [solve.Squarem(), solve.LBFGS()], ids=["squarem", "lbfgs"])
def test_other_solvers_find_the_same_fit(solver):
    em = solve.run(MODEL, solve.EM(), PARAMS, DATA, max_steps=300, atol=1e-12)
    other = solve.run(MODEL, solver, PARAMS, DATA, max_steps=100, atol=1e-12)
    np.testing.assert_allclose(other.loss, em.loss, rtol=1e-9)


def test_statistics_are_the_same_about_any_rates():
    problem, starts = MODEL, jax.tree.map(lambda leaf: leaf + 0.1, PARAMS)
    stats = solve.make_objective(problem, PARAMS, DATA).stats(PARAMS)[0]
    chex.assert_trees_all_equal(problem.recenter(stats, PARAMS, starts), stats)
    assert problem.moved(PARAMS, Frame(jnp.zeros(1))) is None


def test_draws_have_the_moments_of_the_model():
    x, labels = mixture.sample(jax.random.key(0), PARAMS, 40_000)
    np.testing.assert_allclose(np.bincount(labels) / 40_000, [0.3, 0.7], atol=0.01)
    for k in range(2):
        np.testing.assert_allclose(x[labels == k].mean(axis=0), RATES[k], rtol=0.03)
        np.testing.assert_allclose(x[labels == k].var(axis=0), RATES[k], rtol=0.06)


def test_negative_rows_have_no_density_and_end_a_fit():
    x = np.vstack([X, [[-1.0, 2.0]]])
    assert mixture.log_prob(PARAMS, x)[-1] == -jnp.inf
    assert mixture.predict(PARAMS, x)[-1] == -1
    assert solve.run(MODEL, solve.EM(), PARAMS, x, max_steps=5).status == Status.NONFINITE


def test_a_component_without_rows_is_off_and_one_that_is_off_stays():
    off = PARAMS._replace(log_weights=jnp.array([0.0, -jnp.inf]))
    fit = solve.run(MODEL, solve.EM(), off, DATA, max_steps=3)
    assert fit.params.log_weights[1] == -jnp.inf
    np.testing.assert_array_equal(fit.params.components.rates[1], RATES[1])
    np.testing.assert_allclose(fit.params.components.rates[0], DATA.weights @ X / DATA.weights.sum(), rtol=1e-12)
    start = mixture.start.from_labels(np.zeros(200, int), X, 2, problem=MODEL)
    assert start.log_weights.tolist() == [0.0, -np.inf]
    num_active = jaxmix.fit(MODEL, jax.random.key(0), X, 3, num_active=2, max_steps=20, init=seeding.random_rows)
    assert num_active.params.log_weights[2] == -jnp.inf


def test_float32_zero_counts_keep_a_positive_rate():
    x = np.column_stack([X[:, 0], np.zeros(200)]).astype(np.float32)
    fit = solve.run(MODEL, solve.EM(), PARAMS, x, max_steps=20, atol=1e-6)
    assert np.isfinite(fit.loss)
    assert (fit.params.components.rates > 0).all()
    assert np.isfinite(mixture.log_prob(fit.params, x)).all()


def test_mixtures_of_the_wrong_component_are_rejected():
    gaussian = gmm.mixture([1.0], [[0.0, 0.0]], [np.eye(2)])
    with pytest.raises(ValueError, match=r"`init.components` must have the form"):
        jaxmix.fit(MODEL, None, X, 1, init=gaussian)
    with pytest.raises(ValueError, match=r"^`x` has 2 columns, but the model has 3 features"):
        mixture.log_prob(mixture.Mixture(jnp.zeros(1), mixture.Rates(jnp.ones((1, 3)))), X)
    with pytest.raises(ValueError, match="`params` must be a mixture"):
        mixture.log_prob(mixture.Mixture(jnp.zeros(1), mixture.Rates(-jnp.ones((1, 2)))), X)
    with pytest.raises(ValueError, match="give `component=`"):
        mixture.log_prob(mixture.Mixture(jnp.zeros(1), jnp.ones((1, 2))), X)
    with pytest.raises(ValueError, match="`component` must be an instance"):
        solve.run(mixture.MixtureModel(WRONG["component"]), solve.EM(), PARAMS, X)
    with pytest.raises(ValueError, match="`assignment` must be an instance"):
        solve.run(mixture.MixtureModel(mixture.Poisson(), WRONG["assignment"]), solve.EM(), PARAMS, X)
