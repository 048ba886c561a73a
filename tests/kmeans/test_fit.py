"""Whole fits: published optima, fixed points, empty clusters, invariances."""

import functools
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import blobs
from sklearn.cluster import KMeans as PeerKMeans
from sklearn.datasets import load_iris

from jaxmix import Blocks, Status, as_data, kmeans, seeding, solve

KEY = jax.random.key(0)
IRIS = load_iris(return_X_y=True)[0]
X = blobs(60, 2, 4, spread=3.0)

# du Merle, Hansen, Jaumard and Mladenovic (2000), table 5: proven optima of iris.
OPTIMA = {2: 152.347951760358, 3: 78.8514414261460, 4: 57.2284732142857, 5: 46.4461820512821, 6: 39.0399872460872}


@pytest.mark.parametrize(
    ("k", "optimum"),
    [pytest.param(*case, marks=[] if case[0] in (3, 6) else [pytest.mark.slow]) for case in OPTIMA.items()],
)
def test_iris_reaches_the_published_optimum(k, optimum):
    fit = kmeans.fit(KEY, IRIS, k, restarts=64).throw()
    np.testing.assert_allclose(fit.loss, optimum, rtol=1e-12)
    assert kmeans.lower_bound(IRIS, k) <= fit.loss


def test_lloyd_takes_the_steps_of_scikit_learn():
    start = X[:5]
    peer: Any = cast(Any, PeerKMeans)(5, init=start, n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(X)
    fit = kmeans.fit(KEY, X, 5, init=start).throw()
    np.testing.assert_allclose(fit.params, peer.cluster_centers_, rtol=1e-12)
    np.testing.assert_array_equal(kmeans.predict(fit.params, X), peer.labels_)
    np.testing.assert_allclose(fit.loss, peer.inertia_, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_stops_at_the_exact_fixed_point(dtype, offset):
    x = (X + offset).astype(dtype)
    data = as_data(x)
    fits = kmeans.fit_restarts(KEY, x, 7, restarts=8).throw()
    for centers in fits.params:
        np.testing.assert_array_equal(kmeans.m_step(kmeans.e_step(centers, data), centers), centers)
    # J itself is a sum, right to a few units in its last place.
    assert (
        np.nanmax(np.diff(np.asarray(fits.trace), axis=1) / np.asarray(fits.loss)[:, None]) <= 4 * np.finfo(dtype).eps
    )


def test_fit_is_the_best_of_fit_restarts():
    fits = kmeans.fit_restarts(KEY, X, 7, restarts=8)
    fit = kmeans.fit(KEY, X, 7, restarts=8)
    assert fit.loss == fits.loss.min()
    chex.assert_trees_all_equal(fit, jax.tree.map(lambda leaf: leaf[fits.loss.argmin()], fits))


@pytest.mark.parametrize("start", ["equal", "far", "outside", "kmeans++"])
@pytest.mark.parametrize("k", [3, 12])
def test_no_cluster_is_empty_with_enough_distinct_rows(start, k):
    random = np.random.default_rng(1)
    x = np.repeat(random.normal(size=(12, 2)), 5, axis=0)
    init = {
        "equal": np.zeros((k, 2)),
        "far": 1e6 + np.arange(2.0 * k).reshape(k, 2),
        "outside": np.vstack([x[:1], 1e3 + random.normal(size=(k - 1, 2))]),
        "kmeans++": seeding.kmeans_plus_plus,
    }[start]
    fits = kmeans.fit_restarts(KEY, x, k, init=init, restarts=4).throw()
    for centers in fits.params:
        assert len(np.unique(kmeans.predict(centers, x))) == k
    if k == 12:
        np.testing.assert_allclose(fits.loss, 0, atol=1e-25)
    alone = np.vstack([x[: k - 1], [[1e6, 1e6]]])
    kept = kmeans.fit(KEY, x, k, init=alone, empty="keep").throw()
    np.testing.assert_array_equal(kept.params[-1], alone[-1])


@pytest.mark.parametrize("init", [seeding.kmeans_plus_plus, seeding.random_rows, seeding.maximin])
def test_fewer_distinct_rows_than_centers_gives_zero_cost(init):
    x = np.repeat(np.array([[1.0, 2.0], [3.0, 4.0]]), 4, axis=0)
    fits = kmeans.fit_restarts(KEY, x, 5, init=init, restarts=3).throw()
    np.testing.assert_array_equal(fits.loss, 0)
    assert np.isfinite(fits.params).all()
    assert all((centers[:, None] == x[None]).all(-1).any(1).all() for centers in np.asarray(fits.params))


@pytest.mark.parametrize("k", [1, 60])
def test_one_cluster_is_the_mean_and_as_many_as_rows_cost_nothing(k):
    fit = kmeans.fit(KEY, X, k, restarts=2).throw()
    if k == 1:
        np.testing.assert_allclose(fit.params[0], X.mean(0), rtol=1e-13)
        np.testing.assert_allclose(fit.loss, 60 * X.var(0).sum(), rtol=1e-12)
    else:
        assert fit.loss == 0
        np.testing.assert_array_equal(np.sort(kmeans.predict(fit.params, X)), np.arange(60))


@pytest.mark.parametrize("x", [np.full((8, 2), 3.0), np.array([[5.0, 1.0]])], ids=["all rows equal", "one row"])
def test_a_single_point(x):
    fit = kmeans.fit(KEY, x, 1).throw()
    np.testing.assert_array_equal(fit.params, x[:1])
    assert fit.loss == 0


def test_a_constant_column_changes_nothing():
    plain = kmeans.fit(KEY, X, 4, init=X[:4])
    wide = kmeans.fit(KEY, np.column_stack([X, np.full(60, 7.0)]), 4, init=np.column_stack([X[:4], np.full(4, 7.0)]))
    np.testing.assert_allclose(wide.params[:, :2], plain.params, rtol=1e-12)
    np.testing.assert_array_equal(wide.params[:, 2], 7.0)


def test_integer_weights_are_repeated_rows():
    weights = np.arange(60) % 4
    weighted = kmeans.fit(KEY, X, 5, weights=weights, init=X[1:6])
    repeated = kmeans.fit(KEY, np.repeat(X, weights, axis=0), 5, init=X[1:6])
    np.testing.assert_allclose(weighted.params, repeated.params, rtol=1e-11)
    np.testing.assert_allclose(weighted.loss, repeated.loss, rtol=1e-12)
    assert weighted.num_steps == repeated.num_steps


def test_scaling_the_weights_scales_only_the_loss():
    fits = [kmeans.fit(KEY, X, 5, weights=w, init=X[:5]) for w in (np.ones(60), np.full(60, 1e-3), np.full(60, 1e8))]
    for fit, scale in zip(fits, [1, 1e-3, 1e8], strict=True):
        np.testing.assert_allclose(fit.params, fits[0].params, rtol=1e-12)
        np.testing.assert_allclose(fit.loss, scale * fits[0].loss, rtol=1e-12)


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_float32_far_from_the_origin_fits_as_float64(offset):
    x = (blobs(2000, 2, 4, spread=5.0) + offset).astype(np.float32)
    exact = kmeans.fit(KEY, x.astype(np.float64), 4, init=x[:4].astype(np.float64)).throw()
    fit = kmeans.fit(KEY, x, 4, init=x[:4])
    assert fit.params.dtype == jnp.float32
    np.testing.assert_array_equal(kmeans.predict(fit.params, x), kmeans.predict(exact.params, x.astype(np.float64)))
    np.testing.assert_allclose(fit.loss, exact.loss, rtol=1e-4)


@pytest.mark.slow
def test_fit_vmaps_over_keys_data_sets_weights_and_tolerances():
    batch = np.stack([X, X[::-1] * 2.0])
    weights = np.stack([np.ones(60), np.arange(60) % 3 + 1.0])
    rtols = jnp.array([0.0, 1e-2])

    def fit(key, x, w, rtol):
        return kmeans.fit(key, x, 3, weights=w, rtol=rtol, restarts=2, max_steps=50)

    keys = jax.random.split(KEY, 2)
    many = jax.vmap(fit)(keys, batch, weights, rtols)
    for lane in range(2):
        single = fit(keys[lane], batch[lane], weights[lane], rtols[lane])
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, lane=lane: leaf[lane], many), single, rtol=1e-12)


