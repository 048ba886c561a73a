"""What every covariance family gives, and the statistics that it is fitted from."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self

import jax.numpy as jnp
from jax import Array

from jaxmix import linalg

LOG_TWO_PI = math.log(2.0 * math.pi)


class Moments(NamedTuple):
    r"""Sums over rows about the means that the E-step saw: additive, and right in float32 far from zero.

    Attributes:
      counts: Array of shape (K,), $N_k = \sum_n w_n r_{nk}$.
      first: Array of shape (K, D), $\sum_n w_n r_{nk} (x_n - m_k)$.
      second: the family's own second moments, sums of products of x - m.

    Example:
      >>> Moments(jnp.array([2.0]), jnp.array([[4.0]]), None).shift.tolist()
      [[2.0]]
    """

    counts: Array
    first: Array
    second: Any

    @property
    def shift(self) -> Array:
        """How far each mean moves, of shape (K, D); 0 for a component without rows."""
        return linalg.safe_divide(self.first, self.counts[:, None])


class Covariance(Protocol):
    """A family of covariances, as a `NamedTuple` of Cholesky factors or scales: the type is the family.

    Letters: K components, D features. A tied family has one covariance for all components.
    """

    @classmethod
    def unit(cls, k: int, num_features: int, dtype: Any) -> Self:
        """The identity for every component: what the first M-step replaces."""
        ...

    @staticmethod
    def moments(responsibilities: Array, means: Array, x: Array) -> tuple[Array, Any]:
        """Sums over rows for weighted responsibilities (N, K): of x - m, (K, D), and the second moments, its own form.

        From differences x - m, so that a narrow component keeps its digits wherever it lies.
        """
        ...

    def maximize(self, moments: Moments, degrees: Array, regularization: Array | float) -> Self:
        """The M-step: maximises Q over the family; a component of degrees 0 keeps its own covariance.

        `degrees`, of shape (K,), is what second moments are divided by: the counts, and more where there is a prior.
        """
        ...

    def log_density(self, means: Array) -> Callable[[Array], Array]:
        """The function from rows (N, D) to log densities log N(x_n | m_k, C_k), of shape (N, K).

        What depends on the covariances alone is done here, once, and not for each chunk of rows.
        """
        ...

    def colour(self, labels: Array, noise: Array) -> Array:
        """White noise of shape (n, D) given the covariance of each row's component, of shape (n,)."""
        ...

    def dense(self, k: int, num_features: int) -> Array:
        """The covariance matrices, of shape (K, D, D)."""
        ...

    def unconstrain(self) -> Self:
        """The same tuple with every entry free in R: logarithms of what must be positive."""
        ...

    def constrain(self) -> Self:
        """The inverse of `unconstrain`."""
        ...

    @staticmethod
    def num_free_parameters(k: int, num_features: int) -> int:
        """How many numbers the covariances of K components have."""
        ...

    @staticmethod
    def share(num_components: Array | int) -> Array | float:
        """The share of a covariance that belongs to one component: 1, or 1 / K where all share one."""
        ...

    @staticmethod
    def prior_degrees(degrees: Array, num_features: int) -> Array:
        r"""Twice the power of $|C|^{-1/2}$ in the conjugate prior's density of nu degrees of freedom."""
        ...


def gaussian(squares: Array, half_log_determinant: Array, num_features: int) -> Array:
    r"""$-\tfrac12 (D \log 2\pi + \log |C_k| + d_{nk})$, from squared Mahalanobis distances of shape (N, K)."""
    return -0.5 * (num_features * LOG_TWO_PI + squares) - half_log_determinant


def outer(shift: Array) -> Array:
    """Outer products of rows, (K, D) to (K, D, D)."""
    return shift[:, :, None] * shift[:, None, :]


def factor(covariance: Array) -> Array:
    """Lower Cholesky factors over the last two axes; NaN where a covariance is singular to rounding.

    A pivot is the variance of a feature given those before it. Below the rounding of the feature's own variance it is
    noise, and a log-determinant made of it would be too.
    """
    scale_tril = linalg.cholesky(covariance)
    pivots = jnp.square(jnp.diagonal(scale_tril, axis1=-2, axis2=-1))
    rounding = 4 * covariance.shape[-1] * jnp.finfo(covariance.dtype).eps
    known = jnp.all(pivots > rounding * jnp.diagonal(covariance, axis1=-2, axis2=-1), axis=-1)
    return jnp.where(known[..., None, None], scale_tril, jnp.nan)


def half_log_determinant(scale_tril: Array) -> Array:
    """Half the log-determinant of L L^T, over the last two axes."""
    return jnp.sum(jnp.log(jnp.diagonal(scale_tril, axis1=-2, axis2=-1)), axis=-1)


def log_diagonal(scale_tril: Array) -> Array:
    """A Cholesky factor with the logarithm of its diagonal: free in R."""
    diagonal = jnp.diagonal(scale_tril, axis1=-2, axis2=-1)
    return jnp.tril(scale_tril, -1) + _diagonal_matrix(jnp.log(diagonal))


def exp_diagonal(free: Array) -> Array:
    """The inverse of `log_diagonal`; what stands above the diagonal is ignored."""
    diagonal = jnp.diagonal(free, axis1=-2, axis2=-1)
    return jnp.tril(free, -1) + _diagonal_matrix(jnp.exp(diagonal))


def _diagonal_matrix(diagonal: Array) -> Array:
    return diagonal[..., None] * jnp.broadcast_to(
        jnp.eye(diagonal.shape[-1], dtype=diagonal.dtype), (*diagonal.shape, diagonal.shape[-1])
    )
