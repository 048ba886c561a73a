"""K-means as a `Problem`: Lloyd's algorithm is `EM()` on it, and every other solver takes it too."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmix import branches, linalg
from jaxmix.arrays import described
from jaxmix.data import Rows
from jaxmix.frame import Frame
from jaxmix.kernels import nearest, segments
from jaxmix.kernels.nearest import Prepared, QuickStats, Stats
from jaxmix.kmeans import steps
from jaxmix.problem import Problem
from jaxmix.pytree import choice, static
from jaxmix.reduction import Footprint
from jaxmix.validation import check_width

QUICK_ROWS = 4096
"""With fewer rows all steps are taken about the centers: both ways take no time, and one is less to compile."""

QUICK_CENTERS = 128
"""With more centers too: the distances take most of the time, and a step whose clusters are empty is taken twice."""

QUICK_RATIO = 64.0
"""Sums about zero are taken where the rows' squares are at most this many times J: digits that are lost."""


@jax.custom_jvp
def _loss(prepared: Prepared, rows: Rows) -> Array:
    return nearest.loss(prepared, rows)


@_loss.defjvp
def _loss_jvp(primals: tuple[Prepared, Rows], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    prepared, rows = primals
    labels = nearest.labels(prepared, rows.x)[0]

    def at_labels(centers: Array, x: Array, weights: Array | None) -> Array:
        costs = nearest.loss_rows(centers, x, labels)
        return jnp.sum(rows._replace(weights=weights).weigh(costs))

    inputs = (prepared.centers, rows.x, rows.weights)
    return jax.jvp(at_labels, inputs, (tangents[0].centers, tangents[1].x, tangents[1].weights))


@choice
class KMeans(Problem):
    r"""Minimize $J(u) = \sum_n w_n \min_k |x_n - u_k|^2$ over centers of shape (K, D).

    Centers are free in R already: `unconstrain` and `constrain` change nothing.

    Attributes:
      empty: what the M-step does with a center that has no rows, static. "farthest" moves it onto the row
        farthest from its own center; a fit then ends without empty clusters, or with J = 0. "keep"
        leaves it where it is. Gradients leave it too: there its gradient is zero.
      scatter: Array of shape (), the weighted sum of the rows' squares in the frame of a fit, which `bind` sets.

    Raises:
      ValueError: when it is used, for another `empty`.

    References:
      Lloyd (1982); MacQueen (1967).

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmix import kmeans, solve
      >>> x = jnp.array([[0.0], [1.0], [9.0], [10.0]])
      >>> solve.run(kmeans.KMeans(), solve.EM(), x[:2], x).loss.item()
      1.0
    """

    empty: str = static(default="farthest")
    scatter: Array | None = None

    squared_units: ClassVar[bool] = True

    def validate(self) -> None:
        """Rejects an unknown policy."""
        steps.check_policy(self.empty)

    def validate_params(self, params: Any, num_features: int) -> None:
        """Rejects all but centers as wide as the rows."""
        if not isinstance(params, (Array, np.ndarray)):
            raise ValueError(f"`params` must be centers, an array of shape (K, D), got {described(params)}.")
        if params.ndim:
            check_width(num_features, params.shape[-1])

    def prepare(self, params: Array) -> Prepared:
        """What the kernels need of the centers."""
        return nearest.prepare(params)

    def e_step(self, prepared: Prepared, rows: Rows) -> Stats:
        """What `kmeans.e_step` returns, of one block."""
        return nearest.e_step(prepared, rows)

    def m_step(self, stats: Stats, params: Array) -> Array:
        """`kmeans.m_step`, with the policy for empty clusters."""
        return steps.m_step(stats, params, empty=self.empty)

    def em_step(self, params: Array, rows: Rows, reduce: Any) -> tuple[Array, Array]:
        """One step of Lloyd's algorithm: by sums about zero where these are accurate, else about the centers."""
        if self.scatter is None or params.shape[0] > QUICK_CENTERS:
            return super().em_step(params, rows, reduce)
        prepared = self.prepare(params)

        def quick(prepared: Prepared, scatter: Array, rows: Rows) -> tuple[Array, Array, Array]:
            stats = reduce(nearest.quick_step, prepared, rows)
            return _quick(stats, prepared, scatter, rows.x.shape[-2])

        def careful(prepared: Prepared, rows: Rows) -> tuple[Array, Array, Array]:
            stats = reduce(self.e_step, prepared, rows)
            return self.m_step(stats, prepared.centers), stats.loss, jnp.array(True)

        # What the centers alone tell is known before a pass over the rows.
        none = params, jnp.zeros_like(self.scatter), jnp.array(False)
        found = branches.when(prepared.apart, quick, none, prepared, self.scatter, rows)
        new, loss, _ = branches.when(~found[2], careful, found, prepared, rows)
        return new, loss

    def recenter(self, stats: Stats, params: Array, new: Array) -> Stats:
        """`kmeans.recenter`: the same rows' sums about other centers."""
        return steps.recenter(stats, params, new)

    def loss(self, prepared: Prepared, rows: Rows) -> Array:
        """J, every row at its nearest center as `e_step` chooses it, from direct differences."""
        return _loss(prepared, rows)

    def bind(self, rows: Rows, reduce: Any) -> "KMeans":
        """With the sum of the rows' squares where there are many rows, on CPU: else sums about zero gain nothing."""
        # Another class may have other steps.
        if type(self) is not KMeans:
            return self
        many = reduce.num_counted(rows.x) >= QUICK_ROWS and jax.default_backend() == "cpu"
        return KMeans(self.empty, reduce(_squares, None, rows) if many else None)

    def is_movable(self, frame: Frame) -> bool:
        """True; another class may say otherwise."""
        return type(self) is KMeans or super().is_movable(frame)

    def moved(self, params: Array | None, frame: Frame) -> "tuple[KMeans, Array | None]":
        """Centers move as the rows do."""
        return self, None if params is None else frame.apply(params)

    def repair(self, params: Array, rows: Rows, reduce: Any) -> tuple[Array, Array]:
        """The centers without empty clusters: each onto the farthest row, one after another; and J."""
        if self.empty == "keep":
            return super().repair(params, rows, reduce)

        def fill(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            centers, _, _ = carry
            stats = reduce(self.e_step, self.prepare(centers), rows)
            filled = steps.fill(stats, centers, centers)
            # A center that holds NaN equals nothing, and would be filled for ever.
            return filled, stats.loss, jnp.any((filled != centers) & ~jnp.isnan(centers))

        # One pass where no cluster is empty.
        start = params, jnp.zeros((), params.dtype), jnp.array(True)
        found = jax.lax.while_loop(lambda carry: carry[2], fill, start)
        # Another class may have another loss.
        return found[:2] if type(self) is KMeans else super().repair(found[0], rows, reduce)

    def footprint(self, k: int, num_features: int) -> Footprint:
        """The scores of one group of centers."""
        return Footprint(min(k, nearest.GROUP))


def _squares(_: None, rows: Rows) -> Array:
    # Rows that only fill a block are zero.
    squares = jnp.square(rows.x)
    return jnp.sum(squares if rows.weights is None else rows.weights[:, None] * squares)


def _quick(stats: QuickStats, prepared: Prepared, scatter: Array, num_rows: int) -> tuple[Array, Array, Array]:
    """The next centers and J by sums about zero, and whether they are as good as those about the centers.

    They are not where the digits that cancel would show, where a center is empty, and where no center moves by more
    than the sums round: the last steps to an exact fixed point are taken about the centers.
    """
    centers = prepared.centers
    counts = stats.counts[:, None]
    is_on = jnp.isfinite(prepared.squares)
    means = linalg.safe_divide(stats.sums, counts)
    new = jnp.where(is_on[:, None], means, centers)
    on = jnp.where(is_on[:, None], centers, 0)
    # Steiner's theorem, about zero.
    loss = scatter - jnp.sum(on * (stats.sums + (stats.sums - counts * on)))
    total = jnp.sum(stats.counts)
    # At the worst every addition of the longest chain rounds the same way.
    chain = 0.5 * segments.chain_length(num_rows, centers.shape[0])
    width = jnp.sqrt(linalg.safe_divide(jnp.maximum(loss, 0), total))
    noise = chain * jnp.finfo(centers.dtype).eps * (jnp.abs(on) + width)
    moves = jnp.any(is_on[:, None] & (jnp.abs(new - centers) > noise))
    filled = jnp.all((stats.counts > 0) | ~is_on)
    is_accurate = filled & moves & (scatter <= QUICK_RATIO * loss)
    return new, loss, is_accurate
