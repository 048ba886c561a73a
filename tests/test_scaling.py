"""Fits on one, two, four and eight devices: the same bits where they are asked for, and one collective a step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxmix
from jaxmix import Rows, Sharded, Subsample, gmm, kmeans, merging, sampling, sharding, solve
from jaxmix.kernels.running import ArgMax
from jaxmix.reduction import Footprint
from tests.test_sharding import collectives

KEY = jax.random.key(0)
# Neither 8 nor 64 divides their number.
X = blobs(1801, 3, 4, seed=2, spread=3.0).astype(np.float32)
WEIGHTS = np.random.default_rng(0).uniform(0.5, 2.0, len(X)).astype(np.float32)
MANY = tuple(pytest.param(num, marks=pytest.mark.slow) for num in (2, 4))


def mesh_of(num_devices: int, kind: AxisType = AxisType.Auto) -> Mesh:
    return jax.make_mesh((num_devices,), ("rows",), axis_types=(kind,), devices=jax.devices()[:num_devices])


def ordered(num_devices: int, **options: Any) -> Sharded:
    return Sharded(mesh_of(num_devices), deterministic=True, **options)


def assert_same_bits(actual: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


START = X[[0, 500, 900, 1300]]
MIXTURE = gmm.start.from_centers(START, X)
RUNS = {
    "kmeans": (kmeans.KMeans(), solve.EM(), START),
    "mixture": (gmm.GaussianMixture(), solve.EM(), MIXTURE),
    "squarem": (gmm.GaussianMixture(), solve.Squarem(), MIXTURE),
    "lbfgs": (gmm.GaussianMixture(), solve.LBFGS(), MIXTURE),
    "stepwise": (kmeans.KMeans(), solve.Stepwise(200, KEY), START),
}
QUICK = ("kmeans", "squarem")


@pytest.mark.parametrize("num_devices", [*MANY, 8])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in RUNS])
def test_the_bits_of_one_device_on_many(name, num_devices):
    problem, solver, start = RUNS[name]
    data = jaxmix.as_data(X, WEIGHTS)
    found, expected = (
        solve.run(problem, solver, start, data, max_steps=12, reduce=ordered(num, size=20)) for num in (num_devices, 1)
    )
    assert_same_bits(found, expected)
    plain = solve.run(problem, solver, start, data, max_steps=12)
    # Batches are drawn otherwise.
    np.testing.assert_allclose(found.loss, plain.loss, rtol=0.02 if name == "stepwise" else 1e-4)


def test_the_bits_of_a_fit_from_a_key_wherever_its_rows_were():
    rows = X[:1600]
    far = rows + np.float32(100)

    def fit(x: Any, num_devices: int) -> Any:
        return kmeans.fit(KEY, x, 4, weights=WEIGHTS[:1600], subsample=Subsample(rows=200), reduce=ordered(num_devices))

    for x in (rows, far):
        expected = fit(x, 1)
        for kind in (AxisType.Auto, AxisType.Explicit):
            spread = jax.device_put(x, NamedSharding(mesh_of(8, kind), PartitionSpec("rows")))
            assert_same_bits(fit(spread, 8), expected)
    # Without a sample, a seeding sees one.
    fits = [gmm.fit_restarts(KEY, rows, 4, restarts=2, max_steps=3, reduce=ordered(num)) for num in (1, 8)]
    assert_same_bits(*fits)


def test_shares_are_summed_in_one_order_and_merged_by_their_own_method():
    # Numbers of all sizes: in another order their sum has other digits.
    x = (10.0 ** np.random.default_rng(0).uniform(-8, 8, (640, 3))).astype(np.float32)

    def fn(prepared, rows):
        row = jnp.argmax(rows.x[:, 0])
        return jnp.sum(rows.x, axis=0), jnp.sum(rows.x > 1, dtype=jnp.int32), ArgMax(rows.x[row, 0], rows.x[row])

    def total(num_devices, rows):
        reduce = ordered(num_devices, size=5)
        return jax.jit(lambda x: sharding.spread(reduce, of_rows, reduce, Rows(x)))(rows)

    def of_rows(reduce, rows):
        return reduce(fn, None, reduce.cut(rows.x, None, Footprint(1)))

    found = [total(num, jnp.asarray(x)) for num in (1, 2, 4, 8)]
    for each in found[1:]:
        assert_same_bits(each, found[0])
    np.testing.assert_allclose(found[0][0], x.astype(np.float64).sum(axis=0), rtol=1e-6)
    assert found[0][1] == (x > 1).sum()
    np.testing.assert_array_equal(found[0][2].row, x[x[:, 0].argmax()])
    assert_same_bits(merging.in_pairs(jnp.arange(8.0)), jnp.array([1.0, 5.0, 9.0, 13.0]))


def test_an_epoch_has_every_row_of_every_share_once():
    reduce = ordered(8)

    def drawn(rows):
        cut = reduce.cut(rows.x, None, Footprint(1))
        batches = reduce.epoch(KEY, len(X) // 64 * 8, 64 * 4)
        taken = jax.vmap(lambda batch: reduce.take(cut, batch, len(X) // 64 * 8)[0].x)(batches)
        return jax.lax.all_gather(taken, "rows")

    ids = np.arange(len(X) // 64 * 64.0)
    found = np.asarray(jax.jit(lambda x: sharding.spread(reduce, drawn, Rows(x)))(jnp.asarray(ids)[:, None]))
    counts = np.bincount(found.astype(int).ravel(), minlength=len(ids))
    # 28 rows a share, 4 of each in a batch: seven batches, none filled up.
    assert found.shape == (8, 7, 8, 4, 1)
    assert (counts == 1).all()


def test_a_sample_by_mass_within_shares_is_one_of_all_rows():
    data = jaxmix.as_data(X.astype(np.float64)[:1792])
    mass = jnp.square(data.x[:, 0]) + 1
    drawn = [
        jax.vmap(lambda key, slots=slots: sampling.proportional(key, data, mass, 64, slots=slots).weights.sum())(
            jax.random.split(KEY, 500)
        )
        for slots in (1, 64)
    ]
    for totals in drawn:
        spread = np.std(totals) / np.sqrt(len(totals))
        assert abs(np.mean(totals) - 1792) < 4 * spread
    # Each stratum has the same mass, whatever the shares are.
    found = sampling.proportional(KEY, data, mass, 64, slots=64)
    np.testing.assert_allclose(found.weights * (jnp.square(found.x[:, 0]) + 1) * 64, mass.sum(), rtol=1e-9)


def weak(problem: Any, start: Any, num_devices: int, per_device: int) -> tuple[Any, list, Any]:
    """A fit of so many rows a device, its collectives within the loop, and the fit of one device."""
    x = np.tile(X.astype(np.float64), (8, 1))[: num_devices * per_device]
    spread = jax.device_put(x, NamedSharding(mesh_of(num_devices), PartitionSpec("rows")))

    def fit(x):
        return solve.run(problem, solve.EM(), start, x, max_steps=8, reduce=Sharded(mesh_of(num_devices)))

    compiled = jax.jit(fit).lower(spread).compile()
    found = [(kind, size) for kind, size, in_loop in collectives(compiled.as_text() or "") if in_loop and size > 1]
    return fit(spread), found, solve.run(problem, solve.EM(), start, x, max_steps=8)


@pytest.mark.parametrize("name", ["kmeans", "mixture"])
def test_weak_scaling_has_one_all_reduce_a_step_of_a_size_that_neither_rows_nor_devices_change(name):
    problem, _, start = RUNS[name]
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), start)
    k, num_features = 4, 3
    steps = []
    for num_devices, per_device in ((2, 200), (8, 200), (8, 400)):
        found, inside, expected = weak(problem, start, num_devices, per_device)
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
        for one, other in zip(jax.tree.leaves(found.params), jax.tree.leaves(expected.params), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
        assert all(kind == "all-reduce" for kind, _ in inside)
        # K-means repairs in a loop of its own, by the same sums; and it sends the farthest row of every device.
        farthest = num_devices * (num_features + 1) if name == "kmeans" else 0
        steps.append(sorted(size - farthest for _, size in inside))
    # Their number, too.
    assert steps[0] == steps[1] == steps[2]
    if name == "kmeans":
        assert steps[0] == [1 + k * (num_features + 2)] * 2
    else:
        assert len(steps[0]) == 1
        assert steps[0][0] <= 1 + k * (1 + num_features + num_features**2)


def test_devices_by_which_64_cannot_be_divided_are_rejected():
    with pytest.raises(ValueError, match="needs rows spread over 1, 2, 4, 8, 16, 32 or 64 devices, got 3"):
        kmeans.fit(KEY, X, 2, reduce=ordered(3))
