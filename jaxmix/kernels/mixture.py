r"""Mahalanobis distances of rows, and their scatter about the means: what a step of EM for mixtures costs.

Components of their own width see rows as direct differences $x_n - m_k$: the expansion $|x|^2 - 2 x^T m + |m|^2$ is
one matrix product and loses $\epsilon |m|^2 / \sigma^2$, which in float32 is all of a covariance where means lie
thousands of widths apart. Components that share one width see rows about the mean of the means, and lose
$\epsilon |m| / \sigma$.
What is fast is the order: components lie on the first axis and rows on the last, so that every operation runs along
contiguous rows; rows come in blocks whose temporaries stay in a CPU's cache.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import linalg

FEW_FEATURES = 2
"""Up to here products of features are summed one by one on CPU: matrices so small pay for being multiplied."""

PARALLEL_SUMS = 64
"""Sums that run side by side along the rows: what a CPU's vector units want."""


def squares(means: Array, inverse_scale: Array, x: Array) -> Array:
    r"""Squared distances in units of each feature's scale.

    $$d_{kn} = \sum_d s_{kd}^{-2} (x_{nd} - m_{kd})^2$$

    Args:
      means: Array of shape (K, D).
      inverse_scale: Array of shape (K, D), or (1, D) where components share it.
      x: Array of shape (N, D).

    Returns:
      Array of shape (K, N).
    """
    k, num_features = means.shape
    inverse_scale = jnp.broadcast_to(inverse_scale, (k, num_features))

    def one_by_one(means: Array, inverse_scale: Array, x: Array) -> Array:
        # A feature at a time into an accumulator that stays in cache: XLA would sum features as a chain of scalars.
        def add(total: Array, feature: tuple[Array, Array, Array]) -> tuple[Array, None]:
            column, mean, inverse = feature
            return total + jnp.square((column[None] - mean[:, None]) * inverse[:, None]), None

        features = (x.T, means.T, inverse_scale.T)
        dtype = jnp.result_type(means, inverse_scale, x)
        return jax.lax.scan(add, jnp.zeros((k, x.shape[0]), dtype), features)[0]

    def at_once(means: Array, inverse_scale: Array, x: Array) -> Array:
        return jnp.sum(jnp.square((x[None] - means[:, None]) * inverse_scale[:, None]), axis=2)

    return jax.lax.platform_dependent(means, inverse_scale, x, cpu=one_by_one, default=at_once)


def whitened_squares(means: Array, inverse: Array, x: Array) -> Array:
    r"""Squared Mahalanobis distances, each component with its own Cholesky factor.

    $$d_{kn} = |L_k^{-1} (x_n - m_k)|^2$$

    A triangular system for each row would cost nine times the product with the inverse.

    Args:
      means: Array of shape (K, D).
      inverse: Array of shape (K, D, D), the inverses of the factors.
      x: Array of shape (N, D).

    Returns:
      Array of shape (K, N).
    """
    # How the means move is added for all rows at once. Were it a part of `centered`, its derivative would be a product
    # with a broadcast, which XLA fuses with the sum and gets wrong on CPU (jaxlib 0.10.2): NaN, or memory overwritten.
    held = jax.lax.stop_gradient(means)
    centered = x.T[None] - held[:, :, None]
    moved = jnp.matmul(inverse, (means - held)[:, :, None], precision=linalg.PRECISION)
    white = jnp.matmul(inverse, centered, precision=linalg.PRECISION) - moved
    return jnp.sum(jnp.square(white), axis=1)


def tied_whitened_squares(means: Array, inverse: Array, x: Array) -> Array:
    r"""Squared Mahalanobis distances where all components share one factor, which whitens the rows once.

    $$d_{kn} = |L^{-1} (x_n - o) - L^{-1} (m_k - o)|^2$$

    Args:
      means: Array of shape (K, D).
      inverse: Array of shape (D, D), the inverse of the factor.
      x: Array of shape (N, D).

    Returns:
      Array of shape (K, N).
    """
    # Any o will do: near the rows it keeps their digits.
    origin = jax.lax.stop_gradient(jnp.mean(means, axis=0))
    white = linalg.dot(x - origin[None], inverse.T)
    return squares(linalg.dot(means - origin[None], inverse.T), jnp.ones_like(means[:1]), white)


