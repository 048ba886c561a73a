"""Rows: `Data` as the caller has them, and `Rows` as models see them."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Data(NamedTuple):
    """Rows to fit, with a weight each, and a point to take differences from.

    Build it with `jaxmix.as_data`, which validates; the tuple itself never does (it would do so again under `vmap`).

    Attributes:
      x: Array of shape (N, D), the rows as they came.
      weights: Array of shape (N,), non-negative. Weight 0 is a row that is not there, 2 is a row twice.
      origin: Array of shape (D,). In each feature the weighted mean of the rows where subtracting it from every row is
        exact (all rows lie between half and twice the mean), and 0 elsewhere. Fits move the rows there: so float32
        holds far from zero, and no digit of any row changes.
      scale: Array of shape (D,), what features are multiplied by where a seeding measures distances; None for 1. A fit
        sets it to what its model asks for (`Problem.seeding_scale`).

    Example:
      >>> from jaxmix import as_data
      >>> data = as_data([[9.0, 0.0], [13.0, 4.0]], weights=[1.0, 3.0])
      >>> data.x.shape, data.weights.tolist(), data.origin.tolist()
      ((2, 2), [1.0, 3.0], [12.0, 0.0])
    """

    x: Array
    weights: Array
    origin: Array
    scale: Array | None = None


class Rows(NamedTuple):
    """What a problem sees of one block of rows: in the frame of the fit, cut and padded once.

    Attributes:
      x: Array of shape (n, D).
      weights: Array of shape (n,), non-negative; None where all are one.
      valid: Array of shape (n,), bool, False for rows that only fill the block; None where all are rows. Such rows are
        zero: a sum of `x` needs no factor for them.

    Example:
      >>> import jax.numpy as jnp
      >>> rows = Rows(jnp.zeros((3, 2)), jnp.array([1.0, 2.0, 1.0]), jnp.array([True, True, False]))
      >>> rows.weigh(jnp.array([5.0, 5.0, 5.0])).tolist()
      [5.0, 10.0, 0.0]
    """

    x: Array
    weights: Array | None = None
    valid: Array | None = None

    def weigh(self, values: Array) -> Array:
        """Values of shape (..., n) times the weights; 0 for what is no row, whatever its value."""
        if self.weights is not None:
            values = values * self.weights.reshape((1,) * (values.ndim - 1) + (-1,))
        if self.valid is not None:
            values = jnp.where(self.valid.reshape((1,) * (values.ndim - 1) + (-1,)), values, 0)
        return values

    def ones(self) -> Array:
        """The weight of each row, of shape (n,), as an array."""
        return self.weigh(jnp.ones(self.x.shape[0], self.x.dtype))
