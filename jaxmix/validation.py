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

from jaxmix import arrays, devices, frame, linalg, memory
from jaxmix.arrays import as_array, as_floating, as_jax, is_concrete
from jaxmix.data import Data
from jaxmix.typing import ArrayLike

SWEPT = "To sweep K under `jit` or `vmap`, give the largest K as `k`, and each K as `num_active`, which may be traced."
"""What to do about a traced `k` where there is `num_active`."""


MOST_LOSS = 2**20
"""The loss of a row, at most, for which a sum over all weights must be within range."""


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


def as_rows(
    x: ArrayLike | Data,
    weights: ArrayLike | None = None,
    *,
    width: int,
    has_weights: bool = True,
    in_place: bool = False,
) -> Data:
    """`as_data` of rows for parameters that are known.

    Args:
      x: as in `as_data`.
      weights: as in `as_data`.
      width: the number of features D of the parameters.
      has_weights: whether the caller takes weights, and so can leave out a row by its weight.
      in_place: whether rows that NumPy holds as floats are not copied, for `memory.map_parts`. Their origin is zero.

    Returns:
      `Data`, of which `x` may be the caller's NumPy array, if `in_place`.

    Raises:
      ValueError: as `as_data` does, and for rows of another width.
    """
    if in_place and not isinstance(x, Data):
        data = _in_place(x, weights, width, has_weights=has_weights)
        if data is not None:
            return data
    return as_data_and_unit(x, weights, width=width, has_weights=has_weights)[0]


def as_data_and_unit(
    x: ArrayLike | Data, weights: ArrayLike | None = None, *, width: int | None = None, has_weights: bool = True
) -> tuple[Data, Array | None]:
    """`as_data` or `as_rows`, and `frame.scale_of` the rows: both in one pass over concrete rows."""
    if isinstance(x, Data):
        if weights is not None:
            raise ValueError("`x` is a `Data`, which has weights already: give `as_data(x.x, weights)` instead.")
        data = memory.without_numpy(x)
        check_width(data.x.shape[1], width)
        return data, frame.scale_of(data.x)
    # Under jit even operations on concrete arrays are staged, unless evaluated here.
    if is_concrete(x, weights):
        with jax.ensure_compile_time_eval():
            data = _shaped_data(x, weights, width)
            rows, counts = map(memory.on_host, (data.x, data.weights))
            low, high = frame.extremes(rows)
            _check_values(rows, counts, low, high, has_weights=has_weights)
            if max(-low, high) >= 2 ** jnp.finfo(rows.dtype).nmant:
                arrays.check_exact(x, data.x, "x", counts > 0)
            origin = as_jax(frame.exact_origin(rows, counts))
            scale = frame.scale_within(low, high, data.x.dtype, float(counts.sum()))
            return data._replace(origin=origin), scale
    data = _set_to_nan(_shaped_data(x, weights, width))
    return data._replace(origin=frame.exact_origin(data.x, data.weights)), frame.scale_of(data.x)


def _in_place(x: ArrayLike, weights: ArrayLike | None, width: int, *, has_weights: bool) -> Data | None:
    """Rows that NumPy holds as finite floats, all with weights above 0; None for any others."""
    x = as_array(x, "x")
    is_floating = x.dtype in (np.float32, np.float64) and x.dtype == jax.dtypes.canonicalize_dtype(x.dtype)
    if not isinstance(x, np.ndarray) or x.ndim != 2 or not x.size or not is_floating:
        return None
    check_width(x.shape[1], width)
    # A product reads the rows once. It overflows where rows are finite but large: those take the longer way.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        flat = x.ravel(order="K")
        if not math.isfinite(np.dot(flat, flat)):
            return None
    given = np.ones(x.shape[0], x.dtype) if weights is None else as_floating(weights, "weights").astype(x.dtype)
    if weights is not None:
        if not is_concrete(given) or given.shape != x.shape[:1] or not (memory.on_host(given) > 0).all():
            return None
        _check_values(x, memory.on_host(given), 0.0, 0.0, has_weights=has_weights)
    rows: Any = x
    return Data(rows, as_jax(given), memory.copied(np.zeros(x.shape[1], x.dtype)))


def check_width(num_features: int, width: int | None) -> None:
    """Rejects rows of another number of features than that of the parameters, where it is known.

    Raises:
      ValueError: with both numbers.
    """
    if width is not None and num_features != width:
        raise ValueError(
            f"`x` has {num_features} columns, but the model has {width} features. Give the features that it was fitted "
            "to, in the same order."
        )


