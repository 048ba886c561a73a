"""Fits over several devices: the same fits, without rows ever leaving their device."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PROBLEMS, SOLVERS, blobs
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxmix
from jaxmix import Rows, Sharded, Subsample, devices, fitting, gmm, kmeans, sampling, seeding, sharding, solve, sweep
from jaxmix.kernels.running import ArgMax
from jaxmix.pytree import choice
from tests import compiles as programs

KEY = jax.random.key(0)
MESH = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
X = blobs(1200, 3, 4, seed=2, spread=3.0)
SEARCH = Subsample(rows=200, finished=1)


def on_devices(x: Any, kind: AxisType = AxisType.Auto) -> jax.Array:
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(kind,))
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec("rows")))


def assert_same(actual: Any, expected: Any, rtol: float = 1e-9) -> None:
    assert actual.status == expected.status
    np.testing.assert_allclose(actual.loss, expected.loss, rtol=rtol)
    for one, other in zip(jax.tree.leaves(actual.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def assert_alike(actual: Any, expected: Any) -> None:
    """The same components in any order: of restarts that end at one optimum, rounding chooses the best."""

    def in_order(fit: Any) -> Any:
        means = getattr(fit.params, "means", fit.params)
        return fit._replace(params=jax.tree.map(lambda leaf: leaf[jnp.argsort(means[:, 0])], fit.params))

    assert_same(in_order(actual), in_order(expected))


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_has_the_fit_of_one_device(name):
    case = PROBLEMS[name]()
    # 60 rows and 10: neither blocks nor devices divide them.
    data = jaxmix.as_data(case.data.x[:-1], case.data.weights[:-1])
    expected = solve.run(case.problem, solve.EM(), case.start, data, max_steps=25)
    found = solve.run(case.problem, solve.EM(), case.start, data, max_steps=25, reduce=Sharded(MESH, size=7))
    assert_same(found, expected)
    np.testing.assert_allclose(found.trace, expected.trace, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kmeans", "gmm_full", "poisson"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_has_the_fit_of_one_device(name, solver):
    case = PROBLEMS[name]()
    solver, _, max_steps, gap = SOLVERS[solver]
    expected = solve.run(case.problem, solver, case.start, case.data, max_steps=max_steps)
    found = solve.run(case.problem, solver, case.start, case.data, max_steps=max_steps, reduce=Sharded(MESH))
    # Batches are drawn otherwise.
    np.testing.assert_allclose(found.loss, expected.loss, rtol=gap if gap >= 1e-3 else 1e-6)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_rows_that_are_spread_already_are_fitted_where_they_are(kind):
    x = on_devices(X, kind)
    assert_alike(kmeans.fit(KEY, x, 4, subsample=SEARCH).throw(), kmeans.fit(KEY, X, 4, subsample=SEARCH))
    fits, expected = (kmeans.fit_restarts(KEY, each, 4, restarts=3) for each in (x, X))
    np.testing.assert_allclose(fits.loss, expected.loss, rtol=1e-9)


@pytest.mark.slow
def test_weights_padding_and_another_unit():
    assert_alike(gmm.fit(KEY, on_devices(X), 4, subsample=SEARCH).throw(), gmm.fit(KEY, X, 4, subsample=SEARCH))
    weights = np.arange(len(X)) % 3 * 1.0
    far = np.where(weights[:, None] == 0, np.nan, 1e6 + X)
    found = gmm.fit(KEY, on_devices(far), 4, weights=weights, subsample=SEARCH).throw()
    assert_alike(found, gmm.fit(KEY, far, 4, weights=weights, subsample=SEARCH))
    odd = X[:-1]
    found = kmeans.fit(KEY, odd, 4, subsample=SEARCH, reduce=Sharded(MESH)).throw()
    assert_alike(found, kmeans.fit(KEY, odd, 4, subsample=SEARCH))
    traced = jax.jit(lambda x: kmeans.fit(KEY, x, 4, subsample=SEARCH, reduce=Sharded(MESH)))(odd)
    assert_alike(traced, found)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_empty_cluster_goes_to_the_farthest_row_of_any_device(dtype):
    x = np.concatenate([np.zeros((9, 1)), np.ones((9, 1)), [[50.0], [51.0]]]).astype(dtype)
    start = np.array([[0.5], [200.0]], dtype)
    for rows in (x, x[::-1].copy()):
        found = solve.run(kmeans.KMeans(), solve.EM(), start, rows, reduce=Sharded(MESH)).throw()
        np.testing.assert_array_equal(found.params, solve.run(kmeans.KMeans(), solve.EM(), start, rows).params)


@pytest.mark.parametrize("num_rows", [1, 7, 24, 1199])
def test_a_sample_is_that_of_one_device(num_rows):
    data = jaxmix.as_data(X, np.arange(len(X)) % 4 > 0)
    expected = sampling.stratified(KEY, data, num_rows)

    def drawn(data):
        return sampling.stratified(KEY, data, num_rows, axis="rows")

    found = jax.jit(lambda data: sharding.spread(Sharded(MESH), drawn, data))(data)
    np.testing.assert_array_equal(found.x[expected.weights > 0], expected.x[expected.weights > 0])
    np.testing.assert_array_equal(found.weights, expected.weights)

    def by_mass(data, axis=None):
        return sampling.proportional(KEY, data, data.weights * jnp.square(data.x[:, 0]), num_rows, axis=axis)

    on_two = jax.jit(lambda data: sharding.spread(Sharded(MESH), lambda data: by_mass(data, "rows"), data))(data)
    one = by_mass(data)
    np.testing.assert_array_equal(on_two.x, one.x)
    np.testing.assert_allclose(on_two.weights, one.weights, rtol=1e-9)


def test_a_sample_by_mass_where_the_last_device_has_none(monkeypatch):
    # In float32 the largest random number, and the last stratum, end where the sum of all masses does.
    largest = np.nextafter(np.float32(1), np.float32(0))
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, largest))
    weights = np.arange(128) < 64
    data = jaxmix.as_data(np.arange(128, dtype=np.float32)[:, None], weights)

    def drawn(data):
        return sampling.proportional(KEY, data, data.weights, 8, axis="rows")

    found = jax.jit(lambda data: sharding.spread(Sharded(MESH), drawn, data))(data)
    assert np.isfinite(found.weights).all()
    assert np.asarray(found.x).max() < 64


def test_rows_that_fill_up_are_rows_that_the_model_can_have():
    @choice
    class LogMean(jaxmix.Problem):
        """Rows that must be positive."""

        def e_step(self, prepared, rows):
            logs = jnp.log(rows.x[:, 0])
            return {"loss": jnp.sum(rows.weigh(jnp.square(logs - prepared))), "sum": jnp.sum(rows.weigh(logs))}

        def loss(self, prepared, rows):
            return self.e_step(prepared, rows)["loss"]

        def m_step(self, stats, params):
            return stats["sum"] / 127

        def em_step(self, params, rows, reduce):
            stats = reduce(self.e_step, params, rows)
            return self.m_step(stats, params), stats["loss"]

    x = 1.0 + np.arange(127.0)[:, None]
    found = solve.run(LogMean(), solve.EM(), jnp.array(0.0), x, reduce=Sharded(MESH)).throw()
    np.testing.assert_allclose(found.params, np.log(x).mean(), rtol=1e-12)


def test_a_step_by_sums_about_zero_has_one_all_reduce_too():
    x = np.tile(X, (8, 1))
    x -= x.mean(axis=0)
    steps = [size for _, size, in_loop in collectives(compiled(kmeans.KMeans(), on_devices(x))) if in_loop and size > 1]
    k, num_features = 4, 3
    # Counts and sums; and where these are not accurate, and at the end, those about the centers.
    careful = k * (num_features + 2) + 1 + 2 * (num_features + 1)
    assert sorted(steps) == sorted([k * (num_features + 1), careful, careful])
    assert_alike(kmeans.fit(KEY, on_devices(x), 4), kmeans.fit(KEY, x, 4))


def test_rows_and_starts_over_one_mesh():
    mesh = jax.make_mesh((1, 2), ("starts", "rows"), axis_types=(AxisType.Auto,) * 2)
    reduce = Sharded(mesh, starts="starts")
    found, expected = (kmeans.fit_restarts(KEY, X, 4, restarts=3, reduce=each) for each in (reduce, jaxmix.Blocks()))
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-9)


def test_devices_have_what_the_first_has():
    def own(rows):
        return sharding.agreed(Sharded(MESH), {"row": rows.x[0], "first": rows.x[0, 0] == X[0, 0]})

    found = jax.jit(lambda rows: sharding.spread(Sharded(MESH), own, rows))(Rows(jnp.asarray(X)))
    np.testing.assert_array_equal(found["row"], X[0])
    assert found["first"]


def compiled(problem: Any, x: Any, **options: Any) -> str:
    """The program of a fit of concrete rows, as XLA compiled it."""
    solver, refine = options.get("solver", solve.EM()), options.get("refine")
    call: Any = fitting._checked(
        problem, x, 4, None, solver, 50, 0.0, 1e-6, options.get("reduce", jaxmix.Blocks()), KEY,
        seeding.kmeans_plus_plus, refine, 8, options.get("subsample", SEARCH), None,
    )  # fmt: skip
    program = call.args[1]
    return program.func.lower(*program.args, choose=True, **program.keywords).compile().as_text() or ""


def collectives(program: str) -> list[tuple[str, int, bool]]:
    """Each collective: its kind, how many numbers it moves, and whether it is within a loop."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found = []
    for line in program.splitlines():
        match = re.search(rf"= (.*?) ({kinds})(?:-start)?\(", line)
        if match:
            shapes = re.findall(r"\[([\d,]*)\]", match[1])
            sizes = [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]
            found.append((match[2], sum(sizes), "while/body" in line))
    return found


