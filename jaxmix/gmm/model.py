"""The mixture itself: densities, responsibilities and draws."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import door, linalg
from jaxmix.gmm.covariance import Covariance
from jaxmix.gmm.given import as_mixture
from jaxmix.types import ArrayLike


class GMM(NamedTuple):
    r"""A Gaussian mixture, $p(x) = \sum_k \pi_k N(x \mid m_k, C_k)$.

    The tuple is not validated. A log weight of -inf switches a component off.

    Attributes:
      log_weights: Array of shape (K,), $\log \pi_k$; their exponentials sum to 1, and -inf is a component switched off.
      means: Array of shape (K, D).
      covariance: a covariance family, such as `Full`: its type is the family.

    References:
      Bishop (2006), equation 9.7.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.GMM(jnp.log(jnp.array([0.5, 0.5])), jnp.zeros((2, 3)), gmm.Full.unit(2, 3, float))
      >>> mixture.num_free_parameters.item()
      19
    """

    log_weights: Array
    means: Array
    covariance: Covariance

    @property
    def is_on(self) -> Array:
        """Which components are not switched off, of shape (K,)."""
        return ~jnp.isneginf(self.log_weights)

    @property
    def weights(self) -> Array:
        """The weights, of shape (K,)."""
        return jnp.exp(self.log_weights)

    @property
    def covariances(self) -> Array:
        """The covariance matrices, dense, of shape (K, D, D); leading axes of the mixture, such as restarts, lead."""

        def dense(params: GMM) -> Array:
            return params.covariance.dense(*params.means.shape)

        for _ in range(self.means.ndim - 2):
            dense = jax.vmap(dense)
        return dense(self)

    @property
    def num_free_parameters(self) -> Array:
        """K - 1 weights, K D means, and the family's own, of shape (), int32; K counts the components that are on."""
        num_features = self.means.shape[-1]
        on: Any = jnp.sum(self.is_on, axis=-1, dtype=jnp.int32)
        return on - 1 + on * num_features + self.covariance.num_free_parameters(on, num_features)


def log_joint(params: GMM, x: ArrayLike) -> Array:
    r"""Joint log densities of rows and components.

    $$\log p(x_n, z_n = k) = \log \pi_k + \log N(x_n \mid m_k, C_k)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).

    Returns:
      Array of shape (N, K), in nats.

    Raises:
      ValueError: for bad `x`, or parameters of another width, with NaN, or with a covariance that is not positive
        definite.

    References:
      Bishop (2006), equations 9.10 and 9.11.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.GMM(jnp.zeros(1), jnp.zeros((1, 1)), gmm.Full.unit(1, 1, float))
      >>> round(gmm.log_joint(mixture, jnp.zeros((1, 1))).item(), 4)
      -0.9189
    """
    rows = door.as_data(x).x
    return joint(as_mixture(params, rows.shape[1]), rows)


def log_prob(params: GMM, x: ArrayLike) -> Array:
    r"""The log density of each row.

    $$\log p(x_n) = \log \sum_k \pi_k N(x_n \mid m_k, C_k)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).

    Returns:
      Array of shape (N,), in nats.

    Raises:
      ValueError: as `log_joint` does.

    References:
      Bishop (2006), equation 9.7.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.GMM(jnp.log(jnp.full(2, 0.5)), jnp.zeros((2, 1)), gmm.Full.unit(2, 1, float))
      >>> round(gmm.log_prob(mixture, jnp.zeros((1, 1))).item(), 4)
      -0.9189
    """
    return jax.nn.logsumexp(log_joint(params, x), axis=1)


def log_likelihood(params: GMM, x: ArrayLike, *, weights: ArrayLike | None = None) -> Array:
    r"""The log-likelihood, a sum over rows.

    $$\log L = \sum_n w_n \log p(x_n)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      Array of shape (), in nats.

    Raises:
      ValueError: as `log_joint` does, and for bad weights.

    References:
      Bishop (2006), equation 9.14.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.GMM(jnp.zeros(1), jnp.zeros((1, 1)), gmm.Full.unit(1, 1, float))
      >>> round(gmm.log_likelihood(mixture, jnp.zeros((2, 1))).item(), 4)
      -1.8379
    """
    data = door.as_data(x, weights)
    return linalg.weighted_sum(data.weights, log_prob(params, data.x))


