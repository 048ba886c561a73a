"""What the parameters of Gaussian components must be."""

from typing import Any

import numpy as np


def check_shape(regularization: Any, wanted: tuple[int, ...]) -> None:
    """Rejects variances that are neither one number nor one for each feature, nor None.

    Raises:
      ValueError: with both shapes.
    """
    shape = np.shape(regularization)
    if regularization is not None and shape not in ((), wanted):
        raise ValueError(
            f"`regularization` must be one number, or have shape {wanted}, a variance for each column of `x`, "
            f"got {shape}."
        )


def is_valid(params: Any, numpy: Any, *, factors: bool) -> list[Any]:
    """Which entries of means, and of Cholesky factors or standard deviations, are valid."""
    (scale,) = params.covariance
    positive = numpy.isfinite(scale) & (scale > 0)
    if factors:
        off_diagonal = numpy.broadcast_to(~np.eye(scale.shape[-1], dtype=bool), scale.shape)
        positive = numpy.isfinite(scale) & ((scale > 0) | off_diagonal)
    return [numpy.isfinite(params.means), positive]


def misread(params: Any) -> tuple[list[Any], str]:
    """Which entries may be those of Cholesky factors, and what is said of others."""
    (scale,) = params.covariance
    rounding = 100 * np.finfo(scale.dtype).eps * np.abs(scale).max(axis=(-2, -1), keepdims=True)
    return [np.isfinite(params.means), np.abs(np.triu(scale, 1)) <= rounding], (
        "covariance.scale_tril` must be lower triangular: it holds Cholesky factors, not covariances. "
        "From covariances, use gmm.mixture(weights, means, covariances)."
    )
