r"""The nearest center of every row, and the sums of the rows by it: what one step of Lloyd's algorithm costs.

Rows come in chunks, so that the distances (N, K) are never stored. Where there are few features, distances are direct
differences. Elsewhere they are expanded about the origin of the data, and the row's own square is left out:

$$\arg\min_k |x - u_k|^2 = \arg\min_k \; |u_k - o|^2 - 2 (u_k - o)^T (x - o)$$

which is one matrix product, of relative accuracy $\epsilon |u_k - o|^2$. Centers that lie too close together for that,
next to their distance from the origin, are told apart by direct differences again.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import linalg, rows
from jaxmix.types import Data, Largest

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
"""Rows labelled by direct differences at a time, where the expansion cannot be trusted."""

PAIRED = 1024
"""Centers whose gaps are all taken in one product."""

CHUNK_BYTES = {"cpu": 6_000_000, "default": 256_000_000}
"""Room for a chunk: what stays in a CPU's cache; elsewhere, what keeps an accelerator busy."""


class Stats(NamedTuple):
    """What the E-step hands to the M-step; `rows.merge` adds those of disjoint rows.

    Attributes:
      loss: Array of shape (), the cost J of the centers that the E-step saw.
      counts: Array of shape (K,), the weight of each cluster.
      costs: Array of shape (K,), each cluster's share of the loss.
      sums: Array of shape (K, D), the weighted sum of x - u in each cluster, about the centers that the E-step saw.
      farthest: the row that lies farthest from its center, and its squared distance to it.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import as_data, kmeans
      >>> kmeans.e_step(jnp.array([[0.0], [10.0]]), as_data([[1.0], [8.0], [2.0]])).farthest.value.item()
      4.0
    """

    loss: Array
    counts: Array
    costs: Array
    sums: Array
    farthest: Largest


@partial(jax.jit, static_argnames="chunk")
def sums(centers: Array, data: Data, *, chunk: int | None = None) -> Stats:
    r"""The E-step of K-means in one pass over the rows, in constant room; equal to `kmeans.e_step` to rounding.

    $$N_k = \sum_n w_n z_{nk}, \qquad S_k = \sum_n w_n z_{nk} (x_n - u_k)$$

    Costs and sums are of direct differences to the center chosen. Only the choice may be made by an expansion: it is
    exact but for rows that lie between two centers to within rounding, at most `MARGIN` units of which are a gap
    between centers. A center with an infinite coordinate takes no row; one with NaN makes the loss NaN.

    Args:
      centers: Array of shape (K, D), in the dtype of the data.
      data: `Data` of N rows.
      chunk: rows at a time, static; None for what suits K, D, the dtype and the platform.

    Returns:
      `Stats`, additive over rows.

    References:
      Bishop (2006), equation 9.2.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import as_data
      >>> stats = sums(jnp.array([[0.0], [10.0]]), as_data([[1.0], [8.0], [2.0]]))
      >>> stats.counts.tolist(), stats.loss.item()
      ([2.0, 1.0], 9.0)
    """

    def reduced(platform: str) -> Callable[[Array, Data], Stats]:
        def reduce(centers: Array, data: Data) -> Stats:
            find = _finder(centers, data.origin, platform)
            size = chunk or _chunk_rows(centers, data, platform)
            return rows.reduce_chunks(
                lambda start, part: statistics(centers, part, *find(part.x, data.x, start)), data, size
            )

        return reduce

    return jax.lax.platform_dependent(centers, data, cpu=reduced("cpu"), default=reduced("default"))


@partial(jax.jit, static_argnames="chunk")
def labels(centers: Array, data: Data, *, chunk: int | None = None) -> Array:
    """The nearest center of each row, as `sums` chooses it.

    Args:
      centers: Array of shape (K, D), in the dtype of the data.
      data: `Data` of N rows.
      chunk: as in `sums`.

    Returns:
      Array of shape (N,), int32, in [0, K). Of equally near centers the first. Nothing flows back through it.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import as_data
      >>> labels(jnp.array([[0.0], [10.0]]), as_data([[1.0], [8.0], [2.0]])).tolist()
      [0, 1, 0]
    """

    def found(platform: str) -> Callable[[Array, Data], Array]:
        def find_all(centers: Array, data: Data) -> Array:
            find = _finder(centers, data.origin, platform)
            size = chunk or _chunk_rows(centers, data, platform)
            return rows.map_chunks(lambda start, part: find(part.x, data.x, start)[0], data, size)

        return find_all

    centers, data = jax.lax.stop_gradient((centers, data))
    return jax.lax.platform_dependent(centers, data, cpu=found("cpu"), default=found("default"))


