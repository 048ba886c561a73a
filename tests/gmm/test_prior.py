"""Conjugate priors: the closed forms, scipy's densities, and what a prior is for."""

from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EXACT, blobs, from_docs
from mixtures import em_step, exact, loss, make
from scipy import stats

from jaxmix import Blocks, Status, as_data, gmm, solve

FAMILIES = [gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical]
K, D = 3, 2
X = blobs(40, D, K, spread=3.0)
WEIGHTS = np.random.default_rng(1).integers(0, 3, size=40).astype(float)
DATA = as_data(X, WEIGHTS)
MEAN, SCALE = np.array([0.3, -1.2]), np.array([[2.0, 0.7], [0.7, 1.0]])
PRIOR = gmm.NormalInverseWishart(MEAN, 0.7, 4.5, SCALE, 2.5)


EVERY_FAMILY = [
    pytest.param(family, id=family.__name__, marks=[] if family in (gmm.Full, gmm.TiedSpherical) else pytest.mark.slow)
    for family in FAMILIES
]
"""The most and the least free in the suite, the others with the slow tests."""


@pytest.fixture(params=FAMILIES, ids=lambda family: family.__name__)
def family(request):
    return request.param


def tied(family):
    return "Tied" in family.__name__


def mixture(family, seed=0):
    """Not at a maximum of anything: parameters to start a step from."""
    shares = np.random.default_rng(seed).dirichlet(np.ones(K), size=40)
    return gmm.start.from_responsibilities(shares, DATA, problem=exact(family))


def step(params, prior, data=DATA):
    return gmm.m_step(gmm.e_step(params, data), params, prior=prior)


def closed_form(family, resp, prior, scale=SCALE):
    """Fraley and Raftery (2007), section 3, in NumPy: weights, means, dense covariances."""
    kappa, nu, alpha = float(prior.shrinkage), float(prior.degrees_of_freedom), float(prior.concentration)
    counts = resp.sum(0)
    xbar = resp.T @ X / counts[:, None]
    means = (counts[:, None] * xbar + kappa * MEAN) / (counts + kappa)[:, None]
    one = float(kappa > 0)
    scatter = np.stack([(resp[:, k, None] * (X - xbar[k])).T @ (X - xbar[k]) for k in range(K)])
    pull = (kappa * counts / (kappa + counts))[:, None, None] * (xbar - MEAN)[:, :, None] * (xbar - MEAN)[:, None, :]
    numerator = (scale + (scatter + pull).sum(0))[None] if tied(family) else scale + scatter + pull
    total = np.array([counts.sum()]) if tied(family) else counts
    means_in = K * one if tied(family) else one
    if "Spherical" in family.__name__:
        trace = np.trace(numerator, axis1=1, axis2=2)
        covariances = (trace / (D * total + nu + 2 + D * means_in))[:, None, None] * np.eye(D)
    else:
        own = nu + 2 if "Diagonal" in family.__name__ else nu + D + 1
        covariances = numerator / (total + own + means_in)[:, None, None]
        covariances = covariances * np.eye(D) if "Diagonal" in family.__name__ else covariances
    weights = (counts + alpha - 1) / (counts + alpha - 1).sum()
    return weights, means, np.broadcast_to(covariances, (K, D, D))


def log_prior(params, prior):
    """By scipy's densities."""
    family, nu = type(params.covariance), prior.degrees_of_freedom
    covariances = np.asarray(params.covariances)
    total = stats.dirichlet(np.full(K, prior.concentration)).logpdf(np.asarray(params.weights))
    for mean, covariance in zip(np.asarray(params.means), covariances, strict=True):
        total += stats.multivariate_normal(prior.mean, covariance / prior.shrinkage).logpdf(mean)
    for covariance in covariances[:1] if tied(family) else covariances:
        if "Spherical" in family.__name__:
            total += cast(Any, stats.invgamma)(nu / 2, scale=np.trace(prior.scale) / 2).logpdf(covariance[0, 0])
        elif "Diagonal" in family.__name__:
            total += cast(Any, stats.invgamma)(nu / 2, scale=np.diag(prior.scale) / 2).logpdf(np.diag(covariance)).sum()
        else:
            total += stats.invwishart(nu, prior.scale).logpdf(covariance)
    return total


