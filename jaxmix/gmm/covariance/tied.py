"""One covariance matrix that all components share (EEE)."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax.numpy as jnp
from jax import Array

from jaxmix import linalg
from jaxmix.gmm.covariance import base
from jaxmix.kernels import mixture


class Tied(NamedTuple):
    r"""One covariance matrix for all components, $C = L L^T$.

    The M-step is $C = \sum_{nk} w_n r_{nk} (x_n - m_k)(x_n - m_k)^T / \sum_k N_k$ about the new means.

    Attributes:
      scale_tril: Array of shape (D, D), the lower Cholesky factor.

    References:
      Bishop (2006), exercise 9.6. The family EEE of Fraley and Raftery (2002).

    Example:
      >>> Tied.unit(2, 3, float).dense(2, 3).shape
      (2, 3, 3)
    """

    scale_tril: Array

    @classmethod
    def unit(cls, k: int, num_features: int, dtype: Any) -> Self:
        """The identity."""
        return cls(jnp.eye(num_features, dtype=dtype))

    @staticmethod
    def moments(responsibilities: Array, means: Array, x: Array) -> tuple[Array, Array]:
        """Sums about each mean, and the scatter of all components together, of shapes (K, D) and (D, D)."""
        return mixture.pooled_moments(responsibilities.T, means, x)

    def maximize(self, moments: base.Moments, degrees: Array, regularization: Array | float) -> Self:
        """The pooled covariance."""
        between = linalg.dot((moments.counts[:, None] * moments.shift).T, moments.shift)
        covariance = (moments.second - between) / jnp.sum(degrees)
        identity = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
        return self._replace(scale_tril=base.factor(covariance + regularization * identity))

    def log_density(self, means: Array) -> Callable[[Array], Array]:
        """Log densities of rows, of shape (N, K)."""
        inverse, half = linalg.inverse_tril(self.scale_tril), base.half_log_determinant(self.scale_tril)
        return lambda x: base.gaussian(mixture.tied_whitened_squares(means, inverse, x).T, half, x.shape[1])

    def colour(self, labels: Array, noise: Array) -> Array:
        """Each row times the factor."""
        return linalg.dot(noise, self.scale_tril.T)

    def dense(self, k: int, num_features: int) -> Array:
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
    def share(num_components: Array | int) -> Array | float:
        """All components share one covariance."""
        return 1.0 / num_components

    @staticmethod
    def prior_degrees(degrees: Array, num_features: int) -> Array:
        """Of an inverse Wishart density: nu + D + 1."""
        return degrees + num_features + 1
