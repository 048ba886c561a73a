"""Rows of several processes, each of which has some: as one array over all their devices."""

import functools
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmix import devices, frame, validation
from jaxmix.data import Data
from jaxmix.devices import Axes
from jaxmix.sharding import SLOTS, Sharded
from jaxmix.typing import ArrayLike

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def as_distributed(x: ArrayLike, weights: ArrayLike | None = None, *, mesh: Mesh, axis: Axes = "rows") -> Data:
    r"""The rows of all processes as one `Data`, of which each process has its own.

    $$X = (X_1, \dots, X_P), \qquad w = (w_1, \dots, w_P)$$

    Each process calls this with its own rows, of any number, after `jax.distributed.initialize`, and then the same
    function on the result, such as `kmeans.fit`. No row leaves its process. Where processes have different numbers of
    rows, the last row of some is repeated with weight 0. In one process it spreads the rows over the mesh.

    Args:
      x: array of shape (n, D), real; the rows of this process.
      weights: array of shape (n,), non-negative, not all zero; None for ones.
      mesh: a `jax.sharding.Mesh` of the devices of all processes, of which each has equally many, side by side.
      axis: the axis of the mesh, or axes, that rows are spread over.

    Returns:
      `Data` of shape (N, D), for every process the same.

    Raises:
      ValueError: in every process: in one whose rows `as_data` rejects, its error, in the others the number of that
        process; for rows of several widths or dtypes.

    Example:
      >>> import jax
      >>> from jaxmix import as_distributed
      >>> mesh = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> float(as_distributed([[1.0], [2.0]], mesh=mesh).weights.sum())
      2.0
    """
    Sharded(mesh, axis).validate()
    error, data = None, None
    try:
        data = validation.as_data(x, weights)
    except ValueError as found:
        error = found
    sharding = NamedSharding(devices.automatic(mesh), PartitionSpec(axis))
    num_parts = devices.parts_of(mesh, axis)
    # Devices with other places on the axes that are left have the same rows.
    num_own = len(set(map(str, sharding.addressable_devices_indices_map((num_parts,)).values())))
    told = (0, 0, 0) if data is None else (*data.x.shape, DTYPES.index(np.dtype(data.x.dtype)))
    every = devices.of_all_processes(np.array([*told, num_own], np.int32))
    if error is not None:
        raise error
    assert data is not None
    bad = np.flatnonzero(every[:, 0] == 0)
    if bad.size:
        raise ValueError(f"The rows of process {bad[0]} are not valid: see the error that it raised.")
    if (every[:, 1:] != every[0, 1:]).any():
        found = [f"{width} {DTYPES[dtype]} on {parts}" for _, width, dtype, parts in every.tolist()]
        raise ValueError(
            "All processes must have rows of one width and dtype, on equally many devices, but the features are "
            f"{', '.join(found)}."
        )
    # A multiple of the shares of `Sharded(deterministic=True)`: what spans processes cannot be filled up later.
    share = SLOTS // math.gcd(SLOTS, num_parts)
    size = -(-int(every[:, 0].max()) // (num_own * share)) * share
    missing = num_own * size - data.x.shape[0]

    def put(values: Any, **filling: Any) -> Any:
        padded = np.pad(np.asarray(values), ((0, missing), *((0, 0),) * (values.ndim - 1)), **filling)
        return jax.make_array_from_process_local_data(sharding, padded, (num_parts * size, *values.shape[1:]))

    rows, counts = put(data.x, mode="edge"), put(data.weights)
    return Data(rows, counts, _origin(NamedSharding(sharding.mesh, PartitionSpec()))(rows, counts))


@functools.lru_cache(maxsize=16)
def _origin(everywhere: NamedSharding) -> Any:
    return jax.jit(lambda x, weights: frame.exact_origin(x, weights, spread=True), out_shardings=everywhere)
