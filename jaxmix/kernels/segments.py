"""Sums of rows that share a label."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import linalg

SUM_BLOCK = 1024
"""Rows that `sum_by_label` adds in one chain on CPU."""

PRODUCT_ROWS = 2**24
"""Rows that it takes into one product elsewhere: as many float32 ones may add up in a chain, and not one more."""


def sum_by_label(values: Array, labels: Array, k: int) -> Array:
    r"""Sums rows that share a label, $s_k = \sum_{n: z_n = k} v_n$.

    A scatter-add on CPU, where it runs at the speed of memory; a one-hot product elsewhere, where a scatter
    into few rows is slow and its order, so its rounding, is not fixed. The scatter adds in blocks of rows and
    then the blocks: one chain of a million equal float32 additions is 1 % off.

    Args:
      values: Array of shape (N, D).
      labels: integer Array of shape (N,), each in [0, K).
      k: the number of labels.

    Returns:
      Array of shape (K, D).

    Example:
      >>> import jax.numpy as jnp
      >>> sum_by_label(jnp.array([[1.0], [2.0], [4.0]]), jnp.array([0, 1, 0]), 2).ravel().tolist()
      [5.0, 2.0]
    """
    num_rows, num_columns = values.shape
    block = _sum_block(k)
    num_blocks = max(1, -(-num_rows // block))

    def scatter(values: Array, labels: Array) -> Array:
        slots = labels.astype(jnp.int32) + k * (jnp.arange(num_rows, dtype=jnp.int32) // block)
        sums = jnp.zeros((num_blocks * k, num_columns), values.dtype)
        sums = sums.at[slots].add(values, mode="promise_in_bounds")
        return jnp.sum(sums.reshape(num_blocks, k, num_columns), axis=0)

    def one_hot(values: Array, labels: Array) -> Array:
        num_products = -(-num_rows // PRODUCT_ROWS)
        if num_products <= 1:
            return linalg.dot(jax.nn.one_hot(labels, k, dtype=values.dtype, axis=0), values)
        missing = -num_rows % num_products
        values = jnp.pad(values, ((0, missing), (0, 0))).reshape(num_products, -1, num_columns)
        labels = jnp.pad(labels, (0, missing)).reshape(num_products, -1)
        chosen = jax.nn.one_hot(labels, k, dtype=values.dtype, axis=1)
        return jnp.sum(jnp.matmul(chosen, values, precision=linalg.PRECISION), axis=0)

    return jax.lax.platform_dependent(values, labels, cpu=scatter, default=one_hot)


def chain_length(num_rows: int, k: int) -> int:
    """How many additions of `sum_by_label` at most follow one another.

    Args:
      num_rows: N.
      k: the number of labels.

    Returns:
      An int.

    Example:
      >>> chain_length(10_000, 2)
      1034
    """
    return min(num_rows, _sum_block(k)) + -(-num_rows // _sum_block(k))


def _sum_block(k: int) -> int:
    # A power of two, for the index of every row is divided by it; the room is an eighth of the rows or less.
    return 1 << (max(SUM_BLOCK, 16 * k) - 1).bit_length()
