"""One covariance matrix for each component (VVV)."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax.numpy as jnp
from jax import Array

from jaxmix import linalg
from jaxmix.gmm.covariance import base
from jaxmix.kernels import mixture, quadratic


class Full(NamedTuple):
    r"""A covariance matrix for each component, $C_k = L_k L_k^T$.

    The M-step is $C_k = \frac{1}{N_k} \sum_n w_n r_{nk} (x_n - m_k)(x_n - m_k)^T$ about the new mean.

    Attributes:
      scale_tril: Array of shape (K, D, D), lower Cholesky factors.

    References:
      Bishop (2006), equation 9.19. The family VVV of Fraley and Raftery (2002).

    Example:
      >>> Full.unit(2, 3, float).dense(2, 3).shape
      (2, 3, 3)
    """

    scale_tril: Array

    @classmethod
    def unit(cls, k: int, num_features: int, dtype: Any) -> Self:
        """The identity for every component."""
        return cls(jnp.tile(jnp.eye(num_features, dtype=dtype)[None], (k, 1, 1)))

    @staticmethod
    def moments(responsibilities: Array, means: Array, x: Array) -> tuple[Array, Array]:
        """Sums and scatter about each mean, of shapes (K, D) and (K, D, D)."""
        return mixture.moments(responsibilities.T, means, x)

    def maximize(self, moments: base.Moments, degrees: Array, regularization: Array | float) -> Self:
        """The weighted covariance of each component's rows."""
        degrees, counts = degrees[:, None, None], moments.counts[:, None, None]
        between = linalg.safe_divide(counts, degrees) * base.outer(moments.shift)
        covariances = linalg.safe_divide(moments.second, degrees) - between
        identity = jnp.eye(covariances.shape[-1], dtype=covariances.dtype)[None]
        fitted = base.factor(jnp.where(degrees == 0, identity, covariances + regularization * identity))
        return self._replace(scale_tril=jnp.where(degrees == 0, self.scale_tril, fitted))

    def log_density(self, means: Array) -> Callable[[Array], Array]:
        """Log densities of rows, of shape (N, K)."""
        inverse = linalg.inverse_tril(self.scale_tril)
        half = base.half_log_determinant(self.scale_tril)[None]
        return lambda x: base.gaussian(mixture.whitened_squares(means, inverse, x).T, half, x.shape[1])

    def expand(self, means: Array) -> quadratic.Expansion:
        """Log densities as sums of products of features, for means about the origin."""
        inverse = linalg.inverse_tril(self.scale_tril)
        precisions = jnp.matmul(jnp.swapaxes(inverse, 1, 2), inverse, precision=linalg.PRECISION)
        scales = jnp.sqrt(jnp.sum(jnp.square(self.scale_tril), axis=2))
        return quadratic.of_precisions(precisions, base.half_log_determinant(self.scale_tril), scales, means)

    @staticmethod
    def collect(products: Array) -> Array:
        """Second moments from sums of products: a matrix for each component, also where D is 1."""
        return products if products.ndim == 3 else products[:, :, None]

    def colour(self, labels: Array, noise: Array) -> Array:
        """Each row times its component's factor."""
        return jnp.einsum("nij,nj->ni", self.scale_tril[labels], noise, precision=linalg.PRECISION)

    def dense(self, k: int, num_features: int) -> Array:
        """The matrices, of shape (K, D, D)."""
        return jnp.einsum("kij,klj->kil", self.scale_tril, self.scale_tril, precision=linalg.PRECISION)

    def unconstrain(self) -> Self:
        """Logarithms of the factors' diagonals."""
        return self._replace(scale_tril=base.log_diagonal(self.scale_tril))

    def constrain(self) -> Self:
        """The inverse of `unconstrain`."""
        return self._replace(scale_tril=base.exp_diagonal(self.scale_tril))

    @staticmethod
    def num_free_parameters(k: int, num_features: int) -> int:
        """K D (D + 1) / 2."""
        return k * num_features * (num_features + 1) // 2

    @staticmethod
    def share(num_components: Array | int) -> Array | float:
        """One: each component has its own covariance."""
        return 1.0

    @staticmethod
    def prior_degrees(degrees: Array, num_features: int) -> Array:
        """Of an inverse Wishart density: nu + D + 1."""
        return degrees + num_features + 1