@pytest.mark.parametrize("change", [{}, {"shrinkage": 0.0}, {"scale": np.outer([1.0, -2.0], [1.0, -2.0])}])
def test_m_step_is_the_closed_form(family, change):
    fields = {"mean": MEAN, "shrinkage": 0.7, "degrees_of_freedom": 4.5, "scale": SCALE, "concentration": 2.5} | change
    prior, params = gmm.NormalInverseWishart(**fields), mixture(family)
    resp = WEIGHTS[:, None] * np.asarray(gmm.responsibilities(params, X))
    after = step(params, prior)
    weights, means, covariances = closed_form(family, resp, prior, fields["scale"])
    np.testing.assert_allclose(after.weights, weights, rtol=1e-11)
    np.testing.assert_allclose(after.means, means, rtol=1e-11)
    np.testing.assert_allclose(after.covariances, covariances, rtol=1e-11, atol=1e-13)


def test_m_step_is_where_q_and_the_prior_together_have_no_slope(family):
    problem, params = gmm.GaussianMixture(family, PRIOR), mixture(family)
    resp = jnp.asarray(WEIGHTS)[:, None] * gmm.responsibilities(params, X)

    def value(free):
        moved = problem.constrain(free)
        return jnp.sum(resp * gmm.log_joint(moved, X)) - problem.penalty(moved)

    free = problem.unconstrain(step(params, PRIOR))
    gradient = jax.jit(jax.grad(value))(free)
    chex.assert_trees_all_close(gradient, jax.tree.map(jnp.zeros_like, gradient), atol=1e-8)


def test_penalty_is_minus_the_log_density_of_the_prior_up_to_a_constant(family):
    problem = gmm.GaussianMixture(family, PRIOR)
    points = [mixture(family), mixture(family, seed=1), step(mixture(family), PRIOR)]
    sums = [float(problem.penalty(params)) + log_prior(params, PRIOR) for params in points]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-11)
    # The densities differ, so that the sums could.
    assert np.ptp([log_prior(params, PRIOR) for params in points]) > 0.5
    assert EXACT.penalty(points[0]) == 0


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_the_penalised_loss_never_rises(family):
    start = mixture(family)
    for alpha in (1.0, 2.0):
        problem = gmm.GaussianMixture(family, gmm.NormalInverseWishart(MEAN, 0.7, 4.5, SCALE, alpha), 0.0)
        fit = solve.run(problem, solve.EM(), start, DATA, max_steps=60)
        trace = np.asarray(fit.trace)[: int(fit.num_steps) + 1]
        assert len(trace) > 20
        assert (np.diff(trace) <= 1e-13 * np.abs(trace[0])).all()
        assert trace[-1] < trace[0] - 1e-3
        np.testing.assert_allclose(fit.loss, loss(problem, fit.params, DATA) + problem.penalty(fit.params), rtol=1e-13)


def test_the_more_rows_the_less_prior(family):
    params = mixture(family)
    expected = step(params, None)
    gaps = []
    for factor in (1e2, 1e4, 1e10):
        after = step(params, PRIOR, as_data(X, factor * WEIGHTS))
        pairs = ((after.log_weights, expected.log_weights), (after.means, expected.means))
        gaps.append(max(float(jnp.abs(a - b).max()) for a, b in pairs))
        gaps[-1] += float(jnp.abs(after.covariances - expected.covariances).max())
    assert gaps[0] > 50 * gaps[1]
    assert gaps[2] < 1e-8


def test_penalty_has_the_derivatives_of_finite_differences(family):
    start = mixture(family)
    free = EXACT.unconstrain(start)
    direction = jax.tree.map(lambda leaf: jnp.asarray(np.random.default_rng(5).normal(size=leaf.shape)), free)
    # Equal eigenvalues of the scale, where those of a naive root have no derivatives.
    fields = (jnp.asarray(MEAN), jnp.array(0.7), jnp.array(4.5), jnp.eye(D), jnp.array(2.5))
    slopes = (jnp.ones(D), jnp.array(1.0), jnp.array(-1.0), jnp.asarray(SCALE), jnp.array(0.5))

    def value(t):
        moved = EXACT.constrain(jax.tree.map(lambda a, b: a + t * b, free, direction))
        prior = gmm.NormalInverseWishart(*(a + t * b for a, b in zip(fields, slopes, strict=True)))
        return gmm.GaussianMixture(family, prior).penalty(moved)

    compiled, h = jax.jit(jax.value_and_grad(value)), 1e-5
    numeric = (compiled(h)[0] - compiled(-h)[0]) / (2 * h)
    np.testing.assert_allclose(compiled(0.0)[1], numeric, rtol=1e-7)


