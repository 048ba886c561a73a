"""A variance for each feature, shared by all components (EEI)."""

from typing import Any, NamedTuple, Self

import jax.numpy as jnp
from jax import Array

from jaxmix.kernels import mixture
from jaxmix.mixture.components.gaussian import base


class TiedDiagonal(NamedTuple):
    r"""Features are independent, and all components have one shape, $C = \operatorname{diag}(s^2)$.

    The M-step is $s_d^2 = \sum_{nk} w_n r_{nk} (x_{nd} - m_{kd})^2 / \sum_k N_k$ about the new means.

    Attributes:
      scale: Array of shape (D,), standard deviations.

    References:
      Celeux and Govaert (1995), section 4. The family EEI of Fraley and Raftery (2002).

    Example:
      >>> TiedDiagonal.identity(2, 3, float).to_dense(2, 3).shape
      (2, 3, 3)
    """

    scale: Array

    @classmethod
    def identity(cls, k: int, num_features: int, dtype: Any) -> Self:
        """Unit standard deviations."""
        return cls(jnp.ones(num_features, dtype))

    @staticmethod
    def moments(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
        """Sums about each mean, and of squares of all components together, of shapes (K, D) and (D,)."""
        return mixture.pooled_square_moments(shares, means, x)

    def maximize(self, counts: Array, moments: base.Moments, denominators: Array, noise: Array) -> Self:
        """The pooled variances."""
        between = jnp.sum(counts[:, None] * jnp.square(moments.shift(counts)), axis=0)
        variances = base.squares(moments.second, between, noise) / jnp.sum(denominators)
        return self._replace(scale=jnp.sqrt(variances))

    def prepare(self, means: Array) -> base.Prepared:
        """The inverse standard deviations."""
        return base.Prepared(means, 1 / self.scale[None], jnp.sum(jnp.log(self.scale)))

    @staticmethod
    def log_density(prepared: base.Prepared, x: Array) -> Array:
        """Log densities of rows, of shape (K, n)."""
        return base.gaussian(mixture.squares(prepared.means, prepared.inverse, x), prepared)

    @staticmethod
    def noise_moments(weights: Array) -> Array:
        """The second moments of noise of total squares (K, D)."""
        return jnp.sum(weights, axis=0)

    @staticmethod
    def noise_traces(prepared: base.Prepared, noise: Array) -> Array:
        """The traces of the inverse covariances times those of the noise, of shape (K,)."""
        return jnp.sum(jnp.square(prepared.inverse) * noise, axis=1)

    def rescaled(self, factors: Array) -> Self:
        """The covariances of features in other units."""
        return self._replace(scale=factors * self.scale)

    def transform_noise(self, labels: Array, noise: Array) -> Array:
        """Each row times the standard deviations."""
        return self.scale[None] * noise

    def to_dense(self, k: int, num_features: int) -> Array:
        """Diagonal matrices, of shape (K, D, D)."""
        return jnp.square(self.scale)[None, :, None] * jnp.eye(num_features, dtype=self.scale.dtype)[None].repeat(
            k, axis=0
        )

    def unconstrain(self) -> Self:
        """Logarithms of the standard deviations."""
        return self._replace(scale=jnp.log(self.scale))

    def constrain(self) -> Self:
        """The inverse of `unconstrain`."""
        return self._replace(scale=jnp.exp(self.scale))

    @staticmethod
    def num_free_parameters(k: int, num_features: int) -> int:
        """D."""
        return num_features

    @staticmethod
    def component_fraction(num_components: Array | int) -> Array | float:
        """All components share one covariance."""
        return 1.0 / num_components

    @staticmethod
    def prior_degrees(degrees_of_freedom: Array, num_features: int) -> Array:
        """Of an inverse gamma density for each variance: nu + 2."""
        return degrees_of_freedom + 2

    @staticmethod
    def prior_scale(covariance: Array) -> Array:
        """A diagonal of equal variances, of the same trace."""
        return base.isotropic(covariance, jnp.trace(covariance))
