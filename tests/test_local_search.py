"""Exchanges of a center for a row: each is the best one for its row, and J never rises."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs

from jaxmix import as_data, kmeans, local_search, seeding

KEY = jax.random.key(0)
X = blobs(331, 3, 7, seed=5, spread=20.0)
STARTS = np.stack([X[:5], X[-5:], X[::70][:5]])


def improved(x=X, starts=STARTS, num_swaps=12, key=KEY, weights=None, scale=None):
    data = as_data(x, weights)._replace(scale=scale)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(starts)))
    return np.asarray(local_search.improved(keys, jnp.asarray(starts), data, num_swaps))


@pytest.mark.parametrize("num_swaps", [1, 12])
def test_the_center_that_is_missed_least_goes_and_j_falls(num_swaps):
    rng = np.random.default_rng(0)
    weights = rng.integers(1, 4, len(X)).astype(float)
    found = improved(num_swaps=num_swaps, weights=weights)
    for start, after in zip(STARTS, found, strict=True):
        before = min_costs(start, weights)
        assert min_costs(after, weights) <= before
        changed = np.any(start != after, axis=1)
        assert all(any(np.array_equal(row, x) for x in X) for row in after[changed])
    # One exchange: no other center in exchange for the same row is better.
    if num_swaps == 1:
        for start, after in zip(STARTS, found, strict=True):
            (row,) = after[np.any(start != after, axis=1)]
            others = [np.where(np.arange(5)[:, None] == j, row, start) for j in range(5)]
            np.testing.assert_allclose(min_costs(after, weights), min(min_costs(u, weights) for u in others))


def min_costs(centers, weights):
    squares = np.square(X[:, None] - centers).sum(axis=2)
    return weights @ squares.min(axis=1)


def test_nearest_two_are_those_of_brute_force():
    columns, places = jnp.asarray(X.T), jnp.asarray(STARTS[0].T)
    zeros = jnp.zeros(len(X))
    labels = zeros.astype(jnp.int32)
    near = local_search.Nearest(labels, labels, zeros, zeros)
    stale = jnp.asarray(np.arange(len(X)) % 3 == 1)
    found = local_search._measured(near, stale, places, columns)
    order = np.argsort(np.square(X[:, None] - STARTS[0]).sum(axis=2), axis=1)
    squares = np.sort(np.square(X[:, None] - STARTS[0]).sum(axis=2), axis=1)
    np.testing.assert_array_equal(found.first[stale], order[stale, 0])
    np.testing.assert_array_equal(found.second[stale], order[stale, 1])
    np.testing.assert_allclose(found.distance[stale], squares[stale, 0])
    np.testing.assert_allclose(found.other[stale], squares[stale, 1])
    # The others were not asked for; row 0 may be measured with the last of them.
    rest = ~np.asarray(stale)
    rest[0] = False
    assert not np.any(found.distance[rest])


def test_what_is_carried_is_what_all_distances_say():
    key = jax.random.fold_in(KEY, 0)
    data = as_data(X)
    columns = data.x.T
    points = jax.random.uniform(key, (30,), data.x.dtype)
    zeros = jnp.zeros(len(X))
    labels = zeros.astype(jnp.int32)
    blank = local_search.Nearest(labels, labels, zeros, zeros)
    places = jnp.asarray(X[[0] * 5].T)
    fresh = jax.jit(lambda places: local_search._measured(blank, zeros == 0, places, columns))
    tried = jax.jit(local_search._tried)
    carry = jnp.full(5, -1, jnp.int32), places, fresh(places)
    exchanges = 0
    for point in points:
        before = carry
        carry = tried(carry, point, columns, data.weights)
        exchanges += int(np.any(before[1] != carry[1]))
        for kept, anew in zip(carry[2], fresh(carry[1]), strict=True):
            np.testing.assert_allclose(kept, anew)
    assert exchanges > 3


def test_a_center_moves_to_the_cluster_that_has_none():
    x = np.concatenate([blobs(200, 2, 1, seed=i) * 0.1 + place for i, place in enumerate([[0, 0], [50, 0], [0, 50]])])
    starts = np.stack([x[:3]])
    after = improved(x, starts, num_swaps=6)[0]
    nearest = np.abs(after[:, None] - np.array([[0.0, 0], [50, 0], [0, 50]])).max(axis=2).argmin(axis=1)
    assert sorted(nearest) == [0, 1, 2]


def test_centers_that_are_off_stay_and_one_may_be_alone():
    for on in (1, 3):
        starts = np.where(np.arange(5)[:, None] < on, STARTS, np.inf)
        after = improved(starts=starts)
        assert np.isinf(after[:, on:]).all()
        assert np.isfinite(after[:, :on]).all()
        for start, end in zip(starts, after, strict=True):
            assert kmeans.objective(end[:on], X) <= kmeans.objective(start[:on], X) * (1 + 1e-12)


def test_a_start_has_the_same_bits_among_few_and_many():
    np.testing.assert_array_equal(improved()[:2], improved(starts=STARTS[:2]))


def test_rows_of_weight_zero_are_never_taken():
    weights = np.arange(len(X)) % 2 * 1.0
    far = np.where(weights[:, None] == 0, 1e3, X)
    assert np.abs(improved(far, weights=weights)).max() < 500


def test_a_scale_is_another_unit_of_each_feature():
    factors = np.array([4.0, 0.5, 2.0])
    scaled = improved(X * factors, STARTS * factors)
    np.testing.assert_allclose(improved(scale=jnp.asarray(factors)) * factors, scaled, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("hostile", ["equal", "few", "one", "far", "huge", "tiny"])
def test_hostile_rows_give_finite_centers(dtype, hostile):
    x = {
        "equal": np.ones((40, 2)),
        "few": np.repeat([[0.0, 1.0], [2.0, 3.0]], 20, axis=0),
        "one": np.ones((1, 2)),
        "far": 1e6 + blobs(40, 2, 2),
        "huge": 1e30 * blobs(40, 2, 2),
        "tiny": 1e-30 * blobs(40, 2, 2),
    }[hostile].astype(dtype)
    data = as_data(x)
    starts = seeding.starts(KEY, data, 3, restarts=2)
    after = local_search.improved(jax.random.split(KEY, 2), starts, data, 6)
    assert after.dtype == dtype
    assert np.isfinite(after).all()
    assert all(any(np.array_equal(center, row) for row in x) for start in after for center in start)


def test_under_jit_and_vmap_the_exchanges_are_those_without():
    def one(key):
        return local_search.improved(key[None], jnp.asarray(STARTS[:1]), as_data(X), 5)

    keys = jax.random.split(KEY, 3)
    mapped = jax.vmap(one)(keys)
    for key, found in zip(keys, mapped, strict=True):
        np.testing.assert_allclose(found, jax.jit(one)(key))


def test_after_many_exchanges_none_lowers_the_cost():
    x = np.random.default_rng(1).normal(size=(9, 2))
    after = improved(x, np.stack([x[:3]]), num_swaps=200)[0]
    data = as_data(x)

    def exchange(centers):
        return [np.where(np.arange(3)[:, None] == j, row, centers) for j, row in itertools.product(range(3), x)]

    # A local optimum: no one exchange lowers J.
    end = kmeans.objective(after, data.x)
    assert all(kmeans.objective(each, data.x) >= end * (1 - 1e-6) for each in exchange(after))
