"""What is still to gain, as the solvers that follow gradients estimate it, and the guard against one quiet step."""

import jax.numpy as jnp
from jax import Array

FIRST = 1024
"""What may be to gain at the start, in units of what its slope promises of the first step."""


def guarded(last: Array, gain: Array, loss: Array, promised: Array) -> Array:
    """The next estimate: the gain seen, but never less than half of the last one; infinite before the first step.

    Args:
      last: Array of shape (), the last estimate.
      gain: Array of shape (), the decrease still to gain by the curvature along the path.
      loss: Array of shape (), at the start: what the first estimate is at least. It may cross zero, and so
      promised: Array of shape (), the decrease that the slope promises of the first step, counts too.
    """
    first = jnp.maximum(jnp.abs(loss), FIRST * jnp.abs(promised))
    return jnp.where(jnp.isfinite(last), jnp.maximum(gain, 0.5 * last), first)
