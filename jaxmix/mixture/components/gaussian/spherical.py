"""A variance for each component (VII)."""

from typing import Any, NamedTuple, Self

import jax.numpy as jnp
from jax import Array

from jaxmix import linalg
from jaxmix.kernels import mixture, quadratic
from jaxmix.mixture.components.gaussian import base


class Spherical(NamedTuple):
    r"""Every component is round, with a size of its own, $C_k = s_k^2 I$.

    The M-step is $s_k^2 = \frac{1}{D N_k} \sum_n w_n r_{nk} |x_n - m_k|^2$ about the new means.

    Attributes:
      scale: Array of shape (K,), standard deviations.

    References:
      Celeux and Govaert (1995), section 4. The family VII of Fraley and Raftery (2002).

    Example:
      >>> Spherical.identity(2, 3, float).to_dense(2, 3).shape
      (2, 3, 3)
    """

    scale: Array

    @classmethod
    def identity(cls, k: int, num_features: int, dtype: Any) -> Self:
        """Unit standard deviations."""
        return cls(jnp.ones(k, dtype))

    @staticmethod
    def moments(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
        """Sums and sums of squared lengths about each mean, of shapes (K, D) and (K,)."""
        first, squares = mixture.square_moments(shares, means, x)
        return first, jnp.sum(squares, axis=1)

    def maximize(self, counts: Array, moments: base.Moments, denominators: Array, noise: Array) -> Self:
        """The mean of each component's weighted variances."""
        between = linalg.safe_divide(counts, denominators) * jnp.sum(jnp.square(moments.shift(counts)), axis=1)
        second, added = (linalg.safe_divide(each, denominators) for each in (moments.second, noise))
        variances = base.squares(second, between, added) / moments.first.shape[1]
        return self._replace(scale=jnp.where(denominators == 0, self.scale, jnp.sqrt(variances)))

    def prepare(self, means: Array) -> base.Prepared:
        """The inverse standard deviations."""
        return base.Prepared(means, 1 / self.scale[:, None], means.shape[1] * jnp.log(self.scale)[:, None])

    @staticmethod
    def log_density(prepared: base.Prepared, x: Array) -> Array:
        """Log densities of rows, of shape (K, n)."""
        return base.gaussian(mixture.squares(prepared.means, prepared.inverse, x), prepared)

    def as_quadratic(self, means: Array) -> quadratic.Quadratic:
        """Log densities as sums of squares of features."""
        scale = jnp.broadcast_to(self.scale[:, None], means.shape)
        return quadratic.Quadratic(1 / jnp.square(scale), jnp.sum(jnp.log(scale), axis=1), scale, means)

    @staticmethod
    def second_moments(products: Array) -> Array:
        """Second moments from sums of squares: those of all features."""
        return jnp.sum(products, axis=1)

    @staticmethod
    def noise_moments(weights: Array) -> Array:
        """The second moments of noise of total squares (K, D)."""
        return jnp.sum(weights, axis=1)

    @staticmethod
    def noise_traces(prepared: base.Prepared, noise: Array) -> Array:
        """The traces of the inverse covariances times those of the noise, of shape (K,)."""
        return jnp.square(prepared.inverse[:, 0]) * jnp.sum(noise, axis=1)

    def rescaled_by(self, factor: Array) -> Self:
        """The covariances of features in another unit."""
        return self._replace(scale=factor * self.scale)

    def transform_noise(self, labels: Array, noise: Array) -> Array:
        """Each row times its component's standard deviation."""
        return self.scale[labels][:, None] * noise

    def to_dense(self, k: int, num_features: int) -> Array:
        """Diagonal matrices, of shape (K, D, D)."""
        return jnp.square(self.scale)[:, None, None] * jnp.eye(num_features, dtype=self.scale.dtype)[None]

    def unconstrain(self) -> Self:
        """Logarithms of the standard deviations."""
        return self._replace(scale=jnp.log(self.scale))

    def constrain(self) -> Self:
        """The inverse of `unconstrain`."""
        return self._replace(scale=jnp.exp(self.scale))

    @staticmethod
    def num_free_parameters(k: int, num_features: int) -> int:
        """K."""
        return k

    @staticmethod
    def component_fraction(num_components: Array | int) -> Array | float:
        """One: each component has its own covariance."""
        return 1.0

    @staticmethod
    def prior_degrees(degrees_of_freedom: Array, num_features: int) -> Array:
        """Of one inverse gamma density for D log-variances: (nu + 2) / D."""
        return (degrees_of_freedom + 2) / num_features

    @staticmethod
    def prior_scale(covariance: Array) -> Array:
        """A diagonal of equal variances, whose trace is the mean variance: all of it is one variance's prior."""
        return base.isotropic(covariance, jnp.trace(covariance) / covariance.shape[0])
