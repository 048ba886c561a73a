"""What rows are read from, some at a time: arrays on disk, files, and functions that yield batches."""

import mmap
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxmix import extras, memory
from jaxmix.arrays import described

Batch = tuple[Any, Any]
"""Rows (n, D), and their weights (n,) or None."""

Source = Callable[[int | None], Iterator[Batch]]
"""From how many rows a batch may have, where that can be chosen, to the batches from the beginning; None for about
`READ_BYTES`."""

READ_BYTES = 2**24
"""About as many bytes of rows are read at a time: few enough for some such parts, enough to hide a call."""

NUMBER_BYTES = 8
"""The bytes of a number, at most."""

_ACCEPTED = (
    "an array of shape (N, D), the path of a .npy file or of a Parquet file or folder, a list of batches, or a "
    "function without arguments that returns an iterator of batches"
)


def source_of(rows: Any, weights: Any = None) -> Source:
    """A function that reads rows from their beginning, as often as it is called.

    Args:
      rows: an array of two axes that can be sliced, such as `np.memmap`, a zarr or an HDF5 array; a path; a function
        without arguments that returns an iterator of batches; or any other iterable of batches, such as a list. A batch
        is an array of shape (n, D), or a pair of one and its weights, of shape (n,).
      weights: for an array or a file, an array of shape (N,); None for ones.

    Raises:
      ValueError: for anything else, an iterator, which can be read only once, or weights beside batches.

    Example:
      >>> read = source_of(np.arange(6.0).reshape(3, 2))
      >>> [batch.shape for batch, _ in read(2)]
      [(2, 2), (1, 2)]
    """
    if isinstance(rows, (str, os.PathLike)):
        rows = Path(rows)
        if not rows.exists():
            raise ValueError(f"`rows` is a path, and there is no file or folder at it: {rows}.")
        if rows.suffix != ".npy":
            return _parquet(rows, weights)
        rows = np.load(rows, mmap_mode="r")
    if hasattr(rows, "shape") and hasattr(rows, "__getitem__"):
        return _array(rows, weights)
    if weights is not None:
        raise ValueError("`weights` go with an array or a file. Let batches be pairs: (x, weights).")
    if callable(rows):
        made: Any = rows
        return lambda size: map(_pair, made())
    if isinstance(rows, Iterator) or not isinstance(rows, Iterable):
        once = isinstance(rows, Iterator)
        hint = " An iterator can be read only once: give the function that makes it." if once else ""
        raise ValueError(f"`rows` must be {_ACCEPTED}, got {described(rows)}.{hint}")
    return lambda size: map(_pair, rows)


def _pair(batch: Any) -> Batch:
    return batch if isinstance(batch, tuple) and len(batch) == 2 else (batch, None)


def _array(rows: Any, weights: Any) -> Source:
    if len(rows.shape) != 2:
        raise ValueError(f"`rows` must have shape (N, D), got {tuple(rows.shape)}.")
    counts = None if weights is None else np.asarray(weights)
    if counts is not None and counts.shape != (rows.shape[0],):
        raise ValueError(f"`weights` must have shape ({rows.shape[0]},), one for each row, got {counts.shape}.")

    def read(size: int | None) -> Iterator[Batch]:
        step = size or _rows_of(rows.shape[1])
        for first in range(0, rows.shape[0], step):
            part = slice(first, first + step)
            yield np.asarray(rows[part]), None if counts is None else counts[part]
            _release(rows)

    return read


def _rows_of(num_features: int) -> int:
    return max(1, READ_BYTES // (NUMBER_BYTES * max(1, num_features)))


def _release(rows: Any) -> None:
    """Lets the system take back the memory of a mapped file whose rows have been copied."""
    if not isinstance(rows, np.memmap) or rows.mode not in ("r", "r+", "w+"):
        return
    held: Any = rows
    while held is not None and not isinstance(held, mmap.mmap):
        held = getattr(held, "base", None)
    if held is not None and hasattr(mmap, "MADV_DONTNEED"):
        held.madvise(mmap.MADV_DONTNEED)


def _parquet(path: Path, weights: Any) -> Source:
    if weights is not None:
        raise ValueError("`weights` of a Parquet file: give a function that returns an iterator of (x, weights).")
    with extras.needed("parquet"):
        from pyarrow import ArrowInvalid, dataset
    try:
        table = dataset.dataset(path)
    except (ArrowInvalid, OSError) as error:
        raise ValueError(f"`rows` must be {_ACCEPTED}; {path} is neither a .npy nor a Parquet file: {error}") from error

    def read(size: int | None) -> Iterator[Batch]:
        for batch in table.to_batches(batch_size=size or _rows_of(len(table.schema))):
            if batch.num_rows:
                yield np.column_stack([column.to_numpy(zero_copy_only=False) for column in batch.columns]), None

    return read


def pieces(batches: Iterable[Batch], size: int, num_features: int, dtype: Any) -> Iterator[tuple[np.ndarray, ...]]:
    """Batches of any length as pieces of `size` rows, the last of which is filled up with its last row, of weight 0.

    Rows of weight 0 are left out.

    Args:
      batches: of rows with D features.
      size: rows of a piece.
      num_features: D.
      dtype: of the pieces.

    Returns:
      An iterator of new arrays of shape (size, D) and (size,).

    Raises:
      ValueError: for a batch of another width.

    Example:
      >>> batches = [(np.zeros((2, 1)), None), (np.ones((1, 1)), np.array([5.0]))]
      >>> [weights.tolist() for _, weights in pieces(batches, 2, 1, np.float32)]
      [[1.0, 1.0], [5.0, 0.0]]
    """
    x, weights, filled = memory.empty((size, num_features), dtype), memory.empty((size,), dtype), 0
    for index, (rows, counts) in enumerate(batches):
        rows, counts = np.asarray(rows), None if counts is None else np.asarray(counts)
        if rows.ndim != 2 or rows.shape[1] != num_features:
            raise ValueError(f"Batch {index} has shape {rows.shape}, where the others have {num_features} columns.")
        if counts is not None and not np.all(counts):
            rows, counts = rows[counts != 0], counts[counts != 0]
        start = 0
        while start < len(rows):
            part = slice(start, start + size - filled)
            some = rows[part]
            here = slice(filled, filled + len(some))
            np.copyto(x[here], some, casting="unsafe")
            weights[here] = 1 if counts is None else counts[part]
            start, filled = start + len(some), filled + len(some)
            if filled == size:
                yield x, weights
                x, weights, filled = memory.empty(x.shape, dtype), memory.empty(weights.shape, dtype), 0
    if filled:
        x[filled:] = x[filled - 1]
        weights[filled:] = 0
        yield x, weights


def ahead(items: Iterator[Any]) -> Generator[Any]:
    """The same items, none of them None; the next one is made in another thread while one is used.

    Example:
      >>> list(ahead(iter([1, 2, 3])))
      [1, 2, 3]
    """
    with ThreadPoolExecutor(1, "jaxmix-stream") as worker:
        following = worker.submit(next, items, None)
        while (item := following.result()) is not None:
            following = worker.submit(next, items, None)
            yield item
