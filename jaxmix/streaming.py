"""Sums over the rows of a `Stream`."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import io_callback

from jaxmix import memory
from jaxmix.arrays import check_on_host
from jaxmix.data import Rows
from jaxmix.frame import Frame
from jaxmix.merging import added
from jaxmix.pytree import choice, static
from jaxmix.reduction import Blocks, Footprint
from jaxmix.streams import Stream, serve
from jaxmix.typing import Stats


@choice
class Streamed(Blocks):
    """Sums over the rows of a `Stream`, which compiled programs read through a callback.

    Attributes:
      handle: int32 Array of shape (), the stream: one program serves all of one size.
      frame: where rows are moved as they are read; None for where they are.
      length: N, static.
      part: about how many rows are read at a time, at most N, static.
      size: as of `Blocks`.
    """

    handle: Array | None = None
    frame: Frame | None = None
    length: int = static(default=0, kw_only=True)
    part: int = static(default=0, kw_only=True)
    size: int | None = static(default=None, kw_only=True)

    def within(self, frame: Frame | None) -> "Streamed":
        """With the frame to which rows are moved."""
        return dataclasses.replace(self, frame=frame)

    @property
    def own(self) -> Blocks:
        """The sums over rows in memory."""
        return Blocks(self.size)

    def num_rows(self, num_here: int) -> int:
        """N."""
        return self.length

    def num_counted(self, x: Array) -> int:
        """N."""
        return self.length

    def cut(self, x: Array, weights: Array | None, footprint: Footprint, num_rows: int | None = None) -> Rows:
        """The shapes of the rows that are read at a time, in blocks: no program reads the zeros."""
        num_features = x.shape[1]
        block = self.rows_per_block(self.part, num_features, footprint, x.dtype.itemsize)
        num_blocks = -(-self.part // block)
        shape = (num_blocks, block) if num_blocks > 1 else (block,)
        return Rows(jnp.zeros((*shape, num_features), x.dtype), jnp.zeros(shape, x.dtype))

    def __call__(self, fn: Callable[[Any, Rows], Stats], prepared: Any, rows: Rows) -> Stats:
        """The merged values over all rows, read from the first on."""
        size = rows.x.size // rows.x.shape[-1]
        of_blocks = partial(super().__call__, fn)

        def of_part(index: Array) -> Stats:
            x, weights = self._read(index * size, size, rows.x)
            return of_blocks(prepared, Rows(x.reshape(rows.x.shape), weights.reshape(rows.x.shape[:-1])))

        shapes = jax.eval_shape(of_blocks, prepared, rows)
        return added(of_part, -(-self.length // size), shapes, jnp.zeros((), rows.x.dtype))

    def epoch(self, key: Array, num_rows: int, batch_size: int) -> Array:
        """The numbers of the rows of mini-batches, in the order of the stream: reading at random would be slow."""
        size = min(batch_size, self.length)
        num_batches = -(-self.length // size)
        return jnp.arange(num_batches * size, dtype=jnp.int32).reshape(num_batches, size)

    def take(self, rows: Rows, indices: Array, num_rows: int) -> tuple[Rows, Blocks]:
        """Rows that follow each other, in memory."""
        size = indices.shape[0]
        x, weights = self._read(indices[0], size, rows.x)
        # The last part may be short.
        here = jnp.minimum(size, self.length - indices[0]).astype(x.dtype)
        return Rows(x, weights * (self.length / here)), self.own

    def _read(self, first: Array, size: int, like: Array) -> tuple[Array, Array]:
        shapes = (
            jax.ShapeDtypeStruct((size, like.shape[-1]), like.dtype),
            jax.ShapeDtypeStruct((size,), like.dtype),
        )
        x, weights = io_callback(serve, shapes, self.handle, first, jnp.int32(size))
        return x if self.frame is None else self.frame.apply(x), weights


def streamed(reduce: Blocks, stream: Stream) -> Streamed:
    """The reduce for a stream, with the size of blocks of another reduce.

    Raises:
      ValueError: for a reduce that is not `Blocks`.
    """
    if type(reduce) is not Blocks:
        raise ValueError(f"`reduce` must be `Blocks` for a `Stream`, got {type(reduce).__name__}: one device reads it.")
    handle = memory.copied(np.array(stream.handle, np.int32))
    return Streamed(handle, length=stream.num_rows, part=stream.rows_to_read(), size=reduce.size)


def complete(rows: Any, arguments: Any, program: Callable[[], Any]) -> Any:
    """What a program returns; where rows are a `Stream`, when it has read them.

    Raises:
      ValueError: for a stream and arguments of the program that are traced.
    """
    if not isinstance(rows, Stream):
        return program()
    check_on_host("Stream", arguments)
    return rows.complete(program)