def _shaped_data(x: ArrayLike, weights: ArrayLike | None, width: int | None) -> Data:
    # Whether integers are exact is seen from the least and the largest value, which are found later.
    x = as_floating(x, "x", exactly=False)
    if x.ndim != 2:
        hint = ""
        if x.ndim == 1 and width in (None, 1):
            hint = " Use x[:, None] for one feature, or x[None] for one row."
        elif x.ndim == 1:
            hint = f" Use x[None] for one row, which must have the {width} features of the model."
        raise ValueError(f"`x` must have shape (N, D), got {x.shape}.{hint}")
    if 0 in x.shape:
        raise ValueError(f"`x` must have at least one row and one column, got shape {x.shape}.")
    check_width(x.shape[1], width)
    origin = memory.copied(np.zeros(x.shape[1], x.dtype))
    rows: Any = devices.beside(x, x)
    if weights is None:
        return Data(rows, devices.beside(memory.copied(np.ones(x.shape[0], x.dtype)), rows), origin)
    weights = as_floating(weights, "weights").astype(x.dtype)
    if weights.shape != x.shape[:1]:
        raise ValueError(f"`weights` must have shape ({x.shape[0]},), one for each row of `x`, got {weights.shape}.")
    counts: Any = devices.beside(weights, rows)
    if is_concrete(counts) and memory.on_host(counts).all():
        return Data(rows, counts, origin)
    if not is_concrete(rows, counts):
        return Data(linalg.fill_absent(rows, counts), counts, origin)
    filled = linalg.fill_absent(memory.on_host(rows), memory.on_host(counts))
    return Data(memory.copied(filled) if isinstance(filled, np.ndarray) else filled, counts, origin)


def _check_values(x: Any, weights: Any, low: Any, high: Any, *, has_weights: bool) -> None:
    # NaN is an extreme, and no array of the size of x is made.
    with np.errstate(invalid="ignore"):
        finite = math.isfinite(low) and math.isfinite(high)
        least, most = map(float, frame.extremes(weights))
    if not finite:
        bad = np.flatnonzero(~np.isfinite(np.asarray(x)).all(axis=1) & (np.asarray(weights) != 0))
        first = ", ".join(map(str, bad[:5])) + (f", and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise ValueError(
            f"`x` must be finite, but these rows hold NaN or infinity: {first}. "
            f"Drop them, or {'give them weight 0' if has_weights else 'impute their values'}."
        )
    if not (least >= 0 and math.isfinite(most)):
        bad = np.flatnonzero(~((np.asarray(weights) >= 0) & np.isfinite(np.asarray(weights))))
        raise ValueError(
            f"`weights` must be finite and non-negative, but {len(bad)} are not (the first is "
            f"{float(weights[bad[0]]):g}, of row {bad[0]})."
        )
    if most == 0:
        raise ValueError("`weights` must not be all zero: there would be no rows.")
    limit = float(jnp.finfo(weights.dtype).max) / MOST_LOSS
    if float((weights / most).sum()) * most > limit:
        raise ValueError(
            f"`weights` must have a sum of at most {limit:.2g} in {weights.dtype}, because losses are sums over them, "
            f"but the largest is {most:g}. Divide them by their mean."
        )


def _set_to_nan(data: Data) -> Data:
    valid = (data.weights >= 0).all() & (data.weights > 0).any()
    return data._replace(weights=jnp.where(valid, data.weights, jnp.nan))


def check_count(k: int, data: Data | int, name: str = "k", *, hint: str = "") -> None:
    """Rejects a number of components that the data cannot hold.

    Raises:
      ValueError: if `k` is not an integer, is below 1, or exceeds the number of rows with positive weight. `hint` is
        what to do where it is traced.
    """
    check_int(k, name, least=1, hint=hint)
    num_rows = data.x.shape[0] if isinstance(data, Data) else data
    if isinstance(data, Data) and is_concrete(data.weights):
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
    return as_jax(count)


def check_int(value: Any, name: str, *, least: int, hint: str = "") -> int:
    """A Python integer of at least `least`: it sets shapes.

    Raises:
      ValueError: naming the argument. `hint` is what to do where it is traced.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        if isinstance(value, Tracer):
            hint = hint or f"Under `jit`, make it static: static_argnames={name!r}."
        elif isinstance(value, (Array, np.ndarray)) and value.shape == () and jnp.issubdtype(value.dtype, jnp.integer):
            hint = f"Write int({name})."
        else:
            hint = ""
        raise ValueError(
            f"`{name}` must be a Python integer of at least {least} (it sets a shape), got {arrays.described(value)}."
            + (f" {hint}" if hint else "")
        )
    return int(value)


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


def as_centers(
    centers: ArrayLike,
    x: ArrayLike | Data,
    weights: ArrayLike | None = None,
    *,
    has_weights: bool = True,
    in_place: bool = False,
) -> tuple[Array, Data]:
    """Centers and rows of one width, in the dtype of the rows.

    Args:
      centers: array of shape (K, D), real.
      x: as in `as_rows`.
      weights: as in `as_rows`.
      has_weights: as in `as_rows`.
      in_place: as in `as_rows`.

    Raises:
      ValueError: as `as_rows` does; for centers of another shape, a dtype that is not numeric, or concrete centers that
        hold NaN.
    """
    places = as_floating(centers, "centers")
    check_rank(places, "centers")
    data = as_rows(x, weights, width=places.shape[1], has_weights=has_weights, in_place=in_place)
    if is_concrete(places) and np.isnan(memory.on_host(places)).any():
        raise ValueError("`centers` must not hold NaN. If they are those of a fit, see its status.")
    return places.astype(data.x.dtype), data


def check_rank(array: Array, name: str) -> None:
    """Rejects centers, or means, that do not have shape (K, D).

    Raises:
      ValueError: naming the argument.
    """
    if array.ndim != 2 or 0 in array.shape:
        hint = " Of several fits choose one, as `solve.best` does." if array.ndim == 3 else ""
        raise ValueError(f"`{name}` must have shape (K, D), got {array.shape}.{hint}")


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
    labels = as_jax(labels)
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
