"""Matching: which component of one fit is which of another."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxmix import frame, linalg, validation
from jaxmix.mixture import Mixture
from jaxmix.typing import ArrayLike


def match(a: ArrayLike | Mixture, b: ArrayLike | Mixture) -> Array:
    r"""Which component of one fit is which of another: the permutation of least total squared distance.

    $$p = \arg\min_p \sum_k |a_k - b_{p_k}|^2$$

    `b[p]` then are centers in the order of `a`, and `jnp.argsort(p)[labels]` the labels of `b` in the names of `a`.

    Args:
      a: centers of shape (K, D), or a mixture, of which the means are taken. Components that are off (centers at
        infinity, weights of zero) match such before they match others.
      b: the same for the other fit, of the same shape.

    Returns:
      Array of shape (K,), int32: component `p[k]` of `b` belongs to component k of `a`. All -1 where traced
        input holds NaN.

    Raises:
      ValueError: for shapes that differ, or NaN.

    References:
      Kuhn (1955), The Hungarian method for the assignment problem.

    Example:
      >>> from jaxmix import metrics
      >>> metrics.match([[0.0], [5.0], [9.0]], [[9.1], [0.1], [5.1]]).tolist()
      [1, 2, 0]
    """
    (a, a_on), (b, b_on) = _places(a, "a"), _places(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"`a` and `b` must have one shape (K, D), got {a.shape} and {b.shape}.")
    return _assignment(a, a_on, b, b_on)


def _places(value: ArrayLike | Mixture, name: str) -> tuple[Array, Array]:
    mixture = isinstance(value, Mixture)
    if mixture and not hasattr(value.components, "means"):
        raise ValueError(f"The components of `{name}` have no means, {type(value.components).__name__}: give centers.")
    points = validation.as_floating(value.means if mixture else value, name)
    if points.ndim != 2 or points.size == 0:
        raise ValueError(f"`{name}` must be centers of shape (K, D) or a mixture, got shape {points.shape}.")
    if validation.is_concrete(points) and np.isnan(np.asarray(points)).any():
        raise ValueError(f"`{name}` must be numbers, but it holds NaN: did its fit fail?")
    on = ~jnp.isinf(points).any(axis=1)
    return points, on & ~jnp.isneginf(validation.as_floating(value.log_weights, name)) if mixture else on


@jax.jit
def _assignment(a: Array, a_on: Array, b: Array, b_on: Array) -> Array:
    both, unequal = a_on[:, None] & b_on[None, :], a_on[:, None] != b_on[None, :]
    a, b = jnp.where(a_on[:, None], a, 0), jnp.where(b_on[:, None], b, 0)
    scale = frame.scale_of(jnp.concatenate([a, b]))  # of costs alone, which have no other use
    costs = linalg.squared_distances(a, b, scale)
    # With the largest cost for one on and one off, two such pairs never beat one of both on and one of both off.
    largest = jnp.max(jnp.where(both, costs, 0))
    costs = jnp.where(both, costs, jnp.where(unequal, jnp.where(largest > 0, largest, 1), 0))
    finite = jnp.all(jnp.isfinite(costs))
    # In the default float, as optax's own numbers are.
    first, second = optax.assignment.hungarian_algorithm(jnp.where(finite, costs, 0).astype(float))
    found = jnp.zeros(a.shape[0], jnp.int32).at[first].set(second.astype(jnp.int32))
    return jnp.where(finite, found, -1)
