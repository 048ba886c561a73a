"""The exact solvers against each other, against packages and plain NumPy, and under the symmetries of J."""

import itertools

import jax
import jax.numpy as jnp
import kmeans1d
import numpy as np
import pytest

from jaxmix import Status, as_data, kmeans
from jaxmix.kmeans import exact

# Few shapes, so few compiles: N = 9 with K = 4 in batches of 12, and N = 2000 with K = 7.
SMALL_K, LARGE_N, LARGE_K = 4, 2000, 7


@jax.jit
@jax.vmap
def fit_small(x, weights):
    return exact.fit_1d(x, SMALL_K, weights=weights)


@jax.jit
@jax.vmap
def brute_small(x, weights):
    return exact.brute_force(x[:, None], SMALL_K, weights=weights)


def small_sets():
    """Twelve weighted data sets of nine rows: generic, with ties, with few distinct rows, with absent rows."""
    random = np.random.default_rng(0)
    x = random.normal(size=(12, 9))
    x[3:6] = random.integers(0, 6, size=(3, 9))
    x[6:8] = random.integers(0, 3, size=(2, 9))
    x[8] = np.exp(5 * x[8])
    x[9] += 1e4
    weights = random.uniform(0.1, 2.0, size=(12, 9))
    weights[[0, 3]] = 1.0
    weights[[1, 4, 10], 2:4] = 0.0
    weights[11, 3:] = 0.0  # three rows for four centers
    return x, weights


@pytest.fixture(scope="module")
def small():
    x, weights = small_sets()
    return x, weights, fit_small(x, weights), brute_small(x, weights)


@pytest.fixture(scope="module")
def large():
    x = np.random.default_rng(1).normal(size=LARGE_N)
    return x, exact.fit_1d(x, LARGE_K)


def partition_cost(x, weights, labels):
    """J of one partition, in plain NumPy."""
    cost = 0.0
    for label in np.unique(labels[weights > 0]):
        members = (labels == label) & (weights > 0)
        center = np.average(x[members], axis=0, weights=weights[members])
        cost += np.sum(weights[members, None] * (x[members] - center) ** 2)
    return cost


def test_fit_1d_equals_brute_force(small):
    _, _, fits, brute = small
    np.testing.assert_allclose(fits.loss, brute.loss, rtol=1e-12, atol=1e-20)
    assert (fits.status == Status.CONVERGED).all()
    assert (np.diff(fits.params[..., 0], axis=1) >= 0).all()
    # Where the optimum is unique the centers agree too: the generic sets.
    for i in [0, 1, 2, 8, 9, 10]:
        np.testing.assert_allclose(fits.params[i], np.sort(brute.params[i], axis=0), rtol=1e-12)


def test_a_lane_equals_the_single_fit(small):
    x, weights, fits, brute = small
    for i in [1, 4, 8]:
        for batch, single in [
            (fits, exact.fit_1d(x[i], SMALL_K, weights=weights[i])),
            (brute, exact.brute_force(x[i][:, None], SMALL_K, weights=weights[i])),
        ]:
            np.testing.assert_allclose(batch.loss[i], single.loss, rtol=1e-12)
            np.testing.assert_allclose(batch.params[i], single.params, rtol=1e-12)


@pytest.mark.slow
def test_brute_force_equals_itertools_in_two_dimensions():
    random = np.random.default_rng(2)
    x, weights = random.normal(size=(4, 7, 2)), random.uniform(0.1, 2.0, size=(4, 7))
    weights[1, 2:4] = 0.0
    x[2] = random.integers(0, 2, size=(7, 2))
    fits = jax.vmap(lambda x, w: exact.brute_force(x, 3, weights=w))(x, weights)
    for i in range(4):
        # The first row may bear any label: let it bear 0.
        every = (np.array([0, *labels]) for labels in itertools.product(range(3), repeat=6))
        least = min(partition_cost(x[i], weights[i], labels) for labels in every)
        np.testing.assert_allclose(fits.loss[i], least, rtol=1e-12, atol=1e-28)
        # Between the bound and what restarts find.
        bound = kmeans.lower_bound(x[i], 3, weights=weights[i])
        lloyd = kmeans.fit(jax.random.key(i), x[i], 3, weights=weights[i])
        assert bound <= fits.loss[i] * (1 + 1e-12) + 1e-14
        assert fits.loss[i] <= lloyd.loss * (1 + 1e-12)


@pytest.mark.parametrize(("num_rows", "k"), [(1, 1), (5, 1), (5, 2), (6, 4), (5, 5), (5, 7)])
def test_every_partition_is_listed_once(num_rows, k):
    listed = exact._partitions(num_rows, k)
    # By first appearance, all labelings fall into as many classes as there are partitions.
    labelings = itertools.product(range(min(k, num_rows)), repeat=num_rows)
    classes = {tuple(list(dict.fromkeys(labels)).index(label) for label in labels) for labels in labelings}
    assert set(map(tuple, listed.tolist())) == classes
    assert len(listed) == len(classes) == exact._num_partitions(num_rows, k)
    assert not listed[0].any()


