"""One covariance matrix for each component (VVV)."""

from typing import Any, NamedTuple, Self

import jax.numpy as jnp
from jax import Array

from jaxmix import linalg
from jaxmix.kernels import mixture, quadratic
from jaxmix.mixture.components.gaussian import base


class Full(NamedTuple):
    r"""A covariance matrix for each component, $C_k = L_k L_k^T$.

    The M-step is $C_k = \frac{1}{N_k} \sum_n w_n r_{nk} (x_n - m_k)(x_n - m_k)^T$ about the new mean.

    Attributes:
      scale_tril: Array of shape (K, D, D), lower Cholesky factors.

    References:
      Bishop (2006), equation 9.19. The family VVV of Fraley and Raftery (2002).

    Example:
      >>> Full.identity(2, 3, float).to_dense(2, 3).shape
      (2, 3, 3)
    """

    scale_tril: Array

    @classmethod
    def identity(cls, k: int, num_features: int, dtype: Any) -> Self:
        """The identity for every component."""
        return cls(jnp.tile(jnp.eye(num_features, dtype=dtype)[None], (k, 1, 1)))

    @staticmethod
    def moments(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
        """Sums and scatter about each mean, of shapes (K, D) and (K, D, D)."""
        return mixture.moments(shares, means, x)

    def maximize(self, counts: Array, moments: base.Moments, denominators: Array, noise: Array) -> Self:
        """The weighted covariance of each component's rows."""
        denominators = denominators[:, None, None]
        between = linalg.safe_divide(counts[:, None, None], denominators) * base.outer(moments.shift(counts))
        about_old = linalg.safe_divide(moments.second, denominators)
        added = linalg.safe_divide(noise, denominators)
        identity = jnp.eye(between.shape[-1], dtype=between.dtype)[None]
        fitted = base.factor(jnp.where(denominators == 0, identity, about_old - between + added), about_old, added)
        return self._replace(scale_tril=jnp.where(denominators == 0, self.scale_tril, fitted))

    def prepare(self, means: Array) -> base.Prepared:
        """The inverse factors."""
        return base.Prepared(
            means, linalg.inverse_tril(self.scale_tril), base.half_log_determinant(self.scale_tril)[:, None]
        )

    @staticmethod
    def log_density(prepared: base.Prepared, x: Array) -> Array:
        """Log densities of rows, of shape (K, n)."""
        return base.gaussian(mixture.whitened_squares(prepared.means, prepared.inverse, x), prepared)

    def as_quadratic(self, means: Array) -> quadratic.Quadratic:
        """Log densities as sums of products of features."""
        inverse = linalg.inverse_tril(self.scale_tril)
        precisions = jnp.matmul(jnp.swapaxes(inverse, 1, 2), inverse, precision=linalg.PRECISION)
        scales = jnp.sqrt(jnp.sum(jnp.square(self.scale_tril), axis=2))
        return quadratic.Quadratic(precisions, base.half_log_determinant(self.scale_tril), scales, means)

    @staticmethod
    def second_moments(products: Array) -> Array:
        """Second moments from sums of products: a matrix for each component, also where D is 1."""
        return products if products.ndim == 3 else products[:, :, None]

    @staticmethod
    def noise_moments(weights: Array) -> Array:
        """The second moments of noise of total squares (K, D)."""
        return weights[:, :, None] * jnp.eye(weights.shape[1], dtype=weights.dtype)[None]

    @staticmethod
    def noise_traces(prepared: base.Prepared, noise: Array) -> Array:
        """The traces of the inverse covariances times those of the noise, of shape (K,)."""
        return jnp.sum(jnp.square(prepared.inverse) * noise[:, None, :], axis=(1, 2))

    def rescaled(self, factors: Array) -> Self:
        """The covariances of features in other units."""
        return self._replace(scale_tril=factors[None, :, None] * self.scale_tril)

    def transform_noise(self, labels: Array, noise: Array) -> Array:
        """Each row times its component's factor."""
        return jnp.einsum("nij,nj->ni", self.scale_tril[labels], noise, precision=linalg.PRECISION)

    def to_dense(self, k: int, num_features: int) -> Array:
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
    def component_fraction(num_components: Array | int) -> Array | float:
        """One: each component has its own covariance."""
        return 1.0

    @staticmethod
    def prior_degrees(degrees_of_freedom: Array, num_features: int) -> Array:
        """Of an inverse Wishart density: nu + D + 1."""
        return degrees_of_freedom + num_features + 1