@pytest.mark.parametrize("problem", [kmeans.KMeans(), gmm.GaussianMixture()], ids=["kmeans", "mixture"])
def test_a_step_has_one_all_reduce_of_the_statistics_and_rows_are_never_gathered(problem):
    k, num_features = 4, 3
    few, many = (collectives(compiled(problem, on_devices(np.tile(X, (n, 1))))) for n in (1, 3))
    # Neither their number nor their size depends on N.
    assert few == many
    assert all(kind == "all-reduce" for kind, size, _ in few if size > 2)
    steps = [size for _, size, in_loop in few if in_loop and size > 1]
    if isinstance(problem, kmeans.KMeans):
        # Counts, costs, sums and the loss, and the farthest row of each device: in the loop, and where it is repaired.
        assert steps == [k * (num_features + 2) + 1 + 2 * (num_features + 1)] * 2
    else:
        # The start's two, and the step's: counts, means and the triangles, or all, of the second moments.
        assert len(steps) <= 4
        assert max(steps) <= 1 + k * (1 + num_features + num_features**2)


def test_in_a_jit_of_ones_own_rows_are_not_gathered_either():
    def fit(x, weights):
        return gmm.fit(KEY, x, 4, weights=weights, subsample=SEARCH, reduce=Sharded(MESH)).loss

    program = jax.jit(fit).lower(on_devices(X), on_devices(np.ones(len(X)))).compile().as_text() or ""
    assert max(size for kind, size, _ in collectives(program) if kind == "all-gather") <= len(X)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_second_call_on_a_mesh_made_anew_compiles_nothing(kind):
    mixture = gmm.fit(KEY, X, 4, subsample=SEARCH).params

    def call(key):
        fit = kmeans.fit(key, on_devices(X, kind), 4, weights=np.ones(len(X)), subsample=SEARCH)
        return kmeans.predict(fit.params, on_devices(X, kind)), gmm.log_prob(mixture, on_devices(X, kind))

    programs.compiled(lambda: call(KEY))
    assert programs.compiled(lambda: call(jax.random.key(1))) == []


