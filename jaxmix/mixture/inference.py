"""What a mixture says of rows, by the blocks and the log densities of a fit: one function for each kind of value.

Each takes a component, a mixture and rows, all validated, as `as_mixture_and_data` returns them. `of_rows` reads rows
that NumPy holds a part at a time.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import memory
from jaxmix.data import Rows
from jaxmix.kernels import far
from jaxmix.mixture.component import Component, joint
from jaxmix.mixture.model import Mixture
from jaxmix.reduction import Blocks, map_rows


def of_rows(function: Callable[..., Array], component: Component, params: Mixture, rows: Any) -> Array:
    """The values of a function of component, mixture and rows, which NumPy may hold.

    Args:
      function: one of those below, such as `joints`.
      component: the component.
      params: a mixture of K components.
      rows: Array of shape (N, D), of NumPy or JAX; or a tuple of it and other arrays of shape (N, ...).

    Returns:
      Array of shape (N, ...).
    """
    return memory.map_parts(_of_held(function), (component, params), rows)


@lru_cache(maxsize=64)
def _of_held(function: Callable[..., Array]) -> Callable[[Any, Any], Array]:
    # One for each of the functions below: a new one would be compiled anew.
    return lambda held, rows: function(*held, rows)


@jax.jit
def joints(component: Component, params: Mixture, x: Array) -> Array:
    """`log_joint` of validated rows."""
    return _by_blocks(lambda held, block: _joint(held, block).T, component, params, x)


@jax.jit
def largest_joints(component: Component, params: Mixture, x: Array) -> Array:
    """The largest `log_joint` of each row, of shape (N,)."""
    return _by_blocks(lambda held, block: jnp.max(_joint(held, block), axis=0), component, params, x)


@jax.jit
def own_joints(component: Component, params: Mixture, rows: tuple[Array, Array]) -> Array:
    """`log_joint` of each row and its label, of shape (N,), for rows and labels in [0, K)."""

    def of_block(held: Held, block: tuple[Array, Array]) -> Array:
        x, labels = block
        return jnp.take_along_axis(_joint(held, x), labels[None], axis=0)[0]

    return _by_blocks(of_block, component, params, rows)


@jax.jit
def expected_joints(component: Component, params: Mixture, rows: tuple[Array, Array]) -> Array:
    """`log_joint` of each row, expected under its shares, of shape (N,), for rows and shares of shape (N, K)."""

    def of_block(held: Held, block: tuple[Array, Array]) -> Array:
        x, shares = block
        # 0 times the -inf of a component that is switched off is 0, and so is its slope.
        return jnp.sum(shares * jnp.where(shares > 0, _joint(held, x).T, 0), axis=1)

    return _by_blocks(of_block, component, params, rows)


@jax.jit
def log_probs(component: Component, params: Mixture, x: Array) -> Array:
    """`log_prob` of validated rows."""
    return _by_blocks(lambda held, block: jax.nn.logsumexp(_joint(held, block), axis=0), component, params, x)


@jax.jit
def labels(component: Component, params: Mixture, x: Array) -> Array:
    """The component of the largest `log_joint` of each row, int32 of shape (N,); -1 for a row without a density."""
    return _by_blocks(_block_labels, component, params, x)


@jax.jit
def posterior(component: Component, params: Mixture, x: Array) -> Array:
    """`responsibilities` of validated rows, of shape (N, K).

    Those of rows so far away that every density is zero are of the largest exponents, and have no slope.
    """
    return _by_blocks(lambda held, block: _normalized(_softmax, held, block).T, component, params, x)


@jax.jit
def log_posterior(component: Component, params: Mixture, x: Array) -> Array:
    """The logarithms of `posterior`."""
    return _by_blocks(lambda held, block: _normalized(_log_softmax, held, block).T, component, params, x)


Held = tuple[Component, Mixture, Any]
"""A component, the parameters of a mixture, and what the component prepared of them."""


def _by_blocks(function: Callable[[Held, Any], Array], component: Component, params: Mixture, rows: Any) -> Array:
    """A function of a block of rows, for all rows: arrays of shape (n, ...) to one of shape (N, ...).

    Args:
      function: of what is held and a block: rows (n, D), or a tuple of them and other arrays of shape (n, ...).
      component: the component.
      params: the mixture.
      rows: all rows (N, D), or a tuple of them and other arrays of shape (N, ...).
    """
    x, reduce = jax.tree.leaves(rows)[0], Blocks()
    component = component.bind(Rows(x), reduce)
    held = (component, params, component.prepare(params.components))
    footprint = component.footprint(params.log_weights.shape[0], x.shape[1])
    size = reduce.rows_per_block(x.shape[0], x.shape[1], footprint, x.dtype.itemsize)
    return map_rows(function, held, rows, size)


def _joint(held: Held, x: Array) -> Array:
    """Log joint densities of one block, of shape (K, n)."""
    component, params, prepared = held
    return joint(component, prepared, params.log_weights, Rows(x))


def _softmax(values: Array) -> Array:
    return jax.nn.softmax(values, axis=0)


def _log_softmax(values: Array) -> Array:
    return jax.nn.log_softmax(values, axis=0)


def _is_lost(joint: Array) -> Array:
    """Which rows have no density, or one that is not finite, of shape (n,)."""
    return ~jnp.isfinite(jnp.max(joint, axis=0))


def _far_joint(component: Component, params: Mixture, x: Array) -> Array | None:
    """Log joint densities less a number for each row, for rows so far away that every density is zero."""
    found = component.far_log_density(params.components, x, params.is_on)
    return None if found is None else jnp.where(params.is_on[:, None], params.log_weights[:, None] + found, -jnp.inf)


def _mended(found: Array, lost: Array, held: Held, x: Array, function: Callable[[Array], Array]) -> Array:
    """What was found for each row, (n, ...), and for lost rows a function of their joint densities (K, n)."""
    component, params, _ = held
    if jax.eval_shape(_far_joint, component, params, x) is None:
        return found

    def of_far(held: tuple[Component, Mixture], part: Array) -> Array:
        joint = _far_joint(*held, part)
        assert joint is not None  # it does not depend on values
        return function(joint)

    size = sum(leaf.size for leaf in jax.tree.leaves(params.components))
    return far.mended(found, lost, (component, params), x, of_far, size)


def _block_labels(held: Held, x: Array) -> Array:
    joint = _joint(held, x)

    def best(joint: Array) -> Array:
        # The first of the largest, as `argmax` has it, which XLA's CPU backend takes a number at a time.
        indices = jnp.arange(joint.shape[0], dtype=jnp.int32)[:, None]
        found = jnp.min(jnp.where(joint == jnp.max(joint, axis=0)[None], indices, joint.shape[0]), axis=0)
        return jnp.where(_is_lost(joint), -1, found)

    return _mended(best(joint), _is_lost(joint), held, x, best)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _normalized(normalize: Callable[[Array], Array], held: Held, x: Array) -> Array:
    """Responsibilities of one block, or their logarithms, of shape (K, n)."""
    joint = _joint(held, x)
    return _mended(normalize(joint).T, _is_lost(joint), held, x, lambda joint: normalize(joint).T).T


@_normalized.defjvp
def _normalized_jvp(
    normalize: Callable[[Array], Array], primals: tuple[Held, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
    held, x = primals
    lost = _is_lost(_joint(held, x))[None]
    # Elsewhere, where derivatives are finite: zero times those of a far row would be NaN.
    near = jnp.where(lost.T, 0, x)

    def of_near(held: Held, x: Array) -> Array:
        return normalize(jnp.where(lost, 0, _joint(held, x)))

    slope = jax.jvp(of_near, (held, near), tangents)[1]
    return _normalized(normalize, held, x), jnp.where(lost, 0, slope)
