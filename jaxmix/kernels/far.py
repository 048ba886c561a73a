r"""The nearest of several Gaussians, or centers, for rows so far away that all squared distances overflow.

In units of a power of two the squares are numbers again, and what is compared are differences of squared distances from
the nearest, $d_{nk} - d_{nj} = (w_k - w_j)^T (w_k + w_j)$ with $w_k = A_k (x_n - m_k)$, where

$$w_k - w_j = (A_k - A_j)(x_n - m_j) - A_k (m_k - m_j)$$

keeps what distinguishes components of one covariance, however far away the row is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import branches, linalg

ROOM = 2**20
"""Rows times components times features that are compared at a time."""


def mended(
    found: Array, lost: Array, params: Any, x: Array, function: Callable[[Any, Array], Array], num_numbers: int
) -> Array:
    """What was found for each row, and for rows that are lost what `function` makes of them.

    Costs next to nothing where no row is lost, also under `vmap`. Nothing flows back through it.

    Args:
      found: Array of shape (N, ...).
      lost: Array of shape (N,), boolean.
      params: a pytree, what `function` needs besides rows.
      x: Array of shape (N, D).
      function: from `params` and rows (n, D) to an array of shape (n, ...).
      num_numbers: how many numbers `function` holds for each row.
    """
    found, params, x = jax.lax.stop_gradient((found, params, x))

    def of_chunk(start: Array, size: int) -> Array:
        old, is_lost, part = (jax.lax.dynamic_slice_in_dim(a, start, size) for a in (found, lost, x))
        # As if it depended on the block: XLA would take out of the loop, and run always, all that does not.
        held = jax.lax.optimization_barrier((params, start))[0]
        return jnp.where(is_lost.reshape(-1, *(1,) * (old.ndim - 1)), function(held, part), old)

    return branches.recompute(found, jnp.any(lost), of_chunk, max(1, ROOM // num_numbers))


def excess(x: Array, means: Array, is_on: Array, inverse: Array | None = None) -> tuple[Array, Array]:
    r"""Squared distances less the least of a row, $|A_k (x_n - m_k)|^2 - \min_j |A_j (x_n - m_j)|^2$, scaled.

    Args:
      x: Array of shape (n, D).
      means: Array of shape (K, D); those that are off may be anything.
      is_on: Array of shape (K,), boolean.
      inverse: Array of shape (K, D, D), $A_k$; None for the identity.

    Returns:
      Array of shape (n, K), to be multiplied by two to the power of the second, int32, of shape (n, 1). Infinite for
      what is off, and NaN for rows that are not finite.
    """
    # Squares of numbers up to this power of two are far from overflow, and those of far smaller ones from zero.
    power = jnp.finfo(x.dtype).maxexp // 3
    means = jnp.where(is_on[:, None], means, 0)
    largest = jnp.maximum(jnp.max(jnp.abs(x), axis=1), jnp.max(jnp.abs(means)))
    shift = jnp.frexp(largest)[1] - power
    rows, centers = jnp.ldexp(x, -shift[:, None])[:, None], jnp.ldexp(means[None], -shift[:, None, None])
    scale = jnp.zeros((), shift.dtype)
    if inverse is not None:
        inverse = jnp.where(is_on[:, None, None], inverse, 0)
        scale = jnp.frexp(jnp.max(jnp.abs(inverse)))[1]
        inverse = jnp.ldexp(inverse, -scale)

    def whiten(differences: Array, inverse: Array | None) -> Array:
        if inverse is None:
            return differences
        return jnp.einsum("...kij,nkj->nki", inverse, differences, precision=linalg.PRECISION)

    white = whiten(rows - centers, inverse)
    squares = jnp.where(is_on[None], jnp.sum(jnp.square(white), axis=2), jnp.inf)

    def gaps_from(nearest: Array) -> Array:
        def of_nearest(values: Array) -> Array:
            return jnp.take_along_axis(values, nearest[:, None, None], axis=1)

        apart = -whiten(centers - of_nearest(centers), inverse)
        if inverse is not None:
            from_nearest = rows - of_nearest(centers)
            each = jnp.einsum("kij,nj->nki", inverse, from_nearest[:, 0], precision=linalg.PRECISION)
            is_same = jax.vmap(lambda one: jnp.all(inverse == one[None], axis=(1, 2)))(inverse)
            apart = apart + jnp.where(is_same[nearest][:, :, None], 0, each - of_nearest(each))
        return jnp.where(is_on[None], jnp.sum(apart * (white + of_nearest(white)), axis=2), jnp.inf)

    # The squares tell the nearest to rounding, and the gaps from that one tell it. Its own gap is 0 to the bit: the
    # least one less itself need not be, since XLA may compute it twice and round it in two ways.
    nearest = jnp.argmin(gaps_from(jnp.argmin(squares, axis=1)), axis=1)
    is_nearest = jnp.arange(means.shape[0], dtype=nearest.dtype)[None] == nearest[:, None]
    gaps = jnp.where(is_nearest & is_on[None], 0, jnp.maximum(gaps_from(nearest), 0))
    known = jnp.all(jnp.isfinite(x), axis=1, keepdims=True)
    return jnp.where(known, gaps, jnp.nan), 2 * (shift[:, None] + scale)
