"""The fast E-step of K-means against the plain one: the same labels, the same sums."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs

from jaxmix import Blocks, as_data, kmeans, reduction, solve
from jaxmix.data import Rows
from jaxmix.kernels import nearest
from jaxmix.kmeans.problem import QUICK_ROWS
from jaxmix.pytree import choice
from jaxmix.reduction import Footprint

N = 1001
PROBLEM = kmeans.KMeans()


@jax.jit
def e_step(centers, data, reduce=Blocks()):
    rows = reduce.cut(data.x, data.weights, Footprint(centers.shape[0]))
    return reduce(nearest.e_step, nearest.prepare(centers), rows)


@jax.jit
def labels(centers, x):
    return nearest.labels(nearest.prepare(centers), x)[0]


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
def test_the_e_step_and_labels_are_those_of_the_textbook(k, num_features, dtype, chunk):
    for offset in (0.0, 1e4):
        centers, data = case(k, num_features, dtype, offset)
        stats, plain = e_step(centers, data, Blocks(chunk)), kmeans.e_step(centers, data)
        assert stats.sums.dtype == dtype
        assert_equal(stats, plain, 1e-5 if dtype == np.float32 else 1e-12)
        np.testing.assert_array_equal(labels(centers, data.x), nearest.labels_reference(centers, data.x), strict=True)


@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (9, 16)])
def test_centers_at_infinity_take_no_row_and_nan_shows(k, num_features):
    centers, data = case(k, num_features)
    off = centers.at[jnp.array([0, k - 2])].set(jnp.inf).at[3, 1].set(-jnp.inf)
    assert_equal(e_step(off, data), kmeans.e_step(off, data), 1e-12)
    assert not np.asarray(e_step(off, data).counts)[[0, 3, k - 2]].any()
    broken = centers.at[2, 0].set(jnp.nan)
    assert np.isnan(e_step(broken, data).loss)
    assert np.isnan(e_step(broken.at[4].set(jnp.inf), data).loss)
    np.testing.assert_array_equal(labels(broken, data.x), 2)


@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (9, 16)])
def test_a_row_without_weight_is_never_the_farthest(k, num_features):
    centers, data = case(k, num_features)
    far = data._replace(x=data.x.at[3].add(1e3))  # of weight 0
    assert_equal(e_step(centers, far), kmeans.e_step(centers, far), 1e-12)
    assert e_step(centers, far).farthest.value < 1e4


@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (65, 16)])
def test_of_equal_centers_the_first_takes_all(k, num_features):
    centers, data = case(k, num_features)
    twice = centers.at[k - 1].set(centers[1])
    counts = e_step(twice, data).counts
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
    np.testing.assert_array_equal(labels(close, data.x), nearest.labels_reference(close, data.x))
    # One fit that needs the correction beside one that does not.
    both = jax.vmap(labels, in_axes=(0, None))(jnp.stack([apart, close]), data.x)
    np.testing.assert_array_equal(both, [nearest.labels_reference(u, data.x) for u in (apart, close)])
    monkeypatch.setattr(nearest, "_corrected", lambda found, *_: found)
    jax.clear_caches()
    assert np.mean(labels(close, data.x) != nearest.labels_reference(close, data.x)) > 0.01
    jax.clear_caches()


def test_a_step_between_centers_that_are_not_apart_takes_no_sums_about_zero(monkeypatch):
    calls, quick = [], nearest.quick_step

    def counted(prepared, rows):
        jax.debug.callback(lambda: calls.append(1))
        return quick(prepared, rows)

    monkeypatch.setattr(nearest, "quick_step", counted)
    cases = case(9, 16, num_rows=QUICK_ROWS), close_pairs(num_rows=QUICK_ROWS)
    for (centers, data), expected in zip(cases, (1, 0), strict=True):
        objective = solve.make_objective(PROBLEM, centers, data)
        calls.clear()
        jax.block_until_ready(jax.jit(lambda objective, centers: objective.em_step(centers))(objective, centers))
        jax.effects_barrier()
        assert len(calls) == expected


def test_rows_beyond_one_block_of_the_correction_are_corrected():
    close, data = close_pairs(num_rows=2 * nearest.CORRECTED_ROWS + 77)
    np.testing.assert_array_equal(labels(close, data.x), nearest.labels_reference(close, data.x))


@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (65, 16)])
def test_under_vmap_and_jit_every_lane_is_its_own(k, num_features):
    centers, data = case(k, num_features)
    starts = jnp.stack([centers, centers + 1.0, centers.at[0].set(jnp.inf)])
    lanes = jax.jit(jax.vmap(lambda u, data: e_step(u, data, Blocks(137)), in_axes=(0, None)))(starts, data)
    for lane, start in enumerate(starts):
        assert_equal(jax.tree.map(lambda leaf, lane=lane: leaf[lane], lanes), kmeans.e_step(start, data), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (9, 16)])
def test_loss_and_its_derivatives_are_those_of_the_objective(k, num_features):
    centers, data = case(k, num_features)

    def plain(centers):
        return kmeans.objective(centers, data.x, weights=data.weights)

    def fast(centers, x=data.x):
        return PROBLEM.loss(PROBLEM.prepare(centers), Rows(x, data.weights))

    np.testing.assert_allclose(fast(centers), plain(centers), rtol=1e-13)
    np.testing.assert_allclose(jax.grad(fast)(centers), jax.grad(plain)(centers), rtol=1e-11, atol=1e-9)
    direction = jnp.ones_like(centers)
    slopes = [jax.jvp(jax.grad(loss), (centers,), (direction,))[1] for loss in (fast, plain)]
    np.testing.assert_allclose(*slopes, rtol=1e-12)
    by_rows = jax.grad(fast, argnums=1)(centers, data.x)
    expected = 2 * data.weights[:, None] * (data.x - centers[nearest.labels_reference(centers, data.x)])
    np.testing.assert_allclose(by_rows, expected, rtol=1e-12, atol=1e-12)


@choice
class Careful(kmeans.KMeans):
    """Every step about the centers: another class takes no sums about zero."""


@choice
class Reference(kmeans.KMeans):
    def e_step(self, prepared, rows):
        return nearest.statistics(prepared.centers, rows, nearest.labels_reference(prepared.centers, rows.x))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (9, 16)])
def test_a_fit_takes_the_way_of_the_reference(k, num_features, offset, weighted):
    centers, data = case(k, num_features, offset=offset)
    if not weighted:
        data = as_data(data.x)
    problems = (kmeans.KMeans(), Careful(), Reference())
    fits = [solve.run(problem, solve.EM(), centers, data) for problem in problems]
    for fit in fits[:2]:
        # The first step about the centers, after those about zero, moves by the rounding of those.
        assert fit.num_steps - fits[2].num_steps in (0, 1)
        np.testing.assert_allclose(fit.trace, fits[2].trace, rtol=1e-12)
        np.testing.assert_allclose(fit.params, fits[2].params, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (9, 16), (65, 6)])
def test_quick_sums_are_those_about_the_centers(k, num_features):
    centers, data = case(k, num_features)
    rows = Rows(data.x, data.weights)
    quick, stats = nearest.quick_step(nearest.prepare(centers), rows), e_step(centers, data)
    np.testing.assert_array_equal(quick.counts, stats.counts)
    np.testing.assert_allclose(quick.sums, stats.sums + stats.counts[:, None] * centers, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize(("k", "num_features"), [(7, 3), (65, 16)])
def test_the_path_of_other_platforms_finds_the_same(k, num_features):
    centers, data = case(k, num_features)
    off = centers.at[2].set(jnp.inf)
    path = nearest._by_product if nearest.is_expanded(k, num_features) else nearest._by_textbook
    for u in (centers, off):
        found = path(nearest.prepare(u), data.x)[0]
        np.testing.assert_array_equal(found, nearest.labels_reference(u, data.x))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_it_lowers_for_every_platform_and_never_holds_all_scores(platform):
    centers = jax.ShapeDtypeStruct((64, 16), jnp.float32)
    # Whole blocks, as fits fill them up before their program.
    num_rows = 80 * reduction.rows_per_block(2_000_000, 16, Footprint(64), 4)
    x, weights = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((num_rows, 16), (num_rows,)))
    data = as_data(np.zeros((1, 1)))._replace(x=x, weights=weights, origin=jax.ShapeDtypeStruct((16,), jnp.float32))
    exported = jax.export.export(e_step, platforms=[platform])(centers, data)
    assert exported.platforms == (platform,)
    if platform == "cpu":
        analysis = e_step.lower(centers, data).compile().memory_analysis()
        assert analysis is not None
        assert analysis.temp_size_in_bytes < 3 * reduction.BLOCK_BYTES["cpu"]
