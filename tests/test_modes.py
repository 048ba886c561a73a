"""JAX's debugging modes: valid calls do not raise under `jax.debug_nans` and strict promotion of dtypes.

`debug_nans` checks the results of compiled programs, and of every operation outside of one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import PROBLEMS, SOLVERS
from mixtures import replace

from jaxmix import Blocks, Status, as_data, gmm, interop, kmeans, metrics, seeding, solve, sweep
from jaxmix.solve import anderson, coordinates, stepwise
from jaxmix.solver import Progress

K = 3
X = np.array([[0.0, 0.3], [0.4, 0.1], [0.2, 1.0], [5.0, 5.2], [5.5, 4.9], [6.0, 6.1]])
WEIGHTS = np.array([1, 2, 1, 0, 1, 3])
LABELS = np.array([0, 0, 0, 1, 1, 1])
KEY = jax.random.key(0)
FAMILIES = [gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal, gmm.TiedSpherical]


@pytest.fixture(autouse=True)
def _modes():
    with jax.debug_nans(True), jax.numpy_dtype_promotion("strict"):
        yield


def families(*quick: type[gmm.Covariance]) -> pytest.MarkDecorator:
    """Every family; all but these are slow."""
    cases = [pytest.param(family, marks=[] if family in quick else pytest.mark.slow) for family in FAMILIES]
    return pytest.mark.parametrize("family", cases)


def mixture(family: type[gmm.Covariance]) -> gmm.Mixture:
    """Two components, and one that is off."""
    return gmm.start.from_labels(LABELS, as_data(X), K, problem=gmm.GaussianMixture(family, regularization=0.1))


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_runs_with_a_center_off_and_its_trace_ends_with_the_loss(solver):
    start = jnp.asarray(X[[0, 3, 3]]).at[2].set(jnp.inf)
    fit = solve.run(kmeans.KMeans(), SOLVERS[solver].solver, start, as_data(X, WEIGHTS), max_steps=3, atol=1e-6)
    np.testing.assert_allclose(fit.loss, oracles.cost(fit.params[:2], X, WEIGHTS), rtol=1e-12)
    np.testing.assert_array_equal(fit.trace[int(fit.num_steps) :], fit.loss)
    assert np.isinf(fit.params[2]).all()


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_solver_runs_on_every_problem(problem, solver):
    case = PROBLEMS[problem]()
    fits = solve.run_many(case.problem, SOLVERS[solver].solver, case.starts, case.data, max_steps=3, num_parallel=2)
    assert np.isfinite(fits.trace).all()


@families(gmm.Full, gmm.TiedSpherical)
def test_every_family_runs_with_a_component_off(family):
    problem, data = gmm.GaussianMixture(family, regularization=0.1), as_data(X, WEIGHTS)
    fit = solve.run(problem, solve.EM(), mixture(family), data, max_steps=3)
    np.testing.assert_allclose(fit.loss, solve.objective(problem, fit.params, data), rtol=1e-12)
    expected = oracles.mixture_loss(fit.params, X, WEIGHTS)[0]
    np.testing.assert_allclose(-gmm.log_likelihood(fit.params, X, weights=WEIGHTS), expected, rtol=1e-9)
    assert not fit.params.is_on[2]


@families(gmm.TiedDiagonal)
def test_a_prior_runs_with_a_component_off(family):
    data = as_data(X, WEIGHTS)
    problem = gmm.GaussianMixture(family, gmm.fraley_raftery(data, 2, covariance=family))
    fit = solve.run(problem, solve.EM(), mixture(family), data, max_steps=3)
    assert fit.loss < fit.trace[0]


@pytest.mark.parametrize("assignment", [gmm.Hard(), gmm.Tempered(0.5)])
def test_other_assignments_run_with_a_component_off(assignment):
    stats = gmm.e_step(mixture(gmm.Spherical), X, assignment=assignment)
    np.testing.assert_allclose(stats.counts[:2].sum(), len(X))
    problem = gmm.GaussianMixture(gmm.Spherical, assignment=assignment)
    assert np.isfinite(solve.objective(problem, mixture(gmm.Spherical), X))


@families(gmm.Spherical)
def test_the_functions_of_a_mixture_run_with_a_component_off(family):
    params, shares = mixture(family), jax.nn.one_hot(LABELS, K)
    assert gmm.predict(params, X).tolist() == LABELS.tolist()
    np.testing.assert_allclose(gmm.responsibilities(params, X)[:, :2].sum(axis=1), 1)
    assert gmm.entropy(shares, weights=WEIGHTS) == 0
    penalty = metrics.bic(params, X) - metrics.aic(params, X)
    np.testing.assert_allclose(penalty, params.num_free_parameters.item() * (np.log(len(X)) - 2))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_other_functions_of_a_mixture_run_with_a_component_off(family):
    params, data, shares = mixture(family), as_data(X, WEIGHTS), jax.nn.one_hot(LABELS, K)
    assert gmm.elbo(params, X, shares) <= gmm.log_likelihood(params, X)
    np.testing.assert_array_equal(jax.grad(gmm.entropy)(shares), np.where(shares > 0, -1, 0))
    complete = gmm.complete_log_likelihood(params, X, LABELS)
    np.testing.assert_allclose(gmm.expected_complete_log_likelihood(params, X, shares), complete)
    assert set(gmm.sample(KEY, params, 8)[1].tolist()) <= {0, 1}
    assert gmm.conditional(params, [0], X[0, :1]).means.shape == (K, 1)
    assert metrics.icl(params, X) >= metrics.bic(params, X)
    moved = gmm.m_step(gmm.e_step(params, data), params, regularization=0.1)
    slope = jax.grad(lambda means: gmm.log_likelihood(replace(params, means=means), X))(params.means)
    assert np.isfinite(slope).all()
    assert np.isfinite(gmm.recenter(gmm.e_step(params, data), params, moved).moments.first).all()


def test_a_mixture_is_fitted_from_rows_and_swept():
    swept = sweep.mixtures(KEY, X, [1, 2], covariances=[gmm.Spherical], regularizations=[0.1], restarts=1, max_steps=3)
    best = swept["Spherical"].best("restart")
    assert best.map(lambda fit: metrics.bic(fit.params, X)).shape == (2, 1)
    assert len(best.to_records()) == 2


@pytest.mark.parametrize(
    "seed", [seeding.random_rows, seeding.kmeans_plus_plus, seeding.kmeans_parallel, seeding.maximin]
)
def test_every_seeding_runs_with_rows_of_weight_zero(seed):
    starts = seeding.starts(KEY, as_data(X, WEIGHTS), K, init=seed, restarts=2, num_active=2)
    assert {tuple(row) for row in np.asarray(starts[:, :2]).reshape(-1, 2)} <= {tuple(row) for row in X[WEIGHTS > 0]}
    assert np.isinf(starts[:, 2]).all()


def test_k_means_runs_from_rows_in_blocks():
    fit = kmeans.fit(KEY, X, 2, reduce=Blocks(4), restarts=2)
    np.testing.assert_allclose(fit.loss, oracles.cost(fit.params, X, np.ones(len(X))))


@pytest.mark.slow
def test_k_means_runs_side_by_side_and_fills_empty_clusters():
    queued = solve.run_many(kmeans.KMeans(), solve.EM(), jnp.asarray(X.reshape(3, 2, 2)), X, num_parallel=2)
    assert kmeans.lower_bound(X, 2) <= solve.best(queued).loss
    fit = kmeans.fit(KEY, X, K, init=jnp.asarray(X[[0, 0, 3]]), max_steps=0)
    assert len(set(kmeans.predict(fit.params, X).tolist())) == K
    np.testing.assert_array_equal(fit.trace, fit.loss[None])


def test_an_exact_optimum_runs():
    fit = kmeans.exact.fit_1d(X[:, 0], K, weights=WEIGHTS)
    np.testing.assert_allclose(fit.loss, oracles.cost(fit.params, X[:, :1], WEIGHTS))


def test_the_functions_of_centers_run_with_a_center_off():
    centers, data = jnp.asarray(X[[0, 3, 3]]).at[2].set(jnp.inf), as_data(X, WEIGHTS)
    labels = kmeans.predict(centers, X)
    assert np.isinf(kmeans.update(centers, X, labels)[2]).all()
    np.testing.assert_array_equal(kmeans.reconstruct(centers, labels), centers[labels])
    stats = kmeans.e_step(centers, data)
    moved = kmeans.m_step(stats, centers)
    np.testing.assert_allclose(kmeans.recenter(stats, centers, moved).sums, 0, atol=1e-12)


def test_metrics_run():
    first, second = LABELS.astype(np.uint8), np.arange(6) % 2
    rand = jax.jit(lambda a, b: metrics.adjusted_rand_index(a, b, num_labels=K))(first, second)
    np.testing.assert_allclose(rand, metrics.adjusted_rand_index(first, second), rtol=1e-12)
    centers = jnp.asarray(X[[0, 3, 5]], jnp.float32).at[2].set(jnp.inf)
    assert metrics.match(centers, centers[::-1]).tolist() == [2, 1, 0]


@pytest.mark.slow
def test_the_other_metrics_run():
    assert metrics.normalized_mutual_information(LABELS, LABELS, num_labels=K) == 1
    assert metrics.stability(np.stack([LABELS, 1 - LABELS])) == 1
    assert 0 < metrics.silhouette(X, LABELS, K, weights=WEIGHTS) < 1


@pytest.mark.slow
def test_estimators_of_scikit_learn_are_converted_both_ways():
    params = interop.from_sklearn(interop.to_sklearn(mixture(gmm.Full)))
    np.testing.assert_allclose(params.covariances, mixture(gmm.Full).covariances[:2])


def test_a_step_outside_of_a_program_subtracts_no_infinities():
    off = jnp.array([jnp.inf, 2.0])
    assert coordinates.difference(off, off - 1).tolist() == [0, 1]
    assert anderson.damped_least_squares(jnp.zeros((2, 3)), jnp.ones(3), jnp.array(0.5)).tolist() == [0, 0]
    losses, zero = jnp.array([1.0, jnp.inf, jnp.inf]), jnp.zeros(())
    state = stepwise.StepwiseState(X, X, zero, losses, zero, KEY)
    running = SOLVERS["stepwise"].solver.status(state, Progress(zero + jnp.inf, zero, zero, zero))
    assert running == Status.RUNNING


def test_invalid_values_still_raise():
    # Under jit invalid weights become NaN; JAX then runs the function again with their values, which are rejected.
    with pytest.raises(ValueError, match="`weights` must be finite and non-negative"):
        jax.jit(lambda weights: solve.run(kmeans.KMeans(), solve.EM(), X[:2], as_data(X, weights)))(-WEIGHTS)
