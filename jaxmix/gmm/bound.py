"""The latent-variable side: complete log-likelihood, its expectation, and the evidence lower bound."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import door
from jaxmix.gmm.model import GMM, joint, log_joint
from jaxmix.types import ArrayLike


def complete_log_likelihood(params: GMM, x: ArrayLike, labels: ArrayLike) -> Array:
    r"""The log-likelihood of rows and labels together.

    $$\log p(X, Z) = \sum_n \left( \log \pi_{z_n} + \log N(x_n \mid m_{z_n}, C_{z_n}) \right)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      labels: integer array of shape (N,), in [0, K).

    Returns:
      Array of shape (), in nats.

    Raises:
      ValueError: for bad `x` or labels.

    References:
      Bishop (2006), equation 9.36.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.GMM(jnp.zeros(1), jnp.zeros((1, 1)), gmm.Full.unit(1, 1, float))
      >>> round(gmm.complete_log_likelihood(mixture, jnp.zeros((2, 1)), jnp.array([0, 0])).item(), 4)
      -1.8379
    """
    data = door.as_data(x)
    labels, data = door.as_labels(labels, data, params.means.shape[0])
    return jnp.sum(data.weights * jnp.take_along_axis(joint(params, data.x), labels[:, None], axis=1)[:, 0])


def expected_complete_log_likelihood(params: GMM, x: ArrayLike, resp: ArrayLike) -> Array:
    r"""Q: the complete log-likelihood, expected under any responsibilities.

    $$Q = \sum_{nk} r_{nk} \left( \log \pi_k + \log N(x_n \mid m_k, C_k) \right)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      resp: array of shape (N, K), rows summing to 1.

    Returns:
      Array of shape (), in nats.

    Raises:
      ValueError: for bad `x`, or `resp` of another shape, negative, or with rows that do not sum to 1.

    References:
      Bishop (2006), equation 9.40.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.GMM(jnp.zeros(1), jnp.zeros((1, 1)), gmm.Full.unit(1, 1, float))
      >>> round(gmm.expected_complete_log_likelihood(mixture, jnp.zeros((2, 1)), jnp.ones((2, 1))).item(), 4)
      -1.8379
    """
    joint_log = log_joint(params, x)
    shares = _shares(resp, joint_log)
    # 0 times the -inf of a component that is switched off is 0.
    return jnp.sum(jnp.where(shares > 0, shares * joint_log, 0))


def elbo(params: GMM, x: ArrayLike, resp: ArrayLike) -> Array:
    r"""The lower bound on the log-likelihood that any responsibilities give, and the posterior attains.

    $$\mathcal{L}(r, \theta) = Q(r, \theta) + H(r) = \log L(\theta) - \mathrm{KL}(r \,\|\, p(Z \mid X, \theta)),
      \qquad H(r) = -\sum_{nk} r_{nk} \log r_{nk}$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D).
      resp: array of shape (N, K), rows summing to 1.

    Returns:
      Array of shape (), in nats.

    Raises:
      ValueError: as `expected_complete_log_likelihood` does.

    References:
      Bishop (2006), equations 9.70 to 9.72; Neal and Hinton (1998).

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.GMM(jnp.zeros(1), jnp.zeros((1, 1)), gmm.Full.unit(1, 1, float))
      >>> round(gmm.elbo(mixture, jnp.zeros((2, 1)), jnp.ones((2, 1))).item(), 4)
      -1.8379
    """
    return expected_complete_log_likelihood(params, x, resp) + entropy(resp)


def entropy(resp: ArrayLike) -> Array:
    r"""The entropy of responsibilities, summed over rows: 0 where every row is certain of its component.

    $$H(r) = -\sum_{nk} r_{nk} \log r_{nk}$$

    Args:
      resp: array of shape (N, K), rows summing to 1.

    Returns:
      Array of shape (), in nats, between 0 and N log K.

    References:
      Bishop (2006), equation 1.98.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> gmm.entropy(jnp.array([[1.0, 0.0]])).item()
      0.0
    """
    shares = door.as_floating(resp, "resp")
    return jnp.sum(jax.scipy.special.entr(shares))


def _shares(resp: ArrayLike, like: Array) -> Array:
    shares = door.as_floating(resp, "resp").astype(like.dtype)
    if shares.shape != like.shape:
        raise ValueError(f"`resp` must have shape (N, K) = {like.shape}, got {shares.shape}.")
    if door.is_concrete(shares):
        with jax.ensure_compile_time_eval():
            tolerance = 100 * jnp.finfo(shares.dtype).eps
            if not bool((shares >= 0).all() & (jnp.abs(shares.sum(axis=1) - 1) < tolerance).all()):
                raise ValueError("`resp` must be non-negative, each row summing to 1.")
    return shares
