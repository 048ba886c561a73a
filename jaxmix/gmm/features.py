"""Mixtures of some of the features: marginals and conditionals, from the rows of the Cholesky factors.

No covariance is multiplied out and factored again, which would lose every deviation below the square root of the
rounding unit, relative to the largest.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import linalg, validation
from jaxmix.mixture.components.gaussian import Full, Gaussian, Normal
from jaxmix.mixture.components.gaussian.component import factors
from jaxmix.mixture.inference import log_posterior
from jaxmix.mixture.model import Mixture, component_of
from jaxmix.mixture.validation import as_mixture
from jaxmix.typing import ArrayLike


def marginal(params: Mixture, features: Sequence[int]) -> Mixture:
    r"""The mixture of some of the features: a mixture again.

    $$p(x_a) = \sum_k \pi_k N(x_a \mid m_{k,a}, C_{k,aa})$$

    Args:
      params: a mixture over D features.
      features: the features to keep, distinct, static.

    Returns:
      A `Mixture` over these features in this order, with a `Full` covariance.

    Raises:
      ValueError: for no feature, a repeated one, or one out of range.

    References:
      Bishop (2006), equation 2.98.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([1.0], jnp.zeros((1, 3)), jnp.eye(3)[None])
      >>> gmm.marginal(mixture, [2, 0]).means.shape
      (1, 2)
    """
    params = as_mixture(params, component_of(params, None))
    kept = _features(params, features)
    return _marginal(params, kept, _reordered(params, np.concatenate([kept, _others(params, kept)]), kept.size))


def conditional(params: Mixture, features: Sequence[int], values: ArrayLike) -> Mixture:
    r"""The mixture of the other features, given the values of some: a mixture again.

    $$p(x_b \mid x_a) = \sum_k r_k(x_a)\, N\!\left(x_b \mid m_{k,b} + C_{k,ba} C_{k,aa}^{-1} (x_a - m_{k,a}),\;
      C_{k,bb} - C_{k,ba} C_{k,aa}^{-1} C_{k,ab}\right)$$

    Args:
      params: a mixture over D features.
      features: the features that are known, distinct and not all, static.
      values: array of shape (len(features),), their values.

    Returns:
      A `Mixture` over the other features in ascending order, with a `Full` covariance.

    Raises:
      ValueError: as `marginal` does, if no feature is left, or for values of another shape or that are not finite.

    References:
      Bishop (2006), equations 2.81 and 2.82.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.mixture([1.0], jnp.zeros((1, 3)), jnp.eye(3)[None])
      >>> gmm.conditional(mixture, [1], jnp.array([5.0])).means.shape
      (1, 2)
    """
    params = as_mixture(params, component_of(params, None))
    known = _features(params, features)
    values = validation.as_floating(values, "values").astype(params.means.dtype)
    if values.shape != known.shape:
        raise ValueError(f"`values` must have shape {known.shape}, one for each of `features`, got {values.shape}.")
    if validation.is_concrete(values) and not np.isfinite(np.asarray(values)).all():
        raise ValueError(f"`values` must be finite, got {np.asarray(values).tolist()}.")
    left = _others(params, known)
    if left.size == 0:
        raise ValueError("`features` names all features: none is left to have a distribution.")
    tril = _reordered(params, np.concatenate([known, left]), params.means.shape[1])
    num = known.size
    given = _marginal(params, known, tril[:, :num, :num])
    # L_ba L_aa^-1 (x_a - m_a): the gain is never multiplied out.
    inverse = linalg.inverse_tril(tril[:, :num, :num])
    white = jnp.einsum("kij,kj->ki", inverse, values[None] - given.means, precision=linalg.PRECISION)
    shift = jnp.einsum("kij,kj->ki", tril[:, num:, :num], white, precision=linalg.PRECISION)
    log_weights = log_posterior(Gaussian(), given, values[None])[0]
    return Mixture(log_weights, Normal(params.means[:, left] + shift, Full(tril[:, num:, num:])))


def _marginal(params: Mixture, kept: np.ndarray, tril: Array) -> Mixture:
    return Mixture(params.log_weights, Normal(params.means[:, kept], Full(tril)))


def _reordered(params: Mixture, order: np.ndarray, num: int) -> Array:
    """Cholesky factors of the first features of an order, (K, num, num)."""
    # Columns may stand in any order, L L^T being a sum over them: in this one a diagonal stays a diagonal.
    return linalg.lower_factor(factors(params.components)[:, order[:num, None], order[None, :]])


def _others(params: Mixture, features: np.ndarray) -> np.ndarray:
    return np.setdiff1d(np.arange(params.means.shape[1]), features)


def _features(params: Mixture, features: Sequence[int]) -> np.ndarray:
    kept, num_features = np.asarray(features), params.means.shape[1]
    if kept.ndim != 1 or kept.size == 0 or not np.issubdtype(kept.dtype, np.integer):
        raise ValueError(f"`features` must be a sequence of at least one integer, got {features!r}.")
    if len(set(kept.tolist())) < kept.size or kept.min() < 0 or kept.max() >= num_features:
        raise ValueError(f"`features` must be distinct and lie in [0, {num_features}), got {features!r}.")
    return kept