def responsibilities(params: GMM, x: ArrayLike) -> Array:
    r"""The posterior of the components given each row.

    $$r_{nk} = p(z_n = k \mid x_n) = \frac{\pi_k N(x_n \mid m_k, C_k)}{\sum_j \pi_j N(x_n \mid m_j, C_j)}$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).

    Returns:
      Array of shape (N, K), rows summing to 1.

    Raises:
      ValueError: as `log_joint` does.

    References:
      Bishop (2006), equation 9.13.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.GMM(jnp.log(jnp.full(2, 0.5)), jnp.zeros((2, 1)), gmm.Full.unit(2, 1, float))
      >>> gmm.responsibilities(mixture, jnp.zeros((1, 1))).tolist()
      [[0.5, 0.5]]
    """
    return jax.nn.softmax(log_joint(params, x), axis=1)


def predict(params: GMM, x: ArrayLike) -> Array:
    r"""The most probable component of each row, $\arg\max_k r_{nk}$.

    $$z_n = \arg\max_k \left(\log \pi_k + \log N(x_n \mid m_k, C_k)\right)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).

    Returns:
      Array of shape (N,), int32. -1 for a row that has no density: one with NaN or infinity, which is refused unless
      it is traced.

    Raises:
      ValueError: as `log_joint` does.

    References:
      Bishop (2006), section 1.5.1: the decision with the fewest errors.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.GMM(jnp.zeros(2), jnp.array([[0.0], [9.0]]), gmm.Full.unit(2, 1, float))
      >>> gmm.predict(mixture, jnp.array([[1.0], [8.0]])).tolist()
      [0, 1]
    """
    joint = log_joint(params, x)
    return jnp.where(jnp.isfinite(jnp.max(joint, axis=1)), jnp.argmax(joint, axis=1), -1).astype(jnp.int32)


def sample(key: Array, params: GMM, n: int) -> tuple[Array, Array]:
    r"""Draws rows as the model says: first the component, then the point.

    $$z \sim \operatorname{Categorical}(\pi), \qquad x = m_z + C_z^{1/2} \varepsilon, \quad \varepsilon \sim N(0, I)$$

    Args:
      key: a PRNG key.
      params: a mixture of K components.
      n: how many rows, static.

    Returns:
      x of shape (n, D) and labels of shape (n,), int32.

    Raises:
      ValueError: for a key that is none, an `n` that is no count, or parameters that make no mixture.

    References:
      Bishop (2006), section 9.2: ancestral sampling.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.GMM(jnp.zeros(1), jnp.zeros((1, 2)), gmm.Full.unit(1, 2, jnp.float32))
      >>> x, labels = gmm.sample(jax.random.key(0), mixture, 5)
      >>> x.shape, labels.shape
      ((5, 2), (5,))
    """
    door.check_key(key)
    n, params = door.check_int(n, "n", least=0), as_mixture(params)
    label_key, noise_key = jax.random.split(key)
    labels = jax.random.categorical(label_key, params.log_weights, shape=(n,)).astype(jnp.int32)
    noise = jax.random.normal(noise_key, (n, params.means.shape[1]), params.means.dtype)
    return params.means[labels] + params.covariance.colour(labels, noise), labels


@jax.jit
def joint(params: GMM, x: Array) -> Array:
    """`log_joint` of rows that the door has seen."""
    return joint_of(params)(x)


def joint_of(params: GMM) -> Callable[[Array], Array]:
    """`joint` as a function of rows: what needs no rows is done once."""
    log_density = params.covariance.log_density(params.means)
    return lambda x: params.log_weights[None] + log_density(x)
