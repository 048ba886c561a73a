"""How far labelings agree, whatever their labels are called: of two, and of all pairs of restarts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import linalg, memory, validation
from jaxmix.kernels import segments
from jaxmix.typing import ArrayLike

MOST_LABELS = 2**15
"""A contingency table of so many takes 4 GiB; the cells of one of twice as many outnumber int32."""


def adjusted_rand_index(
    a: ArrayLike, b: ArrayLike, *, num_labels: int | None = None, weights: ArrayLike | None = None
) -> Array:
    r"""How far two labelings agree on which pairs of rows belong together, corrected for chance; higher is better.

    Of the ordered pairs of rows, let $t$ be together in both, $u$ in neither, and $f$ and $g$ in one alone:

    $$\mathrm{ARI} = \frac{2 (t u - f g)}{(t + f)(f + u) + (t + g)(g + u)}$$

    1 for labelings equal up to names, 0 expected of chance, negative below that. All four are sums of products of
    counts, without a difference: a rare label keeps its digits in float32 beside any number of rows.

    Args:
      a: integer array of shape (N,), in [0, num_labels).
      b: integer array of shape (N,), in [0, num_labels).
      num_labels: how many labels there may be, static; None to look at the labels, which `jit` and `vmap` do not
        let one do. Time and memory grow with its square.
      weights: array of shape (N,), how many rows each stands for; None for ones.

    Returns:
      Array of shape (), at most 1; 1 where no pair can tell the two apart, as if both are one cluster.

    Raises:
      ValueError: for labels that are not integers, of unequal length or out of range, no `num_labels` for traced
        labels, or bad weights.

    References:
      Hubert and Arabie (1985), Comparing partitions.

    Example:
      >>> from jaxmix import metrics
      >>> metrics.adjusted_rand_index([0, 0, 1, 1], [1, 1, 0, 0]).item()
      1.0
    """
    labels, counts, k = _labelings(_pair(a, b), num_labels, weights)
    return _adjusted_rand(_contingency(labels[0], labels[1], counts, k))


def normalized_mutual_information(
    a: ArrayLike, b: ArrayLike, *, num_labels: int | None = None, weights: ArrayLike | None = None
) -> Array:
    r"""How much one labeling says of another, as a share of the mean of their entropies; higher is better.

    $$\mathrm{NMI} = \frac{2 I(a; b)}{H(a) + H(b)}, \qquad
      I(a; b) = \sum_{ij} p_{ij} \log \frac{p_{ij}}{p_i p_j}$$

    Unlike `adjusted_rand_index` it is not corrected for chance: it grows with the number of labels.

    Args:
      a: integer array of shape (N,), in [0, num_labels).
      b: integer array of shape (N,), in [0, num_labels).
      num_labels: as in `adjusted_rand_index`.
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      Array of shape (), from 0 to 1; 1 where both are one cluster. scikit-learn's, whose default is this mean.

    Raises:
      ValueError: as `adjusted_rand_index` does.

    References:
      Vinh, Epps and Bailey (2010), Information theoretic measures for clusterings comparison: their NMI_sum.

    Example:
      >>> from jaxmix import metrics
      >>> metrics.normalized_mutual_information([0, 0, 1, 1], [0, 1, 0, 1]).item()
      0.0
    """
    labels, counts, k = _labelings(_pair(a, b), num_labels, weights)
    return _normalized_information(_contingency(labels[0], labels[1], counts, k))


def stability(labels: ArrayLike, *, num_labels: int | None = None, weights: ArrayLike | None = None) -> Array:
    r"""How far restarts agree: the mean adjusted Rand index of all pairs of them; higher is better.

    $$S = \frac{2}{R (R - 1)} \sum_{r < s} \mathrm{ARI}(z_r, z_s)$$

    Args:
      labels: integer array of shape (R, N), a labeling for each of R restarts, in [0, num_labels).
      num_labels: as in `adjusted_rand_index`.
      weights: array of shape (N,), as in `adjusted_rand_index`.

    Returns:
      Array of shape (), at most 1: 1 where all restarts found the same clusters.

    Raises:
      ValueError: for fewer than two restarts, and as `adjusted_rand_index` does.

    References:
      von Luxburg (2010), Clustering stability: an overview.

    Example:
      >>> from jaxmix import metrics
      >>> metrics.stability([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]]).item()
      1.0
    """
    labels = _integers(labels, "labels")
    if labels.ndim != 2 or labels.shape[0] < 2:
        raise ValueError(f"`labels` must have shape (R, N), R at least 2 restarts, got {labels.shape}.")
    return _mean_agreement(*_labelings(labels, num_labels, weights))


def _integers(value: ArrayLike, name: str) -> Array | np.ndarray:
    array = validation.as_array(value, name)
    if not jnp.issubdtype(array.dtype, jnp.integer) or array.size == 0:
        raise ValueError(f"`{name}` must hold integer labels, got {array.dtype} of shape {array.shape}.")
    return array


def _pair(a: ArrayLike, b: ArrayLike) -> Array | np.ndarray:
    a, b = _integers(a, "a"), _integers(b, "b")
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"`a` and `b` must both have shape (N,), got {a.shape} and {b.shape}.")
    if validation.is_concrete(a, b):
        return np.stack([a, b])
    # In one dtype: a label beyond it becomes negative, and so is out of range still.
    return jnp.stack([a, b] if a.dtype == b.dtype else [jnp.asarray(a).astype(int), jnp.asarray(b).astype(int)])


def _labelings(
    labels: Array | np.ndarray, num_labels: int | None, weights: ArrayLike | None
) -> tuple[Array, Array, int]:
    """Labels of shape (R, N), int32, the counts of the rows, and the number of labels; NaN counts for bad labels."""
    present = validation.as_data(np.zeros((labels.shape[1], 1)), weights).weights
    seen = validation.is_concrete(labels, present)
    if seen:
        # The label of a row of weight zero may be anything.
        labels = linalg.fill_absent(labels.T, np.asarray(present)).T
    if isinstance(labels, np.ndarray):
        low, high = labels.min(), labels.max()
        if num_labels is None and low >= 0:
            # Only which labels are equal matters, so that gaps need cost nothing.
            names, flat = np.unique(labels, return_inverse=True)
            labels, num_labels = flat.reshape(labels.shape), names.size
        elif seen and (low < 0 or high >= validation.check_int(num_labels, "num_labels", least=1)):
            raise ValueError(f"Labels must lie in [0, {num_labels or 'K'}), got values from {low} to {high}.")
    if num_labels is None:
        raise ValueError("`num_labels` must be given for traced labels: it sets a shape, and cannot depend on values.")
    k = validation.check_int(num_labels, "num_labels", least=1)
    if k > MOST_LABELS:
        raise ValueError(f"There may be at most {MOST_LABELS} labels, since all pairs are counted, got {k}.")
    labels = memory.copied(labels) if isinstance(labels, np.ndarray) else labels
    if labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)  # int8 cannot be compared with 128
    labels = labels if seen or weights is None else linalg.fill_absent(labels.T, present).T
    valid = jnp.all((labels >= 0) & (labels < k))
    return jnp.clip(labels, 0, k - 1).astype(jnp.int32), jnp.where(valid, as_counts(present), jnp.nan), k


def as_counts(weights: Array) -> Array:
    """Weights that stand for so many rows each, as chance and a row's distance to itself ask for. Rejects others.

    Raises:
      ValueError: for a positive weight below 1. A traced one becomes NaN.
    """
    if validation.is_concrete(weights) and ((np.asarray(weights) > 0) & (np.asarray(weights) < 1)).any():
        raise ValueError(
            "Weights count rows here: each must be 0 or at least 1. Multiply shares by the number of rows."
        )
    return jnp.where((weights > 0) & (weights < 1), jnp.nan, weights)


@partial(jax.jit, static_argnums=3)
def _contingency(a: Array, b: Array, counts: Array, k: int) -> Array:
    return segments.sum_by_label(counts[:, None], a * k + b, k * k).reshape(k, k)


def _others(table: Array, axis: int) -> Array:
    """For each entry the sum of the others along an axis."""
    # From both its sides: the whole less the entry would round a rare label away beside a frequent one.
    ahead, back = [(0, 0, 0)] * table.ndim, [(0, 0, 0)] * table.ndim
    ahead[axis], back[axis] = (1, -1, 0), (-1, 1, 0)
    zero = jnp.zeros((), table.dtype)
    before = jax.lax.pad(jax.lax.cumsum(table, axis), zero, ahead)
    return before + jax.lax.pad(jax.lax.cumsum(table, axis, reverse=True), zero, back)


def _complements(table: Array) -> tuple[Array, Array, Array]:
    """Rows with one label and not the other, and with neither, as sums: nothing cancels."""
    only_a = _others(table, 1)
    return only_a, _others(table, 0), _others(only_a, 0)


@jax.jit
def _adjusted_rand(table: Array) -> Array:
    total = jnp.sum(table)
    pairs = table / total
    only_a, only_b, neither = (jnp.sum(pairs * rows / total) for rows in _complements(table))
    both = jnp.sum(pairs * (table - 1) / total)
    agreement = 2 * (both * neither - only_a * only_b)
    most = (both + only_a) * (only_a + neither) + (both + only_b) * (only_b + neither)
    return linalg.safe_divide(agreement, most, 1.0)


@jax.jit
def _normalized_information(table: Array) -> Array:
    total = jnp.sum(table)

    def entropy(counts: Array) -> Array:
        return -jnp.sum(_times_log(counts / total, counts / total, -_others(counts, 0) / total))

    in_a, in_b = jnp.sum(table, axis=1), jnp.sum(table, axis=0)
    shares, expected = table / total, (in_a / total)[:, None] * (in_b / total)[None, :]
    only_a, only_b, neither = (rows / total for rows in _complements(table))
    excess = linalg.safe_divide(shares * neither - only_a * only_b, expected)
    information = jnp.sum(_times_log(shares, linalg.safe_divide(shares, expected), excess))
    return jnp.clip(linalg.safe_divide(2 * information, entropy(in_a) + entropy(in_b), 1.0), 0, 1)


def _times_log(share: Array, ratio: Array, excess: Array) -> Array:
    """Share * log(ratio), where ratio = 1 + excess: near 1 the excess has the digits, far from it the ratio."""
    near = jnp.abs(excess) < 0.5
    log = jnp.where(near, jnp.log1p(jnp.where(near, excess, 0)), jnp.log(jnp.where(near | (ratio == 0), 1, ratio)))
    return share * log


@partial(jax.jit, static_argnums=2)
def _mean_agreement(labels: Array, counts: Array, k: int) -> Array:
    pairs = jnp.stack([jnp.asarray(ends, jnp.int32) for ends in np.triu_indices(labels.shape[0], 1)], axis=1)
    return jnp.mean(jax.lax.map(lambda pair: _adjusted_rand(_contingency(*labels[pair], counts, k)), pairs))
