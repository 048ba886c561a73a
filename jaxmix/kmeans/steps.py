"""The mathematics of K-means: assignment, update and cost, as pure functions of centers and rows."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import frame, linalg, validation
from jaxmix.data import Data, Rows
from jaxmix.kernels import far, nearest
from jaxmix.kernels.nearest import Stats
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
    data = validation.as_data(x)
    centers = validation.as_centers(centers, data)
    # By the centers: one row far away must not make the squares of the others underflow.
    scale = frame.scale_of(centers)
    return _labels(*frame.scaled((centers, data.x), scale))


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
    data = validation.as_data(x, weights)
    places = validation.as_centers(centers, data)
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
    data = validation.as_data(x, weights)
    scale = frame.scale_of(data.x)
    start, data = frame.scaled(validation.as_centers(centers, data), scale), frame.scaled_rows(data, scale)
    labels, data = validation.as_labels(labels, data, start.shape[0])
    rows = Rows(data.x, data.weights)
    # Twice: the second time about the means themselves, and so right to the last digit from any centers.
    near = m_step(nearest.statistics(start, rows, labels), start, empty="keep")
    return frame.unscaled(m_step(nearest.statistics(near, rows, labels), near, empty="keep"), scale)


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
    if centers.ndim != 2:
        raise ValueError(f"`centers` must have shape (K, D), got {centers.shape}.")
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
    data = validation.as_data(x, weights)
    return _e_step(validation.as_centers(centers, data), data)


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
    # A center without rows has nothing to move, and may stand at infinity.
    has_rows = (stats.counts > 0)[:, None]
    shift = jnp.where(has_rows, centers, 0) - jnp.where(has_rows, new, 0)
    counts = stats.counts[:, None]
    costs = stats.costs + jnp.sum(shift * (2 * stats.sums + counts * shift), axis=1)
    costs = jnp.maximum(costs, 0)  # a cluster on one point may round below
    return stats._replace(loss=jnp.sum(costs), costs=costs, sums=stats.sums + counts * shift)


@jax.jit
def _labels(centers: Array, x: Array) -> Array:
    distances = linalg.squared_distances(x, centers)
    found = jnp.argmin(distances, axis=1).astype(jnp.int32)
    lost = ~jnp.isfinite(jnp.min(distances, axis=1))

    def of_far(centers: Array, part: Array) -> Array:
        gaps = far.excess(part, centers, is_on(centers))[0]
        known = jnp.isfinite(jnp.min(gaps, axis=1))
        return jnp.where(known, jnp.argmin(gaps, axis=1), -1).astype(jnp.int32)

    return far.mended(jnp.where(lost, -1, found), lost, centers, x, of_far, centers.size)


@jax.jit
def loss(centers: Array, data: Data) -> Array:
    """`objective` of validated `Data`: J with every row at its nearest center."""
    return loss_at(centers, data, nearest.labels_reference(jax.lax.stop_gradient(centers), data.x))


@jax.jit
def loss_at(centers: Array, data: Data, labels: Array) -> Array:
    """J with every row at the center of its label; differentiable in `centers`."""
    return linalg.weighted_sum(data.weights, _costs(centers, data.x, labels))


def is_on(centers: Array) -> Array:
    """Which centers take rows at all: those at infinity are switched off."""
    return jnp.all(jnp.isfinite(centers), axis=1)


def _costs(centers: Array, x: Array, labels: Array) -> Array:
    return jnp.sum(jnp.square(x - centers[labels]), axis=1)