@jax.jit
def plain(centers: Array, x: Array) -> Array:
    """The nearest center of each row as the textbook has it; of shape (N,), int32."""
    return jnp.argmin(linalg.squared_distances(x, centers), axis=1).astype(jnp.int32)


@jax.jit
def statistics(centers: Array, data: Data, labels: Array, row_costs: Array | None = None) -> Stats:
    """The sums of rows that share a label, about their center.

    Args:
      centers: Array of shape (K, D).
      data: `Data` of N rows.
      labels: int32 Array of shape (N,), each in [0, K).
      row_costs: Array of shape (N,), the squared distances to these centers where they are known.
    """
    x, weights, _ = data
    k = centers.shape[0]
    centred = x - centers.at[labels].get(mode="promise_in_bounds")
    if row_costs is None:
        row_costs = jnp.sum(jnp.square(centred), axis=1)
    # Apart, not as columns of one array: that would be one copy more of all rows.
    costs = linalg.sum_by_label((weights * row_costs)[:, None], labels, k)[:, 0]
    farthest = _argmax(jnp.where(weights > 0, row_costs, -jnp.inf))
    return Stats(
        loss=jnp.sum(costs),
        counts=linalg.sum_by_label(weights[:, None], labels, k)[:, 0],
        costs=costs,
        sums=linalg.sum_by_label(weights[:, None] * centred, labels, k),
        farthest=Largest(jnp.where(weights[farthest] > 0, row_costs[farthest], -jnp.inf), x[farthest]),
    )


