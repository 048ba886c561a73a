"""Stepwise EM and L-BFGS: closed forms, costs counted, and what they leave as it was."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import EXACT, PROBLEMS

from jaxmix import Status, as_data, gmm, kmeans, rows, solve, types
from jaxmix.solve.stepwise import blend

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "problem", ["kmeans", "poisson_mixture", "gmm_full", pytest.param("gmm_map", marks=pytest.mark.slow)]
)
def test_a_batch_of_all_rows_is_a_step_of_em(problem):
    case = PROBLEMS[problem]()
    num_rows = case.data.x.shape[0]
    em = solve.run_many(case.problem, solve.EM(), case.starts, case.data, max_steps=1)
    # The first batch is blended with the same statistics, whatever the rate.
    stepwise = solve.run_many(case.problem, solve.Stepwise(num_rows, KEY), case.starts, case.data, max_steps=1)
    chex.assert_trees_all_close(stepwise.params, em.params, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(stepwise.num_passes, 2)


def test_decay_one_is_the_running_mean_of_all_that_was_seen():
    # One cluster: the center after t batches is the mean of the start's pass and of the batches' means.
    x = np.random.default_rng(0).normal(size=(12, 2))
    solver = solve.Stepwise(4, KEY, decay=1.0)
    fit = solve.run(kmeans.KMeans(), solver, jnp.zeros((1, 2)), x, max_steps=3)
    # Each epoch's three batches are all rows, so every epoch's average is the mean.
    np.testing.assert_allclose(fit.params[0], x.mean(axis=0), rtol=1e-12)


def test_a_fast_decay_of_the_rate_remembers_and_a_slow_one_forgets():
    x = np.concatenate([np.zeros((8, 1)), np.ones((8, 1))])
    starts = jnp.array([[0.5]])

    def spread(decay):
        fit = solve.run(kmeans.KMeans(), solve.Stepwise(1, KEY, decay=decay), starts, x, max_steps=4)
        return abs(float(fit.params[0, 0]) - 0.5)

    assert spread(1.0) < spread(0.1)


RECENTRED = [(kmeans.KMeans(), None), (rows.Chunked(kmeans.KMeans(), 7), None), (rows.Chunked(EXACT, 7), gmm.Full)]
RECENTRED += [(EXACT, family) for family in (gmm.Full, gmm.Tied, gmm.Diagonal, gmm.Spherical, gmm.TiedDiagonal)]


@pytest.mark.parametrize(("problem", "family"), RECENTRED, ids=str)
def test_recentred_statistics_give_the_same_m_step(problem, family):
    is_kmeans = family is None
    case = PROBLEMS["kmeans"]()
    random = np.random.default_rng(3)
    if is_kmeans:
        params = case.starts[0]
        about = params + random.normal(size=params.shape)
    else:
        params = gmm.start.from_labels(np.arange(60) % 3, case.data, 3, family=family, problem=EXACT)
        about = params._replace(means=params.means + random.normal(size=params.means.shape))
    stats = problem.e_step(params, case.data)
    moved = types.recentre(problem, stats, params, about)
    chex.assert_trees_all_close(problem.m_step(moved, about), problem.m_step(stats, params), rtol=1e-9, atol=1e-10)
    back = types.recentre(problem, moved, about, params)
    chex.assert_trees_all_close(back._replace(loss=stats.loss), stats, rtol=1e-9, atol=1e-9)


def test_recentred_costs_are_those_of_the_rows_about_the_new_centers():
    case = PROBLEMS["kmeans"]()
    centers, about = case.starts[0], case.starts[1]
    stats = kmeans.recentre(kmeans.e_step(centers, case.data), centers, about)
    labels = kmeans.assign(centers, case.data.x)
    expected = kmeans.objective(about, case.data.x, labels, weights=case.data.weights)
    np.testing.assert_allclose(stats.loss, expected, rtol=1e-12)
    np.testing.assert_allclose(jnp.sum(stats.costs), expected, rtol=1e-12)


def test_a_node_that_merges_is_replaced_and_sums_are_blended():
    old = {"sum": jnp.array(1.0), "row": types.Largest(jnp.array(5.0), jnp.zeros(2))}
    new = {"sum": jnp.array(3.0), "row": types.Largest(jnp.array(2.0), jnp.ones(2))}
    blended = blend(old, new, jnp.array(0.25))
    assert blended["sum"] == 1.5
    assert blended["row"].value == 2.0


def test_patience_ends_a_stepwise_fit_only_when_epoch_after_epoch_is_quiet():
    case = PROBLEMS["kmeans"]()
    fit = solve.run(case.problem, solve.Stepwise(20, KEY), case.starts[0], case.data, max_steps=200, rtol=1e-3)
    assert fit.status == Status.CONVERGED
    losses = np.asarray(fit.trace)[: int(fit.num_steps)]
    quiet = np.abs(np.diff(losses)) < 1e-3 * losses[-1] * 1.01
    assert quiet[-3:].all()
    never = solve.run(case.problem, solve.Stepwise(20, KEY), case.starts[0], case.data, max_steps=10)
    assert never.status == Status.MAX_STEPS


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (solve.Stepwise(0, KEY), "`batch_size`"),
        (solve.Stepwise(3, KEY, patience=0), "`patience`"),
        (solve.LBFGS(0), "`memory`"),
    ],
)
def test_bad_counts_are_refused(solver, message):
    case = PROBLEMS["kmeans"]()
    with pytest.raises(ValueError, match=message):
        solve.run(case.problem, solver, case.starts[0], case.data)


def test_every_evaluation_of_the_line_search_is_counted():
    calls = []

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Counting(kmeans.KMeans):
        def loss(self, params, data):
            jax.debug.callback(lambda: calls.append(1))
            return super().loss(params, data)

    case = PROBLEMS["kmeans"]()
    fit = solve.run(Counting(), solve.LBFGS(), case.starts[0], case.data, max_steps=6)
    jax.effects_barrier()
    # The closing evaluation of the loss is every solver's, and is not counted.
    assert float(fit.num_passes) == 3 * (len(calls) - 1)


def test_lbfgs_ends_at_fixed_points_of_em():
    case = PROBLEMS["gmm_full"]()
    fits = solve.run_many(EXACT, solve.LBFGS(), case.starts, case.data, max_steps=100, atol=1e-12)
    assert (fits.status == Status.CONVERGED).all()
    em = solve.run_many(EXACT, solve.EM(), fits.params, case.data, max_steps=20)
    np.testing.assert_allclose(fits.loss, em.loss, rtol=1e-9)
    np.testing.assert_allclose(fits.params.means, em.params.means, atol=1e-3)


def test_lbfgs_on_a_quadratic_ends_at_its_minimum_and_says_so():
    # One cluster: J is a quadratic, and the first line search along the gradient meets its minimum.
    x = np.random.default_rng(1).normal(size=(20, 3)) + 5.0
    fit = solve.run(kmeans.KMeans(), solve.LBFGS(), jnp.zeros((1, 3)), x, max_steps=60, rtol=1e-9).check()
    np.testing.assert_allclose(fit.params[0], x.mean(axis=0), atol=1e-6)
    for rtol in (1e-6, 0.0):
        rows = np.array([[-1.0], [1.0]])
        at_rest = solve.run(kmeans.KMeans(), solve.LBFGS(), jnp.zeros((1, 1)), rows, max_steps=9, rtol=rtol)
        assert at_rest.status == Status.CONVERGED
        assert at_rest.num_steps == 1
    # The step after the one that lands on the minimum finds no gradient there, and says so.
    landed = solve.run(kmeans.KMeans(), solve.LBFGS(), jnp.full((1, 1), 4.0), rows, max_steps=9).check()
    last = int(landed.num_steps)
    assert landed.trace[last] == landed.trace[last - 1] == 2.0 < landed.trace[last - 2]


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(solve.LBFGS(), marks=pytest.mark.slow),
        pytest.param(solve.Gradient(0.1), marks=pytest.mark.slow),
        pytest.param(solve.Gradient(0.1, batch_size=9, key=KEY), marks=pytest.mark.slow),
        solve.Stepwise(9, KEY),
    ],
    ids=["lbfgs", "adam", "adam_batches", "stepwise"],
)
def test_a_component_that_is_off_stays_off(solver):
    case = PROBLEMS["gmm_full"]()
    start = jax.tree.map(lambda leaf: leaf[0], case.starts)
    three = gmm.GMM(
        jnp.concatenate([start.log_weights, jnp.array([-jnp.inf])]),
        jnp.concatenate([start.means, jnp.full((1, 2), 7.0)]),
        gmm.Full(jnp.concatenate([start.covariance.scale_tril, 3 * jnp.eye(2)[None]])),
    )
    two = solve.run(EXACT, solver, start, case.data, max_steps=10)
    fit = solve.run(EXACT, solver, three, case.data, max_steps=10)
    assert fit.params.log_weights[2] == -jnp.inf
    np.testing.assert_allclose(fit.params.means[2], 7.0)
    np.testing.assert_allclose(fit.trace, two.trace, rtol=1e-6)
    assert fit.loss < fit.trace[0]


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(solve.OverRelaxed(), marks=pytest.mark.slow),
        pytest.param(solve.Squarem(), marks=pytest.mark.slow),
        pytest.param(solve.Anderson(), marks=pytest.mark.slow),
        pytest.param(solve.LBFGS(), marks=pytest.mark.slow),
        solve.Stepwise(50, KEY),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_float32_far_from_the_origin(solver):
    random = np.random.default_rng(0)
    x = (random.normal(size=(200, 2)) + 4.0 * (np.arange(200) % 2)[:, None] + 1e4).astype(np.float32)
    problem = gmm.GaussianMixture()
    losses = []
    for dtype in (np.float32, np.float64):
        data = as_data(x.astype(dtype))
        start = gmm.start.from_labels((x[:, 0] > np.median(x[:, 0])).astype(int), data, 2, problem=problem)
        losses.append(float(solve.run(problem, solver, start, data, max_steps=30).loss))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
