"""When a fit has ended: on small changes, at fixed points, and by what is still to gain."""

from functools import reduce

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix.solver import Progress, Status
from jaxmix.typing import Params

INITIAL_FACTOR = 1024
"""What may be to gain at the start, in units of what its slope promises of the first step."""


def is_fixed_point(after: Params, before: Params) -> Array:
    """Whether no bit differs."""
    same = [jnp.all(a == b) for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True)]
    return reduce(jnp.logical_and, same)


def select(accepted: Array, candidate: Params, current: Params) -> Params:
    """The candidate where it was accepted, leaf by leaf, without a branch: fits of a `vmap` may differ."""
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), candidate, current)


def monotone_status(progress: Progress, *, fixed: Array, moved: Array) -> Array:
    """Converged at a fixed point or on a small change, if the step before `moved` at all; a rise is named."""
    small = moved & (jnp.abs(progress.previous - progress.loss) < progress.tolerance)
    rose = progress.loss > progress.previous + progress.slack
    ended = jnp.where(fixed | small, Status.CONVERGED, Status.RUNNING)
    return jnp.where(rose, Status.LOSS_ROSE, ended)


def expected_decrease(last: Array, gain: Array, loss: Array, first_step: Array) -> Array:
    """The next estimate of what is still to gain: the gain seen, but never less than half of the last estimate.

    Args:
      last: Array of shape (), the last estimate; infinite before the first step.
      gain: Array of shape (), the decrease still to gain by the curvature along the path.
      loss: Array of shape (), at the start: what the first estimate is at least. It may cross zero, and so
      first_step: Array of shape (), the decrease that the slope promises of the first step, counts too.
    """
    first = jnp.maximum(jnp.abs(loss), INITIAL_FACTOR * jnp.abs(first_step))
    return jnp.where(jnp.isfinite(last), jnp.maximum(gain, 0.5 * last), first)
