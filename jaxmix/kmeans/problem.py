"""K-means as a `Problem`: Lloyd is `EM()` on it, and every other solver takes it too."""

import dataclasses
from typing import ClassVar

import jax
from jax import Array

from jaxmix.kernels import nearest
from jaxmix.kmeans import steps
from jaxmix.types import Data


@jax.custom_jvp
def _loss(centers: Array, data: Data) -> Array:
    # In chunks, where no derivative is asked for.
    return nearest.sums(centers, data).loss


@_loss.defjvp
def _loss_jvp(primals: tuple[Array, Data], tangents: tuple[Array, Data]) -> tuple[Array, Array]:
    labels = nearest.labels(*primals)
    return jax.jvp(lambda centers, data: steps.loss_at(centers, data, labels), primals, tangents)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KMeans:
    r"""Minimise $J(u) = \sum_n w_n \min_k |x_n - u_k|^2$ over centers of shape (K, D).

    Centers are free in R already: `unconstrain` and `constrain` change nothing.

    Attributes:
      empty: what the M-step does with a center that has no rows, static. "farthest" moves it onto the row
        farthest from its own center; a fit that converges then has no empty cluster, or J = 0. "keep"
        leaves it where it is. Gradients leave it too: there its gradient is zero.

    References:
      Lloyd (1982); MacQueen (1967).

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> solve.run(kmeans.KMeans(), solve.EM(), x[:2], x).loss.item()
      1.0
    """

    empty: str = dataclasses.field(default="farthest", metadata={"static": True})

    squared_units: ClassVar[bool] = True

    def e_step(self, params: Array, data: Data) -> steps.Stats:
        """What `kmeans.e_step` returns, to rounding, by `kernels.nearest`: in one pass, in constant room."""
        return nearest.sums(params, data)

    def m_step(self, stats: steps.Stats, params: Array) -> Array:
        """`kmeans.m_step`, with the policy for empty clusters."""
        return steps.m_step(stats, params, empty=self.empty)

    def recentre(self, stats: steps.Stats, params: Array, about: Array) -> steps.Stats:
        """`kmeans.recentre`: the same rows' sums about other centers."""
        return steps.recentre(stats, params, about)

    def loss(self, params: Array, data: Data) -> Array:
        """J, every row at its nearest center as `e_step` chooses it, from direct differences."""
        return _loss(params, data)

    def unconstrain(self, params: Array) -> Array:
        """The centers themselves."""
        return params

    def constrain(self, free: Array) -> Array:
        """The centers themselves."""
        return free
