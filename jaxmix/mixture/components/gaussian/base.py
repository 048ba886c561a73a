"""The contract of covariance families, the moments that they are fitted from, and what they have in common."""

import math
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import jax.numpy as jnp
from jax import Array

from jaxmix import linalg

LOG_TWO_PI = math.log(2.0 * math.pi)


class Moments(NamedTuple):
    r"""Sums over rows about the means that the E-step saw: additive, and precise in float32 far from zero.

    Attributes:
      first: Array of shape (K, D), $\sum_n w_n r_{nk} (x_n - m_k)$.
      second: the family's own second moments, sums of products of x - m.

    Example:
      >>> Moments(jnp.array([[4.0]]), None).shift(jnp.array([2.0])).tolist()
      [[2.0]]
    """

    first: Array
    second: Any

    def shift(self, counts: Array) -> Array:
        """How far each mean moves, of shape (K, D), given counts (K,); 0 for a component without rows."""
        return linalg.safe_divide(self.first, counts[:, None])


class Prepared(NamedTuple):
    """What log densities need of means and covariances.

    Attributes:
      means: Array of shape (K, D).
      inverse: the inverse factors or scales, in the form of the family.
      half_log_determinants: Array of shape (K, 1), or of shape () where components share a covariance.
    """

    means: Array
    inverse: Array
    half_log_determinants: Array


@runtime_checkable
class Covariance(Protocol):
    """A family of covariances, as a `NamedTuple` of Cholesky factors or scales, in units of x: the type is the family.

    Letters: K components, D features. A tied family has one covariance for all components. Three more methods are
    optional, beside those of `HasNoise`. `as_quadratic(means)` and `second_moments(products)` make many rows fast on
    CPU: see `Full`. The static method `prior_scale(covariance)` says the scale that `fraley_raftery` gives the family,
    from the rows' covariance (D, D): without it, that covariance.
    """

    @classmethod
    def identity(cls, k: int, num_features: int, dtype: Any) -> Self:
        """The identity for every component: the first M-step replaces it."""
        ...

    def prepare(self, means: Array) -> Any:
        """A pytree of everything in `log_density` that does not depend on rows: once for all blocks of them."""
        ...

    @staticmethod
    def log_density(prepared: Any, x: Array) -> Array:
        """Log densities log N(x_n | m_k, C_k) of rows (n, D), of shape (K, n)."""
        ...

    @staticmethod
    def moments(shares: Array, means: Array, x: Array) -> tuple[Array, Any]:
        """Sums over rows for shares (K, n): of x - m, (K, D), and the second moments, in the family's own form.

        From differences x - m, so that a narrow component keeps its digits wherever it lies.
        """
        ...

    def maximize(self, counts: Array, moments: Moments, denominators: Array, noise: Any) -> Self:
        """The M-step: maximizes Q over the family; a component of denominator 0 keeps its own covariance.

        `denominators`, of shape (K,), divide the second moments: the counts, and more where there is a prior. `noise`
        is what the noise of the rows adds to the second moments, in their form.
        """
        ...

    def transform_noise(self, labels: Array, noise: Array) -> Array:
        """White noise of shape (n, D) given the covariance of each row's component, of shape (n,)."""
        ...

    def to_dense(self, k: int, num_features: int) -> Array:
        """The covariance matrices, of shape (K, D, D)."""
        ...

    def unconstrain(self) -> Self:
        """The same tuple with every entry free in R: logarithms of entries that must be positive."""
        ...

    def constrain(self) -> Self:
        """The inverse of `unconstrain`."""
        ...

    @staticmethod
    def num_free_parameters(k: int, num_features: int) -> int:
        """How many numbers the covariances of K components have."""
        ...

    @staticmethod
    def component_fraction(num_components: Array | int) -> Array | float:
        """The fraction of a covariance that belongs to one component: 1, or 1 / K where all share one."""
        ...

    @staticmethod
    def prior_degrees(degrees_of_freedom: Array, num_features: int) -> Array:
        r"""Twice the power of $|C|^{-1/2}$ in the conjugate prior's density of nu degrees of freedom."""
        ...