def _argmax(values: Array, width: int = 16) -> Array:
    # The first of the largest. A row at a time on XLA's CPU backend costs several times as much.
    num_groups = -(-values.shape[0] // width)
    groups = jnp.pad(values, (0, num_groups * width - values.shape[0]), constant_values=-jnp.inf)
    groups = groups.reshape(num_groups, width)
    group = jnp.argmax(jnp.max(groups, axis=1))
    return group * width + jnp.argmax(groups[group])


def _chunk_rows(centers: Array, data: Data, platform: str) -> int:
    """Rows a chunk: scores for a block of centers and two copies of the rows fit in the room, all chunks alike."""
    k, num_features = centers.shape
    num_scores = min(k, GROUP) if platform == "cpu" else k
    size = max(1, CHUNK_BYTES[platform] // (centers.dtype.itemsize * (num_scores + 2 * num_features)))
    num_rows = data.x.shape[0]
    num_chunks = -(-num_rows // size)
    return min(num_rows, -(-num_rows // num_chunks // 64) * 64 if num_chunks > 1 else num_rows)


Finder = Callable[[Array, Array, Array | int], tuple[Array, Array | None]]
"""From rows (n, D), all rows (N, D) and where the former start in these, to labels, and distances if they are free."""


def _finder(centers: Array, origin: Array, platform: str) -> Finder:
    """How the nearest center is found; what depends on the centers alone is done once."""
    if centers.ndim != 2 or centers.shape[1:] != origin.shape:
        raise ValueError(f"Rows (N, D) and centers (K, D) need one width D, got {origin.shape[0]} and {centers.shape}.")
    k, num_features = centers.shape
    if num_features > FEW_FEATURES and k * num_features > FEW_PRODUCTS:
        find = _by_expansion(centers, origin, platform)
    elif platform == "cpu":
        find = _by_differences(centers)
    else:
        find = lambda x, *_: (plain(centers, x), None)  # noqa: E731
    is_nan = jnp.any(jnp.isnan(centers), axis=1)
    broken, first_broken = jnp.any(is_nan), jnp.argmax(is_nan).astype(jnp.int32)

    # As argmin has it: NaN is nearest to everything, and so it shows in the loss.
    def guarded(x: Array, whole: Array, start: Array | int) -> tuple[Array, Array | None]:
        found, row_costs = find(x, whole, start)
        costs = None if row_costs is None else jnp.where(broken, jnp.nan, row_costs)
        return jnp.where(broken, first_broken, found), costs

    return guarded


def _by_differences(centers: Array) -> Finder:
    num_features = centers.shape[1]
    blocks = _blocks(centers, 1, BLOCK // num_features, jnp.inf)[0]
    num_blocks, width, _ = blocks.shape

    def find(x: Array, *_: Array | int) -> tuple[Array, Array]:
        columns = x.T

        def distances(block: Array) -> Iterator[Array]:
            for center in block:
                squares = [jnp.square(columns[d] - center[d]) for d in range(num_features)]
                yield sum(squares[1:], squares[0])

        def compare(index: Array | int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            return _chain(distances(blocks[index]), index * width, carry)

        # The barrier keeps XLA from taking all distances again for each use of the labels.
        least, label = jax.lax.optimization_barrier(_loop(num_blocks, compare, _nothing(x)))
        return label, least

    return find


def _by_expansion(centers: Array, origin: Array, platform: str) -> Finder:
    is_on = jnp.all(jnp.isfinite(centers), axis=1)
    about = jnp.where(is_on[:, None], centers - origin[None], 0)
    squares = jnp.where(is_on, jnp.sum(jnp.square(about), axis=1), jnp.inf)
    apart = _are_apart(about, squares, is_on)
    num_groups = -(-centers.shape[0] // GROUP)
    table, constants = _blocks(-2 * about, num_groups, BLOCK, 0), _blocks(squares[:, None], num_groups, BLOCK, jnp.inf)
    _, num_blocks, width, num_features = table.shape

    def find(x: Array, whole: Array, start: Array | int) -> tuple[Array, None]:
        shifted = x - origin[None]

        def compare_group(group: Array | int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            products = linalg.dot(table[group].reshape(num_blocks * width, num_features), shifted.T)
            products = products.reshape(num_blocks, width, x.shape[0])

            def compare(block: Array | int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
                scores = (products[block, j] + constants[group, block, j] for j in range(width))
                return _chain(scores, (group * num_blocks + block) * width, carry)

            return _loop(num_blocks, compare, carry)

        if platform == "cpu":
            found = _loop(num_groups, compare_group, _nothing(x))[1]
        else:
            found = jnp.argmin(linalg.dot(shifted, -2 * about.T) + squares[None], axis=1).astype(jnp.int32)
        return _corrected(found, apart, centers, whole, start), None

    return find


def _corrected(found: Array, right: Array, centers: Array, whole: Array, start: Array | int) -> Array:
    """The labels as they are where they are right, else those of direct differences, some rows at a time."""

    # Out of all rows: XLA would copy those of the chunk.
    def of_rows(first: Array, size: int) -> Array:
        return plain(centers, jax.lax.dynamic_slice_in_dim(whole, start + first, size))

    return rows.recompute(found, ~right, of_rows, CORRECTED_ROWS)


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


def _blocks(table: Array, num_groups: int, width: int, padding: float) -> Array:
    """The rows of a table (K, C) in order, as groups of blocks of at most `width`; padded at the end."""
    k, num_columns = table.shape
    num_blocks = -(-k // (num_groups * width))
    width = -(-k // (num_groups * num_blocks))
    missing = num_groups * num_blocks * width - k
    table = jnp.pad(table, ((0, missing), (0, 0)), constant_values=padding)
    return table.reshape(num_groups, num_blocks, width, num_columns)


def _nothing(x: Array) -> tuple[Array, Array]:
    return jnp.full(x.shape[0], jnp.inf, x.dtype), jnp.zeros(x.shape[0], jnp.int32)


def _chain(scores: Iterable[Array], first: Array | int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
    """The least score of each row so far and its index; unrolled, as XLA's CPU backend vectorises it over the rows."""
    least, label = carry
    for j, score in enumerate(scores):
        less = score < least
        least, label = jnp.where(less, score, least), jnp.where(less, first + j, label)
    return least, label


def _loop(
    num: int, body: Callable[[Array | int, tuple[Array, Array]], tuple[Array, Array]], carry: tuple[Array, Array]
) -> tuple[Array, Array]:
    return body(0, carry) if num == 1 else jax.lax.fori_loop(0, num, body, carry)
