"""What is refused at the door, in which words; and what happens under jit, where nothing can be looked at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmix import Status, as_data, door, gmm, kmeans, rows, solve

KEY = jax.random.key(0)
X = np.arange(12.0).reshape(6, 2)
NAN = np.where(np.arange(12).reshape(6, 2) == 5, np.nan, X)

# (what, arguments that change, what the message must hold)
REFUSED = [
    ("rank 1", {"x": X[:, 0]}, r"`x` must have shape \(N, D\).*x\[:, None\]"),
    ("rank 3", {"x": X[None]}, r"`x` must have shape \(N, D\)"),
    ("no rows", {"x": X[:0]}, "at least one row"),
    ("no columns", {"x": X[:, :0]}, "at least one row and one column"),
    ("NaN", {"x": NAN}, "`x` must be finite, but 1 rows .* row 2"),
    ("infinity", {"x": np.where(np.isnan(NAN), np.inf, X)}, "`x` must be finite"),
    ("complex", {"x": X + 1j}, "`x` must hold real numbers"),
    ("strings", {"x": np.array([["a", "b"]])}, "`x` must hold real numbers"),
    ("objects", {"x": np.array([[object(), 1]])}, "`x` must hold real numbers"),
    ("ragged", {"x": [[1.0], [1.0, 2.0]]}, "`x` must be an array of numbers"),
    ("k of 0", {"k": 0}, "`k` must be between 1 and .* 6, got 0"),
    ("k negative", {"k": -2}, "`k` must be between 1"),
    ("k above N", {"k": 7}, "`k` must be between 1 and .* 6, got 7"),
    ("k above the rows with weight", {"k": 3, "weights": [1, 1, 0, 0, 0, 0]}, "positive weight, 2, got 3"),
    ("k a float", {"k": 2.0}, "`k` must be a Python integer"),
    ("weights negative", {"weights": [1, 1, 1, 1, 1, -1]}, "`weights` must be finite and non-negative"),
    ("weights NaN", {"weights": [1, 1, 1, 1, 1, np.nan]}, "`weights` must be finite"),
    ("weights all zero", {"weights": np.zeros(6)}, "`weights` must not be all zero"),
    ("weights too short", {"weights": np.ones(5)}, r"`weights` must have shape \(6,\)"),
    ("weights of rank 2", {"weights": np.ones((6, 1))}, r"`weights` must have shape \(6,\)"),
    ("init of a wrong shape", {"init": np.zeros((3, 2))}, r"`init` must be a function.*\(2, 2\)"),
    ("init of rank 1", {"init": np.zeros(2)}, "`init` must be a function"),
    ("init of strings", {"init": np.array([["a", "b"]] * 2)}, "`init` must hold real numbers"),
    ("init that returns another shape", {"init": lambda key, data, k: data.x[:1]}, "`init` must return shape"),
    ("restarts of 0", {"restarts": 0}, "`restarts`"),
    ("a key that is none", {"key": 0}, "`key` must be one typed PRNG key"),
    ("an old-style key", {"key": jnp.zeros(2, jnp.uint32)}, "wrap_key_data"),
    ("many keys", {"key": jax.random.split(KEY, 2)}, "`key` must be one typed"),
    ("rtol of shape (2,)", {"rtol": jnp.array([0.1, 0.2])}, "`rtol` must be one number.*jax.vmap"),
    ("a solver for a problem", {"problem": solve.EM()}, "`problem` lacks functions"),
    ("a problem for a solver", {"solver": kmeans.KMeans()}, "`solver` lacks functions"),
    ("batch_size a float", {"solver": solve.Gradient(0.1, batch_size=2.5, key=KEY)}, "`batch_size` must be"),  # pyright: ignore[reportArgumentType]
    ("max_steps negative", {"max_steps": -1}, "`max_steps`"),
    ("rtol negative", {"rtol": -1.0}, "`rtol`"),
    ("atol NaN", {"atol": np.nan}, "`atol`"),
    ("empty policy unknown", {"problem": kmeans.KMeans(empty="drop")}, "`empty` must be one of"),
]


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_fit_refuses(change, message):
    arguments = {"key": KEY, "x": X, "k": 2, "restarts": 2, **change}
    key, x, k = (arguments.pop(name) for name in ("key", "x", "k"))
    with pytest.raises(ValueError, match=message):
        kmeans.fit(key, x, k, **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kmeans.assign(X[:2, :1], X), r"`centers` must have shape \(K, 2\)"),
        (lambda: kmeans.assign(X[:2], NAN), "`x` must be finite"),
        (lambda: kmeans.objective(X[:2], X, np.zeros(6)), "`labels` must be integers"),
        (lambda: kmeans.objective(X[:2], X, np.zeros(5, int)), r"`labels` must be integers of shape \(6,\)"),
        (lambda: kmeans.objective(X[:2], X, np.full(6, 2)), r"`labels` must lie in \[0, 2\)"),
        (lambda: kmeans.update(X[:2], X, np.full(6, -1)), r"`labels` must lie in \[0, 2\)"),
        (lambda: kmeans.update(X[:2], X, np.zeros(6, int), weights=-np.ones(6)), "`weights`"),
        (lambda: kmeans.reconstruct(X[0], [0]), r"`centers` must have shape \(K, D\)"),
        (lambda: kmeans.reconstruct(X, [0.5]), "`labels` must be integers"),
        (lambda: kmeans.lower_bound(X, 7), "`k` must be between 1"),
        (lambda: as_data(as_data(X), np.ones(6)), "has weights already"),
        (lambda: solve.run(kmeans.KMeans(), solve.EM(), np.zeros((2, 3)), X), "need one width D"),
    ],
)
def test_the_other_functions_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        (lambda x: x, jnp.float64),
        (lambda x: x.astype(np.float32), jnp.float32),
        (lambda x: x.astype(np.float16), jnp.float32),
        (lambda x: jnp.asarray(x, jnp.bfloat16), jnp.float32),
        (lambda x: x.astype(np.int32), jnp.float64),
        (lambda x: x.astype(np.uint8), jnp.float64),
        (lambda x: x > 4, jnp.float64),
        (lambda x: x.tolist(), jnp.float64),
    ],
    ids=["float64", "float32", "float16", "bfloat16", "int32", "uint8", "bool", "list"],
)
def test_dtype_of_float_input_is_kept_and_integers_become_float(change, dtype):
    fit = kmeans.fit(KEY, change(X), 2, weights=np.ones(6, np.int64), restarts=2)
    assert fit.params.dtype == fit.loss.dtype == fit.trace.dtype == dtype
    assert fit.num_passes.dtype == dtype
    assert fit.status == Status.CONVERGED


def test_origin_of_a_million_rows_far_from_zero_is_their_mean():
    x = (np.random.default_rng(0).normal(size=(1_000_000, 1)) + 1e6).astype(np.float32)
    assert abs(float(as_data(x).origin[0]) - x.astype(np.float64).mean()) <= 0.0625  # one unit in the last place


def test_origin_is_the_weighted_mean_also_far_from_zero():
    x = (X + 1e6).astype(np.float32)
    weights = np.array([0, 1, 2, 0, 1, 5])
    data = as_data(x, weights)
    np.testing.assert_allclose(data.origin, np.average(x.astype(np.float64), axis=0, weights=weights), rtol=1e-7)
    assert data.origin.dtype == jnp.float32


def test_rows_of_weight_zero_may_hold_anything():
    weights = np.ones(6)
    weights[2] = 0
    kept = np.flatnonzero(weights)
    fit = kmeans.fit(KEY, NAN, 2, weights=weights, init=X[[0, 5]])
    expected = kmeans.fit(KEY, X[kept], 2, init=X[[0, 5]])
    np.testing.assert_allclose(fit.params, expected.params, rtol=1e-14)
    np.testing.assert_allclose(fit.loss, expected.loss, rtol=1e-14)


@pytest.mark.parametrize(
    ("x", "weights"),
    [
        (NAN, np.ones(6)),
        (np.where(np.isnan(NAN), np.inf, X), np.ones(6)),
        (X, np.zeros(6)),
        (X, np.array([1, 1, 1, 1, 1, -1.0])),
        (X, np.array([1, 1, 1, 1, 1, np.nan])),
    ],
    ids=["NaN", "infinity", "weights all zero", "weights negative", "weights NaN"],
)
def test_under_jit_the_same_is_a_status(x, weights):
    fit = jitted_fit(x, weights)
    assert fit.status == Status.NONFINITE
    assert not np.isfinite(fit.loss)


@jax.jit
def jitted_fit(x, weights):
    return kmeans.fit(KEY, x, 2, weights=weights, restarts=2, max_steps=20)


def test_under_jit_good_input_is_fitted_and_concrete_input_is_still_looked_at():
    assert jitted_fit(X, np.ones(6)).status == Status.CONVERGED
    with pytest.raises(ValueError, match="`x` must be finite"):
        jax.jit(lambda key: kmeans.fit(key, NAN, 2))(KEY)


def test_import_changes_no_configuration_and_stays_light():
    import subprocess
    import sys

    code = (
        "import sys, jax; before = dict(jax.config.values); import jaxmix; "
        "assert jax.config.values == before; "
        "heavy = {'sklearn', 'scipy.stats', 'matplotlib', 'rich', 'pandas', 'tyro'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_choices_without_fields_are_told_apart_by_their_types():
    def chunked(posterior):
        return rows.Chunked(gmm.GaussianMixture(0.0, posterior), 4)

    assert door.kinds(chunked(gmm.Soft())) != door.kinds(chunked(gmm.Hard()))
    assert door.kinds(chunked(gmm.Soft()), solve.EM()) == door.kinds(chunked(gmm.Soft()), solve.EM())
    x = np.random.default_rng(0).normal(size=(20, 2))
    start = gmm.start.from_labels(np.arange(20) % 2, x, 2)
    losses = [
        float(solve.run(gmm.GaussianMixture(0.0, p), solve.EM(), start, x, max_steps=1).trace[0])
        for p in (gmm.Soft(), gmm.Hard())
    ]
    assert losses[0] < losses[1]
