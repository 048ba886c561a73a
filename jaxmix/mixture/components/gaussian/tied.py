"""One covariance matrix that all components share (EEE)."""

from typing import Any, NamedTuple, Self

import jax.numpy as jnp
from jax import Array

from jaxmix import linalg
from jaxmix.kernels import mixture
from jaxmix.mixture.components.gaussian import base


class Tied(NamedTuple):
    r"""One covariance matrix for all components, $C = L L^T$.

    The M-step is $C = \sum_{nk} w_n r_{nk} (x_n - m_k)(x_n - m_k)^T / \sum_k N_k$ about the new means.

    Attributes:
      scale_tril: Array of shape (D, D), the lower Cholesky factor.

    References:
      Bishop (2006), exercise 9.6. The family EEE of Fraley and Raftery (2002).

    Example:
      >>> Tied.identity(2, 3, float).to_dense(2, 3).shape
      (2, 3, 3)
    """

    scale_tril: Array

    @classmethod
    def identity(cls, k: int, num_features: int, dtype: Any) -> Self:
        """The identity."""
        return cls(jnp.eye(num_features, dtype=dtype))

    @staticmethod
    def moments(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
        """Sums about each mean, and the scatter of all components together, of shapes (K, D) and (D, D)."""
        return mixture.pooled_moments(shares, means, x)

    def maximize(self, counts: Array, moments: base.Moments, denominators: Array, noise: Array) -> Self:
        """The pooled covariance."""
        between = linalg.dot((counts[:, None] * moments.shift(counts)).T, moments.shift(counts))
        total = jnp.sum(denominators)
        covariance = (moments.second - between + noise) / total
        return self._replace(scale_tril=base.factor(covariance, moments.second / total, noise))

    def prepare(self, means: Array) -> base.Prepared:
        """The inverse factor."""
        return base.Prepared(means, linalg.inverse_tril(self.scale_tril), base.half_log_determinant(self.scale_tril))

    @staticmethod
    def log_density(prepared: base.Prepared, x: Array) -> Array:
        """Log densities of rows, of shape (K, n)."""
        return base.gaussian(mixture.tied_whitened_squares(prepared.means, prepared.inverse, x), prepared)

    @staticmethod
    def noise_moments(weights: Array) -> Array:
        """The second moments of noise of total squares (K, D)."""
        return jnp.diag(jnp.sum(weights, axis=0))

    @staticmethod
    def noise_traces(prepared: base.Prepared, noise: Array) -> Array:
        """The traces of the inverse covariances times those of the noise, of shape (K,)."""
        return jnp.sum(jnp.sum(jnp.square(prepared.inverse), axis=0)[None] * noise, axis=1)

    def rescaled(self, factors: Array) -> Self:
        """The covariances of features in other units."""
        return self._replace(scale_tril=factors[:, None] * self.scale_tril)

    def transform_noise(self, labels: Array, noise: Array) -> Array:
        """Each row times the factor."""
        return linalg.dot(noise, self.scale_tril.T)

    def to_dense(self, k: int, num_features: int) -> Array:
        """The matrix K times, of shape (K, D, D)."""
        covariance = linalg.dot(self.scale_tril, self.scale_tril.T)
        return jnp.broadcast_to(covariance[None], (k, num_features, num_features))

    def unconstrain(self) -> Self:
        """The logarithm of the factor's diagonal."""
        return self._replace(scale_tril=base.log_diagonal(self.scale_tril))

    def constrain(self) -> Self:
        """The inverse of `unconstrain`."""
        return self._replace(scale_tril=base.exp_diagonal(self.scale_tril))

    @staticmethod
    def num_free_parameters(k: int, num_features: int) -> int:
        """D (D + 1) / 2."""
        return num_features * (num_features + 1) // 2

    @staticmethod
    def component_fraction(num_components: Array | int) -> Array | float:
        """All components share one covariance."""
        return 1.0 / num_components

    @staticmethod
    def prior_degrees(degrees_of_freedom: Array, num_features: int) -> Array:
        """Of an inverse Wishart density: nu + D + 1."""
        return degrees_of_freedom + num_features + 1
