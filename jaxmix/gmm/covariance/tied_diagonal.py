"""A variance for each feature, shared by all components (EEI)."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax.numpy as jnp
from jax import Array

from jaxmix.gmm.covariance import base
from jaxmix.kernels import mixture


class TiedDiagonal(NamedTuple):
    r"""Features are independent, and all components have one shape, $C = \operatorname{diag}(s^2)$.

    The M-step is $s_d^2 = \sum_{nk} w_n r_{nk} (x_{nd} - m_{kd})^2 / \sum_k N_k$ about the new means.

    Attributes:
      scale: Array of shape (D,), standard deviations.

    References:
      Celeux and Govaert (1995), section 4. The family EEI of Fraley and Raftery (2002).

    Example:
      >>> TiedDiagonal.unit(2, 3, float).dense(2, 3).shape
      (2, 3, 3)
    """

    scale: Array

    @classmethod
    def unit(cls, k: int, num_features: int, dtype: Any) -> Self:
        """Unit standard deviations."""
        return cls(jnp.ones(num_features, dtype))

    @staticmethod
    def moments(responsibilities: Array, means: Array, x: Array) -> tuple[Array, Array]:
        """Sums about each mean, and of squares of all components together, of shapes (K, D) and (D,)."""
        return mixture.pooled_square_moments(responsibilities.T, means, x)

    def maximize(self, moments: base.Moments, degrees: Array, regularization: Array | float) -> Self:
        """The pooled variances."""
        between = jnp.sum(moments.counts[:, None] * jnp.square(moments.shift), axis=0)
        variances = (moments.second - between) / jnp.sum(degrees) + regularization
        return self._replace(scale=jnp.sqrt(variances))

    def log_density(self, means: Array) -> Callable[[Array], Array]:
        """Log densities of rows, of shape (N, K)."""
        inverse, half = 1 / self.scale[None], jnp.sum(jnp.log(self.scale))
        return lambda x: base.gaussian(mixture.squares(means, inverse, x).T, half, x.shape[1])

    def colour(self, labels: Array, noise: Array) -> Array:
        """Each row times the standard deviations."""
        return self.scale[None] * noise

    def dense(self, k: int, num_features: int) -> Array:
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
    def share(num_components: Array | int) -> Array | float:
        """All components share one covariance."""
        return 1.0 / num_components

    @staticmethod
    def prior_degrees(degrees: Array, num_features: int) -> Array:
        """Of an inverse gamma density for each variance: nu + 2."""
        return degrees + 2