def test_a_component_that_is_off_has_no_part_in_the_penalty_or_its_gradient(family):
    problem = gmm.GaussianMixture(family, PRIOR)
    off = mixture(family)._replace(log_weights=jnp.log(jnp.array([0.5, 0.0, 0.5])))
    gradient = jax.jit(jax.grad(problem.penalty))(off)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    np.testing.assert_array_equal(gradient.means[1], 0)
    assert (np.asarray(gradient.means)[[0, 2]] != 0).all()
    after = step(off, PRIOR)
    assert after.log_weights[1] == -jnp.inf
    np.testing.assert_array_equal(after.means[1], off.means[1])
    if not tied(family):
        np.testing.assert_array_equal(after.covariances[1], off.covariances[1])


@pytest.mark.parametrize(
    "family",
    [gmm.Full, pytest.param(gmm.Tied, marks=pytest.mark.slow), pytest.param(gmm.Spherical, marks=pytest.mark.slow)],
)
def test_a_fit_with_a_component_off_is_the_fit_of_the_others(family):
    problem = gmm.GaussianMixture(family, PRIOR)
    off = mixture(family)._replace(log_weights=jnp.log(jnp.array([0.3, 0.0, 0.7])))
    kept = jnp.array([0, 2])
    covariance = off.covariance if tied(family) else jax.tree.map(lambda leaf: leaf[kept], off.covariance)
    two = make(off.log_weights[kept], off.means[kept], covariance)
    whole, alone = (solve.run(problem, solve.EM(), start, DATA, max_steps=25) for start in (off, two))
    np.testing.assert_allclose(whole.trace, alone.trace, rtol=1e-12)
    np.testing.assert_allclose(whole.params.means[kept], alone.params.means, rtol=1e-9)
    np.testing.assert_allclose(whole.params.covariances[kept], alone.params.covariances, rtol=1e-9)
    assert whole.params.log_weights[1] == -jnp.inf
    # The same from centers at infinity, which a prior must not call back.
    centers = np.array([X[0], [np.inf, np.inf], X[1]])
    assert gmm.start.from_centers(centers, DATA, problem=problem).log_weights[1] == -jnp.inf


def test_a_component_without_rows_goes_to_the_mode_of_the_prior_and_stays_on(family):
    labels = np.arange(40) % 2
    for alpha in (1.0, 2.5):
        prior = gmm.NormalInverseWishart(MEAN, 0.7, 4.5, SCALE, alpha)
        problem = gmm.GaussianMixture(family, prior)
        start = gmm.start.from_labels(labels, DATA, K, problem=problem)
        np.testing.assert_allclose(start.means[2], MEAN, rtol=1e-13)
        if not tied(family):
            gradient = jax.jit(jax.grad(problem.penalty))(start)
            np.testing.assert_allclose(gradient.means[2], 0, atol=1e-12)
            assert all(np.allclose(leaf[2], 0, atol=1e-9) for leaf in jax.tree.leaves(gradient.covariance))
        assert np.isfinite(start.log_weights).all()
        assert start.weights[2] < 1e-300 if alpha == 1 else start.weights[2] > 1e-3
        fit = solve.run(problem, solve.EM(), start, DATA, max_steps=60)
        trace = np.asarray(fit.trace)[: int(fit.num_steps) + 1]
        assert (np.diff(trace) <= 1e-13 * np.abs(trace[0])).all()


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_rows_come_back_to_a_component_that_lost_them(alpha):
    near, far = (
        0.1 * np.random.default_rng(0).normal(size=(30, 2)),
        np.array([[100.0, 0.0], [100.1, 0.0], [100.0, 0.1]]),
    )
    data = as_data(np.concatenate([near, far]))
    # Widths that the prior holds, so that what is alone cannot stretch over everything.
    prior = gmm.NormalInverseWishart(np.zeros(2), 0.01, 1e8, 1e6 * np.eye(2), alpha)
    covariance = gmm.Full(jnp.tile(0.1 * jnp.eye(2)[None], (2, 1, 1)))
    start = make(jnp.log(jnp.array([0.9, 0.1])), jnp.array([[0.0, 0.0], [1e4, 0.0]]), covariance)
    seen = gmm.e_step(start, data)
    assert seen.counts[1] == 0
    assert np.isfinite(gmm.m_step(seen, start, prior=prior).log_weights[1])
    fit = solve.run(gmm.GaussianMixture(prior=prior), solve.EM(), start, data, max_steps=100, atol=1e-12).throw()
    np.testing.assert_allclose(np.sort(gmm.e_step(fit.params, data).counts), [3, 30], rtol=1e-9)
    without = solve.run(EXACT, solve.EM(), start, data, max_steps=100, atol=1e-12)
    assert without.params.log_weights[1] == -jnp.inf


