"""The frame of a fit: the mean of the rows, to take sums about, and the unit that their squares are taken in.

Squares of float32 numbers underflow below 1e-19 and overflow above 1e19. Multiplying rows and centers by one power of
two changes no digit of them, and brings their squares within range.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxmix import linalg, memory

MEAN_BLOCK = 200_000
"""Numbers in a block of rows whose mean is taken at once."""


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
        return _mean_on_device(x, weights)
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
        low, high = float(values.min()), float(values.max())
        if not math.isfinite(low) or not math.isfinite(high):
            finite = np.asarray(x)[np.isfinite(x)]
            low, high = float(finite.min(initial=0)), float(finite.max(initial=0))
    shift = _shift(np.frexp(max(abs(low), abs(high)))[1], x.dtype, np)
    return memory.copied(np.ldexp(np.ones((), x.dtype), shift)) if shift else None


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
    # One factor after another: their product may be out of range where the result is not.
    for _ in range(power):
        tree = jax.tree.map(lambda leaf: leaf / scale, tree)
    return tree


def _shift(exponent: Any, dtype: Any, xp: Any) -> Any:
    """By how many powers of two to scale numbers of which the largest is below 2**exponent."""
    info = jnp.finfo(dtype)
    least, most = info.minexp // 2 + info.nmant + 4, info.maxexp // 3
    # The largest numbers are kept as large as they may be, so that the squares of others do not underflow.
    shift = xp.where(exponent > most, most - exponent, xp.where(exponent < least, -exponent, 0))
    return xp.clip(shift, info.minexp, -info.minexp)


def _power_of_two(exponent: Array, dtype: Any) -> Array:
    # From its bits: `exp2` is not exact on every platform.
    info = jnp.finfo(dtype)
    biased = exponent.astype(f"int{info.bits}") + (info.maxexp - 1)
    return jax.lax.bitcast_convert_type(biased << info.nmant, dtype)
