"""Input validation: every public function validates its arguments here, once.

Invalid concrete values raise a `ValueError`. Traced values (under `jit`, `vmap`, `grad`) are not known: weights that
would have been rejected become NaN, and the fit ends with `Status.NONFINITE`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxmix import frame, linalg, memory
from jaxmix.data import Data
from jaxmix.typing import ArrayLike


def is_concrete(*values: Any) -> bool:
    """Whether no leaf of the values is a tracer, so that the values are known."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def as_array(value: ArrayLike, name: str) -> Array | np.ndarray:
    """A JAX array as it is, and what `numpy.asarray` makes of anything else: lists, frames, tensors.

    Raises:
      ValueError: for ragged input and masked entries.
    """
    if isinstance(value, Array):
        return value
    if np.ma.is_masked(value):
        raise ValueError(f"`{name}` has masked entries, whose values mean nothing. Drop those rows, or fill them.")
    try:
        return np.asarray(value) if is_concrete(value) else jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` could not be read as a numeric array: {error}") from error


def as_floating(value: ArrayLike, name: str) -> Array:
    """A floating-point array: integers and booleans become the default float, half precision float32.

    NumPy arrays are copied: the caller may change them while a fit runs.

    Args:
      value: anything that `numpy.asarray` reads as numbers, or a JAX array.
      name: what to call it in an error.

    Raises:
      ValueError: for complex, string, object, masked or ragged input.
    """
    value = as_array(value, name)
    dtype = value.dtype
    floating = jnp.issubdtype(dtype, jnp.floating)
    integral = dtype == jnp.bool_ or (jnp.issubdtype(dtype, jnp.integer) and not np.issubdtype(dtype, np.timedelta64))
    if not (floating or integral):
        raise ValueError(f"`{name}` must hold real numbers, got dtype {dtype}. Convert it to float first.")
    if integral:
        dtype = jnp.result_type(float)
    elif dtype.itemsize < 4:
        # Sums over rows in half precision lose everything past a few thousand rows.
        dtype = jnp.dtype(jnp.float32)
    elif dtype.itemsize > 8:
        value, dtype = np.asarray(value, np.float64), np.dtype(np.float64)  # NumPy's extended precision, unknown to JAX
    return _as_jax(value, dtype)


def _as_jax(value: Array | np.ndarray, dtype: Any = None) -> Array:
    """A JAX array that shares no memory with a NumPy array."""
    if isinstance(value, Array):
        return value.astype(jax.dtypes.canonicalize_dtype(dtype or value.dtype))
    return memory.copied(value, dtype)


def as_data(x: ArrayLike | Data, weights: ArrayLike | None = None) -> Data:
    """Validates rows and weights, and returns them as `Data`.

    Invalid concrete input is rejected. Traced input (under `jit`, `vmap`, `grad`) is not known: there invalid weights
    become NaN and the fit ends with `Status.NONFINITE`, as it does for NaN rows.

    Args:
      x: array of shape (N, D), real. float32 and float64 are kept; integers, booleans and half precision
        become float. `Data` is returned as it is.
      weights: array of shape (N,), non-negative, not all zero; None for ones. Rows of weight zero may
        hold arbitrary values.

    Returns:
      `Data` in the dtype of `x`.

    Raises:
      ValueError: naming the argument, for a wrong rank, no rows or columns, NaN or infinity, a dtype that is
        not numeric, weights of the wrong length, negative or all zero.

    Example:
      >>> from jaxmix import as_data
      >>> as_data([[1, 2], [3, 4]]).x.shape
      (2, 2)
    """
    return as_data_and_unit(x, weights)[0]


def as_data_and_unit(x: ArrayLike | Data, weights: ArrayLike | None = None) -> tuple[Data, Array | None]:
    """`as_data`, and `frame.scale_of` its rows: both in one pass over concrete rows."""
    if isinstance(x, Data):
        if weights is not None:
            raise ValueError("`x` is a `Data`, which has weights already: give `as_data(x.x, weights)` instead.")
        data = memory.without_numpy(x)
        return data, frame.scale_of(data.x)
    # Under jit even operations on concrete arrays are staged, unless evaluated here.
    if is_concrete(x, weights):
        with jax.ensure_compile_time_eval():
            data = _shaped_data(x, weights)
            rows, counts = map(memory.on_host, (data.x, data.weights))
            with np.errstate(invalid="ignore"):
                low, high = rows.min(), rows.max()
            _check_values(rows, counts, low, high)
            origin = _as_jax(frame.exact_origin(rows, counts))
            return data._replace(origin=origin), frame.scale_within(low, high, data.x.dtype)
    data = _set_to_nan(_shaped_data(x, weights))
    return data._replace(origin=frame.exact_origin(data.x, data.weights)), frame.scale_of(data.x)


def _shaped_data(x: ArrayLike, weights: ArrayLike | None) -> Data:
    x = as_floating(x, "x")
    if x.ndim != 2:
        hint = " Use x[:, None] for one feature." if x.ndim == 1 else ""
        raise ValueError(f"`x` must have shape (N, D), got {x.shape}.{hint}")
    if 0 in x.shape:
        raise ValueError(f"`x` must have at least one row and one column, got shape {x.shape}.")
    origin = memory.copied(np.zeros(x.shape[1], x.dtype))
    if weights is None:
        return Data(x, memory.copied(np.ones(x.shape[0], x.dtype)), origin)
    weights = as_floating(weights, "weights").astype(x.dtype)
    if weights.shape != x.shape[:1]:
        raise ValueError(f"`weights` must have shape ({x.shape[0]},), one for each row of `x`, got {weights.shape}.")
    if is_concrete(weights) and memory.on_host(weights).all():
        return Data(x, weights, origin)
    if is_concrete(x, weights):
        return Data(memory.copied(linalg.fill_absent(memory.on_host(x), memory.on_host(weights))), weights, origin)
    return Data(linalg.fill_absent(x, weights), weights, origin)


def _check_values(x: Any, weights: Any, low: Any, high: Any) -> None:
    # NaN is an extreme, and no array of the size of x is made.
    with np.errstate(invalid="ignore"):
        finite = math.isfinite(low) and math.isfinite(high)
        least, most = float(weights.min()), float(weights.max())
    if not finite:
        bad = np.flatnonzero(~np.isfinite(np.asarray(x)).all(axis=1) & (np.asarray(weights) != 0))
        raise ValueError(
            f"`x` must be finite, but {len(bad)} rows hold NaN or infinity (the first is row {bad[0]}). "
            "Drop them, or give them weight 0."
        )
    if not (least >= 0 and math.isfinite(most)):
        bad = np.flatnonzero(~((np.asarray(weights) >= 0) & np.isfinite(np.asarray(weights))))
        raise ValueError(
            f"`weights` must be finite and non-negative, but {len(bad)} are not (the first is "
            f"{float(weights[bad[0]]):g}, of row {bad[0]})."
        )
    if most == 0:
        raise ValueError("`weights` must not be all zero: there would be no rows.")
    if float((weights / most).sum()) * most > float(jnp.finfo(weights.dtype).max):
        raise ValueError(f"`weights` must have a finite sum in {weights.dtype}, but the largest is {most:g}.")


def _set_to_nan(data: Data) -> Data:
    valid = (data.weights >= 0).all() & (data.weights > 0).any()
    return data._replace(weights=jnp.where(valid, data.weights, jnp.nan))


def check_count(k: int, data: Data, name: str = "k") -> None:
    """Rejects a number of components that the data cannot hold.

    Raises:
      ValueError: if `k` is not an integer, is below 1, or exceeds the number of rows with positive weight.
    """
    check_int(k, name, least=1)
    num_rows = data.x.shape[0]
    if is_concrete(data.weights):
        with jax.ensure_compile_time_eval():
            num_rows = int((memory.on_host(data.weights) > 0).sum())
    if k > num_rows:
        raise ValueError(f"`{name}` must be at most the number of rows with positive weight, {num_rows}, got {k}.")


def as_count(value: ArrayLike, name: str, *, most: int) -> Array:
    """An integer from 1 to `most`, which may be traced.

    Raises:
      ValueError: for more than one number, another dtype, or a concrete number out of range.
    """
    count = as_array(value, name)
    if count.shape != () or not jnp.issubdtype(count.dtype, jnp.integer):
        raise ValueError(f"`{name}` must be one integer, got {count.dtype} of shape {count.shape}.")
    if is_concrete(count) and not 1 <= int(count) <= most:
        raise ValueError(f"`{name}` must be between 1 and {most}, got {int(count)}.")
    return _as_jax(count)


def check_int(value: Any, name: str, *, least: int) -> int:
    """A Python integer of at least `least`: it sets shapes.

    Raises:
      ValueError: naming the argument.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"`{name}` must be a Python integer of at least {least} (it sets a shape), got {value!r}.")
    return int(value)


def check_nonnegative(value: ArrayLike, name: str) -> Array:
    """One number as a floating array; rejects a concrete one that is negative, infinite or NaN.

    Raises:
      ValueError: naming the argument.
    """
    check_least(value, name, 0)
    # One dtype, whether 0 or 0.0 was written: each other one would compile anew.
    dtype = jnp.result_type(float)
    if isinstance(value, (int, float)):
        return memory.constant(float(value), (), dtype)
    return _as_jax(as_array(value, name), dtype)


def check_least(value: ArrayLike, name: str, least: float, *, strictly: bool = False) -> None:
    """Rejects all but one real number, and a concrete one that is not finite, or below `least` (at it: `strictly`).

    Raises:
      ValueError: naming the argument.
    """
    number = as_array(value, name)
    numeric = jnp.issubdtype(number.dtype, jnp.number) or number.dtype == jnp.bool_
    if number.shape != () or not numeric or jnp.iscomplexobj(number):
        raise ValueError(
            f"`{name}` must be one real number, got {number.dtype} of shape {number.shape}. To sweep it, use jax.vmap."
        )
    if is_concrete(number):
        size = float(np.asarray(number))
        if not math.isfinite(size) or size < least or (strictly and size == least):
            raise ValueError(
                f"`{name}` must be finite and {'above' if strictly else 'at least'} {least:g}, got {value}."
            )


def check_key(key: Array) -> None:
    """Rejects all but one typed PRNG key.

    Raises:
      ValueError: saying how to make one.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key) or key.shape != ():
        raise ValueError(
            f"`key` must be one typed PRNG key, such as jax.random.key(0), got {type(key).__name__} of dtype "
            f"{dtype} and shape {getattr(key, 'shape', None)}. For an old-style key: jax.random.wrap_key_data(key)."
        )


def as_centers(centers: ArrayLike, data: Data, name: str = "centers") -> Array:
    """Centers in the dtype of the data.

    Args:
      centers: array of shape (K, D), real.
      data: the rows, of shape (N, D).
      name: what to call them in an error.

    Raises:
      ValueError: for another shape, a dtype that is not numeric, or concrete centers that hold NaN.
    """
    centers = as_floating(centers, name)
    num_features = data.x.shape[1]
    if centers.ndim != 2 or centers.shape[1] != num_features or centers.shape[0] == 0:
        raise ValueError(f"`{name}` must have shape (K, {num_features}) to match `x`, got {centers.shape}.")
    if is_concrete(centers) and np.isnan(memory.on_host(centers)).any():
        raise ValueError(f"`{name}` must not hold NaN. If they are those of a fit, see its status.")
    return centers.astype(data.x.dtype)


def as_codes(labels: ArrayLike, k: int) -> tuple[Array, Array]:
    """Labels of any shape as int32, moved into [0, K), and for each whether it lay there.

    Raises:
      ValueError: for a dtype that is not integer, or a concrete label out of range.
    """
    labels = as_array(labels, "labels")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"`labels` must be integers, got {labels.dtype} of shape {labels.shape}.")
    if is_concrete(labels) and labels.size:
        with jax.ensure_compile_time_eval():
            low, high = int(memory.on_host(labels).min()), int(memory.on_host(labels).max())
        if low < 0 or high >= k:
            raise ValueError(f"`labels` must lie in [0, {k}), got values from {low} to {high}.")
    labels = _as_jax(labels)
    valid = labels >= 0
    if k <= jnp.iinfo(labels.dtype).max:  # or no label of this dtype is as large
        valid &= labels < k
    return jnp.clip(labels.astype(jnp.int32), 0, k - 1), valid


def as_labels(labels: ArrayLike, data: Data, k: int) -> tuple[Array, Data]:
    """Labels as int32 of shape (N,), and the data; weights become NaN if a traced label is out of range.

    Rows of weight zero may have any label.

    Raises:
      ValueError: for another shape, a dtype that is not integer, or a concrete label out of range.
    """
    labels = as_array(labels, "labels")
    if labels.shape != data.x.shape[:1]:
        raise ValueError(f"`labels` must have shape ({data.x.shape[0]},), one for each row, got {labels.shape}.")
    if not is_concrete(labels, data.weights):
        codes, valid = as_codes(linalg.fill_absent(jnp.asarray(labels), data.weights), k)
        return codes, data._replace(weights=jnp.where(jnp.all(valid), data.weights, jnp.nan))
    # Under jit even operations on concrete arrays are staged, unless evaluated here.
    with jax.ensure_compile_time_eval():
        weights = np.asarray(data.weights)
        return as_codes(labels if weights.all() else linalg.fill_absent(np.asarray(labels), weights), k)[0], data
