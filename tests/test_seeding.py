"""Seedings: rows of the data, by weight, never twice; and the law they are drawn by."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs
from scipy import stats

from jaxmix import as_data, kmeans, seeding

X = blobs(40, 2, 4)
SEEDINGS = {
    "random_rows": seeding.random_rows,
    "kmeans_plus_plus": seeding.kmeans_plus_plus,
    "plain_kmeans_plus_plus": partial(seeding.kmeans_plus_plus, trials=1),
    "kmeans_parallel": seeding.kmeans_parallel,
    "maximin": seeding.maximin,
}
OTHERS = {"plain_kmeans_parallel": partial(seeding.kmeans_parallel, oversampling=8.0, trials=1)}
SPREADING = [name for name in SEEDINGS if name != "random_rows"]


def draws(name, data, k, num=200, seed=0):
    return np.asarray(_draws(jax.random.split(jax.random.key(seed), num), data, name, k))


@partial(jax.jit, static_argnames=("name", "k"))
def _draws(keys, data, name, k):
    return jax.vmap(lambda key: (SEEDINGS | OTHERS)[name](key, data, k))(keys)


def is_row_of(centers, x):
    return (centers[..., None, :] == x).all(-1).any(-1)


@pytest.mark.parametrize("name", SEEDINGS)
def test_centers_are_distinct_rows_of_positive_weight(name):
    weights = np.arange(40) % 4
    centers = draws(name, as_data(X, weights), 5)
    assert is_row_of(centers, X[weights > 0]).all()
    for start in centers:
        assert len(np.unique(start, axis=0)) == 5


@pytest.mark.parametrize("name", SPREADING)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_never_two_equal_centers_while_distinct_rows_remain(name, scale):
    # Five distinct rows, two of them nearly equal, among many copies.
    values = np.array([[0.0, 0.0], [1e-9, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]) * scale
    x = np.repeat(values, [20, 1, 10, 8, 1], axis=0)
    for start in draws(name, as_data(x), 5, num=50):
        assert len(np.unique(start, axis=0)) == 5


@pytest.mark.parametrize("name", SEEDINGS)
def test_fewer_distinct_rows_than_centers_still_gives_rows(name):
    x = np.repeat(np.array([[1.0], [2.0]]), 3, axis=0)
    absent = np.vstack([[[np.nan]], x])
    centers = draws(name, as_data(absent, np.arange(7) > 0), 4, num=20)
    assert np.isin(centers, x).all()
    if name in SPREADING:
        assert all(len(np.unique(start)) == 2 for start in centers)


@pytest.mark.parametrize("name", SEEDINGS)
def test_more_centers_than_rows_are_rows_again(name):
    # The second row has no weight.
    x = np.array([[1.0], [7.0], [2.0]])
    for centers in draws(name, as_data(x, [1.0, 0.0, 1.0]), 5, num=10)[:, :, 0]:
        assert set(centers) == {1.0, 2.0}
        if name == "random_rows":
            assert (centers[2:] == centers[0]).all()


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
@pytest.mark.parametrize("name", [*SEEDINGS, "starts"])
def test_a_number_of_centers_that_is_none_is_refused(name, k):
    function = (SEEDINGS | {"starts": seeding.starts})[name]
    with pytest.raises(ValueError, match="`k` must be a Python integer of at least 1"):
        function(jax.random.key(0), as_data(X), k)


@pytest.mark.parametrize("name", ["random_rows", "kmeans_plus_plus", "maximin"])
def test_first_center_is_drawn_by_weight(name):
    weights = np.array([1.0, 2.0, 0.0, 5.0])
    x = np.arange(4.0)[:, None]
    counts = np.bincount(draws(name, as_data(x, weights), 1, num=4000)[:, 0, 0].astype(int), minlength=4)
    assert counts[2] == 0
    kept = weights > 0
    assert stats.chisquare(counts[kept], 4000 * weights[kept] / 8).pvalue > 1e-3


# With sixteen of four rows drawn in each of five rounds, every row is a candidate of k-means||, with its own weight.
@pytest.mark.parametrize("name", ["plain_kmeans_plus_plus", "plain_kmeans_parallel"])
def test_plain_kmeans_plus_plus_draws_by_weight_times_squared_distance(name):
    x, weights = np.array([[0.0], [1.0], [3.0], [4.0]]), np.array([1.0, 2.0, 1.0, 0.5])
    starts = draws(name, as_data(x, weights), 2, num=6000)[:, :, 0]
    law = {}
    for first, weight in zip(x[:, 0], weights, strict=True):
        mass = weights * (x[:, 0] - first) ** 2
        for second, share in zip(x[:, 0], mass / mass.sum(), strict=True):
            if share > 0:
                law[first, second] = weight / weights.sum() * share
    seen = [((starts == pair).all(axis=1)).sum() for pair in law]
    assert sum(seen) == 6000
    assert stats.chisquare(seen, 6000 * np.array(list(law.values()))).pvalue > 1e-3


def test_random_rows_without_replacement_is_uniform_over_pairs():
    starts = draws("random_rows", as_data(np.arange(4.0)[:, None]), 2, num=6000)[:, :, 0]
    counts = np.zeros((4, 4))
    np.add.at(counts, tuple(starts.astype(int).T), 1)
    assert (np.diag(counts) == 0).all()
    assert stats.chisquare(counts[~np.eye(4, dtype=bool)]).pvalue > 1e-3


def test_maximin_takes_the_farthest_each_time():
    for start in draws("maximin", as_data(X), 5, num=10):
        for j in range(1, 5):
            distances = ((X[:, None] - start[:j]) ** 2).sum(-1).min(1)
            np.testing.assert_array_equal(start[j], X[distances.argmax()])


def test_more_trials_seed_lower():
    losses = [
        np.mean([kmeans.objective(start, X) for start in draws(name, as_data(X), 4, num=60)])
        for name in ("kmeans_plus_plus", "plain_kmeans_plus_plus", "random_rows")
    ]
    assert losses == sorted(losses)


def test_candidates_of_kmeans_parallel_weigh_as_much_as_the_rows_nearest_to_them():
    # Eleven candidates for a hundred rows of three values: one center is drawn from these as it would be from all.
    counts = np.array([60, 30, 10])
    chosen = draws("kmeans_parallel", as_data(np.repeat(np.arange(3.0), counts)[:, None]), 1, num=4000)[:, 0, 0]
    assert stats.chisquare(np.bincount(chosen.astype(int)), 40 * counts).pvalue > 1e-3


def test_a_start_depends_on_its_index_and_not_on_how_many_there_are():
    few, many = (seeding.starts(jax.random.key(3), as_data(X), 4, restarts=r) for r in (2, 5))
    np.testing.assert_array_equal(few, many[:2])


def test_init_may_be_one_array_or_one_for_each_restart():
    one, several = X[:3], np.stack([X[:3], X[5:8]])
    key, data = jax.random.key(0), as_data(X.astype(np.float32))
    assert seeding.starts(key, data, 3, init=one).shape == (1, 3, 2)
    starts = seeding.starts(key, data, 3, init=several)
    assert starts.dtype == jnp.float32
    np.testing.assert_array_equal(starts, several.astype(np.float32))
    fits = kmeans.fit_restarts(key, X, 3, init=several)
    assert fits.loss.shape == (2,)
    for lane in range(2):
        np.testing.assert_allclose(kmeans.fit(key, X, 3, init=several[lane]).params, fits.params[lane], rtol=1e-13)


def test_trials_below_one_are_refused():
    with pytest.raises(ValueError, match="`trials` must be at least 1"):
        seeding.kmeans_plus_plus(jax.random.key(0), as_data(X), 2, trials=0)


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"oversampling": 0.0}, {"trials": 0}])
def test_kmeans_parallel_that_draws_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        jax.eval_shape(lambda key: seeding.kmeans_parallel(key, as_data(X), 2, **wrong), jax.random.key(0))


def test_greedy_trials_are_judged_by_the_weighted_cost():
    # With so many trials both other rows are tried: -6 leaves a cost of 100, and 10 leaves 5 x 36.
    data = as_data([[0.0], [10.0], [-6.0]], [1e6, 1.0, 5.0])
    for seed in range(5):
        centers = seeding.kmeans_plus_plus(jax.random.key(seed), data, 2, trials=64)
        np.testing.assert_array_equal(centers.ravel(), [0.0, -6.0])


def test_random_rows_beyond_all_rows_repeat_the_first_drawn():
    centers = seeding.random_rows(jax.random.key(0), as_data([[1.0], [2.0]]), 5)
    assert sorted(np.unique(centers)) == [1.0, 2.0]
    np.testing.assert_array_equal(centers[2:], np.broadcast_to(centers[0], (3, 1)))
