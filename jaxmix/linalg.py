"""Small numerics that everything stands on: distances, safe division, named precision."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

PRECISION = jax.lax.Precision.HIGHEST
"""For every matrix product here: the default of GPUs and TPUs (TF32, bfloat16) mislabels points."""


@jax.jit
def squared_distances(x: Array, centers: Array, scale: Array | None = None) -> Array:
    r"""All squared Euclidean distances, from direct differences.

    $$d_{nk} = \sum_d (x_{nd} - u_{kd})^2$$

    The expansion $|x|^2 - 2 x^T u + |u|^2$ needs fewer operations and cancels: two rows that differ by less
    than the square root of the rounding unit then look equal. XLA fuses this form, so (N, K, D) is never stored.

    Args:
      x: Array of shape (N, D).
      centers: Array of shape (K, D).
      scale: of shape () or (D,), what rows and centers are multiplied by; see `frame.scale_of`. None for 1.

    Returns:
      Array of shape (N, K), in the dtype of the arguments, in squared units of `x` times `scale`.

    Raises:
      ValueError: if the widths differ.

    Example:
      >>> import jax.numpy as jnp
      >>> squared_distances(jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2))).item()
      25.0
    """
    if x.ndim != 2 or centers.ndim != 2 or x.shape[1] != centers.shape[1]:
        raise ValueError(f"Rows (N, D) and centers (K, D) need one width D, got {x.shape} and {centers.shape}.")
    if scale is not None:
        factors = jnp.broadcast_to(scale, x.shape[1:])[None]
        x, centers = x * factors, centers * factors
    return jnp.sum(jnp.square(x[:, None, :] - centers[None, :, :]), axis=-1)


def dot(a: Array, b: Array) -> Array:
    """Matrix product in full precision on every platform.

    Args:
      a: Array of shape (M, L).
      b: Array of shape (L, P).

    Returns:
      Array of shape (M, P).

    Example:
      >>> dot(jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])).item()
      11.0
    """
    return jnp.dot(a, b, precision=PRECISION)


def safe_divide(numerator: Array, denominator: Array, fallback: Array | float = 0.0) -> Array:
    """The quotient, and `fallback` where the denominator is zero; NaN stays NaN, gradients stay finite.

    Args:
      numerator: Array of any shape.
      denominator: Array of a shape that broadcasts against it.
      fallback: what to return where the denominator is zero, of shape () or one that broadcasts.

    Returns:
      Array of the shape that both broadcast to.

    Example:
      >>> safe_divide(jnp.array([1.0, 1.0]), jnp.array([2.0, 0.0])).tolist()
      [0.5, 0.0]
    """
    zero = denominator == 0
    return jnp.where(zero, fallback, numerator / jnp.where(zero, 1, denominator))


def weighted_sum(weights: Array, values: Array) -> Array:
    r"""The sum over rows, $\sum_n w_n v_n$, in which a row of weight zero counts for nothing, whatever its value.

    A product alone would be NaN where a row of weight zero has an infinite value.

    Args:
      weights: Array of shape (N,).
      values: Array of shape (N,).

    Returns:
      Array of shape ().

    Example:
      >>> import jax.numpy as jnp
      >>> weighted_sum(jnp.array([2.0, 0.0]), jnp.array([3.0, -jnp.inf])).item()
      6.0
    """
    return jnp.sum(weights * jnp.where(weights == 0, 0, values))


def fill_absent(values: Array | np.ndarray, weights: Array | np.ndarray) -> Any:
    """Rows of weight zero take the values of the first row that is there, and so are as harmless as that one.

    Zero times infinity or NaN is NaN, in values as in derivatives: a row that is not there must hold neither.

    Args:
      values: array of shape (N, ...).
      weights: array of shape (N,).

    Returns:
      Array of shape (N, ...), of NumPy where both are.

    Example:
      >>> import jax.numpy as jnp
      >>> fill_absent(jnp.array([jnp.nan, 5.0]), jnp.array([0.0, 1.0])).tolist()
      [5.0, 5.0]
    """
    numpy: Any = np if isinstance(values, np.ndarray) and isinstance(weights, np.ndarray) else jnp
    values = numpy.asarray(values)
    absent = (weights == 0).reshape(-1, *(1,) * (values.ndim - 1))
    place = numpy.argmax(weights > 0)
    if numpy is np:
        return np.where(absent, values[place][None], values)
    # As a sum: to take one row of an array that is spread over devices, XLA brings all rows to every device.
    chosen = (jnp.arange(values.shape[0]) == place).reshape(absent.shape)
    return jnp.where(absent, jnp.sum(jnp.where(chosen, values, 0), axis=0, keepdims=True), values)


@partial(jax.jit, inline=True)
def cholesky(matrices: Array, least: Array | None = None) -> Array:
    r"""Lower Cholesky factors, $A = L L^T$, a column at a time for all matrices together.

    On CPU jaxlib's own batched factorizations and triangular solves wait, on the threads that run the program, for work
    that they give to the same threads: two of them at once, on two cores, wait for ever (seen in jaxlib 0.10.2). Here
    nothing waits. Elsewhere it is `jnp.linalg.cholesky`.

    Args:
      matrices: Array of shape (..., D, D), symmetric; the lower triangles are read.
      least: Array of shape (..., D), the least pivots; None for those of the matrix. Where a pivot is smaller, the
        factor is that of a matrix whose diagonal is larger there.

    Returns:
      Array of shape (..., D, D); NaN in a factor whose matrix is not positive definite.

    References:
      Golub and Van Loan (2013), algorithm 4.2.2, by outer products; Gill and Murray (1974) for least pivots.

    Example:
      >>> import jax.numpy as jnp
      >>> cholesky(jnp.array([[4.0, 2.0], [2.0, 5.0]])).tolist()
      [[2.0, 0.0], [1.0, 2.0]]
    """

    def by_columns(matrices: Array, least: Array | None = None) -> Array:
        rows = jnp.arange(matrices.shape[-1], dtype=jnp.int32)

        def step(left: Array, j: Array) -> tuple[Array, Array]:
            column = jnp.where(rows >= j, left[j], 0)
            pivot = column[..., j, None]
            if least is not None:
                pivot = jnp.maximum(pivot, least[..., j, None])
                column = jnp.where(rows == j, pivot, column)
            column = column / jnp.sqrt(pivot)
            return left - jnp.moveaxis(column, -1, 0)[..., None] * column[None], column

        # Columns lie on the first axis, so that one is contiguous.
        columns = jax.lax.scan(step, jnp.moveaxis(matrices, -1, 0), rows)[1]
        factors = jnp.moveaxis(columns, 0, -1)
        known = jnp.all(jnp.isfinite(factors), axis=(-2, -1), keepdims=True)
        return jnp.where(known, factors, jnp.nan)

    if least is not None:
        return by_columns(matrices, least)
    return jax.lax.platform_dependent(matrices, cpu=by_columns, default=jnp.linalg.cholesky)


@partial(jax.jit, inline=True)
def pivoted_cholesky(matrix: Array, least: float) -> tuple[Array, Array]:
    r"""Rows whose scatter is a positive semi-definite matrix, $A = R^T R + E$, the largest pivot first.

    Args:
      matrix: Array of shape (D, D), symmetric.
      least: pivots up to this are left in what remains.

    Returns:
      R, of shape (D, D), with rows of zeros beyond the rank; and E, of shape (D, D), what remains.

    References:
      Golub and Van Loan (2013), algorithm 4.2.4.

    Example:
      >>> import jax.numpy as jnp
      >>> pivoted_cholesky(jnp.array([[1.0, 2.0], [2.0, 4.0]]), 1e-6)[0].tolist()
      [[1.0, 2.0], [0.0, 0.0]]
    """

    def step(left: Array, _: None) -> tuple[Array, Array]:
        diagonal = jnp.diagonal(left)
        pivot = jnp.argmax(diagonal)
        real = diagonal[pivot] > least
        row = jnp.where(real, left[pivot] / jnp.sqrt(jnp.where(real, diagonal[pivot], 1)), 0)
        return left - row[:, None] * row[None], row

    left, rows = jax.lax.scan(step, matrix, None, length=matrix.shape[0])
    return rows, left


@jax.custom_jvp
@partial(jax.jit, inline=True)
def lower_factor(roots: Array) -> Array:
    r"""Lower Cholesky factors of $A A^T$ from A itself, $L L^T = A A^T$: the transposed R of the QR of $A^T$.

    The product $A A^T$ would lose every deviation below the square root of the rounding unit, relative to the largest;
    here one is kept to the rounding of the largest. A root that is triangular already is returned as it is. As
    `cholesky`, it uses no LAPACK.

    Args:
      roots: Array of shape (..., P, D), P <= D.

    Returns:
      Array of shape (..., P, P), lower triangular with a positive diagonal. Where a row depends linearly on those above
      it, its diagonal entry is rounding, or NaN.

    References:
      Golub and Van Loan (2013), section 5.2.8: QR by the modified Gram-Schmidt method.

    Example:
      >>> import jax.numpy as jnp
      >>> lower_factor(jnp.array([[0.0, 2.0], [3.0, 4.0]])).tolist()
      [[2.0, 0.0], [4.0, 3.0]]
    """
    rows = jnp.arange(roots.shape[-2], dtype=jnp.int32)

    def step(left: Array, j: Array) -> tuple[Array, Array]:
        row = left[..., j, :]
        # In units of its largest entry: the square of a small deviation would be zero.
        largest = jnp.max(jnp.abs(row), axis=-1, keepdims=True)
        length = largest * jnp.sqrt(jnp.sum(jnp.square(row / largest), axis=-1, keepdims=True))
        # Division rounds: where there is nothing to turn, nothing is.
        is_single = jnp.sum(row != 0, axis=-1, keepdims=True) == 1
        length = jnp.where(is_single, largest, length)
        unit = jnp.where(is_single, jnp.sign(row), row / length)
        column = jnp.einsum("...ij,...j->...i", left, unit, precision=PRECISION)
        column = jnp.where(rows == j, length, jnp.where(rows > j, column, 0))
        return left - column[..., :, None] * unit[..., None, :], column

    return jnp.moveaxis(jax.lax.scan(step, roots, rows)[1], 0, -1)


@lower_factor.defjvp
def _lower_factor_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # As of a Cholesky factor, dL = L Phi(L^-1 dC L^-T), where L^-1 dC L^-T = G + G^T: C itself is never formed.
    factors = lower_factor(*primals)
    inverse = inverse_tril(factors)
    turned = jnp.matmul(inverse, primals[0], precision=PRECISION)
    half = jnp.matmul(
        jnp.matmul(inverse, tangents[0], precision=PRECISION), jnp.swapaxes(turned, -1, -2), precision=PRECISION
    )
    lower = jnp.tril(half + jnp.swapaxes(half, -1, -2), -1)
    diagonal = jnp.tril(half) - jnp.tril(half, -1)
    return factors, jnp.matmul(factors, lower + diagonal, precision=PRECISION)


@jax.custom_jvp
@partial(jax.jit, inline=True)
def inverse_tril(factors: Array) -> Array:
    r"""Inverses of lower triangular matrices, by forward substitution; as `cholesky`, without LAPACK on CPU.

    Args:
      factors: Array of shape (..., D, D), lower triangular.

    Returns:
      Array of shape (..., D, D), lower triangular.

    References:
      Golub and Van Loan (2013), algorithm 3.1.3, on the identity.

    Example:
      >>> import jax.numpy as jnp
      >>> inverse_tril(jnp.array([[2.0, 0.0], [1.0, 2.0]])).tolist()
      [[0.5, 0.0], [-0.25, 0.5]]
    """
    identity = jnp.broadcast_to(jnp.eye(factors.shape[-1], dtype=factors.dtype), factors.shape)

    def by_rows(factors: Array) -> Array:
        rows = jnp.arange(factors.shape[-1], dtype=jnp.int32)

        def step(left: Array, j: Array) -> tuple[Array, Array]:
            row = left[..., j, :] / factors[..., j, j, None]
            below = jnp.where(rows > j, factors[..., j], 0)
            return left - below[..., :, None] * row[..., None, :], row

        return jnp.moveaxis(jax.lax.scan(step, identity, rows)[1], 0, -2)

    def by_library(factors: Array) -> Array:
        return jax.scipy.linalg.solve_triangular(factors, identity, lower=True)

    return jax.lax.platform_dependent(factors, cpu=by_rows, default=by_library)


@inverse_tril.defjvp
def _inverse_tril_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # d(L^-1) = -L^-1 dL L^-1, rather than through the loop, which would keep every step of it.
    inverse = inverse_tril(*primals)
    change = jnp.matmul(jnp.tril(tangents[0]), inverse, precision=PRECISION)
    return inverse, -jnp.matmul(inverse, change, precision=PRECISION)
