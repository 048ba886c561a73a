"""What the solvers whose loss never rises share: a fixed point, and the verdict on a step."""

from functools import reduce

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix.types import Params, Progress, Status


def unchanged(after: Params, before: Params) -> Array:
    """Whether no bit differs: a fixed point."""
    same = [jnp.all(a == b) for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True)]
    return reduce(jnp.logical_and, same)


def choose(accepted: Array, candidate: Params, current: Params) -> Params:
    """The candidate where it was accepted, leaf by leaf, without a branch: lanes of a vmap may differ."""
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), candidate, current)


def verdict(progress: Progress, *, fixed: Array, moved: Array) -> Array:
    """Converged at a fixed point or on a small change, if the step before `moved` at all; a rise is named."""
    small = moved & (jnp.abs(progress.previous - progress.loss) < progress.tolerance)
    rose = progress.loss > progress.previous + progress.slack
    ended = jnp.where(fixed | small, Status.CONVERGED, Status.RUNNING)
    return jnp.where(rose, Status.LOSS_ROSE, ended)
