"""Memory shared with NumPy: arrays are copied when they come in, and read in place where the host holds them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxmix import devices

ALIGNMENT = 64
"""Bytes. JAX takes over a NumPy array that starts at a multiple of this, and copies any other, slowly."""

PART_BYTES = 2**22
"""The bytes of rows that `map_parts` copies at a time."""


def copied(array: np.ndarray, dtype: Any = None) -> Array:
    """A JAX array of the same values that shares no memory with `array`.

    Fits run asynchronously, and a caller may refill an array as soon as a call returns.
    The values are copied before the function returns, into memory that JAX then uses as it is: this takes a seventh
    of the time of `jax.numpy.array`.

    Args:
      array: NumPy array of any shape, order and alignment.
      dtype: that of the result, one that JAX's configuration allows; None for the nearest such to the array's own.

    Returns:
      Array of the shape of `array`. A value beyond the range of `dtype` becomes infinite.

    Example:
      >>> import numpy as np
      >>> buffer = np.zeros(3, np.float32)
      >>> kept = copied(buffer)
      >>> buffer += 1
      >>> kept.tolist()
      [0.0, 0.0, 0.0]
    """
    own = empty(array.shape, jax.dtypes.canonicalize_dtype(array.dtype if dtype is None else dtype))
    with np.errstate(over="ignore"):
        np.copyto(own, array, casting="unsafe")
    return adopted(own)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A NumPy array of undefined values that starts where JAX can take over its memory."""
    dtype = np.dtype(dtype)
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + num_bytes].view(dtype).reshape(shape)


def adopted(own: np.ndarray) -> Array:
    """A JAX array of the memory of an array of `empty`, which nobody else may write to."""
    # Within the user's jit, too, the values are known.
    with jax.ensure_compile_time_eval():
        return jax.device_put(own, may_alias=True)


def map_parts(fn: Callable[[Any, Any], Any], prepared: Any, rows: Any) -> Any:
    """The values of `fn(prepared, rows)` for each row, without a copy of all rows where NumPy holds them.

    NumPy arrays are copied a part at a time, and the function then waits for its result: the caller may refill them as
    soon as it returns. Rows that are JAX arrays, or traced, or of one part, are given to `fn` as a whole;
    those that are spread over devices, each device's own to each.

    Args:
      fn: from `prepared` and `rows`, or some of them, to a pytree of arrays of shape (n, ...), each row of which
        depends on one row alone. It is compiled once for all parts.
      prepared: a pytree of JAX arrays.
      rows: a pytree of arrays of shape (N, ...), of NumPy or JAX.

    Returns:
      A pytree of arrays of shape (N, ...).

    Example:
      >>> import numpy as np
      >>> map_parts(lambda factor, x: factor * x, 2.0, np.arange(3.0)).tolist()
      [0.0, 2.0, 4.0]
    """
    leaves = jax.tree.leaves(rows)
    spread = devices.rows_of(leaves[0])
    if spread is not None and not isinstance(jax.tree.leaves(prepared)[0], Tracer):
        return devices.each_part(fn, spread)(prepared, jax.device_put(rows, spread))
    num_rows = leaves[0].shape[0]
    num_parts = min(num_rows, -(-sum(leaf.nbytes for leaf in leaves) // PART_BYTES))
    is_known = not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((prepared, rows)))
    if num_parts == 1 or not is_known or not any(isinstance(leaf, np.ndarray) for leaf in leaves):
        return fn(prepared, without_numpy(rows))
    here = jax.tree.map(on_host, rows)
    size = -(-num_rows // num_parts)
    found: Any = None

    def keep(first: int, values: Any) -> None:
        jax.tree.map(lambda own, new: np.copyto(own[first : first + size], np.asarray(new)), found, values)

    # Within the user's jit, too, the values are known.
    with jax.ensure_compile_time_eval():
        waiting: tuple[int, Any] | None = None
        for part in range(num_parts):
            # The last part overlaps the one before it, so that all have one shape.
            first = min(part * size, num_rows - size)
            values = fn(prepared, without_numpy(jax.tree.map(lambda leaf, i=first: leaf[i : i + size], here)))
            if waiting is None:
                found = jax.tree.map(lambda new: empty((num_rows, *new.shape[1:]), new.dtype), values)
            else:
                # A part is copied while the one before it is computed.
                keep(*waiting)
            waiting = first, values
        assert waiting is not None
        keep(*waiting)
    return jax.tree.map(adopted, found)


@functools.lru_cache(maxsize=64)
def constant(value: float, shape: tuple[int, ...], dtype: Any) -> Array:
    """A small array of one value, kept from call to call: making one takes as long as a step on a few rows.

    It must not leave the library: a caller could donate it to a program of theirs, and so delete it for all.

    Example:
      >>> import numpy as np
      >>> constant(1.0, (2,), np.dtype(np.float32)).tolist()
      [1.0, 1.0]
    """
    return copied(np.full(shape, value, dtype))


def on_host(array: Array | np.ndarray) -> Any:
    """The array as NumPy reads it, without a copy, where the host holds it; otherwise the array itself.

    Reading values this way compiles nothing.

    Args:
      array: a JAX array that is not traced, or a NumPy array.

    Example:
      >>> import jax.numpy as jnp
      >>> type(on_host(jnp.ones(2))).__name__
      'ndarray'
    """
    if isinstance(array, np.ndarray):
        return array
    is_here = array.is_fully_addressable and [device.platform for device in array.devices()] == ["cpu"]
    return np.asarray(array) if is_here else array


def without_numpy(tree: Any) -> Any:
    """A pytree whose NumPy arrays are copied to JAX arrays; other leaves, and arrays of no numbers, are kept.

    Args:
      tree: a pytree, such as a problem, a solver or their parameters.

    Returns:
      A pytree of the same structure.

    Example:
      >>> import numpy as np
      >>> type(without_numpy({"scale": np.ones(2), "rate": 0.5})["rate"])
      <class 'float'>
    """

    def leaf(value: Any) -> Any:
        # Validation rejects strings, objects and dates in its own words.
        return copied(value) if isinstance(value, np.ndarray) and value.dtype.kind not in "OSUMm" else value

    return jax.tree.map(leaf, tree)
