r"""The nearest center of every row, and the sums of the rows by it: what one step of Lloyd's algorithm costs.

Where there are few features, distances are direct differences. Elsewhere they are expanded, and the row's own square is
left out:

$$\arg\min_k |x - u_k|^2 = \arg\min_k \; |u_k|^2 - 2 u_k^T x$$

which is one matrix product, of relative accuracy $\epsilon |u_k|^2$. Centers that lie too close together for that, next
to their distance from zero, are told apart by direct differences again.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import branches, linalg
from jaxmix.data import Rows
from jaxmix.kernels import segments
from jaxmix.kernels.running import (
    ArgMax,
    Minimum,
    first_argmax,
    in_blocks,
    initial_minimum,
    over_blocks,
    running_argmin,
)

BLOCK = 64
"""Centers compared in one unrolled chain: fewer are slower, more take long to compile."""

GROUP = 256
"""Centers in one matrix product: each product packs the rows anew."""

FEW_FEATURES = 4
"""Up to here direct differences cost no more than a matrix product, whatever K."""

FEW_PRODUCTS = 64
"""Up to this K D too."""

MARGIN = 1024
"""Squared gaps between centers, in units of rounding, above which the expansion labels as direct differences do."""

CORRECTED_ROWS = 1024
"""Rows labeled by direct differences at a time, where the expansion cannot be trusted."""

ROOM = 2**20
"""Numbers of rows whose differences from their centers are taken at a time."""

PAIRED = 1024
"""Centers whose gaps are all taken in one product."""


class Stats(NamedTuple):
    """What the E-step hands to the M-step; `merging.merge` adds those of disjoint rows.

    Attributes:
      loss: Array of shape (), the cost J of the centers that the E-step saw.
      counts: Array of shape (K,), the weight of each cluster.
      costs: Array of shape (K,), each cluster's share of the loss.
      sums: Array of shape (K, D), the weighted sum of x - u in each cluster, about the centers that the E-step saw.
      farthest: the row that lies farthest from its center, and its squared distance to it.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> kmeans.e_step(jnp.array([[0.0], [10.0]]), jnp.array([[1.0], [8.0], [2.0]])).farthest.value.item()
      4.0
    """

    loss: Array
    counts: Array
    costs: Array
    sums: Array
    farthest: ArgMax


class QuickStats(NamedTuple):
    """Sums about zero: what a step needs where little is lost by them.

    Attributes:
      counts: Array of shape (K,).
      sums: Array of shape (K, D), the weighted sum of x in each cluster.
    """

    counts: Array
    sums: Array


class Prepared(NamedTuple):
    """What depends on the centers alone.

    Attributes:
      centers: Array of shape (K, D).
      factors: Array of shape (K, D), -2 u; 0 for what is switched off.
      squares: Array of shape (K,), |u|^2; infinite for what is switched off.
      apart: Array of shape (), bool: the expansion tells every two centers apart.
      broken: Array of shape (), int32: the first center that holds NaN, or -1.
    """

    centers: Array
    factors: Array
    squares: Array
    apart: Array
    broken: Array


def is_expanded(k: int, num_features: int) -> bool:
    """Whether distances are expanded, rather than direct differences."""
    return num_features > FEW_FEATURES and k * num_features > FEW_PRODUCTS


def prepare(centers: Array) -> Prepared:
    """What the kernels need of centers of shape (K, D). A center with an infinite coordinate takes no row."""
    is_on = jnp.all(jnp.isfinite(centers), axis=1)
    is_nan = jnp.any(jnp.isnan(centers), axis=1)
    broken = jnp.where(jnp.any(is_nan), jnp.argmax(is_nan).astype(jnp.int32), -1)
    on = jnp.where(is_on[:, None], centers, 0)
    squares = jnp.where(is_on, jnp.sum(jnp.square(on), axis=1), jnp.inf)
    expanded = is_expanded(*centers.shape)
    apart = _are_apart(on, squares, is_on) if expanded else jnp.array(True)
    return Prepared(centers, -2 * on, squares, apart, broken)


def labels(prepared: Prepared, x: Array) -> tuple[Array, Array]:
    """The nearest center of each row: the first of equally near ones.

    Args:
      prepared: of K centers.
      x: Array of shape (n, D).

    Returns:
      int32 of shape (n,), in [0, K); and the least scores of shape (n,): squared distances, less the square of the row
      where distances are expanded. Nothing flows back through it.
    """
    prepared, x = jax.lax.stop_gradient((prepared, x))
    k, num_features = prepared.centers.shape
    if x.ndim != 2 or x.shape[1] != num_features:
        raise ValueError(
            f"Rows (N, D) and centers (K, D) need one width D, got {x.shape} and {prepared.centers.shape}."
        )
    if not is_expanded(k, num_features):
        found, least = jax.lax.platform_dependent(prepared, x, cpu=_by_differences, default=_by_textbook)
    else:
        found, least = jax.lax.platform_dependent(prepared, x, cpu=_by_expansion, default=_by_product)
        found = _corrected(found, prepared.apart, prepared.centers, x)
    # As argmin has it: NaN is nearest to everything, and so it shows in the loss.
    broken = prepared.broken >= 0
    return jnp.where(broken, prepared.broken, found), jnp.where(broken, jnp.nan, least)


def labels_reference(centers: Array, x: Array) -> Array:
    """The nearest center of each row as the textbook has it; of shape (N,), int32."""
    return jnp.argmin(linalg.squared_distances(x, centers), axis=1).astype(jnp.int32)


def e_step(prepared: Prepared, rows: Rows) -> Stats:
    r"""The E-step of K-means for one block of rows.

    $$N_k = \sum_n w_n z_{nk}, \qquad S_k = \sum_n w_n z_{nk} (x_n - u_k)$$

    Costs and sums are of direct differences to the center chosen. Only the choice may be made by an expansion: it is
    exact but for rows that lie between two centers to within rounding, at most `MARGIN` units of which are a gap
    between centers. A center with an infinite coordinate takes no row; one with NaN makes the loss NaN.

    Args:
      prepared: of K centers.
      rows: one block.

    Returns:
      `Stats`, additive over rows.

    References:
      Bishop (2006), equation 9.2.
    """
    found, least = labels(prepared, rows.x)
    known = None if is_expanded(*prepared.centers.shape) else least
    return statistics(prepared.centers, rows, found, known)


def loss(prepared: Prepared, rows: Rows) -> Array:
    """J of one block, from direct differences to the nearest center."""
    found, costs = labels(prepared, rows.x)
    if is_expanded(*prepared.centers.shape):
        costs = loss_rows(prepared.centers, rows.x, found)
    return jnp.sum(rows.weigh(costs))


def loss_rows(centers: Array, x: Array, labels: Array) -> Array:
    """The squared distance of each row to the center of its label, of shape (n,)."""
    return jnp.sum(jnp.square(x - centers.at[labels].get(mode="promise_in_bounds")), axis=1)


def statistics(centers: Array, rows: Rows, labels: Array, row_costs: Array | None = None) -> Stats:
    """The sums of rows that share a label, about their center.

    Args:
      centers: Array of shape (K, D).
      rows: one block of n rows.
      labels: int32 Array of shape (n,), each in [0, K).
      row_costs: Array of shape (n,), the squared distances to these centers where they are known.
    """
    num_rows, num_features = rows.x.shape
    parts = 1
    while num_rows % (2 * parts) == 0 and num_rows * num_features > parts * ROOM:
        parts *= 2
    if parts == 1:
        return _statistics(centers, (rows, labels, row_costs))
    # Some rows at a time: as many centers as rows are gathered.
    some = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), (rows, labels, row_costs))
    every = jax.lax.map(lambda part: _statistics(centers, part), some)
    best = jnp.argmax(every.farthest.value)
    farthest = jax.tree.map(lambda leaf: leaf[best], every.farthest)
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), every)._replace(farthest=farthest)


def _statistics(centers: Array, block: tuple[Rows, Array, Array | None]) -> Stats:
    rows, labels, row_costs = block
    k = centers.shape[0]
    centered = rows.x - centers.at[labels].get(mode="promise_in_bounds")
    if row_costs is None:
        row_costs = jnp.sum(jnp.square(centered), axis=1)
    weights = rows.ones()
    is_plain = rows.weights is None and rows.valid is None
    weighted = centered if is_plain else weights[:, None] * centered
    # Apart, not as columns of one array: that would be one copy more of all rows.
    costs = segments.sum_by_label(rows.weigh(row_costs)[:, None], labels, k)[:, 0]
    farthest = first_argmax(row_costs if is_plain else jnp.where(weights > 0, row_costs, -jnp.inf))
    return Stats(
        loss=jnp.sum(costs),
        counts=segments.sum_by_label(weights[:, None], labels, k)[:, 0],
        costs=costs,
        sums=segments.sum_by_label(weighted, labels, k),
        farthest=ArgMax(jnp.where(weights[farthest] > 0, row_costs[farthest], -jnp.inf), rows.x[farthest]),
    )


def quick_step(prepared: Prepared, rows: Rows) -> QuickStats:
    """The sums of one block about zero: no differences, no row costs, no farthest row."""
    k = prepared.centers.shape[0]
    found, _ = labels(prepared, rows.x)
    # Rows that only fill the block are zero.
    weighted = rows.x if rows.weights is None else rows.weights[:, None] * rows.x
    return QuickStats(
        counts=segments.sum_by_label(rows.ones()[:, None], found, k)[:, 0],
        sums=segments.sum_by_label(weighted, found, k),
    )


def _by_textbook(prepared: Prepared, x: Array) -> tuple[Array, Array]:
    distances = linalg.squared_distances(x, prepared.centers)
    return jnp.argmin(distances, axis=1).astype(jnp.int32), jnp.min(distances, axis=1)


def _by_differences(prepared: Prepared, x: Array) -> tuple[Array, Array]:
    num_features = x.shape[1]
    blocks = in_blocks(prepared.centers, 1, BLOCK // num_features, jnp.inf)[0]
    num_blocks, width, _ = blocks.shape
    columns = x.T

    def distances(block: Array) -> Iterator[Array]:
        for center in block:
            squares = [jnp.square(columns[d] - center[d]) for d in range(num_features)]
            yield sum(squares[1:], squares[0])

    def compare(index: Array | int, minimum: Minimum) -> Minimum:
        return running_argmin(distances(blocks[index]), index * width, minimum)

    # The barrier keeps XLA from taking all distances again for each use of the labels.
    least, label = jax.lax.optimization_barrier(over_blocks(num_blocks, compare, initial_minimum(x)))
    return label, least


def _by_expansion(prepared: Prepared, x: Array) -> tuple[Array, Array]:
    num_groups = -(-prepared.squares.shape[0] // GROUP)
    table = in_blocks(prepared.factors, num_groups, BLOCK, 0)
    constants = in_blocks(prepared.squares[:, None], num_groups, BLOCK, jnp.inf)
    _, num_blocks, width, num_features = table.shape

    def compare_group(group: Array | int, minimum: Minimum) -> Minimum:
        products = linalg.dot(table[group].reshape(num_blocks * width, num_features), x.T)
        products = products.reshape(num_blocks, width, x.shape[0])

        def compare(block: Array | int, minimum: Minimum) -> Minimum:
            scores = (products[block, j] + constants[group, block, j] for j in range(width))
            return running_argmin(scores, (group * num_blocks + block) * width, minimum)

        return over_blocks(num_blocks, compare, minimum)

    least, label = jax.lax.optimization_barrier(over_blocks(num_groups, compare_group, initial_minimum(x)))
    return label, least


def _by_product(prepared: Prepared, x: Array) -> tuple[Array, Array]:
    scores = linalg.dot(x, prepared.factors.T) + prepared.squares[None]
    return jnp.argmin(scores, axis=1).astype(jnp.int32), jnp.min(scores, axis=1)


def _corrected(found: Array, right: Array, centers: Array, x: Array) -> Array:
    """The labels as they are where they are right, else those of direct differences, some rows at a time."""

    def of_rows(first: Array, size: int) -> Array:
        return labels_reference(centers, jax.lax.dynamic_slice_in_dim(x, first, size))

    return branches.recompute(found, ~right, of_rows, CORRECTED_ROWS)


def _are_apart(about: Array, squares: Array, is_on: Array) -> Array:
    """Whether every two centers that are on lie farther apart than the expansion rounds, by far."""
    indices = jnp.arange(squares.shape[0])

    def is_apart(row: tuple[Array, ...]) -> Array:
        center, square, on, index = row
        sizes = square + squares
        far = sizes - 2 * linalg.dot(about, center) >= MARGIN * jnp.finfo(about.dtype).eps * sizes
        return jnp.all(far | (indices == index) | ~(on & is_on))

    # One product for all pairs; of many centers some at a time, or the pairs would be more than the rows.
    centers = about, squares, is_on, indices
    few = squares.shape[0] <= PAIRED
    pairs = jax.vmap(is_apart)(centers) if few else jax.lax.map(is_apart, centers, batch_size=PAIRED)
    return jnp.all(pairs) & jnp.all(jnp.isfinite(squares) | ~is_on)
