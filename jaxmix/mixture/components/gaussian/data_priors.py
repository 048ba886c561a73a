"""Priors that take their scale from the rows."""

import math

import jax.numpy as jnp
from jax import Array

from jaxmix import arrays, linalg, validation
from jaxmix import frame as frames
from jaxmix.data import Data
from jaxmix.mixture.components.gaussian.base import HasPriorScale
from jaxmix.mixture.components.gaussian.full import Full
from jaxmix.mixture.components.gaussian.noise import scales, variances
from jaxmix.mixture.components.gaussian.prior import NormalInverseWishart
from jaxmix.typing import ArrayLike


def fraley_raftery(
    x: Data | ArrayLike, k: ArrayLike, *, covariance: type = Full, weights: ArrayLike | None = None
) -> NormalInverseWishart:
    r"""The mild prior that depends on the data: it keeps components from collapsing, and else hardly shows.

    $$\mu = \bar x, \qquad \kappa = 0.01, \qquad \nu = D + 2, \qquad \Lambda = K^{-2/D} S$$

    with the sample covariance $S$ for families with correlations. Where features are independent,
    $\Lambda = K^{-2/D} \tfrac{\operatorname{tr} S}{D} I$; for spherical families its trace is
    $K^{-2/D} \tfrac{\operatorname{tr} S}{D}$.

    Args:
      x: array of shape (N, D), or `Data`. Weights count rows, and their sum must exceed 1.
      k: the number of components, which may be traced: so K is swept with its prior.
      covariance: the covariance family that the prior is for.
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      A `NormalInverseWishart`. Where features are independent its scale is one number for all of them, and such a fit
      depends on their units. Where the rows lie in a subspace (N <= D, collinear or constant columns), S is
      singular and so is a full $\Lambda$: the noise of the rows (`noise_floor`) alone keeps such a fit finite, and a
      component that loses all its rows ends it.

    Raises:
      ValueError: for bad data, weights that sum to 1 or less, or a `k` below 1 or above N.

    References:
      Fraley and Raftery (2007), section 3.2.

    Example:
      >>> import jax
      >>> from jaxmix import gmm
      >>> x = jax.random.normal(jax.random.key(0), (50, 2))
      >>> gmm.fit(jax.random.key(1), x, 3, prior=gmm.fraley_raftery(x, 3)).params.means.shape
      (3, 2)
    """
    data = validation.as_data(x, weights)
    k = validation.as_count(k, "k", most=data.x.shape[0])
    num_features = data.x.shape[1]
    freedom = jnp.sum(data.weights) - 1
    least = math.sqrt(jnp.finfo(freedom.dtype).eps)  # shares that sum to 1 do so to rounding
    if validation.is_concrete(freedom) and freedom <= least:
        raise ValueError(
            f"The weights of `x` must sum to more than 1, got {freedom + 1}: a sample covariance divides by their "
            "sum less 1. Give them as counts of rows, or the prior by hand."
        )
    center = frames.mean(data.x, data.weights)
    scatter = _scatter(data, center)
    sample = scatter / jnp.where(freedom > least, freedom, jnp.nan) / k.astype(scatter.dtype) ** (2 / num_features)
    scale = covariance.prior_scale(sample) if isinstance(covariance, HasPriorScale) else sample
    return NormalInverseWishart(center, 0.01, num_features + 2.0, scale)


def weak_prior(
    x: Data | ArrayLike,
    *,
    strength: ArrayLike | None = None,
    covariance: type = Full,
    weights: ArrayLike | None = None,
) -> NormalInverseWishart:
    r"""The weakest prior that keeps components from collapsing: a pseudo-row or less, of the covariance of all rows.

    The loss gets the penalty

    $$a \sum_k \left( \operatorname{tr}(S C_k^{-1}) + \log |C_k| \right)$$

    with the covariance S of the rows and their noise (`noise_floor`), which is least at $C_k = S$ and grows without
    bound as a component becomes singular. The M-step adds 2 a rows of covariance S to each component. For $a \to 0$
    slowly enough, as 1 / N, the estimate is consistent. Where all components share one covariance, there is one such
    term.

    Args:
      x: array of shape (N, D), or `Data`.
      strength: a, traced; None for 1 over the sum of the weights.
      covariance: the covariance family that the prior is for.
      weights: array of shape (N,), non-negative; None for ones.

    Returns:
      A `NormalInverseWishart` that is flat in the means and the weights.

    Raises:
      ValueError: for bad data, or a strength that is negative or not finite.

    References:
      Chen and Tan (2009), equation 3 and section 3.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxmix import gmm
      >>> x = jnp.array([[0.0, 0.0], [1.0, 1.0], [9.0, 7.0]])  # no two components have two rows each
      >>> fit = gmm.fit(jax.random.key(0), x, 2, prior=gmm.weak_prior(x, strength=0.5)).throw()
      >>> bool((fit.params.covariances[:, 0, 0] > 1).all())
      True
    """
    data = validation.as_data(x, weights)
    total, num_features = jnp.sum(data.weights), data.x.shape[1]
    if strength is None:
        strength = 1 / total
    else:
        arrays.check_least(strength, "strength", 0)
    rows = 2 * jnp.asarray(strength, data.x.dtype)
    center = frames.mean(data.x, data.weights)
    # A constant feature has the noise alone.
    sample = _scatter(data, center) / total + jnp.diag(variances(scales(data)[0]))
    # The powers of a family are linear in the degrees of freedom: those that count as many rows.
    none, one = (covariance.prior_degrees(jnp.asarray(nu, data.x.dtype), num_features) for nu in (0.0, 1.0))
    return NormalInverseWishart(center, 0.0, (rows - none) / (one - none), rows * sample)


def _scatter(data: Data, center: Array) -> Array:
    """The sum of squares and products about the mean, of shape (D, D)."""
    centered = data.x - center[None]
    # A constant column has no variance, not that of its mean's rounding.
    rounding = 4 * jnp.finfo(data.x.dtype).eps * jnp.abs(center)
    centered = jnp.where(jnp.abs(centered) <= rounding[None], 0, centered)
    return linalg.dot((data.weights[:, None] * centered).T, centered)
