"""How statistics of many rows come together: merged, in chunks.

A statistic is a sum over rows, or a node that knows how to merge (`types.Largest`). Either way the order does not
matter, which is why chunks, devices, hosts and streams are one operation.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix.types import Data, Params, Problem, Stats, check, in_squared_units, penalty, recentre


def merge(left: Stats, right: Stats) -> Stats:
    """The statistics of two disjoint sets of rows together: arrays add, a node with a `merge` method uses it.

    Args:
      left: statistics, a pytree.
      right: statistics of the same structure.

    Returns:
      Statistics of the same structure.

    Example:
      >>> import jax.numpy as jnp
      >>> merge({"count": jnp.array(2.0)}, {"count": jnp.array(3.0)})["count"].item()
      5.0
    """

    def both(a: Any, b: Any) -> Any:
        return a.merge(b) if hasattr(a, "merge") else jnp.add(a, b)

    return jax.tree.map(both, left, right, is_leaf=lambda node: hasattr(node, "merge"))


def merge_chunks(function: Callable[[Data], Stats], data: Data, size: int) -> Stats:
    """Applies `function` to chunks of rows, one after another in a scan, and merges what it returns.

    No row is copied and none is padded: the last chunk overlaps the one before, its repeated rows at weight 0.

    Args:
      function: from `Data` of `size` rows to statistics.
      data: `Data` of N rows.
      size: rows a chunk; N or more means one chunk.

    Returns:
      What `function` returns for all rows, to rounding.

    Example:
      >>> from jaxmix import as_data
      >>> merge_chunks(lambda chunk: jnp.sum(chunk.weights), as_data([[0.0], [1.0], [2.0]]), 2).item()
      3.0
    """
    return reduce_chunks(lambda _, chunk: function(chunk), data, size)


def reduce_chunks(function: Callable[[Array | int, Data], Stats], data: Data, size: int) -> Stats:
    """`merge_chunks` of a function that is told where in the data its chunk starts, too.

    Args:
      function: from the index of the first row and `Data` of `size` rows to statistics.
      data: as in `merge_chunks`.
      size: as in `merge_chunks`.

    Returns:
      As `merge_chunks` does.

    Example:
      >>> from jaxmix import as_data
      >>> data = as_data([[0.0], [1.0], [2.0]])
      >>> reduce_chunks(lambda start, chunk: jnp.sum(chunk.weights * (start + jnp.arange(2))), data, 2).item()
      3.0
    """
    num_rows = data.x.shape[0]
    if size >= num_rows:
        return function(0, data)

    def body(stats: Stats, index: Array) -> tuple[Stats, None]:
        new = function(*_chunk(data, size, index))
        return jax.tree.map(lambda a, b: jnp.where(index == 0, a, b), new, merge(stats, new)), None

    # `function` once in the program: what it returns for the first chunk replaces a placeholder.
    shapes = jax.eval_shape(lambda: function(*_chunk(data, size, jnp.int32(0))))
    # It is made of the data, so that over a mesh it varies as they do.
    zero = jnp.zeros_like(data.weights, shape=())
    empty = jax.tree.map(lambda leaf: jnp.broadcast_to(zero.astype(leaf.dtype), leaf.shape), shapes)
    return jax.lax.scan(body, empty, jnp.arange(-(-num_rows // size), dtype=jnp.int32))[0]


def map_chunks(function: Callable[[Array | int, Data], Array], data: Data, size: int) -> Array:
    """Applies `function`, which gives a number for each row, to chunks of rows, one after another in a scan.

    Args:
      function: from the index of the first row and `Data` of `size` rows to an Array of shape (size,).
      data: `Data` of N rows.
      size: rows a chunk; N or more means one chunk.

    Returns:
      Array of shape (N,).

    Example:
      >>> from jaxmix import as_data
      >>> map_chunks(lambda _, chunk: 2 * chunk.x[:, 0], as_data([[0.0], [1.0], [2.0]]), 2).tolist()
      [0.0, 2.0, 4.0]
    """
    num_rows = data.x.shape[0]
    if size >= num_rows:
        return function(0, data)

    def body(values: Array, index: Array) -> tuple[Array, None]:
        start, chunk = _chunk(data, size, index)
        return jax.lax.dynamic_update_slice_in_dim(values, function(start, chunk), start, axis=0), None

    dtype = jax.eval_shape(lambda: function(*_chunk(data, size, jnp.int32(0)))).dtype
    indices = jnp.arange(-(-num_rows // size), dtype=jnp.int32)
    return jax.lax.scan(body, jnp.zeros(num_rows, dtype), indices)[0]


def recompute(found: Array, needed: Array, function: Callable[[Array, int], Array], size: int) -> Array:
    """What was found for each row, or, where that is needed, what `function` finds, in chunks of rows.

    A loop, not a branch: under `vmap` a branch would take both its sides. Where it is not needed `function` is not run.

    Args:
      found: Array of shape (N, ...).
      needed: Array of shape (), boolean.
      function: from the index of the first row, and how many rows, to an array of shape (rows, ...).
      size: the most rows a chunk.

    Returns:
      Array of shape (N, ...).

    Example:
      >>> import jax.numpy as jnp
      >>> recompute(jnp.zeros(3), jnp.array(True), lambda first, size: first + jnp.arange(1.0 * size), 2).tolist()
      [0.0, 1.0, 2.0]
    """
    num_rows = found.shape[0]
    # In two chunks or more, or XLA would take the one out of the loop and run it always.
    size = min(-(-num_rows // 2), size)
    num_chunks = -(-num_rows // size)

    def correct(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        found, index = carry
        first = jnp.minimum(index * size, num_rows - size)
        return jax.lax.dynamic_update_slice_in_dim(found, function(first, size), first, axis=0), index + 1

    start = jnp.where(needed, 0, num_chunks)
    return jax.lax.while_loop(lambda carry: carry[1] < num_chunks, correct, (found, start))[0]


def _chunk(data: Data, size: int, index: Array) -> tuple[Array, Data]:
    """Where a chunk starts, and its rows: the last one overlaps the one before, its repeated rows at weight 0."""
    first = index * size
    start = jnp.minimum(first, data.x.shape[0] - size)
    weights = jax.lax.dynamic_slice_in_dim(data.weights, start, size)
    fresh = start + jnp.arange(size, dtype=start.dtype) >= first
    x = jax.lax.dynamic_slice_in_dim(data.x, start, size)
    return start, data._replace(x=x, weights=jnp.where(fresh, weights, 0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chunked:
    """A problem whose sums over rows are taken `size` rows at a time: the same numbers in less memory.

    Itself a `Problem`, so every solver and every number of restarts takes it.

    Attributes:
      problem: the `Problem` to reduce.
      size: rows a chunk, at least 1.

    Raises:
      ValueError: for a size below 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> x = jax.random.normal(jax.random.key(0), (1000, 2))
      >>> fit = kmeans.fit(jax.random.key(1), x, 3, problem=Chunked(kmeans.KMeans(), 128))
      >>> fit.params.shape
      (3, 2)
    """

    problem: Problem
    size: int = dataclasses.field(metadata={"static": True})

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"`size` must be an integer of at least 1, the rows of a chunk, got {self.size!r}.")

    @property
    def squared_units(self) -> bool:
        """As the problem's own."""
        return in_squared_units(self.problem)

    def check(self) -> None:
        """As the problem's own."""
        check(self.problem)

    def e_step(self, params: Params, data: Data) -> Stats:
        """The statistics of all rows, chunk after chunk."""
        return merge_chunks(lambda chunk: self.problem.e_step(params, chunk), data, self.size)

    def m_step(self, stats: Stats, params: Params) -> Params:
        """As the problem's own: it never sees the rows."""
        return self.problem.m_step(stats, params)

    def loss(self, params: Params, data: Data) -> Array:
        """The loss over all rows, chunk after chunk; `jax.grad` recomputes a chunk rather than store it."""
        loss = jax.checkpoint(self.problem.loss)
        return merge_chunks(lambda chunk: loss(params, chunk), data, self.size)

    def penalty(self, params: Params) -> Array | float:
        """The problem's own, once."""
        return penalty(self.problem, params)

    def recentre(self, stats: Stats, params: Params, about: Params) -> Stats:
        """As the problem's own."""
        return recentre(self.problem, stats, params, about)

    def unconstrain(self, params: Params) -> Params:
        """As the problem's own."""
        return self.problem.unconstrain(params)

    def constrain(self, free: Params) -> Params:
        """As the problem's own."""
        return self.problem.constrain(free)
