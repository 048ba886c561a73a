r"""A mixture's E-step and sums as two matrix products of all products of features: what is fast for many rows.

Log densities are linear in the products of a row's features, about an origin $o$ amid the means,

$$\log \pi_k N(x \mid m_k, C_k) = c_k + (P_k m')^T x' - \tfrac12 \sum_{ij} P_{k,ij} x'_i x'_j, \qquad P = C^{-1},
  \; x' = x - o, \; m' = m - o$$

and so are the sums that an M-step needs. This is half the work of `kernels.mixture`, in large products; but the terms
cancel, and lose $\epsilon \sum_{ij} |P_{ij}| (|m'_i| + s_i)(|m'_j| + s_j)$, where $s$ are the standard deviations.
Where that is small for every component these products are used, elsewhere direct differences.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import linalg

LEAST_ROWS = 4096
"""Rows of a fit: with fewer, both ways take no time, and one is less to compile."""

MOST_PRODUCTS = 2145
"""Products of features: those of 64 features and 1. Beyond, those of a few rows are more than a cache holds."""

MOST_LOST_EACH, MOST_LOST = 128.0, 4096.0
"""Units of rounding that may be lost, at the worst: for each feature, a row's log density being a sum over features,
and at all, so that covariances keep three digits in float32."""


class Quadratic(NamedTuple):
    """Gaussians with covariances of their own.

    Attributes:
      precisions: Array of shape (K, D, D), inverse covariances; or (K, D), their diagonals.
      half_log_determinants: Array of shape (K,), of the covariances.
      scales: Array of shape (K, D), standard deviations.
      means: Array of shape (K, D).
    """

    precisions: Array
    half_log_determinants: Array
    scales: Array
    means: Array

    @property
    def num_products(self) -> int:
        """The number of products of features, P."""
        d = self.means.shape[1]
        return (d + 1) * (d + 2) // 2 if self.precisions.ndim == 3 else 2 * d + 1


class Expansion(NamedTuple):
    """The log densities of K components as linear functions of products of features, about an origin.

    The products are those of z = (x', 1) with itself, all pairs i >= j; or the squares of x', x' and 1.

    Attributes:
      origin: Array of shape (D,).
      coefficients: Array of shape (K, P), P = (D + 1)(D + 2) / 2 for pairs, 2 D + 1 for squares.
      means: Array of shape (K, D), about the origin.
      cancellation: Array of shape (K,), what the canceling terms lose, in units of rounding.
    """

    origin: Array
    coefficients: Array
    means: Array
    cancellation: Array

    @property
    def has_pairs(self) -> bool:
        """Whether the products are of all pairs, or squares alone."""
        return self.coefficients.shape[1] > 2 * self.means.shape[1] + 1


def expand(quadratic: Quadratic, log_weights: Array) -> Expansion:
    """The expansion of a mixture about its mean, but for the weights and the constant of the dimension.

    Args:
      quadratic: the components.
      log_weights: Array of shape (K,). A component of -inf may hold arbitrary values; its expansion is zero.
    """
    is_on = ~jnp.isneginf(log_weights)
    weights = jnp.where(is_on, jnp.exp(log_weights), 0)[:, None]
    origin = jnp.sum(jnp.where(is_on[:, None], weights * quadratic.means, 0), axis=0) / jnp.sum(weights)
    means = jnp.where(is_on[:, None], quadratic.means - origin[None], 0)
    precisions, scales = quadratic.precisions, quadratic.scales
    precisions = jnp.where(is_on.reshape(-1, *(1,) * (precisions.ndim - 1)), precisions, 0)
    sizes = jnp.where(is_on[:, None], jnp.abs(means) + scales, 0)
    if precisions.ndim == 2:
        linear = precisions * means
        lost = jnp.sum(precisions * jnp.square(sizes), axis=1)
    else:
        linear = jnp.einsum("kij,kj->ki", precisions, means, precision=linalg.PRECISION)
        lost = jnp.einsum("kij,ki,kj->k", jnp.abs(precisions), sizes, sizes, precision=linalg.PRECISION)
    half_log_determinants = jnp.where(is_on, quadratic.half_log_determinants, 0)
    constants = -half_log_determinants - 0.5 * jnp.sum(linear * means, axis=1)
    if precisions.ndim == 2:
        parts = [-0.5 * precisions, linear, constants[:, None]]
    else:
        rows, columns = np.tril_indices(means.shape[1])
        parts = [
            precisions[:, rows, columns] * jnp.where(rows == columns, -0.5, -1.0)[None],
            linear,
            constants[:, None],
        ]
    return Expansion(origin, jnp.concatenate(parts, axis=1), means, lost)


def is_accurate(expansion: Expansion) -> Array:
    """Whether little enough is lost, of shape (K,).

    The rounding of the coefficients is the same for all rows: it moves the loss from step to step, which shows where
    log densities are near zero and their sum is small.
    """
    return expansion.cancellation <= min(MOST_LOST_EACH * expansion.means.shape[1], MOST_LOST)


Features = Array | tuple[Array, Array]
"""Of rows about the origin: all pairs and 1, (P, n); or the squares and the rows themselves, both (n, D)."""


def features_of(expansion: Expansion, x: Array) -> Features:
    """Products of features of rows of shape (n, D)."""
    x = x - expansion.origin[None]
    if not expansion.has_pairs:
        # As they lie in memory: turning them would cost as much as both products.
        return jnp.square(x), x
    # By row numbers that are known: XLA takes the pieces of a concatenation one number at a time. The last row of pairs
    # with 1 is the features and 1.
    augmented = jnp.concatenate([x.T, jnp.ones((1, x.shape[0]), x.dtype)])
    rows, others = np.tril_indices(augmented.shape[0])
    return augmented[rows] * augmented[others]


def scores(expansion: Expansion, features: Features) -> Array:
    """Log densities of shape (K, n), but for the constant of the dimension."""
    if not isinstance(features, tuple):
        return linalg.dot(expansion.coefficients, features)
    (squares, rows), d = features, expansion.means.shape[1]
    of_squares, of_rows, constants = jnp.split(expansion.coefficients, [d, 2 * d], axis=1)
    return linalg.dot(of_squares, squares.T) + linalg.dot(of_rows, rows.T) + constants


def moments(expansion: Expansion, shares: Array, features: Features) -> tuple[Array, Array, Array]:
    r"""Counts, and sums of x - m and of its products about the means, from sums about the origin.

    $$\sum_n s_n (x_n - m)(x_n - m)^T = \sum_n s_n x'_n x_n'^T - f m'^T - m' f^T - N m' m'^T, \quad
      f = \sum_n s_n (x_n - m)$$

    Args:
      expansion: of the mixture that made the shares.
      shares: Array of shape (K, n).
      features: of `features_of`.

    Returns:
      Arrays of shapes (K,), (K, D), and (K, D, D), or (K, D) for squares.
    """
    means, num_features = expansion.means, expansion.means.shape[1]
    if isinstance(features, tuple):
        products, linear = (linalg.dot(shares, part) for part in features)
        counts = jnp.sum(shares, axis=1)
        first = linear - counts[:, None] * means
        return counts, first, products - 2 * first * means - counts[:, None] * jnp.square(means)
    sums = linalg.dot(shares, features.T)
    products, linear, counts = sums[:, : -num_features - 1], sums[:, -num_features - 1 : -1], sums[:, -1]
    first = linear - counts[:, None] * means
    rows, columns = np.tril_indices(num_features)
    places = np.zeros((num_features, num_features), int)
    places[rows, columns] = places[columns, rows] = np.arange(len(rows))
    cross = first[:, :, None] * means[:, None, :]
    own = counts[:, None, None] * means[:, :, None] * means[:, None, :]
    return counts, first, products[:, places] - cross - jnp.swapaxes(cross, 1, 2) - own
