"""The frame of a fit: the mean of the rows, to take sums about, and the unit that their squares are taken in.

Squares of float32 numbers underflow below 1e-19 and overflow above 1e19. Multiplying rows and centers by one power of
two changes no digit of them, and brings their squares within range.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxmix import devices, linalg, memory
from jaxmix.data import Data

MEAN_BLOCK = 200_000
"""Numbers in a block of rows whose mean is taken at once."""

FEW_ROWS = 256
"""Rows that are read first, to see whether the others need be."""

FOLD = 64
"""Rows side by side whose extremes are taken at once: NumPy is slow along the first axis of a narrow array."""


def mean(x: Any, weights: Any) -> Any:
    """The weighted mean of the rows.

    Args:
      x: Array of shape (N, D), or a NumPy array, of which NumPy takes the mean: this compiles nothing.
      weights: of shape (N,), of the same kind.

    Returns:
      Array of shape (D,), of the same kind.

    Example:
      >>> mean(jnp.array([[0.0], [4.0]]), jnp.array([1.0, 3.0])).tolist()
      [3.0]
    """
    if not isinstance(x, np.ndarray):
        return (_mean_over_devices if devices.rows_of(x) else _mean_on_device)(x, weights)
    pivot = x[np.argmax(weights > 0)]
    share = weights / weights.sum()
    size = max(1, MEAN_BLOCK // x.shape[1])
    total = sum(share[i : i + size] @ (x[i : i + size] - pivot) for i in range(0, len(x), size))
    return pivot + total


@jax.jit
def _mean_on_device(x: Array, weights: Array) -> Array:
    # About a first row that is there: a plain mean in float32 loses digits far from zero.
    pivot = x[jnp.argmax(weights > 0)]
    share = weights / jnp.sum(weights)
    num_rows, num_features = x.shape
    size = min(num_rows, max(1, MEAN_BLOCK // num_features))

    # In blocks, as products: a sum over the leading axis of many rows runs at a tenth of the speed on CPU.
    def add(index: Array, total: Array) -> Array:
        first = index * size
        start = jnp.minimum(first, num_rows - size)
        fresh = start + jnp.arange(size, dtype=start.dtype) >= first
        part = jnp.where(fresh, jax.lax.dynamic_slice_in_dim(share, start, size), 0)
        return total + linalg.dot(part, jax.lax.dynamic_slice_in_dim(x, start, size) - pivot[None])

    total = jax.lax.fori_loop(0, -(-num_rows // size), add, jnp.zeros_like(pivot))
    return pivot + total


@jax.jit
def _mean_over_devices(x: Array, weights: Array) -> Array:
    # As one product: a block at a time, or one row, would bring all rows to every device.
    pivot = 0.5 * jnp.min(x, axis=0) + 0.5 * jnp.max(x, axis=0)
    return pivot + linalg.dot(weights / jnp.sum(weights), x - pivot[None])


def extremes(x: Any) -> tuple[Any, Any]:
    """The least and the largest entry of an array that is not traced; NaN where any is NaN.

    Args:
      x: Array of any shape, or a NumPy array.

    Returns:
      Two of shape ().

    Example:
      >>> extremes(np.array([2.0, 1.0]))
      (np.float64(1.0), np.float64(2.0))
    """
    with np.errstate(invalid="ignore"):
        low, high = x.min(), x.max()
    if devices.rows_of(x) is None:
        return low, high
    # The least of what several devices have may not be NaN where one has NaN.
    unknown = jnp.isnan(x).any()
    return jnp.where(unknown, jnp.nan, low), jnp.where(unknown, jnp.nan, high)


def feature_extremes(x: Any, counts: Any) -> tuple[Any, Any]:
    """The least and the largest value of each feature, of the rows that are there.

    Args:
      x: Array of shape (N, D), not traced, or a NumPy array.
      counts: of shape (N,), the weights: 0 is a row that is not there.

    Returns:
      Two of shape (D,).

    Example:
      >>> low, high = feature_extremes(np.array([[2.0], [1.0], [3.0]]), np.array([1.0, 1.0, 0.0]))
      >>> low.tolist(), high.tolist()
      ([1.0], [2.0])
    """
    if not isinstance(x, np.ndarray):
        # Rows that lie on several devices stay there.
        there = (counts > 0)[:, None]
        return jnp.min(x, axis=0, where=there, initial=jnp.inf), jnp.max(x, axis=0, where=there, initial=-jnp.inf)
    counts = memory.on_host(counts)
    x = x if counts.all() else x[counts > 0]
    if len(x) < FOLD:
        return x.min(axis=0), x.max(axis=0)
    folded = x[: len(x) // FOLD * FOLD].reshape(-1, FOLD * x.shape[1])
    ends = folded.min(axis=0), folded.max(axis=0)
    rows = np.concatenate([*(end.reshape(FOLD, -1) for end in ends), x[len(x) // FOLD * FOLD :]])
    return rows.min(axis=0), rows.max(axis=0)


def scale_of(x: Array) -> Array | None:
    """The power of two by which to multiply numbers before they are squared.

    Args:
      x: Array of any shape; infinite and NaN entries are ignored.

    Returns:
      None for 1: the squares of the largest number, and of its last digit, are within range. Otherwise of shape (), in
      the dtype of `x`; a traced `x` always has such a scale, which may be 1.

    Example:
      >>> scale_of(jnp.array([1.0, 2.0], jnp.float32)) is None
      True
      >>> float(scale_of(jnp.array([2.0**-4, 2.0**-70], jnp.float32)[1:])) == 2.0**69
      True
    """
    if isinstance(x, Tracer):
        magnitudes = jax.lax.stop_gradient(jnp.where(jnp.isfinite(x), jnp.abs(x), 0))
        return _power_of_two(_shift(jnp.frexp(jnp.max(magnitudes, initial=0))[1], x.dtype, jnp), x.dtype)
    with jax.ensure_compile_time_eval():
        values = memory.on_host(x)
        low, high = values.min(), values.max()
        if not np.isfinite(low) or not np.isfinite(high):
            finite = np.asarray(x)[np.isfinite(x)]
            low, high = finite.min(initial=0), finite.max(initial=0)
    return scale_within(low, high, x.dtype)


def distance_scale(data: Data) -> Array | None:
    """What rows are multiplied by before distances are taken: what the data say, or `scale_of` the rows."""
    return scale_of(data.x) if data.scale is None else data.scale


def scale_within(low: Any, high: Any, dtype: Any, total: float = 1.0) -> Array | None:
    """`scale_of` numbers of which the least and the largest are known, and finite, and the sum of their weights."""
    shift = _shift(np.frexp(max(abs(float(low)), abs(float(high))))[1], dtype, np, int(np.frexp(total)[1]))
    return memory.copied(np.ldexp(np.ones((), dtype), shift)) if shift else None


class Frame(NamedTuple):
    """Where the rows of a fit are moved: to another origin, in another unit.

    Attributes:
      origin: Array of shape (D,), what is subtracted.
      scale: Array of shape (), or (D,) for each feature its own, the powers of two by which differences are
        multiplied; None for 1.

    Example:
      >>> frame = Frame(jnp.array([8.0]), jnp.array(2.0))
      >>> frame.apply(jnp.array([[9.0]])).tolist(), frame.inverse.apply(jnp.array([[2.0]])).tolist()
      ([[2.0]], [[9.0]])
    """

    origin: Array
    scale: Array | None = None

    def apply(self, points: Array) -> Array:
        """Points of shape (..., D), moved.

        Raises:
          ValueError: for points of another width.
        """
        if points.shape[-1:] != self.origin.shape:
            width = self.origin.shape[0]
            raise ValueError(f"Rows and parameters need one width D, got {points.shape} for rows of {width} features.")
        moved = points - self.origin.reshape((1,) * (points.ndim - 1) + (-1,))
        return times(moved, self.scale)

    @property
    def inverse(self) -> "Frame":
        """The frame that moves them back."""
        if self.scale is None:
            return Frame(-self.origin)
        return Frame(-self.origin * self.scale, 1 / self.scale)


def times(points: Array, scale: Array | None) -> Array:
    """Points of shape (..., D) times a scale of shape () or (D,); as they are for None.

    Example:
      >>> times(jnp.ones((1, 2)), jnp.array([2.0, 3.0])).tolist()
      [[2.0, 3.0]]
    """
    if scale is None:
        return points
    return points * (scale.reshape((1,) * (points.ndim - 1) + (-1,)) if scale.ndim else scale)


def unit_of(sizes: Array) -> Array:
    """The powers of two that bring positive numbers between a half and 1, where their range allows it.

    Args:
      sizes: Array of any shape, positive.

    Returns:
      Array of the same shape.

    Example:
      >>> unit_of(jnp.array([0.75, 1.0, 12.0])).tolist()
      [1.0, 0.5, 0.0625]
    """
    info = jnp.finfo(sizes.dtype)
    if isinstance(sizes, Tracer):
        return _power_of_two(jnp.clip(-jnp.frexp(sizes)[1], info.minexp, -info.minexp), sizes.dtype)
    with jax.ensure_compile_time_eval():
        shifts = np.clip(-np.frexp(np.asarray(memory.on_host(sizes)))[1], info.minexp, -info.minexp)
        return memory.copied(np.ldexp(np.ones((), sizes.dtype), shifts))


def exact_origin(x: Any, weights: Any, *, spread: bool = False) -> Any:
    """In each feature the mean of the rows where subtracting it from every row is exact; 0 elsewhere.

    It is exact where every row lies between half and twice the mean. Of rows on several devices it is the middle of
    their range: a mean would be rounded otherwise for every number of devices.

    Args:
      x: Array of shape (N, D), or a NumPy array.
      weights: of shape (N,), of the same kind.
      spread: whether traced rows lie on several devices; others show it.

    Returns:
      Array of shape (D,), of the same kind.

    References:
      Sterbenz (1974), theorem 4.3.1.

    Example:
      >>> x = jnp.array([[9.0, 0.0], [11.0, 4.0]])
      >>> exact_origin(x, jnp.ones(2)).tolist()
      [10.0, 0.0]
    """
    on_host = isinstance(x, np.ndarray)
    # A few rows tell of most data that no mean will do.
    if on_host and not _may_be_exact(x[:FEW_ROWS].min(axis=0), x[:FEW_ROWS].max(axis=0)).any():
        return np.zeros(x.shape[1], x.dtype)
    low, high = x.min(axis=0), x.max(axis=0)
    if on_host and not _may_be_exact(low, high).any():
        return np.zeros(x.shape[1], x.dtype)
    center = low / 2 + high / 2 if spread or devices.rows_of(x) is not None else mean(x, weights)
    return origin_within(low, high, center)


def origin_within(low: Any, high: Any, center: Any) -> Any:
    """`exact_origin` of rows whose least and largest values and mean are known.

    Args:
      low: Array of shape (D,), or a NumPy array.
      high: of shape (D,).
      center: of shape (D,), the mean; it may have more digits.

    Returns:
      Array of shape (D,).

    Example:
      >>> origin_within(np.array([9.0, 0.0]), np.array([11.0, 4.0]), np.array([10.0, 2.0])).tolist()
      [10.0, 0.0]
    """
    is_exact = (low >= center / 2) & (high / 2 <= center) & (low > 0)
    is_exact |= (high <= center / 2) & (low / 2 >= center) & (high < 0)
    return (np if isinstance(low, np.ndarray) else jnp).where(is_exact, center, 0).astype(low.dtype)


def _may_be_exact(low: Any, high: Any) -> Any:
    """Whether a feature is of one sign, and no row more than four times another."""
    return ((low > 0) & (high / 4 <= low)) | ((high < 0) & (low / 4 >= high))


def scaled(tree: Any, scale: Array | None) -> Any:
    """Every array of a pytree times a scale; as it is for None.

    Example:
      >>> scaled([jnp.array(1.0)], jnp.array(4.0))[0].item()
      4.0
    """
    return tree if scale is None else jax.tree.map(lambda leaf: leaf * scale, tree)


def scaled_rows(data: Any, scale: Array | None) -> Any:
    """`Data` whose rows are multiplied by a scale; as it is for None.

    Example:
      >>> from jaxmix import as_data
      >>> scaled_rows(as_data([[1.0]]), jnp.array(4.0)).x.item()
      4.0
    """
    return data if scale is None else data._replace(x=data.x * scale, origin=data.origin * scale)


def unscaled(tree: Any, scale: Array | None, *, power: int = 1) -> Any:
    """Every array of a pytree divided by a power of a scale; as it is for None.

    Squares beyond the range of the dtype become infinite, or 0.

    Example:
      >>> unscaled([jnp.array(32.0)], jnp.array(4.0), power=2)[0].item()
      2.0
    """
    if scale is None:
        return tree
    # One factor after another: their product may be out of range where the result is not. XLA would divide by it.
    inverse = jax.lax.optimization_barrier(1 / scale)
    for _ in range(power):
        tree = jax.tree.map(lambda leaf: leaf * inverse, tree)
    return tree


def _shift(exponent: Any, dtype: Any, xp: Any, weight: int = 0) -> Any:
    """By how many powers of two to scale numbers below 2**exponent, of which the weights are below 2**weight in all."""
    info = jnp.finfo(dtype)
    least = info.minexp // 2 + info.nmant + 4
    # Weighted sums of squares of differences, over many features.
    most = min(info.maxexp // 3, (info.maxexp - weight - 16) // 2)
    # The largest numbers are kept as large as they may be, so that the squares of others do not underflow.
    shift = xp.where(exponent > most, most - exponent, xp.where(exponent < least, -exponent, 0))
    return xp.clip(shift, info.minexp, -info.minexp)


def _power_of_two(exponent: Array, dtype: Any) -> Array:
    # From its bits: `exp2` is not exact on every platform.
    info = jnp.finfo(dtype)
    biased = exponent.astype(f"int{info.bits}") + (info.maxexp - 1)
    return jax.lax.bitcast_convert_type(biased << info.nmant, dtype)
