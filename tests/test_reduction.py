"""Blocks of rows: the same sums, whatever their size."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs

from jaxmix import Blocks, as_data, kmeans, merging, reduction, solve
from jaxmix.kernels.nearest import ArgMax
from jaxmix.reduction import Footprint

X = blobs(50, 2, 4)
DATA = as_data(X, np.arange(50) % 3)
CENTERS = jnp.asarray(X[:4])
PROBLEM = kmeans.KMeans()


def objective(size):
    return solve.make_objective(PROBLEM, CENTERS, DATA, reduce=Blocks(size))


@pytest.mark.parametrize("size", [1, 7, 25, 49, 50, 64, None])
def test_blocks_equal_the_whole(size):
    stats, loss = objective(size).stats(CENTERS)
    chex.assert_trees_all_close(stats, kmeans.e_step(CENTERS, DATA), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(loss, kmeans.objective(CENTERS, X, weights=DATA.weights), rtol=1e-13)
    np.testing.assert_allclose(objective(size).value(CENTERS), loss, rtol=1e-13)


@pytest.mark.slow
def test_gradients_through_blocks_equal_those_of_the_whole():
    whole = jax.grad(lambda centers: kmeans.objective(centers, X, weights=DATA.weights))(CENTERS)
    for size in (16, 50):
        made = objective(size)
        np.testing.assert_allclose(jax.grad(made.value)(CENTERS), whole, rtol=1e-12)
        value, grad = made.value_and_grad(CENTERS, CENTERS)
        np.testing.assert_allclose(grad, whole, rtol=1e-12)
        np.testing.assert_allclose(value, made.value(CENTERS), rtol=1e-13)
        mean = jax.grad(lambda free, made=made: made.mean_value(free, CENTERS))(CENTERS)
        np.testing.assert_allclose(mean, whole / DATA.weights.sum(), rtol=1e-12)


def test_a_block_of_many_is_what_the_program_holds():
    # No intermediate of the compiled sums is as tall as the data: (N, K) is never stored.
    made = solve.make_objective(PROBLEM, jnp.ones((5, 3)), jnp.zeros((10_000, 3)), reduce=Blocks(100))
    analysis = (
        jax.jit(lambda made, centers: made.stats(centers)).lower(made, jnp.ones((5, 3))).compile().memory_analysis()
    )
    assert analysis is not None
    assert analysis.temp_size_in_bytes < 10_000 * 8


def test_merge_adds_arrays_and_keeps_the_larger_row():
    left = (jnp.array(1.0), ArgMax(jnp.array(2.0), jnp.zeros(3)))
    right = (jnp.array(10.0), ArgMax(jnp.array(3.0), jnp.ones(3)))
    total, largest = merging.merge(left, right)
    assert total == 11.0
    assert largest.value == 3.0
    np.testing.assert_array_equal(largest.row, jnp.ones(3))
    tie = merging.merge(left[1], left[1]._replace(row=jnp.ones(3)))
    np.testing.assert_array_equal(tie.row, jnp.zeros(3))


@pytest.mark.parametrize("size", [0, -3, 2.5, True])
def test_a_size_that_is_none_is_rejected(size):
    with pytest.raises(ValueError, match="`size` must be an integer of at least 1"):
        solve.run(PROBLEM, solve.EM(), CENTERS, DATA, reduce=Blocks(size))


def test_a_fit_in_blocks_takes_the_same_way():
    start = CENTERS + 1.0
    whole = solve.run(PROBLEM, solve.EM(), start, DATA)
    blocks = solve.run(PROBLEM, solve.EM(), start, DATA, reduce=Blocks(16))
    assert whole.num_steps == blocks.num_steps
    np.testing.assert_allclose(whole.trace, blocks.trace, rtol=1e-12)


@pytest.mark.parametrize("num_features", [2, 16, 784])
@pytest.mark.parametrize("num_rows", [1, 7, 1000, 20_001, 100_000, 1_000_001, 10_000_000])
@pytest.mark.parametrize("k", [1, 8, 64, 256])
def test_blocks_have_good_sizes(num_rows, num_features, k):
    size = reduction.rows_per_block(num_rows, num_features, Footprint(k), 4)
    num_blocks = -(-num_rows // size)
    assert size * num_blocks - num_rows < size
    if num_rows >= reduction.SMALL_ROWS:
        assert size % reduction.ALIGNMENT == 0
        assert size % 1024
    if num_blocks > 1:
        assert size * k * 4 <= 1.1 * reduction.BLOCK_BYTES["cpu"]


def test_cut_rows_are_all_there_once_and_only_the_last_block_is_filled_up():
    rows = reduction.cut(jnp.asarray(X), jnp.arange(50.0), 16)
    assert rows.x.shape == (4, 16, 2)
    assert rows.weights is not None
    assert rows.valid is not None
    np.testing.assert_array_equal(rows.x.reshape(-1, 2)[:50], X)
    np.testing.assert_array_equal(rows.x.reshape(-1, 2)[50:], 0)
    np.testing.assert_array_equal(rows.weights.reshape(-1)[:50], np.arange(50))
    np.testing.assert_array_equal(rows.valid, np.arange(16) < 2)
    whole = reduction.cut(jnp.asarray(X), None, 25)
    assert whole.weights is None
    assert whole.valid is None


@pytest.mark.parametrize("size", [1, 7, 25, 49, 50, 64])
def test_map_rows_equals_the_whole_with_derivatives(size):
    def of_block(factor, block):
        x, labels = block
        return factor * x, labels + 1

    def mapped(factor, x):
        return reduction.map_rows(of_block, factor, (x, jnp.arange(50)), size)

    rows, labels = mapped(2.0, jnp.asarray(X))
    np.testing.assert_array_equal(rows, 2 * X)
    np.testing.assert_array_equal(labels, np.arange(1, 51))
    weights = np.arange(100.0).reshape(50, 2)
    slopes = jax.grad(lambda factor, x: jnp.sum(weights * mapped(factor, x)[0]), argnums=(0, 1))(2.0, jnp.asarray(X))
    # Each row counts once, also where the last block overlaps the one before it.
    np.testing.assert_allclose(slopes[0], np.sum(weights * X), rtol=1e-12)
    np.testing.assert_allclose(slopes[1], 2 * weights, rtol=1e-12)


def test_counts_of_float32_do_not_stop_growing():
    # 2^24 + 1 is no float32: a plain chain of sums stays at 2^24 for ever.
    def fn(count, rows):
        return jnp.where(rows.x[0, 0] == 0, count, jnp.float32(1))

    x = jnp.arange(33, dtype=jnp.float32)[:, None]
    assert Blocks()(fn, jnp.float32(2**24), reduction.cut(x, None, 1)) == 2**24 + 32
