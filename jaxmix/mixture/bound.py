"""The latent-variable side: complete log-likelihood, its expectation, and the evidence lower bound."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import linalg, validation
from jaxmix.data import Data
from jaxmix.mixture.component import Component
from jaxmix.mixture.inference import expected_joints, of_rows, own_joints
from jaxmix.mixture.model import Mixture
from jaxmix.mixture.validation import as_mixture_and_data
from jaxmix.typing import ArrayLike


def complete_log_likelihood(
    params: Mixture,
    x: ArrayLike | Data,
    labels: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    component: Component | None = None,
) -> Array:
    r"""The log-likelihood of rows and labels together.

    $$\log p(X, Z) = \sum_n w_n \left( \log \pi_{z_n} + \log p(x_n \mid \theta_{z_n}) \right)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D), or `Data`.
      labels: integer array of shape (N,), in [0, K).
      weights: array of shape (N,), non-negative; None for ones.
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

    Returns:
      Array of shape (), in nats.

    Raises:
      ValueError: for bad parameters, `x` or labels.

    References:
      Bishop (2006), equation 9.36.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> round(gmm.complete_log_likelihood(mixture, jnp.zeros((2, 1)), jnp.array([0, 0])).item(), 4)
      -1.8379
    """
    component, params, data = as_mixture_and_data(params, x, weights, component)
    labels, data = validation.as_labels(labels, data, params.log_weights.shape[0])
    return linalg.weighted_sum(data.weights, of_rows(own_joints, component, params, (data.x, labels)))


def expected_complete_log_likelihood(
    params: Mixture,
    x: ArrayLike | Data,
    resp: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    component: Component | None = None,
) -> Array:
    r"""Q: the complete log-likelihood, expected under any responsibilities.

    $$Q = \sum_{nk} w_n r_{nk} \left( \log \pi_k + \log p(x_n \mid \theta_k) \right)$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D), or `Data`.
      resp: array of shape (N, K), rows summing to 1.
      weights: array of shape (N,), non-negative; None for ones.
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

    Returns:
      Array of shape (), in nats.

    Raises:
      ValueError: for bad parameters or `x`, or `resp` of another shape, negative, or with rows that do not sum to 1.

    References:
      Bishop (2006), equation 9.40.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> round(gmm.expected_complete_log_likelihood(mixture, jnp.zeros((2, 1)), jnp.ones((2, 1))).item(), 4)
      -1.8379
    """
    component, params, data = as_mixture_and_data(params, x, weights, component)
    return _expected(component, params, data, _shares(resp, params, data))


def elbo(
    params: Mixture,
    x: ArrayLike | Data,
    resp: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    component: Component | None = None,
) -> Array:
    r"""The lower bound on the log-likelihood that any responsibilities give, and the posterior attains.

    $$\mathcal{L}(r, \theta) = Q(r, \theta) + H(r) = \log L(\theta) - \mathrm{KL}(r \,\|\, p(Z \mid X, \theta)),
      \qquad H(r) = -\sum_{nk} w_n r_{nk} \log r_{nk}$$

    Args:
      params: a mixture of K components.
      x: array of shape (N, D), or `Data`.
      resp: array of shape (N, K), rows summing to 1.
      weights: array of shape (N,), non-negative; None for ones.
      component: what the mixture is made of; None where its parameters name it, as those of the library do.

    Returns:
      Array of shape (), in nats.

    Raises:
      ValueError: as `expected_complete_log_likelihood` does.

    References:
      Bishop (2006), equations 9.70 to 9.72; Neal and Hinton (1998).

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> round(gmm.elbo(mixture, jnp.zeros((2, 1)), jnp.ones((2, 1))).item(), 4)
      -1.8379
    """
    component, params, data = as_mixture_and_data(params, x, weights, component)
    shares = _shares(resp, params, data)
    return _expected(component, params, data, shares) + linalg.weighted_sum(data.weights, _entropies(shares))


def entropy(resp: ArrayLike, *, weights: ArrayLike | None = None) -> Array:
    r"""The entropy of responsibilities, summed over rows: 0 where every row is certain of its component.

    $$H(r) = -\sum_{nk} w_n r_{nk} \log r_{nk}$$

    Args:
      resp: array of shape (N, K), rows summing to 1.
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      Array of shape (), in nats, between 0 and log K times the sum of the weights.

    Raises:
      ValueError: for `resp` that is negative or with rows that do not sum to 1, or bad weights.

    References:
      Bishop (2006), equation 1.98.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> gmm.entropy(jnp.array([[1.0, 0.0]])).item()
      0.0
    """
    shares = validation.as_floating(resp, "resp")
    if shares.ndim != 2:
        raise ValueError(f"`resp` must have shape (N, K), got {shares.shape}.")
    counts = validation.as_data(np.zeros((shares.shape[0], 1), shares.dtype), weights).weights
    shares = as_responsibilities(shares, shares.shape, shares.dtype, counts)
    return linalg.weighted_sum(counts, _entropies(shares))


def _shares(resp: ArrayLike, params: Mixture, data: Data) -> Array:
    shape = (data.x.shape[0], params.log_weights.shape[0])
    return as_responsibilities(resp, shape, jnp.result_type(params.log_weights, data.weights), data.weights)


def _expected(component: Component, params: Mixture, data: Data, shares: Array) -> Array:
    return linalg.weighted_sum(data.weights, of_rows(expected_joints, component, params, (data.x, shares)))


@jax.jit
def _entropies(shares: Array) -> Array:
    # `jax.scipy.special.entr` computes 0 log 0 on the way, which `jax.debug_nans` reports.
    return jnp.sum(shares * -jnp.log(jnp.where(shares == 0, 1, shares)), axis=1)


def as_responsibilities(resp: ArrayLike, shape: tuple[int, ...], dtype: Any, weights: Array) -> Array:
    """Responsibilities as an array; rejected: of another shape, negative, or with rows that do not sum to 1.

    Those of rows of weight zero may be anything. Where values are traced, a row that would be rejected is NaN.

    Raises:
      ValueError: saying which.
    """
    shares = validation.as_floating(resp, "resp").astype(dtype)
    if shares.shape != shape:
        raise ValueError(f"`resp` must have shape (N, K) = {shape}, got {shares.shape}.")
    concrete = validation.is_concrete(shares, weights)
    with jax.ensure_compile_time_eval() if concrete else contextlib.nullcontext():
        shares = linalg.fill_absent(shares, weights)
        tolerance = 100 * jnp.finfo(shares.dtype).eps
        known = (shares >= 0).all(axis=1) & (jnp.abs(shares.sum(axis=1) - 1) < tolerance)
        if concrete and not bool(known.all()):
            raise ValueError("`resp` must be non-negative, each row summing to 1.")
    return shares if concrete else jnp.where(known[:, None], shares, jnp.nan)
