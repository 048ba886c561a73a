"""The mixture of some features: alone, or given the values of the others."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import door, linalg, memory
from jaxmix.gmm.covariance import Full
from jaxmix.gmm.given import as_mixture
from jaxmix.gmm.model import GMM, joint
from jaxmix.types import ArrayLike


def marginal(params: GMM, features: Sequence[int]) -> GMM:
    r"""The mixture of some of the features: a mixture again.

    $$p(x_a) = \sum_k \pi_k N(x_a \mid m_{k,a}, C_{k,aa})$$

    Args:
      params: a mixture over D features.
      features: the features to keep, distinct, static.

    Returns:
      A `GMM` over these features in this order, with a `Full` covariance.

    Raises:
      ValueError: for no feature, a repeated one, or one out of range.

    References:
      Bishop (2006), equation 2.98.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.GMM(jnp.zeros(1), jnp.zeros((1, 3)), gmm.Full.unit(1, 3, float))
      >>> gmm.marginal(mixture, [2, 0]).means.shape
      (1, 2)
    """
    params = as_mixture(params)
    kept = _features(params, features)
    return GMM(params.log_weights, params.means[:, kept], Full(_factors_of(params, kept)))


def conditional(params: GMM, features: Sequence[int], values: ArrayLike) -> GMM:
    r"""The mixture of the other features, given the values of some: a mixture again.

    $$p(x_b \mid x_a) = \sum_k r_k(x_a)\, N\!\left(x_b \mid m_{k,b} + C_{k,ba} C_{k,aa}^{-1} (x_a - m_{k,a}),\;
      C_{k,bb} - C_{k,ba} C_{k,aa}^{-1} C_{k,ab}\right)$$

    Args:
      params: a mixture over D features.
      features: the features that are known, distinct and not all, static.
      values: array of shape (len(features),), their values.

    Returns:
      A `GMM` over the other features in ascending order, with a `Full` covariance.

    Raises:
      ValueError: as `marginal` does, if no feature is left, or for values of another shape or not finite.

    References:
      Bishop (2006), equations 2.81 and 2.82.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> mixture = gmm.GMM(jnp.zeros(1), jnp.zeros((1, 3)), gmm.Full.unit(1, 3, float))
      >>> gmm.conditional(mixture, [1], jnp.array([5.0])).means.shape
      (1, 2)
    """
    params = as_mixture(params)
    known = _features(params, features)
    values = door.as_floating(values, "values").astype(params.means.dtype)
    if values.shape != known.shape:
        raise ValueError(f"`values` must have shape {known.shape}, one for each of `features`, got {values.shape}.")
    left = np.setdiff1d(np.arange(params.means.shape[1]), known)
    if left.size == 0:
        raise ValueError("`features` names all features: none is left to have a distribution.")
    if door.is_concrete(values) and not np.isfinite(memory.on_host(values)).all():
        raise ValueError(f"`values` must be finite, got {values}.")
    # With the known features first, the blocks of the factor are those of the conditional distribution.
    factors, num = _factors_of(params, np.concatenate([known, left])), known.size
    given = GMM(params.log_weights, params.means[:, known], Full(factors[:, :num, :num]))
    inverse = linalg.inverse_tril(factors[:, :num, :num])
    shift = jnp.einsum("kij,kj->ki", inverse, values[None] - given.means, precision=linalg.PRECISION)
    means = params.means[:, left] + jnp.einsum("kba,ka->kb", factors[:, num:, :num], shift, precision=linalg.PRECISION)
    log_weights = jax.nn.log_softmax(joint(given, values[None])[0])
    return GMM(log_weights, means, Full(factors[:, num:, num:]))


def _factors_of(params: GMM, features: np.ndarray) -> Array:
    """Lower Cholesky factors of the covariances of some features in this order, (K, A, A), from those of all.

    Nothing is multiplied out: of a variance beside a larger one that would take the digits.
    """
    k, num_features = params.means.shape
    unit = jnp.tile(jnp.eye(num_features, dtype=params.means.dtype), (k, 1))
    # What a family makes of the unit vectors are the columns of a factor.
    columns = params.covariance.colour(jnp.repeat(jnp.arange(k), num_features), unit)
    rows = jnp.swapaxes(columns.reshape(k, num_features, num_features), 1, 2)[:, features]
    triangular = jnp.swapaxes(jnp.linalg.qr(jnp.swapaxes(rows, 1, 2), mode="r"), 1, 2)
    signs = jnp.where(jnp.diagonal(triangular, axis1=1, axis2=2) < 0, -1, 1).astype(triangular.dtype)
    return jnp.tril(triangular * signs[:, None, :])


def _features(params: GMM, features: Sequence[int]) -> np.ndarray:
    kept, num_features = np.asarray(features), params.means.shape[1]
    if kept.ndim != 1 or kept.size == 0 or not np.issubdtype(kept.dtype, np.integer):
        raise ValueError(f"`features` must be a sequence of at least one integer, got {features!r}.")
    if len(set(kept.tolist())) < kept.size or kept.min() < 0 or kept.max() >= num_features:
        raise ValueError(f"`features` must be distinct and lie in [0, {num_features}), got {features!r}.")
    return kept