def test_fit_takes_blocks_and_every_solver():
    chunked = kmeans.fit(KEY, X, 5, reduce=Blocks(16), restarts=4)
    np.testing.assert_allclose(chunked.params, kmeans.fit(KEY, X, 5, restarts=4).params, rtol=1e-12)
    descended = kmeans.fit(KEY, X, 5, solver=solve.Optax(optax.adam, 0.3), restarts=4, max_steps=400, rtol=0.0)
    assert descended.status == Status.MAX_STEPS
    assert descended.loss < 1.02 * chunked.loss


def test_lower_bound_is_the_scatter_left_by_the_first_principal_components():
    for k in (1, 2, 3):
        for x in (X, X[:4] @ np.ones((2, 9)) + np.eye(4, 9)):
            scatter = (x - x.mean(0)).T @ (x - x.mean(0))
            expected = np.sort(np.linalg.eigvalsh(scatter))[: max(x.shape[1] - k + 1, 0)].sum()
            np.testing.assert_allclose(kmeans.lower_bound(x, k), expected, rtol=1e-9, atol=1e-9)
    weights = np.arange(60) % 3
    np.testing.assert_allclose(
        kmeans.lower_bound(X, 2, weights=weights), kmeans.lower_bound(np.repeat(X, weights, axis=0), 2), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("separation", "spread", "num_rows"),
    [
        (1e4, 0.1, 200_000),
        pytest.param(1e3, 0.01, 1000, marks=pytest.mark.slow),
        pytest.param(10.0, 1.0, 100_000, marks=pytest.mark.slow),
    ],
)
def test_float32_holds_where_clusters_lie_far_apart_and_are_large(separation, spread, num_rows):
    random = np.random.default_rng(0)
    side = np.where(np.arange(num_rows) % 2, 1.0, -1.0)[:, None]
    x = (side * separation + spread * random.normal(size=(num_rows, 2))).astype(np.float32)
    fit = kmeans.fit(KEY, x, 2, restarts=2).throw()
    exact = x.astype(np.float64)
    best = sum((half.var(axis=0) * len(half)).sum() for half in (exact[::2], exact[1::2]))
    assert abs(float(fit.loss) / best - 1) < 1e-4
    assert kmeans.lower_bound(x, 2) <= fit.loss
    labels = np.arange(num_rows) % 2
    means = np.stack([exact[::2].mean(0), exact[1::2].mean(0)])
    updated = kmeans.update(np.zeros((2, 2)), x, labels)
    np.testing.assert_allclose(updated, means, atol=2 * np.spacing(np.float32(separation)))


