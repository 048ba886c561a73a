"""Running minima and maxima over rows, in the forms that XLA's CPU backend vectorizes."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Minimum = tuple[Array, Array]
"""The least score of each row so far, of shape (n,), and its index, int32."""


class ArgMax(NamedTuple):
    """A row that stands out: a statistic that is not a sum.

    Attributes:
      value: Array of shape (), what is compared; -inf where no row qualifies.
      row: Array of shape (D,), the row that attained it.

    Example:
      >>> import jax.numpy as jnp
      >>> ArgMax(jnp.array(1.0), jnp.array([5.0])).merge(ArgMax(jnp.array(4.0), jnp.array([7.0]))).row.tolist()
      [7.0]
    """

    value: Array
    row: Array

    def merge(self, other: "ArgMax") -> "ArgMax":
        """The larger of two; of equals the left one, so that the first row wins."""
        larger = other.value > self.value
        return ArgMax(jnp.where(larger, other.value, self.value), jnp.where(larger, other.row, self.row))


def initial_minimum(x: Array) -> Minimum:
    """Before any score, for rows of shape (n, D)."""
    return jnp.full(x.shape[0], jnp.inf, x.dtype), jnp.zeros(x.shape[0], jnp.int32)


def running_argmin(scores: Iterable[Array], first: Array | int, minimum: Minimum) -> Minimum:
    """The minimum with more scores, each of shape (n,), the first of which has the index `first`."""
    least, label = minimum
    for j, score in enumerate(scores):
        less = score < least
        least, label = jnp.where(less, score, least), jnp.where(less, first + j, label)
    return least, label


def over_blocks(num: int, body: Callable[[Array | int, Minimum], Minimum], minimum: Minimum) -> Minimum:
    """A loop over blocks of scores; of one block none."""
    return body(0, minimum) if num == 1 else jax.lax.fori_loop(0, num, body, minimum)


def in_blocks(table: Array, num_groups: int, width: int, padding: float) -> Array:
    """The rows of a table (K, C) in order, as groups of blocks of at most `width`; padded at the end."""
    k, num_columns = table.shape
    num_blocks = -(-k // (num_groups * width))
    width = -(-k // (num_groups * num_blocks))
    missing = num_groups * num_blocks * width - k
    table = jnp.pad(table, ((0, missing), (0, 0)), constant_values=padding)
    return table.reshape(num_groups, num_blocks, width, num_columns)


def first_argmax(values: Array, width: int = 16) -> Array:
    """The index of the first of the largest values of shape (n,)."""
    # The first of the largest. A row at a time on XLA's CPU backend costs several times as much.
    num_groups = -(-values.shape[0] // width)
    groups = jnp.pad(values, (0, num_groups * width - values.shape[0]), constant_values=-jnp.inf)
    groups = groups.reshape(num_groups, width)
    group = jnp.argmax(jnp.max(groups, axis=1))
    return group * width + jnp.argmax(groups[group])
