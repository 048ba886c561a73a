"""A variance for each component and feature (VVI)."""

from typing import Any, NamedTuple, Self

import jax.numpy as jnp
from jax import Array

from jaxmix import linalg
from jaxmix.kernels import mixture, quadratic
from jaxmix.mixture.components.gaussian import base


class Diagonal(NamedTuple):
    r"""Features are independent within a component, $C_k = \operatorname{diag}(s_{k}^2)$.

    The M-step is $s_{kd}^2 = \frac{1}{N_k} \sum_n w_n r_{nk} (x_{nd} - m_{kd})^2$ about the new means.

    Attributes:
      scale: Array of shape (K, D), standard deviations.

    References:
      Murphy (2012), section 11.4.2.5. The family VVI of Fraley and Raftery (2002).

    Example:
      >>> Diagonal.identity(2, 3, float).to_dense(2, 3).shape
      (2, 3, 3)
    """

    scale: Array

    @classmethod
    def identity(cls, k: int, num_features: int, dtype: Any) -> Self:
        """Unit standard deviations."""
        return cls(jnp.ones((k, num_features), dtype))

    @staticmethod
    def moments(shares: Array, means: Array, x: Array) -> tuple[Array, Array]:
        """Sums and sums of squares about each mean, both of shape (K, D)."""
        return mixture.square_moments(shares, means, x)

    def maximize(self, counts: Array, moments: base.Moments, denominators: Array, noise: Array) -> Self:
        """The weighted variances of each component's rows."""
        denominators = denominators[:, None]
        between = linalg.safe_divide(counts[:, None], denominators) * jnp.square(moments.shift(counts))
        second, added = (linalg.safe_divide(each, denominators) for each in (moments.second, noise))
        variances = base.squares(second, between, added)
        return self._replace(scale=jnp.where(denominators == 0, self.scale, jnp.sqrt(variances)))

    def prepare(self, means: Array) -> base.Prepared:
        """The inverse standard deviations."""
        return base.Prepared(means, 1 / self.scale, jnp.sum(jnp.log(self.scale), axis=1, keepdims=True))

    @staticmethod
    def log_density(prepared: base.Prepared, x: Array) -> Array:
        """Log densities of rows, of shape (K, n)."""
        return base.gaussian(mixture.squares(prepared.means, prepared.inverse, x), prepared)

    def as_quadratic(self, means: Array) -> quadratic.Quadratic:
        """Log densities as sums of squares of features."""
        halves = jnp.sum(jnp.log(self.scale), axis=1)
        return quadratic.Quadratic(1 / jnp.square(self.scale), halves, self.scale, means)

    @staticmethod
    def second_moments(products: Array) -> Array:
        """Second moments from sums of squares: these."""
        return products

    @staticmethod
    def noise_moments(weights: Array) -> Array:
        """The second moments of noise of total squares (K, D)."""
        return weights

    @staticmethod
    def noise_traces(prepared: base.Prepared, noise: Array) -> Array:
        """The traces of the inverse covariances times those of the noise, of shape (K,)."""
        return jnp.sum(jnp.square(prepared.inverse) * noise, axis=1)

    def rescaled(self, factors: Array) -> Self:
        """The covariances of features in other units."""
        return self._replace(scale=factors[None] * self.scale)

    def transform_noise(self, labels: Array, noise: Array) -> Array:
        """Each row times its component's standard deviations."""
        return self.scale[labels] * noise

    def to_dense(self, k: int, num_features: int) -> Array:
        """Diagonal matrices, of shape (K, D, D)."""
        return jnp.square(self.scale)[:, :, None] * jnp.eye(num_features, dtype=self.scale.dtype)[None]

    def unconstrain(self) -> Self:
        """Logarithms of the standard deviations."""
        return self._replace(scale=jnp.log(self.scale))

    def constrain(self) -> Self:
        """The inverse of `unconstrain`."""
        return self._replace(scale=jnp.exp(self.scale))

    @staticmethod
    def num_free_parameters(k: int, num_features: int) -> int:
        """K D."""
        return k * num_features

    @staticmethod
    def component_fraction(num_components: Array | int) -> Array | float:
        """One: each component has its own covariance."""
        return 1.0

    @staticmethod
    def prior_degrees(degrees_of_freedom: Array, num_features: int) -> Array:
        """Of an inverse gamma density for each variance: nu + 2."""
        return degrees_of_freedom + 2

    @staticmethod
    def prior_scale(covariance: Array) -> Array:
        """A diagonal of equal variances, of the same trace."""
        return base.isotropic(covariance, jnp.trace(covariance))