def test_lower_bound_holds_in_float32_on_tight_and_distant_clusters():
    random = np.random.default_rng(0)
    for scale, spread in [(100.0, 0.0), (1000.0, 0.01), (1.0, 1.0)]:
        x = (scale * np.repeat(random.normal(size=(3, 8)), 50, axis=0) + spread * random.normal(size=(150, 8))).astype(
            np.float32
        )
        fit = kmeans.fit(KEY, x, 3, restarts=8)
        assert kmeans.lower_bound(x, 3) <= fit.loss


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 5},
        pytest.param({"rtol": 0.5}, marks=pytest.mark.slow),
        {"solver": solve.Optax(optax.adam, 0.1), "max_steps": 3},
    ],
    ids=["steps", "rtol", "adam"],
)
def test_no_cluster_is_empty_whatever_ended_the_fit(options):
    x = np.random.default_rng(0).normal(size=(200, 2))
    fits = kmeans.fit_restarts(KEY, x, 50, init=np.zeros((2, 50, 2)), **options)
    for lane, centers in enumerate(fits.params):
        assert len(np.unique(kmeans.predict(centers, x))) == 50
        np.testing.assert_allclose(fits.loss[lane], kmeans.objective(centers, x), rtol=1e-12)
        assert fits.trace[lane, fits.num_steps[lane]] == fits.loss[lane]


