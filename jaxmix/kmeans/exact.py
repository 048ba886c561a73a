"""Global optima of K-means: one feature by dynamic programming, a handful of rows by trying every partition."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxmix import frame, linalg, validation
from jaxmix.data import Data
from jaxmix.kmeans import steps
from jaxmix.solver import Fit, Status

MAX_PARTITIONS = 2_000_000
"""The most partitions that `brute_force` tries."""


class _Runs(NamedTuple):
    """Runs of sorted rows: the numbers from which two neighbors are joined without a subtraction."""

    weight: Array  # the sum of the weights
    reach: Array  # how far the mean lies from the end that it is measured from
    scatter: Array  # the weighted squared deviations from the mean


def fit_1d(x: ArrayLike, k: int, *, weights: ArrayLike | None = None) -> Fit:
    r"""The global optimum of K-means with one feature, in O(K N log N) time and O((K + log N) N) memory.

    Clusters of sorted rows are runs, so the best cost of the first n rows follows from that of fewer:

    $$J_k(n) = \min_{m < n} J_{k-1}(m) + \min_u \sum_{i=m+1}^{n} w_i (x_i - u)^2$$

    The best m does not fall as n grows: half of all n bound the search for the other half.

    The cost of a run is a sum of non-negative terms, never a difference of prefix sums, so it is accurate to a
    few log2(N) rounding units relative to itself, whatever the offset, the spread or the weights. The partition
    is optimal up to near-ties within that, also in float32: there a few rows at the borders may fall otherwise
    than in float64. With 1e5 rows and K = 20, J in float32 was above the optimum by a relative 2e-7 at most; at
    an offset of 1e4 by 2e-5, which is the rounding of the centers themselves.

    Args:
      x: array of shape (N,), real.
      k: the number of centers, static, between 1 and the number of rows with positive weight.
      weights: array of shape (N,), non-negative: 0 is a row that is not there, 2 is a row twice.

    Returns:
      A `Fit` of no steps. `params` are the centers of shape (K, 1), ascending; with fewer distinct rows than
      K, the first are equal. `loss` is J at the centers, as `kmeans.objective` has it; `trace` holds it alone.

    Raises:
      ValueError: naming the argument, if rows have another rank, or an argument is invalid.

    References:
      Wang and Song (2011) for the recurrence; Grønlund et al. (2017) for its divide and conquer;
      Chan, Golub and LeVeque (1979) for the scatter of two samples joined.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix.kmeans import exact
      >>> fit = exact.fit_1d(jnp.array([9.0, 0.0, 10.0, 1.0]), 2)
      >>> fit.params.ravel().tolist(), fit.loss.item()
      ([0.5, 9.5], 1.0)
    """
    x = validation.as_floating(x, "x")
    if x.ndim != 1:
        raise ValueError(f"`x` must have shape (N,), got {x.shape}. Use x[:, 0], or `kmeans.fit` for more features.")
    data = validation.as_data(x[:, None], weights)
    validation.check_count(k, data)
    scale = frame.scale_of(data.x)
    data = frame.scaled_rows(data, scale)
    return _in_own_units(_as_fit(_optimal_centers(data, k=k), data), scale)


def brute_force(x: ArrayLike | Data, k: int, *, weights: ArrayLike | None = None) -> Fit:
    r"""The global optimum of K-means for a handful of rows: every partition of them is tried.

    $$\min_z \sum_n w_n |x_n - \bar x_{z_n}|^2, \qquad z_1 = 1, \quad z_n \le 1 + \max_{m < n} z_m, \quad z_n \le K$$

    These z, restricted growth strings, name each partition once. It is what other solvers are tested against.

    Args:
      x: array of shape (N, D), or `Data`. All N rows count towards the limit, also those of weight zero.
      k: the number of centers, static, between 1 and the number of rows with positive weight.
      weights: array of shape (N,), non-negative: 0 is a row that is not there, 2 is a row twice.

    Returns:
      A `Fit` of no steps. `params` are the centers of shape (K, D); with fewer distinct rows than K, those
      left over equal another. `loss` is J at the centers, as `kmeans.objective` has it; `trace` holds it alone.

    Raises:
      ValueError: if an argument is invalid, or there are more than two million partitions.

    References:
      Knuth (2011), section 7.2.1.5, for restricted growth strings.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix.kmeans import exact
      >>> fit = exact.brute_force(jnp.array([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0]]), 2)
      >>> fit.params.tolist(), fit.loss.item()
      ([[0.0, 0.5], [9.0, 0.0]], 0.5)
    """
    data = validation.as_data(x, weights)
    validation.check_count(k, data)
    num_rows = data.x.shape[0]
    count = _num_partitions(min(num_rows, 100), k)  # of more rows it takes long to count
    if count > MAX_PARTITIONS:
        raise ValueError(
            f"`x` has {num_rows} rows: at least {count:.2e} partitions into at most {k} groups, over the limit of "
            f"{MAX_PARTITIONS:.0e}. Use `exact.fit_1d` for one feature, or `kmeans.fit` with many restarts."
        )
    scale = frame.scale_of(data.x)
    data = frame.scaled_rows(data, scale)
    return _in_own_units(_as_fit(_best_of(_partitions(num_rows, k), data, k=k), data), scale)


def _in_own_units(fit: Fit, scale: Array | None) -> Fit:
    """A fit of rows times a scale, in the units of the rows themselves."""
    loss, trace = frame.unscaled((fit.loss, fit.trace), scale, power=2)
    return fit._replace(params=frame.unscaled(fit.params, scale), loss=loss, trace=trace)


def _as_fit(centers: Array, data: Data) -> Fit:
    loss = steps.loss(centers, data)
    status = jnp.where(jnp.isfinite(loss), Status.CONVERGED, Status.NONFINITE).astype(jnp.int32)
    return Fit(centers, loss, status, jnp.zeros((), jnp.int32), jnp.zeros_like(loss), loss[None])


@partial(jax.jit, static_argnames="k")
def _optimal_centers(data: Data, *, k: int) -> Array:
    num_rows = data.x.shape[0]
    present = data.weights > 0
    # Rows that are not there go last, onto one that is; so does what fills the rows up to a power of two.
    x = jnp.where(present, data.x[:, 0], jnp.max(data.x[:, 0], where=present, initial=-jnp.inf))
    order, padding = jnp.argsort(x), (0, (1 << num_rows.bit_length()) - num_rows)
    x, weights = jnp.pad(x[order], padding, mode="edge"), jnp.pad(data.weights[order], padding)
    cluster = partial(_cluster, x, _halves(x, weights))
    stops = jnp.arange(x.size, dtype=jnp.int32)

    def layer(costs: Array, _: None) -> tuple[Array, Array]:
        splits = _best_splits(costs, cluster, num_rows)
        return jnp.where(stops == 0, 0, costs[splits] + cluster(splits, stops)[1]), splits

    costs = jnp.where(stops == 0, 0, cluster(jnp.zeros_like(stops), stops)[1])
    _, splits = jax.lax.scan(layer, costs, None, length=k - 1)
    _, bounds = jax.lax.scan(lambda stop, row: (row[stop], row[stop]), jnp.int32(num_rows), splits, reverse=True)
    bounds = jnp.pad(bounds, 1, constant_values=(0, num_rows))
    return cluster(bounds[:-1], bounds[1:])[0][:, None]


def _halves(x: Array, weights: Array) -> _Runs:
    """The run between each row and the middle of its aligned block of 2^(l+1) rows, for each level l: (L, M).

    The reach is measured from the first row right of the middle, to either side. Reaches and gaps of sorted rows
    are non-negative, and only sums of them are formed.
    """
    rows = jnp.arange(x.size, dtype=jnp.int32)

    def level(carry: tuple[_Runs, _Runs], depth: Array) -> tuple[tuple[_Runs, _Runs], _Runs]:
        prefix, suffix = carry  # within blocks of 2^l rows, measured from the block's first and last row
        half = 1 << depth
        is_right = rows & half != 0
        middle = (rows | half) & -half
        gap = x[middle] - x[middle - 1]
        # Each row's own run ends at the middle; it grows by the whole half on the other side.
        own = jax.tree.map(partial(jnp.where, is_right), prefix, suffix)
        outward = jnp.where(is_right, suffix.reach, prefix.reach)[jnp.where(is_right, middle - 1, middle)]
        other = jax.tree.map(lambda leaf: leaf[jnp.where(is_right, middle - half, middle + half - 1)], own)
        weight, between = own.weight + other.weight, own.reach + gap + other.reach
        share = linalg.safe_divide(own.weight, weight)
        scatter = own.scatter + other.scatter + other.weight * share * jnp.square(between)
        grown = _Runs(weight, outward + share * between, scatter)
        prefix = jax.tree.map(partial(jnp.where, is_right), grown, prefix)
        suffix = jax.tree.map(partial(jnp.where, is_right), suffix, grown)
        return (prefix, suffix), own._replace(reach=own.reach + jnp.where(is_right, 0, gap))

    alone = _Runs(weights, jnp.zeros_like(x), jnp.zeros_like(x))
    return jax.lax.scan(level, (alone, alone), jnp.arange(x.size.bit_length() - 1, dtype=jnp.int32))[1]


def _cluster(x: Array, halves: _Runs, starts: Array, stops: Array) -> tuple[Array, Array]:
    """The mean and the cost of the rows [start, stop); where there are none, the row at `start` and infinity."""
    lasts = jnp.maximum(stops - 1, starts)
    # The smallest aligned block that holds both ends, which lie on either side of its middle.
    level = jnp.maximum(31 - jax.lax.clz(starts ^ lasts), 0)
    left, right = (jax.tree.map(lambda leaf, rows=rows: leaf[level, rows], halves) for rows in (starts, lasts))
    weight = left.weight + right.weight
    share = linalg.safe_divide(right.weight, weight)
    cost = left.scatter + right.scatter + left.weight * share * jnp.square(left.reach + right.reach)
    moment = right.weight * right.reach - left.weight * left.reach
    mean = x[lasts >> level << level] + linalg.safe_divide(moment, weight)
    mean = jnp.clip(jnp.where(starts < lasts, mean, x[starts]), x[starts], x[lasts])
    return mean, jnp.where(starts < lasts, cost, jnp.where(starts < stops, 0, jnp.inf))


def _best_splits(costs: Array, cluster: Callable[[Array, Array], tuple[Array, Array]], num_rows: int) -> Array:
    """For each n the first m that attains the minimum; all n of one depth of a binary tree at once, root first."""
    size, nodes = costs.size, jnp.arange(costs.size // 2, dtype=jnp.int32)
    pairs = jnp.arange(num_rows + nodes.size, dtype=jnp.int32)
    minima = partial(jax.ops.segment_min, num_segments=nodes.size, indices_are_sorted=True)

    def depth(step: Array, splits: Array) -> Array:
        last, stride = (1 << step) - 1, (size // 2) >> step
        stops = (2 * jnp.minimum(nodes, last) + 1) * stride
        # A node searches from the split of its neighbor on the left to that on the right, both included. In
        # a row of all searches, node q therefore begins at its first candidate plus q.
        begins = jnp.where(nodes <= last, splits[stops - stride] + nodes, pairs.size)
        owners = jnp.cumsum(jnp.zeros_like(pairs).at[begins].add(1, mode="drop"), dtype=jnp.int32) - 1
        starts = jnp.minimum(pairs - owners, num_rows - 1)
        # They are compared with their own minimum: the barrier has them computed once, not once for each use.
        values = jax.lax.optimization_barrier(costs[starts] + cluster(starts, stops[owners])[1])
        lowest = minima(values, owners)
        found = minima(jnp.where(values == lowest[owners], starts, num_rows - 1), owners)
        found = jnp.where(stops <= num_rows, found, num_rows - 1)
        return splits.at[jnp.where(nodes <= last, stops, size)].set(found, mode="drop")

    splits = jnp.where(jnp.arange(size) == 0, 0, num_rows - 1).astype(jnp.int32)
    return jax.lax.fori_loop(0, size.bit_length() - 1, depth, splits)


def _num_partitions(num_rows: int, k: int) -> int:
    """The partitions of N rows into at most K groups: a sum of Stirling numbers of the second kind."""
    counts = [1] + [0] * (min(k, num_rows) - 1)
    for _ in range(num_rows - 1):
        counts = [(j + 1) * count + (counts[j - 1] if j else 0) for j, count in enumerate(counts)]
    return sum(counts)


def _partitions(num_rows: int, k: int) -> np.ndarray:
    """Every partition as labels, shape (P, N); the first has one group."""
    labels = np.zeros((1, 1), np.int8)
    for _ in range(num_rows - 1):
        tops = labels.max(axis=1)
        grown = [np.pad(labels[tops >= label - 1], ((0, 0), (0, 1)), constant_values=label) for label in range(k)]
        labels = np.concatenate(grown)
    return labels


@partial(jax.jit, static_argnames="k")
def _best_of(partitions: Array, data: Data, *, k: int) -> Array:
    chunk = min(4096, partitions.shape[0])
    # The last chunk is filled up with the partition into one group.
    table = jnp.pad(partitions, ((0, -partitions.shape[0] % chunk), (0, 0)))

    def centers(labels: Array) -> Array:
        members = data.weights[:, None] * jax.nn.one_hot(labels, k, dtype=data.x.dtype)
        counts = jnp.sum(members, axis=0)[:, None]
        pivots = data.x[jnp.argmax(members > 0, axis=0)]  # equal rows are then exactly their mean
        means = pivots + linalg.safe_divide(linalg.dot(members.T, data.x - pivots[labels]), counts)
        return jnp.where(counts == 0, means[jnp.argmax(counts[:, 0] > 0)][None], means)

    def cost(labels: Array) -> Array:
        return jnp.sum(data.weights * jnp.sum(jnp.square(data.x - centers(labels)[labels]), axis=1))

    costs = jax.lax.map(jax.vmap(cost), table.reshape(-1, chunk, table.shape[1]))
    return centers(table[jnp.argmin(costs.ravel())])
