"""Criteria for the number of components and the family: minus twice a log-likelihood, plus a penalty.

Lower is better, as in scikit-learn; those of mclust have the other sign.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from jaxmix import linalg, mixture
from jaxmix.mixture import Mixture
from jaxmix.mixture.inference import largest_joints, log_probs, of_rows
from jaxmix.mixture.validation import as_mixture_and_data
from jaxmix.typing import ArrayLike


def aic(params: Mixture, x: ArrayLike, *, weights: ArrayLike | None = None) -> Array:
    r"""Akaike's information criterion; lower is better.

    $$\mathrm{AIC} = -2 \log L + 2 p$$

    Args:
      params: a mixture; of its components those that are on count (`Mixture.num_free_parameters`, p).
      x: array of shape (N, D).
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      Array of shape (), in nats: scikit-learn's `aic`.

    Raises:
      ValueError: as `mixture.log_likelihood` does.

    References:
      Akaike (1974), A new look at the statistical model identification.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm, metrics
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> round(metrics.aic(mixture, jnp.zeros((2, 1))).item(), 3)
      7.676
    """
    log_likelihood = mixture.log_likelihood(params, x, weights=weights)
    return -2 * log_likelihood + 2 * params.num_free_parameters.astype(log_likelihood.dtype)


def bic(params: Mixture, x: ArrayLike, *, weights: ArrayLike | None = None) -> Array:
    r"""The Bayesian information criterion; lower is better.

    $$\mathrm{BIC} = -2 \log L + p \log n, \qquad n = \sum_n w_n$$

    Args:
      params: a mixture; of its components those that are on count (`Mixture.num_free_parameters`, p).
      x: array of shape (N, D).
      weights: array of shape (N,), non-negative; None for ones. A weight counts rows: n is their sum.

    Returns:
      Array of shape (), in nats: scikit-learn's `bic`, and minus mclust's.

    Raises:
      ValueError: as `mixture.log_likelihood` does.

    References:
      Schwarz (1978), Estimating the dimension of a model.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm, metrics
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> round(metrics.bic(mixture, jnp.zeros((2, 1))).item(), 3)
      5.062
    """
    return _criterion(log_probs, params, x, weights)


def icl(params: Mixture, x: ArrayLike, *, weights: ArrayLike | None = None) -> Array:
    r"""The integrated complete-data likelihood, approximated as BIC approximates the evidence; lower is better.

    The likelihood is that of the rows and their most probable components $\hat z$ together, so that components which
    share rows are charged for it:

    $$\mathrm{ICL} = -2 \log p(X, \hat Z) + p \log n = \mathrm{BIC} - 2 \sum_n w_n \log \max_k r_{nk}$$

    Some authors charge for the entropy of the responsibilities instead, `bic(...) + 2 * gmm.entropy(resp)`, which is
    never less.

    Args:
      params: a mixture; of its components those that are on count (`Mixture.num_free_parameters`, p).
      x: array of shape (N, D).
      weights: array of shape (N,), non-negative; None for ones. A weight counts rows: n is their sum.

    Returns:
      Array of shape (), in nats: minus mclust's `icl`.

    Raises:
      ValueError: as `mixture.log_joint` does, and for bad weights.

    References:
      Biernacki, Celeux and Govaert (2000), Assessing a mixture model for clustering with the integrated completed
      likelihood.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm, metrics
      >>> mixture = gmm.mixture([1.0], [[0.0]], [[[1.0]]])
      >>> round(metrics.icl(mixture, jnp.zeros((2, 1))).item(), 3)
      5.062
    """
    return _criterion(largest_joints, params, x, weights)


def _criterion(values: Callable[..., Array], params: Mixture, x: ArrayLike, weights: ArrayLike | None) -> Array:
    """Minus twice a sum over rows of a function of `inference`, plus the penalty of Schwarz."""
    component, params, data = as_mixture_and_data(params, x, weights)
    total = linalg.weighted_sum(data.weights, of_rows(values, component, params, data.x))
    log_rows = jnp.log(jnp.sum(data.weights))
    return -2 * total + params.num_free_parameters.astype(log_rows.dtype) * log_rows