WIDE = np.random.default_rng(3).normal(size=(10, 3))


@pytest.mark.parametrize(
    ("x", "num_rows"),
    [(np.ones((10, 3)), 10), (WIDE, 2), (WIDE, 1), (WIDE[:, [0, 1, 0]], 10), (WIDE[:, [0, 0, 0]], 2)],
    ids=["all rows equal", "N = K < D", "one row", "collinear columns", "equal columns"],
)
@pytest.mark.parametrize("family", [gmm.Full, pytest.param(gmm.Tied, marks=pytest.mark.slow)])
def test_what_is_singular_by_likelihood_has_a_map(family, x, num_rows):
    data = as_data(x, (np.arange(10) < num_rows).astype(float))
    problem = gmm.GaussianMixture(family, gmm.NormalInverseWishart(np.zeros(3), 0.01, 5.0, np.eye(3)))
    # On top of a row, where the likelihood has no bound.
    start = gmm.start.from_labels((np.arange(10) > 0).astype(int), data, 2, problem=problem)
    fit = solve.run(problem, solve.EM(), start, data, max_steps=3000, atol=1e-9).throw()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((fit.loss, fit.params)))
    # C is at least scale / (N + nu + D + 2), or with one more for the second mean.
    least = np.linalg.eigvalsh(fit.params.covariances).min()
    assert least >= (1 - 1e-9) / (num_rows + (11 if family is gmm.Tied else 10))


