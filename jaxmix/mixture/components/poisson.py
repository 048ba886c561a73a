"""Independent Poisson counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import linalg
from jaxmix.data import Rows
from jaxmix.mixture.component import Component
from jaxmix.pytree import choice


class Rates(NamedTuple):
    """The parameters of Poisson components.

    Attributes:
      rates: Array of shape (K, D), positive.

    Example:
      >>> Rates(jnp.ones((2, 3))).component
      Poisson()
    """

    rates: Array

    @property
    def component(self) -> "Poisson":
        """The component that they are parameters of."""
        return Poisson()


@choice
class Poisson(Component):
    r"""Independent counts, $p(x \mid \lambda_k) = \prod_d \lambda_{kd}^{x_d} e^{-\lambda_{kd}} / x_d!$.

    Rows below zero have density 0: a fit of them ends with `Status.NONFINITE`. A feature that is zero in all rows of a
    component has the smallest positive rate.

    References:
      Hasselblad (1969), section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import mixture
      >>> params = mixture.Mixture(jnp.zeros(1), mixture.Rates(jnp.array([[2.0]])))
      >>> round(mixture.log_prob(params, jnp.array([[0.0]])).item(), 4)
      -2.0
    """

    def prepare(self, params: Rates) -> tuple[Array, Array]:
        """Log rates and total rates."""
        return jnp.log(params.rates), jnp.sum(params.rates, axis=1)

    def log_density(self, prepared: tuple[Array, Array], rows: Rows) -> Array:
        """Log probabilities of rows."""
        log_rates, totals = prepared
        log_factorials = jnp.sum(jax.lax.lgamma(jnp.maximum(rows.x, 0) + 1), axis=1)
        outside = jnp.any(rows.x < 0, axis=1)
        found = linalg.dot(log_rates, rows.x.T) - totals[:, None] - log_factorials[None]
        return jnp.where(outside[None], -jnp.inf, found)

    def moments(self, shares: Array, rows: Rows, prepared: Any) -> Array:
        """The counts of each component, of shape (K, D)."""
        return linalg.dot(shares, rows.x)

    def maximize(self, counts: Array, moments: Array, params: Rates, is_on: Array) -> Rates:
        """The mean count of each component's rows."""
        means = jnp.maximum(linalg.safe_divide(moments, counts[:, None]), jnp.finfo(moments.dtype).tiny)
        return Rates(jnp.where((counts == 0)[:, None], params.rates, means))

    def initial(self, k: int, num_features: int, dtype: Any) -> Rates:
        """Rates of one."""
        return Rates(jnp.ones((k, num_features), dtype))

    def sample(self, key: Array, params: Rates, labels: Array) -> Array:
        """Counts, in the dtype of the rates."""
        return jax.random.poisson(key, params.rates[labels]).astype(params.rates.dtype)

    def unconstrain(self, params: Rates) -> Rates:
        """Log rates."""
        return Rates(jnp.log(params.rates))

    def constrain(self, free: Rates) -> Rates:
        """The inverse of `unconstrain`."""
        return Rates(jnp.exp(free.rates))

    def recenter(self, counts: Array, moments: Array, params: Rates, new: Rates) -> Array:
        """The sums as they are: they do not depend on the rates."""
        return moments
