"""Restarts on subsamples: what is drawn, which fits go on, and the fits that come of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs

import jaxmix
from jaxmix import Blocks, Rows, Subsample, as_data, gmm, kmeans, mixture, sampling, solve, subsampling
from jaxmix.pytree import choice
from jaxmix.solve.framed import framed, short_runs
from jaxmix.subsampling import Plan

KEY = jax.random.key(0)
X = blobs(1203, 2, 6, seed=3, spread=10.0)
SEARCH = Subsample(rows=240, finished=1)


def fit(key, x=X, k=6, **options):
    return kmeans.fit(key, x, k, restarts=2, **{"subsample": SEARCH, **options})


@pytest.mark.parametrize("num_rows", [1, 2, 7, 30, 43])
@pytest.mark.parametrize("most", [1, 3])
def test_a_sample_has_one_row_of_each_stratum_and_its_weight(num_rows, most):
    weights = np.random.default_rng(num_rows).integers(0, most + 1, 43).astype(float)
    present = np.nonzero(weights)[0]
    data = as_data(np.arange(43.0)[:, None], weights)
    sample = sampling.stratified(KEY, data, num_rows)
    strata = np.array_split(present, num_rows)
    assert len(sample.x) == num_rows
    for stratum, row, weight in zip(strata, np.asarray(sample.x[:, 0], int), sample.weights, strict=True):
        assert (row in stratum and weight == len(stratum) * weights[row]) if len(stratum) else weight == 0
    # Without weights no row is looked for, and the sum is that of all.
    ones = as_data(np.arange(43.0)[:, None])
    for weighted in (True, False):
        sample = sampling.stratified(KEY, ones, num_rows, weighted=weighted)
        assert sample.weights.sum() == 43
        assert len(set(sample.x[:, 0].tolist())) == num_rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_over_a_sample_are_those_of_all_rows_in_the_mean(dtype):
    weights = np.array([1, 0, 3, 2, 0, 4, 7, 7, 0, 1, 1], dtype)
    data = as_data(np.eye(11, dtype=dtype), weights)
    num = 20_000

    def sums(key):
        middle = sampling.stratified(key, data, 5)
        small = sampling.stratified(jax.random.fold_in(key, 1), middle, 3)
        return jnp.stack([each.weights @ each.x for each in (middle, small)])

    drawn = np.asarray(jax.vmap(sums)(jax.random.split(KEY, num)), float)
    deviation = drawn.std(axis=0) / np.sqrt(num)
    assert np.all(np.abs(drawn.mean(axis=0) - weights) <= 5 * deviation + 1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sample_in_proportion_to_mass_has_the_sums_of_all_rows_in_the_mean(dtype):
    weights = np.array([1, 0, 3, 2, 0, 4, 7, 7, 0, 1, 1], dtype)
    mass = weights * np.array([1, 9, 1, 5, 1, 2, 1, 0.5, 1, 40, 3], dtype)
    data = as_data(np.eye(11, dtype=dtype), weights)
    num = 20_000

    def sums(key):
        small = sampling.proportional(key, data, jnp.asarray(mass), 4)
        return small.weights @ small.x, jnp.sum(small.x, axis=0)

    drawn, counts = (np.asarray(each, float) for each in jax.vmap(sums)(jax.random.split(KEY, num)))
    for found, expected in ((drawn, weights), (counts, 4 * mass / mass.sum())):
        deviation = found.std(axis=0) / np.sqrt(num)
        assert np.all(np.abs(found.mean(axis=0) - expected) <= 5 * deviation + 1e-6)
    # One row in each stratum of mass: the tenth is all of one, or more.
    assert counts[:, 9].min() >= 1


def test_equal_masses_are_strata_of_rows():
    data = as_data(np.arange(100.0)[:, None])
    sample = sampling.proportional(KEY, data, jnp.ones(100), 20)
    np.testing.assert_array_equal(sample.x[:, 0] // 5, np.arange(20))
    np.testing.assert_allclose(sample.weights, 5.0)


def test_a_small_mass_is_not_lost_beside_many():
    # In float32, sums of all masses up to a row do not tell one row from the next.
    num = 10**6
    data = as_data(np.arange(num, dtype=np.float32)[:, None])
    mass = jnp.ones(num, jnp.float32).at[num - 3].set(100.0)
    sample = sampling.proportional(KEY, data, mass, 20_000)
    rows = np.asarray(sample.x[:, 0], int)
    assert len(np.unique(rows)) > 19_990
    np.testing.assert_allclose(np.bincount(rows % 10, minlength=10), 2000, rtol=0.1)
    assert (num - 3) in rows


def test_a_row_far_away_is_seen_by_kmeans():
    x = np.concatenate([X, [[300.0, 300.0], [-300.0, 300.0]]])
    found = kmeans.fit(KEY, x, 8, restarts=2, subsample=SEARCH).throw()
    assert sum(np.abs(np.asarray(found.params)).max(axis=1) > 200) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_random_number_stays_in_its_stratum(dtype, monkeypatch):
    largest = np.nextafter(dtype(1), dtype(0))
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, largest))
    data = as_data(np.arange(100_000, dtype=dtype)[:, None])
    sample = sampling.stratified(KEY, data, 7)
    np.testing.assert_array_equal(sample.x[:, 0], [stratum[-1] for stratum in np.array_split(np.arange(100_000), 7)])


def test_rows_in_a_rhythm_are_drawn_from_every_cluster():
    # Each fifth row, say, would be of one cluster alone.
    labels = np.arange(1000) % 5
    sample = sampling.stratified(KEY, as_data(labels[:, None].astype(float)), 200)
    counts = np.bincount(np.asarray(sample.x[:, 0], int), minlength=5)
    assert counts.min() > 20


@pytest.mark.parametrize(
    ("search", "num_rows", "expected"),
    [
        (Subsample(rows=120), 479, None),
        (Subsample(rows=120), 480, Plan(120, 2, 12)),
        (Subsample(rows=120), 1920, Plan(120, 2, 12)),
        (Subsample(rows=120), 1921, Plan(120, 1, 12)),
        (Subsample(rows=120, finished=3, swaps=0), 900, Plan(120, 2, 0)),
    ],
)
def test_short_runs_follow_from_the_number_of_rows(search, num_rows, expected):
    assert search.plan(num_rows, 3, 6, restarts=2) == expected


@pytest.mark.parametrize(("k", "numbers"), [(3, 6), (64, 512), (16, 16 * 273)])
def test_a_sample_has_rows_for_every_component_and_number(k, numbers):
    plan = Subsample().plan(10**7, k, numbers, 8)
    assert plan is not None
    assert plan.num_rows >= max(4096, 128 * k, 8 * numbers)


def test_the_lowest_losses_are_kept_and_held_up_fits_come_later():
    losses = jnp.array([5.0, np.nan, 3.0, 1.0, np.inf, 4.0, 3.0])
    assert subsampling.best(losses, None, 4).tolist() == [3, 2, 6, 5]
    held_up = np.zeros((7, 2), bool)
    held_up[3, 1] = held_up[4, 0] = True
    held_up = jnp.asarray(held_up)
    kept = subsampling.best(losses, held_up, 7).tolist()
    assert kept[:5] == [2, 6, 5, 0, 3]
    assert set(kept[5:]) == {1, 4}


def test_a_fit_is_a_fixed_point_of_all_rows_and_as_good_as_restarts_on_all():
    found = fit(KEY).throw()
    data = as_data(X)
    np.testing.assert_array_equal(kmeans.m_step(kmeans.e_step(found.params, data), found.params), found.params)
    np.testing.assert_allclose(found.loss, kmeans.objective(found.params, X), rtol=1e-12)
    lowest = kmeans.fit(KEY, X, 6, restarts=64, subsample=None).loss
    np.testing.assert_allclose(found.loss, lowest, rtol=1e-12)


def test_passes_are_counted_in_rows():
    found = fit(KEY)
    share = 240 / 1203
    assert found.num_steps < found.num_passes <= found.num_steps + SEARCH.max_steps * share
    found = fit(KEY, subsample=Subsample(rows=240, max_steps=1))
    np.testing.assert_allclose(found.num_passes, found.num_steps + share, rtol=1e-12)


def test_a_short_run_ends_where_a_step_gains_a_small_share():
    data = as_data(X)
    starts = jaxmix.seeding.starts(KEY, data, 6, init=jaxmix.seeding.random_rows, restarts=5)
    traces = [solve.run(kmeans.KMeans(), solve.EM(), start, data).trace for start in starts]
    setting = framed(kmeans.KMeans(), 6, data, Rows(data.x), None, Blocks())
    zero = jnp.zeros(())
    runs = short_runs(setting, solve.EM(), starts, rtol=zero, atol=zero, max_steps=100, num_parallel=1, share=0.05)
    for trace, loss, steps in zip(traces, runs.losses, runs.num_passes, strict=True):
        gains, all_gains = -np.diff(trace), trace[0] - trace[1:]
        (small,) = np.nonzero(gains < 0.05 * all_gains)
        # The loss of a step is that of where it started.
        assert steps == small[0] + 2
        np.testing.assert_allclose(loss, trace[small[0] + 1], rtol=1e-12)


def test_the_key_alone_decides():
    keys = jax.random.split(KEY, 3)
    each = [fit(key) for key in keys]
    again = fit(keys[0])
    jax.tree.map(np.testing.assert_array_equal, each[0], again)
    mapped = jax.vmap(fit)(keys)
    for i, one in enumerate(each):
        np.testing.assert_allclose(mapped.loss[i], one.loss, rtol=1e-12)
        np.testing.assert_allclose(np.sort(mapped.params[i], axis=0), np.sort(one.params, axis=0), rtol=1e-9)
    traced = jax.jit(fit)(keys[0], X)
    np.testing.assert_allclose(np.sort(traced.params, axis=0), np.sort(each[0].params, axis=0), rtol=1e-9)


def test_finished_fits_are_returned_with_their_statuses():
    search = Subsample(rows=240, finished=2)
    fits = kmeans.fit_restarts(KEY, X, 6, subsample=search).throw()
    assert fits.loss.shape == (2,)
    best = kmeans.fit(KEY, X, 6, subsample=search)
    np.testing.assert_array_equal(best.loss, fits.loss.min())


def test_few_rows_are_fitted_as_without():
    few = X[:200]
    jax.tree.map(
        np.testing.assert_array_equal,
        kmeans.fit(KEY, few, 3, restarts=2),
        kmeans.fit(KEY, few, 3, restarts=2, subsample=None),
    )


def test_rows_of_weight_zero_are_never_drawn():
    weights = np.ones(len(X))
    weights[::3] = 0
    far = np.where(weights[:, None] == 0, 1e6, X)
    found = fit(KEY, far, weights=weights).throw()
    assert np.abs(found.params).max() < 100
    np.testing.assert_allclose(found.loss, fit(KEY, X, weights=weights).loss, rtol=1e-12)


@pytest.mark.parametrize("transform", [lambda function: function, jax.jit], ids=["concrete", "traced"])
def test_rows_of_which_few_are_there_are_drawn_from_these(transform):
    weights = np.zeros(len(X))
    weights[:120] = 1

    def of(weights):
        return gmm.fit(KEY, X, 6, weights=weights, restarts=2, subsample=SEARCH, covariance=gmm.Spherical)

    found = transform(of)(weights)
    assert np.isfinite(found.params.log_weights).all()
    whole = gmm.fit(KEY, X[:120], 6, restarts=8, covariance=gmm.Spherical)
    np.testing.assert_allclose(found.loss, whole.loss, rtol=1e-6)


def test_no_step_is_no_search():
    found, whole = (kmeans.fit(KEY, X, 6, max_steps=0, subsample=each) for each in (SEARCH, None))
    np.testing.assert_array_equal(found.loss, whole.loss)


def test_a_short_run_that_breaks_is_not_kept():
    @choice
    class Breaks(solve.EM):
        """A step whose parameters are NaN, which its loss does not tell."""

        def step(self, objective, state):
            after, loss = super().step(objective, state)
            return after._replace(params=jnp.where(jnp.isfinite(loss), jnp.nan, after.params)), loss

    data = as_data(X)
    setting = framed(kmeans.KMeans(), 6, data, Rows(data.x), None, Blocks())
    zero = jnp.zeros(())
    runs = short_runs(setting, Breaks(), jnp.asarray(X[None, :6]), rtol=zero, atol=zero, max_steps=1, num_parallel=1)
    assert np.isinf(runs.losses).all()


def test_centers_may_be_off():
    found = fit(KEY, num_active=4)
    assert np.isinf(np.asarray(found.params)[4:]).all()
    np.testing.assert_allclose(found.loss, kmeans.fit(KEY, X, 4, restarts=64, subsample=None).loss, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("unit", [1.0, 2.0**-20])
def test_a_mixture_is_fitted_in_any_units(offset, unit):
    found = gmm.fit(KEY, unit * (X + offset), 6, restarts=2, subsample=SEARCH).throw()
    base = gmm.fit(KEY, X, 6, restarts=2, subsample=SEARCH).throw()
    order, base_order = (np.lexsort(np.asarray(each.params.means).T) for each in (found, base))
    means = np.asarray(found.params.means)[order] / unit - offset
    np.testing.assert_allclose(means, np.asarray(base.params.means)[base_order], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_prior_counts_as_much_on_a_sample():
    # One row stands for many: the mode of a sample that repeats all rows is the mode of all.
    rows = np.repeat(blobs(60, 2, 2), 20, axis=0)
    prior = gmm.weak_prior(rows, strength=50.0)
    search = Subsample(rows=60, max_steps=300, share=0.0)
    found = gmm.fit(KEY, rows, 2, restarts=2, prior=prior, subsample=search, atol=1e-9).throw()
    whole = gmm.fit(KEY, rows, 2, restarts=8, prior=prior, subsample=None, atol=1e-9).throw()
    np.testing.assert_allclose(found.loss, whole.loss, rtol=1e-9)
    # The sample had found it.
    assert found.num_steps <= 2


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(solve.Squarem(), id="squarem", marks=pytest.mark.slow),
        pytest.param(solve.Anderson(), id="anderson"),
    ],
)
def test_every_problem_and_solver_runs(solver):
    counts = np.random.default_rng(0).poisson(np.repeat([[1.0], [9.0]], 300, axis=0))
    model = mixture.MixtureModel(mixture.Poisson())
    search = Subsample(rows=120)
    found = jaxmix.fit(model, KEY, counts, 2, restarts=2, subsample=search, solver=solver, atol=1e-8).throw()
    whole = jaxmix.fit(model, KEY, counts, 2, subsample=None, atol=1e-8).throw()
    np.testing.assert_allclose(found.loss, whole.loss, rtol=1e-6)
