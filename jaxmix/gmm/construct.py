"""A mixture from the numbers that other libraries and textbooks hold: weights, means and covariances."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import linalg, memory, validation
from jaxmix.mixture.components.gaussian import Covariance, Full, Gaussian, Normal
from jaxmix.mixture.components.gaussian.component import MATRICES, VARIANCES
from jaxmix.mixture.model import Mixture
from jaxmix.mixture.validation import SLACK, initial_shapes
from jaxmix.typing import ArrayLike


def mixture(
    weights: ArrayLike, means: ArrayLike, covariances: ArrayLike, *, covariance: type[Covariance] = Full
) -> Mixture:
    r"""A mixture from weights, means and covariances.

    $$p(x) = \sum_k \pi_k N(x \mid m_k, C_k)$$

    Args:
      weights: array of shape (K,), non-negative, summing to 1. A component of weight 0 is switched off.
      means: array of shape (K, D).
      covariances: matrices of shape (K, D, D) for `Full`, or (D, D) for `Tied`; variances of shape (K, D) for
        `Diagonal`, (K,) for `Spherical`, (D,) for `TiedDiagonal`, or () for `TiedSpherical`. In squared units of x:
        covariances, not their Cholesky factors.
      covariance: one of these families.

    Returns:
      A `Mixture` in the dtype of the means. Where traced values are not a mixture, its log weights or scales are NaN.

    Raises:
      ValueError: naming the argument, for another shape or dtype, weights that are negative or do not sum to 1,
        covariances that are not symmetric and positive definite, or a family of your own.

    References:
      Bishop (2006), equation 9.7.

    Example:
      >>> from jaxmix import gmm
      >>> params = gmm.mixture([0.25, 0.75], [[0.0], [9.0]], [[[1.0]], [[4.0]]])
      >>> params.weights.tolist(), params.covariance.scale_tril.ravel().tolist()
      ([0.25, 0.75], [1.0, 2.0])
    """
    if covariance not in MATRICES + VARIANCES:
        raise ValueError(
            f"`covariance` must be one of the families of jaxmix, got {covariance!r}. For one of your own, write "
            "Mixture(log_weights, Normal(means, covariance))."
        )
    concrete = validation.is_concrete(weights, means, covariances)
    # Under jit even operations on concrete arrays are staged, unless evaluated here.
    with jax.ensure_compile_time_eval() if concrete else contextlib.nullcontext():
        means = validation.as_floating(means, "means")
        if means.ndim != 2 or 0 in means.shape:
            raise ValueError(f"`means` must have shape (K, D), got {means.shape}.")
        (like,) = initial_shapes(Gaussian(covariance), *means.shape).covariance
        shares = _of_shape(weights, "weights", means.shape[:1], means)
        spread = _of_shape(covariances, "covariances", like.shape, means)
        if concrete:
            _check(shares, means, spread, matrices=covariance in MATRICES)
        log_weights = _log_weights(shares)
        scale = linalg.cholesky(_symmetric(spread)) if covariance in MATRICES else jnp.sqrt(spread)
        if concrete and not np.isfinite(memory.on_host(scale)).all():
            raise ValueError("`covariances` must be positive definite: one has no Cholesky factor.")
        return Mixture(log_weights, Normal(means, covariance(scale)))


def _of_shape(value: ArrayLike, name: str, shape: tuple[int, ...], means: Array) -> Array:
    array = validation.as_floating(value, name).astype(means.dtype)
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape} for means of shape {means.shape}, got {array.shape}.")
    return array


def _check(weights: Array, means: Array, covariances: Array, *, matrices: bool) -> None:
    weights, means, covariances = map(memory.on_host, (weights, means, covariances))
    total = float(np.sum(weights, dtype=np.float64))
    if not ((weights >= 0).all() and abs(total - 1) <= SLACK):
        raise ValueError(f"`weights` must be non-negative and sum to 1, got {weights.tolist()}, of sum {total:.6g}.")
    if not np.isfinite(means).all():
        raise ValueError("`means` must be finite. If they are those of a fit, see its status.")
    if not np.isfinite(covariances).all():
        raise ValueError("`covariances` must be finite. If they are those of a fit, see its status.")
    if not matrices and not (covariances > 0).all():
        raise ValueError("`covariances` must be variances above 0.")
    if matrices and not _is_symmetric(covariances).all():
        raise ValueError(
            "`covariances` must be symmetric matrices. Of Cholesky factors give the products, factor @ factor.T."
        )


def _is_symmetric(matrices: Array) -> Array:
    rounding = 100 * np.finfo(matrices.dtype).eps * abs(matrices).max(axis=(-2, -1), keepdims=True)
    return (abs(matrices - matrices.swapaxes(-2, -1)) <= rounding).all(axis=(-2, -1), keepdims=True)


def _symmetric(matrices: Array) -> Array:
    # The factorization reads the lower triangle alone: a matrix that is not symmetric must not pass for a covariance.
    return jnp.where(_is_symmetric(matrices), matrices, jnp.nan)


def _log_weights(weights: Array) -> Array:
    total = jnp.sum(weights)
    valid = jnp.all(weights >= 0) & (jnp.abs(total - 1) <= SLACK)
    return jnp.where(valid, jnp.log(weights) - jnp.log(total), jnp.nan)
