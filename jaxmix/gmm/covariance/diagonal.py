"""A variance for each component and feature (VVI)."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax.numpy as jnp
from jax import Array

from jaxmix import linalg
from jaxmix.gmm.covariance import base
from jaxmix.kernels import mixture, quadratic


class Diagonal(NamedTuple):
    r"""Features are independent within a component, $C_k = \operatorname{diag}(s_{k}^2)$.

    The M-step is $s_{kd}^2 = \frac{1}{N_k} \sum_n w_n r_{nk} (x_{nd} - m_{kd})^2$ about the new means.

    Attributes:
      scale: Array of shape (K, D), standard deviations.

    References:
      Murphy (2012), section 11.4.2.5. The family VVI of Fraley and Raftery (2002).

    Example:
      >>> Diagonal.unit(2, 3, float).dense(2, 3).shape
      (2, 3, 3)
    """

    scale: Array

    @classmethod
    def unit(cls, k: int, num_features: int, dtype: Any) -> Self:
        """Unit standard deviations."""
        return cls(jnp.ones((k, num_features), dtype))

    @staticmethod
    def moments(responsibilities: Array, means: Array, x: Array) -> tuple[Array, Array]:
        """Sums and sums of squares about each mean, both of shape (K, D)."""
        return mixture.square_moments(responsibilities.T, means, x)

    def maximize(self, moments: base.Moments, degrees: Array, regularization: Array | float) -> Self:
        """The weighted variances of each component's rows."""
        degrees = degrees[:, None]
        between = linalg.safe_divide(moments.counts[:, None], degrees) * jnp.square(moments.shift)
        variances = linalg.safe_divide(moments.second, degrees) - between + regularization
        return self._replace(scale=jnp.where(degrees == 0, self.scale, jnp.sqrt(variances)))

    def log_density(self, means: Array) -> Callable[[Array], Array]:
        """Log densities of rows, of shape (N, K)."""
        inverse, half = 1 / self.scale, jnp.sum(jnp.log(self.scale), axis=1)[None]
        return lambda x: base.gaussian(mixture.squares(means, inverse, x).T, half, x.shape[1])

    def expand(self, means: Array) -> quadratic.Expansion:
        """Log densities as sums of squares of features, for means about the origin."""
        return quadratic.of_precisions(
            1 / jnp.square(self.scale), jnp.sum(jnp.log(self.scale), axis=1), self.scale, means
        )

    @staticmethod
    def collect(products: Array) -> Array:
        """Second moments from sums of squares: these."""
        return products

    def colour(self, labels: Array, noise: Array) -> Array:
        """Each row times its component's standard deviations."""
        return self.scale[labels] * noise

    def dense(self, k: int, num_features: int) -> Array:
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
    def share(num_components: Array | int) -> Array | float:
        """One: each component has its own covariance."""
        return 1.0

    @staticmethod
    def prior_degrees(degrees: Array, num_features: int) -> Array:
        """Of an inverse gamma density for each variance: nu + 2."""
        return degrees + 2
