"""Branches that stay branches under `jax.vmap`, where `jax.lax.cond` evaluates both its functions.

For a batch, a loop of one round or none evaluates a function only where some member of the batch needs it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def choose(chosen: Array, if_true: Callable[..., Any], if_false: Callable[..., Any], *operands: Any) -> Any:
    """The value of one of two functions; under `vmap`, only those that some member of the batch needs are evaluated.

    Reverse-mode differentiation does not go through it: give the function that calls it a derivative of its own.

    Args:
      chosen: Array of shape (), bool.
      if_true: a function of the operands to a pytree of arrays. It must take all arrays that `vmap` may batch as
        operands.
      if_false: another, whose value has the same structure, shapes and dtypes.
      *operands: pytrees of arrays.

    Example:
      >>> choose(jnp.array(True), jnp.sin, jnp.cos, jnp.array(0.0)).item()
      0.0
    """
    leaves, structure = jax.tree.flatten(operands)

    def of_leaves(function: Callable[..., Any]) -> Callable[[list], Any]:
        return lambda leaves: function(*jax.tree.unflatten(structure, leaves))

    functions = of_leaves(if_true), of_leaves(if_false)

    @jax.custom_batching.custom_vmap
    def one(chosen: Array, leaves: list) -> Any:
        return jax.lax.cond(chosen, *functions, leaves)

    @one.def_vmap
    def batch(size: int, is_batched: tuple[bool, list], chosen: Array, leaves: list) -> tuple[Any, Any]:
        axes = [0 if leaf else None for leaf in is_batched[1]]
        every = [jax.vmap(function, in_axes=(axes,), axis_size=size) for function in functions]
        if not is_batched[0]:
            value = jax.lax.cond(chosen, *every, leaves)
        else:
            shapes = jax.eval_shape(every[0], leaves)
            value = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            for function, wanted in zip(every, (chosen, ~chosen), strict=True):
                value = _where_any(wanted, function, value, leaves, is_batched[1])
        return value, jax.tree.map(lambda leaf: True, value)

    return one(chosen, leaves)


def when(chosen: Array, function: Callable[..., Any], otherwise: Any, *operands: Any) -> Any:
    """The value of a function where it is chosen, and another value elsewhere; as `choose` under `vmap`.

    Args:
      chosen: Array of shape (), bool.
      function: of the operands to a pytree of arrays.
      otherwise: a pytree of the same structure, shapes and dtypes.
      *operands: pytrees of arrays.

    Example:
      >>> when(jnp.array(False), jnp.sin, jnp.array(5.0), jnp.array(0.0)).item()
      5.0
    """

    def evaluated(otherwise: Any, *operands: Any) -> Any:
        return function(*operands)

    return choose(chosen, evaluated, lambda otherwise, *operands: otherwise, otherwise, *operands)


def _where_any(wanted: Array, function: Callable[[list], Any], value: Any, leaves: list, is_batched: list) -> Any:
    """A batch of values where they are wanted, and `value` elsewhere: nothing is evaluated where none is wanted."""

    def once(carry: tuple[Array, Any]) -> tuple[Array, Any]:
        # As if the operands depended on the loop: XLA would take out of it, and run always, all that does not.
        held = jax.lax.optimization_barrier([carry[0], *(x for x, own in zip(leaves, is_batched, strict=True) if own)])
        own = iter(held[1:])
        found = function([next(own) if batched else x for x, batched in zip(leaves, is_batched, strict=True)])

        def select(new: Array, old: Array) -> Array:
            return jnp.where(wanted.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        return jnp.zeros_like(carry[0]), jax.tree.map(select, found, carry[1])

    return jax.lax.while_loop(lambda carry: carry[0], once, (jnp.any(wanted), value))[1]


def recompute(found: Array, needed: Array, function: Callable[[Array, int], Array], size: int) -> Array:
    """What was found for each row, or, where that is needed, what `function` finds, in blocks of rows.

    Args:
      found: Array of shape (N, ...).
      needed: Array of shape (), boolean. Where it is False `function` is not evaluated.
      function: from the index of the first row, and how many rows, to an array of shape (rows, ...).
      size: the most rows a block.

    Returns:
      Array of shape (N, ...).

    Example:
      >>> recompute(jnp.zeros(3), jnp.array(True), lambda first, size: first + jnp.arange(1.0 * size), 2).tolist()
      [0.0, 1.0, 2.0]
    """
    num_rows = found.shape[0]
    # In two blocks or more, or XLA would take the one out of the loop and run it always.
    size = min(-(-num_rows // 2), size)
    num_blocks = -(-num_rows // size)

    def correct(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        found, index = carry
        first = jnp.minimum(index * size, num_rows - size)
        return jax.lax.dynamic_update_slice_in_dim(found, function(first, size), first, axis=0), index + 1

    start = jnp.where(needed, 0, num_blocks)
    return jax.lax.while_loop(lambda carry: carry[1] < num_blocks, correct, (found, start))[0]