@pytest.mark.parametrize("kind", ["normal", "lognormal", "integers", "clusters"])
def test_fit_1d_equals_kmeans1d(kind):
    random = np.random.default_rng(3)
    x = {
        "normal": random.normal(size=LARGE_N),
        "lognormal": np.exp(3 * random.normal(size=LARGE_N)),
        "integers": random.integers(0, 40, size=LARGE_N).astype(float),
        "clusters": 10.0 * random.integers(0, 9, size=LARGE_N) + random.normal(size=LARGE_N),
    }[kind]
    labels, centers = kmeans1d.cluster(x.tolist(), LARGE_K)
    fit = exact.fit_1d(x, LARGE_K)
    np.testing.assert_allclose(fit.loss, np.sum((x - np.array(centers)[labels]) ** 2), rtol=1e-11)
    if kind != "integers":  # which may tie
        np.testing.assert_allclose(fit.params[:, 0], centers, rtol=1e-9)


def test_fit_1d_is_no_worse_than_lloyd_and_a_fixed_point_of_it(large):
    x, fit = large
    lloyd = kmeans.fit(jax.random.key(0), x[:, None], LARGE_K, restarts=8)
    assert fit.loss <= lloyd.loss * (1 + 1e-12)
    assert kmeans.lower_bound(x[:, None], LARGE_K) <= fit.loss
    # An optimum is a fixed point of Lloyd.
    labels = kmeans.predict(fit.params, x[:, None])
    np.testing.assert_allclose(kmeans.update(fit.params, x[:, None], labels), fit.params, rtol=0, atol=1e-12)


def test_fields_of_the_fit(small, large):
    x, fit = large
    assert fit.params.shape == (LARGE_K, 1)
    assert fit.loss == kmeans.objective(fit.params, x[:, None])
    assert fit.throw() is fit
    assert fit.num_steps.dtype == jnp.int32
    assert fit.num_passes.dtype == fit.loss.dtype
    assert (fit.num_steps, fit.num_passes) == (0, 0)
    np.testing.assert_array_equal(fit.trace, fit.loss[None])
    x, weights, _, brute = small
    single = exact.brute_force(as_data(x[1][:, None], weights[1]), SMALL_K)
    assert single.loss == kmeans.objective(single.params, x[1][:, None], weights=weights[1])
    assert jax.tree.structure(single) == jax.tree.structure(fit) == jax.tree.structure(brute)


