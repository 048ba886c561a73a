"""Statistics of disjoint sets of rows, together: sums in two numbers, or nodes that merge by themselves."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix.arrays import is_merged
from jaxmix.typing import Stats


def merge(left: Stats, right: Stats) -> Stats:
    """The statistics of two disjoint sets of rows together: arrays add, a node with a `merge` method uses it.

    Args:
      left: statistics, a pytree.
      right: statistics of the same structure.

    Returns:
      Statistics of the same structure.

    Example:
      >>> merge({"count": jnp.array(2.0)}, {"count": jnp.array(3.0)})["count"].item()
      5.0
    """

    def both(a: Any, b: Any) -> Any:
        return a.merge(b) if is_merged(a) else jnp.add(a, b)

    return jax.tree.map(both, left, right, is_leaf=is_merged)


def in_pairs(parts: Stats) -> Stats:
    """The statistics of neighbors together, so that half as many are left.

    Until one is left, the order of all sums is the same wherever the parts have been computed.

    Args:
      parts: statistics with a leading axis on every leaf, of an even number.

    Returns:
      Statistics with half of that axis.

    Example:
      >>> in_pairs(jnp.array([1.0, 2.0, 3.0, 4.0])).tolist()
      [3.0, 7.0]
    """
    left, right = (jax.tree.map(lambda leaf, i=i: leaf[i::2], parts) for i in range(2))
    return jax.vmap(merge)(left, right)


def added(
    of_part: Callable[[Array], Stats],
    num_parts: int,
    shapes: Stats,
    zero: Array,
    last: Callable[[], Stats] | None = None,
) -> Stats:
    """The values of `of_part(index)` for all parts, together with that of `last`.

    Args:
      of_part: from the number of a part of the rows to statistics.
      num_parts: how many there are.
      shapes: what `of_part` returns.
      zero: Array of shape (), 0.
      last: the statistics of one more part, which has another program; None for none.

    Returns:
      Statistics of the same structure.

    Example:
      >>> added(lambda index: 2.0 * index, 4, jax.ShapeDtypeStruct((), jnp.float32), jnp.zeros(())).item()
      12.0
    """

    def body(total: tuple[Stats, list], index: Array) -> tuple[tuple[Stats, list], None]:
        value = of_part(index)
        merged = _add(total, value)
        first = (value, jax.tree.map(jnp.zeros_like, total[1]))
        return jax.tree.map(lambda a, b: jnp.where(index == 0, a, b), first, merged), None

    empty = jax.tree.map(lambda leaf: jnp.broadcast_to(zero.astype(leaf.dtype), leaf.shape), shapes)
    start = (empty, [jnp.zeros_like(leaf) for leaf in _long(empty)])
    total = jax.lax.scan(body, start, jnp.arange(num_parts, dtype=jnp.int32))[0]
    return _rounded(*(total if last is None else _add(total, last())))


def _is_long(node: Any) -> bool:
    """Whether a total is carried in two numbers: floating scalars and vectors, such as the loss and the counts."""
    return not is_merged(node) and jnp.issubdtype(node.dtype, jnp.floating) and node.ndim <= 1


def _long(stats: Stats) -> list[Array]:
    return [node for node in jax.tree.leaves(stats, is_leaf=is_merged) if _is_long(node)]


def _add(total: tuple[Stats, list[Array]], value: Stats) -> tuple[Stats, list[Array]]:
    """A total in two numbers, and one value more."""
    stats, lost = total
    merged = merge(stats, value)

    def residue(a: Array, b: Array, s: Array) -> Array:
        of_b = s - a
        return jnp.where(jnp.isfinite(s), (a - (s - of_b)) + (b - of_b), 0)

    sums = zip(_long(stats), _long(value), _long(merged), strict=True)
    return merged, [old + residue(*terms) for old, terms in zip(lost, sums, strict=True)]


def _rounded(stats: Stats, lost: list[Array]) -> Stats:
    left = iter(lost)
    return jax.tree.map(lambda node: node + next(left) if _is_long(node) else node, stats, is_leaf=is_merged)
