"""Silhouettes: how much nearer rows are to their own cluster than to the next one, a block of rows at a time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import frame, linalg, validation
from jaxmix.data import Data
from jaxmix.kernels import segments
from jaxmix.metrics.agreement import as_counts
from jaxmix.reduction import Blocks, Footprint, map_rows
from jaxmix.typing import ArrayLike

DISTANCES = 2**21
"""How many a block of rows has on CPU, unless `reduce` sets its size."""


def silhouette_samples(
    x: ArrayLike, labels: ArrayLike, k: int, *, weights: ArrayLike | None = None, reduce: Blocks = Blocks()
) -> Array:
    r"""The silhouette of each row: how much nearer its own cluster is than the next one; higher is better.

    With $a_n$ the mean Euclidean distance to the other rows of its cluster, and $b_n$ the least mean distance to the
    rows of another,

    $$s_n = \frac{b_n - a_n}{\max(a_n, b_n)}$$

    Takes N^2 D operations, a block of n rows at a time, so that only (n, N) distances are stored.

    Args:
      x: array of shape (N, D).
      labels: integer array of shape (N,), in [0, K). Some may have no rows.
      k: the number of labels K, at least 2.
      weights: array of shape (N,), how many rows each stands for: a row of weight 2 has another at distance zero.
        None for ones.
      reduce: how rows are cut into blocks; `Blocks(size)` sets the memory, and not the result.

    Returns:
      Array of shape (N,), from -1 to 1; 0 for a row alone in its cluster, and for a row of weight zero; NaN where
      traced labels leave one cluster only.

    Raises:
      ValueError: for bad `x`, weights, labels, `k` or `reduce`, or if fewer than two clusters have rows.

    References:
      Rousseeuw (1987), Silhouettes: a graphical aid to the interpretation and validation of cluster analysis.

    Example:
      >>> from jaxmix import metrics
      >>> [round(s, 3) for s in metrics.silhouette_samples([[0.0], [1.0], [9.0], [10.0]], [0, 0, 1, 1], 2).tolist()]
      [0.895, 0.882, 0.882, 0.895]
    """
    return _silhouettes(*_clustered(x, labels, k, weights, reduce))


def silhouette(
    x: ArrayLike, labels: ArrayLike, k: int, *, weights: ArrayLike | None = None, reduce: Blocks = Blocks()
) -> Array:
    r"""The mean silhouette coefficient, $\sum_n w_n s_n / \sum_n w_n$; higher is better.

    Args:
      x: array of shape (N, D).
      labels: integer array of shape (N,), in [0, K).
      k: the number of labels K, at least 2.
      weights: as in `silhouette_samples`.
      reduce: as in `silhouette_samples`.

    Returns:
      Array of shape (), from -1 to 1: scikit-learn's `silhouette_score`.

    Raises:
      ValueError: as `silhouette_samples` does.

    References:
      Rousseeuw (1987).

    Example:
      >>> from jaxmix import metrics
      >>> round(metrics.silhouette([[0.0], [1.0], [9.0], [10.0]], [0, 0, 1, 1], 2).item(), 3)
      0.889
    """
    data, *rest = _clustered(x, labels, k, weights, reduce)
    return jnp.sum(data.weights * _silhouettes(data, *rest)) / jnp.sum(data.weights)


def _clustered(
    x: ArrayLike, labels: ArrayLike, k: int, weights: ArrayLike | None, reduce: Blocks
) -> tuple[Data, Array, int, int]:
    k = validation.check_int(k, "k", least=2)
    data = validation.as_data(x, weights)
    data = data._replace(weights=as_counts(data.weights))
    labels, data = validation.as_labels(labels, data, k)
    data = frame.scaled_rows(data, frame.scale_of(data.x))  # a silhouette has no unit
    if validation.is_concrete(labels, data.weights):
        held = np.unique(np.asarray(labels)[np.asarray(data.weights) > 0])
        if held.size < 2:
            raise ValueError(f"A silhouette compares clusters: at least two must have rows, got only label {held[0]}.")
    reduce.validate()
    num_rows, num_features = data.x.shape
    footprint = Footprint(num_rows, room=DISTANCES)
    return data, labels, k, reduce.rows_per_block(num_rows, num_features, footprint, data.x.dtype.itemsize)


@partial(jax.jit, static_argnums=(2, 3))
def _silhouettes(data: Data, labels: Array, k: int, size: int) -> Array:
    counts = segments.sum_by_label(data.weights[:, None], labels, k)

    def of_block(held: tuple[Array, ...], block: tuple[Array, ...]) -> Array:
        (x, weights, labels, counts), (rows, own_weights, own_labels) = held, block
        squares = linalg.squared_distances(x, rows)
        # The root has no slope at zero, where each row meets itself.
        apart = squares != 0
        distances = jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)
        sums = segments.sum_by_label(weights[:, None] * distances, labels, k)  # (K, n)
        own = own_labels[None, :] == jnp.arange(k, dtype=labels.dtype)[:, None]
        others = counts[own_labels, 0] - 1
        alone = others <= 0
        within = jnp.sum(jnp.where(own, sums, 0), axis=0) / jnp.where(alone, 1, others)
        absent = own | (counts == 0)
        next_one = jnp.min(jnp.where(absent, jnp.inf, sums / jnp.where(absent, 1, counts)), axis=0)
        value = linalg.safe_divide(next_one - within, jnp.maximum(within, next_one))
        value = jnp.where(alone | (own_weights == 0), 0, value)
        return jnp.where(jnp.isinf(next_one), jnp.nan, value)

    return map_rows(of_block, (data.x, data.weights, labels, counts), (data.x, data.weights, labels), size)
