"""The unit that each feature of a Gaussian fit is taken in: then data in other units have the same fit."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import frame as frames
from jaxmix.frame import Frame
from jaxmix.mixture.components.gaussian import base
from jaxmix.mixture.components.gaussian import prior as priors


def unit_of(family: type, spread: Array | None, regularization: Any) -> Array | None:
    """Powers of two that bring the spread of features, or the noise where that is larger, to about one.

    Args:
      family: a covariance family.
      spread: Array of shape (D,); None where there is none, which has no unit.
      regularization: variances of the noise, of shape () or (D,); None for a noise of less than the spread.

    Returns:
      Array of shape (D,) where each feature of the family may have its own unit, else of shape ().
    """
    if spread is None:
        return None
    sizes = spread
    if regularization is not None:
        sizes = jnp.maximum(spread, jnp.sqrt(jnp.asarray(regularization, spread.dtype)))
    return frames.unit_of(sizes if has_units(family) else jnp.max(sizes))


def seeding_scale(family: type, deviation: Array | None) -> Array | None:
    """What features are multiplied by for distances, of shape (D,).

    Args:
      family: a covariance family.
      deviation: Array of shape (D,), standard deviations; None where they are not known.
    """
    if deviation is None:
        return None
    if has_units(family):
        return 1 / deviation
    # A power of two for all: which row is nearest does not change by it, to the bit.
    return jnp.broadcast_to(frames.unit_of(jnp.max(deviation)), deviation.shape)


def has_units(family: type) -> bool:
    """Whether each feature of a family may have its own unit."""
    return isinstance(family, type) and issubclass(family, base.HasUnits)


def rescaled(covariance: Any, scale: Array | None) -> Any:
    """The covariances of rows that are multiplied by a scale, of shape () or (D,)."""
    if scale is None:
        return covariance
    if scale.ndim:
        return covariance.rescaled(scale)
    # Factors and standard deviations.
    return jax.tree.map(lambda leaf: leaf * scale, covariance)


def loss_shift(prior: Any, params: Any, is_on: Array, frame: Frame, total: Array) -> Array | float:
    r"""What the loss of moved rows has more, of shape (): $\sum_n w_n \log |U|$, and as much for the prior's rows.

    Args:
      prior: a `NormalInverseWishart` or None.
      params: a `Normal`.
      is_on: Array of shape (K,), bool.
      frame: where the rows are moved.
      total: of shape (), the sum of their weights.
    """
    if frame.scale is None:
        return 0.0
    rows = total
    if prior is not None:
        rows = rows + jnp.sum(is_on, dtype=total.dtype) * priors.num_rows(prior, params, is_on)
    return rows * jnp.sum(jnp.broadcast_to(jnp.log(frame.scale), frame.origin.shape))
