"""Sums over rows, and maps over rows: the one place that knows how rows are cut into blocks.

A problem says what one block of rows contributes; a reduce adds the blocks. Statistics are sums, or nodes that merge
(a maximum, say). In either case the order does not matter.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix.data import Rows
from jaxmix.frame import Frame
from jaxmix.merging import added
from jaxmix.pytree import choice, static
from jaxmix.typing import Stats

WHOLE_BYTES = {"cpu": 26_000_000, "default": 256_000_000}
"""Up to this many bytes of a block's numbers, all rows are one block."""

BLOCK_BYTES = {"cpu": 6_000_000, "default": 256_000_000}
"""The bytes of a block's numbers, where there are more blocks than one."""

WIDE = 500
"""From so many features on, all rows are one block on CPU: cutting a block out costs more than it saves."""

ALIGNMENT = 16
"""Rows of a block are a multiple of this. XLA's CPU backend takes twice as long for an odd number."""

CACHE_ROWS = 1024
"""But no multiple of this: columns of a block would share the lines of a CPU's cache."""

SMALL_ROWS = 1024
"""So few rows are one block as they are."""


class Footprint(NamedTuple):
    """What a problem holds at once for a block of rows: the hint from which the block's size follows.

    Attributes:
      numbers: how many numbers for each row, beside its features.
      room: how many numbers in all a block on CPU may hold, where the problem knows better; None for what suits most.

    Example:
      >>> Footprint(16).numbers
      16
    """

    numbers: int
    room: int | None = None