@pytest.mark.slow
def test_a_sweep_over_the_strength_is_each_of_its_fits():
    start = mixture(gmm.Full)

    @jax.jit
    @jax.vmap
    def fitted(kappa, nu, size, alpha):
        prior = gmm.NormalInverseWishart(MEAN, kappa, nu, size * SCALE, alpha)
        return solve.run(gmm.GaussianMixture(prior=prior), solve.EM(), start, DATA, max_steps=15)

    grid = jnp.array([[0.0, 2.0, 0.1, 1.0], [0.7, 4.5, 1.0, 2.5], [50.0, 30.0, 9.0, 1.0]])
    fits = fitted(*grid.T)
    for i, (kappa, nu, size, alpha) in enumerate(grid):
        problem = gmm.GaussianMixture(prior=gmm.NormalInverseWishart(MEAN, kappa, nu, size * SCALE, alpha))
        alone = solve.run(problem, solve.EM(), start, DATA, max_steps=15)
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=i: leaf[i], fits), alone, rtol=1e-9, atol=1e-9)
    # The stronger, the nearer to its mean.
    assert (np.diff(np.abs(fits.params.means - MEAN[None, None]).max(axis=(1, 2))) < 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", [gmm.Full, pytest.param(gmm.TiedSpherical, marks=pytest.mark.slow)])
def test_blocks_count_the_prior_once(family):
    problem = gmm.GaussianMixture(family, PRIOR)
    whole = solve.run(problem, solve.EM(), mixture(family), DATA, max_steps=8)
    blocked = solve.run(problem, solve.EM(), mixture(family), DATA, max_steps=8, reduce=Blocks(16))
    chex.assert_trees_all_close(whole, blocked, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver", [pytest.param(solve.Squarem(), marks=pytest.mark.slow), solve.LBFGS()], ids=["squarem", "lbfgs"]
)
def test_other_solvers_find_the_same_map(solver):
    problem = gmm.GaussianMixture(prior=PRIOR)
    start = mixture(gmm.Full)
    em = solve.run(problem, solve.EM(), start, DATA, max_steps=2000, atol=1e-13)
    other = solve.run(problem, solver, start, DATA, max_steps=300, atol=1e-13)
    np.testing.assert_allclose(other.loss, em.loss, rtol=1e-8)


def low_and_high(tree):
    low = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)
    return low, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), low)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [pytest.param(0.0, marks=pytest.mark.slow), 1e4])
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_steps_in_float32_far_from_the_origin_are_those_in_float64(family, offset):
    data, wide_data = low_and_high(as_data((X + offset).astype(np.float32)))
    prior, wide_prior = low_and_high(gmm.fraley_raftery(data, K, covariance=family))
    problem, wide = gmm.GaussianMixture(family, prior), gmm.GaussianMixture(family, wide_prior)
    params = gmm.start.from_labels(np.arange(40) % 2, data, K, problem=problem)
    for _ in range(3):
        # From the same place each time: where a float32 mean can stand is not what is asked.
        params, wide_params = low_and_high(params)
        expected = em_step(wide, wide_params, wide_data)
        np.testing.assert_allclose(problem.penalty(params), wide.penalty(wide_params), rtol=1e-5, atol=1e-5)
        params = em_step(problem, params, data)
        assert params.means.dtype == params.covariances.dtype == jnp.float32
        np.testing.assert_allclose(params.covariances, expected.covariances, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(params.means, expected.means, rtol=2e-7, atol=1e-5)


def test_a_far_jump_to_the_mode_keeps_small_covariances_in_float32():
    # Features of sizes 1e-4 and 1e4, highly correlated, and a component that comes from far away.
    widths = np.array([1e-4, 1e4])
    scale = (widths[:, None] * widths * np.array([[1.0, 0.9], [0.9, 1.0]])).astype(np.float32)
    prior = gmm.NormalInverseWishart(jnp.asarray(3e3 * widths, jnp.float32), 0.5, 4.0, scale)
    start = make(
        jnp.zeros(1, jnp.float32), jnp.zeros((1, 2), jnp.float32), gmm.Full(jnp.eye(2, dtype=jnp.float32)[None])
    )
    nothing = gmm.Stats(jnp.zeros(()), jnp.zeros(1), gmm.Moments(jnp.zeros((1, 2)), jnp.zeros((1, 2, 2))))
    nothing = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), nothing)
    after = gmm.m_step(nothing, start, prior=prior)
    np.testing.assert_allclose(after.means[0], prior.mean, rtol=1e-6)
    np.testing.assert_allclose(after.covariances[0], scale / 8, rtol=1e-5)


def test_fraley_raftery_is_the_scaled_covariance_of_the_rows(family):
    prior = gmm.fraley_raftery(DATA, 4, covariance=family)
    repeated = np.repeat(X, WEIGHTS.astype(int), axis=0)
    covariance = np.cov(repeated.T) / 4 ** (2 / D)
    variance = np.trace(covariance) / D
    if family in (gmm.Full, gmm.Tied):
        np.testing.assert_allclose(prior.scale, covariance, rtol=1e-11)
    elif "Diagonal" in family.__name__:
        np.testing.assert_allclose(prior.scale, variance * np.eye(D), rtol=1e-11)
    else:
        np.testing.assert_allclose(np.trace(prior.scale), variance, rtol=1e-11)
    np.testing.assert_allclose(prior.mean, repeated.mean(0), rtol=1e-12)
    assert (prior.shrinkage, prior.degrees_of_freedom, prior.concentration) == (0.01, D + 2, 1.0)
    one = gmm.fraley_raftery(X[:, :1], 4, covariance=family)
    np.testing.assert_allclose(one.scale, [[X[:, 0].var(ddof=1) / 16]], rtol=1e-11)