def test_predictions_stay_where_the_rows_are():
    x = on_devices(X)
    fit = gmm.fit(KEY, X, 4, subsample=SEARCH)
    for function in (gmm.predict, gmm.log_prob, gmm.responsibilities):
        found = function(fit.params, x)
        np.testing.assert_allclose(found, function(fit.params, X), rtol=1e-12, atol=1e-12)
        assert len(found.sharding.device_set) == 2
        assert not found.is_fully_replicated
    centers = fit.params.means
    np.testing.assert_array_equal(kmeans.predict(centers, x), kmeans.predict(centers, X))
    np.testing.assert_allclose(kmeans.objective(centers, x), kmeans.objective(centers, X), rtol=1e-12)
    np.testing.assert_allclose(jaxmix.metrics.bic(fit.params, x), jaxmix.metrics.bic(fit.params, X), rtol=1e-12)


@pytest.mark.parametrize("restarts", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_starts_over_devices_have_the_bits_of_one_device(restarts):
    mesh = jax.make_mesh((2,), ("starts",), axis_types=(AxisType.Auto,))
    reduce = Sharded(mesh, None, starts="starts")
    for fit in (kmeans.fit_restarts, gmm.fit_restarts):
        found, expected = (fit(KEY, X[:300], 4, restarts=restarts, reduce=each) for each in (reduce, jaxmix.Blocks()))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    # A search on a sample, too.
    found, expected = (kmeans.fit(KEY, X, 4, subsample=SEARCH, reduce=each) for each in (reduce, jaxmix.Blocks()))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    starts = jnp.stack([X[i : i + 4] for i in range(restarts)])
    found = solve.run_many(kmeans.KMeans(), solve.EM(), starts, X, reduce=reduce)
    expected = solve.run_many(kmeans.KMeans(), solve.EM(), starts, X)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_groups_of_starts_do_not_wait_for_each_other():
    # Without rows to sum, nothing but the end of all starts is shared.
    mesh = jax.make_mesh((2,), ("starts",), axis_types=(AxisType.Auto,))
    program = compiled(kmeans.KMeans(), X, reduce=Sharded(mesh, None, starts="starts"), subsample=None)
    found = collectives(program)
    assert found
    assert not any(in_loop for _, _, in_loop in found)


def test_sweeps_take_rows_on_devices():
    few = X[:120]
    options = {"covariances": [gmm.Spherical], "restarts": 2, "max_steps": 20}
    found, expected = (sweep.mixtures(KEY, x, [1, 3], **options)["Spherical"] for x in (on_devices(few), few))
    np.testing.assert_allclose(found.fits.loss, expected.fits.loss, rtol=1e-9)


def test_statistics_that_merge_and_of_several_dtypes_are_totals_of_all_devices():
    def fn(prepared, rows):
        row = jnp.argmax(rows.x[:, 0])
        return jnp.sum(rows.x), jnp.sum(rows.x > 0, dtype=jnp.int32), ArgMax(rows.x[row, 0], rows.x[row])

    reduce = Sharded(MESH)
    total, count, largest = sharding.spread(reduce, lambda rows: reduce(fn, None, rows), Rows(jnp.asarray(X)))
    np.testing.assert_allclose(total, X.sum(), rtol=1e-12)
    assert (count.dtype, int(count)) == (jnp.int32, (X > 0).sum())
    np.testing.assert_array_equal(largest.row, X[X[:, 0].argmax()])


def test_where_an_array_lies():
    assert devices.rows_of(X) is None
    assert devices.rows_of(jnp.asarray(X)) is None
    assert devices.rows_of(jax.device_put(X, NamedSharding(MESH, PartitionSpec(None)))) is None
    for kind in (AxisType.Auto, AxisType.Explicit):
        found = devices.rows_of(on_devices(X, kind))
        assert found == NamedSharding(MESH, PartitionSpec("rows"))
    two = jax.make_mesh((1, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    both = devices.rows_of(jax.device_put(X, NamedSharding(two, PartitionSpec(("a", "b")))))
    assert both is not None
    assert devices.parts_of(two, ("a", "b")) == 2


@pytest.mark.parametrize(
    ("reduce", "words"),
    [
        (Sharded(None), "`mesh` of `Sharded` must be a jax.sharding.Mesh, got None"),
        (Sharded(MESH, "columns"), "must name different axes of its mesh, ('rows',), got 'columns' and None"),
        (Sharded(MESH, "rows", starts="rows"), "got 'rows' and 'rows'"),
        (Sharded(MESH, None), "got None and None"),
        (Sharded(MESH, size=0), "`size` must be an integer of at least 1"),
    ],
)
def test_settings_that_are_not_valid_are_rejected(reduce, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        kmeans.fit(KEY, X, 2, reduce=reduce)


def test_an_objective_over_devices_is_rejected():
    with pytest.raises(ValueError, match="over devices an objective exists only within a fit"):
        solve.objective(kmeans.KMeans(), X[:2], X, reduce=Sharded(MESH))


def test_rows_that_are_not_finite_are_named():
    bad = X.copy()
    bad[1100, 1] = np.nan
    with pytest.raises(ValueError, match="these rows hold NaN or infinity: 1100"):
        kmeans.fit(KEY, on_devices(bad), 2)