def moments(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
    r"""Weighted sums about each mean, and scatter.

    $$\sum_n s_{kn} (x_n - m_k), \qquad \sum_n s_{kn} (x_n - m_k)(x_n - m_k)^T$$

    One product about an origin common to all would lose the digits of narrow components that lie far from it.

    Args:
      shares: Array of shape (K, N), non-negative.
      means: Array of shape (K, D).
      x: Array of shape (N, D).

    Returns:
      Arrays of shapes (K, D) and (K, D, D).
    """
    num_features = means.shape[1]

    def products(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
        centered = x.T[None] - means[:, :, None]
        # The sums are one row more of the product.
        left = jnp.concatenate([shares[:, None] * centered, shares[:, None]], axis=1)
        both = jnp.einsum("kin,kjn->kij", left, centered, precision=linalg.PRECISION)
        return both[:, -1], both[:, :-1]

    def in_parallel(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
        lower = [(i, j) for i in range(num_features) for j in range(i + 1)]
        first, pairs = _in_parallel(shares, means, x, lambda c: (c, [c[:, i] * c[:, j] for i, j in lower]))
        places = [[lower.index((max(i, j), min(i, j))) for j in range(num_features)] for i in range(num_features)]
        return first, jnp.stack(pairs, axis=1)[:, jnp.array(places)]

    few = in_parallel if num_features <= FEW_FEATURES else products
    return jax.lax.platform_dependent(shares, means, x, cpu=few, default=products)


def square_moments(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
    r"""The sums of `moments`, and the diagonals of its scatter, $\sum_n s_{kn} (x_{nd} - m_{kd})^2$.

    Args:
      shares: Array of shape (K, N), non-negative.
      means: Array of shape (K, D).
      x: Array of shape (N, D).

    Returns:
      Two arrays of shape (K, D).
    """

    def in_parallel(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
        return _in_parallel(shares, means, x, lambda c: (c, jnp.square(c)))

    def at_once(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
        centered = x.T[None] - means[:, :, None]
        return jnp.sum(shares[:, None] * centered, axis=2), jnp.sum(shares[:, None] * jnp.square(centered), axis=2)

    return jax.lax.platform_dependent(shares, means, x, cpu=in_parallel, default=at_once)


def _in_parallel(shares: Array, means: Array, x: Array, terms: Callable[[Array], Any]) -> Any:
    """Sums over rows of shares times `terms` of x - m, (K, D, n): arrays (K, ..., n), which lose their last axis."""
    k, num_features = means.shape
    # A sum along rows is a chain of scalars for XLA on CPU: here `PARALLEL_SUMS` of them run side by side.
    missing = -x.shape[0] % PARALLEL_SUMS
    parts = jnp.pad(x, ((0, missing), (0, 0)), mode="edge").reshape(-1, PARALLEL_SUMS, num_features).transpose(0, 2, 1)
    weights = jnp.pad(shares, ((0, 0), (0, missing))).reshape(k, -1, PARALLEL_SUMS).transpose(1, 0, 2)

    def weighted(columns: Array, weight: Array) -> Any:
        values = terms(columns[None] - means[:, :, None])
        return jax.tree.map(lambda value: value * (weight[:, None] if value.ndim == 3 else weight), values)

    # One array a sum: XLA writes what is joined here to memory, and runs five times as long.
    def add(totals: Any, rows: tuple[Array, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, totals, weighted(*rows)), None

    shapes = jax.eval_shape(weighted, parts[0], weights[0])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.tree.map(lambda total: jnp.sum(total, axis=-1), jax.lax.scan(add, zeros, (parts, weights))[0])


def pooled_moments(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
    r"""`moments` with the scatter summed over components, at the cost of one of them.

    With $w_n = \sum_k s_{kn}$, $\bar m_n = \sum_k s_{kn} m_k / w_n$ and $R_{jk} = \sum_n s_{jn} s_{kn} / w_n$,

    $$\sum_{kn} s_{kn} (x_n - m_k)(x_n - m_k)^T = \sum_n w_n (x_n - \bar m_n)(x_n - \bar m_n)^T
      + \tfrac12 \sum_{jk} R_{jk} (m_j - m_k)(m_j - m_k)^T$$

    Both terms are sums of squares: nothing cancels, however far the means lie apart.

    Args:
      shares: Array of shape (K, N), non-negative.
      means: Array of shape (K, D).
      x: Array of shape (N, D).

    Returns:
      Arrays of shapes (K, D) and (D, D).
    """
    weights, residual, overlap, first = _pooled(shares, means, x)

    def add(total: Array, one: tuple[Array, Array]) -> tuple[Array, None]:
        mean, row = one
        apart = means - mean[None]
        return total + linalg.dot((row[:, None] * apart).T, apart), None

    between = jax.lax.scan(add, jnp.zeros((means.shape[1],) * 2, overlap.dtype), (means, overlap))[0]
    return first, linalg.dot((weights[:, None] * residual).T, residual) + 0.5 * between


def pooled_square_moments(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
    """The sums of `pooled_moments`, and the diagonal of its scatter.

    Args:
      shares: Array of shape (K, N), non-negative.
      means: Array of shape (K, D).
      x: Array of shape (N, D).

    Returns:
      Arrays of shapes (K, D) and (D,).
    """
    weights, residual, overlap, first = _pooled(shares, means, x)
    apart = jnp.square(means[:, None] - means[None])
    between = linalg.dot(overlap.reshape(1, -1), apart.reshape(-1, means.shape[1]))[0]
    return first, linalg.dot(weights[None], jnp.square(residual))[0] + 0.5 * between


def _pooled(shares: Array, means: Array, x: Array) -> tuple[Array, Array, Array, Array]:
    """Weights (N,), what is left of each row less its own mixture of the means (N, D), overlaps (K, K), sums (K, D)."""
    origin = jnp.mean(means, axis=0)
    weights = jnp.sum(shares, axis=0)
    parts = linalg.safe_divide(shares, weights[None])
    residual = x - origin[None] - linalg.dot(parts.T, means - origin[None])
    overlap = linalg.dot(parts, shares.T)
    gaps = jnp.sum(overlap[:, :, None] * (means[None] - means[:, None]), axis=1)
    return weights, residual, overlap, linalg.dot(shares, residual) + gaps
