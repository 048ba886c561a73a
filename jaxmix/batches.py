"""How many fits are computed side by side: a number that never depends on how many there are.

XLA rounds a batched program by the size of its batch. With a size of its own for each number of restarts, restart i
would change its bits with their number.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

NUM_PARALLEL = {"cpu": 1, "default": 8}
"""Fits side by side: on CPU they share no work; elsewhere as many as `fit` has restarts by default."""


def num_parallel() -> int:
    """The number for this platform.

    Example:
      >>> num_parallel() >= 1
      True
    """
    return NUM_PARALLEL.get(jax.default_backend(), NUM_PARALLEL["default"])


def map_batches(function: Callable[[Any], Any], values: Any, size: int) -> Any:
    """A function of every entry along the leading axis, in batches of `size`; the last one repeats the last entry.

    Args:
      function: from one entry, a pytree, to a pytree of arrays.
      values: pytree of arrays of shape (R, ...).
      size: entries in a batch; 1 for one after another, without a batch axis.

    Returns:
      Pytree of arrays of shape (R, ...). Entry i has the same bits for every R.

    Example:
      >>> map_batches(lambda x: x + 1, jnp.arange(3), 2).tolist()
      [1, 2, 3]
    """
    if size == 1:
        return jax.lax.map(function, values)
    num = jax.tree.leaves(values)[0].shape[0]
    index = jnp.minimum(jnp.arange(num + -num % size), num - 1).reshape(-1, size)
    results = jax.lax.map(lambda some: jax.vmap(function)(jax.tree.map(lambda leaf: leaf[some], values)), index)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num], results)
