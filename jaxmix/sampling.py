"""Rows drawn by weight."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import linalg
from jaxmix.data import Data


def by_mass(points: Array, mass: Array) -> Array:
    """Rows in proportion to `mass`, by inverting its cumulative sum.

    Args:
      points: Array of shape (R,), uniform in [0, 1).
      mass: Array of shape (N,), non-negative, not all zero.

    Returns:
      int32 Array of shape (R,), of rows with a positive mass.

    References:
      Devroye (1986), section III.2.1: inversion.

    Example:
      >>> by_mass(jnp.array([0.1, 0.5]), jnp.array([1.0, 0.0, 3.0])).tolist()
      [0, 2]
    """
    num_rows = mass.shape[0]
    # In two levels, of blocks and of rows within one: a sum along all rows rounds more, and compiles for long.
    width = _root(num_rows)
    blocks = jnp.pad(mass / jnp.max(mass), (0, -num_rows % width)).reshape(-1, width)
    totals = jnp.broadcast_to(jnp.sum(blocks, axis=1)[None], (points.shape[0], blocks.shape[0]))
    block, rest = _invert(totals, points * jnp.sum(totals[0]))
    rows = (block * width + _invert(blocks[block], rest)[0]).clip(0, num_rows - 1)
    # By rounding a point may lie above every sum: a row without mass is never taken.
    return jnp.where(mass[rows] > 0, rows, jnp.argmax(mass).astype(jnp.int32))


def stratified(key: Array, data: Data, stride: int) -> Data:
    r"""One row out of each `stride` successive ones, drawn by weight; it weighs as much as they do together.

    $$E \sum_s W_s f(x_s) = \sum_n w_n f(x_n)$$

    Args:
      key: a PRNG key.
      data: `Data` of N rows.
      stride: an int of at least 1.

    Returns:
      `Data` of ceil(N / stride) rows.

    References:
      Cochran (1977), section 5.3: stratified random sampling.

    Example:
      >>> from jaxmix import as_data
      >>> data = as_data([[1.0], [2.0], [3.0]], weights=[0.0, 5.0, 1.0])
      >>> sample = stratified(jax.random.key(0), data, 2)
      >>> sample.x.ravel().tolist(), sample.weights.tolist()
      ([2.0, 3.0], [5.0, 1.0])
    """
    num_rows, dtype = data.x.shape[0], data.x.dtype
    num_strata, width = -(-num_rows // stride), _root(stride)
    strata = jnp.pad(data.weights, (0, num_strata * stride - num_rows)).reshape(num_strata, stride)
    blocks = jnp.pad(strata, ((0, 0), (0, -stride % width))).reshape(num_strata, -1, width)
    totals = jnp.sum(blocks, axis=2)
    weights = jnp.sum(totals, axis=1)
    block, rest = _invert(totals, jax.random.uniform(key, (num_strata,), dtype) * weights)
    index = jnp.arange(num_strata, dtype=jnp.int32)
    place = block * width + _invert(blocks[index, block], rest)[0]
    place = jnp.where(strata[index, place.clip(0, stride - 1)] > 0, place, jnp.argmax(strata, axis=1).astype(jnp.int32))
    return data._replace(x=data.x[(index * stride + place).clip(0, num_rows - 1)], weights=weights)


def _root(number: int) -> int:
    """The square root, rounded up."""
    return math.isqrt(number - 1) + 1


def _invert(masses: Array, heights: Array) -> tuple[Array, Array]:
    """In each row of `masses` the entry whose share of the cumulative sum holds the height, and what is left of it."""
    num = masses.shape[1]
    index = jnp.arange(num, dtype=jnp.int32)
    sums = linalg.dot(masses, (index[:, None] <= index[None]).astype(masses.dtype))
    found = jnp.sum(sums <= heights[:, None], axis=1, dtype=jnp.int32).clip(0, num - 1)
    return found, heights - jnp.take_along_axis(sums - masses, found[:, None], axis=1)[:, 0]
