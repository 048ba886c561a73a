"""The mathematics of K-means: assignment, update and cost, as pure functions of centers and rows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import arrays, frame, linalg, memory, validation
from jaxmix.data import Data, Rows
from jaxmix.kernels import far, nearest
from jaxmix.kernels.nearest import Stats
from jaxmix.reduction import Blocks, Footprint, map_rows
from jaxmix.typing import ArrayLike

EMPTY_POLICIES = ("farthest", "keep")


def predict(centers: ArrayLike, x: ArrayLike) -> Array:
    r"""The nearest center of each row.

    $$z_n = \arg\min_k |x_n - u_k|^2$$

    Args:
      centers: array of shape (K, D); taken in the dtype of `x`.
      x: array of shape (N, D).

    Returns:
      Array of shape (N,), int32, in [0, K). Of equally near centers the first. -1 for a row with NaN or infinity,
      which is rejected unless it is traced, and where no center is on.

    Raises:
      ValueError: for a wrong rank or width, or NaN or infinity in concrete `x`.

    References:
      Lloyd (1982), condition 1: each point is quantized to its nearest quantum.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> kmeans.predict(jnp.array([[0.0], [10.0]]), jnp.array([[1.0], [8.0], [2.0]])).tolist()
      [0, 1, 0]
    """
    centers, data = validation.as_centers(centers, x, has_weights=False, in_place=True)
    # By the centers: one row far away must not make the squares of the others underflow.
    centers, rows = frame.scaled((centers, data.x), frame.scale_of(centers))
    return memory.map_parts(_labels, centers, rows)


def objective(
    centers: ArrayLike, x: ArrayLike, labels: ArrayLike | None = None, *, weights: ArrayLike | None = None
) -> Array:
    r"""The K-means cost J: the weighted sum of squared distances to the centers, without a factor 1/2.

    $$J(u, z) = \sum_n w_n |x_n - u_{z_n}|^2$$

    It is also the error of a matrix factorization, $\|X - Z U\|_F^2$, with the rows of $Z$ indicator vectors.
    Differentiable in `centers`: the gradient is $-2 \sum_n w_n z_{nk} (x_n - u_k)$.

    Args:
      centers: array of shape (K, D).
      x: array of shape (N, D).
      labels: integer array of shape (N,); None for the nearest centers, which minimize J.
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      Array of shape (), in squared units of `x`.

    Raises:
      ValueError: for bad shapes, dtypes, labels or weights, or NaN or infinity in concrete `x`.

    References:
      MacQueen (1967), section 1; Bishop (2006), equation 9.1.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> kmeans.objective(jnp.array([[0.0], [10.0]]), jnp.array([[1.0], [8.0]])).item()
      5.0
    """
    places, data = validation.as_centers(centers, x, weights, in_place=True)
    scale = frame.scale_of(data.x)
    places, data = frame.scaled(places, scale), frame.scaled_rows(data, scale)
    if labels is None:
        return frame.unscaled(loss(places, data), scale, power=2)
    codes, data = validation.as_labels(labels, data, places.shape[0])
    return frame.unscaled(loss_at(places, data, codes), scale, power=2)


def update(centers: ArrayLike, x: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None) -> Array:
    r"""The M-step in closed form: each center becomes the weighted mean of the rows that bear its label.

    $$u_k = \frac{\sum_n w_n z_{nk} x_n}{\sum_n w_n z_{nk}}$$

    This is one Newton step on J for fixed labels, whose Hessian is $2 N_k I$.

    Args:
      centers: array of shape (K, D); a center whose cluster is empty stays.
      x: array of shape (N, D).
      labels: integer array of shape (N,), in [0, K).
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      Array of shape (K, D), in the dtype of `x`.

    Raises:
      ValueError: for bad shapes, dtypes, labels or weights, or NaN or infinity in concrete `x`.

    References:
      Lloyd (1982), condition 2: each quantum is the center of mass of its set; Bishop (2006), equation 9.4.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> x = jnp.array([[1.0], [8.0], [2.0]])
      >>> kmeans.update(jnp.array([[0.0], [10.0]]), x, jnp.array([0, 1, 0])).ravel().tolist()
      [1.5, 8.0]
    """
    start, data = validation.as_centers(centers, x, weights)
    scale = frame.scale_of(data.x)
    start, data = frame.scaled(start, scale), frame.scaled_rows(data, scale)
    labels, data = validation.as_labels(labels, data, start.shape[0])
    # Twice: the second time about the means themselves, and so right to the last digit from any centers.
    return frame.unscaled(_updated(_updated(start, data, labels), data, labels), scale)


@jax.jit
def _updated(centers: Array, data: Data, labels: Array) -> Array:
    return m_step(nearest.statistics(centers, Rows(data.x, data.weights), labels), centers, empty="keep")


def reconstruct(centers: ArrayLike, labels: ArrayLike) -> Array:
    r"""The code book read back: the decoder of which `predict` is the encoder.

    $$\hat x_n = u_{z_n}, \qquad \hat X = Z U$$

    Args:
      centers: array of shape (K, D), the code book.
      labels: integer array of any shape S, the codes, in [0, K).

    Returns:
      Array of shape S + (D,). NaN for a traced label out of range.

    Raises:
      ValueError: if `centers` has no two axes, or `labels` are not integers or out of range.

    References:
      Gersho and Gray (1992), section 10.1: the decoder of a vector quantizer.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> kmeans.reconstruct(jnp.array([[0.0], [10.0]]), jnp.array([1, 0])).ravel().tolist()
      [10.0, 0.0]
    """
    centers = validation.as_floating(centers, "centers")
    validation.check_rank(centers, "centers")
    codes, valid = validation.as_codes(labels, centers.shape[0])
    return jnp.where(valid[..., None], centers[codes], jnp.nan)


def e_step(centers: ArrayLike, x: ArrayLike | Data, *, weights: ArrayLike | None = None) -> Stats:
    r"""Assigns every row to its nearest center, and sums what the M-step needs.

    $$N_k = \sum_n w_n z_{nk}, \qquad S_k = \sum_n w_n z_{nk} (x_n - u_k)$$

    Args:
      centers: array of shape (K, D).
      x: array of shape (N, D), or `Data`.
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      `Stats`, additive over rows.

    Raises:
      ValueError: for bad shapes, dtypes or weights, or NaN or infinity in concrete `x`.

    References:
      Bishop (2006), equation 9.2.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> stats = kmeans.e_step(jnp.array([[0.0], [10.0]]), jnp.array([[1.0], [8.0], [2.0]]))
      >>> stats.counts.tolist(), stats.loss.item()
      ([2.0, 1.0], 9.0)
    """
    return _e_step(*validation.as_centers(centers, x, weights))


@jax.jit
def _e_step(centers: Array, data: Data) -> Stats:
    return nearest.statistics(centers, Rows(data.x, data.weights), nearest.labels_reference(centers, data.x))


@partial(jax.jit, static_argnames="empty")
def m_step(stats: Stats, centers: Array, *, empty: str = "farthest") -> Array:
    r"""The centers that minimize J for the labels behind the statistics.

    $$u_k \leftarrow u_k + S_k / N_k$$

    A coordinate that would move by no more than rounding stays, to the bit, so that the fixed point is exact.
    A center without rows stays ("keep"), or the first such moves onto the row that lies farthest from its own
    center ("farthest"); one at infinity is switched off, and stays. That row cost $w d^2$ and will cost nothing,
    and no other row loses by a center more, so J cannot rise; being the farthest, it is where the move gains most
    per unit of weight. One center moves a step, so that the next one sees the last; nothing moves when every row
    lies on its center.

    Args:
      stats: what `e_step` returned.
      centers: Array of shape (K, D), the centers that `e_step` was given.
      empty: "farthest" or "keep", static.

    Returns:
      Array of shape (K, D).

    Raises:
      ValueError: for an unknown policy.

    References:
      Bishop (2006), equation 9.4.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> centers = jnp.array([[0.0], [99.0]])
      >>> stats = kmeans.e_step(centers, jnp.array([[1.0], [8.0]]))
      >>> kmeans.m_step(stats, centers).ravel().tolist()
      [4.5, 8.0]
      >>> kmeans.m_step(stats, centers, empty="keep").ravel().tolist()
      [4.5, 99.0]
    """
    check_policy(empty)
    arrays.reject_fit(centers, "centers")
    shift = linalg.safe_divide(stats.sums, stats.counts[:, None])
    # The mean's own rounding is relative to the cluster's width; a place's, to its distance from zero.
    width = jnp.sqrt(linalg.safe_divide(stats.costs, stats.counts))[:, None]
    rounding = jnp.finfo(centers.dtype).eps * (8 * width + 0.53 * jnp.abs(centers))
    moved = jnp.where(jnp.abs(shift) <= rounding, centers, centers + shift)
    if empty == "keep":
        return moved
    return fill(stats, centers, moved)


def check_policy(empty: str) -> None:
    """Rejects an unknown policy for empty clusters."""
    if empty not in EMPTY_POLICIES:
        raise ValueError(f"`empty` must be one of {EMPTY_POLICIES}, got {empty!r}.")


def is_empty(stats: Stats, centers: Array) -> Array:
    """Which centers are switched on and have no rows, of shape (K,)."""
    return (stats.counts == 0) & is_on(centers)


def fill(stats: Stats, centers: Array, moved: Array) -> Array:
    """`moved` centers, the first of which without rows goes onto the farthest row, if that is off its center."""
    empty = is_empty(stats, centers)
    first = empty & (jnp.cumsum(empty) == 1) & (stats.farthest.value > 0)
    return jnp.where(first[:, None], stats.farthest.row, moved)


def recenter(stats: Stats, centers: Array, new: Array) -> Stats:
    r"""The statistics of the same rows with the same labels, about other centers.

    $$\sum_n w_n z_{nk} (x_n - v_k) = S_k + N_k (u_k - v_k)$$

    Args:
      stats: what `e_step` returned.
      centers: Array of shape (K, D), the centers u that `e_step` was given.
      new: Array of shape (K, D), the centers v.

    Returns:
      `Stats`; `loss` is the cost of the rows at v under their old labels.

    References:
      Steiner's theorem of parallel axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans
      >>> stats = kmeans.e_step(jnp.array([[0.0]]), jnp.array([[1.0], [2.0]]))
      >>> kmeans.recenter(stats, jnp.array([[0.0]]), jnp.array([[1.5]])).costs.item()
      0.5
    """
    for name, places in (("centers", centers), ("new", new)):
        arrays.reject_fit(places, name)
    # A center without rows has nothing to move, and may stand at infinity.
    has_rows = (stats.counts > 0)[:, None]
    shift = jnp.where(has_rows, centers, 0) - jnp.where(has_rows, new, 0)
    counts = stats.counts[:, None]
    costs = stats.costs + jnp.sum(shift * (2 * stats.sums + counts * shift), axis=1)
    costs = jnp.maximum(costs, 0)  # a cluster on one point may round below
    return stats._replace(loss=jnp.sum(costs), costs=costs, sums=stats.sums + counts * shift)


@jax.jit
def _labels(centers: Array, x: Array) -> Array:
    def of_block(prepared: nearest.Prepared, x: Array) -> Array:
        found, least = nearest.labels(prepared, x)
        lost = ~jnp.isfinite(least)
        return far.mended(jnp.where(lost, -1, found), lost, prepared.centers, x, _far_labels, centers.size)

    return _by_blocks(of_block, nearest.prepare(centers), x)


def _far_labels(centers: Array, x: Array) -> Array:
    gaps = far.excess(x, centers, is_on(centers))[0]
    known = jnp.isfinite(jnp.min(gaps, axis=1))
    return jnp.where(known, jnp.argmin(gaps, axis=1), -1).astype(jnp.int32)


def loss(centers: Array, data: Data) -> Array:
    """`objective` of validated `Data`: J with every row at its nearest center."""
    return linalg.weighted_sum(data.weights, memory.map_parts(_costs, centers, data.x))


def loss_at(centers: Array, data: Data, labels: Array) -> Array:
    """J with every row at the center of its label; differentiable in `centers`."""
    return linalg.weighted_sum(data.weights, memory.map_parts(_costs_at, centers, (data.x, labels)))


@jax.jit
def _costs(centers: Array, x: Array) -> Array:
    def of_block(prepared: nearest.Prepared, x: Array) -> Array:
        return nearest.loss_rows(prepared.centers, x, nearest.labels(prepared, x)[0])

    return _by_blocks(of_block, nearest.prepare(centers), x)


@jax.jit
def _costs_at(centers: Array, rows: tuple[Array, Array]) -> Array:
    return _by_blocks(
        lambda prepared, block: nearest.loss_rows(prepared.centers, *block), nearest.prepare(centers), rows
    )


def _by_blocks(function: Callable[[nearest.Prepared, Any], Array], prepared: nearest.Prepared, rows: Any) -> Array:
    """A function of centers and a block of rows, for all rows: arrays of shape (n,) to one of shape (N,)."""
    x, k = jax.tree.leaves(rows)[0], prepared.centers.shape[0]
    size = Blocks().rows_per_block(x.shape[0], x.shape[1], Footprint(min(k, nearest.GROUP)), x.dtype.itemsize)
    return map_rows(function, prepared, rows, size)


def is_on(centers: Array) -> Array:
    """Which centers take rows at all: those at infinity are switched off."""
    return jnp.all(jnp.isfinite(centers), axis=1)