def test_empty_clusters_are_filled_alike_whole_and_in_blocks():
    # Six clusters on a line, and centers of which all but one are far away: one step fills one of them.
    x = np.repeat(10.0 * np.arange(6.0), 5)[:, None] + np.tile(np.array([-0.05, 0.0, 0.0, 0.0, 0.05]), 6)[:, None]
    start = np.vstack([x[:1], 1e4 + np.arange(5.0)[:, None]])
    fits = [kmeans.fit(KEY, x, 6, init=start, max_steps=1, reduce=reduce) for reduce in (Blocks(), Blocks(7))]
    for fit in fits:
        assert len(np.unique(kmeans.predict(fit.params, x))) == 6
        np.testing.assert_allclose(fit.loss, kmeans.objective(fit.params, x), rtol=1e-12)
    np.testing.assert_allclose(fits[0].params, fits[1].params, rtol=1e-12)
    kept = kmeans.fit(KEY, x, 6, init=start, max_steps=1, empty="keep")
    assert kept.loss > 10 * fits[0].loss


@pytest.mark.parametrize("empty", ["farthest", pytest.param("keep", marks=pytest.mark.slow)])
def test_centers_that_are_off_leave_the_fit_of_the_others(empty):
    x = blobs(60, 2, 4)
    seeds = seeding.starts(jax.random.key(1), as_data(x), 6, restarts=3)
    for num_active in (1, 4):
        fits = kmeans.fit_restarts(jax.random.key(0), x, 6, init=seeds, num_active=num_active, empty=empty)
        alone = kmeans.fit_restarts(jax.random.key(0), x, num_active, init=seeds[:, :num_active], empty=empty)
        np.testing.assert_allclose(fits.trace, alone.trace, rtol=1e-12)
        np.testing.assert_allclose(fits.params[:, :num_active], alone.params, rtol=1e-12)
        assert (fits.params[:, num_active:] == jnp.inf).all()
    # Stopped early, empty clusters are filled, and those that are off are not.
    early = kmeans.fit_restarts(
        jax.random.key(0), x, 6, init=jnp.tile(x[:1], (6, 1)), num_active=3, max_steps=1, empty=empty
    )
    assert (early.params[:, 3:] == jnp.inf).all()
    if empty == "farthest":
        assert set(np.asarray(kmeans.predict(early.params[0], x)).tolist()) == {0, 1, 2}


@pytest.mark.parametrize("init", [seeding.kmeans_plus_plus, seeding.random_rows, seeding.maximin])
def test_the_first_centers_of_a_seeding_are_a_seeding(init):
    data = as_data(blobs(60, 2, 4))
    trials = functools.partial(init, trials=2) if init is seeding.kmeans_plus_plus else init
    many = seeding.starts(jax.random.key(0), data, 6, init=trials, restarts=2, num_active=4)
    few = seeding.starts(jax.random.key(0), data, 4, init=trials, restarts=2)
    np.testing.assert_array_equal(many[:, :4], few)
    assert (many[:, 4:] == jnp.inf).all()


@pytest.mark.parametrize("bad", [0, slice(None)])
def test_a_start_that_holds_nan_ends(bad):
    centers = np.array([[0.0, 1.0], [9.0, 0.0]])
    centers[bad, 0] = np.nan
    x = np.random.default_rng(0).normal(size=(20, 2))
    assert solve.run(kmeans.KMeans(), solve.EM(), centers, x).status == Status.NONFINITE