def rows_per_block(num_rows: int, num_features: int, footprint: Footprint, itemsize: int) -> int:
    """How many rows a block has, so that all blocks are about alike.

    Args:
      num_rows: N.
      num_features: D.
      footprint: of the problem.
      itemsize: bytes of a number.

    Returns:
      An int of at least 1: N or more means one block.

    Example:
      >>> rows_per_block(1000, 2, Footprint(8), 4)
      1000
      >>> rows_per_block(1_000_000, 16, Footprint(64), 4)
      23264
    """
    # A guess where a program is lowered for another platform than this one's: it costs time, never digits.
    platform = "cpu" if jax.default_backend() == "cpu" else "default"
    width = itemsize * footprint.numbers
    if platform == "cpu" and footprint.room is not None:
        size = max(1, footprint.room // footprint.numbers)
    elif num_rows * width <= WHOLE_BYTES[platform] or (platform == "cpu" and num_features >= WIDE):
        size = num_rows
    else:
        size = max(1, BLOCK_BYTES[platform] // width)
    num_blocks = -(-num_rows // size)
    if num_blocks == 1 and num_rows < SMALL_ROWS:
        return num_rows
    size = -(-num_rows // num_blocks)
    size += -size % ALIGNMENT
    return size + ALIGNMENT if size % CACHE_ROWS == 0 else size


def cut(x: Array, weights: Array | None, size: int, num_rows: int | None = None) -> Rows:
    """All rows as blocks of `size` rows, the last one filled up with rows of zero.

    Args:
      x: Array of shape (N, D), or with rows of zero at the end that fill the last block already.
      weights: Array of shape (N,), or as long as `x`; None where all are one.
      size: rows a block.
      num_rows: N; None for the length of `x`.

    Returns:
      `Rows`, with a leading axis on `x` and `weights` where there are more blocks than one; `valid`, of shape (size,),
      is that of the last block.

    Example:
      >>> cut(jnp.ones((5, 2)), None, 3).x.shape
      (2, 3, 2)
    """
    num_rows = x.shape[0] if num_rows is None else num_rows
    num_blocks = -(-num_rows // size)
    padding = num_blocks * size - num_rows

    def fold(values: Array) -> Array:
        missing = num_blocks * size - values.shape[0]
        filled = jnp.pad(values, ((0, missing), *((0, 0),) * (values.ndim - 1))) if missing else values
        # One block as it is: taking it out of an axis of one would be a copy of all rows in every step.
        return filled if num_blocks == 1 else filled.reshape(num_blocks, size, *values.shape[1:])

    valid = jnp.arange(size, dtype=jnp.int32) < size - padding if padding else None
    return Rows(fold(x), None if weights is None else fold(weights), valid)


@choice
class Blocks:
    r"""Sums over the rows of one device, a block after another.

    $$s = \sum_b f(p, \text{block}_b)$$

    Totals of scalars and vectors over blocks, such as the loss and the counts, are carried in two numbers, the sum and
    what it has lost: counts of float32 would be exact only to 2^24 rows.

    Attributes:
      size: rows a block, static; None for what suits the problem and the platform. It sets time and memory, and changes
        results by rounding alone.

    Raises:
      ValueError: when it is used, for a size that is no integer of at least 1.

    References:
      Knuth (1997), section 4.2.2, theorem B, for the sum in two numbers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import Blocks, kmeans, solve
      >>> x = jax.random.normal(jax.random.key(0), (1000, 2))
      >>> solve.run(kmeans.KMeans(), solve.EM(), x[:3], x, reduce=Blocks(128)).params.shape
      (3, 2)
    """

    size: int | None = static(default=None)

    def validate(self) -> None:
        """Rejects a size that is no number of rows."""
        size: Any = self.size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ValueError(f"`size` must be an integer of at least 1, the rows of a block, or None, got {size!r}.")

    def rows_per_block(self, num_rows: int, num_features: int, footprint: Footprint, itemsize: int) -> int:
        """How many rows a block has; all rows, and what fills them up to a good number, where one block is enough."""
        if self.size is None:
            return rows_per_block(num_rows, num_features, footprint, itemsize)
        return min(self.size, num_rows)

    def cut(self, x: Array, weights: Array | None, footprint: Footprint, num_rows: int | None = None) -> Rows:
        """Rows as this reduce takes them; they may be filled up already, as `cut` has it."""
        num_rows = x.shape[0] if num_rows is None else num_rows
        return cut(x, weights, self.rows_per_block(num_rows, x.shape[1], footprint, x.dtype.itemsize), num_rows)

    @property
    def num_parts(self) -> int:
        """Over how many devices the rows are spread."""
        return 1

    @property
    def num_slots(self) -> int:
        """In how many shares the rows at hand are summed, each by itself."""
        return 1

    @property
    def own(self) -> "Blocks":
        """The sums over rows that are in the memory of every device."""
        return self

    def own_key(self, key: Array) -> Array:
        """A key for the rows at hand, from one for all rows."""
        return key

    def total(self, stats: Stats) -> Stats:
        """Statistics of the rows at hand as those of all rows: here they are."""
        return stats

    def sums(self, fn: Callable[..., Stats], *values: Array) -> Stats:
        """The statistics `fn(*values)` of arrays of shape (N, ...), uncut, that have the rows at hand: of all rows."""
        return self.total(fn(*values))

    def num_counted(self, x: Array) -> int:
        """The number of rows by which a problem chooses among its ways, where those of `x` (..., D) are at hand."""
        return x.size // x.shape[-1]

    def __call__(self, fn: Callable[[Any, Rows], Stats], prepared: Any, rows: Rows) -> Stats:
        """The merged values of `fn(prepared, block)` over the blocks of `rows`, which `cut` returned."""
        if rows.x.ndim == 2:
            return fn(prepared, rows)
        num_blocks = rows.x.shape[0]
        last = _block(rows, num_blocks - 1, rows.valid)
        # Differentiated in reverse, a block is computed again rather than stored.
        fn = jax.checkpoint(fn)
        whole = num_blocks if rows.valid is None else num_blocks - 1
        # It is made of the data, so that over a mesh it varies as they do.
        zero = jnp.zeros_like(rows.x, shape=())

        def of_last() -> Stats:
            return fn(prepared, last)

        return added(
            lambda index: fn(prepared, _block(rows, index, None)),
            whole,
            jax.eval_shape(of_last),
            zero,
            None if rows.valid is None else of_last,
        )

    def within(self, frame: Frame | None) -> "Blocks":
        """The reduce for rows that a fit moves to a frame: here it is handed rows that are there."""
        return self

    def num_rows(self, num_here: int) -> int:
        """N, or the rows of this device; `num_here` are those of the array at hand."""
        return num_here

    def epoch(self, key: Array, num_rows: int, batch_size: int) -> Array:
        """The rows of one epoch's batches, of shape (B, size), as `Objective.epoch` has it."""
        size = min(-(-batch_size // self.num_parts), num_rows)
        num_batches = -(-num_rows // size)
        order = jax.random.permutation(self.own_key(key), num_rows)
        return order[jnp.arange(num_batches * size) % num_rows].reshape(num_batches, size)

    def take(self, rows: Rows, indices: Array, num_rows: int) -> tuple[Rows, "Blocks"]:
        """Some rows, whose weights make sums over them unbiased estimates of sums over all; and a reduce for them."""
        share = jnp.asarray(num_rows / indices.shape[0], rows.x.dtype)
        x, weights = flat(rows)
        weights = jnp.broadcast_to(share, indices.shape) if weights is None else share * weights[indices]
        return Rows(x[indices], weights), self


def map_rows(fn: Callable[[Any, Any], Any], prepared: Any, rows: Any, size: int) -> Any:
    """The values of `fn(prepared, block)` for each row, a block of rows after another.

    The rows are neither copied nor filled up: the last block overlaps the one before it.

    Args:
      fn: from `prepared` and a block, which is `rows` with n rows in each leaf, to a pytree of arrays of shape
        (n, ...), each row of which depends on one row alone.
      prepared: a pytree.
      rows: a pytree of arrays of shape (N, ...).
      size: n, the rows of a block.

    Returns:
      A pytree of arrays of shape (N, ...).

    Example:
      >>> map_rows(lambda factor, x: factor * x[:, 0], 2.0, jnp.arange(5.0)[:, None], 2).tolist()
      [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    if size >= num_rows:
        return fn(prepared, rows)

    def body(found: Any, index: Array) -> tuple[Any, None]:
        first = jnp.minimum(index * size, num_rows - size)
        block = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, size), rows)
        # Differentiated in reverse, a block is computed again rather than stored.
        values = jax.checkpoint(fn)(prepared, block)

        def put(old: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(old, new, first, axis=0)

        return jax.tree.map(put, found, values), None

    shapes = jax.eval_shape(fn, prepared, jax.tree.map(lambda leaf: leaf[:size], rows))
    # It is made of the rows, so that over a mesh it varies as they do.
    zero = jnp.zeros_like(jax.tree.leaves(rows)[0], shape=())
    empty = jax.tree.map(lambda leaf: jnp.broadcast_to(zero.astype(leaf.dtype), (num_rows, *leaf.shape[1:])), shapes)
    return jax.lax.scan(body, empty, jnp.arange(-(-num_rows // size), dtype=jnp.int32))[0]


def flat(rows: Rows) -> tuple[Array, Array | None]:
    """All rows and their weights, without the axis of blocks; with the rows at the end that only fill the last one.

    Args:
      rows: what `cut` returned.

    Returns:
      Arrays of shape (M, D) and (M,), or None for weights that are all one.

    Example:
      >>> flat(cut(jnp.ones((5, 2)), None, 3))[0].shape
      (6, 2)
    """
    weights = None if rows.weights is None else rows.weights.reshape(-1)
    return rows.x.reshape(-1, rows.x.shape[-1]), weights


def _block(rows: Rows, index: Array | int, valid: Array | None) -> Rows:
    return Rows(rows.x[index], None if rows.weights is None else rows.weights[index], valid)
