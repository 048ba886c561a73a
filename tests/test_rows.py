"""Chunks: the same sums, whatever their size."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import blobs

from jaxmix import as_data, kmeans, rows, solve
from jaxmix.types import Largest

X = blobs(50, 2, 4)
DATA = as_data(X, np.arange(50) % 3)
CENTERS = jnp.asarray(X[:4])


@pytest.mark.parametrize("size", [1, 7, 25, 49, 50, 64])
def test_chunked_equals_whole(size):
    problem = rows.Chunked(kmeans.KMeans(), size)
    chex.assert_trees_all_close(problem.e_step(CENTERS, DATA), kmeans.e_step(CENTERS, DATA), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(problem.loss(CENTERS, DATA), kmeans.KMeans().loss(CENTERS, DATA), rtol=1e-13)


def test_gradient_through_chunks_equals_that_of_the_whole():
    gradients = [
        jax.grad(problem.loss)(CENTERS, DATA) for problem in (rows.Chunked(kmeans.KMeans(), 16), kmeans.KMeans())
    ]
    np.testing.assert_allclose(*gradients, rtol=1e-12)


def test_a_chunk_of_many_is_what_the_program_holds():
    # No intermediate of the compiled E-step is as tall as the data: (N, K) is never stored.
    x = jnp.zeros((10_000, 3))
    program = jax.jit(rows.Chunked(kmeans.KMeans(), 100).e_step)
    compiled = program.lower(jnp.ones((5, 3)), as_data(x)).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    assert analysis.temp_size_in_bytes < x.shape[0] * 8


def test_merge_adds_arrays_and_keeps_the_larger_row():
    left = (jnp.array(1.0), Largest(jnp.array(2.0), jnp.zeros(3)))
    right = (jnp.array(10.0), Largest(jnp.array(3.0), jnp.ones(3)))
    total, largest = rows.merge(left, right)
    assert total == 11.0
    assert largest.value == 3.0
    np.testing.assert_array_equal(largest.row, jnp.ones(3))
    tie = rows.merge(left[1], left[1]._replace(row=jnp.ones(3)))
    np.testing.assert_array_equal(tie.row, jnp.zeros(3))


@pytest.mark.parametrize("size", [0, -3, 2.5, True])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match="`size` must be an integer of at least 1"):
        rows.Chunked(kmeans.KMeans(), size)


def test_fit_in_chunks_takes_the_same_way():
    start = CENTERS + 1.0
    whole = solve.run(kmeans.KMeans(), solve.EM(), start, DATA)
    chunked = solve.run(rows.Chunked(kmeans.KMeans(), 16), solve.EM(), start, DATA)
    assert whole.num_steps == chunked.num_steps
    np.testing.assert_allclose(whole.trace, chunked.trace, rtol=1e-12)
