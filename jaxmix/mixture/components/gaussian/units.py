"""The unit that each feature of a Gaussian fit is taken in: then data in other units have the same fit."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import frame as frames
from jaxmix import validation
from jaxmix.frame import Frame
from jaxmix.mixture.components.gaussian import base
from jaxmix.mixture.components.gaussian import prior as priors


def unit_of(family: type, spread: Array, regularization: Any, prior: Any) -> Array | None:
    """Powers of two that bring features to about one: their spread, or the noise or the prior where that is wider.

    Those that are traced are left out: the rows of many fits with other settings are then the same.

    Args:
      family: a covariance family.
      spread: Array of shape (D,).
      regularization: variances of the noise, of shape () or (D,); None for a noise of less than the spread.
      prior: a `NormalInverseWishart` or None.

    Returns:
      Array of shape (D,) where each feature of the family may have its own unit, of shape () where all have one; None
      for other families.
    """
    if prior is not None:
        priors.check_shapes(prior, spread.shape[0])
    sizes = spread
    for wide in (regularization, None if prior is None else prior.scale):
        if wide is not None and validation.is_concrete(wide, spread):
            # Under jit even operations on concrete arrays are staged, unless evaluated here.
            with jax.ensure_compile_time_eval():
                variances = jnp.asarray(wide, spread.dtype)
                variances = jnp.diagonal(variances) if variances.ndim == 2 else variances
                sizes = jnp.maximum(sizes, jnp.sqrt(variances))
    if has_units(family):
        return frames.unit_of(sizes)
    if not _is(family, base.HasUnit):
        return None
    with jax.ensure_compile_time_eval() if validation.is_concrete(sizes) else contextlib.nullcontext():
        largest = jnp.max(sizes)
    return frames.unit_of(largest)


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
    return _is(family, base.HasUnits)


def rescaled(covariance: Any, scale: Array | None) -> Any:
    """The covariances of rows that are multiplied by a scale, of shape () or (D,)."""
    if scale is None:
        return covariance
    return covariance.rescaled(scale) if scale.ndim else covariance.rescaled_by(scale)


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


def _is(family: Any, protocol: type) -> bool:
    return isinstance(family, type) and issubclass(family, protocol)
