"""Free coordinates: parameters as a vector or a pytree in which every entry that may move is finite."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix.types import Params, Problem


def to_vector(problem: Problem, params: Params) -> Array:
    """All floating coordinates, unconstrained, as one vector of shape (P,)."""
    leaves = [leaf for leaf in jax.tree.leaves(problem.unconstrain(params)) if _is_float(leaf)]
    return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])


def from_vector(problem: Problem, vector: Array, like: Params) -> Params:
    """The parameters at a vector; leaves that are not floating are those of `like`."""
    leaves, structure = jax.tree.flatten(problem.unconstrain(like))
    filled, first = [], 0
    for leaf in leaves:
        if _is_float(leaf):
            filled.append(vector[first : first + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
            first += leaf.size
        else:
            filled.append(leaf)
    return problem.constrain(jax.tree.unflatten(structure, filled))


def difference(after: Array, before: Array) -> Array:
    """`after - before`, with 0 for coordinates at infinity: what is switched off does not move."""
    both = jnp.isfinite(after) & jnp.isfinite(before)
    change = jnp.where(both, after, 0) - jnp.where(both, before, 0)
    return jnp.where(jnp.isfinite(change), change, 0)


def pin(free: Params, anchor: Params) -> Params:
    """`free`, with every coordinate that is not finite in `anchor` held there."""
    return jax.tree.map(lambda value, held: jnp.where(jnp.isfinite(held), value, held), free, anchor)


def finite(free: Params) -> Params:
    """`free` with 0 in place of what is not finite: where optimisers, which know no infinity, may start."""
    return jax.tree.map(lambda value: jnp.where(jnp.isfinite(value), value, 0), free)


def _is_float(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