def test_weights_count_rows(large):
    random = np.random.default_rng(4)
    x, counts = random.normal(size=1000), np.repeat([1, 2, 3], [300, 400, 300])
    repeated = exact.fit_1d(np.repeat(x, counts), LARGE_K)
    # Absent rows may hold anything.
    padded = np.concatenate([np.full(1000, np.nan), x])
    weighted = exact.fit_1d(padded, LARGE_K, weights=np.concatenate([np.zeros(1000), counts]))
    np.testing.assert_allclose(weighted.loss, repeated.loss, rtol=1e-12)
    np.testing.assert_allclose(weighted.params, repeated.params, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_symmetries_of_fit_1d(large, weighted):
    x, random = large[0], np.random.default_rng(5)
    weights = random.exponential(size=LARGE_N) if weighted else np.ones(LARGE_N)
    fit = exact.fit_1d(x, LARGE_K, weights=weights)

    order = random.permutation(LARGE_N)
    permuted = exact.fit_1d(x[order], LARGE_K, weights=weights[order])
    np.testing.assert_array_equal(permuted.params, fit.params)
    moved = exact.fit_1d(x + 1e4, LARGE_K, weights=weights)
    np.testing.assert_allclose(moved.loss, fit.loss, rtol=1e-10)
    np.testing.assert_allclose(moved.params - 1e4, fit.params, rtol=0, atol=1e-9)
    mirrored = exact.fit_1d(-3 * x, LARGE_K, weights=weights)
    np.testing.assert_allclose(mirrored.loss, 9 * fit.loss, rtol=1e-12)
    np.testing.assert_allclose(mirrored.params[::-1], -3 * fit.params, rtol=0, atol=1e-12)
    scaled = exact.fit_1d(x, LARGE_K, weights=1e6 * weights)
    np.testing.assert_allclose(scaled.loss, 1e6 * fit.loss, rtol=1e-12)


def test_as_many_centers_as_rows(small):
    x, weights = small[0][0], small[1][2]
    fit = exact.fit_1d(x, 9, weights=weights)
    assert fit.loss == 0
    np.testing.assert_array_equal(fit.params[:, 0], np.sort(x))
    assert exact.brute_force(x[:, None], 9, weights=weights).loss == 0
    # Three distinct rows: each is a center, and the first bears the surplus.
    few = np.array([7.0, 5.0, 7.0, 9.0, 5.0, 5.0, 9.0, 7.0, 5.0])
    fit = exact.fit_1d(few, 9, weights=weights)
    assert fit.loss == 0
    np.testing.assert_array_equal(fit.params[:, 0], [5.0] * 7 + [7.0, 9.0])
    brute = exact.brute_force(few[:, None], 9, weights=weights)
    assert brute.loss == 0
    assert set(brute.params.ravel().tolist()) == {5.0, 7.0, 9.0}


def test_one_center_is_the_weighted_mean(small):
    x, weights = small[0][9], small[1][2]
    for fit in [exact.fit_1d(x, 1, weights=weights), exact.brute_force(x[:, None], 1, weights=weights)]:
        np.testing.assert_allclose(fit.params, [[np.average(x, weights=weights)]], rtol=1e-14)


def test_one_row():
    row, weights = np.array([3]), np.array([0.5])
    for fit in [exact.fit_1d(row, 1, weights=weights), exact.brute_force(row[:, None], 1, weights=weights)]:
        assert fit.params.tolist() == [[3.0]]
        assert fit.loss == 0


def test_surplus_centers_are_copies_when_rows_are_absent(small):
    x, _, fits, brute = small
    for fit in (fits, brute):
        assert fit.loss[11] == 0
        np.testing.assert_array_equal(np.unique(fit.params[11]), np.sort(x[11, :3]))


def test_float32_stays_and_is_as_good_as_float64():
    random = np.random.default_rng(6)
    cases = [
        random.normal(size=LARGE_N),
        np.exp(3 * random.normal(size=LARGE_N)),
        # Tight clusters far apart: prefix sums of squares would hold none of their digits.
        1e3 * random.integers(0, LARGE_K, size=LARGE_N) + 1e-3 * random.integers(0, 9, size=LARGE_N),
    ]
    for x in cases:
        x = x.astype(np.float32)
        fit, reference = exact.fit_1d(x, LARGE_K), exact.fit_1d(x.astype(float), LARGE_K)
        assert fit.params.dtype == fit.loss.dtype == fit.trace.dtype == jnp.float32
        # The partition is judged in float64: its centers as they come would add their own rounding.
        labels = kmeans.predict(fit.params, x[:, None])
        centers = kmeans.update(fit.params.astype(float), x[:, None].astype(float), labels)
        assert kmeans.objective(centers, x[:, None].astype(float), labels) <= reference.loss * (1 + 2e-6)


def test_a_bad_lane_says_so_and_costs_no_other(small):
    x, weights, fits, _ = small
    x, weights = x.copy(), weights.copy()
    x[0, 3], x[5, 0] = np.nan, np.inf
    weights[2], weights[7, 1] = 0.0, -1.0
    bad = np.isin(np.arange(12), [0, 2, 5, 7])
    again, brute = fit_small(x, weights), brute_small(x, weights)
    for fit in (again, brute):
        np.testing.assert_array_equal(fit.status, np.where(bad, Status.NONFINITE, Status.CONVERGED))
    np.testing.assert_array_equal(again.params[~bad], fits.params[~bad])


@pytest.mark.parametrize(
    ("x", "k", "weights", "match"),
    [
        ([[1.0], [2.0]], 1, None, r"`x` must have shape \(N,\), got \(2, 1\). Use x\[:, 0\]"),
        (3.0, 1, None, r"`x` must have shape \(N,\)"),
        ([], 1, None, "`x` must have at least one row"),
        ([1.0, np.nan], 1, None, "`x` must be finite"),
        (["a", "b"], 1, None, "`x` must hold real numbers"),
        ([1.0, 2.0], 3, None, "`k` must be at most the number of rows with positive weight, 2, got 3"),
        ([1.0, 2.0], 2, [1.0, 0.0], "positive weight, 1, got 2"),
        ([1.0, 2.0], 0, None, "`k` must be a Python integer of at least 1"),
        ([1.0, 2.0], 1.5, None, "`k` must be a Python integer"),
        ([1.0, 2.0], 1, [0.0, 0.0], "`weights` must not be all zero"),
        ([1.0, 2.0], 1, [1.0, -1.0], "`weights` must be finite and non-negative"),
        ([1.0, 2.0], 1, [1.0], r"`weights` must have shape \(2,\)"),
    ],
)
def test_fit_1d_rejects_invalid_arguments(x, k, weights, match):
    with pytest.raises(ValueError, match=match):
        exact.fit_1d(x, k, weights=weights)


@pytest.mark.parametrize(
    ("x", "k", "match"),
    [
        (np.zeros((30, 2)), 3, r"30 rows: at least 3.43e\+13 partitions into at most 3 groups.*`exact.fit_1d`"),
        (np.zeros((100_000, 2)), 20, "100000 rows: at least .* partitions"),
        (np.zeros(5), 3, r"`x` must have shape \(N, D\)"),
        (np.zeros((3, 2)), 4, "`k` must be at most"),
    ],
)
def test_brute_force_rejects_invalid_arguments(x, k, match):
    with pytest.raises(ValueError, match=match):
        exact.brute_force(x, k)
