"""One variance for all (EII)."""

from typing import Any, NamedTuple, Self

import jax.numpy as jnp
from jax import Array

from jaxmix.kernels import mixture
from jaxmix.mixture.components.gaussian import base


class TiedSpherical(NamedTuple):
    r"""All components are round and of one size, $C = s^2 I$: as s falls to 0, EM becomes K-means.

    The M-step is $s^2 = \sum_{nk} w_n r_{nk} |x_n - m_k|^2 / (D \sum_k N_k)$ about the new means.

    Attributes:
      scale: Array of shape (), standard deviations.

    References:
      Bishop (2006), section 9.3.2. The family EII of Fraley and Raftery (2002).

    Example:
      >>> TiedSpherical.identity(2, 3, float).to_dense(2, 3).shape
      (2, 3, 3)
    """

    scale: Array

    @classmethod
    def identity(cls, k: int, num_features: int, dtype: Any) -> Self:
        """Unit standard deviations."""
        return cls(jnp.ones((), dtype))

    @staticmethod
    def moments(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
        """Sums about each mean, and the sum of squared lengths, of shapes (K, D) and ()."""
        first, squares = mixture.pooled_square_moments(shares, means, x)
        return first, jnp.sum(squares)

    def maximize(self, counts: Array, moments: base.Moments, denominators: Array, noise: Array) -> Self:
        """The pooled variance, over all features."""
        between = jnp.sum(counts[:, None] * jnp.square(moments.shift(counts)))
        total = moments.first.shape[1] * jnp.sum(denominators)
        return self._replace(scale=jnp.sqrt(base.squares(moments.second, between, noise) / total))

    def prepare(self, means: Array) -> base.Prepared:
        """The inverse standard deviation."""
        return base.Prepared(means, 1 / self.scale[None, None], means.shape[1] * jnp.log(self.scale))

    @staticmethod
    def log_density(prepared: base.Prepared, x: Array) -> Array:
        """Log densities of rows, of shape (K, n)."""
        return base.gaussian(mixture.squares(prepared.means, prepared.inverse, x), prepared)

    @staticmethod
    def noise_moments(weights: Array) -> Array:
        """The second moments of noise of total squares (K, D)."""
        return jnp.sum(weights)

    @staticmethod
    def noise_traces(prepared: base.Prepared, noise: Array) -> Array:
        """The traces of the inverse covariances times those of the noise, of shape (K,)."""
        return jnp.square(prepared.inverse[0, 0]) * jnp.sum(noise, axis=1)

    def rescaled_by(self, factor: Array) -> Self:
        """The covariances of features in another unit."""
        return self._replace(scale=factor * self.scale)

    def transform_noise(self, labels: Array, noise: Array) -> Array:
        """Each row times the standard deviation."""
        return self.scale * noise

    def to_dense(self, k: int, num_features: int) -> Array:
        """Diagonal matrices, of shape (K, D, D)."""
        return jnp.square(self.scale) * jnp.eye(num_features, dtype=self.scale.dtype)[None].repeat(k, axis=0)

    def unconstrain(self) -> Self:
        """Logarithms of the standard deviations."""
        return self._replace(scale=jnp.log(self.scale))

    def constrain(self) -> Self:
        """The inverse of `unconstrain`."""
        return self._replace(scale=jnp.exp(self.scale))

    @staticmethod
    def num_free_parameters(k: int, num_features: int) -> int:
        """1."""
        return 1

    @staticmethod
    def component_fraction(num_components: Array | int) -> Array | float:
        """All components share one covariance."""
        return 1.0 / num_components

    @staticmethod
    def prior_degrees(degrees_of_freedom: Array, num_features: int) -> Array:
        """Of one inverse gamma density for D log-variances: (nu + 2) / D."""
        return (degrees_of_freedom + 2) / num_features

    @staticmethod
    def prior_scale(covariance: Array) -> Array:
        """A diagonal of equal variances, whose trace is the mean variance: all of it is one variance's prior."""
        return base.isotropic(covariance, jnp.trace(covariance) / covariance.shape[0])
