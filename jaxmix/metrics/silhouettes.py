"""Silhouettes: how much nearer rows are to their own cluster than to the next one, in chunks of rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import frame, linalg, validation
from jaxmix.data import Data
from jaxmix.kernels import segments
from jaxmix.metrics.agreement import as_counts
from jaxmix.typing import ArrayLike

DISTANCES = 2**21
"""How many are held at once, unless `chunk` says otherwise."""


def silhouette_samples(
    x: ArrayLike, labels: ArrayLike, k: int, *, weights: ArrayLike | None = None, chunk: int | None = None
) -> Array:
    r"""The silhouette of each row: how much nearer its own cluster is than the next one; higher is better.

    With $a_n$ the mean Euclidean distance to the other rows of its cluster, and $b_n$ the least mean distance to the
    rows of another,

    $$s_n = \frac{b_n - a_n}{\max(a_n, b_n)}$$

    Takes N^2 D operations, in chunks of rows, so that only (chunk, N) distances are stored.

    Args:
      x: array of shape (N, D).
      labels: integer array of shape (N,), in [0, K). Some may have no rows.
      k: the number of labels K, at least 2.
      weights: array of shape (N,), how many rows each stands for: a row of weight 2 has another at distance zero.
        None for ones.
      chunk: rows at once, which sets the memory and not the result; None for about two million distances.

    Returns:
      Array of shape (N,), from -1 to 1; 0 for a row alone in its cluster, and for a row of weight zero; NaN where
      traced labels leave one cluster only.

    Raises:
      ValueError: for bad `x`, weights, labels, `k` or `chunk`, or if fewer than two clusters have rows.

    References:
      Rousseeuw (1987), Silhouettes: a graphical aid to the interpretation and validation of cluster analysis.

    Example:
      >>> from jaxmix import metrics
      >>> [round(s, 3) for s in metrics.silhouette_samples([[0.0], [1.0], [9.0], [10.0]], [0, 0, 1, 1], 2).tolist()]
      [0.895, 0.882, 0.882, 0.895]
    """
    return _silhouettes(*_clustered(x, labels, k, weights, chunk))


def silhouette(
    x: ArrayLike, labels: ArrayLike, k: int, *, weights: ArrayLike | None = None, chunk: int | None = None
) -> Array:
    r"""The mean silhouette coefficient, $\sum_n w_n s_n / \sum_n w_n$; higher is better.

    Args:
      x: array of shape (N, D).
      labels: integer array of shape (N,), in [0, K).
      k: the number of labels K, at least 2.
      weights: as in `silhouette_samples`.
      chunk: as in `silhouette_samples`.

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
    data, *rest = _clustered(x, labels, k, weights, chunk)
    return jnp.sum(data.weights * _silhouettes(data, *rest)) / jnp.sum(data.weights)


def _clustered(
    x: ArrayLike, labels: ArrayLike, k: int, weights: ArrayLike | None, chunk: int | None
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
    num_rows = data.x.shape[0]
    chunk = max(1, DISTANCES // num_rows) if chunk is None else validation.check_int(chunk, "chunk", least=1)
    return data, labels, k, min(chunk, num_rows)


@partial(jax.jit, static_argnums=(2, 3))
def _silhouettes(data: Data, labels: Array, k: int, chunk: int) -> Array:
    x, weights, _ = data
    num_rows = x.shape[0]
    counts = segments.sum_by_label(weights[:, None], labels, k)

    def of_rows(rows: Array) -> Array:
        squares = linalg.squared_distances(x, x[rows])
        # The root has no slope at zero, where each row meets itself.
        apart = squares != 0
        distances = jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)
        sums = segments.sum_by_label(weights[:, None] * distances, labels, k)  # (K, chunk)
        own = labels[rows][None, :] == jnp.arange(k, dtype=labels.dtype)[:, None]
        others = counts[labels[rows], 0] - 1
        alone = others <= 0
        within = jnp.sum(jnp.where(own, sums, 0), axis=0) / jnp.where(alone, 1, others)
        absent = own | (counts == 0)
        next_one = jnp.min(jnp.where(absent, jnp.inf, sums / jnp.where(absent, 1, counts)), axis=0)
        value = linalg.safe_divide(next_one - within, jnp.maximum(within, next_one))
        value = jnp.where(alone | (weights[rows] == 0), 0, value)
        return jnp.where(jnp.isinf(next_one), jnp.nan, value)

    # The last chunk overlaps the one before, so that all have one shape.
    firsts = np.minimum(np.arange(0, num_rows, chunk), num_rows - chunk)
    rows = jnp.asarray(firsts[:, None] + np.arange(chunk)[None, :], jnp.int32)
    values = jax.lax.map(jax.checkpoint(of_rows), rows)
    return jnp.concatenate([values[:-1].ravel(), values[-1, firsts.size * chunk - num_rows :]])
