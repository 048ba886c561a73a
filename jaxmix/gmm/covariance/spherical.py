"""A variance for each component (VII)."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax.numpy as jnp
from jax import Array

from jaxmix import linalg
from jaxmix.gmm.covariance import base
from jaxmix.kernels import mixture, quadratic


class Spherical(NamedTuple):
    r"""Every component is round, with a size of its own, $C_k = s_k^2 I$.

    The M-step is $s_k^2 = \frac{1}{D N_k} \sum_n w_n r_{nk} |x_n - m_k|^2$ about the new means.

    Attributes:
      scale: Array of shape (K,), standard deviations.

    References:
      Celeux and Govaert (1995), section 4. The family VII of Fraley and Raftery (2002).

    Example:
      >>> Spherical.unit(2, 3, float).dense(2, 3).shape
      (2, 3, 3)
    """

    scale: Array

    @classmethod
    def unit(cls, k: int, num_features: int, dtype: Any) -> Self:
        """Unit standard deviations."""
        return cls(jnp.ones(k, dtype))

    @staticmethod
    def moments(responsibilities: Array, means: Array, x: Array) -> tuple[Array, Array]:
        """Sums and sums of squared lengths about each mean, of shapes (K, D) and (K,)."""
        first, squares = mixture.square_moments(responsibilities.T, means, x)
        return first, jnp.sum(squares, axis=1)

    def maximize(self, moments: base.Moments, degrees: Array, regularization: Array | float) -> Self:
        """The mean of each component's weighted variances."""
        between = linalg.safe_divide(moments.counts, degrees) * jnp.sum(jnp.square(moments.shift), axis=1)
        mean_square = linalg.safe_divide(moments.second, degrees) - between
        variances = mean_square / moments.first.shape[1] + regularization
        return self._replace(scale=jnp.where(degrees == 0, self.scale, jnp.sqrt(variances)))

    def log_density(self, means: Array) -> Callable[[Array], Array]:
        """Log densities of rows, of shape (N, K)."""
        inverse, half = 1 / self.scale[:, None], means.shape[1] * jnp.log(self.scale)[None]
        return lambda x: base.gaussian(mixture.squares(means, inverse, x).T, half, x.shape[1])

    def expand(self, means: Array) -> quadratic.Expansion:
        """Log densities as sums of squares of features, for means about the origin."""
        scale = jnp.broadcast_to(self.scale[:, None], means.shape)
        return quadratic.of_precisions(1 / jnp.square(scale), jnp.sum(jnp.log(scale), axis=1), scale, means)

    @staticmethod
    def collect(products: Array) -> Array:
        """Second moments from sums of squares: those of all features."""
        return jnp.sum(products, axis=1)

    def colour(self, labels: Array, noise: Array) -> Array:
        """Each row times its component's standard deviation."""
        return self.scale[labels][:, None] * noise

    def dense(self, k: int, num_features: int) -> Array:
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
    def share(num_components: Array | int) -> Array | float:
        """One: each component has its own covariance."""
        return 1.0

    @staticmethod
    def prior_degrees(degrees: Array, num_features: int) -> Array:
        """Of one inverse gamma density for D log-variances: (nu + 2) / D."""
        return (degrees + 2) / num_features
