"""Better starts: a center is exchanged for a row, where that lowers J."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import batches, frame, sampling, seeding
from jaxmix.data import Data
from jaxmix.kernels import segments

CHUNK_ROWS = 128
"""Rows whose distances to all centers are taken at a time."""


class Nearest(NamedTuple):
    """The two centers nearest to each row.

    Attributes:
      first: int32 Array of shape (N,), the nearest.
      second: int32 Array of shape (N,), the one after it.
      distance: Array of shape (N,), the squared distance to the nearest.
      other: Array of shape (N,), that to the second; infinite where one center alone is on.
    """

    first: Array
    second: Array
    distance: Array
    other: Array


def improved(keys: Array, centers: Array, data: Data, num_swaps: int) -> Array:
    r"""Exchanges of a center for a row, tried one after another, each taken where it lowers J.

    A row m is drawn with probability $w_m D_m^2 / \sum_n w_n D_n^2$, as k-means++ draws it, and takes the place of the
    center j whose removal costs least:

    $$\min_j \sum_n w_n \min(|x_n - x_m|^2, \min_{i \neq j} |x_n - u_i|^2)$$

    Where two centers share a cluster and one cluster has none, such an exchange helps, and no step of Lloyd's algorithm
    does.

    Args:
      keys: R PRNG keys.
      centers: Array of shape (R, K, D), of R starts; those at infinity are off, and stay so.
      data: `Data` of N rows.
      num_swaps: how many exchanges are tried for each start.

    Returns:
      Array of shape (R, K, D), none of a higher J.

    References:
      Lattanzi and Sohler (2019), algorithm 2.

    Example:
      >>> from jaxmix import as_data
      >>> data = as_data([[0.0], [1.0], [8.0], [9.0]])
      >>> keys = jax.random.split(jax.random.key(0), 1)
      >>> improved(keys, jnp.array([[[0.0], [1.0]]]), data, 4).max().item() > 7
      True
    """
    # Features first: then sums over them are sums of long vectors.
    scale = frame.distance_scale(data)
    factors = jnp.ones(data.x.shape[1], data.x.dtype) if scale is None else jnp.broadcast_to(scale, data.x.shape[1:])
    columns = (data.x * factors[None]).T

    def one(start: tuple[Array, Array]) -> Array:
        key, centers = start
        points = jax.random.uniform(key, (num_swaps,), data.x.dtype)
        zeros = jnp.zeros_like(data.weights)
        labels = zeros.astype(jnp.int32)
        near = Nearest(labels, labels, zeros, zeros)
        places = (centers * factors[None]).T
        carry = jnp.full(centers.shape[0], -1, jnp.int32), places, _measured(near, zeros == 0, places, columns)
        rows = jax.lax.scan(lambda carry, point: (_tried(carry, point, columns, data.weights), None), carry, points)[0][
            0
        ]
        return jnp.where((rows >= 0)[:, None], data.x[rows], centers)

    return batches.map_batches(one, (keys, centers), batches.num_parallel())


def _tried(
    carry: tuple[Array, Array, Nearest], point: Array, columns: Array, weights: Array
) -> tuple[Array, Array, Nearest]:
    """One exchange; the row is drawn by a number uniform in [0, 1)."""
    rows, places, near = carry
    k = rows.shape[0]
    row = sampling.by_mass(point[None], seeding.costs(near.distance, weights))[0]
    new = _distances(columns, columns[:, row][:, None])[0]
    with_row = jnp.minimum(new, near.distance)
    gain = jnp.sum(weights * (near.distance - with_row))
    # What the rows of each cluster cost more without its center.
    more = weights * (jnp.minimum(new, near.other) - with_row)
    more = segments.sum_by_label(more[:, None], near.first, k)[:, 0]
    more = jnp.where(jnp.all(jnp.isfinite(places), axis=0), more, jnp.inf)
    out = jnp.argmin(more).astype(jnp.int32)
    # Rounding alone must not decide.
    taken = gain - more[out] > jnp.sqrt(jnp.finfo(gain.dtype).eps) * gain
    changed = taken & (jnp.arange(k) == out)
    places = jnp.where(changed[None], columns[:, row][:, None], places)
    lost = (near.first == out) | (near.second == out)
    nearest, between = new < near.distance, new < near.other
    after = Nearest(
        first=jnp.where(nearest, out, near.first),
        second=jnp.where(nearest, near.first, jnp.where(between, out, near.second)),
        distance=with_row,
        other=jnp.where(nearest, near.distance, jnp.minimum(new, near.other)),
    )
    after = jax.tree.map(lambda new, old: jnp.where(taken, new, old), after, near)
    return jnp.where(changed, row, rows), places, _measured(after, taken & lost, places, columns)


def _measured(near: Nearest, stale: Array, places: Array, columns: Array) -> Nearest:
    """The two nearest centers of the rows that are stale, from their distances to all."""
    num_rows, k = stale.shape[0], places.shape[1]
    chunk = min(num_rows, CHUNK_ROWS)
    # Stale rows first; row 0 in the places that are left over, which does no harm.
    num_stale = jnp.sum(stale, dtype=jnp.int32)
    index = jnp.arange(num_rows, dtype=jnp.int32)
    order = jnp.zeros(num_rows + chunk, jnp.int32).at[jnp.where(stale, sampling.ranks(stale), num_rows)].set(index)
    order = order.at[num_rows].set(0)
    numbers = jnp.arange(k, dtype=jnp.int32)[:, None]

    def one_chunk(carry: tuple[Array, Nearest]) -> tuple[Array, Nearest]:
        begin, near = carry
        rows = jax.lax.dynamic_slice_in_dim(order, begin, chunk)
        distances = _distances(columns[:, rows], places)
        first, least = _least(distances)
        second, other = _least(jnp.where(numbers == first[None], jnp.inf, distances))
        found = Nearest(first, second, least, other)
        return begin + chunk, jax.tree.map(lambda old, new: old.at[rows].set(new), near, found)

    zero = jnp.zeros_like(num_stale)
    return jax.lax.while_loop(lambda carry: carry[0] < num_stale, one_chunk, (zero, near))[1]


def _distances(columns: Array, places: Array) -> Array:
    """Squared distances (K, N) of rows (D, N) to centers (D, K)."""
    return jnp.sum(jnp.square(columns[:, None, :] - places[:, :, None]), axis=0)


def _least(distances: Array) -> tuple[Array, Array]:
    """The first smallest entry of each column, as two minima: XLA's CPU backend does not vectorize `argmin`."""
    k = distances.shape[0]
    least = jnp.min(distances, axis=0)
    numbers = jnp.arange(k, dtype=jnp.int32)[:, None]
    return jnp.min(jnp.where(distances == least[None], numbers, k - 1), axis=0), least
