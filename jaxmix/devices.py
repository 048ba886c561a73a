"""Arrays whose rows lie on several devices: what their sharding says, and functions of each device's own rows."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Axes = str | tuple[str, ...]
"""The mesh axes that rows are spread over."""


def rows_of(x: Any) -> NamedSharding | None:
    """How an array is spread over devices along its first axis.

    Args:
      x: any value.

    Returns:
      A sharding of the first axis alone, on a mesh whose axes the compiler handles (`AxisType.Auto`); None where the
      rows are together, and for what is no array, or traced, whose sharding is not known.

    Example:
      >>> import jax.numpy as jnp
      >>> rows_of(jnp.ones(2)) is None
      True
    """
    if not isinstance(x, Array) or isinstance(x, Tracer) or not isinstance(x.sharding, NamedSharding) or not x.ndim:
        return None
    axes = x.sharding.spec[0] if len(x.sharding.spec) else None
    if axes is None or axes is PartitionSpec.UNCONSTRAINED or parts_of(x.sharding.mesh, axes) == 1:
        return None
    return NamedSharding(automatic(x.sharding.mesh), PartitionSpec(axes))


def automatic(mesh: Any) -> Mesh:
    """A mesh of the same devices and names whose axes the compiler handles."""
    if all(each == AxisType.Auto for each in mesh.axis_types):
        return mesh
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def parts_of(mesh: Any, axes: Axes | None) -> int:
    """Over how many devices mesh axes spread rows; 1 for None."""
    return math.prod(mesh.shape[name] for name in names_of(axes))


def names_of(axes: Axes | None) -> tuple[str, ...]:
    """The names of mesh axes; none for None."""
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)


@functools.lru_cache(maxsize=256)
def each_part(fn: Callable[[Any, Any], Any], sharding: NamedSharding) -> Callable[[Any, Any], Any]:
    """`fn(prepared, rows)` of each device's own rows, compiled: from rows so spread to values so spread.

    Args:
      fn: a function whose values for a row depend on that row alone.
      sharding: how the leaves of `rows` are spread.
    """
    own, every = sharding.spec, PartitionSpec()
    return jax.jit(jax.shard_map(fn, mesh=sharding.mesh, in_specs=(every, own), out_specs=own, check_vma=False))


def beside(values: Any, x: Any) -> Any:
    """Values of the rows of `x`, or `x` itself, spread as the rows are; as they are where the rows are together."""
    spread = rows_of(x)
    return values if spread is None or isinstance(values, Tracer) else jax.device_put(values, spread)


def of_all_processes(numbers: np.ndarray) -> np.ndarray:
    """What each process gives, small arrays of one shape and of at most 32 bits, with a leading axis for them.

    Example:
      >>> of_all_processes(np.array([1, 2], np.int32)).shape
      (1, 2)
    """
    if jax.process_count() == 1:
        return numbers[None]
    return np.asarray(multihost_utils.process_allgather(jnp.asarray(numbers)))
