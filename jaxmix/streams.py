"""Rows that never are in memory together: read some at a time, in every pass of a fit."""

import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxmix import arrays, frame, memory, validation
from jaxmix.data import Data
from jaxmix.sampling import Reservoir
from jaxmix.sources import READ_BYTES, Source, ahead, pieces, source_of
from jaxmix.typing import ArrayLike

MOST_ROWS = 2**31 - 2**25
"""Rows are counted in 32 bits, those too that fill up the last part."""

CALIBRATION_ROWS = 1024
"""Rows from which a problem takes the scale of its features, as it does of rows in memory."""


class Survey(NamedTuple):
    """What one pass tells of rows.

    Attributes:
      num_rows: rows of positive weight.
      dtype: theirs, as JAX has it.
      total: the sum of their weights.
      low: NumPy array of shape (D,), the least value of each feature.
      high: of shape (D,), the largest.
      mean: of shape (D,), float64.
      cost: the weighted sum of squared distances from the mean; not finite where it overflows.
      calibration: `Data` of some rows, and of two of no weight that have all values between them.
    """

    num_rows: int
    dtype: Any
    total: float
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    cost: float
    calibration: Data


class Stream:
    """Rows that are read some at a time, from disk or from a function: for fits of data larger than memory.

    It is given in place of an array of rows, to `kmeans.fit`, `gmm.fit`, `fit`, `solve.run` and their likes. Every pass
    of the fit reads all rows once more, the next part while one is computed. So the fit is that of rows in memory, to
    rounding. Making a `Stream` reads the rows once, to validate them.

    Args:
      rows: an array of shape (N, D) that can be sliced, such as `np.memmap`, a zarr or an HDF5 array; the path of a
        .npy file, or of a Parquet file or folder, whose columns are the features; a function without arguments that
        returns an iterator of batches; or a list of batches. A batch is an array of shape (n, D) of any n, or a pair of
        one and its weights, of shape (n,).
      weights: for an array or a file, an array of shape (N,), non-negative; None for ones. Rows of weight 0 are left
        out.

    Attributes:
      num_rows: N, the rows of positive weight.
      num_features: D.
      dtype: of the rows; integers become float.
      survey: what the first pass has found, a `Survey`.
      handle: a number, by which compiled programs find it.

    Raises:
      ValueError: naming the batch, for values that are not finite numbers, for weights that are negative or not finite,
        and for batches of several widths; if there are no rows; for an iterator, which can be read only once.
      ModuleNotFoundError: for Parquet without the package `pyarrow`, which `pip install 'jaxmix[parquet]'` brings.

    Example:
      >>> import jax, numpy as np
      >>> from jaxmix import Stream, kmeans
      >>> def batches():
      ...     random = np.random.default_rng(0)
      ...     for _ in range(10):
      ...         yield random.normal(size=(1000, 2)) + 9 * random.integers(2, size=(1000, 1))
      >>> stream = Stream(batches)
      >>> fit = kmeans.fit(jax.random.key(0), stream, 2)
      >>> stream.num_rows, sorted(fit.params.round().tolist())
      (10000, [[0.0, 0.0], [9.0, 9.0]])
    """

    def __init__(self, rows: Any, *, weights: ArrayLike | None = None):
        self._source = source_of(rows, weights)
        self.survey = _surveyed(self._source)
        self.num_rows = self.survey.num_rows
        self.num_features = len(self.survey.mean)
        self.dtype = self.survey.dtype
        self._lock = threading.Lock()
        self._reader: _Reader | None = None
        self.handle = next(_NUMBERS)
        _STREAMS[self.handle] = self

    def __repr__(self) -> str:
        return f"Stream(num_rows={self.num_rows}, num_features={self.num_features}, dtype={self.dtype})"

    def data(self) -> Data:
        """One row, the mean, that weighs as much as all."""
        survey = self.survey
        low, high, mean = (each.astype(self.dtype) for each in (survey.low, survey.high, survey.mean))
        total = np.full(1, survey.total, self.dtype)
        return Data(*map(memory.copied, (mean[None], total, frame.origin_within(low, high, mean))))

    def scale(self) -> Array | None:
        """`frame.scale_of` the rows."""
        survey = self.survey
        return frame.scale_within(survey.low.min(), survey.high.max(), self.dtype, survey.total)

    def sample(self, key: Array, num_rows: int, *, by_cost: bool = False) -> Data:
        """Some of the rows, whose weights make sums over them unbiased estimates of sums over all.

        Args:
          key: a PRNG key, not traced.
          num_rows: how many, or all where there are fewer.
          by_cost: whether half of the chance of a row is its share of the squared distances from the mean, and half its
            weight. Otherwise the weight is all.

        Returns:
          `Data` of these rows.

        Raises:
          ValueError: for a key that is none, or traced.

        Example:
          >>> import jax
          >>> Stream(np.arange(100.0)[:, None]).sample(jax.random.key(0), 10).x.shape
          (10, 1)
        """
        validation.check_key(key)
        arrays.check_on_host("sample", key)
        survey = self.survey
        seed = np.asarray(jax.random.key_data(key)).ravel()
        reservoir = Reservoir(num_rows, np.random.default_rng(seed))
        by_cost = by_cost and np.isfinite(survey.cost) and survey.cost > 0
        with self._lock:
            for x, weights in ahead(self._pieces(self.rows_to_read())):
                x, weights = x[weights > 0], weights[weights > 0]
                mass = weights / survey.total
                if by_cost:
                    squares = np.square(x - survey.mean).sum(axis=1)
                    mass = mass + weights * (squares / survey.cost)
                reservoir.add(x, weights, mass)
        found, weights = reservoir.sample()
        return self.data()._replace(x=memory.copied(found), weights=memory.copied(weights.astype(self.dtype)))

    def map(self, fn: Callable[[Array], Any], out: Any = None) -> Any:
        """The values of a function for all rows, those of weight 0 too, a part of the rows at a time.

        Args:
          fn: from rows (n, D), a JAX array, to an array of shape (n, ...), or a pytree of such, each row of which
            depends on one row alone; such as `lambda x: kmeans.predict(centers, x)`. n is the same in all calls.
          out: where to write the values, such as `np.memmap` arrays; a pytree as `fn` returns. None for new arrays.

        Returns:
          `out`, or NumPy arrays of a value for each row; beside N there are those of weight 0.

        Raises:
          ValueError: for an `out` of another shape.

        Example:
          >>> Stream(np.arange(6.0).reshape(3, 2)).map(lambda x: x.sum(axis=1)).tolist()
          [1.0, 5.0, 9.0]
        """
        size, first, waiting, kept = self.rows_to_read(), 0, None, []

        def keep(values: Any, first: int, count: int) -> None:
            found = [np.asarray(value)[:count] for value in jax.tree.leaves(values)]
            if out is None:
                kept.append(found)
                return
            for target, value in zip(jax.tree.leaves(out), found, strict=True):
                if target[first : first + count].shape != value.shape:
                    raise ValueError(f"`out` must hold {value.shape[1:]} for each row, got an array {target.shape}.")
                target[first : first + count] = value

        with self._lock, closing(ahead(self._pieces(size, weighted=False))) as parts:
            for x, weights in parts:
                count = int(np.count_nonzero(weights))
                values = fn(memory.adopted(x))
                if waiting is not None:
                    # A part is kept while the next is computed.
                    keep(*waiting)
                waiting, first = (values, first, count), first + count
            assert waiting is not None
            keep(*waiting)
        if out is not None:
            if any(len(target) != first for target in jax.tree.leaves(out)):
                raise ValueError(f"`out` must hold {first} rows, got {[len(each) for each in jax.tree.leaves(out)]}.")
            return out
        whole = [np.concatenate(parts) for parts in zip(*kept, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(waiting[0]), whole)

    def complete(self, program: Callable[[], Any]) -> Any:
        """What a program returns that reads this stream, when it has read all.

        Raises:
          Whatever reading the rows raises.
        """
        with self._lock:
            self._reader, found = _Reader(self), None
            try:
                found = program()
                jax.block_until_ready(found)
            except BaseException as error:
                # The program reads on, in threads of its own: it gets NaN, and ends. Nobody else may read before.
                self._reader.error = self._reader.error or error
                jax.block_until_ready(found)
                raise
            finally:
                self._reader.close()
            if self._reader.error is not None:
                raise self._reader.error
            return found

    def rows_to_read(self) -> int:
        """About how many rows are read at a time."""
        row = self.num_features * np.dtype(self.dtype).itemsize
        return max(1, min(READ_BYTES // row, self.num_rows))

    def _pieces(self, size: int, *, weighted: bool = True) -> Iterator[tuple[np.ndarray, ...]]:
        batches = self._source(size)
        batches = batches if weighted else ((x, None) for x, _ in batches)
        return pieces(batches, size, self.num_features, self.dtype)


_NUMBERS = itertools.count(1)
_STREAMS: "weakref.WeakValueDictionary[int, Stream]" = weakref.WeakValueDictionary()


class _Reader:
    """Reads a stream for compiled programs. What goes wrong is kept: an error in a callback would be lost in a log."""

    def __init__(self, stream: Stream):
        self.error: BaseException | None = None
        self._stream = stream
        self._parts: Iterator[tuple[np.ndarray, ...]] | None = None
        self._place = (0, 0)

    def read(self, first: int, size: int) -> tuple[np.ndarray, ...]:
        """Rows from a number on, and their weights; NaN after an error."""
        if self.error is None:
            try:
                return self._read(first, size)
            except Exception as error:
                self.error = error
        stream = self._stream
        return np.full((size, stream.num_features), np.nan, stream.dtype), np.ones(size, stream.dtype)

    def _read(self, first: int, size: int) -> tuple[np.ndarray, ...]:
        if first == 0 or (first, size) != self._place:
            self.close()
            self._parts = ahead(self._stream._pieces(size))
            for _ in range(first // size):
                next(self._parts)
        assert self._parts is not None
        part = next(self._parts, None)
        num_rows = self._stream.num_rows
        found, expected = 0 if part is None else np.count_nonzero(part[1]), min(size, num_rows - first)
        if part is None or found != expected or (first + size >= num_rows and next(self._parts, None) is not None):
            raise ValueError(
                f"The stream had {num_rows} rows at first, and has {'fewer' if found < expected else 'more'} now. A "
                "function of batches must return the same rows every time."
            )
        self._place = (first + size, size)
        return part

    def close(self) -> None:
        """Ends the pass."""
        if self._parts is not None:
            getattr(self._parts, "close", lambda: None)()
            self._parts = None


def serve(handle: Any, first: Any, size: Any) -> tuple[np.ndarray, ...]:
    """Rows for a compiled program: of a stream by its number, `size` rows from the one with the number `first` on."""
    reader = _STREAMS[int(handle)]._reader
    assert reader is not None
    return reader.read(int(first), int(size))


def _surveyed(source: Source) -> Survey:
    """One pass over all batches, which validates them."""
    reservoir = Reservoir(CALIBRATION_ROWS, np.random.default_rng(0))
    dtype, num_rows, total, pivot, seen = np.dtype(np.float32), 0, 0.0, None, 0
    low = high = sums = squares = np.zeros(0)
    for index, (rows, counts) in enumerate(source(None)):
        first = seen
        try:
            x = arrays.as_array(rows, "x")
            length = x.shape[0] if x.ndim else 1
            seen += length
            if not length or (counts is not None and np.shape(counts) == (length,) and not np.any(counts)):
                continue
            data = validation.as_data(x, counts)
            if pivot is not None and data.x.shape[1] != len(pivot):
                raise ValueError(f"`x` has {data.x.shape[1]} columns, but batches before it have {len(pivot)}.")
        except ValueError as error:
            raise ValueError(f"Batch {index} (rows {first} to {seen - 1}): {error}") from error
        x, weights = np.asarray(data.x), np.asarray(data.weights)
        x, weights = (x, weights) if weights.all() else (x[weights > 0], weights[weights > 0])
        least, most = frame.feature_extremes(x, weights)
        if pivot is None:
            pivot, low, high = x[0].astype(np.float64), least, most
            sums, squares = np.zeros(len(pivot)), np.zeros(len(pivot))
        low, high, dtype = np.minimum(low, least), np.maximum(high, most), np.promote_types(dtype, x.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            moved = x - pivot
            sums += weights.astype(np.float64) @ moved
            squares += weights.astype(np.float64) @ np.square(moved)
        num_rows, total = num_rows + len(x), total + float(weights.sum(dtype=np.float64))
        reservoir.add(x, weights)
    if pivot is None:
        raise ValueError("The stream has no rows of positive weight.")
    if num_rows > MOST_ROWS:
        raise ValueError(f"A stream has at most {MOST_ROWS} rows, got {num_rows}. Give a part of them.")
    with np.errstate(over="ignore", invalid="ignore"):
        cost = float((squares - np.square(sums) / total).sum())
    x, weights = reservoir.sample()
    if num_rows > len(x):
        # The range of all rows, which a sample may lack.
        x = np.concatenate([x, np.stack([low, high])])
        weights = np.append(weights, np.full(2, np.finfo(dtype).tiny * 2**10))
    calibration = Data(*map(memory.copied, (x.astype(dtype), weights.astype(dtype), np.zeros(len(pivot), dtype))))
    return Survey(num_rows, dtype, total, low, high, pivot + sums / total, cost, calibration)
