"""Densities, responsibilities and draws of mixtures of any component."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import linalg, validation
from jaxmix.mixture.component import Component
from jaxmix.mixture.inference import joints, labels, log_probs, of_rows, posterior
from jaxmix.mixture.model import Mixture, component_of
from jaxmix.mixture.validation import as_mixture, as_mixture_and_data
from jaxmix.typing import ArrayLike

DRAWN = 2**16
"""The most rows that `sample` draws at a time, each time with another key: random numbers take K for a label."""


def log_joint(params: Mixture, x: ArrayLike, *, component: Component | None = None) -> Array:
    r"""Joint log densities of rows and components.

    $$\log p(x_n, z_n = k) = \log \pi_k + \log p(x_n \mid \theta_k)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

    Returns:
      Array of shape (N, K), in nats.

    Raises:
      ValueError: for bad `x`, or parameters of another width, with NaN, or that break their constraints.

    References:
      Bishop (2006), equations 9.10 and 9.11.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> round(gmm.log_joint(mixture, jnp.zeros((1, 1))).item(), 4)
      -0.9189
    """
    return of_rows(joints, *_given(params, x, component))


def log_prob(params: Mixture, x: ArrayLike, *, component: Component | None = None) -> Array:
    r"""The log density of each row.

    $$\log p(x_n) = \log \sum_k \pi_k p(x_n \mid \theta_k)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

    Returns:
      Array of shape (N,), in nats.

    Raises:
      ValueError: as `log_joint` does.

    References:
      Bishop (2006), equation 9.7.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([0.5, 0.5], [[0.0], [0.0]], jnp.ones((2, 1, 1)))
      >>> round(gmm.log_prob(mixture, jnp.zeros((1, 1))).item(), 4)
      -0.9189
    """
    return of_rows(log_probs, *_given(params, x, component))


def log_likelihood(
    params: Mixture, x: ArrayLike, *, weights: ArrayLike | None = None, component: Component | None = None
) -> Array:
    r"""The log-likelihood, a sum over rows.

    $$\log L = \sum_n w_n \log p(x_n)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      weights: array of shape (N,), non-negative; None for ones.
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

    Returns:
      Array of shape (), in nats.

    Raises:
      ValueError: as `log_joint` does, and for bad weights.

    References:
      Bishop (2006), equation 9.14.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> round(gmm.log_likelihood(mixture, jnp.zeros((2, 1))).item(), 4)
      -1.8379
    """
    component, params, data = as_mixture_and_data(params, x, weights, component)
    return linalg.weighted_sum(data.weights, of_rows(log_probs, component, params, data.x))


def responsibilities(params: Mixture, x: ArrayLike, *, component: Component | None = None) -> Array:
    r"""The posterior of the components given each row.

    $$r_{nk} = p(z_n = k \mid x_n) = \frac{\pi_k p(x_n \mid \theta_k)}{\sum_j \pi_j p(x_n \mid \theta_j)}$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

    Returns:
      Array of shape (N, K), rows summing to 1.

    Raises:
      ValueError: as `log_joint` does.

    References:
      Bishop (2006), equation 9.13.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([0.5, 0.5], [[0.0], [0.0]], jnp.ones((2, 1, 1)))
      >>> gmm.responsibilities(mixture, jnp.zeros((1, 1))).tolist()
      [[0.5, 0.5]]
    """
    return of_rows(posterior, *_given(params, x, component))


def predict(params: Mixture, x: ArrayLike, *, component: Component | None = None) -> Array:
    r"""The most probable component of each row, $\arg\max_k r_{nk}$.

    $$z_n = \arg\max_k \left(\log \pi_k + \log p(x_n \mid \theta_k)\right)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

    Returns:
      Array of shape (N,), int32. -1 for a row that has no density: one with NaN or infinity, which is rejected unless
      it is traced.

    Raises:
      ValueError: as `log_joint` does.

    References:
      Bishop (2006), section 1.5.1: the decision with the fewest errors.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([0.5, 0.5], [[0.0], [9.0]], jnp.ones((2, 1, 1)))
      >>> gmm.predict(mixture, jnp.array([[1.0], [8.0]])).tolist()
      [0, 1]
    """
    return of_rows(labels, *_given(params, x, component))


def sample(key: Array, params: Mixture, n: int, *, component: Component | None = None) -> tuple[Array, Array]:
    r"""Draws rows as the model says: first the component, then the point.

    $$z \sim \operatorname{Categorical}(\pi), \qquad x \sim p(x \mid \theta_z)$$

    Args:
      key: a PRNG key.
      params: a mixture of K components.
      n: how many rows, static.
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

    Returns:
      x of shape (n, D) and labels of shape (n,), int32.

    Raises:
      ValueError: for an invalid key, an `n` that is not a count, or parameters that are not a mixture.

    References:
      Bishop (2006), section 9.2: ancestral sampling.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([1.0], jnp.zeros((1, 2)), jnp.eye(2)[None])
      >>> x, labels = gmm.sample(jax.random.key(0), mixture, 5)
      >>> x.shape, labels.shape
      ((5, 2), (5,))
    """
    validation.check_key(key)
    component = component_of(params, component)
    n, params = validation.check_int(n, "n", least=0), as_mixture(params, component)
    return _sample(key, component, params, n)


def _given(params: Mixture, x: ArrayLike, component: Component | None) -> tuple[Component, Mixture, Any]:
    """Component, parameters and rows, validated."""
    component, params, data = as_mixture_and_data(params, x, component=component, has_weights=False)
    return component, params, data.x


@partial(jax.jit, static_argnums=3)
def _sample(key: Array, component: Component, params: Mixture, n: int) -> tuple[Array, Array]:
    def draw(key: Array, n: int) -> tuple[Array, Array]:
        label_key, row_key = jax.random.split(key)
        drawn = jax.random.categorical(label_key, params.log_weights, shape=(n,)).astype(jnp.int32)
        return component.sample(row_key, params.components, drawn), drawn

    num_parts = -(-n // DRAWN)
    if num_parts <= 1:
        return draw(key, n)
    size = -(-n // num_parts)
    parts = jax.lax.map(lambda key: draw(key, size), jax.random.split(key, num_parts))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], parts)
