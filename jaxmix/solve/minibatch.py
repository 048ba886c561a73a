"""Mini-batches: the rows in a fresh random order, cut into pieces of equal size."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxmix import door
from jaxmix.types import Data


def check(batch_size: int, key: Array | None, patience: int = 1) -> None:
    """Raises ValueError for counts that are no positive integers, or without a key."""
    door.check_int(batch_size, "batch_size", least=1)
    door.check_int(patience, "patience", least=1)
    if key is None:
        raise ValueError("`batch_size` needs a `key` for the order of the rows: key=jax.random.key(0).")
    door.check_key(key)


def epoch(key: Array, num_rows: int, batch_size: int) -> Array:
    """The rows of one epoch's batches, of shape (B, size); a short last batch is filled from the front of the order."""
    size = min(batch_size, num_rows)
    num_batches = -(-num_rows // size)
    order = jax.random.permutation(key, num_rows)
    return order[jnp.arange(num_batches * size) % num_rows].reshape(num_batches, size)


def take(data: Data, rows: Array) -> Data:
    """These rows, weighted so that sums over them estimate sums over all rows without bias."""
    share = data.x.shape[0] / rows.shape[0]
    return data._replace(x=data.x[rows], weights=share * data.weights[rows])
