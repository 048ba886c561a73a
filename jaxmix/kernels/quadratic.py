r"""A mixture's E-step and sums as two matrix products of all products of features: what is fast for many rows.

Log densities are linear in the products of a row's features, about an origin $o$ amid the rows,

$$\log \pi_k N(x \mid m_k, C_k) = c_k + (P_k m')^T x' - \tfrac12 \sum_{ij} P_{k,ij} x'_i x'_j, \qquad P = C^{-1},
  \; x' = x - o, \; m' = m - o$$

and so are the sums that an M-step needs. This is half the work of `kernels.mixture`, in large products; but the terms
cancel, and what is left has lost $\epsilon \sum_{ij} |P_{ij}| (|m'_i| + s_i)(|m'_j| + s_j)$, $s$ the standard
deviations. Where that is small for every component it is used, else the direct differences are.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import linalg

LEAST_ROWS = 4096
"""Below, both ways take no time, and one is less to compile."""

MOST_PRODUCTS = 2145
"""Products of features: those of 64 features and 1. Beyond, those of a few rows are more than a cache holds."""

MOST_LOST_EACH, MOST_LOST = 128.0, 4096.0
"""Units of rounding that may be lost, at the worst: for each feature, a row's log density being a sum over features,
and at all, so that covariances keep three digits in float32."""

ROOM = 2**20
"""Products of features in a chunk, which stay in a CPU's cache."""

MOST_ROWS = 1536
"""Rows a chunk, whose log densities stay in the cache of one core."""


class Expansion(NamedTuple):
    """The log densities of K components as linear functions of products of features, about an origin.

    The products are those of z = (x', 1) with itself, all pairs i >= j; or the squares of x', x' and 1.

    Attributes:
      coefficients: Array of shape (K, P), P = (D + 1)(D + 2) / 2 for pairs, 2 D + 1 for squares.
      means: Array of shape (K, D), about the origin.
      lost: Array of shape (K,), what the cancelling terms lose, in units of rounding.
    """

    coefficients: Array
    means: Array
    lost: Array

    @property
    def has_pairs(self) -> bool:
        """Whether the products are of all pairs, or squares alone."""
        return self.coefficients.shape[1] > 2 * self.means.shape[1] + 1


def chunk_rows(num_rows: int, expansion: Expansion) -> int:
    """How many rows to take at a time; all chunks alike."""
    k, num_products = expansion.coefficients.shape
    size = min(max(ROOM // (num_products + 2 * k), 64), MOST_ROWS)
    num_chunks = -(-num_rows // size)
    return -(-num_rows // num_chunks // 64) * 64 if num_chunks > 1 else num_rows


def of_precisions(precisions: Array, half_log_determinants: Array, scales: Array, means: Array) -> Expansion:
    """The expansion of Gaussians with any covariances, but for the constant of the dimension.

    Args:
      precisions: Array of shape (K, D, D), inverse covariances; or (K, D), their diagonals.
      half_log_determinants: Array of shape (K,), of the covariances.
      scales: Array of shape (K, D), standard deviations.
      means: Array of shape (K, D), about the origin.
    """
    sizes = jnp.abs(means) + scales
    if precisions.ndim == 2:
        linear = precisions * means
        lost = jnp.sum(precisions * jnp.square(sizes), axis=1)
    else:
        linear = jnp.einsum("kij,kj->ki", precisions, means, precision=linalg.PRECISION)
        lost = jnp.einsum("kij,ki,kj->k", jnp.abs(precisions), sizes, sizes, precision=linalg.PRECISION)
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
    return Expansion(jnp.concatenate(parts, axis=1), means, lost)


def keeps(expansion: Expansion) -> Array:
    """Whether little enough is lost, of shape (K,).

    What the coefficients' rounding takes is the same for all rows: it moves the loss from step to step, which shows
    where log densities are near zero and sum to little.
    """
    return expansion.lost <= min(MOST_LOST_EACH * expansion.means.shape[1], MOST_LOST)


Features = Array | tuple[Array, Array]
"""Of rows about the origin: all pairs and 1, (P, n); or the squares and the rows themselves, both (n, D)."""


def features_of(expansion: Expansion, shifted: Array) -> Features:
    """Products of features, from rows about the origin, (n, D)."""
    if not expansion.has_pairs:
        # As they lie in memory: turning them would cost as much as both products.
        return jnp.square(shifted), shifted
    # By row numbers that are known: XLA takes the pieces of a concatenation one number at a time. The last row of pairs
    # with 1 is the features and 1.
    augmented = jnp.concatenate([shifted.T, jnp.ones((1, shifted.shape[0]), shifted.dtype)])
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
