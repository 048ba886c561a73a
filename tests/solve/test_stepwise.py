"""Stepwise EM: closed forms, statistics about other parameters, and problems that it rejects."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PLAIN, PROBLEMS
from models import FullMixture, with_one_off

from jaxmix import Problem, Status, kmeans, mixture, solve
from jaxmix.kernels.nearest import ArgMax
from jaxmix.pytree import choice
from jaxmix.solve.stepwise import blend

KEY = jax.random.key(0)


@pytest.mark.parametrize("problem", ["kmeans", "lines", "poisson_mixture", "plain_mixture", "plain_mixture_map"])
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


@pytest.mark.parametrize("problem", ["kmeans", "kmeans_blocks", "lines", "plain_mixture", "plain_mixture_map"])
def test_recentered_statistics_give_the_same_m_step(problem):
    case = PROBLEMS[problem]()
    random = np.random.default_rng(3)
    objective, params = case.objective(), case.start
    if problem == "lines":
        new = params._replace(coefficients=params.coefficients + random.normal(size=params.coefficients.shape))
    elif isinstance(case.problem, FullMixture):
        new = params._replace(means=params.means + random.normal(size=params.means.shape))
    else:
        new = params + random.normal(size=params.shape)
    stats = objective.stats(params)[0]
    moved = objective.recenter(stats, params, new)
    chex.assert_trees_all_close(objective.m_step(moved, new), objective.m_step(stats, params), rtol=1e-9, atol=1e-10)
    back = objective.recenter(moved, new, params)
    chex.assert_trees_all_close(back._replace(loss=stats.loss), stats, rtol=1e-9, atol=1e-9)


def test_recentered_costs_are_those_of_the_rows_about_the_new_centers():
    case = PROBLEMS["kmeans"]()
    centers, new = case.starts[0], case.starts[1]
    stats = kmeans.recenter(kmeans.e_step(centers, case.data), centers, new)
    labels = kmeans.predict(centers, case.data.x)
    expected = kmeans.objective(new, case.data.x, labels, weights=case.data.weights)
    np.testing.assert_allclose(stats.loss, expected, rtol=1e-12)
    np.testing.assert_allclose(jnp.sum(stats.costs), expected, rtol=1e-12)


def test_a_node_that_merges_is_replaced_and_sums_are_blended():
    old = {"sum": jnp.array(1.0), "row": ArgMax(jnp.array(5.0), jnp.zeros(2))}
    new = {"sum": jnp.array(3.0), "row": ArgMax(jnp.array(2.0), jnp.ones(2))}
    blended = blend(old, new, jnp.array(0.25))
    assert blended["sum"] == 1.5
    assert blended["row"].value == 2.0


@choice
class Wrapped(Problem):
    """A problem around another: it says nothing about the reference point of its statistics."""

    inner: Problem

    def prepare(self, params):
        return self.inner.prepare(params)

    def e_step(self, prepared, rows):
        return self.inner.e_step(prepared, rows)

    def m_step(self, stats, params):
        return self.inner.m_step(stats, params)


@choice
class Recentered(Wrapped):
    """The same, whose `recenter` is that of the problem inside."""

    def recenter(self, stats, params, new):
        return self.inner.recenter(stats, params, new)


def test_a_problem_that_does_not_define_recenter_is_rejected():
    case = PROBLEMS["kmeans"]()
    solver = solve.Stepwise(7, KEY)
    wrapped = Wrapped(kmeans.KMeans())
    # EM keeps no statistics, and takes it.
    solve.run(wrapped, solve.EM(), case.start, case.data).throw()
    with pytest.raises(ValueError, match=r"`Stepwise`.* Wrapped .*must define `recenter\(stats, params, new\)`"):
        solve.run(wrapped, solver, case.start, case.data)
    with pytest.raises(ValueError, match="Wrapped must define `recenter"):
        solve.run_many(wrapped, solver, case.starts, case.data)


def test_a_problem_with_a_part_that_does_not_define_recenter_is_rejected():
    case = PROBLEMS["kmeans"]()
    # It defines `recenter`; what is inside it does not.
    with pytest.raises(ValueError, match=r"Recentered cannot .* Wrapped must define `recenter"):
        solve.run(Recentered(Wrapped(kmeans.KMeans())), solve.Stepwise(7, KEY), case.start, case.data)


def test_a_mixture_of_components_that_do_not_define_recenter_is_rejected():
    @choice
    class Silent(mixture.Poisson):
        recenter = mixture.Component.recenter

    case = PROBLEMS["poisson"]()
    model = mixture.MixtureModel(Silent())
    solve.run(model, solve.EM(), case.start, case.data, max_steps=3)
    with pytest.raises(ValueError, match=r"MixtureModel cannot .* Silent must define `recenter\(counts"):
        solve.run(model, solve.Stepwise(3, KEY), case.start, case.data)


def test_a_wrapper_that_defines_recenter_is_fitted_as_what_it_wraps():
    case, solver = PROBLEMS["kmeans"](), solve.Stepwise(7, KEY)
    wrapped = solve.run(Recentered(kmeans.KMeans()), solver, case.start, case.data, max_steps=9)
    bare = solve.run(kmeans.KMeans(), solver, case.start, case.data, max_steps=9)
    np.testing.assert_allclose(wrapped.trace, bare.trace, rtol=1e-11)


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
        (solve.Stepwise(3, KEY, decay=-1.0), "`decay`"),
        (solve.Stepwise(3, jax.random.PRNGKey(0)), "`key`"),
    ],
)
def test_bad_settings_are_rejected(solver, message):
    case = PROBLEMS["kmeans"]()
    with pytest.raises(ValueError, match=message):
        solver.validate()
    with pytest.raises(ValueError, match=message):
        solve.run(case.problem, solver, case.starts[0], case.data)


def test_a_component_that_is_off_stays_off():
    case, solver = PROBLEMS["plain_mixture"](), solve.Stepwise(9, KEY)
    two = solve.run(PLAIN, solver, case.start, case.data, max_steps=10)
    fit = solve.run(PLAIN, solver, with_one_off(case.start), case.data, max_steps=10)
    assert fit.params.log_weights[2] == -jnp.inf
    np.testing.assert_allclose(fit.params.means[2], 7.0)
    np.testing.assert_allclose(fit.trace, two.trace, rtol=1e-6)
    assert fit.loss < fit.trace[0]