@pytest.mark.slow
def test_a_family_of_ones_own_has_a_scale_of_the_trace_that_full_families_have():
    # Five features and two numbers a covariance: no count of numbers tells the form of its prior.
    exchangeable = from_docs("extend.md", "Exchangeable").Exchangeable
    x = 2.0 * np.random.default_rng(0).normal(size=(50, 1)) + np.random.default_rng(1).normal(size=(50, 5))
    own, full = (gmm.fraley_raftery(x, 3, covariance=family) for family in (exchangeable, gmm.Full))
    np.testing.assert_array_equal(own.scale, full.scale)
    np.testing.assert_allclose(np.trace(own.scale), np.trace(np.cov(x.T)) / 3 ** (2 / 5), rtol=1e-12)
    fit = gmm.fit(jax.random.key(0), x, 3, covariance=exchangeable, prior=own, restarts=2, max_steps=200).throw()
    assert (np.diff(fit.trace) <= 1e-13 * abs(fit.trace[0])).all()


def test_fraley_raftery_says_when_rows_are_too_few():
    for x, weights in ((X[:1], None), (X, np.full(40, 1 / 40))):
        with pytest.raises(ValueError, match="must sum to more than 1"):
            gmm.fraley_raftery(as_data(x, weights), 1)
        hidden = jax.jit(lambda x, w: gmm.fraley_raftery(as_data(x, w), 1).scale)
        assert np.isnan(hidden(x, np.ones(len(x)) if weights is None else weights)).all()
    with pytest.raises(ValueError, match="`k` must be between 1 and"):
        gmm.fraley_raftery(X, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"concentration": 0.5}, "`prior.concentration` must be at least 1, got 0.5"),
        ({"shrinkage": -1.0}, "`prior.shrinkage` must be finite and at least 0"),
        ({"degrees_of_freedom": np.nan}, "`prior.degrees_of_freedom` must be finite and at least -3"),
        ({"shrinkage": np.ones(3)}, r"`prior.shrinkage` must be one real number, got float64 of shape \(3,\)"),
        ({"mean": np.array([np.nan, 0.0])}, "`prior.mean` must be finite"),
        ({"scale": np.diag([1.0, -1e-9])}, "`prior.scale` must be finite, symmetric and positive semi-definite"),
        ({"scale": np.array([[1.0, 2.0], [2.0, 1.0]])}, "`prior.scale` must be finite, symmetric and positive"),
        ({"scale": np.array([[1.0, 0.5], [0.0, 1.0]])}, "`prior.scale` must be finite, symmetric and positive"),
        ({"scale": np.ones(2)}, r"`prior.scale` must have shape \(D, D\)"),
        ({"mean": np.zeros(3), "scale": np.eye(3)}, "A prior for D = 2 features needs"),
    ],
)
def test_what_makes_no_prior_is_refused_or_poisoned(change, message):
    fields = {"mean": MEAN, "shrinkage": 0.7, "degrees_of_freedom": 4.5, "scale": SCALE, "concentration": 2.5} | change
    key = jax.random.key(0)
    prior = gmm.NormalInverseWishart(**fields)
    problem = gmm.GaussianMixture(prior=prior)
    for reduce in (Blocks(), Blocks(16)):
        with pytest.raises(ValueError, match=message):
            gmm.fit(key, X, 2, prior=prior, reduce=reduce)
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda x: gmm.fit(key, x, 2, prior=prior).loss)(X)
    if "shape" not in message and "features" not in message:
        with pytest.raises(ValueError, match=message):
            solve.run(problem, solve.EM(), mixture(gmm.Full), DATA, max_steps=5)

        @jax.jit
        def status(prior):
            # Traced, it cannot be looked at.
            hidden = gmm.GaussianMixture(prior=prior)
            return solve.run(hidden, solve.EM(), mixture(gmm.Full), DATA, max_steps=5).status

        assert status(jax.tree.map(jnp.asarray, prior)) == Status.NONFINITE
        assert not np.isfinite(problem.penalty(mixture(gmm.Full)))


def test_noise_weighs_as_much_as_the_rows_beside_a_prior():
    params = mixture(gmm.Full)
    seen = gmm.e_step(params, DATA)
    plain = gmm.m_step(seen, params, prior=PRIOR)
    added = gmm.GaussianMixture(gmm.Full, PRIOR, 0.25).m_step(seen, params)
    # The prior's pseudo-rows have none.
    denominators = seen.counts + gmm.Full.prior_degrees(jnp.asarray(PRIOR.degrees_of_freedom), D) + 1
    expected = np.asarray(0.25 * seen.counts / denominators)[:, None, None] * np.eye(D)
    np.testing.assert_allclose(added.covariances - plain.covariances, expected, atol=1e-13)
