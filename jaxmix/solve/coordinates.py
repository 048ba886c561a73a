"""Unconstrained parameters as one vector, for solvers that extrapolate."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix.solver import Objective
from jaxmix.typing import Params


def to_vector(objective: Objective, params: Params) -> Array:
    """All floating coordinates, unconstrained, as one vector of shape (P,)."""
    leaves = [leaf for leaf in jax.tree.leaves(objective.unconstrain(params)) if _is_float(leaf)]
    return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])


def from_vector(objective: Objective, vector: Array, like: Params) -> Params:
    """The parameters at a vector; leaves that are not floating are those of `like`."""
    leaves, structure = jax.tree.flatten(objective.unconstrain(like))
    filled, first = [], 0
    for leaf in leaves:
        if _is_float(leaf):
            filled.append(vector[first : first + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
            first += leaf.size
        else:
            filled.append(leaf)
    return objective.problem.constrain(jax.tree.unflatten(structure, filled))


def difference(after: Array, before: Array) -> Array:
    """`after - before`, with 0 for coordinates at infinity: what is switched off does not move."""
    both = jnp.isfinite(after) & jnp.isfinite(before)
    change = jnp.where(both, after, 0) - jnp.where(both, before, 0)
    return jnp.where(jnp.isfinite(change), change, 0)


def _is_float(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
