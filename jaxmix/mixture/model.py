"""The parameters of a mixture, and its statistics."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import arrays
from jaxmix.mixture.component import Component, check_component


class Mixture(NamedTuple):
    r"""The parameters of a mixture, $p(x) = \sum_k \pi_k p(x \mid \theta_k)$.

    The tuple is not validated. A log weight of -inf switches a component off.

    Attributes:
      log_weights: Array of shape (K,), $\log \pi_k$; their exponentials sum to 1, and -inf is a component switched off.
      components: a pytree, the parameters of the components, such as `Normal(means, covariance)`.

    References:
      Bishop (2006), equation 9.7.

    Example:
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([0.5, 0.5], [[0.0] * 3, [1.0] * 3], [[[1, 0, 0], [0, 1, 0], [0, 0, 1]]] * 2)
      >>> mixture.means.shape, mixture.num_free_parameters.item()
      ((2, 3), 19)
    """

    log_weights: Array
    components: Any

    @property
    def is_on(self) -> Array:
        """Which components are not switched off, of shape (K,)."""
        return ~jnp.isneginf(self.log_weights)

    @property
    def weights(self) -> Array:
        """The weights, of shape (K,)."""
        return jnp.exp(self.log_weights)

    @property
    def means(self) -> Array:
        """The means of components that have them, of shape (K, D)."""
        return self.components.means

    @property
    def covariance(self) -> Any:
        """The covariances of components that have them, by their family, such as `Full`."""
        return self.components.covariance

    @property
    def covariances(self) -> Array:
        """The covariances of components that have them, as matrices of shape (K, D, D)."""
        return self.components.covariances

    @property
    def num_free_parameters(self) -> Array:
        """K - 1 weights and the components' own numbers, of shape (), int32; K counts the components that are on."""
        named = getattr(self.components, "component", None)
        component = named if isinstance(named, Component) else Component()

        def count(params: Mixture) -> Array:
            on: Any = jnp.sum(params.is_on, dtype=jnp.int32)
            return on - 1 + component.num_free_parameters(params.components, on)

        for _ in range(self.log_weights.ndim - 1):
            count = jax.vmap(count)
        return count(self)


class Stats(NamedTuple):
    r"""What the E-step hands to the M-step; `merging.merge` adds those of disjoint rows.

    Attributes:
      loss: Array of shape (), minus the evidence: with `Soft`, minus the log-likelihood.
      counts: Array of shape (K,), $N_k = \sum_n w_n r_{nk}$.
      moments: the component's own sums.

    Example:
      >>> from jaxmix import gmm
      >>> stats = gmm.e_step(gmm.mixture([1.0], [[0.0]], [[[1.0]]]), [[1.0], [3.0]])
      >>> stats.counts.tolist(), stats.moments.second.ravel().tolist()
      ([2.0], [10.0])
    """

    loss: Array
    counts: Array
    moments: Any


def component_of(params: Any, component: Component | None) -> Component:
    """The component of a mixture: the one given, or the one that the parameters name.

    Raises:
      ValueError: for anything but a `Mixture`, parameters that name none, or one whose settings are not valid.
    """
    check_mixture(params, "params")
    found = getattr(params.components, "component", None) if component is None else component
    if found is None:
        raise ValueError("These parameters do not name their component: give `component=`, such as that of the model.")
    check_component(found)
    return found


def check_mixture(params: Any, name: str) -> None:
    """Rejects all but a `Mixture`, whose parts are not validated.

    Raises:
      ValueError: naming the argument.
    """
    arrays.reject_fit(params, name)
    if not isinstance(params, Mixture):
        raise ValueError(f"`{name}` must be a `Mixture`, got {arrays.described(params)}.")
