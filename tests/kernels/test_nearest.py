"""The fast E-step of K-means against the plain one: the same labels, the same sums."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs

from jaxmix import as_data, kmeans, rows, solve
from jaxmix.kernels import nearest

N = 1001
# Either side of every choice: few features, few products, one block of centers, one group, several.
SHAPES = [(1, 1), (70, 1), (7, 3), (5, 7), (9, 16), (65, 16), (301, 6)]


def case(k, num_features, dtype=np.float64, offset=0.0, num_rows=N):
    x = (blobs(num_rows, num_features, k, spread=2.0) + offset).astype(dtype)
    return jnp.asarray(x[:k] + dtype(0.25)), as_data(x, (np.arange(num_rows) % 3).astype(dtype))


def assert_equal(stats, plain, rtol):
    np.testing.assert_array_equal(stats.counts, plain.counts)
    scale = float(jnp.sqrt(plain.loss * jnp.sum(plain.counts)))
    chex.assert_trees_all_close(stats._replace(sums=0), plain._replace(sums=0), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(stats.sums, plain.sums, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize(
    ("dtype", "chunk"), [(np.float32, 137), pytest.param(np.float64, None, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("k", "num_features"), SHAPES)
def test_sums_and_labels_are_those_of_the_textbook(k, num_features, dtype, chunk):
    for offset in (0.0, 1e4):
        centers, data = case(k, num_features, dtype, offset)
        stats, plain = nearest.sums(centers, data, chunk=chunk), kmeans.e_step(centers, data)
        assert stats.sums.dtype == dtype
        assert_equal(stats, plain, 1e-5 if dtype == np.float32 else 1e-12)
        np.testing.assert_array_equal(
            nearest.labels(centers, data, chunk=chunk), nearest.plain(centers, data.x), strict=True
        )


@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (9, 16)])
def test_centers_at_infinity_take_no_row_and_nan_shows(k, num_features):
    centers, data = case(k, num_features)
    off = centers.at[jnp.array([0, k - 2])].set(jnp.inf).at[3, 1].set(-jnp.inf)
    assert_equal(nearest.sums(off, data), kmeans.e_step(off, data), 1e-12)
    assert not np.asarray(nearest.sums(off, data).counts)[[0, 3, k - 2]].any()
    broken = centers.at[2, 0].set(jnp.nan)
    assert np.isnan(nearest.sums(broken, data).loss)
    assert np.isnan(nearest.sums(broken.at[4].set(jnp.inf), data).loss)
    np.testing.assert_array_equal(nearest.labels(broken, data), 2)


@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (9, 16)])
def test_a_row_without_weight_is_never_the_farthest(k, num_features):
    centers, data = case(k, num_features)
    far = data._replace(x=data.x.at[3].add(1e3))  # of weight 0
    assert_equal(nearest.sums(centers, far), kmeans.e_step(centers, far), 1e-12)
    assert nearest.sums(centers, far).farthest.value < 1e4


@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (65, 16)])
def test_of_equal_centers_the_first_takes_all(k, num_features):
    centers, data = case(k, num_features)
    twice = centers.at[k - 1].set(centers[1])
    counts = nearest.sums(twice, data).counts
    assert counts[1] > 0
    assert counts[k - 1] == 0


def close_pairs(num_rows=600, num_features=16):
    """Pairs of centers nearer to each other, for their distance from the mean, than float32 can tell by expansion."""
    random = np.random.default_rng(0)
    places = 100 * random.normal(size=(4, num_features))
    centers = np.repeat(places, 2, axis=0) + 1e-3 * random.normal(size=(8, num_features))
    x = centers[np.arange(num_rows) % 8] + 3e-4 * random.normal(size=(num_rows, num_features))
    return jnp.asarray(centers, jnp.float32), as_data(x.astype(np.float32))


def test_centers_closer_than_the_expansion_can_tell_are_told_apart(monkeypatch):
    close, data = close_pairs()
    apart = data.x[:8] + jnp.arange(8.0, dtype=jnp.float32)[:, None]
    for chunk in (None, 137):
        find = functools.partial(nearest.labels, chunk=chunk)
        np.testing.assert_array_equal(find(close, data), nearest.plain(close, data.x))
        # One lane that needs the correction beside one that does not.
        both = jax.vmap(find, in_axes=(0, None))(jnp.stack([apart, close]), data)
        np.testing.assert_array_equal(both, [nearest.plain(u, data.x) for u in (apart, close)])
    monkeypatch.setattr(nearest, "_corrected", lambda found, *_: found)
    jax.clear_caches()
    assert np.mean(nearest.labels(close, data) != nearest.plain(close, data.x)) > 0.01
    jax.clear_caches()


def test_rows_beyond_one_part_of_the_correction_are_corrected():
    close, data = close_pairs(num_rows=2 * nearest.CORRECTED_ROWS + 77)
    np.testing.assert_array_equal(nearest.labels(close, data), nearest.plain(close, data.x))


@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (65, 16)])
def test_under_vmap_and_jit_every_lane_is_its_own(k, num_features):
    centers, data = case(k, num_features)
    starts = jnp.stack([centers, centers + 1.0, centers.at[0].set(jnp.inf)])
    lanes = jax.jit(jax.vmap(functools.partial(nearest.sums, chunk=137), in_axes=(0, None)))(starts, data)
    for lane, start in enumerate(starts):
        assert_equal(jax.tree.map(lambda leaf, lane=lane: leaf[lane], lanes), kmeans.e_step(start, data), 1e-12)


@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (9, 16)])
def test_loss_and_its_derivatives_are_those_of_the_objective(k, num_features):
    centers, data = case(k, num_features)
    problem = kmeans.KMeans()

    def plain(centers):
        return kmeans.objective(centers, data.x, weights=data.weights)

    def fast(centers):
        return problem.loss(centers, data)

    np.testing.assert_allclose(fast(centers), plain(centers), rtol=1e-13)
    np.testing.assert_allclose(jax.grad(fast)(centers), jax.grad(plain)(centers), rtol=1e-11, atol=1e-9)
    direction = jnp.ones_like(centers)
    slopes = [jax.jvp(jax.grad(loss), (centers,), (direction,))[1] for loss in (fast, plain)]
    np.testing.assert_allclose(*slopes, rtol=1e-12)
    by_rows = jax.grad(lambda x: problem.loss(centers, data._replace(x=x)))(data.x)
    expected = 2 * data.weights[:, None] * (data.x - centers[nearest.plain(centers, data.x)])
    np.testing.assert_allclose(by_rows, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (9, 16)])
def test_a_fit_takes_the_way_of_the_plain_e_step(k, num_features):
    class Plain(kmeans.KMeans):
        def e_step(self, params, data):
            return kmeans.e_step(params, data)

    jax.tree_util.register_dataclass(Plain)
    centers, data = case(k, num_features)
    fits = [solve.run(problem, solve.EM(), centers, data) for problem in (kmeans.KMeans(), Plain())]
    assert fits[0].num_steps == fits[1].num_steps
    np.testing.assert_allclose(fits[0].trace, fits[1].trace, rtol=1e-12)
    np.testing.assert_allclose(fits[0].params, fits[1].params, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (65, 16)])
def test_the_path_of_other_platforms_finds_the_same(k, num_features):
    centers, data = case(k, num_features)
    off = centers.at[2].set(jnp.inf)
    for u in (centers, off):
        find = nearest._finder(u, data.origin, "default")
        np.testing.assert_array_equal(find(data.x, data.x, 0)[0], nearest.plain(u, data.x))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_it_lowers_for_every_platform_and_never_holds_all_scores(platform):
    centers = jax.ShapeDtypeStruct((64, 16), jnp.float32)
    x, weights = jax.ShapeDtypeStruct((2_000_000, 16), jnp.float32), jax.ShapeDtypeStruct((2_000_000,), jnp.float32)
    data = as_data(np.zeros((1, 1)))._replace(x=x, weights=weights, origin=jax.ShapeDtypeStruct((16,), jnp.float32))
    exported = jax.export.export(nearest.sums, platforms=[platform])(centers, data)
    assert exported.platforms == (platform,)
    if platform == "cpu":
        analysis = jax.jit(nearest.sums).lower(centers, data).compile().memory_analysis()
        assert analysis is not None
        assert analysis.temp_size_in_bytes < 3 * nearest.CHUNK_BYTES["cpu"]


def test_chunks_of_chunks_are_the_whole():
    centers, data = case(9, 16)
    chunked = rows.Chunked(kmeans.KMeans(), 100).e_step(centers, data)
    assert_equal(chunked, kmeans.e_step(centers, data), 1e-12)
