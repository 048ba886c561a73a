"""Reading of arrays, whatever they come from, and the errors for values that are not arrays of numbers."""

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxmix import memory


def is_concrete(*values: Any) -> bool:
    """Whether no leaf of the values is a tracer, so that the values are known."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def is_merged(node: Any) -> bool:
    """Whether statistics of disjoint rows are merged by a method of the node, rather than added."""
    return hasattr(node, "merge")


def check_on_host(name: str, *values: Any) -> None:
    """Rejects traced values for a function that reads them.

    Args:
      name: of the function.
      values: pytrees.

    Raises:
      ValueError: saying where to call the function.
    """
    if not is_concrete(*values):
        raise ValueError(
            f"`{name}` is for the host: it reads values, which are not known under `jit`, `vmap` and `grad`. Call it "
            "outside of them, on what the transformed function returns."
        )


def reject_fit(value: Any, name: str) -> None:
    """Rejects a `Fit` where its parameters are wanted.

    Raises:
      ValueError: naming the argument.
    """
    if hasattr(value, "num_passes") and hasattr(value, "params"):
        raise ValueError(f"`{name}` is a `Fit`, not its parameters. Give `fit.params`.")


def described(value: Any) -> str:
    """A value in a few words for an error: short values as they are written, others by their type."""
    if isinstance(value, Tracer):
        return "a traced value"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, (str, int, float, np.number, type(None))):
        return repr(value) if len(repr(value)) <= 60 else f"a {type(value).__name__}"
    if isinstance(value, Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return "a PRNG key"
    if isinstance(value, (Array, np.ndarray)):
        return f"an array of dtype {value.dtype} and shape {value.shape}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    return (
        f"a {type(value).__name__}"
        if isinstance(value, (list, tuple, dict))
        else f"an instance of {type(value).__name__}"
    )


def as_array(value: Any, name: str) -> Array | np.ndarray:
    """A JAX array as it is, and what `numpy.asarray` makes of anything else: lists, frames, tensors.

    Raises:
      ValueError: for ragged input, masked entries, sparse matrices and a `Fit`.
    """
    if isinstance(value, Array):
        return value
    if hasattr(value, "todense"):
        dense = "toarray" if hasattr(value, "toarray") else "todense"
        raise ValueError(
            f"`{name}` is a sparse matrix ({type(value).__name__}), but must be a dense array. Write {name}.{dense}(). "
            "Where that is too large, reduce the columns first, such as by TruncatedSVD of scikit-learn."
        )
    reject_fit(value, name)
    if np.ma.is_masked(value):
        raise ValueError(f"`{name}` has masked entries, whose values mean nothing. Drop those rows, or fill them.")
    try:
        return np.asarray(value) if is_concrete(value) else jnp.asarray(value)
    except (TypeError, ValueError) as error:
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            hint = f" Its means are {name}.means." if hasattr(value, "means") else ""
            raise ValueError(f"`{name}` must be an array, got a {type(value).__name__}.{hint}") from error
        raise ValueError(f"`{name}` could not be read as a numeric array: {error}") from error


def as_numbers(value: Any, name: str) -> Array | np.ndarray:
    """`as_array` of real numbers or booleans.

    Raises:
      ValueError: saying what the array holds instead, and what to do about it.
    """
    array = as_array(value, name)
    if jnp.issubdtype(array.dtype, jnp.floating) or _is_integral(array.dtype):
        return array
    raise ValueError(f"`{name}` must hold real numbers, but {_contents(value, array, name)}")


def as_floating(value: Any, name: str, *, exactly: bool = True) -> Array:
    """A floating-point array: integers and booleans become the default float, half precision float32.

    NumPy arrays are copied: the caller may change them while a fit runs.

    Args:
      value: anything that `numpy.asarray` reads as numbers, or a JAX array.
      name: what to call it in an error.
      exactly: whether concrete integers are rejected that would be rounded.

    Raises:
      ValueError: for complex, string, object, masked, sparse or ragged input, and for integers that are rounded.
    """
    array = as_numbers(value, name)
    dtype = array.dtype
    if _is_integral(dtype):
        found = as_jax(array, jnp.result_type(float))
        if exactly:
            check_exact(array, found, name)
        return found
    if dtype.itemsize < 4:
        # Sums over rows in half precision lose everything past a few thousand rows.
        dtype = jnp.dtype(jnp.float32)
    elif dtype.itemsize > 8:
        array, dtype = np.asarray(array, np.float64), np.dtype(np.float64)  # NumPy's extended precision, unknown to JAX
    return as_jax(array, dtype)


def as_jax(value: Array | np.ndarray, dtype: Any = None) -> Array:
    """A JAX array that shares no memory with a NumPy array."""
    if isinstance(value, Array):
        return value.astype(jax.dtypes.canonicalize_dtype(dtype or value.dtype))
    return memory.copied(value, dtype)


def check_exact(value: Any, found: Array, name: str, present: Any = None) -> None:
    """Rejects concrete integers that lost digits when they became floating.

    Args:
      value: what the caller gave; anything but integers is let pass.
      found: the same as a floating-point array.
      name: what to call it in an error.
      present: which rows count; None for all.

    Raises:
      ValueError: naming one of the integers.
    """
    if not is_concrete(value, found) or not found.size:
        return
    with jax.ensure_compile_time_eval():
        array = value if hasattr(value, "dtype") else np.asarray(value)
        read, exact = memory.on_host(found), 2 ** (jnp.finfo(found.dtype).nmant + 1)
        if not _is_integral(array.dtype) or (-exact < read.min() and read.max() < exact):
            return
        array = np.asarray(array)
        # Without its trailing zero bits, an integer must fit into the mantissa.
        sizes = np.abs(array).astype(np.uint64)
        lost = sizes // np.maximum(sizes & (~sizes + np.uint64(1)), np.uint64(1)) >= exact
        if present is not None:
            lost &= np.asarray(present).reshape(-1, *(1,) * (lost.ndim - 1))
    if not lost.any():
        return
    first: Any = tuple(np.argwhere(lost)[0].tolist())
    columns = "" if array.ndim < 2 else " Leave out columns that only identify rows."
    wider = "" if found.dtype == jnp.float64 else ", or use float64 (`jax.enable_x64`)"
    raise ValueError(
        f"`{name}` holds integers that {found.dtype} would round, such as {array[first]}{_place(value, first)}."
        f"{columns} Subtract an offset from such integers{wider}."
    )


def check_nonnegative(value: Any, name: str) -> Array:
    """One number as a floating array; rejects a concrete one that is negative, infinite or NaN.

    Raises:
      ValueError: naming the argument.
    """
    check_least(value, name, 0)
    # One dtype, whether 0 or 0.0 was written: each other one would compile anew.
    dtype = jnp.result_type(float)
    if isinstance(value, (int, float)):
        return memory.constant(float(value), (), dtype)
    return as_jax(as_array(value, name), dtype)


def check_least(value: Any, name: str, least: float, *, strictly: bool = False) -> None:
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


def check_variances(value: Any, name: str) -> None:
    """Rejects all but one variance, or one for each feature; concrete ones that are negative or not finite.

    Raises:
      ValueError: naming the argument.
    """
    if as_array(value, name).ndim != 1:
        check_least(value, name, 0)
        return
    numbers = as_numbers(value, name)
    if is_concrete(numbers):
        bad = np.flatnonzero(~(np.isfinite(np.asarray(numbers)) & (np.asarray(numbers) >= 0)))
        if bad.size:
            raise ValueError(
                f"`{name}` must be finite and at least 0, but {len(bad)} variances are not (the first is "
                f"{float(numbers[bad[0]]):g}, of feature {bad[0]})."
            )


def _is_integral(dtype: Any) -> bool:
    return dtype == jnp.bool_ or (jnp.issubdtype(dtype, jnp.integer) and not np.issubdtype(dtype, np.timedelta64))


def _contents(value: Any, array: Any, name: str) -> str:
    """What an array holds that is not real numbers, and what to do about it."""
    dtype = array.dtype
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return "it is a PRNG key. Look at the order of the arguments."
    if dtype.kind == "c":
        return f"it holds complex numbers. Give their real and imaginary parts as columns, {name}.real and {name}.imag."
    if dtype.kind == "M":
        return 'it holds dates. Subtract a first date, and divide by a unit, such as np.timedelta64(1, "D").'
    if dtype.kind == "m":
        return 'it holds differences of dates. Divide them by a unit, such as np.timedelta64(1, "D").'
    if dtype.kind not in "OSUT":
        return f"its dtype is {dtype}. Convert it to float first."
    if array.shape == () and dtype.kind == "O":
        return f"it is {described(value)}."
    for index, entry in np.ndenumerate(array):
        if isinstance(entry, (str, bytes)):
            return (
                f"it holds strings, such as {described(str(entry))}{_place(value, index)}. Encode categories as "
                "numbers, such as a column of 0 and 1 for each. Of numbers written as text make "
                f"np.asarray({name}, float)."
            )
        # None, and NA and NaT of pandas, which is not imported for this.
        if entry is None or type(entry).__name__ in ("NAType", "NaTType"):
            return f"it has missing values, such as{_place(value, index)}. Drop those rows, or impute the values."
        if not hasattr(entry, "__float__"):
            return f"it holds {described(entry)}{_place(value, index)}."
    return f"its dtype is object. Write np.asarray({name}, float)."


def _place(value: Any, index: Any) -> str:
    """Where an entry stands: its row, and its column by the name that a frame gives it."""
    if not index:
        return ""
    names = list(getattr(value, "columns", ()))
    column = "" if len(index) < 2 else f", column {str(names[index[1]])!r}" if names else f", column {index[1]}"
    return f" in row {index[0]}{column}"
