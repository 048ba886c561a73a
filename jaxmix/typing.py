"""The names of types that annotations use."""

from collections.abc import Callable, Sequence
from typing import Any

from jax import Array, typing

from jaxmix.data import Data

ArrayLike = typing.ArrayLike | Sequence[Any]
"""What is read as an array: JAX and NumPy arrays, numbers, and nested lists of them."""

Params = Any
"""A pytree of arrays: what is fitted."""

Stats = Any
"""A pytree of sums over rows, with a scalar field `loss`; a node with a `merge` method merges by that."""

State = Any
"""A pytree of arrays: what a solver carries from step to step."""

Seeding = Callable[[Array, Data, int], Array]
"""(key, data, k) -> centers of shape (K, D)."""
