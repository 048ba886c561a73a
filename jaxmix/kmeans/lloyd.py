"""Some steps of Lloyd's algorithm on seeded centers: what other models start from."""

import jax.numpy as jnp
from jax import Array

from jaxmix import batches
from jaxmix.data import Data
from jaxmix.frame import distance_scale
from jaxmix.kmeans.problem import KMeans
from jaxmix.pytree import choice, static
from jaxmix.reduction import Blocks
from jaxmix.solve.em import EM
from jaxmix.solve.framed import framed, moved_rows, short_runs


@choice
class Lloyd:
    """A function from centers of restarts, and rows, to centers: a fit of K-means of few steps.

    Attributes:
      max_steps: the most steps, static.

    References:
      Bishop (2006), section 9.2.2: K-means to find a start for EM.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import as_data
      >>> Lloyd()(jnp.array([[[0.0], [1.0]]]), as_data([[0.0], [2.0], [8.0], [9.0]])).ravel().tolist()
      [1.0, 8.5]
    """

    max_steps: int = static(default=10)

    def __call__(self, centers: Array, data: Data) -> Array:
        """Centers of shape (R, K, D) after the steps; those at infinity stay."""
        problem, zero = KMeans(), jnp.zeros((), data.x.dtype)
        k, reduce = centers.shape[1], Blocks()
        frame, rows = moved_rows(problem, k, data, distance_scale(data), reduce, weighted=True)
        setting = framed(problem, k, data, rows, frame, reduce)
        size = batches.num_parallel()
        runs = short_runs(setting, EM(), centers, rtol=zero, atol=zero, max_steps=self.max_steps, num_parallel=size)
        return runs.params