@runtime_checkable
class HasQuadratic(Protocol):
    """A family whose log densities and moments are sums of products of features: see `Full`."""

    def as_quadratic(self, means: Array) -> Any:
        """Log densities as linear functions of products of features, about an origin amid the means."""
        ...

    @staticmethod
    def second_moments(products: Array) -> Any:
        """The family's second moments from sums of products."""
        ...


@runtime_checkable
class HasNoise(Protocol):
    """A family that says what noise does to it; for others it is found by their densities and moments, at more cost."""

    @staticmethod
    def noise_moments(weights: Array) -> Any:
        """The second moments of noise, in the family's form, of total squares of shape (K, D)."""
        ...

    @staticmethod
    def noise_traces(prepared: Any, noise: Array) -> Array:
        r"""$\operatorname{tr}(C_k^{-1} R_k)$, of shape (K,), for variances $R_k$ of shape (K, D)."""
        ...


@runtime_checkable
class HasUnits(Protocol):
    """A family of which each feature may have its own unit: with C it holds U C U, for any positive diagonal U."""

    def rescaled(self, factors: Array) -> Self:
        """The covariances of rows whose features are multiplied by factors of shape (D,)."""
        ...


@runtime_checkable
class HasUnit(Protocol):
    """A family that has one unit for all features: with C it holds $u^2 C$."""

    def rescaled_by(self, factor: Array) -> Self:
        """The covariances of rows that are multiplied by a factor of shape ()."""
        ...


@runtime_checkable
class HasPriorScale(Protocol):
    """A family that says the scale of its default prior."""

    @staticmethod
    def prior_scale(covariance: Array) -> Array:
        """The scale that `fraley_raftery` gives the family, from the rows' covariance (D, D)."""
        ...


def gaussian(squares: Array, prepared: Prepared) -> Array:
    r"""$-\tfrac12 (D \log 2\pi + \log |C_k| + d_{kn})$, from squared Mahalanobis distances of shape (K, n)."""
    return -0.5 * (prepared.means.shape[1] * LOG_TWO_PI + squares) - prepared.half_log_determinants


def isotropic(covariance: Array, trace: Array) -> Array:
    """The multiple of the identity that has a trace, in the shape of a matrix (D, D)."""
    num_features = covariance.shape[0]
    return trace / num_features * jnp.eye(num_features, dtype=covariance.dtype)


def outer(shift: Array) -> Array:
    """Outer products of rows, (K, D) to (K, D, D)."""
    return shift[:, :, None] * shift[:, None, :]


def factor(covariance: Array, terms: Array, noise: Array) -> Array:
    """Lower Cholesky factors over the last two axes, of covariances that may be singular to rounding.

    A pivot is the variance of a feature given those before it. Below the rounding of the feature's own variance it is
    noise, and a log-determinant made of it would be too: such a covariance is NaN. Where the rows have noise, the pivot
    is as large as that rounding instead.

    Args:
      covariance: Array of shape (..., D, D).
      terms: Array of the same shape: the covariance before what cancels was subtracted.
      noise: Array of the same shape, on whose diagonal stands what the noise adds; zero without noise.
    """
    diagonal, terms, noise = (jnp.diagonal(each, axis1=-2, axis2=-1) for each in (covariance, terms, noise))
    least = pivot_rounding(jnp.maximum(diagonal, jnp.where(noise > 0, terms, 0)))
    scale_tril = linalg.cholesky(covariance, jnp.where(noise > 0, least, 0))
    pivots = jnp.square(jnp.diagonal(scale_tril, axis1=-2, axis2=-1))
    known = jnp.all((pivots > least) | (noise > 0), axis=-1)
    return jnp.where(known[..., None, None], scale_tril, jnp.nan)


def pivot_rounding(variances: Array) -> Array:
    """What of a pivot is rounding, for the variances of the features, of shape (..., D)."""
    return 4 * variances.shape[-1] * jnp.finfo(variances.dtype).eps * variances


def squares(second: Array, between: Array, noise: Array) -> Array:
    """Sums of squares about new means, with those of the noise, from sums about the old ones and about both.

    Where both nearly cancel, and the rows have noise, what is left is at least their rounding.
    """
    found = jnp.maximum(second - between, 0) + noise
    return jnp.maximum(found, jnp.where(noise > 0, pivot_rounding(second[..., None])[..., 0], 0))


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
