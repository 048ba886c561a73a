"""Rows that are read some at a time: fits are those of rows in memory, whatever the rows are read from."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PROBLEMS, SOLVERS, blobs
from compiles import compiled

from jaxmix import Blocks, Sharded, Status, Stream, as_data, fit, gmm, kmeans, solve, sources, streams
from jaxmix.sampling import Reservoir

X = blobs(500, 3, 4)
WEIGHTS = 1.0 + np.arange(500) % 3
KEY = jax.random.key(0)
EXACT = gmm.GaussianMixture(gmm.Diagonal, regularization=1e-6)


@pytest.fixture(autouse=True)
def _some_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(streams, "READ_BYTES", 1000)


def batches(x=X, weights=None, size=130):
    """A function that yields batches, the last of which is shorter."""

    def made():
        for first in range(0, len(x), size):
            part = slice(first, first + size)
            yield x[part] if weights is None else (x[part], weights[part])

    return made


def assert_same_fit(found, expected, rtol=1e-9):
    np.testing.assert_allclose(found.loss, expected.loss, rtol=rtol)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), found.params, expected.params)
    assert found.status == expected.status
    assert found.num_steps == expected.num_steps
    assert found.num_passes == expected.num_passes


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_has_the_fit_of_rows_in_memory(name):
    case = PROBLEMS[name]()
    stream = Stream(batches(np.asarray(case.data.x), np.asarray(case.data.weights), 17))
    assert stream.num_rows == len(case.data.x)
    found, expected = (
        solve.run(case.problem, solve.EM(), case.start, rows, max_steps=7, reduce=case.reduce)
        for rows in (stream, case.data)
    )
    assert_same_fit(found, expected)
    assert found.num_steps > 2


# Those that draw mini-batches draw them in the order of the stream: see below.
@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in ("stepwise", "stochastic")])
@pytest.mark.parametrize(
    "problem",
    [pytest.param(kmeans.KMeans(), id="kmeans"), pytest.param(EXACT, id="mixture", marks=pytest.mark.slow)],
)
def test_every_solver_has_the_fit_of_rows_in_memory(problem, name):
    data = as_data(X, WEIGHTS)
    start = data.x[:4] if problem is not EXACT else gmm.start.from_centers(data.x[:4], data, problem=EXACT)
    # By the same blocks: Adam makes whole steps of gradients that are rounding alone, those of a cluster far away.
    found, expected = (
        solve.run(problem, SOLVERS[name].solver, start, rows, max_steps=4, reduce=Blocks(41))
        for rows in (Stream(X, weights=WEIGHTS), data)
    )
    assert_same_fit(found, expected, 1e-9)


@pytest.mark.parametrize("problem", [kmeans.KMeans(), EXACT], ids=["kmeans", "mixture"])
@pytest.mark.parametrize("name", ["stepwise", "stochastic"])
def test_mini_batches_are_those_of_rows_in_memory_where_the_stream_has_their_order(problem, name):
    solver: Any = SOLVERS[name].solver
    x, data = X[:490], as_data(X[:490])  # whole batches of seven
    start = data.x[:4] if problem is not EXACT else gmm.start.from_centers(data.x[:4], data, problem=EXACT)
    orders, key = [], solver.key
    for _ in range(3):
        order_key, key = jax.random.split(key)
        orders.append(np.asarray(jax.random.permutation(order_key, 490)))
    reads = itertools.count()

    def shuffled():
        # The survey, then for each epoch the pass of the exact loss and that of the batches; at last the loss.
        index = max(0, next(reads) - 1) // 2
        yield x[orders[min(index, 2)]]

    stream = Stream(shuffled)
    found = solve.run(problem, solver, start, stream, max_steps=3)
    # K-means takes the sum of all squares first, where it has many rows.
    assert_same_fit(found, solve.run(problem, solver, start, data, max_steps=3), 1e-7)


def test_a_short_last_mini_batch_counts_as_its_rows():
    # One epoch from equal centers of one cluster: the running mean of batches of 300 and 200 rows.
    stream = Stream(X[:, :1])
    solver = solve.Stepwise(300, KEY, decay=1.0)
    found = solve.run(kmeans.KMeans(), solver, jnp.zeros((1, 1)), stream, max_steps=1).params.item()
    total, first, second = (part.mean() for part in (X[:, 0], X[:300, 0], X[300:, 0]))
    expected = (2 / 3) * ((total + first) / 2) + second / 3
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_many_starts_and_the_loss_alone():
    starts, stream = jnp.asarray(X[:12].reshape(3, 4, 3)), Stream(X)
    found, expected = (solve.run_many(kmeans.KMeans(), solve.EM(), starts, rows) for rows in (stream, X))
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-12)
    loss = solve.run(kmeans.KMeans(), solve.EM(), starts[0], stream, max_steps=0).loss
    np.testing.assert_allclose(loss, kmeans.objective(starts[0], X), rtol=1e-12)
    with pytest.raises(ValueError, match="`num_parallel` must be 1 or None for a `Stream`, got 2"):
        solve.run_many(kmeans.KMeans(), solve.EM(), starts, stream, num_parallel=2)


@pytest.mark.parametrize(
    "function",
    [pytest.param(kmeans.fit, id="kmeans"), pytest.param(gmm.fit, id="gmm", marks=pytest.mark.slow)],
)
def test_a_fit_from_a_key_finds_the_clusters_and_is_its_own_loss(function):
    x = blobs(6000, 2, 3, spread=20.0)
    stream = Stream(batches(x, size=999))
    found, again = (function(jax.random.key(1), stream, 3).throw() for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, found, again)
    best = function(jax.random.key(1), x, 3)
    np.testing.assert_allclose(found.loss, best.loss, rtol=1e-6)
    problem = kmeans.KMeans() if function is kmeans.fit else gmm.GaussianMixture(regularization=gmm.noise_floor(x))
    np.testing.assert_allclose(found.loss, solve.objective(problem, found.params, x), rtol=1e-9)
    # Short runs on the sample count as its rows.
    assert found.num_passes > found.num_steps


@pytest.mark.slow
def test_starts_that_are_given():
    stream = Stream(X, weights=WEIGHTS)
    data = as_data(X, WEIGHTS)
    for init in (data.x[:4], jnp.stack([data.x[:4], data.x[4:8]])):
        assert_same_fit(kmeans.fit(KEY, stream, 4, init=init), kmeans.fit(KEY, data, 4, init=init))
    # The start of a mixture from centers is an M-step of all rows.
    found, expected = (fit(EXACT, None, rows, 4, init=data.x[:4], max_steps=5) for rows in (stream, data))
    assert_same_fit(found, expected)
    found, expected = (fit(EXACT, None, rows, 4, init=expected.params, max_steps=5) for rows in (stream, data))
    assert_same_fit(found, expected)


def test_every_restart_may_run_on_all_rows():
    fits = kmeans.fit_restarts(KEY, Stream(X), 4, restarts=3)
    assert fits.loss.shape == (3,)
    assert (fits.status == Status.CONVERGED).all()
    for params, loss in zip(fits.params, fits.loss, strict=True):
        np.testing.assert_allclose(loss, kmeans.objective(params, X), rtol=1e-9)


def test_what_the_rows_are_read_from_does_not_matter(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.memmap(tmp_path / "x.bin", X.dtype, "w+", shape=X.shape)
    mapped[:] = X
    mapped.flush()
    forms = [X, mapped, mapped[10:], tmp_path / "x.npy", str(tmp_path / "x.npy"), batches()]
    forms += [[X[:200], X[200:]], [X[:200].tolist(), jnp.asarray(X[200:])]]
    forms += [[(X[:200].tolist(), [1.0] * 200), (X[200:], None)]]
    start = X[:4]
    found = [solve.run(kmeans.KMeans(), solve.EM(), start, Stream(rows)) for rows in forms]
    assert found[0].loss != found[2].loss
    for other in (*found[1:2], *found[3:]):
        jax.tree.map(np.testing.assert_array_equal, other, found[0])
    # Nothing was written to the file, and the map is as it was.
    np.testing.assert_array_equal(mapped, X)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "rows"
    folder.mkdir()
    for index, part in enumerate((X[:200], X[200:])):
        table = pyarrow.table({f"feature {i}": column for i, column in enumerate(part.T)})
        parquet.write_table(table, folder / f"{index}.parquet")
    found = solve.run(kmeans.KMeans(), solve.EM(), X[:4], Stream(folder))
    jax.tree.map(np.testing.assert_array_equal, found, solve.run(kmeans.KMeans(), solve.EM(), X[:4], Stream(X)))
    (tmp_path / "text.txt").write_text("no rows")
    with pytest.raises(ValueError, match=r"neither a \.npy nor a Parquet file"):
        Stream(tmp_path / "text.txt")
    with pytest.raises(ValueError, match="`weights` of a Parquet file"):
        Stream(folder, weights=WEIGHTS)


def test_rows_of_weight_zero_are_left_out():
    x, weights = np.concatenate([np.full((3, 3), np.nan), X, np.full((200, 3), np.inf)]), np.r_[np.zeros(3), WEIGHTS]
    weights = np.r_[weights, np.zeros(200)]
    stream = Stream(batches(x, weights, 100))
    assert stream.num_rows == 500
    start = jnp.asarray(X[:4])
    jax.tree.map(
        np.testing.assert_array_equal,
        solve.run(kmeans.KMeans(), solve.EM(), start, stream),
        solve.run(kmeans.KMeans(), solve.EM(), start, Stream(X, weights=WEIGHTS)),
    )


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_float32_far_from_zero(offset):
    x = (X + offset).astype(np.float32)
    found, expected = (solve.run(kmeans.KMeans(), solve.EM(), jnp.asarray(x[:4]), rows) for rows in (Stream(x), x))
    assert found.loss.dtype == jnp.float32
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-6)


def test_integers_are_rows_and_numbers_out_of_the_range_of_squares_too():
    x = np.arange(12)[:, None]
    start = jnp.array([[1.0], [9.0]])
    assert solve.run(kmeans.KMeans(), solve.EM(), start, Stream(x)).loss == 35.0
    scale = 2.0**-100
    small = (scale * X).astype(np.float32)
    found = kmeans.fit(KEY, Stream(small), 4, init=small[:4])
    np.testing.assert_allclose(found.params / np.float32(scale), kmeans.fit(KEY, X, 4, init=X[:4]).params, rtol=1e-5)


def test_an_equal_fit_of_another_stream_compiles_nothing():
    start = jnp.asarray(X[:4])

    def call(seed):
        stream = Stream(batches(X[np.random.default_rng(seed).permutation(500)]))
        return solve.run(kmeans.KMeans(), solve.EM(), start, stream), kmeans.fit(jax.random.key(seed), stream, 4)

    assert compiled(lambda: call(0))
    assert compiled(lambda: call(1)) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (iter([X]), "An iterator can be read only once: give the function that makes it"),
        (3, "`rows` must be an array of shape"),
        ("no/such/file.npy", "no file or folder at it"),
        (X[:, 0], r"`rows` must have shape \(N, D\), got \(500,\)"),
        ([X, X[:, :2]], r"Batch 1 \(rows 500 to 999\): `x` has 2 columns, but batches before it have 3"),
        ([X, X[:, 0]], r"Batch 1 .*`x` must have shape \(N, D\)"),
        ([X[:7], np.where(np.arange(3) == 1, np.nan, X[:4])], r"Batch 1 \(rows 7 to 10\): `x` must be finite"),
        ([(X, -WEIGHTS)], r"Batch 0 .*`weights` must be finite and non-negative"),
        ([(X, WEIGHTS[:3])], r"Batch 0 .*`weights` must have shape \(500,\)"),
        ([], "no rows of positive weight"),
        ([(X, np.zeros(500))], "no rows of positive weight"),
        ([np.array([["a"]])], "Batch 0 .*`x` must hold real numbers"),
        ([3.0], r"Batch 0 .*`x` must have shape \(N, D\)"),
    ],
)
def test_rows_that_are_none_are_rejected(rows, message):
    with pytest.raises(ValueError, match=message):
        Stream(rows)


def test_weights_belong_to_the_stream():
    with pytest.raises(ValueError, match=r"`weights` must have shape \(500,\)"):
        Stream(X, weights=WEIGHTS[:3])
    with pytest.raises(ValueError, match="`weights` go with an array or a file"):
        Stream([X], weights=WEIGHTS)
    with pytest.raises(ValueError, match=r"give `Stream\(rows, weights=weights\)`"):
        kmeans.fit(KEY, Stream(X), 4, weights=WEIGHTS)


def test_what_a_stream_cannot_do_is_said():
    stream, start = Stream(X), jnp.asarray(X[:4])
    with pytest.raises(ValueError, match="is for the host"):
        jax.jit(lambda start: solve.run(kmeans.KMeans(), solve.EM(), start, stream).loss)(start)
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(ValueError, match="`reduce` must be `Blocks` for a `Stream`, got Sharded"):
        solve.run(kmeans.KMeans(), solve.EM(), start, stream, reduce=Sharded(mesh))
    with pytest.raises(ValueError, match="`k` must be at most the number of rows with positive weight, 5, got 6"):
        kmeans.fit(KEY, Stream(X[:5]), 6)
    assert kmeans.fit(KEY, Stream(X[:5]), 5).loss == 0


@pytest.mark.parametrize("change", [-100, -1, 1, 100])
def test_a_stream_that_changes_its_length_is_an_error(change):
    reads = itertools.count()

    def made():
        length = 300 if next(reads) < 2 else 300 + change
        yield X[:length]

    with pytest.raises(ValueError, match=f"had 300 rows at first, and has {'fewer' if change < 0 else 'more'} now"):
        solve.run(kmeans.KMeans(), solve.EM(), jnp.asarray(X[:4]), Stream(made))


def test_an_error_while_reading_is_raised_and_the_stream_can_be_read_again():
    reads = itertools.count()

    def made():
        yield X[:300]
        if next(reads) == 2:
            raise OSError("the disk is gone")
        yield X[300:]

    stream = Stream(made)
    with pytest.raises(OSError, match="the disk is gone"):
        solve.run(kmeans.KMeans(), solve.EM(), jnp.asarray(X[:4]), stream)
    assert solve.run(kmeans.KMeans(), solve.EM(), jnp.asarray(X[:4]), stream).status == Status.CONVERGED


def test_blocks_of_the_callers_size():
    start = jnp.asarray(X[:4])
    expected = solve.run(kmeans.KMeans(), solve.EM(), start, X)
    for size in (7, 64, 5000):
        found = solve.run(kmeans.KMeans(), solve.EM(), start, Stream(X), reduce=Blocks(size))
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-12)


def test_values_of_all_rows_are_mapped(tmp_path):
    centers, stream = jnp.asarray(X[:4]), Stream(batches(X, np.arange(500) % 2))
    expected = kmeans.predict(centers, X)
    np.testing.assert_array_equal(stream.map(lambda x: kmeans.predict(centers, x)), expected)
    out = np.memmap(tmp_path / "labels.bin", np.int32, "w+", shape=(500,))
    assert stream.map(lambda x: kmeans.predict(centers, x), out) is out
    np.testing.assert_array_equal(out, expected)
    both = stream.map(lambda x: {"sum": x.sum(axis=1), "twice": 2 * x})
    np.testing.assert_allclose(both["sum"], X.sum(axis=1))
    np.testing.assert_array_equal(both["twice"], 2 * X)
    with pytest.raises(ValueError, match=r"`out` must hold \(\) for each row, got an array \(500, 2\)"):
        stream.map(lambda x: x[:, 0], np.zeros((500, 2)))
    with pytest.raises(ValueError, match=r"`out` must hold 500 rows, got \[600\]"):
        stream.map(lambda x: x[:, 0], np.zeros(600))


@pytest.mark.parametrize("by_cost", [False, True])
def test_a_sample_stands_for_all_rows(by_cost):
    x = np.concatenate([X, [[200.0, 0.0, 0.0]]])
    weights = np.append(WEIGHTS, 1.0)
    stream = Stream(x, weights=weights)
    samples = [stream.sample(jax.random.key(seed), 50, by_cost=by_cost) for seed in range(200)]
    sums = np.array([np.asarray(s.weights) @ np.abs(np.asarray(s.x)) for s in samples])
    error = sums.std(axis=0) / np.sqrt(len(samples))
    assert (np.abs(sums.mean(axis=0) - weights @ np.abs(x)) < 4 * error).all()
    rows = {tuple(row) for row in x}
    assert all(tuple(row) in rows for row in np.asarray(samples[0].x))
    assert len({tuple(row) for row in np.asarray(samples[0].x)}) == 50
    # A row far away is not missed where its distance counts.
    far = np.mean([(np.asarray(s.x)[:, 0] == 200).any() for s in samples])
    assert far == 1 if by_cost else far < 0.5
    whole = stream.sample(KEY, 1000, by_cost=by_cost)
    np.testing.assert_array_equal(whole.x, x)
    np.testing.assert_array_equal(whole.weights, weights)


def test_a_reservoir_does_not_depend_on_the_batches():
    def sample(size):
        reservoir = Reservoir(20, np.random.default_rng(3))
        for first in range(0, 500, size):
            reservoir.add(X[first : first + size], WEIGHTS[first : first + size])
        return reservoir.sample()

    for a, b in zip(sample(500), sample(13), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("num_rows", "num_features"), [(500, 3), (3000, 3), (60, 700)])
def test_few_rows_are_read_at_a_time_however_wide_they_are(num_rows, num_features, monkeypatch):
    x = np.random.default_rng(0).normal(size=(num_rows, num_features))
    monkeypatch.setattr(streams, "READ_BYTES", x.nbytes // 7)
    sizes, read = [], streams._Reader.read

    def counted(self, first, size):
        sizes.append(size)
        return read(self, first, size)

    monkeypatch.setattr(streams._Reader, "read", counted)
    found = solve.run(kmeans.KMeans(), solve.EM(), jnp.asarray(x[:2]), Stream(x), max_steps=2)
    # A pass for each step, one for the loss, and one for the sum of squares where there are many rows.
    assert max(sizes) <= num_rows // 7 + 16
    assert len(sizes) >= 3 * 6
    np.testing.assert_allclose(
        found.loss, solve.run(kmeans.KMeans(), solve.EM(), jnp.asarray(x[:2]), x, max_steps=2).loss, rtol=1e-12
    )


def test_pieces_are_all_rows_in_order():
    parts = list(sources.pieces(sources.source_of(X)(70), 33, 3, X.dtype))
    assert all(x.shape == (33, 3) for x, _ in parts)
    np.testing.assert_array_equal(np.concatenate([x[w > 0] for x, w in parts]), X)
    assert list(sources.ahead(iter(range(1, 5)))) == [1, 2, 3, 4]
